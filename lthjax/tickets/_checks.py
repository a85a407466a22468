"""Checks of the arguments of a search and of the states that come back."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.training._state import TrainState

State = Any


def as_functions(name: str, functions: Any) -> list[Any]:
  """Returns functions as a list, of which there is at least one."""
  if not callable(functions) and not isinstance(functions, Iterable):
    raise _checks.wrong_type(name, functions, 'be a list of functions')
  if callable(functions) or not (found := list(functions)):
    given = 'a function' if callable(functions) else 'empty'
    raise ValueError(
      f'`{name}` was {given}, but must be a list of at least one function.'
    )
  return found


def watch(
  start: State,
  params: Callable[[State], chex.ArrayTree],
  who: str = '`train`',
) -> Callable[[], None]:
  """Returns a check that a state stays as it is; ``who`` may change it."""

  def arrays():
    leaves = jax.tree.leaves((start, params(start)))
    # Objects that JAX does not look into may hold arrays as well.
    opaque = [x for x in leaves if not _is_array(x) and hasattr(x, '__dict__')]
    inside = (x for one in opaque for x in _arrays_in(vars(one)))
    return [*filter(_is_array, leaves), *inside]

  # JAX arrays are values, but NumPy arrays can be written to: keep a copy.
  before = [x.copy() if isinstance(x, np.ndarray) else x for x in arrays()]

  def check():
    after = arrays()
    if any(isinstance(x, jax.Array) and x.is_deleted() for x in after):
      raise ValueError(
        f'{who} donated the state it was given, but rewinding needs it. Leave'
        ' out `donate_argnums`, or donate a copy: `jax.tree.map(jnp.copy,'
        ' state)`.'
      )
    if len(before) != len(after) or not all(map(_same, before, after)):
      raise ValueError(
        f'{who} changed the state it was given, but rewinding needs that'
        ' state. Work on a copy and return it; for a Flax NNX module, start'
        ' with `model = nnx.clone(model)`.'
      )

  return check


def _arrays_in(x: Any) -> list[Any]:
  """Arrays in containers; keys of mappings may be of several types there."""
  if isinstance(x, Mapping):
    x = list(x.values())
  if isinstance(x, list | tuple):
    return [array for one in x for array in _arrays_in(one)]
  return list(filter(_is_array, jax.tree.leaves(x)))


def _is_array(x: Any) -> bool:
  return isinstance(x, jax.Array | np.ndarray)


def _same(a: Any, b: Any) -> bool:
  """Compares two arrays bit for bit, at no cost if they are one object."""
  if a is b:
    return True
  if a.shape != b.shape or a.dtype != b.dtype:
    return False
  if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
    a, b = jax.random.key_data(a), jax.random.key_data(b)
  nan = jnp.issubdtype(a.dtype, jnp.inexact)
  # NumPy compares strings and doubles as well.
  equal = np.array_equal if isinstance(a, np.ndarray) else jnp.array_equal
  return bool(equal(a, b, equal_nan=nan))


def check_trained(
  masks: chex.ArrayTree, start: State, trained: State, params: chex.ArrayTree
) -> None:
  """Raises if training took no steps, or dead weights are not zero."""
  if isinstance(trained, TrainState) and trained.step == start.step:
    raise ValueError(
      f'`train` took no steps: the state was already at step {int(start.step)}.'
      ' To go on from there, train until `int(state.step) + steps`.'
    )
  trees.check_like(masks, params, 'params that `train` returned')
  # Compared as values: -0.0 counts as zero, NaN does not.
  values = trees.by_name(params)
  wrong = {
    name: jnp.any((values[name] != 0) & ~mask)
    for name, mask in trees.prunable(masks).items()
  }
  refuse(
    [name for name, x in (trees.concrete(wrong) or {}).items() if x],
    '`train` returned weights that are not zero where the masks are false, in'
    ' {}. Start it with `state = lthjax.training.with_masks(state, masks)`, and'
    ' train with `lthjax.static(tx, masks)`.',
  )


def check_vmapped(state: State, vmapped: bool) -> None:
  """Raises if runs side by side would be pruned as one, or one as several."""
  _checks.flag('vmapped', vmapped)
  if isinstance(state, TrainState) and jnp.ndim(state.best.loss) != vmapped:
    several = (
      'The state is that of several runs side by side: pass `vmapped=True` to'
      ' prune each on its own.'
    )
    single = (
      'The state is that of one run, but `vmapped` was True. Leave it out, or'
      ' train several runs with `trainer(..., vmapped=True)`.'
    )
    raise ValueError(single if vmapped else several)


def check_resume(
  resume: Any, masks: chex.ArrayTree, state: State, parts: int | None = None
) -> None:
  """Raises if a search cannot go on from a ticket; parts are those of COLT."""
  if resume is None:
    return
  what = 'the last ticket of this search'
  _checks.having('resume', resume, 'masks start trained', what)
  try:
    masks_lib.intersect(masks, resume.masks)
  except ValueError as error:
    raise ValueError(
      f'`resume` is not a ticket of this search. {error}'
    ) from error
  trained = resume.trained
  several = type(trained) is tuple  # Not a state that is a NamedTuple.
  if parts is None:
    wanted, fits = 'one state', not several or type(state) is tuple
  else:
    wanted = f'a tuple with a trained state for each of the {parts} parts'
    fits = several and len(trained) == parts
    fits = fits and not any(map(trees.is_none, trained))
  if not fits:
    of = f' of {len(trained)}' if several else ''
    raise ValueError(
      f'`resume.trained` was a {type(trained).__name__}{of}, but must be'
      f' {wanted}. Pass the last ticket that this search yielded, with its'
      ' states.'
    )
