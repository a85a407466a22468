"""Trainings on two tasks in turn, and merges of what they change."""

from typing import Any, Literal, NamedTuple

from adaptation.arms import ARMS, ArmName
from adaptation.network import Kind

Stage = Literal['pretrained', 'first', 'second', 'alone', 'sum', 'mean', 'ties']


class Cell(NamedTuple):
  """One training of all seeds, or one merge of two."""

  network: Kind
  arm: ArmName | Literal['']
  stage: Stage
  length: int

  @property
  def name(self) -> str:
    if not self.arm:
      return f'networks/{self.network}'
    folder = 'networks' if self.trains else 'merged'
    return f'{folder}/{self.network}-{self.arm}-{self.stage}'

  @property
  def label(self) -> str:
    parts = (self.network, self.arm.replace('_', ' '), self.stage)
    return '  '.join(filter(None, parts))

  @property
  def steps(self) -> int:
    return self.length

  @property
  def trains(self) -> bool:
    return self.stage in ('first', 'second', 'alone')


def cells(config: Any) -> list[Cell]:
  """All trainings and merges, in an order in which they can be done."""
  found = []
  # What calibrates the others comes first.
  names = sorted(config.arms, key=lambda name: name != 'full')
  for kind in config.networks:
    found.append(Cell(kind, '', 'pretrained', config.pretrain_steps))
    calibrates = any(ARMS[x].chosen_by == 'calibration' for x in names)
    for arm in names:
      stages: list[Stage] = ['first', 'second']
      merged = arm in config.merged
      if merged or (arm == 'full' and calibrates):
        stages.append('alone')
      found += [Cell(kind, arm, x, config.steps) for x in stages]
      found += [Cell(kind, arm, x, 1) for x in config.rules if merged]
  return found
