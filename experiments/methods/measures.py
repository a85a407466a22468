"""What the tickets of parts of the data share: weights, and representations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

import lthjax as lth
from methods import representations

# Trees of the seeds, a list a part.
OfParts = Sequence[Sequence[chex.ArrayTree]]


def overlaps(tickets: Mapping[int, OfParts]) -> list[dict[str, Any]]:
  """The core at every level, against what random masks would share.

  Also for tickets of different seeds, which differ in more than the data: what
  these share does not come from the initialization.
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
  """Distances between the layers of the parts' networks, mean of the seeds.

  Networks are dicts of params and model state. Returns (part, layer) of each
  row, and the matrix.
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
