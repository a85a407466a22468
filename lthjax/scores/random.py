"""Random scores: the baseline that every criterion has to beat."""

import chex
import jax

from lthjax import trees


def random(
  key: chex.PRNGKey,
  params: chex.ArrayTree,
  initial: chex.ArrayTree | None = None,
) -> chex.ArrayTree:
  """Scores every weight by chance, uniformly in [0, 1).

  Args:
    key: random key; each leaf folds in its name, so that scores do not depend
      on which other leaves there are.
    params: tree of arrays, of which only the shapes matter.
    initial: ignored; there so that every score is called alike.

  Returns:
    float32 scores of the same structure and shapes.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.random(jax.random.key(0), {'w': jnp.ones((2, 3))})['w'].shape
    (2, 3)
  """
  del initial

  def draw(path, p):
    return jax.random.uniform(
      trees.fold_in_name(key, trees.path_name(path)), p.shape
    )

  return jax.tree_util.tree_map_with_path(draw, params)
