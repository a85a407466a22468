"""Checks of arguments, with sentences shared by all public functions.

Each check returns the clean value: a Python number, or a table of leaves by
name. A wrong type raises `TypeError`, a wrong value `ValueError`.
"""

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lthjax import trees
from lthjax._errors import describe as describe
from lthjax._errors import evaluated as evaluated
from lthjax._errors import nothing, percent, refuse, takes
from lthjax._errors import spell as spell


def wrong_type(name: str, x: Any, wanted: str) -> TypeError:
  """Returns the error of an argument of the wrong type."""
  return TypeError(f'`{name}` was {spell(x)}, but must {wanted}.')


def wrong_value(name: str, x: Any, wanted: str) -> ValueError:
  """Returns the error of an argument with a wrong value."""
  return ValueError(f'`{name}` was {spell(x)}, but must {wanted}.')


# What modules of Equinox have besides arrays.
_FILTER = (
  'Put `None` in the place of whatever is not an array, as'
  ' `equinox.filter(model, equinox.is_array)` does.'
)


def number(name: str, x: Any) -> float:
  """Returns a finite number; one of low precision by its shortest decimal."""
  value = real(name, x)
  if isinstance(value, float) and not math.isfinite(value):
    raise wrong_value(name, value, 'be a finite number')
  return value


def integer(name: str, x: Any) -> int:
  """Returns a Python integer."""
  scalar = _scalar(name, x, 'an integer')
  if not _is_integer(scalar):
    whole = np.isfinite(scalar) and abs(scalar) < 2**53
    example = int(scalar) if whole else 100
    wanted = f'be an integer, such as {example}'
    raise wrong_type(name, float(scalar), wanted)
  return int(scalar)


def at_least(name: str, x: Any, n: int) -> int:
  """Returns a Python integer of at least ``n``."""
  value = integer(name, x)
  if value < n:
    raise wrong_value(name, value, f'be at least {n}')
  return value


def between(name: str, x: Any, low: int, high: int, why: str) -> int:
  """Returns a Python integer from ``low`` to ``high``."""
  value = integer(name, x)
  if not low <= value <= high:
    raise wrong_value(name, value, f'be from {low} to {high}: {why}')
  return value


def share(
  name: str, x: Any, why: str = 'at 1 no weight would be left'
) -> float:
  """Returns a share in [0, 1), such as a sparsity."""
  value = real(name, x)
  if not 0 <= value < 1:
    raise wrong_value(name, value, f'be in [0, 1): {why}{percent(value)}')
  return value


def closed_share(name: str, x: Any) -> float:
  """Returns a share in [0, 1], such as a density."""
  value = real(name, x)
  if not 0 <= value <= 1:
    raise wrong_value(name, value, f'be in [0, 1]{percent(value)}')
  return value


def positive(name: str, x: Any) -> float:
  """Returns a number above zero."""
  if not (value := real(name, x)) > 0:
    raise wrong_value(name, value, 'be positive')
  return value


def not_negative(name: str, x: Any) -> float:
  """Returns a number of at least zero."""
  if not (value := real(name, x)) >= 0:
    raise wrong_value(name, value, 'not be negative')
  return value


def flag(name: str, x: Any) -> bool:
  """Returns True or False."""
  if not isinstance(x, bool | np.bool):
    raise wrong_type(name, x, 'be True or False')
  return bool(x)


def text(name: str, x: Any) -> str:
  """Returns a string."""
  if not isinstance(x, str):
    raise wrong_type(name, x, 'be a string')
  return x


def integers(name: str, x: Any) -> tuple[int, ...]:
  """Returns several Python integers, such as a shape or steps."""
  kinds = Sequence | np.ndarray | jax.Array
  single = isinstance(x, str | bytes) or getattr(x, 'shape', None) == ()
  if single or not isinstance(x, kinds):
    raise wrong_type(name, x, 'be a sequence of integers')
  return tuple(integer(name, n) for n in x)


def step(name: str, x: Any) -> Any:
  """Returns a step, which may be traced, counted from 0."""
  traced = isinstance(x, Tracer) and jnp.issubdtype(x.dtype, jnp.integer)
  return x if traced else at_least(name, x, 0)


def having(name: str, x: Any, fields: str, what: str) -> Any:
  """Returns a value with these fields; ``what`` says what to pass."""
  if isinstance(x, type) or not all(hasattr(x, f) for f in fields.split()):
    raise wrong_type(name, x, f'be {what}')
  return x


def array(name: str, x: Any) -> Any:
  """Returns an array, or a number in place of one."""
  kinds = jax.Array | np.ndarray | np.generic | int | float
  if isinstance(x, bool) or not isinstance(x, kinds) or not _is_real(x):
    raise wrong_type(name, x, 'be an array of numbers')
  return x


