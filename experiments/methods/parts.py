"""Tickets of parts of the data: what to train, and what they share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import chex
import jax
import numpy as np

import lthjax as lth
from common.seeds import unstack
from lthjax import models, trees
from methods import representations

# What the core is compared with: as many weights per layer that are chosen
# otherwise, and a ticket of the same part and start in another order of data.
Null = Literal['initial', 'noise', 'pruned', 'twin']
LABELS = {
  'dense': 'dense',
  'core': 'core alone',
  'initial': 'as many, largest initially',
  'noise': 'as many, random',
  'pruned': 'as many, of the ticket',
  'random': 'core, random weights',
  'union': 'core, all specialists',
}
SEARCHES = ('imp', 'twin')  # tickets that are found level by level
# Trees of the seeds, a list per part.
OfParts = Sequence[Sequence[chex.ArrayTree]]


class Cell(NamedTuple):
  """One training of all seeds, and for COLT of all parts."""

  kind: Literal['imp', 'colt', 'core', 'specialist', 'random', 'union'] | Null
  level: int
  part: int | None
  specialist: int | None
  steps: int

  @property
  def name(self) -> str:
    if self.kind == 'colt':
      return f'networks/colt-{self.level:02d}'
    if self.kind in SEARCHES:
      return f'networks/{self.kind}-{self.part}-{self.level:02d}'
    return f'networks/{self.masks}-{self.part}'

  @property
  def masks(self) -> str:
    chosen = '' if self.specialist is None else f'_{self.specialist}'
    return self.kind + chosen

  @property
  def label(self) -> str:
    if self.kind in (*SEARCHES, 'colt'):
      part = '' if self.part is None else f', part {self.part}'
      return f'{self.kind.upper()}, level {self.level}{part}'
    return f'{label(self.masks)}, on part {self.part}'


def label(masks: str) -> str:
  if masks.startswith('specialist_'):
    return f'core, specialist {masks.partition("_")[2]}'
  return LABELS[masks]


def cells(
  parts: int,
  levels: int,
  colt_levels: int,
  steps: int,
  unseen: int = 0,
  nulls: Sequence[Null] = (),
) -> list[Cell]:
  """All trainings, in an order in which they can be done.

  No ticket is found on the unseen parts, which come last; the core and what it
  is compared with are trained there, too.
  """
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
  if 'twin' in nulls:
    found += [Cell('twin', level, 0, None, steps) for level in range(levels)]
  everywhere = range(parts + unseen)
  found += [
    Cell('core', last, part, None, steps) for part in everywhere[parts:]
  ]
  for null in nulls:
    if null != 'twin':
      where = everywhere[:parts] if null == 'pruned' else everywhere
      found += [Cell(null, last, part, None, steps) for part in where]
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
        found += compare(level, start, seed, of_parts)
  return found


def compare(
  level: int, start: str, seed: int, masks: Sequence[chex.ArrayTree]
) -> list[dict[str, Any]]:
  """One row per layer: what masks share, and what random ones would."""
  whole, layers = lth.tickets.overlap_against_chance(masks)
  hidden, _ = lth.tickets.overlap_against_chance(map(without_output, masks))
  return [
    {
      'level': level,
      'density': lth.masks.density(masks[0]),
      'layer': layer,
      'initialization': start,
      'seed': seed,
      **overlap._asdict(),
      'z': overlap.z,
    }
    for layer, overlap in {'all': whole, **layers, 'hidden': hidden}.items()
  ]


def without_output(masks: chex.ArrayTree) -> chex.ArrayTree:
  """Leaves out the last layer, whose weights belong to classes."""
  return jax.tree_util.tree_map_with_path(
    lambda path, mask: (
      None if trees.path_name(path).startswith('output') else mask
    ),
    masks,
  )


def shared(masks: chex.ArrayTree, others: chex.ArrayTree) -> list[float]:
  """The share of each seed's hidden weights that other masks keep as well."""
  masks, others = without_output(masks), without_output(others)
  both = jax.vmap(lth.masks.count)(lth.masks.intersect(masks, others))
  return np.divide(both, jax.vmap(lth.masks.count)(masks)).tolist()


def null_overlaps(
  model: models.Model,
  image: jax.Array,
  level: int,
  dense: Sequence[Any],
  tickets: Sequence[chex.ArrayTree],
  others: Mapping[str, chex.ArrayTree],
) -> list[dict[str, Any]]:
  """What the tickets of a part share with others, and with aligned ones.

  Networks and tickets are those of two parts, for all seeds. Aligned: units of
  the second part's dense network, from the next seed, are matched to those of
  the first by their weights, and its mask moves along.
  """
  first, second = map(unstack, tickets)
  pairs = {
    name: list(zip(first, unstack(other), strict=True))
    for name, other in others.items()
  }
  one, two = map(unstack, dense)
  for seed, mask in enumerate(first):
    other = (seed + 1) % len(first)
    if other == seed:
      break
    groups = lth.structure.groups(
      model.apply, one[seed]['params'], one[seed]['model_state'], image
    )
    moved = lth.structure.permute(
      second[other],
      groups,
      lth.landscape.align(
        one[seed]['params'], two[other]['params'], groups
      ).permutations,
    )
    pairs.setdefault('aligned', []).append((mask, moved))
  return [
    row
    for name, of_seeds in pairs.items()
    for seed, pair in enumerate(of_seeds)
    for row in compare(level, name, seed, pair)
  ]


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
