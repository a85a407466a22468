"""Everything about several networks, and the report of it."""

import re

import numpy as np
import pytest

from lthjax import evaluation as ev
from lthjax import report

DRAWS = np.random.default_rng(0)
INPUTS = DRAWS.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
LABELS = DRAWS.integers(0, 3, 60)
WEIGHTS = DRAWS.normal(size=(3, 16, 3)) / 200


def network(weights, seeds=True):

  def f(x):
    logits = np.asarray(x).reshape(1, len(x), -1) @ weights
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return p if seeds else p[0]

  return f


MODELS = {
  'dense': network(WEIGHTS),
  'again': network(np.roll(WEIGHTS, 1, 0)),
  'ticket <b>': network(WEIGHTS * (np.abs(WEIGHTS) > 0.004)),
}
SHIFTS = {n: ev.corruptions.ALL[n] for n in ('shift', 'brightness')}


def whole():
  return ev.evaluate(
    MODELS,
    (INPUTS, LABELS),
    groups=['left' if x % 2 else 'right' for x in range(60)],
    shifts=SHIFTS,
    held_out=(INPUTS[:30], LABELS[:30]),
    severities=(1, 5),
    latency=ev.latency(
      {'dense': MODELS['dense']}, INPUTS, batch_sizes=[1, 100], repeats=5
    ),
  )


def test_measures_are_those_of_the_functions():
  found, p = whole(), {n: f(INPUTS) for n, f in MODELS.items()}
  for name, x in found.models.items():
    assert x.accuracy.shape == (3,)
    for one in ('accuracy', 'ece', 'brier', 'log_loss', 'overconfidence'):
      expected = getattr(ev, one)(p[name], LABELS)
      np.testing.assert_array_equal(getattr(x, one), expected)
    t = ev.fit_temperature(p[name][:, :30], LABELS[:30])
    np.testing.assert_array_equal(x.temperature, t)
    tempered = ev.ece(ev.temper(p[name], t), LABELS)
    np.testing.assert_array_equal(x.tempered_ece, tempered)
    assert x.groups.names == ('left', 'right')
    moved = ev.corruptions.shift(INPUTS, 5)
    np.testing.assert_array_equal(
      x.shifts['shift'].accuracy[:, 1],
      ev.accuracy(MODELS[name](moved), LABELS),
    )
  dense, again, ticket = found.models.values()
  assert dense.churn is None
  assert dense.exemplars is None
  np.testing.assert_array_equal(ticket.churn, ev.churn(*[*p.values()][::-2]))
  # Other seeds beside themselves: as far apart as two dense networks.
  np.testing.assert_allclose(
    sorted(again.churn), sorted(found.dense_churn), atol=1e-12
  )
  np.testing.assert_allclose(dense.corruption_error.mean(), 1, rtol=0.01)
  assert dense.latency[100].p50 <= dense.latency[100].p95
  assert ticket.latency is None
  assert (found.examples, found.severities) == (60, (1, 5))


def test_one_seed_needs_no_axis():
  models = {'d': network(WEIGHTS, False), 't': network(-WEIGHTS, False)}
  found = ev.evaluate(models, (INPUTS, LABELS), dense='d')
  assert np.shape(found.models['t'].ece) == ()
  assert found.dense_churn is None
  assert found.models['t'].exemplars is None
  assert found.models['t'].temperature is None
  text = report.text(found)
  assert 'this means nothing' in ' '.join(text.split())
  assert '±' not in text


def test_report():
  found = whole()
  text = report.text(found)
  titles = ('Calibration', 'Worst group', 'Groups', 'Churn', 'Shifts')
  for title in (*titles, 'Latency'):
    assert f'\n{title}. ' in text
  assert "3 networks on 60 examples, 3 seeds; 'dense' is the dense one." in text
  x = found.models['ticket <b>']
  churn = f'{100 * x.churn.mean():.1f} ± {100 * x.churn.std(ddof=1):.1f} %'
  assert re.search(rf'^ticket <b> +{re.escape(churn)} ', text, re.MULTILINE)
  assert re.search(r'^mCE +1\.000 ± ', text, re.MULTILINE)
  page = report.html(found)
  assert '<h1>Beside accuracy</h1>' in page
  assert 'ticket &lt;b&gt;' in page
  assert '<b>' not in page
  assert all(f'>{title}</h2>' in page for title in titles)
  assert report.html(found, title='a < b').count('a &lt; b') == 2
  with pytest.raises(TypeError, match='`title` was 1'):
    report.html(found, title=1)


