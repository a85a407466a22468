"""Tables and sentences about what pruning changes in language models."""

from typing import Any

import numpy as np

from lthjax.evaluation import LanguageEvaluation
from lthjax.report._evaluation import number, percent
from lthjax.report._tables import Cell, Table


def headline(found: LanguageEvaluation) -> str:
  """Returns a line about what was evaluated, and on how much."""
  domains = list(found.models[found.dense].perplexity)
  asked = f', {found.questions:,} questions' if found.questions else ''
  several = any(
    np.size(x) > 1 for one in found.models.values()
    for x in (*one.perplexity.values(), one.accuracy)
  )  # fmt: skip
  models = 'model' if len(found.models) == 1 else 'models'
  spread = ' Mean ± standard deviation over seeds.' if several else ''
  return (
    f'{len(found.models)} language {models} on {", ".join(map(str, domains))}'
    f'{asked}; {found.dense!r} is the dense one.{spread}'
  )


def tables(found: LanguageEvaluation) -> list[Table]:
  """Returns all tables that there is something for."""
  parts = [_perplexity(found), _flips(found), _refusals(found)]
  return [table for table in parts if table is not None]


def relative(found: LanguageEvaluation) -> dict[str, dict[Any, Any]]:
  """Returns perplexities over those of the dense model, by model and domain."""
  dense = found.models[found.dense].perplexity
  return {
    name: {k: x / np.mean(dense[k]) for k, x in one.perplexity.items()}
    for name, one in found.models.items()
    if name != found.dense
  }


def _perplexity(found: LanguageEvaluation) -> Table:
  dense, ratios = found.models[found.dense].perplexity, relative(found)
  rows = []
  for name, one in found.models.items():
    row = [Cell(name)]
    for domain, x in one.perplexity.items():
      cell = number(x, digits=2)
      row.append(cell)
      if ratios:
        ratio = ratios.get(name, {}).get(domain)
        row.append(number(ratio, digits=2))
    rows.append(tuple(row))
  header = ['model']
  for domain in dense:
    header += [str(domain), *(['times'] if ratios else [])]
  return Table(
    'Perplexity',
    'By domain; times: relative to the dense model.'
    if ratios
    else 'By domain.',
    tuple(header),
    rows,
  )


def _flips(found: LanguageEvaluation) -> Table | None:
  if not found.questions:
    return None
  rows = []
  for name, one in found.models.items():
    parts = [None] * 4 if one.flips is None else list(one.flips)
    rows.append((Cell(name), percent(one.accuracy), *map(percent, parts)))
  return Table(
    'Multiple choice',
    f'Of {found.questions:,} questions, the share that is answered right.'
    ' Turned: answers that were right and are wrong now, or the other way,'
    ' which cancel in accuracy. Changed: another answer than the dense model,'
    ' right or wrong. Two dense models of different seeds differ too.',
    ('model', 'right', 'turned', 'to wrong', 'to right', 'changed'),
    rows,
  )


def _refusals(found: LanguageEvaluation) -> Table | None:
  asked = {n: x.refusals for n, x in found.models.items() if x.refusals}
  if not asked:
    return None
  kinds = list(next(iter(asked.values())))
  dense = asked.get(found.dense)
  rows = [
    (
      Cell(name),
      *(percent(rates[kind]) for kind in kinds),
      percent(
        None
        if dense is None or name == found.dense
        else _mean(rates) - _mean(dense),
        '+',
      ),
    )
    for name, rates in asked.items()
  ]
  return Table(
    'Refusals',
    'Answers with words of refusal, by kind of prompt; beyond: the mean over'
    ' kinds minus that of the dense model. Keywords find a change of behavior;'
    ' they are no measure of safety.',
    ('model', *kinds, 'beyond'),
    rows,
  )


def _mean(rates: dict[str, Any]) -> Any:
  return np.mean([np.mean(x) for x in rates.values()])