def one_of(
  name: str, x: Any, options: Collection[str] | Mapping[str, str]
) -> str:
  """Returns one of the options, which may come with what they mean."""
  if isinstance(x, str) and x in options:
    return x
  texts = [f'"{option}"' for option in options]
  if isinstance(options, Mapping):
    texts = [
      f'{t} ({means})' for t, means in zip(texts, options.values(), strict=True)
    ]
  *first, last = texts
  either = f'{", ".join(first)} or ' if first else ''
  raise wrong_value(name, x, f'be {either}{last}')


def needs_params(caller: str, params: Any) -> None:
  """Raises if a transformation's ``update`` was called without params."""
  if params is None:
    raise ValueError(
      f'`{caller}` needs the current params: call'
      ' `tx.update(grads, state, params)`.'
    )


def arrays(
  tree: chex.ArrayTree, what: str = 'params', *, shapes: bool = False
) -> dict[str, Any]:
  """Returns the leaves by name: arrays, shapes if allowed, or `None`."""
  leaves = trees.by_name(tree)
  check_arrays(leaves, what, shapes=shapes)
  return leaves


def check_arrays(
  leaves: Mapping[str, Any], what: str, *, shapes: bool = False
) -> None:
  """Raises unless all leaves are arrays or `None`, and one is an array."""
  faults = _not_arrays(leaves, shapes)
  if all(x is None for x in leaves.values()):
    faults = [nothing(leaves)]
  hint = f' {_FILTER}' if len(faults) < len(leaves) else ''
  if 'abstract' in ''.join(faults):
    hint = ' Pass the arrays themselves.'
  refuse(
    faults, f'`{what}` must be a tree of arrays, but {{}}.{hint}', TypeError
  )


def check_leaves(params: chex.ArrayTree) -> None:
  """Raises if an optimizer is given params with leaves that cannot train."""
  wrong = [
    f'{trees.path_name(path)} is {describe(x)}'
    for path, x in jax.tree_util.tree_leaves_with_path(params)
    if not hasattr(x, 'dtype') and not isinstance(x, numbers.Number)
  ]
  if wrong:
    raise TypeError(
      f'Params must be arrays to be trained, but {"; ".join(wrong)}. {_FILTER}'
    )


def bool_masks(
  masks: chex.ArrayTree, what: str = 'masks', *, shapes: bool = False
) -> dict[str, Any]:
  """Returns the masks by name: bool arrays, or `None` where dense."""
  leaves = trees.by_name(masks)
  check_masks(leaves, what, shapes=shapes)
  return leaves


def check_masks(
  leaves: Mapping[str, Any], what: str = 'masks', *, shapes: bool = False
) -> None:
  """Raises unless all leaves are bool arrays or `None`."""
  faults = _not_arrays(leaves, shapes) or [
    f'{name or "the array"} is {describe(x)}'
    for name, x in leaves.items()
    if x is not None and x.dtype != bool
  ]
  # Unlike params, masks may all be None, but not the whole tree.
  if not leaves or (list(leaves) == [''] and leaves[''] is None):
    faults = [nothing(leaves)]
  refuse(
    faults,
    f'`{what}` must be a tree of bool arrays and None, but {{}}.'
    ' `lthjax.masks.full(params)` makes one.',
    TypeError,
  )


def key(name: str, x: Any) -> chex.PRNGKey:
  """Returns a single random key, of the new style or the old."""
  dtype, shape = getattr(x, 'dtype', None), getattr(x, 'shape', None)
  # Keys of the old style are two or four words of 32 bits, by generator.
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    single = shape == ()
  else:
    single = dtype == np.uint32 and shape in ((2,), (4,))
  if not single:
    seed = x if type(x) is int else 0
    wanted = f'be a single random key, such as `jax.random.key({seed})`'
    raise wrong_type(name, x, wanted)
  return x


def predicate(name: str, x: Any) -> Any:
  """Returns a choice of leaves: a function, a glob, or a list of globs."""
  globs = [x] if isinstance(x, str) else x
  # Anything else that is iterable, such as a tree of bools, is a mistake.
  if (callable(x) and not isinstance(x, type) and takes(x, '', globs)) or (
    isinstance(globs, list | tuple | set | frozenset)
    and globs
    and all(isinstance(glob, str) for glob in globs)
  ):
    return x
  wanted = (
    'be a function `(name, leaf) -> bool`, a glob over leaf names such as'
    ' "*/kernel", or a list of globs'
  )
  raise wrong_type(name, x, wanted)


def globs(name: str, x: Any) -> list[str]:
  """Returns a list of names or globs; one may come alone."""
  found = [x] if isinstance(x, str) else x
  if isinstance(found, list | tuple | set | frozenset):
    found = list(found)
    if all(isinstance(glob, str) for glob in found):
      return found
  raise wrong_type(name, x, 'be a list of names or globs')


