"""Random scores: the baseline that every criterion has to beat."""

from typing import Any

import chex

from lthjax import _checks, _sharding, trees


def noise(key: chex.PRNGKey, params: chex.ArrayTree) -> Any:
  """Scores every weight at random, uniformly in [0, 1).

  Args:
    key: random key; each leaf folds in its name, so that scores do not depend
      on which other leaves there are.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.

  Returns:
    float32 scores of the same structure, shapes and shardings.

  Example:
    With the layer sizes of Erdos-Renyi-Kernel, these make the random masks that
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
  key = _checks.key('key', key)
  leaves, structure = trees.flatten(params)
  _checks.check_arrays(leaves, 'params', shapes=True)
  return structure.unflatten(
    None if x is None else _sharding.uniform(trees.fold_in_name(key, name), x)
    for name, x in leaves.items()
  )
