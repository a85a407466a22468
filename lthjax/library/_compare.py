"""Two tickets side by side."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks, tickets
from lthjax import masks as masks_lib
from lthjax.library import _manifest
from lthjax.library._contents import Reader
from lthjax.tickets import ChanceOverlap


class Comparison(NamedTuple):
  """What `Library.compare` returns.

  Attributes:
    overlap: weights that both keep, against two random tickets of these layers.
    layers: the same for each leaf.
    jaccard: shared weights, as a share of those that either keeps.
    metrics: ``{name: (of a, of b)}`` of the numbers that both have.
    churn: share of examples that get another prediction, or `None`.
  """

  overlap: ChanceOverlap
  layers: dict[str, ChanceOverlap]
  jaccard: float
  metrics: dict[str, tuple[float, float]]
  churn: float | None

  def __str__(self) -> str:
    """A table with one line per leaf, and one per metric."""
    rows = [*self.layers.items(), ('total', self.overlap)]
    width = max(len(name) for name, _ in rows)
    lines = [f'{"leaf":{width}}  shared  by chance       z']
    lines += [
      f'{name:{width}}  {x.observed:6d}  {x.expected:9.1f}  {x.z:6.1f}'
      for name, x in rows
    ]
    lines.append(f'Jaccard index: {self.jaccard:.3f}')
    lines += [f'{name}: {a:g}, {b:g}' for name, (a, b) in self.metrics.items()]
    if self.churn is not None:
      lines.append(f'other predictions: {100 * self.churn:.2f} %')
    return '\n'.join(lines)


def compare(
  masks: Sequence[Any],
  metrics: Sequence[Any],
  loads: Sequence[Callable[[], Any]],
  predict: Callable[[Any], Any] | None,
) -> Comparison:
  """Compares masks and numbers of two tickets, and then predictions."""
  overlap, layers = tickets.overlap_against_chance(masks)
  first, second = (_numbers(x) for x in metrics)
  jaccard, churn = float(masks_lib.jaccard(*masks)), None
  if predict is not None:
    churn = _churn(*(predictions(predict, load()) for load in loads))
  both = {n: (first[n], second[n]) for n in first if n in second}
  return Comparison(overlap, layers, jaccard, both, churn)


def predictions(predict: Callable[[Any], Any], params: Any) -> np.ndarray:
  """Returns classes: as predicted, or where scores are highest."""
  found = np.asarray(predict(params))
  if found.ndim == 0 or not found.size:
    raise _checks.wrong_value(
      'predict(params)', found, 'have one entry or row for each example'
    )
  if np.issubdtype(found.dtype, np.integer) and found.ndim == 1:
    return found
  return found.argmax(-1)


def _churn(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.mean(a != b))


def _numbers(metrics: Any) -> dict[str, float]:
  """Returns all numbers in metrics, lists by their mean."""
  found = {}
  for name, x in _manifest.flat(metrics).items():
    if isinstance(x, list) and x and all(map(_is_number, x)):
      x = sum(x) / len(x)
    if _is_number(x):
      found[name or 'metric'] = x
  return found


def _is_number(x: Any) -> bool:
  return isinstance(x, numbers.Real) and not isinstance(x, bool)


def diff(reader: Reader, a: str, b: str) -> dict[str, tuple[Any, Any]]:
  """Returns the entries of two manifests that differ, by name."""
  first, second = (_entries(reader.open(key).manifest) for key in (a, b))
  return {
    name: (first.get(name), second.get(name))
    for name in sorted(first.keys() | second.keys())
    if first.get(name) != second.get(name)
  }


def _entries(manifest: Mapping[str, Any]) -> dict[str, Any]:
  fields = {k: x for k, x in manifest.items() if k not in ('masks', 'parts')}
  found = _manifest.flat(fields)
  tables = {'masks': manifest['masks'], **manifest['parts']}
  for part, leaves in tables.items():
    for name, leaf in leaves.items():
      found[f'{part}/{name}'] = None if leaf is None else _spell(leaf)
  return found


def _spell(leaf: Mapping[str, Any]) -> str:
  """A leaf in a few words."""
  shape = 'x'.join(map(str, leaf['shape']))
  kept = f' {leaf["alive"]} alive' if 'alive' in leaf else ''
  return f'{leaf.get("dtype", "bool")} {shape}{kept} {leaf["sha256"][:12]}'
