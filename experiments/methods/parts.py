"""Tickets of parts of the data: what to train, and what they share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import chex
import jax
import numpy as np

import lthjax as lth
from methods import representations

LABELS = {
  'dense': 'dense',
  'core': 'core alone',
  'random': 'core, random weights',
  'union': 'core, all specialists',
}
# Trees of the seeds, a list per part.
OfParts = Sequence[Sequence[chex.ArrayTree]]


class Cell(NamedTuple):
  """One training of all seeds, and for COLT of all parts."""

  kind: Literal['imp', 'colt', 'core', 'specialist', 'random', 'union']
  level: int
  part: int | None
  specialist: int | None
  steps: int

  @property
  def name(self) -> str:
    if self.kind == 'colt':
      return f'networks/colt-{self.level:02d}'
    if self.kind == 'imp':
      return f'networks/imp-{self.part}-{self.level:02d}'
    return f'networks/{self.masks}-{self.part}'

  @property
  def masks(self) -> str:
    chosen = '' if self.specialist is None else f'_{self.specialist}'
    return self.kind + chosen

  @property
  def label(self) -> str:
    if self.kind in ('imp', 'colt'):
      part = '' if self.part is None else f', part {self.part}'
      return f'{self.kind.upper()}, level {self.level}{part}'
    return f'{label(self.masks)}, on part {self.part}'


def label(masks: str) -> str:
  if masks.startswith('specialist_'):
    return f'core, specialist {masks.partition("_")[2]}'
  return LABELS[masks]


def cells(parts: int, levels: int, colt_levels: int, steps: int) -> list[Cell]:
  """All trainings, in an order in which they can be done."""
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


def overlaps(tickets: Mapping[int, OfParts]) -> list[dict[str, Any]]:
  """Compares the core at each level with what random masks would share.

  Also does so for tickets of different seeds, whose overlap cannot come from a
  common initialization.
  """
  found = []
  for level, masks in tickets.items():
    seeds = range(len(masks[0]))
    shifts = {'same': 0}
    if len(seeds) >= len(masks):  # Otherwise two parts would have one seed.
      shifts['other'] = 1
    for start, shift in shifts.items():
      for seed in seeds:
        of_parts = [
          of_seeds[(seed + shift * part) % len(seeds)]
          for part, of_seeds in enumerate(masks)
        ]
        whole, layers = lth.tickets.overlap_against_chance(of_parts)
        found += [
          {
            'level': level,
            'density': lth.masks.density(of_parts[0]),
            'layer': layer,
            'initialization': start,
            'seed': seed,
            **overlap._asdict(),
            'z': overlap.z,
          }
          for layer, overlap in {'all': whole, **layers}.items()
        ]
  return found


def compare_layers(
  apply: Callable[..., Any], networks: OfParts, x: jax.Array
) -> tuple[list[tuple[int, str]], np.ndarray]:
  """Distances between the layers of the parts' networks, averaged over seeds.

  Networks are dicts of params and model state. Returns the (part, layer) of
  each row, and the matrix.
  """
  rows, matrices = [], []
  for of_parts in zip(*networks, strict=True):
    layers = {
      (part, name): output
      for part, network in enumerate(of_parts)
      for name, output in representations.layer_outputs(
        apply, network['params'], network['model_state'], x
      ).items()
    }
    rows = list(layers)
    matrices.append(
      representations.gromov_wasserstein_matrix(list(layers.values()))
    )
  return rows, np.mean(matrices, 0)
