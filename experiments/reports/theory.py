"""Tables and figures of theory beside measurement."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from theories.intervals import Point

HEAD = 'Theory and measurement'
BARS = 'bars: 95 % interval; dashed: formula; ring: they part'
COLORS = ('#1b6ca8', '#c8553d', '#2a9d8f', '#e9a03b', '#9b5de5', '#8a8a8a')
X = {
  'draws': 'N',
  'subsets': 'n',
  'layer': 'n',
  'moments': 'layer',
  'chi': 'd s²',
  'supermasks': 'density',
  'extremes': 'N',
  'widths': 'width',
}
ABOUT = {
  'draws': 'Draws of a ticket. Share of N random half masks among which one'
  ' solves XOR. Formula: 1 - (1 - p)^N with the p of all draws of the'
  ' same kind.',
  'subsets': 'Subset sums. Median distance of a target, uniform in [-1, 1], to'
  ' the best choice among n weights, uniform in [-1, 1]. Formulas: for subsets,'
  ' 2^n sums scattered by a normal law; for single weights, 1 - 2^(-1/n).',
  'layer': 'A layer rebuilt. Test accuracy in % of a trained LeNet-300-100'
  ' whose first layer was replaced, each weight by the best choice among n'
  ' random ones of its own. Formula column: the trained network.',
  'moments': 'Edge of chaos, ReLU. Second moment behind each layer over that of'
  " the input, with He's weights under masks of density d. Formula: d^L.",
  'chi': 'Edge of chaos, tanh. Growth of a squared perturbation per layer,'
  ' measured in layers 21 to 30. Formula: d s² E sech(√q z)⁴ at the fixed'
  ' point q, where s²/inputs is the variance of a weight.',
  'supermasks': 'Edge of chaos, supermasks. Growth of a squared perturbation'
  ' through a layer of LeNet-300-100, over that of mean-field theory for random'
  ' masks of this density: formula 1.',
  'extremes': 'Extreme values. Expected accuracy in % of the best of N random'
  ' half masks of an untrained network. Formulas: mean + sd × the expected'
  ' maximum of N standard normals; a generalized extreme value law fitted to'
  ' the best of blocks of 100.',
  'widths': 'Tickets of one size. Test accuracy in % of as many weights, found'
  ' by iterative pruning of LeNet-300-100 at a multiple of its width; of their'
  ' mask on new weights, and shuffled within layers; and of the dense network.'
  ' There is no formula: 1 - (1 - p)^N says that more draws cannot do worse.',
}
BOUNDS = (
  'Bounds on width, for a target network of width d and depth l that a pruned'
  ' random network of depth 2 l approximates: a factor O(d⁴ l²) wider, and'
  ' polynomial in 1/ε, if each weight is replaced by a single one (Malach et'
  ' al., arXiv:2002.00585, as stated by Pensia et al.); a factor'
  ' O(log(d l / min(ε, δ))) if it is replaced by a subset (Pensia et al.,'
  ' arXiv:2006.07990), with probability 1 - δ. Neither names its constant; the'
  ' tables measure what stands behind both.'
)
METAPHOR = (
  'Spin glasses, a metaphor. A mask is a configuration of binary spins, the'
  ' loss its energy, and random weights are the disorder; one then speaks of'
  ' metastable states, of a ground state that local search does not find, and'
  ' reads scaling laws as extremes over ever more draws. None of it is used'
  ' here: the couplings of a trained network are neither independent nor'
  ' quenched, no temperature is defined, and no number of this page would be'
  ' another if the metaphor were wrong.'
)


def points(result: Result) -> list[Point]:
  return [Point(**point) for point in result['points']]


def rows(result: Result) -> list[dict[str, Any]]:
  return [
    {
      'seed': seed,
      'part': result['part'],
      'setting': point.setting,
      'x': point.x,
      'measured': value,
      'formula': point.formula[seed] if point.formula else None,
    }
    for point in points(result)
    for seed, value in enumerate(point.measured)
  ]


def number(value: float) -> str:
  return 'none' if np.isnan(value) else f'{value:.3g}'


def table(result: Result) -> Table:
  """All points of a part, but for most layers of deep networks."""
  part, lines = result['part'], []
  for point in points(result):
    if part == 'moments' and point.x not in (1, 5, 10, 20):
      continue
    measured = number(point.mean)
    if len(point.measured) > 1:
      measured += f' ± {number(point.half)}'
    lines.append(
      [
        point.setting,
        f'{point.x:g}',
        measured,
        number(point.predicted),
        'yes' if point.parts else '',
      ]
    )
  heads = ['curve', X[part], 'measured', 'formula', 'part']
  return Table(heads, lines, ABOUT[part], part)


def apart(result: Result) -> str:
  """Where formula and measurement part, in words."""
  found: dict[str, list[str]] = {}
  for point in points(result):
    if point.parts:
      found.setdefault(point.setting, []).append(f'{point.x:g}')
  if not any(point.formula for point in points(result)):
    return ''
  if not found:
    return 'They part nowhere: every interval of the difference holds 0.'
  texts = [
    f'{setting}: {X[result["part"]]} = {", ".join(at)}'
    for setting, at in found.items()
  ]
  return f'They part at {"; ".join(texts)}.'


def notes(result: Result) -> list[str]:
  """What else a part has measured."""
  part, found = result['part'], result['notes']
  if part == 'draws':
    return [
      f'{width.capitalize()}: a half mask of a fresh network solves XOR'
      f' with p = {x["p"]:.2g}. Hits of masks of one network vary'
      f' {x["dispersion"]:.1f} times as much between networks as independent'
      ' draws would.'
      for width, x in found.items()
    ]
  if part == 'subsets':
    best = [x for x in points(result) if x.setting == 'best subset']
    last, before = best[-1], best[-3]
    ratio = (last.mean / before.mean) ** (1 / (last.x - before.x))
    share = '; '.join(
      f'{name}, in {100 * np.mean(x):.0f} % of draws'
      for name, x in found.items()
    )
    return [
      f'Each further weight multiplies the error by {ratio:.2f}. All of [-1, 1]'
      f' is {share}.',
      BOUNDS,
    ]
  if part == 'widths':
    sizes = (f'{n:,} at width {width}' for width, n in found['sizes'].items())
    return [f'Tickets have {found["weights"]:,} weights of {", ".join(sizes)}.']
  if part == 'layer':
    return [f'The layer has {found["weights"]:,} weights.']
  if part == 'supermasks':
    return [
      f'Normal weights, density {density}: the mean square of the weights that'
      ' edge-popup keeps, over that of all, is '
      + ' and '.join(
        f'{tables.spread(values)} in {layer}'
        for layer, values in layers.items()
      )
      + ' (mean ± standard deviation).'
      for density, layers in found['squares'].items()
    ]
  if part == 'extremes':
    mean, deviation, skew = (
      tables.spread(x) for x in zip(*found['moments'], strict=True)
    )
    shape = tables.spread([law[0] for law in found['laws']])
    return [
      f'Accuracy of one mask: mean {mean}, standard deviation {deviation}, skew'
      f' {skew} (± standard deviation over networks). Shape of the fitted law:'
      f' {shape}.'
    ]
  return []


def page(run: Run) -> list[str | Table]:
  pictures = {
    'draws': ('draws', 'Chance of a ticket against N'),
    'layer': ('sums', 'Errors of subset sums, and accuracy of a rebuilt layer'),
    'chi': ('chaos', 'Second moments and growth of perturbations'),
    'supermasks': ('supermasks', 'Growth under supermasks and random masks'),
    'extremes': ('extremes', 'The best of N masks beside two laws'),
    'widths': ('widths', 'Accuracy of tickets of one size over the width'),
  }
  drawn = draw_parts(run.results)
  found: list[str | Table] = []
  for result in run.results:
    found += [table(result), *filter(None, [apart(result)]), *notes(result)]
    name, text = pictures.get(result['part'], ('', ''))
    if name in drawn:
      found.append(f'![{text}]({name}.png)')
  return [*found, METAPHOR]


def terminal(run: Run) -> list[str | Table]:
  """The tables, and where formulas and measurements part."""
  found: list[str | Table] = []
  for result in run.results:
    plain = table(result)._replace(caption='')
    found += [ABOUT[result['part']], plain, *filter(None, [apart(result)])]
  return found


def curve(ax: Axes, found: list[Point], label: str, **style: Any) -> None:
  """Measured points with intervals, the formula, and rings where they part."""
  x = [point.x for point in found]
  y = [point.mean for point in found]
  half = np.nan_to_num([point.half for point in found])
  style = {'fmt': 'o', 'ms': 4, 'elinewidth': 1.2, 'capsize': 2, **style}
  ax.errorbar(x, y, half, label=label, **style)
  if found[0].formula:
    predicted = [point.predicted for point in found]
    ax.plot(x, predicted, '--', color=style.get('color'), lw=1.2)
  rings = [point for point in found if point.parts]
  ax.plot(
    [point.x for point in rings],
    [point.mean for point in rings],
    'o',
    ms=10,
    mfc='none',
    mec='0.25',
    mew=0.9,
  )


def curves(
  ax: Axes,
  result: Result,
  keep: Callable[[str], bool] = lambda name: True,
  apart: float = 0,
) -> None:
  """The curves of a part in one panel, each shifted a bit to the right."""
  by_setting: dict[str, list[Point]] = {}
  for point in points(result):
    if keep(point.setting):
      by_setting.setdefault(point.setting, []).append(point)
  for i, (name, found) in enumerate(by_setting.items()):
    found = [point._replace(x=point.x + i * apart) for point in found]
    curve(ax, found, name, color=COLORS[i % len(COLORS)])
  figures.decorate(ax)
  ax.legend(frameon=False, fontsize=8)


def draw(run: Run) -> dict[str, Figure]:
  found = draw_parts(run.results)
  for fig in found.values():
    figures.title_all(fig, f'{run.title} ({BARS})', 9)
  return found


def draw_parts(results: list[Result]) -> dict[str, Figure]:
  """The figures whose parts have been measured."""
  parts = {result['part']: result for result in results}
  drawings: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    'draws': (draw_draws, ('draws',)),
    'sums': (draw_sums, ('subsets', 'layer')),
    'chaos': (draw_chaos, ('moments', 'chi')),
    'supermasks': (draw_supermasks, ('supermasks',)),
    'extremes': (draw_extremes, ('extremes',)),
    'widths': (draw_widths, ('widths',)),
  }
  return {
    name: function(*(parts[x] for x in needs))
    for name, (function, needs) in drawings.items()
    if all(x in parts for x in needs)
  }


def draw_draws(result: Result) -> Figure:
  fig, axes = figures.panels(1, 2, (9.0, 3.9), sharey=True)
  for ax, width in zip(axes[0], ('8', '16'), strict=True):
    curves(ax, result, lambda name, width=width: name.endswith(f' {width}'))
    ax.set_xscale('log')
    ax.set_xlabel('masks drawn, N')
  axes[0, 0].set_ylabel('chance that one solves XOR')
  return fig


def draw_sums(subsets: Result, layer: Result) -> Figure:
  fig, axes = figures.panels(1, 2, (9.0, 3.9))
  curves(axes[0, 0], subsets)
  curves(axes[0, 1], layer)
  axes[0, 0].set_yscale('log')
  axes[0, 0].set_ylabel('median error')
  axes[0, 1].set_ylabel('test accuracy of the rebuilt network (%)')
  for ax in axes[0]:
    ax.set_xscale('log', base=2)
    ax.xaxis.set_major_formatter('{x:g}')
    ax.set_xlabel('random weights per target weight, n')
  return fig


def draw_chaos(moments: Result, chi: Result) -> Figure:
  fig, axes = figures.panels(1, 2, (9.0, 3.9))
  curves(axes[0, 0], moments)
  curves(axes[0, 1], chi)
  axes[0, 0].set_yscale('log')
  axes[0, 0].set_xlabel('layers of ReLU, L')
  axes[0, 0].set_ylabel('second moment, relative')
  axes[0, 1].axhline(1, color='0.6', lw=0.8)
  axes[0, 1].set_xlabel('gain of tanh layers, d s²')
  axes[0, 1].set_ylabel('growth of a perturbation, χ')
  return fig


def draw_supermasks(result: Result) -> Figure:
  fig, axes = figures.panels(1, 2, (9.0, 3.9), sharey=True)
  for ax, weights in zip(axes[0], ('normal', 'constant'), strict=True):
    curves(ax, result, lambda name, w=weights: f', {w},' in name, 0.012)
    ax.set_xlim(0, 0.6)
    ax.set_xlabel('density of the masks')
  axes[0, 0].set_ylabel('χ over mean-field theory')
  return fig


def draw_extremes(result: Result) -> Figure:
  fig, axes = figures.panels(1, 2, (9.0, 3.9))
  found = points(result)
  ax = axes[0, 0]
  for i, name in enumerate(('normal law', 'extreme value law')):
    mine = [point for point in found if point.setting == name]
    x = [point.x for point in mine]
    ax.plot(x, [p.predicted for p in mine], '--', color=COLORS[i], label=name)
    above = [
      Point(name, p.x, list(np.subtract(p.measured, p.formula)), [0.0] * n)
      for p in mine
      for n in [len(p.measured)]
    ]
    curve(axes[0, 1], above, f'measured minus {name}', color=COLORS[i])
    if not i:
      half = np.nan_to_num([p.half for p in mine])
      style = {'fmt': 'o', 'ms': 4, 'capsize': 2, 'color': '0.25'}
      ax.errorbar(x, [p.mean for p in mine], half, label='measured', **style)
  ax.set_ylabel('accuracy of the best mask (%)')
  axes[0, 1].set_ylabel('points above the law')
  for ax in axes[0]:
    ax.set_xscale('log')
    ax.set_xlabel('masks drawn, N')
    figures.decorate(ax)
    ax.legend(frameon=False, fontsize=8)
  return fig


def draw_widths(result: Result) -> Figure:
  fig, axes = figures.panels()
  ax = axes[0, 0]
  curves(ax, result)
  ax.set_xscale('log', base=2)
  ax.xaxis.set_major_formatter('{x:g}')
  ax.set_xlabel('width of the network that was pruned')
  ax.set_ylabel('test accuracy (%)')
  return fig
