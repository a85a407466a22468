"""Figures of the experiment on linguistic masks."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures
from common.command import Run
from linguistics.arms import AXES
from reports.linguistic_numbers import curves, excess, tickets, trained

BLUE, GREEN, ORANGE, RED, GRAY = (
  *('#1b6ca8', '#2a9d8f', '#e9a03b', '#c8553d'),
  '0.45',
)
COLORS = {
  'asa': RED,
  'random': GRAY,
  'relabelled': ORANGE,
  'permuted': GREEN,
  'none': BLUE,
}
DASHES = {'gold': '-', 'causal': '--', 'type': ':'}
NAMES = {
  'asa': 'ASA',
  'random': 'row-matched random',
  'relabelled': 'relabelled matrix',
  'permuted': 'permuted tags',
}


def draw(run: Run) -> dict[str, Figure]:
  """Overlap, curves, axes and languages, of what was run."""
  found = trained(run)
  drawn = {}
  if 'none' in found and 'overlap' in found['none']:
    drawn['overlap'] = _overlap(found, run.title)
  if {'none', 'asa'} <= found.keys():
    drawn['curves'] = _curves(found, run.title)
  if 'axes' in found:
    drawn['axes'] = _axes(found, run.title)
  if 'treebanks' in found:
    drawn['languages'] = _languages(found, run.title)
  return drawn


def _overlap(found: dict[str, Any], title: str) -> Figure:
  """Excess over the density of tickets, and by layer against the null."""
  fig, ((left, right),) = figures.panels(1, 2, (9.6, 3.8))
  names = {1.0: 'none'} | tickets(found)
  each = [excess(found[name]) for name in names.values()]
  left.axhline(0, color='0.2', lw=0.8)
  figures.band(left, list(names), each, color=BLUE, label='ticket')
  for density, values in zip(names, each, strict=True):
    left.plot([density] * len(values), values, '.', color=BLUE, ms=4, alpha=0.6)
  if 'untrained' in found:
    start = np.mean([x['excess'] for x in found['untrained']['overlap']])
    left.axhline(start, color=GRAY, ls=':', lw=1, label='untrained')
  if 'nulls' in found:
    fitted = [x['positive']['excess'] for x in found['nulls']['seeds']]
    left.axhline(np.mean(fitted), color=ORANGE, ls='--', lw=1.2,
                 label='positive control: fitted matrix')  # fmt: skip
  left.set_xscale('log')
  shown = list(names)[:: 1 + (len(names) - 1) // 8]  # Room for eight labels.
  left.set_xticks(shown, [f'{100 * d:.3g}' for d in shown])
  left.minorticks_off()
  left.invert_xaxis()
  left.set_xlabel('attention weights left (%)')
  left.set_ylabel('excess over row-matched edges')
  left.legend(frameon=False, fontsize=8)
  figures.decorate(left)
  figures.title(left, 'by density: each point is a seed')
  if 'nulls' in found:
    _by_layer(right, found)
  figures.title_all(fig, title)
  return fig


def _by_layer(ax: Axes, found: dict[str, Any]) -> None:
  """Each seed's excess beside the middle 95 % of permuted tags."""
  rows = [x['nulls']['permuted'] for x in found['nulls']['seeds']]
  parts, apart = len(rows[0]['statistic']), 0.6 / len(rows)
  ax.axhline(0, color='0.2', lw=0.8)
  for part in range(parts):
    for seed, row in enumerate(rows):
      x = part + (seed - (len(rows) - 1) / 2) * apart
      low, high = row['low'][part], row['high'][part]
      null = 'permuted tags, middle 95 %' if not part and not seed else None
      ax.plot([x, x], [low, high], color='0.7', lw=4, label=null)
      own = 'a trained network' if not part and not seed else None
      ax.plot(x, row['statistic'][part], 'o', color=RED, ms=4, label=own)
  labels = ['all', *(f'layer {i + 1}' for i in range(parts - 1))]
  ax.set_xticks(range(parts), labels)
  ax.legend(frameon=False, fontsize=8)
  figures.decorate(ax)
  figures.title(ax, 'dense networks by layer and seed, beside the null')


