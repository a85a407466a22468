"""What the comparison of zero-cost proxies shows and writes."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import rich.table
from matplotlib.ticker import MaxNLocator
from scipy import stats

from common import running
from common.networks import Network
from lthjax import proxies


class Results(NamedTuple):
  """Everything that was found."""

  folder: Path
  networks: list[Network]
  scores: dict[str, dict[str, float]]
  """By proxy and network."""
  accuracies: dict[str, dict[str, list[float]]]
  """By network and split, of every seed."""
  searches: dict[str, list[list[float]]]
  """Test accuracy by kind of search, repeat, and networks trained."""

  def test(self) -> dict[str, float]:
    """Mean test accuracy of each network."""
    return {n: float(np.mean(x['test'])) for n, x in self.accuracies.items()}


HEADS = ('proxy', 'Spearman', 'Kendall', 'best, %', 'first five, %')
CAPTION = (
  'Rank correlations with the mean test accuracy of the trained networks, and'
  ' the accuracy of the network that a proxy holds for the best one and of the'
  ' best among its first five. num_params and multiply_adds are the baselines.'
)


def rows(results: Results) -> list[list[str]]:
  """A row of the tables for people for each proxy."""
  test, out = results.test(), []
  for name, scores in results.scores.items():
    order = sorted(scores, key=lambda n: -scores[n])
    first = [100 * test[network] for network in order[:5]]
    rho, tau = proxies.spearman(scores, test), proxies.kendall(scores, test)
    numbers = (
      f'{rho:.3f}',
      f'{tau:.3f}',
      f'{first[0]:.2f}',
      f'{max(first):.2f}',
    )
    out.append([name, *numbers])
  return out


def search_rows(results: Results) -> list[list[str]]:
  """A row for each kind of search, with accuracy after so many trainings."""
  out = []
  for name, curves in results.searches.items():
    found = 100 * np.array(curves)
    mean, std = found.mean(0), found.std(0)
    out.append([name, *(f'{mean[i]:.2f} ± {std[i]:.2f}' for i in marks(found))])
  return out


def marks(curves: Any) -> list[int]:
  """After how many trainings, less one, a table looks at a search."""
  trained = np.shape(curves)[1]
  return sorted({min(n, trained) - 1 for n in (1, 5, 10, 20, trained)})


def search_heads(results: Results) -> list[str]:
  """The head of the table of searches."""
  curves = next(iter(results.searches.values()))
  return ['search', *(f'after {i + 1}, %' for i in marks(curves))]


def write(results: Results) -> None:
  """Writes all numbers for programs."""
  columns = [*Network._fields, 'name', 'seed', 'test_accuracy', *results.scores]
  running.write_csv(
    results.folder / 'summary.csv',
    columns,
    (
      network._asdict()
      | {name: scores[network.name] for name, scores in results.scores.items()}
      | {'name': network.name, 'seed': seed, 'test_accuracy': accuracy}
      for network in results.networks
      for seed, accuracy in enumerate(results.accuracies[network.name]['test'])
    ),
  )
  running.write_jsonl(
    results.folder / 'metrics.jsonl',
    (
      {'search': name, 'repeat': i, 'test_accuracy': curve}
      for name, curves in results.searches.items()
      for i, curve in enumerate(curves)
    ),
  )


def table(results: Results) -> rich.table.Table:
  """The correlations, for the terminal."""
  out = rich.table.Table(caption=CAPTION)
  for head in HEADS:
    out.add_column(head, justify='left' if head == 'proxy' else 'right')
  for row in rows(results):
    out.add_row(*row)
  return out


def markdown(results: Results, title: str, seeds: int) -> None:
  """Writes all results as a page, with where they come from."""
  running.write_page(
    results.folder / 'results.md',
    f'Zero-cost proxies: {title}',
    seeds,
    CAPTION,
    running.markdown_table(HEADS, rows(results)),
    '![Test accuracy over the rank of the score](scores.png)',
    'Test accuracy of the network with the best validation accuracy so far, by'
    ' how many were trained: mean ± standard deviation over the repeats.',
    running.markdown_table(search_heads(results), search_rows(results)),
    '![Test accuracy over networks trained](search.png)',
  )


def figures(results: Results, title: str) -> None:
  """Draws what the tables say."""
  scatter(results, title)
  searches(results, title)


def scatter(results: Results, title: str) -> None:
  """Draws accuracy over the rank of the score, a panel a proxy."""
  columns = min(5, len(results.scores))
  height = -(-len(results.scores) // columns)
  fig, axes = plt.subplots(
    height,
    columns,
    figsize=(2.3 * columns, 2.4 * height + 0.3),
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  test = results.test()
  y = 100 * np.array([test[network.name] for network in results.networks])
  deep = np.array(
    [n.depth > min(results.networks).depth for n in results.networks]
  )
  see = np.array([n.kernel > 1 for n in results.networks])
  for ax, (name, scores) in zip(
    axes.flat, results.scores.items(), strict=False
  ):
    x = stats.rankdata([scores[network.name] for network in results.networks])
    for chosen, color, marker, label in (
      (~deep & ~see, 'C0', 'o', 'shallow'),
      (deep & ~see, 'C1', 'o', 'deep'),
      (~deep & see, 'C0', '^', 'shallow, sees neighbours'),
      (deep & see, 'C1', '^', 'deep, sees neighbours'),
    ):
      ax.scatter(
        *(x[chosen], y[chosen], 12, color),
        marker=marker,
        label=label,
        alpha=0.8,
      )
    rho = proxies.spearman(scores, test)
    ax.set_title(f'{name}  ({rho:.2f})', fontsize=9, loc='left')
    ax.spines[['top', 'right']].set_visible(False)
    ax.set_xticks([])
  for ax in axes.flat[len(results.scores) :]:
    ax.set_visible(False)
  for ax in axes[:, 0]:
    ax.set_ylabel('test accuracy (%)', fontsize=8)
  fig.supxlabel('rank of the score, the best on the right', fontsize=9)
  fig.suptitle(
    f'{title} (Spearman correlation)', fontsize=10, x=0.01, ha='left'
  )
  fig.legend(
    *axes[0, 0].get_legend_handles_labels(),
    loc='outside upper right',
    ncols=4,
    frameon=False,
    fontsize=8,
  )
  running.save_figure(fig, results.folder, 'scores')
  plt.close(fig)


def searches(results: Results, title: str) -> None:
  """Draws the best accuracy so far over networks trained."""
  fig, ax = plt.subplots(figsize=(6.4, 4), layout='constrained')
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
  ax.set_title(f'{title} (mean; bands: quartiles)', fontsize=10, loc='left')
  running.decorate(ax)
  ax.legend(frameon=False, fontsize=8.5)
  running.save_figure(fig, results.folder, 'search')
  plt.close(fig)