def mapping(name: str, x: Any, what: str) -> Mapping[str, Any]:
  """Returns a mapping; ``what`` says from what to what, with an example."""
  if not isinstance(x, Mapping):
    raise wrong_type(name, x, f'map {what}')
  return x


def shapes(name: str, x: Any) -> Mapping[str, tuple[int, ...]]:
  """Returns shapes by name."""
  found = mapping(name, x, 'names of leaves to shapes, as {"fc": (784, 300)}')
  refuse(
    [str(n) for n, shape in found.items() if not isinstance(shape, tuple)],
    f'`{name}` must map names of leaves to shapes, but {{}} has none. Pass'
    ' `{name: leaf.shape}`.',
    TypeError,
  )
  return found


def densities(name: str, x: Any) -> Any:
  """Returns a distribution over layers, or `None`."""
  if x is None or (callable(x) and not isinstance(x, type)):
    return x
  hint = '`lthjax.densities.erk`'
  if isinstance(x, str) and x.isidentifier():
    hint = f'`lthjax.densities.{x}`'
  elif isinstance(x, Mapping):
    hint = '`lthjax.densities.custom({glob: density})`'
  call = '`(shapes, sparsity) -> {name: density}`'
  raise wrong_type(name, x, f'be a function {call}: pass {hint}')


def pattern(name: str, x: Any) -> Any:
  """Returns an object with the methods of `lthjax.patterns.Pattern`."""
  if not isinstance(x, type) and hasattr(x, 'select') and hasattr(x, 'density'):
    return x
  hint = '`lthjax.patterns.NM(2, 4)`'
  if isinstance(x, str) and len(parts := x.split(':')) == 2:
    hint = f'`lthjax.patterns.NM({parts[0]}, {parts[1]})`'
  elif isinstance(x, type):
    hint = f'an instance, such as {hint}'
  raise wrong_type(name, x, f'be a pattern: pass {hint}')


def optimizer(inner: Any) -> None:
  """Raises if what stands for an optimizer is something else."""
  fits = hasattr(inner, 'init') and hasattr(inner, 'update')
  if not fits or isinstance(inner, type):  # such as `optax.MultiSteps`
    raise TypeError(
      f'The optimizer to wrap was {describe(inner)}, but must be an optax'
      ' transformation, such as `optax.sgd(0.1)`.'
    )


def function(name: str, x: Any, call: str, *, classes: bool = True) -> Any:
  """Returns a function that is called as ``call``, for the error."""
  if not callable(x) or (isinstance(x, type) and not classes):
    raise wrong_type(name, x, f'be a function `{call}`')
  return x


def real(name: str, x: Any) -> float:
  """Returns a number, which may be infinite or NaN."""
  scalar = _scalar(name, x, 'a number')
  if _is_integer(scalar):
    return int(scalar)
  # The shortest decimal: float32(0.7) means 0.7, not 0.699999988.
  shortest = (float(f'{float(scalar):.{d}g}') for d in range(1, 17))
  return next(
    (s for s in shortest if scalar.dtype.type(s) == scalar), float(scalar)
  )


def _scalar(name: str, x: Any, kind: str) -> Any:
  """A NumPy scalar of a real number: Python's, NumPy's or JAX's."""
  if isinstance(x, Tracer):
    raise TypeError(
      f'`{name}` is traced, but must be {kind} known outside of `jax.jit` and'
      ' `jax.vmap`. Pass it as a static argument.'
    )
  if isinstance(x, numbers.Real) and not isinstance(x, bool | np.generic):
    return x if isinstance(x, int) else np.float64(x)
  if isinstance(x, jax.Array | np.ndarray | np.generic) and np.shape(x) == ():
    kinds = (jnp.integer, jnp.floating)
    if any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
      return np.asarray(x)[()]
  raise wrong_type(name, x, f'be {kind}')


def _is_real(x: Any) -> bool:
  dtype = getattr(x, 'dtype', np.dtype(float))
  kinds = (jnp.integer, jnp.floating, bool)
  return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _is_integer(scalar: Any) -> bool:
  return isinstance(scalar, int) or jnp.issubdtype(scalar.dtype, jnp.integer)


def _not_arrays(leaves: Mapping[str, Any], shapes: bool) -> list[str]:
  """Describes leaves that are not arrays (or shapes, if allowed)."""
  kinds = (jax.Array, np.ndarray, np.generic)
  if shapes:
    kinds += (jax.ShapeDtypeStruct,)
  wrong = {
    name: x
    for name, x in leaves.items()
    if x is not None and not isinstance(x, kinds)
  }
  return [
    f'{name or "it"} is {"an abstract " * trees.is_abstract(x)}{describe(x)}'
    for name, x in wrong.items()
  ]
