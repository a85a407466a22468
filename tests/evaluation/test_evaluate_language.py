"""Several language models against the dense one, and the report of it."""

import re

import numpy as np
import pytest

from lthjax import evaluation as ev
from lthjax import report

# Two questions with three choices; the right ones are 0 and 2.
DENSE = np.array([[0.0, -1.0, -2.0], [0.0, -1.0, -2.0]])  # right, wrong
PRUNED = np.array([[-1.0, 0.0, -2.0], [-3.0, -1.0, 0.0]])  # wrong, right
ANSWERS = np.array([0, 2])
PERPLEXITIES = {
  'dense': {'wiki': 8.0, 'code': 4.0},
  'pruned <b>': {'wiki': np.array([9.0, 11.0]), 'code': np.array([8.0, 8.0])},
}
CHOICES = {'dense': DENSE, 'pruned <b>': np.stack([PRUNED, DENSE])}


def said(*rates):
  kinds = ('harmless', 'borderline')[: len(rates)]
  return ev.Refusals(dict(zip(kinds, rates, strict=True)), {})


REFUSED = {
  'dense': said(0.0, 0.5),
  'pruned <b>': [said(0.0, 0.25), said(0.5, 0.25)],
}


def whole():
  return ev.evaluate_language(PERPLEXITIES, CHOICES, ANSWERS, REFUSED)


def test_by_hand():
  found = whole()
  dense, pruned = found.models.values()
  assert (found.dense, found.questions) == ('dense', 2)
  assert (dense.accuracy, dense.flips) == (0.5, None)
  assert pruned.accuracy.tolist() == [0.5, 0.5]
  # Both answers turn, and accuracy does not see it; or none does.
  assert [x.tolist() for x in pruned.flips] == [
    [1.0, 0.0],
    [0.5, 0.0],
    [0.5, 0.0],
    [1.0, 0.0],
  ]
  assert dense.refusals == {'harmless': 0.0, 'borderline': 0.5}
  assert pruned.refusals['harmless'].tolist() == [0.0, 0.5]


def test_seeds_are_those_of_flips_to_the_bit():
  draws = np.random.default_rng(0)
  scores = {n: draws.normal(size=(3, 40, 4)) for n in ('dense', 'pruned')}
  answers = draws.integers(0, 4, 40)
  numbers = {name: {'a': np.full(3, 2.0)} for name in scores}
  found = ev.evaluate_language(numbers, scores, answers).models['pruned']
  pairs = zip(scores['pruned'], scores['dense'], strict=True)
  each = [ev.flips(*pair, answers) for pair in pairs]
  np.testing.assert_array_equal(np.transpose(found.flips), each)
  right = scores['pruned'].argmax(-1) == answers
  np.testing.assert_array_equal(found.accuracy, right.mean(-1))
  # A dense model is compared with each seed where it is one.
  alone = {**scores, 'dense': scores['dense'][0]}
  found = ev.evaluate_language(numbers, alone, answers).models['pruned']
  each = [ev.flips(x, alone['dense'], answers) for x in scores['pruned']]
  np.testing.assert_array_equal(np.transpose(found.flips), each)


def test_report():
  found = whole()
  text = report.text(found)
  assert '2 language models on wiki, code, 2 questions;' in text
  for title in ('Perplexity', 'Multiple choice', 'Refusals'):
    assert f'\n{title}. ' in text
  rows = re.findall(r'^(?:dense|pruned <b>)  .*', text, re.MULTILINE)
  cells = [re.split('  +', row) for row in rows]
  assert cells[0] == ['dense', '8.00', '–', '4.00', '–']
  ratios = ['10.00 ± 1.41', '1.25 ± 0.18', '8.00 ± 0.00', '2.00 ± 0.00']
  assert cells[1] == ['pruned <b>', *ratios]
  assert cells[3][2] == '50.0 ± 70.7 %'
  assert cells[5] == ['pruned <b>', '25.0 ± 35.4 %', '25.0 ± 0.0 %', '+0.0 %']
  page = report.html(found)
  assert '<h1>Beside perplexity</h1>' in page
  assert 'pruned &lt;b&gt;' in page
  assert '<b>' not in page
  alone = ev.evaluate_language({'dense': {'wiki': 8}})
  assert 'times' not in report.text(alone)
  assert 'Refusals' not in report.html(alone)


def test_figure():
  pytest.importorskip('matplotlib')
  fig = report.figure(whole())
  titles = [ax.get_title(loc='left') for ax in fig.axes]
  assert titles == [
    'perplexity over that of the dense model',
    'turned answers (%)',
    'refusals (%)',
  ]
  widths = [bar.get_width() for bar in fig.axes[0].patches]
  np.testing.assert_allclose(widths, [1.25, 2.0])
  assert len(report.figure(ev.evaluate_language(PERPLEXITIES)).axes) == 1
  with pytest.raises(ValueError, match='nothing to draw: bars compare'):
    report.figure(ev.evaluate_language({'dense': {'a': 2.0}}))


@pytest.mark.parametrize(
  ('options', 'error', 'text'),
  [
    ({'perplexities': 3}, TypeError, '`perplexities` was 3'),
    ({'perplexities': {}}, ValueError, "nothing, but needs the dense model 'd"),
    ({'dense': 'x'}, ValueError, "needs the dense model 'x' to compare"),
    (
      {'perplexities': {'dense': {'a': 2.0}, 'pruned <b>': {'b': 2.0}}},
      ValueError,
      'has b, but the dense model a. Measure all',
    ),
    ({'perplexities': {'dense': {}}}, ValueError, 'and on at least one'),
    (
      {'perplexities': {'dense': {'a': 0.5}}},
      ValueError,
      'be finite and at le',
    ),
    ({'perplexities': {'dense': {'a': 'x'}}}, TypeError, r"\['a'\]` was 'x'"),
    ({'answers': None}, ValueError, '`answers` is missing: multiple choice'),
    ({'choices': None}, ValueError, '`choices` is missing: multiple choice'),
    (
      {'choices': {'dense': DENSE}},
      ValueError,
      'must have the models dense, p',
    ),
    (
      {'choices': {**CHOICES, 'pruned <b>': PRUNED[:1]}},
      ValueError,
      r'has shape \(1, 3\), but the dense model \(2, 3\)',
    ),
    (
      {'choices': {**CHOICES, 'dense': np.stack([DENSE] * 3)}},
      ValueError,
      'with several dense seeds, each model needs as many',
    ),
    (
      {'choices': {**CHOICES, 'dense': DENSE[0]}},
      TypeError,
      'be .questions, c',
    ),
    (
      {'choices': {**CHOICES, 'dense': DENSE[:0]}},
      ValueError,
      r'has shape \(0, 3\), but must hold answers',
    ),
    ({'answers': np.array([0, 3])}, ValueError, '`answers` had classes from 0'),
    (
      {'refused': {'x': said(0, 0)}},
      ValueError,
      'x, which is not among the mo',
    ),
    ({'refused': {'dense': 0.5}}, TypeError, 'be what `refusals` returned'),
    (
      {'refused': {**REFUSED, 'dense': said(0.5)}},
      ValueError,
      'Ask all models the same prompts',
    ),
  ],
)
def test_bad_input(options, error, text):
  given = {
    'perplexities': PERPLEXITIES,
    'choices': CHOICES,
    'answers': ANSWERS,
    'refused': REFUSED,
  }
  if 'perplexities' in options:
    given = {}
  with pytest.raises(error, match=text):
    ev.evaluate_language(**{**given, **options})