def test_figure():
  pytest.importorskip('matplotlib')
  found = whole()
  fig = report.figure(found)
  titles = [ax.get_title(loc='left') for ax in fig.axes]
  assert titles == [
    'accuracy (%)',
    'calibration error',
    'worst group (%)',
    'other predictions than dense (%)',
    'accuracy under shifts (%)',
  ]
  accuracy, _, _, churn, shifts = fig.axes
  widths = [bar.get_width() for bar in accuracy.patches]
  expected = [100 * x.accuracy.mean() for x in found.models.values()]
  np.testing.assert_allclose(widths, expected)
  rows = [text.get_text() for text in churn.get_yticklabels()]
  assert rows == ['again', 'ticket <b>', 'dense, two seeds']
  assert len(shifts.lines) == 3
  one = {'dense': network(WEIGHTS, False)}
  assert len(report.figure(evaluate(one)).axes) == 3


def evaluate(models=MODELS, data=(INPUTS, LABELS), **options):
  return ev.evaluate(models, data, **options)


def never(*arguments):
  raise AssertionError('no network should be called')


@pytest.mark.parametrize(
  ('options', 'error', 'text'),
  [
    ({'models': {}}, ValueError, '`models` has nothing, but needs the dense'),
    ({'dense': 'x'}, ValueError, "needs the dense network 'x' to compare"),
    ({'models': {'dense': 1}}, TypeError, 'be a function'),
    ({'models': [never]}, TypeError, '`models` was'),
    ({'data': INPUTS}, TypeError, r'be a pair, \(inputs, labels\)'),
    ({'data': (INPUTS, LABELS[1:])}, ValueError, '59 entries, but there are'),
    ({'groups': ['a'] * 3}, ValueError, '`groups` has 3 entries, but there'),
    ({'shifts': [1]}, TypeError, '`shifts` was'),
    ({'shifts': {'a': 1}}, TypeError, r"shifts\['a'\]` was 1, but must be a"),
    ({'severities': (0, 1)}, ValueError, 'one or more of 1 to 5, in order'),
    ({'severities': ()}, ValueError, 'one or more of 1 to 5, in order'),
    ({'seed': -1}, ValueError, '`seed` was -1'),
    ({'latency': {'x': {}}}, ValueError, '`latency` has x, which is not'),
  ],
)
def test_bad_input_is_refused_before_networks_run(options, error, text):
  models = options.pop('models', dict.fromkeys(MODELS, never))
  with pytest.raises(error, match=text):
    evaluate(models, **options)


def test_what_networks_return_is_checked():
  logits = {'dense': lambda x: np.ones((len(x), 3))}
  with pytest.raises(ValueError, match=r"models\['dense'\].* For logits, use"):
    evaluate(logits)
  short = {'dense': lambda x: MODELS['dense'](x[:2])}
  with pytest.raises(ValueError, match=r'shape \(3, 2, 3\) for 60 inputs'):
    evaluate(short)
  seeds = {**MODELS, 'two': lambda x: MODELS['dense'](x)[:2]}
  with pytest.raises(ValueError, match='as many seeds each'):
    evaluate(seeds)
  with pytest.raises(TypeError, match='be raw images, uint8'):
    evaluate(data=(INPUTS / 255, LABELS), shifts=SHIFTS)


def test_latency():
  calls = []
  found = ev.seconds_in_turn(
    {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, repeats=2
  )
  assert calls == list('ababab')
  assert {n: len(x) for n, x in found.items()} == {'a': 3, 'b': 3}
  sizes = []
  f = lambda x: sizes.append(len(x)) or x  # noqa: E731
  found = ev.latency({'f': f}, INPUTS, batch_sizes=[1, 64], repeats=1)
  assert sizes == [1, 1, 64, 64]
  assert found['f'][64].throughput == 64 / found['f'][64].p50
  for bad in ({'batch_sizes': [0]}, {'repeats': 0}):
    with pytest.raises(ValueError, match='must be at least 1'):
      ev.latency({'f': f}, INPUTS, **bad)
