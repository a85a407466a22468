"""What pruning changes in several language models."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.evaluation import _inputs
from lthjax.evaluation._language import Flips, flips
from lthjax.evaluation._refusals import Refusals


class LanguageMeasures(NamedTuple):
  """What is measured of one language model.

  Attributes:
    perplexity: by domain.
    accuracy: share of right answers to multiple choice, or of each seed;
      `None` without questions.
    flips: answers that differ from those of the dense model; `None` for the
      dense model and without questions.
    refusals: share of answers with words of refusal, by kind of prompt; `None`
      if it was not asked.
  """

  perplexity: dict[Any, Any]
  accuracy: Any = None
  flips: Flips | None = None
  refusals: dict[str, Any] | None = None


class LanguageEvaluation(NamedTuple):
  """What pruning changes in language models; `lthjax.report` shows it.

  Attributes:
    models: `LanguageMeasures` by name.
    dense: the name of the model that all others are compared with.
    questions: number of questions with several choices.
  """

  models: dict[str, LanguageMeasures]
  dense: str
  questions: int


def evaluate_language(
  perplexities: Mapping[str, Mapping[Any, Any]],
  choices: Mapping[str, Any] | None = None,
  answers: Any = None,
  refused: Mapping[str, Any] | None = None,
  *,
  dense: str = 'dense',
) -> LanguageEvaluation:
  """Compares language models with the dense one, beside mean perplexity.

  Compare with a dense model of another seed as well: two of them differ too.
  Nothing of this measures whether a model is safe.

  Args:
    perplexities: ``{model: {domain: perplexity}}``, such as those of
      `perplexity_by_domain`; arrays ``[seeds]`` for several draws or seeds.
    choices: ``{model: log-likelihoods}``, ``[questions, choices]`` or ``[seeds,
      questions, choices]``, of the same questions for all models.
    answers: integers ``[questions]``, the right choices.
    refused: ``{model: Refusals}``, or lists of them, one for each seed.
    dense: name of the dense model.

  Returns:
    A `LanguageEvaluation`, for `lthjax.report.text` and `lthjax.report.html`.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> found = lth.evaluation.evaluate_language(
    ...   {'dense': {'wiki': 8.0}, 'pruned': {'wiki': 12.0}},
    ...   {'dense': np.array([[0.0, -1.0]]), 'pruned': np.array([[-1.0, 0.0]])},
    ...   answers=np.array([0]),
    ... )
    >>> print(lth.report.text(found).splitlines()[-1])
    pruned    0.0 %  100.0 %   100.0 %     0.0 %  100.0 %
  """
  what = 'names of models to perplexities by domain'
  _checks.mapping('perplexities', perplexities, what)
  if _checks.text('dense', dense) not in perplexities:
    raise ValueError(
      f'`perplexities` has {_listed(perplexities)}, but needs the dense model'
      f' {dense!r} to compare the others with. Add it, or say which one it is:'
      ' `dense=name`.'
    )
  names, said = list(perplexities), _answers(refused, perplexities)
  numbers = {name: _perplexities(perplexities, name, dense) for name in names}
  scores, y = _choices(choices, answers, names, dense)
  found = {}
  for name in names:
    one = LanguageMeasures(numbers[name], refusals=said.get(name))
    if y is not None:
      one = _compare(one, scores[name], scores[dense], y)
      if name == dense:
        one = one._replace(flips=None)
    found[name] = one
  return LanguageEvaluation(found, dense, 0 if y is None else len(y))


def _perplexities(given: Any, name: str, dense: str) -> dict[Any, Any]:
  """Finite perplexities of one model, of the same domains as the dense one."""
  label = f'perplexities[{name!r}]'
  mine = _checks.mapping(label, given[name], 'domains to perplexities')
  of_dense = _checks.mapping('perplexities', given[dense], 'domains')
  if list(mine) != list(of_dense) or not mine:
    raise ValueError(
      f'`{label}` has {_listed(mine)}, but the dense model {_listed(of_dense)}.'
      ' Measure all models on the same domains, in the same order, and on at'
      ' least one.'
    )
  found = {}
  for domain, x in mine.items():
    place = f'{label}[{domain!r}]'
    values = np.asarray(x if np.isscalar(x) else _checks.array(place, x))
    if values.dtype.kind not in 'iuf' or values.ndim > 1 or not values.size:
      raise _checks.wrong_type(place, x, 'be a number, or an array [seeds]')
    if not (np.isfinite(values) & (values >= 1)).all():
      raise _checks.wrong_value(place, x, 'be finite and at least 1')
    found[domain] = values.astype(np.float64)[()]
  return found


def _choices(choices: Any, answers: Any, names: list[str], dense: str) -> Any:
  """Scores by model, and the right answers, or `None` without questions."""
  if choices is None and answers is None:
    return {}, None
  if choices is None or answers is None:
    missing = 'choices' if choices is None else 'answers'
    raise ValueError(
      f'`{missing}` is missing: multiple choice needs the log-likelihoods of'
      ' `choices` and the right `answers`. Pass both, or neither.'
    )
  _checks.mapping('choices', choices, 'names of models to log-likelihoods')
  if set(choices) != set(names):
    raise ValueError(
      f'`choices` has {_listed(choices)}, but must have the models'
      f' {_listed(names)}. Ask all of them the same questions.'
    )
  found = {}
  for name in names:
    label = f'choices[{name!r}]'
    x = np.asarray(_checks.array(label, choices[name]), np.float64)
    if x.ndim not in (2, 3):
      wanted = 'be [questions, choices] or [seeds, questions, choices]'
      raise _checks.wrong_type(label, choices[name], wanted)
    found[name] = x
  of_dense = found[dense]
  if not of_dense.size:
    raise ValueError(
      f'`choices[{dense!r}]` has shape {of_dense.shape}, but must hold answers:'
      ' ask at least one question.'
    )
  for name, x in found.items():
    if x.shape[-2:] != of_dense.shape[-2:] or (
      of_dense.ndim == 3 and x.shape != of_dense.shape
    ):
      raise ValueError(
        f'`choices[{name!r}]` has shape {x.shape}, but the dense model'
        f' {of_dense.shape}. Ask all models the same questions; with several'
        ' dense seeds, each model needs as many.'
      )
  y = _inputs.labels(answers, of_dense, 'answers')
  return found, y


def _compare(one: LanguageMeasures, mine, dense, y) -> LanguageMeasures:
  """Adds accuracy and flips, of each seed where there are several."""
  several = mine.ndim == 3
  pairs = [
    (x, dense[i] if dense.ndim == 3 else dense)
    for i, x in enumerate(mine if several else mine[None])
  ]
  accuracy = np.array([(x.argmax(-1) == y).mean() for x, _ in pairs])
  each = np.array([flips(x, before, y) for x, before in pairs])
  if not several:
    return one._replace(accuracy=accuracy[0], flips=Flips(*each[0].tolist()))
  return one._replace(accuracy=accuracy, flips=Flips(*each.T))


def _answers(refused: Any, models: Any) -> dict[str, dict[str, Any]]:
  """Rates of refusal by model and kind."""
  if refused is None:
    return {}
  _checks.mapping('refused', refused, 'names of models to `Refusals`')
  if unknown := [str(name) for name in refused if name not in models]:
    raise ValueError(
      f'`refused` has {_listed(unknown)}, which is not among the models.'
    )
  found: dict[str, dict[str, Any]] = {}
  first = None
  for name, x in refused.items():
    each = x if isinstance(x, list) else [x]
    if not each or not all(isinstance(one, Refusals) for one in each):
      wanted = 'be what `refusals` returned, or a list of it'
      raise _checks.wrong_type(f'refused[{name!r}]', x, wanted)
    first = list(each[0].rate) if first is None else first
    for one in each:
      if list(one.rate) != first:
        raise ValueError(
          f'`refused[{name!r}]` has the kinds {_listed(one.rate)}, but another'
          f' has {_listed(first)}. Ask all models the same prompts.'
        )
    rates = {kind: np.array([one.rate[kind] for one in each]) for kind in first}
    seeds = isinstance(x, list)
    found[name] = {k: x if seeds else float(x[0]) for k, x in rates.items()}
  return found


def _listed(names: Any) -> str:
  return ', '.join(map(str, names)) or 'nothing'
