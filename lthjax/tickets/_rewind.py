"""Rewinding: where the training of a pruned network starts.

| rewind                 | weights | optimizer, step, schedule | steps left  |
|------------------------|---------|---------------------------|-------------|
| `rewind_weights`       | start's | start's                   | T - k       |
| `rewind_learning_rate` | trained | start's                   | T - k       |
| `fine_tune`            | trained | trained                   | your choice |

The start is the state after k of T steps. At k = 0, the first is the original
lottery-ticket experiment and the second is learning-rate rewinding; after that,
the first is late rewinding.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from lthjax import _checks, trees
from lthjax.training._state import field, has_field, replace_fields

Rewind = Callable[[Any, Any], Any]


def rewind_weights(start: Any, trained: Any) -> Any:
  """Goes back to the start in everything: weights, optimizer, step, data order.

  With masks that keep everything, training from there is bit for bit the run
  that was never interrupted.

  Example:
    >>> import lthjax as lth
    >>> lth.tickets.rewind_weights('theta_k', 'theta_T')
    'theta_k'

  References:
    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    arXiv:1912.05671, algorithm 2.
  """
  del trained
  return start


def rewind_learning_rate(start: Any, trained: Any) -> Any:
  """Keeps the trained weights; goes back to the start in everything else.

  Args:
    start: state at the step from which the learning rate is repeated: a
      NamedTuple, dataclass (such as Flax's ``TrainState``) or dict.
    trained: state at the end of training.

  Returns:
    The start with the ``params`` of the trained state, and its ``model_state``
    or ``batch_stats`` if it has them.

  Example:
    >>> import lthjax as lth
    >>> start = {'step': 0, 'params': 'theta_0', 'opt_state': 'fresh'}
    >>> trained = {'step': 9, 'params': 'theta_T', 'opt_state': 'used'}
    >>> lth.tickets.rewind_learning_rate(start, trained)
    {'step': 0, 'params': 'theta_T', 'opt_state': 'fresh'}

  References:
    Renda et al., Comparing Rewinding and Fine-tuning in Neural Network Pruning,
    arXiv:2003.02389, section 2.
  """
  kept = {'params': field(trained, 'params')}
  # Statistics describe the activations of the weights that are kept.
  for name in ('model_state', 'batch_stats'):
    if has_field(trained, name):
      kept[name] = field(trained, name)
  return replace_fields(start, **kept)


def fine_tune(start: Any, trained: Any) -> Any:
  """Keeps the whole trained state, so that training continues where it stopped.

  The step is that of the end: the training function has to continue past it,
  for instance ``until=int(state.step) + 100``, at whatever learning rate the
  schedule has there.

  Example:
    >>> import lthjax as lth
    >>> lth.tickets.fine_tune('theta_k', 'theta_T')
    'theta_T'

  References:
    Han et al., Learning both Weights and Connections for Efficient Neural
    Networks, arXiv:1506.02626, section 3.
  """
  del start
  return trained


def fresh_slots(
  tx: optax.GradientTransformation, opt_state: optax.OptState
) -> optax.OptState:
  """Empties momentum and moments; keeps steps, schedules and masks.

  A rewound state has the optimizer slots of step k. This gives the variant that
  starts there without them, as open_lth does.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx, params = optax.sgd(0.1, momentum=0.9), jnp.ones(2)
    >>> _, opt_state = tx.update(jnp.ones(2), tx.init(params), params)
    >>> lth.tickets.fresh_slots(tx, opt_state)[0].trace
    Array([0., 0.], dtype=float32)
  """
  # Steps and schedules are not params-shaped, so they keep their values.
  _checks.optimizer(tx)
  try:
    return optax.tree.map_params(
      tx,
      lambda slot: None if slot is None else jnp.zeros_like(slot),
      opt_state,
      is_leaf=trees.is_none,
    )
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(
      f'`opt_state` was {_checks.describe(opt_state)}, but must be a state of'
      f' this `tx`: {error}'
    ) from error
