"""Table and figures of circuits."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from common import figures, grid, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from methods.circuits import PLACES, WIRES, Circuit
from verdicts import statistics

HEAD = 'Circuits of weight-sparse decoders'
COLUMNS = (
  'model',
  'task',
  'nodes',
  'edges',
  'log2_edges',
  'whole_loss',
  'circuit_loss',
)
LABELS = {'sparse': 'weight-sparse', 'dense': 'dense twin'}
TASKS = {'quotes': 'closing a quote', 'brackets': 'counting brackets'}
COLORS = {'sparse': '#1b6ca8', 'dense': '#222222'}
SIGNS = {True: '#1b6ca8', False: '#c8553d'}
MOST = 3_000  # edges that are drawn, the largest ones


class Graph(NamedTuple):
  """A circuit, and the weights that its edges have."""

  circuit: Circuit
  weights: Any


def rows(result: Result) -> list[dict[str, Any]]:
  return grid.by_seed(result, **{name: result.get(name) for name in COLUMNS})


def find(run: Run, model: str, task: str) -> Result:
  return next(
    x for x in run.results if (x['model'], x['task']) == (model, task)
  )


def caption(run: Run) -> str:
  config = run.config
  return (
    'Nodes and edges that are left for a task, as long as its loss is below'
    f' {config.target:g}, when all other nodes have their mean over lines: mean'
    ' ± standard deviation over the seeds. Losses of the choice between two'
    ' tokens: of the whole decoder and of its circuit, on the'
    f' {config.prompts} prompts that it was found by, and on as many others,'
    ' with the share of them that are right. Where the whole decoder is above'
    ' the target, all of it is the circuit.'
  )


def page(run: Run) -> list[str | Table]:
  losses = [
    f'{LABELS[model]} {tables.spread(find(run, model, "")["test_loss"], "", 3)}'
    f' with {weights(run, model):,.0f} weights in blocks'
    for model in LABELS
  ]
  lines, ratios = [], []
  for task in run.config.tasks:
    for model in LABELS:
      one = find(run, model, task)
      lines.append(
        [
          TASKS[task],
          LABELS[model],
          tables.spread(one['nodes'], '', 0),
          tables.spread(one['edges'], '', 0),
          *(
            tables.spread(one[name], '', 3)
            for name in ('whole_loss', 'circuit_loss', 'test_loss')
          ),
          f'{tables.spread(100 * np.asarray(one["test_accuracy"]), "", 1)} %',
        ]
      )
    ratios.append(ratio(run, task))
  heads = ['task', 'decoder', 'nodes', 'edges', 'loss of the whole']
  heads += ['of the circuit', 'on others', 'right']
  return [
    f'Loss per token on the test lines: {"; ".join(losses)}.',
    *ratios,
    Table(heads, lines, caption(run), left=2),
    '![Circuits of the first seed: blue edges are positive, red ones'
    ' negative](circuits.png)',
    '![Edges of all circuits](edges.png)',
  ]


def ratio(run: Run, task: str) -> str:
  """How many times as many edges the dense twin has, seed by seed."""
  edges = {
    model: np.asarray(find(run, model, task)['log2_edges']) for model in LABELS
  }
  doublings = edges['dense'] - edges['sparse']
  mean, each = 2.0 ** np.mean(doublings), 2.0**doublings
  interval = ''
  if len(doublings) > 1:
    _, low, high = 2.0 ** np.asarray(statistics.interval(doublings))
    interval = f', 95 % interval {low:.1f} to {high:.1f}'
  share = {
    model: 100 * 2.0 ** np.mean(edges[model] - np.log2(weights(run, model)))
    for model in LABELS
  }
  return (
    f'Edges of the dense twin for {TASKS[task]}: {mean:.1f} times as many'
    f' (geometric mean{interval}; single seeds {each.min():.1f} to'
    f' {each.max():.1f}). As a share of all weights in blocks: weight-sparse'
    f' {share["sparse"]:.1f} %, dense twin {share["dense"]:.1f} %.'
  )


def weights(run: Run, model: str) -> float:
  return np.mean(find(run, model, '')['edges'])


def draw(run: Run) -> dict[str, Figure]:
  """The circuits of the first seed as graphs, and the sizes of all."""
  tasks = run.config.tasks
  fig, axes = figures.panels(len(tasks), 2, (11, 3.6 * len(tasks)))
  for across, task in zip(axes, tasks, strict=True):
    for ax, model in zip(across, LABELS, strict=True):
      found = run.measured[model, task]
      graph(ax, found, run.config)
      name = f'{TASKS[task]}, {LABELS[model]}: {found.circuit.edges:,} edges'
      figures.title(ax, name, 9)
  figures.title_all(fig, run.title)
  return {'circuits': fig, 'edges': sizes(run)}


def graph(ax: Axes, found: Graph, options: Any) -> None:
  """Draws nodes in a column for each place, and edges between them."""
  nodes = found.circuit.nodes
  columns = {f'{i}/{p}': None for i in range(options.layers) for p in PLACES}
  number = {name: x for x, name in enumerate(columns)}
  heights = {name: np.linspace(0, 1, len(mask)) for name, mask in nodes.items()}
  segments, values = [], []
  for layer, block in found.circuit.masks['edges'].items():
    for wire, (source, target) in WIRES.items():
      a, b = f'{layer}/{source}', f'{layer}/{target}'
      for i, j in np.argwhere(block[wire]['kernel'] > 0):
        ends = (number[a], heights[a][i]), (number[b], heights[b][j])
        segments.append(ends)
        values.append(found.weights[layer][wire]['kernel'][i, j])
  order = np.argsort(-np.abs(values), kind='stable')[:MOST]
  if len(order):
    strength = np.abs(values)[order] / np.max(np.abs(values))
    ax.add_collection(
      LineCollection(
        [segments[i] for i in order],
        colors=[SIGNS[bool(values[i] > 0)] for i in order],
        linewidths=0.2 + 1.2 * strength,
        alpha=0.8 if len(order) < 300 else 0.25,
      )
    )
  for name, mask in nodes.items():
    y = heights[name][mask]
    ax.plot(np.full(len(y), number[name]), y, 'o', ms=2.5, color='0.2')
  names = [name.partition('/')[2].replace('_', ' ') for name in columns]
  ax.set_xticks(range(len(names)), names, rotation=60, ha='right', fontsize=6)
  ax.set_yticks([])
  ax.set_xlim(-0.5, len(names) - 0.5)
  ax.set_ylim(-0.05, 1.05)
  ax.spines[['top', 'right', 'left']].set_visible(False)


def sizes(run: Run) -> Figure:
  """Edges of the circuits of all seeds, and of the whole decoders."""
  tasks = run.config.tasks
  fig, axes = figures.panels(1, 1, (2.4 + 1.6 * len(tasks), 3.6))
  ax = axes[0, 0]
  for side, model in zip((-0.15, 0.15), LABELS, strict=True):
    for place, task in enumerate(tasks):
      y = find(run, model, task)['edges']
      label = LABELS[model] if not place else None
      x = np.full(len(y), place + side)
      ax.plot(x, y, 'o', ms=4, color=COLORS[model], label=label)
    whole = float(np.mean(find(run, model, '')['edges']))
    ax.axhline(whole, color=COLORS[model], lw=0.8, ls='--')
  ax.set_yscale('log')
  ax.set_xticks(range(len(tasks)), [TASKS[task] for task in tasks], fontsize=8)
  ax.set_xlim(-0.6, len(tasks) - 0.4)
  ax.set_ylabel('edges (dashed: all weights of blocks)', fontsize=8)
  ax.legend(frameon=False, fontsize=8)
  figures.decorate(ax)
  figures.title_all(fig, run.title, 8)
  return fig
