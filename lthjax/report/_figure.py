"""A report as one figure of matplotlib, which is imported on use."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lthjax.evaluation import Evaluation, LanguageEvaluation
from lthjax.report import _language, _tables
from lthjax.report._capacity import Capacity
from lthjax.report._leaves import label

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

Panel = Callable[[Any], None]
_ALIVE, _PRUNED = '#1b6ca8', '#e9a03b'
# Names may hold dollar signs.
_NAMES: dict[str, Any] = {'fontsize': 8, 'parse_math': False}


def figure(found: Capacity | Evaluation | LanguageEvaluation) -> 'Figure':
  """Draws a report side by side.

  Args:
    found: what `lthjax.report.capacity`, `lthjax.evaluation.evaluate` or
      `lthjax.evaluation.evaluate_language` returned.

  Returns:
    A figure; ``figure(found).savefig('capacity.png')`` writes it. It has one
    panel for each part of the report: density, inputs, movement and overlap;
    or accuracy, calibration, the worst group, churn and shifts; or perplexity,
    turned answers and refusals; with standard deviations over seeds.

  Raises:
    ImportError: if matplotlib is missing.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'fc': jnp.array([[True, False], [False, False]])}
    >>> fig = lth.report.figure(lth.report.capacity(masks, input_layers='fc'))
    >>> [ax.get_title(loc='left') for ax in fig.axes]
    ['density (%)', 'alive weights by input', '']
  """
  if isinstance(found, Evaluation):
    panels, rows = _of_evaluation(found), len(found.models)
  elif isinstance(found, LanguageEvaluation):
    columns = _language_columns(found)
    panels = [functools.partial(_bars, *x) for x in columns.items() if x[1]]
    if not panels:
      raise ValueError(
        'There is nothing to draw: bars compare models with the dense one, and'
        ' there is no other. Evaluate pruned models, too, or use'
        ' `lthjax.report.text`.'
      )
    rows = max(map(len, columns.values()))
  else:
    _tables.check(found)
    panels, rows = _of_capacity(found), len(found.layers)
  try:
    from matplotlib.figure import Figure
  except ModuleNotFoundError as error:
    raise ImportError(
      '`lthjax.report.figure` draws with matplotlib, which is not installed:'
      ' run `pip install matplotlib`, or use `lthjax.report.html`, which needs'
      ' nothing.'
    ) from error
  # Room for one bar per row.
  height = max(3.2, 0.8 + 0.28 * rows)
  fig = Figure(figsize=(4.4 * len(panels), height), layout='constrained')
  axes = fig.subplots(1, len(panels), squeeze=False)[0]
  for draw, ax in zip(panels, axes, strict=True):
    draw(ax)
  return fig


def _of_capacity(found: Capacity) -> list[Panel]:
  drawn = [_density]
  drawn += [_inputs] if found.saliency is not None else []
  drawn += [_movement] if found.movement is not None else []
  drawn += [_overlap] if found.overlaps is not None else []
  return [functools.partial(draw, found) for draw in drawn]


def _of_evaluation(found: Evaluation) -> list[Panel]:
  models = found.models
  columns = {
    'accuracy (%)': {n: 100 * x.accuracy for n, x in models.items()},
    'calibration error': {n: x.ece for n, x in models.items()},
    'worst group (%)': {n: 100 * x.groups.worst for n, x in models.items()},
    'other predictions than dense (%)': {
      n: 100 * x.churn for n, x in models.items() if x.churn is not None
    },
  }
  if found.dense_churn is not None:
    columns['other predictions than dense (%)'] |= {
      'dense, two seeds': 100 * found.dense_churn
    }
  panels: list[Panel] = [
    functools.partial(_bars, title, values)
    for title, values in columns.items()
    if values
  ]
  if models[found.dense].shifts:
    panels.append(functools.partial(_shifts, found))
  return panels


def _language_columns(found: LanguageEvaluation) -> dict[str, dict[str, Any]]:
  """Values by model, and by domain or kind of prompt."""
  models = found.models
  return {
    'perplexity over that of the dense model': {
      f'{name}, {domain}': x
      for name, ratios in _language.relative(found).items()
      for domain, x in ratios.items()
    },
    'turned answers (%)': {
      n: 100 * np.asarray(x.flips.rate)
      for n, x in models.items()
      if x.flips is not None
    },
    'refusals (%)': {
      f'{name}, {kind}': 100 * x
      for name, one in models.items()
      for kind, x in (one.refusals or {}).items()
    },
  }


def _bars(title: str, values: dict[str, Any], ax: 'Axes') -> None:
  """Means over seeds, with standard deviations."""
  each = [np.ravel(x) for x in values.values()]
  spread = [x.std(ddof=1) if x.size > 1 else 0.0 for x in each]
  places = np.arange(len(each))
  bars = ax.barh(
    places, [x.mean() for x in each], xerr=spread, color=_ALIVE, ecolor='0.5'
  )
  ax.bar_label(bars, fmt='%.3g', padding=3, fontsize=8)
  ax.margins(x=0.2)
  _name_rows(ax, list(values))
  ax.set_title(title, loc='left', fontsize=10)


def _shifts(found: Evaluation, ax: 'Axes') -> None:
  for name, x in found.models.items():
    accuracy = [100 * shift.accuracy for shift in x.shifts.values()]
    flat = np.mean(accuracy, 0).reshape(-1, len(found.severities))
    ax.plot(found.severities, flat.mean(0), '.-', label=label(name))
  ax.set_xlabel('severity', fontsize=8)
  ax.set_xticks(found.severities)
  ax.legend(frameon=False, fontsize=8)
  ax.spines[['top', 'right']].set_visible(False)
  ax.set_title('accuracy under shifts (%)', loc='left', fontsize=10)


def _density(found: Capacity, ax: 'Axes') -> None:
  some = [layer for layer in found.layers if layer.shape is not None]
  places = np.arange(len(some))
  bars = ax.barh(places, [100 * x.density for x in some], color=_ALIVE)
  ax.bar_label(bars, fmt='%.2f', padding=3, fontsize=8)
  ax.set_xlim(0, 118)  # Room for the label of a full bar.
  ax.set_xticks([0, 25, 50, 75, 100])
  _name_rows(ax, [layer.name for layer in some])
  ax.set_title('density (%)', loc='left', fontsize=10)


def _inputs(found: Capacity, ax: 'Axes') -> None:
  assert found.saliency is not None
  drawn = ax.imshow(_tables.picture(found.saliency), aspect='auto', vmin=0)
  ax.set_aspect('equal' if found.saliency.ndim > 1 else 'auto')
  ax.set_axis_off()
  what = 'paths' if len(found.input_layers) > 1 else 'alive weights'
  ax.set_title(f'{what} by input', loc='left', fontsize=10)
  ax.figure.colorbar(drawn, ax=ax, shrink=0.8)


def _movement(found: Capacity, ax: 'Axes') -> None:
  assert found.movement is not None
  pairs = np.array(list(found.movement.values()))
  places = np.arange(len(pairs))
  ax.barh(places - 0.2, pairs[:, 0], 0.38, color=_ALIVE, label='alive')
  ax.barh(places + 0.2, pairs[:, 1], 0.38, color=_PRUNED, label='pruned')
  _name_rows(ax, list(found.movement))
  ax.legend(frameon=False, fontsize=8)
  ax.set_title('mean distance moved', loc='left', fontsize=10)


def _overlap(found: Capacity, ax: 'Axes') -> None:
  assert found.overlaps is not None
  names, total = found.overlaps.names, found.overlaps.total
  ax.imshow(total, cmap='Blues', vmin=0, vmax=1)
  for (i, j), x in np.ndenumerate(total):
    # Legible on the dark end of the color map.
    color = 'white' if x > 0.6 else 'black'
    ax.text(j, i, f'{x:.2f}', ha='center', va='center', color=color, fontsize=8)
  places = range(len(names))
  ax.set_xticks(places, names, rotation=45, ha='right', **_NAMES)
  ax.set_yticks(places, names, **_NAMES)
  ax.set_title('overlap of masks', loc='left', fontsize=10)


def _name_rows(ax: 'Axes', names: list[str]) -> None:
  """Names the bars, the first one on top."""
  ax.set_yticks(range(len(names)), list(map(label, names)), **_NAMES)
  ax.invert_yaxis()
  ax.spines[['top', 'right']].set_visible(False)
