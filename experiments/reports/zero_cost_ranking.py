"""Tables and figures of the comparison of zero-cost proxies."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from common import figures, grid, tables
from common.command import Run
from common.config import BaseConfig
from common.networks import Network
from common.tables import Table
from lthjax import proxies

HEAD = 'Zero-cost proxies'


class Measured(NamedTuple):
  """Everything that was found."""

  networks: list[Network]
  scores: dict[str, dict[str, float]]  # by proxy and network
  accuracies: dict[str, dict[str, list[float]]]  # by network and split
  searches: dict[str, list[list[float]]]  # by kind, repeat, networks trained

  def test(self) -> dict[str, float]:
    """Mean test accuracy of each network."""
    return {n: float(np.mean(x['test'])) for n, x in self.accuracies.items()}


HEADS = ('proxy', 'Spearman', 'Kendall', 'best, %', 'first five, %')
CAPTION = (
  'Rank correlations with the mean test accuracy of the trained networks, and'
  ' the accuracy of the network that a proxy ranks first and of the best among'
  ' its first five. num_params and multiply_adds are the baselines.'
)
SEARCH = (
  'Test accuracy of the network with the best validation accuracy so far, by'
  ' number of networks trained: mean ± standard deviation over the repeats.'
)


def rows(result: grid.Result) -> list[dict[str, Any]]:
  """One row per network and seed; scores have none."""
  found = []
  for network in result.get('networks', ()):
    name = Network(**network).name
    of_network = result['accuracies'][name]
    found += [
      {**network, 'name': name, 'seed': seed, 'validation_accuracy': x}
      | {'test_accuracy': y}
      for seed, (x, y) in enumerate(zip(*of_network.values(), strict=True))
    ]
  return found


def lines(results: Measured) -> list[list[str]]:
  test, out = results.test(), []
  for name, scores in results.scores.items():
    order = sorted(scores, key=lambda n: -scores[n])
    first = [100 * test[network] for network in order[:5]]
    rho, tau = proxies.spearman(scores, test), proxies.kendall(scores, test)
    best = (f'{x:.2f}' for x in (first[0], max(first)))
    out.append([name, f'{rho:.3f}', f'{tau:.3f}', *best])
  return out


def search_lines(results: Measured) -> list[list[str]]:
  """A row for each kind of search, with accuracy after so many trainings."""
  out = []
  for name, curves in results.searches.items():
    found = 100 * np.array(curves)
    means = (tables.spread(found[:, i]) for i in marks(found))
    out.append([name, *means])
  return out


def marks(curves: Any) -> list[int]:
  """The columns of the table of searches: trainings done, minus one."""
  trained = np.shape(curves)[1]
  return sorted({min(n, trained) - 1 for n in (1, 5, 10, 20, trained)})


def search_heads(results: Measured) -> list[str]:
  curves = next(iter(results.searches.values()))
  return ['search', *(f'after {i + 1}, %' for i in marks(curves))]


def write(
  found: Measured,
  results: list[grid.Result],
  folder: Path,
  config: BaseConfig,
) -> None:
  """Writes all numbers for programs, with the scores beside accuracies."""
  table = [
    row | {proxy: x[row['name']] for proxy, x in found.scores.items()}
    for result in results
    for row in grid.whose(rows(result), result, config)
  ]
  tables.write_csv(folder / 'results.csv', table)
  searches = (
    {'search': name, 'repeat': i, 'test_accuracy': curve}
    for name, curves in found.searches.items()
    for i, curve in enumerate(curves)
  )
  tables.write_jsonl(folder / 'searches.jsonl', searches)


def page(run: Run) -> list[str | Table]:
  found = run.measured
  return [
    Table(HEADS, lines(found), CAPTION),
    '![Test accuracy over the rank of the score](scores.png)',
    Table(search_heads(found), search_lines(found), SEARCH),
    '![Test accuracy over networks trained](search.png)',
  ]


def terminal(run: Run) -> list[str | Table]:
  return page(run)[:1]


def draw(run: Run) -> dict[str, Figure]:
  found, title = run.measured, run.title
  return {'scores': scatter(found, title), 'search': searches(found, title)}


def scatter(results: Measured, title: str) -> Figure:
  """Draws accuracy over the rank of the score, a panel per proxy."""
  columns = min(5, len(results.scores))
  height = -(-len(results.scores) // columns)
  size = (2.3 * columns, 2.4 * height + 0.3)
  fig, axes = figures.panels(height, columns, size, sharey=True)
  test = results.test()
  y = 100 * np.array([test[network.name] for network in results.networks])
  shallow = min(results.networks).depth
  deep = np.array([n.depth > shallow for n in results.networks])
  see = np.array([n.kernel > 1 for n in results.networks])
  shown = zip(axes.flat, results.scores.items(), strict=False)
  for ax, (name, scores) in shown:
    x = stats.rankdata([scores[network.name] for network in results.networks])
    for chosen, color, marker, label in (
      (~deep & ~see, 'C0', 'o', 'shallow'),
      (deep & ~see, 'C1', 'o', 'deep'),
      (~deep & see, 'C0', '^', 'shallow, sees neighbors'),
      (deep & see, 'C1', '^', 'deep, sees neighbors'),
    ):
      style: Any = {'marker': marker, 'label': label, 'alpha': 0.8}
      ax.scatter(x[chosen], y[chosen], 12, color, **style)
    rho = proxies.spearman(scores, test)
    figures.title(ax, f'{name}  ({rho:.2f})', 9)
    ax.spines[['top', 'right']].set_visible(False)
    ax.set_xticks([])
  for ax in axes.flat[len(results.scores) :]:
    ax.set_visible(False)
  for ax in axes[:, 0]:
    ax.set_ylabel('test accuracy (%)', fontsize=8)
  fig.supxlabel('rank of the score, the best on the right', fontsize=9)
  figures.title_all(fig, f'{title} (Spearman correlation)')
  figures.legend(fig, axes[0, 0], 'upper right', ncols=4, fontsize=8)
  return fig


def searches(results: Measured, title: str) -> Figure:
  """Draws the best accuracy so far over networks trained."""
  fig, axes = figures.panels(size=(6.4, 4))
  ax = axes[0, 0]
  colors: dict[str, str] = {}
  for name, curves in results.searches.items():
    found = 100 * np.array(curves)
    trained = 1 + np.arange(found.shape[1])
    alone = len(found) == 1
    # A proxy has one color, alone or before a search.
    kind = name.removeprefix('by ').removesuffix(' alone')
    kind = kind.removeprefix('Bayesian after ')
    color = colors.setdefault(kind, f'C{len(colors)}')
    ax.plot(trained, found.mean(0), ':' if alone else '-', c=color, label=name)
    if not alone:
      low, high = np.quantile(found, (0.25, 0.75), axis=0)
      ax.fill_between(trained, low, high, color=color, alpha=0.12, lw=0)
  ax.xaxis.set_major_locator(MaxNLocator(integer=True))
  ax.set_xlabel('networks trained')
  ax.set_ylabel('test accuracy of the best so far (%)')
  figures.title(ax, f'{title} (mean; bands: quartiles)')
  figures.decorate(ax)
  ax.legend(frameon=False, fontsize=8.5)
  return fig
