"""The trainings of the comparison of sparse training, and how long they are."""

import functools
from typing import Any, NamedTuple

import lthjax as lth
from methods import equal_cost
from methods.sparse import (
  METHODS,
  NM,
  MethodName,
  Plan,
  n_of_group,
  trainings,
)

DENSITIES = {'uniform': lth.densities.uniform, 'erk': lth.densities.erk}


class Cell(NamedTuple):
  """One training, of all seeds."""

  method: MethodName
  sparsity: float
  steps: int

  @property
  def name(self) -> str:
    return f'networks/{self.method}-{self.sparsity:g}-{self.steps}'

  @property
  def label(self) -> str:
    label = METHODS[self.method].label
    return f'{label}  {100 * self.sparsity:g} % sparse  {self.steps:,} steps'


class Trial(NamedTuple):
  """Trainings of a cell with each of the rates, to choose one."""

  cell: Cell

  @property
  def name(self) -> str:
    return self.cell.name.replace('networks/', 'trials/')

  @property
  def label(self) -> str:
    return f'{self.cell.label}  rates'

  @property
  def steps(self) -> int:
    return self.cell.steps


def plan_of(
  config: Any, method: MethodName, sparsity: float, steps: int
) -> Plan:
  """What a method is told if it trains for so many steps."""
  each = steps // trainings(method, sparsity)
  return Plan(
    sparsity=sparsity,
    densities=DENSITIES[config.densities],
    steps=each,
    stop_step=round(config.stop_share * each),
    update_every=config.update_every,
    drop_fraction=config.drop_fraction,
    weight_decay=config.weight_decay,
  )


def steps_of(
  config: Any, method: MethodName, sparsity: float, length: float
) -> int:
  """How long a method trains, all of its trainings together."""
  times, steps = trainings(method, sparsity), round(length * config.steps)
  if not config.equal_flops:
    return times * steps
  plan = functools.partial(plan_of, config, method, sparsity)
  steps = equal_cost.steps_of_equal_cost(method, plan, steps, config.longest)
  return max(1, steps // times) * times


def cells(config: Any) -> list[Any]:
  """All trainings, with the dense network first; before each, its trial."""
  methods = sorted(config.methods, key=lambda name: name != 'dense')
  found = [
    Cell(method, sparsity, steps_of(config, method, sparsity, length))
    for length in config.lengths
    for method in methods
    for sparsity in ((0.0,) if method == 'dense' else config.sparsities)
    if method not in NM or n_of_group(sparsity)
  ]
  if not config.rates:
    return found
  return [x for cell in found for x in (Trial(cell), cell)]
