"""Tables and figure of what pruning changes in a language model."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

import lthjax as lth
from common import grid, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from methods.one_shot import METHODS

HEAD = 'Beyond perplexity'


def label(kind: str, sparsity: float) -> str:
  """What a decoder is called."""
  dense = {'dense': 'dense', 'again': 'dense, another seed'}
  if kind in dense:
    return dense[kind]
  name: Any = kind
  return f'{METHODS[name].label} {100 * sparsity:g} %'


def rows(result: Result) -> list[dict[str, Any]]:
  columns = {
    f'perplexity_{name}': [one[name] for one in result['perplexity']]
    for name in result['perplexity'][0]
  }
  columns |= {
    f'refusals_{kind}': [one[kind] for one in result['refusals']]
    for kind in result['refusals'][0]
  }
  names = {x: result[x] for x in ('kind', 'sparsity')}
  return grid.by_seed(result, **names, **columns)


def page(run: Run) -> list[str | Table]:
  return [
    *terminal(run),
    '![Perplexity, turned answers and refusals](beyond_perplexity.png)',
  ]


def terminal(run: Run) -> list[str | Table]:
  found = run.measured
  return [perplexity(found), flips(found), refusals(found, run)]


def perplexity(found: lth.evaluation.LanguageEvaluation) -> Table:
  dense = found.models[found.dense].perplexity
  lines = []
  for name, one in found.models.items():
    line = [name]
    for domain, x in one.perplexity.items():
      ratio = np.mean(x) / np.mean(dense[domain])
      line += [tables.spread(x), f'{ratio:.2f}']
    lines.append(line)
  heads = [x for name in dense for x in (name.replace('_', ' '), 'times')]
  caption = (
    'Perplexity by domain, mean ± standard deviation over draws of calibration'
    ' data, and relative to the dense decoder.'
  )
  return Table(['decoder', *heads], lines, caption)


def flips(found: lth.evaluation.LanguageEvaluation) -> Table:
  lines = []
  for name, one in found.models.items():
    turned = ['–'] * 4
    if one.flips is not None:
      turned = [percent(x) for x in one.flips]
    lines.append([name, percent(one.accuracy), *turned])
  caption = (
    f'Of {found.questions} questions for the true continuation among four, in'
    ' %: answered right; turned from right to wrong or back; changed, right or'
    ' wrong.'
  )
  heads = ['decoder', 'right', 'turned', 'to wrong', 'to right', 'changed']
  return Table(heads, lines, caption)


def refusals(found: lth.evaluation.LanguageEvaluation, run: Run) -> Table:
  lines = []
  for (name, one), result in zip(
    found.models.items(), run.results, strict=True
  ):
    rates = one.refusals or {}
    said = ' '.join(result['answers'][0]['borderline'].split())
    lines.append([name, *map(percent, rates.values()), short(said)])
  kinds = list(found.models[found.dense].refusals or {})
  caption = (
    'Answers with words of refusal in %, 20 prompts of each kind, and how the'
    ' first answer to a borderline one begins. Keywords find a change of'
    ' behavior; they are no measure of safety.'
  )
  return Table(['decoder', *kinds, 'begins'], lines, caption)


def short(text: str, most: int = 60) -> str:
  """The start of a text."""
  return text if len(text) <= most else f'{text[:most]}…'


def percent(x: Any) -> str:
  return tables.spread(100 * np.asarray(x), digits=1)


def draw(run: Run) -> dict[str, Figure]:
  """The figure of the library's report."""
  return {'beyond_perplexity': lth.report.figure(run.measured)}
