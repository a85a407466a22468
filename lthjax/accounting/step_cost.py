"""Cost of a training step on one example, method by method.

A forward pass costs f: `f_D` with all weights, `f_S` with the alive ones. The
backward pass costs twice as much: once for the gradients of the activations and
once for the gradients of the weights:

| method                             | forward | activations | weights      |
|------------------------------------|---------|-------------|--------------|
| dense                              | f_D     | f_D         | f_D          |
| static, SET, SNIP, a ticket        | f_S     | f_S         | f_S          |
| RigL, SRigL, when the masks move   | f_S     | f_S         | f_D          |
| SNFS, straight-through             | f_S     | f_S         | f_D          |
| Top-KAST                           | f_S     | f_S         | f_B          |

The arguments ``dense`` and ``sparse`` are f_D and f_S, in any unit: multiply-
adds, FLOPs, or shares of the dense forward pass. Every function returns the
cost of a training step on one example in the same unit, on average if steps
differ. Comparing weights, moving masks and the optimizer are not counted.

References:
  Evci et al., Rigging the Lottery: Making All Tickets Winners,
  arXiv:1911.11134, appendix on counting FLOPs.
"""

from collections.abc import Callable

import jax
import numpy as np
import optax

from lthjax import _checks

_MAX_MOVES = 2**22  # Densities are worked out for all of them at once.


def dense(dense: float) -> float:
  """Returns the cost of training all weights: ``3 f_D``.

  Example:
    >>> from lthjax.accounting import step_cost
    >>> step_cost.dense(1.0)
    3.0
  """
  _check(dense=dense)
  return 3 * dense


def static(sparse: float) -> float:
  """Returns the cost of training the alive weights: ``3 f_S``.

  This holds for tickets, for SNIP, and for SET, which grows weights at random
  and needs no gradients to do so.

  Example:
    >>> from lthjax.accounting import step_cost
    >>> step_cost.static(0.25)
    0.75
  """
  _check(sparse=sparse)
  return 3 * sparse


def rigl(dense: float, sparse: float, update_every: int) -> float:
  """Returns the cost of RigL: ``(3 f_S T + 2 f_S + f_D) / (T + 1)``.

  Every T steps, one additional step moves the masks and computes the gradients
  of all weights. SRigL costs the same, with the ``f_S`` of its masks, in which
  ablated neurons have no weights.

  Args:
    dense: cost f_D.
    sparse: cost f_S.
    update_every: number of steps T from one move of the masks to the next.

  Example:
    >>> from lthjax.accounting import step_cost
    >>> round(step_cost.rigl(1.0, 0.1, update_every=100), 4)
    0.3089
  """
  update_every = _checks.at_least('update_every', update_every, 1)
  _check(dense=dense, sparse=sparse)
  # T steps train the alive weights; one computes all gradients and moves masks.
  moving = 2 * sparse + dense
  return (3 * sparse * update_every + moving) / (update_every + 1)


def snfs(dense: float, sparse: float) -> float:
  """Returns the cost of SNFS, sparse momentum: ``2 f_S + f_D``.

  The momentum of all weights needs the gradients of all weights at every step.

  Example:
    >>> from lthjax.accounting import step_cost
    >>> step_cost.snfs(1.0, 0.25)
    1.5
  """
  _check(dense=dense, sparse=sparse)
  return 2 * sparse + dense


def straight_through(dense: float, sparse: float) -> float:
  """Returns the cost of straight-through training: ``2 f_S + f_D``.

  Forward and backward passes use the alive weights, and all weights have
  gradients, as in STE and SR-STE. For hardware whose sparse format cannot be
  transposed, the backward pass uses all weights: add ``f_D - f_S``.

  Example:
    >>> from lthjax.accounting import step_cost
    >>> step_cost.straight_through(1.0, 0.5)
    2.0
  """
  _check(dense=dense, sparse=sparse)
  return 2 * sparse + dense


def top_kast(sparse: float, backward: float) -> float:
  """Returns the cost of Top-KAST: ``2 f_S + f_B``.

  Forward and backward passes use the weights of the set A, and the weights of
  the larger set B have gradients.

  Args:
    sparse: cost of a forward pass with the weights in A.
    backward: cost of a forward pass with the weights in B.

  Example:
    >>> from lthjax.accounting import step_cost
    >>> step_cost.top_kast(0.25, 0.5)
    1.0

  References:
    Jayakumar et al., Top-KAST: Top-K Always Sparse Training, arXiv:2106.03517,
    section 2.
  """
  _check(sparse=sparse, backward=backward)
  return 2 * sparse + backward


def ac_dc(dense: float, sparse: float, dense_share: float) -> float:
  """Returns the cost of AC/DC: ``3 f_D`` or ``3 f_S``, by phases.

  Args:
    dense: cost f_D.
    sparse: cost f_S.
    dense_share: share of the steps that are in dense phases, in [0, 1].

  Example:
    >>> from lthjax.accounting import step_cost
    >>> step_cost.ac_dc(1.0, 0.5, dense_share=0.5)
    2.25

  References:
    Peste et al., AC/DC: Alternating Compressed/DeCompressed Training of Deep
    Neural Networks, arXiv:2106.12379, algorithm 1.
  """
  dense_share = _checks.closed_share('dense_share', dense_share)
  _check(dense=dense, sparse=sparse)
  return 3 * (dense_share * dense + (1 - dense_share) * sparse)


def gradual(
  cost: Callable[[float], float],
  density: optax.Schedule,
  steps: int,
  update_every: int = 1,
) -> float:
  """Returns the cost of gradual pruning: the mean of ``3 f`` over training.

  Args:
    cost: cost of a forward pass at a density, such as ``lambda density:
      report.at(densities.erk(shapes, 1 - density))``.
    density: schedule of the density, over steps counted from 0.
    steps: number of training steps.
    update_every: number of steps from one change of the masks to the next.

  Example:
    >>> import optax
    >>> from lthjax.accounting import step_cost
    >>> halve = optax.linear_schedule(1.0, 0.5, transition_steps=100)
    >>> round(step_cost.gradual(lambda d: d, halve, steps=101), 3)
    2.25

  References:
    Zhu & Gupta, To prune, or not to prune: exploring the efficacy of pruning
    for model compression, arXiv:1710.01878.
  """
  update_every = _checks.at_least('update_every', update_every, 1)
  steps = _checks.at_least('steps', steps, 1)
  _checks.function('cost', cost, 'cost(density)')
  _checks.function('density', density, 'density(step)')
  if (moves := -(-steps // update_every)) > _MAX_MOVES or steps >= 2**31:
    raise ValueError(
      f'`steps` was {steps} and `update_every` {update_every}, but there may be'
      f' at most {_MAX_MOVES} moves and 2^31 - 1 steps: raise `update_every`.'
    )
  update_every = min(update_every, steps)  # It may not fit an int32.
  # One evaluation for each density, however many steps have it.
  starts = np.arange(moves, dtype=np.int32) * update_every
  lengths = np.minimum(steps - starts, update_every)
  values, each = np.unique(jax.vmap(density)(starts), return_inverse=True)
  counts = np.bincount(each, lengths).tolist()
  total = sum(
    n * cost(float(value)) for value, n in zip(values, counts, strict=True)
  )
  return 3 * total / steps


def _check(**costs: float) -> None:
  """Raises unless costs are numbers."""
  for name, cost in costs.items():
    _checks.not_negative(name, cost)
