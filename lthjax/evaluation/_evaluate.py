"""All measures of several networks on one set of examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.evaluation import _inputs
from lthjax.evaluation._calibration import (
  brier,
  ece,
  fit_temperature,
  log_loss,
  overconfidence,
  temper,
)
from lthjax.evaluation._churn import Exemplars, churn, exemplars
from lthjax.evaluation._groups import Groups, accuracy, accuracy_by_group
from lthjax.evaluation._shifts import Shift, mean_corruption_error
from lthjax.evaluation._smooth import smooth_ece
from lthjax.evaluation._timing import Latency
from lthjax.evaluation.corruptions import Corruption

Network = Callable[[Any], Any]


class Measures(NamedTuple):
  """What is measured of one network, or of several seeds of it, ``[...]``.

  Attributes:
    accuracy: share of right predictions.
    ece: expected calibration error, 15 bins of equal width.
    ece_equal_mass: likewise, with bins of equally many examples.
    smooth_ece: likewise, without bins.
    brier: Brier's score.
    log_loss: in nats.
    overconfidence: mean confidence minus accuracy.
    temperature: fitted on the held-out examples, or `None` without them.
    tempered_ece: the calibration error at that temperature, or `None`.
    churn: share of predictions that differ from those of the dense network of
      the same seed; `None` for the dense network.
    groups: accuracy by class or group.
    exemplars: examples that most seeds predict differently from most dense
      networks; `None` without several seeds, and for the dense network.
    shifts: accuracy and calibration under each shift.
    corruption_error: mean error under shifts, relative to that of the mean
      dense network; `None` without shifts.
    latency: by batch size, if it was given.
  """

  accuracy: Any
  ece: Any
  ece_equal_mass: Any
  smooth_ece: Any
  brier: Any
  log_loss: Any
  overconfidence: Any
  temperature: Any
  tempered_ece: Any
  churn: Any
  groups: Groups
  exemplars: Exemplars | None
  shifts: dict[str, Shift]
  corruption_error: Any = None
  latency: Mapping[int, Latency] | None = None


class Evaluation(NamedTuple):
  """What pruning changes beside accuracy; `lthjax.report` shows it.

  Attributes:
    models: `Measures` by name.
    dense: the name of the network that all others are compared with.
    dense_churn: churn between dense networks of two seeds, for each seed and
      the next one; `None` if there is one seed only.
    examples: number of examples.
    severities: of the shifts.
  """

  models: dict[str, Measures]
  dense: str
  dense_churn: Any
  examples: int
  severities: tuple[int, ...]


def evaluate(
  models: Mapping[str, Network],
  data: tuple[Any, Any],
  groups: Any = None,
  shifts: Mapping[str, Corruption] | None = None,
  *,
  dense: str = 'dense',
  held_out: tuple[Any, Any] | None = None,
  severities: Sequence[int] = (1, 2, 3, 4, 5),
  seed: int = 0,
  latency: Mapping[str, Mapping[int, Latency]] | None = None,
) -> Evaluation:
  """Measures what pruning changes beside accuracy.

  Compare with a dense network of another seed, and with several seeds of all:
  two dense networks differ too.

  Args:
    models: ``{name: f}``; ``f(inputs)`` returns probabilities ``[examples,
      classes]``, or ``[seeds, examples, classes]``. One is the dense network.
    data: inputs and labels, such as ``dataset.test``.
    groups: integers or strings, one for each example; by default the labels.
    shifts: ``{name: shift}``, each called as
      ``shift(inputs, severity, seed=seed)``, such as
      `lthjax.evaluation.corruptions.ALL`.
    dense: name of the dense network.
    held_out: other inputs and labels, on which temperatures are fitted.
    severities: of the shifts, from 1 to 5.
    seed: of the shifts; all networks see the same inputs.
    latency: what `lthjax.evaluation.latency` returned for some of the networks.

  Returns:
    An `Evaluation`, for `lthjax.report.text` and `lthjax.report.html`.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> inputs, labels = np.eye(3), np.arange(3)
    >>> models = {
    ...   'dense': lambda x: 0.1 + 0.7 * x,
    ...   'ticket': lambda x: 0.3 + 0.1 * x,
    ... }
    >>> found = lth.evaluation.evaluate(models, (inputs, labels))
    >>> {name: round(float(x.ece), 3) for name, x in found.models.items()}
    {'dense': 0.2, 'ticket': 0.6}
  """
  _check_models(models, dense)
  inputs, labels = _pair('data', data)
  held = None if held_out is None else _pair('held_out', held_out)
  if shifts is None:
    shifts = {}
  _checks.mapping('shifts', shifts, 'names to shifts of inputs')
  for name, shift in shifts.items():
    _checks.function(f'shifts[{name!r}]', shift, '(inputs, severity, seed=0)')
  severities = _inputs.severities(severities)
  seed = _checks.at_least('seed', seed, 0)
  _check_latency(latency, models)
  if groups is not None:  # Before networks run.
    groups = _inputs.groups(groups, len(labels))

  said = {name: _call(models[name], name, inputs) for name in models}
  fit = {name: _call(models[name], name, held[0]) for name in models if held}
  under = _shifted(models, (inputs, labels), shifts, severities, seed)
  found = {}
  for name, p in said.items():
    one = _measure(p, labels, groups, fit.get(name), held and held[1])
    if name != dense:
      one = _compare(one, p, said[dense], labels)
    of_dense = under[dense] if under else {}
    found[name] = one._replace(
      shifts=under.get(name, {}),
      corruption_error=_relative(under.get(name, {}), of_dense),
      latency=(latency or {}).get(name),
    )
  between = _between_seeds(said[dense])
  return Evaluation(found, dense, between, len(labels), severities)


def _measure(p, labels, groups, held_out, held_out_labels) -> Measures:
  """Everything about one network that needs no other."""
  temperature = tempered = None
  if held_out is not None:
    temperature = fit_temperature(held_out, held_out_labels)
    tempered = ece(temper(p, temperature), labels)
  return Measures(
    accuracy=accuracy(p, labels),
    ece=ece(p, labels),
    ece_equal_mass=ece(p, labels, equal_mass=True),
    smooth_ece=smooth_ece(p, labels),
    brier=brier(p, labels),
    log_loss=log_loss(p, labels),
    overconfidence=overconfidence(p, labels),
    temperature=temperature,
    tempered_ece=tempered,
    churn=None,
    groups=accuracy_by_group(p, labels, groups),
    exemplars=None,
    shifts={},
  )


def _compare(one: Measures, p, dense, labels) -> Measures:
  """Adds churn and exemplars, which are relative to the dense network."""
  several = p.ndim == 3 and dense.ndim == 3 and min(len(p), len(dense)) > 1
  return one._replace(
    churn=churn(p, dense),
    exemplars=exemplars(p, dense, labels) if several else None,
  )


def _between_seeds(p: np.ndarray) -> Any:
  """Churn between dense networks of each seed and the next one."""
  if p.ndim < 3 or len(p) < 2:
    return None
  after = np.roll(p, -1, 0)
  pairs = slice(1) if len(p) == 2 else slice(None)  # Two seeds are one pair.
  return churn(p, after)[pairs]


def _shifted(models, data, shifts, severities, seed):
  """Accuracy and calibration of each network under each shift."""
  inputs, labels = data
  found = {name: {} for name in models} if shifts else {}
  for shift_name, shift in shifts.items():
    kept: dict[str, list[tuple[Any, Any]]] = {name: [] for name in models}
    for severity in severities:
      moved = shift(inputs, severity, seed=seed)
      for name in models:
        p = _call(models[name], name, moved)
        kept[name].append((accuracy(p, labels), ece(p, labels)))
    for name, pairs in kept.items():
      both = (np.stack(x, -1) for x in zip(*pairs, strict=True))
      found[name][shift_name] = Shift(*both)
  return found


def _relative(mine: dict[str, Shift], dense: dict[str, Shift]) -> Any:
  """Errors relative to the mean of the dense seeds."""
  if not mine:
    return None
  errors = {name: 1 - x.accuracy for name, x in mine.items()}
  of_dense = {
    name: np.mean(1 - x.accuracy.reshape(-1, x.accuracy.shape[-1]), 0)
    for name, x in dense.items()
  }
  if any(x.sum() == 0 for x in of_dense.values()):
    return np.full(np.shape(errors[next(iter(errors))])[:-1], np.nan)[()]
  return mean_corruption_error(errors, of_dense)


def _call(f: Network, name: str, inputs: Any) -> np.ndarray:
  p = np.asarray(f(inputs))
  _inputs.probabilities(p, f'models[{name!r}](inputs)')
  if p.ndim > 3 or p.shape[-2] != len(inputs):
    raise ValueError(
      f'models[{name!r}] returned the shape {p.shape} for {len(inputs)} inputs,'
      ' but must return probabilities [examples, classes] or [seeds, examples,'
      ' classes].'
    )
  return p


def _pair(name: str, x: Any) -> tuple[Any, np.ndarray]:
  if not isinstance(x, tuple) or len(x) != 2:
    raise _checks.wrong_type(name, x, 'be a pair, (inputs, labels)')
  inputs, labels = x[0], _inputs.labels(x[1], name=f'labels of `{name}`')
  if not np.shape(inputs) or not len(labels):
    raise _checks.wrong_type(name, x, 'have an array of inputs and labels')
  _inputs.same_length(
    f'labels of {name}',
    len(labels),
    len(inputs),
    'Give each of them one label.',
  )
  return inputs, labels


def _check_models(models: Any, dense: Any) -> None:
  _checks.mapping('models', models, 'names to functions of inputs')
  for name, f in models.items():
    _checks.function(f'models[{name!r}]', f, '(inputs)')
  if _checks.text('dense', dense) not in models:
    raise ValueError(
      f'`models` has {", ".join(map(str, models)) or "nothing"}, but needs the'
      f' dense network {dense!r} to compare the others with. Add it, or say'
      ' which one it is: `dense=name`.'
    )


def _check_latency(latency: Any, models: Mapping[str, Any]) -> None:
  if latency is None:
    return
  _checks.mapping('latency', latency, 'names of networks to times')
  if unknown := [name for name in latency if name not in models]:
    raise ValueError(
      f'`latency` has {", ".join(map(str, unknown))}, which is not among the'
      ' models.'
    )
