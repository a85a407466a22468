"""What is to be trained to take the tickets of parts of the data apart."""

from typing import Literal, NamedTuple

from reports import disentangled_tickets as disentangled_report


class Cell(NamedTuple):
  """One training of all seeds; those of COLT are one a part."""

  kind: Literal['imp', 'colt', 'core', 'specialist', 'random', 'union']
  level: int
  part: int | None
  specialist: int | None
  steps: int

  @property
  def name(self) -> str:
    """Names its files."""
    if self.kind == 'colt':
      return f'colt-{self.level:02d}'
    if self.kind == 'imp':
      return f'imp-{self.part}-{self.level:02d}'
    return f'{self.masks}-{self.part}'

  @property
  def masks(self) -> str:
    """Names its masks in the results."""
    chosen = '' if self.specialist is None else f'_{self.specialist}'
    return self.kind + chosen

  @property
  def label(self) -> str:
    """Names it for people."""
    if self.kind in ('imp', 'colt'):
      part = '' if self.part is None else f', part {self.part}'
      return f'{self.kind.upper()}, level {self.level}{part}'
    label = disentangled_report.label(self.masks)
    return f'{label}, on part {self.part}'


def cells(parts: int, levels: int, colt_levels: int, steps: int) -> list[Cell]:
  """All that is to be trained, in an order in which it can be."""
  last = levels - 1
  found = [
    Cell('imp', level, part, None, steps)
    for level in range(levels)
    for part in range(parts)
  ]
  found += [
    Cell('colt', level, None, None, parts * steps)
    for level in range(1, colt_levels)
  ]
  for part in range(parts):
    found.append(Cell('core', last, part, None, steps))
    found += [Cell('specialist', last, part, i, steps) for i in range(parts)]
    found.append(Cell('random', last, part, None, steps))
    found.append(Cell('union', last, part, None, steps))
  return found
