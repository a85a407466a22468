"""What the figures of the experiments have in common."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('agg')

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lthjax import files

LINE: dict[str, Any] = {'ms': 3.5, 'lw': 1.4}
FORMATS: dict[str, dict[str, Any]] = {'png': {}, 'svg': {'Date': None}}
BAND = '(mean; dots: seeds; band: 95 % interval)'
BARS = '(mean; dots: seeds; bars: 95 % interval)'
RANGE = '(mean; band: lowest to highest)'


def panels(
  down: int = 1, across: int = 1, size: tuple[float, float] = (7.2, 4.4), **how
) -> tuple[Figure, Any]:
  """A figure and its axes, ``[down, across]``."""
  return plt.subplots(
    down, across, figsize=size, squeeze=False, layout='constrained', **how
  )


def decorate(ax: Axes) -> None:
  """Removes what is not needed to read a plot."""
  ax.spines[['top', 'right']].set_visible(False)
  ax.grid(axis='y', color='0.9', lw=0.8)


def band(ax: Axes, x: Any, y: Any, **style: Any) -> None:
  """Draws the mean of ``y[point, seed]`` in its interval, with all seeds."""
  y = np.asarray(y, float)
  mean, half = y.mean(1), np.array([half_width(values) for values in y])
  ax.plot(x, mean, 'o-', **LINE, **style)
  style.pop('label', None)
  ax.fill_between(x, mean - half, mean + half, alpha=0.15, lw=0, **style)
  _dots(ax, x, y, style.get('color'), style.get('alpha', 1))


def bars(ax: Axes, x: Any, y: Any, shown: Any = True, **style: Any) -> None:
  """Draws the mean of each point's values, with its interval and the values.

  Points that are not ``shown`` get only the mean.
  """
  mean = np.array([np.mean(values) for values in y])
  half = np.array([half_width(values) for values in y]) * shown
  style = {'fmt': 'o-', **LINE, 'elinewidth': 0.8, **style}
  ax.errorbar(x, mean, half, **style)
  shown = np.broadcast_to(shown, len(mean))
  seen = [
    np.asarray(values)[: len(values) * int(s)]
    for values, s in zip(y, shown, strict=True)
  ]
  _dots(ax, x, seen, style.get('color'), style.get('alpha', 1))


def half_width(values: Any) -> float:
  """Half of Student's 95 % interval of a mean; 0 for a single value."""
  values = np.asarray(values, float)
  if values.size < 2:
    return 0.0
  error = np.std(values, ddof=1) / np.sqrt(values.size)
  return float(scipy.stats.t.ppf(0.975, values.size - 1) * error)


def _dots(
  ax: Axes, x: Any, y: Sequence[Any], color: Any = None, alpha: float = 1
) -> None:
  """Draws all values of points that have several."""
  for place, values in zip(x, y, strict=True):
    if np.size(values) > 1:
      places = [place] * np.size(values)
      ax.plot(places, values, '.', ms=2.5, alpha=0.4 * alpha, color=color)


def log_scale(ax: Axes, ticks: Sequence[float], **base: int) -> None:
  """Makes the horizontal axis logarithmic, with plain numbers at its ticks."""
  ax.set_xscale('log', **base)
  low, high = sorted(ax.get_xlim())
  ax.set_xticks([tick for tick in ticks if low <= tick <= high])
  ax.xaxis.set_major_formatter('{x:g}')
  ax.minorticks_off()


def title(ax: Axes, text: str, size: float = 10) -> None:
  ax.set_title(text, fontsize=size, loc='left')


def title_all(fig: Figure, text: str, size: float = 10) -> None:
  fig.suptitle(text, fontsize=size, x=0.01, ha='left')


def legend(fig: Figure, axes: Any, where: str = 'lower center', **how) -> None:
  """Puts the legend of the panel with the most lines outside of all panels."""
  found = [ax.get_legend_handles_labels() for ax in np.ravel(axes)]
  handles, labels = max(found, key=lambda legend: len(legend[1]))
  how = {'frameon': False, 'fontsize': 8.5, **how}
  place: Any = f'outside {where}'
  fig.legend(handles, labels, loc=place, **how)


def save(
  fig: Figure, folder: Path, name: str, formats: Sequence[str] = ()
) -> None:
  """Writes a figure as PNG and SVG, each whole or not at all, and closes it.

  With ``formats``, only in these.
  """
  # Otherwise SVGs have random names and today's date in them.
  with matplotlib.rc_context({'svg.hashsalt': 'lthjax'}):
    for suffix in formats or FORMATS:
      drawn, metadata = io.BytesIO(), FORMATS[suffix]
      fig.savefig(drawn, format=suffix, dpi=160, metadata=metadata)
      files.write_bytes(folder / f'{name}.{suffix}', drawn.getvalue())
  plt.close(fig)
