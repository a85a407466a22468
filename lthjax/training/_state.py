"""The state of a training run, and the masks in it."""

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax.opt_state import forward_params, keeps_dense_params, set_masks


class Best(NamedTuple):
  """The evaluation with the lowest loss so far.

  Attributes:
    step: the step of that evaluation, int32.
    loss: its loss, float32; infinity before the first evaluation.
    params: params at that step, as the network ran with them.
    model_state: model state at that step.
  """

  step: chex.Array
  loss: chex.Array
  params: Any
  model_state: Any


class TrainState(NamedTuple):
  """Everything that training depends on.

  With vmapped runs, all leaves except ``step`` have a leading axis, with one
  entry per run.

  Attributes:
    step: number of steps done, int32.
    params: trained params.
    opt_state: state of the optimizer, including the masks.
    model_state: what the model carries beside params, such as the running
      statistics of BatchNorm; an empty dict if nothing.
    key: random key of the data order and of the loss's noise.
    best: the best evaluation so far: what early stopping would return.
    diverged: the first step at which the training loss was not finite, int32;
      -1 if it always was.
  """

  step: chex.Array
  params: Any
  opt_state: optax.OptState
  model_state: Any
  key: chex.PRNGKey
  best: Best
  diverged: chex.Array | int = -1


class DivergedError(FloatingPointError):
  """The training loss became NaN or infinite.

  Attributes:
    step: the first step at which it did, in any run.
    state: the `TrainState` one step before, or at the last check if that was
      later: its params are finite.
  """

  def __init__(self, message: str, step: int, state: TrainState):
    super().__init__(message)
    self.step = step
    self.state = state


def with_masks(state: Any, masks: chex.ArrayTree) -> Any:
  """Puts masks into the params and the optimizer state of a training state.

  The params stay dense where the optimizer keeps them so. The best evaluation
  so far belongs to other masks and is forgotten.

  Args:
    state: a `TrainState`, or any other NamedTuple, dataclass (`flax.struct`,
      Flax's ``TrainState``) or dict with fields ``params`` and ``opt_state``.
      The optimizer is `lthjax.static` or another of `lthjax`.
    masks: tree of masks that fits the params.

  Returns:
    The state of a ticket, ready to train.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> masks = {'w': jnp.array([[True], [False]])}
    >>> train = lth.trainer(
    ...   init=lambda key: ({'w': jnp.ones((2, 1))}, {}),
    ...   loss=lambda params, state, x, key: (jnp.sum(params['w']), state),
    ...   tx=lth.static(optax.sgd(0.5), lth.masks.full(masks)),
    ...   batch=lambda data, key, step: data,
    ... )
    >>> state = lth.training.with_masks(train.init(jax.random.key(0)), masks)
    >>> train.fit(state, None, until=1).params['w'].ravel()
    Array([0.5, 0. ], dtype=float32)
  """
  opt_state = set_masks(field(state, 'opt_state'), masks)
  dense = field(state, 'params')
  params = forward_params(opt_state, dense)
  changed = {
    'params': dense if keeps_dense_params(opt_state) else params,
    'opt_state': opt_state,
  }
  if isinstance(state, TrainState):
    # A copy, so that the whole state can be donated.
    changed['best'] = no_best(
      state.step,
      jax.tree.map(jnp.copy, params),
      jax.tree.map(jnp.copy, state.model_state),
      state.key,
    )
  return replace_fields(state, **changed)


def no_best(
  step: chex.Array,
  params: chex.ArrayTree,
  model_state: chex.ArrayTree,
  key: chex.PRNGKey,
) -> Best:
  """Returns these params as the best evaluation, at a loss of infinity."""
  runs = shape_of_runs(key)
  return Best(
    step=jnp.full(runs, step, jnp.int32),
    loss=jnp.full(runs, jnp.inf, jnp.float32),
    params=params,
    model_state=model_state,
  )


def shape_of_runs(key: chex.PRNGKey) -> tuple[int, ...]:
  """Returns ``()`` for the key of one run, ``(n,)`` for those of several."""
  # Keys of the old style end in an axis of two.
  return jax.random.key_data(key).shape[:-1]


def field(state: Any, name: str) -> Any:
  """Returns a field of a state: an attribute, or an entry of a mapping."""
  if has_field(state, name):
    return state[name] if isinstance(state, Mapping) else getattr(state, name)
  raise TypeError(
    f'The state is a {type(state).__name__} without `{name}`, but must be a'
    f' NamedTuple, a dataclass or a dict that has it. {_REMEDIES[name]}'
  )


def has_field(state: Any, name: str) -> bool:
  """Returns whether `field` would find it."""
  return name in state if isinstance(state, Mapping) else hasattr(state, name)


_REMEDIES = {
  'params': 'If the params are elsewhere, pass a function that finds them'
  ' where there is an argument `params`, such as `params=lambda state: state`;'
  ' otherwise convert the state.',
  'opt_state': 'For other states, use `lthjax.set_masks(opt_state, masks)` and'
  ' `lthjax.forward_params(opt_state, params)`.',
}


def replace_fields(state: Any, **fields: Any) -> Any:
  """Returns a copy of a state of any common kind with other fields."""
  if isinstance(state, MutableMapping):
    changed = copy.copy(state)
    changed.update(fields)
    return changed
  if hasattr(state, '_replace'):  # NamedTuples.
    return state._replace(**fields)
  if hasattr(state, 'replace'):  # `flax.struct`, which may override it.
    return state.replace(**fields)
  if dataclasses.is_dataclass(state) and not isinstance(state, type):
    # Not `dataclasses.replace`, as modules have an `__init__` of their own.
    changed = copy.copy(state)
    for name, value in fields.items():
      object.__setattr__(changed, name, value)  # They may be frozen.
    return changed
  if isinstance(state, Mapping):  # Such as Flax's `FrozenDict`.
    return type(state)({**state, **fields})  # pyright: ignore[reportCallIssue]
  raise TypeError(
    f'The state is a {type(state).__name__}, but must be a NamedTuple, a'
    ' dataclass or a dict, of which a copy with other'
    f' {" and ".join(fields)} can be made.'
  )
