"""In-time over-parameterization: the weights that were ever alive.

Keep what `itop_init` returns next to the training state, and update it whenever
the masks have moved. It works inside `jax.jit` and `jax.lax.scan` as well.
"""

from typing import Any

import chex
import jax

from lthjax import _checks, trees
from lthjax import masks as masks_lib


def itop_init(masks: chex.ArrayTree) -> Any:
  """Starts with the weights that are alive.

  Args:
    masks: tree of masks.

  Returns:
    Tree of bool arrays: a copy of the masks.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import accounting
    >>> explored = accounting.itop_init(jnp.array([[True, False, False]]))
    >>> moved = jnp.array([[False, True, False]])
    >>> explored = accounting.itop_update(explored, moved)
    >>> round(accounting.itop_rate(explored), 3)
    0.667
  """
  _checks.bool_masks(masks)
  return trees.copy_into(masks, masks)


def itop_update(explored: chex.ArrayTree, masks: chex.ArrayTree) -> Any:
  """Adds the weights that are alive now.

  Args:
    explored: what `itop_init` or `itop_update` returned.
    masks: tree of masks that prunes the same leaves.

  Returns:
    The weights that were alive at least once.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import accounting
    >>> a, b = jnp.array([[True, False]]), jnp.array([[False, False]])
    >>> accounting.itop_update(a, b)
    Array([[ True, False]], dtype=bool)
  """
  return masks_lib.union(explored, masks)


def itop_rate(
  explored: chex.ArrayTree,
  params: chex.ArrayTree | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
) -> float:
  """Returns the share of weights that were ever alive, ``R_s``.

  Args:
    explored: what `itop_update` returned, not traced.
    params: tree of arrays or of `jax.ShapeDtypeStruct`. With it, kernels that
      are not pruned count as well, as fully explored.
    where: which leaves of the params are kernels, as in `lthjax.masks.full`.

  Returns:
    A number in [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import accounting
    >>> explored = {'a': jnp.array([[True, False]]), 'v': None}
    >>> accounting.itop_rate(explored)
    0.5
    >>> params = {'a': jnp.ones((1, 2)), 'v': jnp.ones((3, 2))}
    >>> accounting.itop_rate(explored, params)
    0.875

  References:
    Liu et al., Do We Actually Need Dense Over-Parameterization? In-Time
    Over-Parameterization in Sparse Training, arXiv:2102.02887, section 3.
  """
  if params is None:
    return masks_lib.density(explored)
  trees.check_like(explored, params, 'params')
  shapes = jax.eval_shape(lambda p: masks_lib.full(p, where), params)
  kernels = {n for n, x in trees.by_name(shapes).items() if x is not None}
  alive = masks_lib.alive_by_name(explored)
  # Kernels without a mask are alive from the start.
  sizes = {
    name: leaf.size
    for name, leaf in trees.by_name(params).items()
    if name in kernels or name in alive
  }
  return sum(alive.get(name, n) for name, n in sizes.items()) / sum(
    sizes.values()
  )
