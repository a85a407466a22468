"""Checks of the parts of a training loop, its keys and its steps."""

from typing import Any

import jax
import numpy as np

from lthjax import _checks
from lthjax.training._state import TrainState

_CALLS = {
  'init': 'init(key) -> (params, model_state)',
  'loss': 'loss(params, model_state, batch, key) -> (scalar, model_state)',
  'batch': 'batch(data, key, step)',
  'evaluate': 'evaluate(params, model_state, data) -> metrics',
}


def check_functions(init, loss, tx, batch, evaluate) -> None:
  """Raises unless the parts of a training loop can be called."""
  parts = {'init': init, 'loss': loss, 'batch': batch}
  if evaluate is not None:
    parts['evaluate'] = evaluate
  for name, part in parts.items():
    _checks.function(name, part, _CALLS[name], classes=False)
  if isinstance(tx, type) or not (callable(tx) or hasattr(tx, 'init')):
    wanted = 'be an optax optimizer, or a function `tx(key)` that makes one'
    raise _checks.wrong_type('tx', tx, wanted)


def update_of(tx: Any) -> Any:
  """Returns how an optimizer updates; of one made from a key, with any key."""
  made: Any = tx(jax.random.key(0)) if callable(tx) else tx
  if not hasattr(made, 'update'):
    raise TypeError(
      f'`tx(key)` returned {_checks.describe(made)}, but must return an optax'
      ' optimizer.'
    )
  return made.update


def check_keys(key: Any, vmapped: bool) -> None:
  """Raises unless there is one key, or one for each of the vmapped runs."""
  several = np.ndim(key) > 0 and _is_key(_first(key))
  if vmapped and not several:
    raise ValueError(
      'The trainer has `vmapped=True` and needs an array of keys, such as'
      ' `jax.random.split(key, 3)`.'
    )
  if not vmapped and several:
    raise ValueError(
      'The trainer needs one key; to train several runs side by side, build it'
      ' with `vmapped=True`.'
    )
  if not vmapped:
    _checks.key('key', key)


def _first(keys: Any) -> Any:
  """The first of several keys, or what describes it."""
  if not isinstance(keys, jax.Array):
    return keys[0]
  # An array that is spread over devices cannot be sliced.
  return jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)


def _is_key(x: Any) -> bool:
  try:
    return _checks.key('key', x) is x
  except TypeError:
    return False


def first_and_last_step(state: Any, until: Any) -> tuple[int, int]:
  """Returns the step of a state, and the one up to which it is trained."""
  if not isinstance(state, TrainState):
    wanted = "be a `TrainState`, as the trainer's `init` returns it"
    raise _checks.wrong_type('state', state, wanted)
  now, until = int(state.step), _checks.integer('until', until)
  if until < now:
    raise ValueError(
      f'The state is already at step {now}, but `until` was {until}. Pass a'
      ' later step, or start from an earlier state.'
    )
  return now, until
