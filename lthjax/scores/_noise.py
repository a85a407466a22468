"""Random scores: the baseline that every criterion has to beat."""

import chex
import jax

from lthjax import trees


def noise(
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
    With the layer sizes of Erdos-Renyi-Kernel, they make the random masks that
    scores at initialization are compared with:

    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'fc1': jnp.ones((40, 40)), 'fc2': jnp.ones((40, 10))}
    >>> masks = lth.prune(
    ...   lth.scores.noise(jax.random.key(0), params),
    ...   lth.masks.full(params),
    ...   sparsity=0.8,
    ...   densities=lth.densities.erk,
    ... )
    >>> lth.masks.alive_by_name(masks)
    {'fc1': 246, 'fc2': 154}
  """
  del initial

  def draw(path, p):
    return jax.random.uniform(
      trees.fold_in_name(key, trees.path_name(path)), p.shape
    )

  return jax.tree_util.tree_map_with_path(draw, params)
