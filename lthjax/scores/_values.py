"""Scores of weights by their values, trained and initial.

| score | keeps the largest |
|---|---|
| `magnitude`, also `large_final` | ``|w|`` |
| `small_final` | ``-|w|`` |
| `large_init` | ``|w0|`` |
| `small_init` | ``-|w0|`` |
| `large_init_large_final` | ``min(|w0|, |w|)`` |
| `small_init_small_final` | ``-max(|w0|, |w|)`` |
| `magnitude_increase` | ``|w| - |w0|`` |
| `movement` | ``|w - w0|`` |
| `large_final_same_sign` | ``|w|`` where the sign is the initial one, else 0 |

All take the trained params, and the initial ones where the table has ``w0``,
and return scores with the structure, shapes and dtypes of the params.

References:
  Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask,
  arXiv:1905.01067, sections 2 and 5, figure 2.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax._errors import refuse


def magnitude(params: chex.ArrayTree) -> Any:
  """Scores a weight by its absolute value: ``|w|``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.magnitude(jnp.array([1.0, -2.0]))
    Array([1., 2.], dtype=float32)

  References:
    Han et al., Learning both Weights and Connections for Efficient Neural
    Networks, arXiv:1506.02626, section 3.
  """
  return _score(jnp.abs, params)


large_final = magnitude  # its name among Zhou's criteria


def small_final(params: chex.ArrayTree) -> Any:
  """Keeps small trained weights: ``-|w|``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.small_final(jnp.array([1.0, -2.0]))
    Array([-1., -2.], dtype=float32)
  """
  return _score(lambda w: -jnp.abs(w), params)


def large_init(params: chex.ArrayTree, initial: chex.ArrayTree) -> Any:
  """Keeps weights that were large at initialization: ``|w0|``.

  Of ``params`` only the structure matters.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.large_init(jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5]))
    Array([3. , 0.5], dtype=float32)
  """
  return _score(lambda w, w0: jnp.abs(w0), params, initial)


def small_init(params: chex.ArrayTree, initial: chex.ArrayTree) -> Any:
  """Keeps weights that were small at initialization: ``-|w0|``.

  Of ``params`` only the structure matters.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.small_init(jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5]))
    Array([-3. , -0.5], dtype=float32)
  """
  return _score(lambda w, w0: -jnp.abs(w0), params, initial)


def large_init_large_final(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> Any:
  """Keeps weights that are large before and after: ``min(|w0|, |w|)``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5])
    >>> lth.scores.large_init_large_final(final, initial)
    Array([1. , 0.5], dtype=float32)
  """
  return _score(
    lambda w, w0: jnp.minimum(jnp.abs(w0), jnp.abs(w)), params, initial
  )


def small_init_small_final(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> Any:
  """Keeps weights that are small before and after: ``-max(|w0|, |w|)``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5])
    >>> lth.scores.small_init_small_final(final, initial)
    Array([-3., -2.], dtype=float32)
  """
  return _score(
    lambda w, w0: -jnp.maximum(jnp.abs(w0), jnp.abs(w)), params, initial
  )


def magnitude_increase(params: chex.ArrayTree, initial: chex.ArrayTree) -> Any:
  """Scores a weight by how much training enlarged it: ``|w| - |w0|``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([3.0, -1.5])
    >>> lth.scores.magnitude_increase(final, initial)
    Array([-2. ,  0.5], dtype=float32)
  """
  return _score(lambda w, w0: jnp.abs(w) - jnp.abs(w0), params, initial)


def movement(params: chex.ArrayTree, initial: chex.ArrayTree) -> Any:
  """Scores a weight by how far training moved it: ``|w - w0|``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.movement(jnp.array([1.0, -2.0]), jnp.array([3.0, -1.5]))
    Array([2. , 0.5], dtype=float32)
  """
  return _score(lambda w, w0: jnp.abs(w - w0), params, initial)


def large_final_same_sign(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> Any:
  """Keeps large trained weights that kept their sign; others score zero.

  With the weights at their initial values this is the best supermask criterion
  of the paper. Complex weights have no sign.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([-3.0, -0.5])
    >>> lth.scores.large_final_same_sign(final, initial)
    Array([0., 2.], dtype=float32)
  """

  def score(w, w0):
    if jnp.iscomplexobj(w) or jnp.iscomplexobj(w0):
      raise TypeError(
        '`large_final_same_sign` compares signs, which complex weights do not'
        ' have. Use `lthjax.scores.magnitude`.'
      )
    same = jnp.sign(w) == jnp.sign(w0)
    return jnp.where(same | jnp.isnan(w), jnp.abs(w), 0)  # NaN stays visible

  return _score(score, params, initial)


def _score(
  f: Callable[..., jax.Array],
  params: chex.ArrayTree,
  initial: chex.ArrayTree | None = None,
) -> Any:
  """Maps over the params, and over initial ones of the same names."""
  leaves, structure = trees.flatten(params)
  _checks.check_arrays(leaves, 'params')
  refuse(
    [n for n, w in leaves.items() if w is not None and w.dtype == bool],
    '`params` must be weights, but {} is bool, as masks are.',
    TypeError,
  )
  if initial is None:
    return structure.unflatten(
      None if w is None else f(w) for w in leaves.values()
    )
  before = _checks.arrays(initial, 'initial')
  shapes, found = (
    {name: w if w is None else w.shape for name, w in tree.items()}
    for tree in (leaves, before)
  )
  refuse(
    [
      f'{name} ({shapes.get(name)} and {found.get(name)})'
      for name in shapes | found
      if name not in shapes or name not in found or shapes[name] != found[name]
    ],
    '`params` and `initial` must have the same leaves and shapes, but differ in'
    ' {}. Pass the params from before training.',
  )
  return structure.unflatten(
    None if w is None else f(w, before[name]) for name, w in leaves.items()
  )
