"""The ways to train a sparse network that the experiments compare.

A method makes an optimizer for a `Plan`, and knows what a training step costs.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import optax

import lthjax as lth
from lthjax.accounting import step_cost
from lthjax.densities import Densities

MethodName = Literal[
  'dense',
  'static',
  'set',
  'snfs',
  'rigl',
  'srigl',
  'top_kast',
  'straight_through',
  'sr_ste',
  'ac_dc',
  'gradual',
  'small_dense',
  'imp',
  'rigl_nm',
  'sr_ste_nm',
]
GROUP = 4  # weights in a group of N:M sparsity
NM: tuple[MethodName, ...] = ('rigl_nm', 'sr_ste_nm')


# Methods that hold dead weights at zero and keep no statistics of them, so that
# only a move has to see them.
HELD = ('static', 'set', 'rigl', 'srigl')


class Plan(NamedTuple):
  """What a method is told."""

  sparsity: float  # dead share of all prunable weights at the end
  densities: Densities  # how the budget spreads over layers
  steps: int  # of each training, if there are several
  stop_step: int  # the last step at which masks may move
  update_every: int  # steps from one move to the next
  drop_fraction: float  # share of the alive weights that a move replaces
  weight_decay: float  # L2 penalty on kernels

  @property
  def moves(self):
    """When masks move, as keyword arguments."""
    return {'update_every': self.update_every, 'stop_step': self.stop_step}

  @property
  def budget(self):
    """How many weights live, as keyword arguments."""
    return {'sparsity': self.sparsity, 'densities': self.densities}

  @property
  def dynamic(self):
    """When and how drop-and-grow methods move masks, as keyword arguments."""
    return {**self.moves, 'drop_fraction': self.drop_fraction}

  def masks(self, key):
    """Random initial masks, as a function of params."""
    return lth.random_masks(key, **self.budget)


class Cost(NamedTuple):
  """Multiply-adds of a forward pass on one example."""

  dense: float  # with all weights
  sparse: float  # with the weights alive at the end
  at: Callable[[float], float]  # with the budget of a sparsity


class Method(NamedTuple):
  """One way to train."""

  label: str
  color: str
  make: Callable[..., optax.GradientTransformation]  # (inner, plan, key)
  cost: Callable[[Cost, Plan], float]  # of a training step on one example
  decays: bool = False  # weights by itself, in the place of a penalty


def phases(plan: Plan) -> tuple[list[int], list[int]]:
  """AC/DC's phases: a tenth of training each, sparse from seven tenths on."""
  tenth = max(1, plan.steps // 10)
  return [tenth * i for i in (1, 3, 5, 7)], [tenth * i for i in (2, 4, 6)]


def dense_share(plan: Plan) -> float:
  """Share of training that AC/DC's dense phases take."""
  sparse_steps, dense_steps = phases(plan)
  starts = [0, *dense_steps]
  lengths = [b - a for a, b in zip(starts, sparse_steps, strict=True)]
  return sum(lengths) / plan.steps


def backward_sparsity(plan: Plan) -> float:
  """Top-KAST trains twice as many weights as it runs with."""
  return max(0.0, 1 - 2 * (1 - plan.sparsity))


def gradual_cost(forward: Cost, plan: Plan) -> float:
  """Multiply-adds of gradual pruning, on average over training."""
  last = plan.stop_step - plan.stop_step % plan.update_every
  sparsity = lth.schedules.polynomial_sparsity(plan.sparsity, 0, last)
  return step_cost.gradual(
    lambda density: forward.at(min(1 - density, plan.sparsity)),
    lambda step: 1 - sparsity(step),
    plan.steps,
    plan.update_every,
  )


def _ac_dc(inner, plan, key):
  del key
  sparse_steps, dense_steps = phases(plan)
  return lth.ac_dc(
    inner, **plan.budget, sparse_steps=sparse_steps, dense_steps=dense_steps
  )


def _top_kast(inner, plan, key):
  del key
  return lth.top_kast(
    inner,
    backward_sparsity=backward_sparsity(plan),
    decay=plan.weight_decay,
    **plan.budget,
    **plan.moves,
  )


def n_of_group(sparsity: float) -> int | None:
  """How many weights of a group live under N:M, if that is a whole number."""
  n = round(GROUP * (1 - sparsity))
  fits = 0 < n < GROUP and math.isclose(n / GROUP, 1 - sparsity)
  return n if fits else None


def _pattern(plan: Plan) -> lth.patterns.NM:
  n = n_of_group(plan.sparsity)
  assert n is not None
  return lth.patterns.NM(n, GROUP)


def sparsities_on_the_way(sparsity: float) -> list[float]:
  """The sparsities that IMP trains at, each of about half the weights."""
  levels = max(1, round(math.log(1 - sparsity, 0.5)))
  densities = [(1 - sparsity) ** (i / levels) for i in range(levels)]
  return [*(1 - density for density in densities), sparsity]


def trainings(name: MethodName, sparsity: float) -> int:
  """How often a method trains from the beginning."""
  return len(sparsities_on_the_way(sparsity)) if name == 'imp' else 1


def _imp_cost(forward: Cost, plan: Plan) -> float:
  """The mean over all levels."""
  way = sparsities_on_the_way(plan.sparsity)
  return sum(step_cost.static(forward.at(x)) for x in way) / len(way)


def _static_cost(forward: Cost, plan: Plan) -> float:
  return step_cost.static(forward.sparse)


def _rigl_cost(forward: Cost, plan: Plan) -> float:
  return step_cost.rigl(forward.dense, forward.sparse, plan.update_every)


def _through_cost(forward: Cost, plan: Plan) -> float:
  return step_cost.straight_through(forward.dense, forward.sparse)


METHODS: dict[MethodName, Method] = {
  'dense': Method(
    'dense',
    '#555555',
    # With all weights alive this is the plain optimizer.
    lambda inner, plan, key: lth.static(inner, lth.masks.full),
    lambda forward, plan: step_cost.dense(forward.dense),
  ),
  'static': Method(
    'static',
    '#b0a08f',
    lambda inner, plan, key: lth.static(inner, plan.masks(key)),
    _static_cost,
  ),
  'set': Method(
    'SET',
    '#e9a03b',
    lambda inner, plan, key: lth.sparse_evolution(
      inner, plan.masks(key), key=key, **plan.dynamic
    ),
    _static_cost,
  ),
  'snfs': Method(
    'SNFS',
    '#9b5de5',
    lambda inner, plan, key: lth.snfs(inner, plan.masks(key), **plan.dynamic),
    lambda forward, plan: step_cost.snfs(forward.dense, forward.sparse),
  ),
  'rigl': Method(
    'RigL',
    '#1b6ca8',
    lambda inner, plan, key: lth.rigl(inner, plan.masks(key), **plan.dynamic),
    _rigl_cost,
  ),
  'srigl': Method(
    'SRigL',
    '#2a9d8f',
    lambda inner, plan, key: lth.srigl(inner, plan.masks(key), **plan.dynamic),
    _rigl_cost,
  ),
  'top_kast': Method(
    'Top-KAST',
    '#7f4f24',
    _top_kast,
    lambda forward, plan: step_cost.top_kast(
      forward.sparse, forward.at(backward_sparsity(plan))
    ),
    decays=True,
  ),
  'straight_through': Method(
    'straight-through',
    '#e07a9b',
    lambda inner, plan, key: lth.straight_through(inner, **plan.budget),
    _through_cost,
  ),
  'sr_ste': Method(
    'SR-STE',
    '#c8553d',
    lambda inner, plan, key: lth.sr_ste(inner, **plan.budget),
    _through_cost,
  ),
  'ac_dc': Method(
    'AC/DC',
    '#6a994e',
    _ac_dc,
    lambda forward, plan: step_cost.ac_dc(
      forward.dense, forward.sparse, dense_share(plan)
    ),
  ),
  'gradual': Method(
    'gradual pruning',
    '#14213d',
    lambda inner, plan, key: lth.gradual(inner, **plan.budget, **plan.moves),
    gradual_cost,
  ),
  'small_dense': Method(
    'small dense',
    '#8d99ae',
    lambda inner, plan, key: lth.static(inner, lth.masks.full),
    _static_cost,
  ),
  'imp': Method(
    'IMP',
    '#d62828',
    # Masks are put into the state level by level.
    lambda inner, plan, key: lth.static(inner, lth.masks.full),
    _imp_cost,
  ),
  'rigl_nm': Method(
    f'RigL, N:{GROUP}',
    '#4ea8de',
    lambda inner, plan, key: lth.rigl(
      inner, lth.random_masks(key), pattern=_pattern(plan), **plan.dynamic
    ),
    _rigl_cost,
  ),
  'sr_ste_nm': Method(
    f'SR-STE, N:{GROUP}',
    '#f4a261',
    lambda inner, plan, key: lth.sr_ste(inner, pattern=_pattern(plan)),
    _through_cost,
  ),
}
# Those that the presets compare unless they say otherwise.
USUAL: tuple[MethodName, ...] = tuple(
  name for name in METHODS if name not in ('small_dense', 'imp', *NM)
)