def _curves(found: dict[str, Any], title: str) -> Figure:
  """Loss beside the network without a mask, by mask and by source of tags."""
  fig, ((left, right),) = figures.panels(1, 2, (9.6, 4.2), sharex=True)
  dense = curves(found['none'])
  steps = [x['step'] for x in found['none']['curve']]
  skip = len(steps) // 4  # Early losses fall fast, and alike.
  for name, result in found.items():
    arm = result.get('arm', {})
    if not arm or arm['base'] or arm['guide'] or arm['learned']:
      continue
    mask, source = arm['mask'], arm['source']
    shown = name in NAMES or name.removesuffix(f'_{source}') in NAMES
    inputs = arm['tag_input']
    if (not shown and not inputs) or result['curve'][-1]['step'] != steps[-1]:
      continue
    label = 'tag as input' if inputs else NAMES[mask]
    style = {'color': BLUE if inputs else COLORS[mask]}
    style['ls'] = DASHES[source]
    gap = curves(result) - dense
    for ax in [left] * (not inputs) + [right] * (inputs or mask == 'asa'):
      ax.plot(steps[skip:], gap.mean(1)[skip:], lw=1.5, **style,
              label=f'{label}, {source} tags')  # fmt: skip
      ax.fill_between(
        steps[skip:], gap.min(1)[skip:], gap.max(1)[skip:],
        color=style['color'], alpha=0.1, lw=0,
      )  # fmt: skip
  for ax in (left, right):
    ax.axhline(0, color='0.2', lw=0.8)
    ax.set_xlabel('step')
    ax.legend(frameon=False, fontsize=7.5)
    figures.decorate(ax)
  left.set_ylabel('loss minus that without a mask')
  figures.title(left, 'masks (dots: seeds; band: 95 % interval)')
  figures.title(right, 'ASA beside the tag as an input')
  figures.title_all(fig, title)
  return fig


def _axes(found: dict[str, Any], title: str) -> Figure:
  """Excess on each axis, of dense networks and tickets."""
  fig, ((ax,),) = figures.panels(1, 1, (6.4, 3.6))
  ax.axhline(0, color='0.2', lw=0.8)
  kinds = {'dense': BLUE, 'ticket': RED}
  for i, (name, color) in enumerate(kinds.items()):
    each = found['axes']['excess'].get(name)
    if not each:
      continue
    places = [AXES.index(axis) + 0.24 * i - 0.12 for axis in each]
    figures.bars(ax, places, list(each.values()), color=color, fmt='o',
                 label=name)  # fmt: skip
  density = found['axes']['density']
  labels = [f'{axis}\n{100 * density[axis]:.1f} %' for axis in AXES]
  ax.set_xticks(range(len(AXES)), labels)
  ax.set_ylabel('excess over row-matched edges')
  ax.set_xlabel('axis, and its share of the edges')
  ax.legend(frameon=False, fontsize=8)
  figures.decorate(ax)
  figures.title_all(fig, f'{title} {figures.BARS}')
  return fig


def _languages(found: dict[str, Any], title: str) -> Figure:
  """Dependencies inside the matrix by treebank; excess by language."""
  fig, ((left, right),) = figures.panels(1, 2, (9.6, 3.6))
  each = found['treebanks']['languages']
  places = np.arange(len(each))
  for shift, name, color, label in (
    (-0.2, 'arcs', BLUE, 'dependencies'),
    (0.2, 'chance', '0.7', 'by chance'),
  ):
    left.bar(places + shift, [x[name] for x in each], 0.4, color=color,
             label=label)  # fmt: skip
  left.set_xticks(places, [x['name'].replace(' (', '\n(') for x in each])
  left.set_ylim(0.5, 1)
  left.set_ylabel('share of compatible tags')
  left.legend(frameon=False, fontsize=8, loc='upper left', ncols=2)
  figures.decorate(left)
  figures.title(left, 'the matrix holds dependencies')
  models = found.get('languages', {})
  right.axhline(0, color='0.2', lw=0.8)
  for i, (kind, color, label) in enumerate(
    (
      ('overlap', RED, 'ASA'),
      ('beyond_tags', BLUE, 'beyond popular tags'),
      ('fitted', ORANGE, 'matrix fitted on English'),
    )
  ):
    values = [
      [y if kind == 'beyond_tags' else y['excess'] for y in x[kind]]
      for x in models.values()
    ]
    if values and all(values):
      spots = np.arange(len(values)) + 0.2 * i - 0.2
      figures.bars(right, spots, values, color=color, fmt='o', label=label)
  right.set_xticks(range(len(models)), list(models))
  if models:
    right.legend(frameon=False, fontsize=8)
  right.set_ylabel('excess over row-matched edges')
  figures.decorate(right)
  figures.title(right, 'attention, in models of each')
  figures.title_all(fig, title)
  return fig
