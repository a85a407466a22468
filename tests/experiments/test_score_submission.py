"""Submissions: what is refused, what controls keep, and how they score."""

import types

import jax
import numpy as np
import pytest
from tiny_experiments import TINY

import lthjax as lth
import score_submission
from common import config, seeds
from lthjax import checkpoints
from methods import submissions
from reports import score_submission as report
from verdicts import statistics

SIZE = 64 * 300 + 300 * 100 + 100 * 10
GOOD = """import lthjax as lth

def prune(params, loss, data, sparsity):
  scores, masks = lth.scores.magnitude(params), lth.masks.full(params)
  masks = lth.prune(scores, masks, sparsity=sparsity, scope='global')
  return masks
"""


def returning(code):
  return GOOD.replace('return masks', code)


BAD = {
  'no function': ('x = 1', 'has no function `prune`. Define `prune(params,'),
  'not a function': ('prune = 3', 'has no function `prune`'),
  'arguments': (
    'def prune(params): ...',
    '`prune(params)` cannot be called as `prune(params, loss, data, sparsity)`',
  ),
  'syntax': ('def prune(', 'cannot be imported: SyntaxError:'),
  'import': ('import nothing_of_this_name', 'ModuleNotFoundError: No module'),
  'raises': (
    returning('raise KeyError("fc9")'),
    "`prune` failed at sparsity 0.75: KeyError: 'fc9'",
  ),
  'nothing': (returning('return None'), 'returned NoneType that is not a tree'),
  'params': (
    returning('return params'),
    'fc1/bias is never pruned and must be None; fc1/kernel has dtype float32,'
    ' but must be bool',
  ),
  'structure': (
    returning('return {"fc1": masks["fc1"]}'),
    'there is no fc2/bias; there is no fc2/kernel; there is no output/bias',
  ),
  'more': (
    returning('return {**masks, "fc3": masks["fc1"]}'),
    'fc3/bias is no leaf; fc3/kernel is no leaf',
  ),
  'shape': (
    returning(
      'masks["fc1"]["kernel"] = masks["fc1"]["kernel"].T; return masks'
    ),
    'fc1/kernel has shape (300, 64), but must have (64, 300)',
  ),
  'no mask': (
    returning('masks["fc1"]["kernel"] = None; return masks'),
    'fc1/kernel is None, but must be a mask of shape (64, 300)',
  ),
  'not finite': (
    returning(
      'masks["fc2"]["kernel"] = masks["fc2"]["kernel"] * np.nan; return masks'
    ).replace('import lth', 'import numpy as np; import lth'),
    'values that are not finite, but must be bool',
  ),
  'density': (
    GOOD.replace('sparsity=sparsity', 'sparsity=0.5'),
    '`prune` kept 25,100 of 50,200 weights (50 %), but a sparsity of 0.75'
    ' leaves 12,550 (25 %)',
  ),
}


@pytest.fixture(scope='module')
def params():
  model = lth.models.lenet_300_100((8, 8, 1))
  # In NumPy, as tests that fail early need no program.
  shapes = jax.eval_shape(model.init, jax.random.key(0))[0]
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: np.asarray(rng.normal(size=x.shape), np.float32), shapes
  )


@pytest.mark.parametrize(('code', 'text'), BAD.values(), ids=BAD.keys())
def test_bad_files_are_errors_that_name_them(tmp_path, params, code, text):
  path = tmp_path / 'mine.py'
  path.write_text(code)
  with pytest.raises(ValueError, match=r'mine\.py') as caught:
    submissions.load(path)(params, None, None, 0.75)
  assert text in str(caught.value)


def test_a_few_weights_more_or_less_are_rounding(params):
  masks = jax.tree.map(np.array, lth.masks.full(params))
  flat = masks['fc2']['kernel'].reshape(-1)
  flat[:25_100] = False  # Half of all weights are dead.
  submissions.check('mine.py', masks, params, 0.5)
  flat[25_100:25_351] = False  # 1 % of 25,100.
  submissions.check('mine.py', masks, params, 0.5)
  flat[25_351] = False
  with pytest.raises(ValueError, match='kept 24,848 of 50,200 weights'):
    submissions.check('mine.py', masks, params, 0.5)


def test_inversion_keeps_the_lowest_scores(params):
  prune = submissions.load(submissions.find('magnitude'))
  masks = submissions.inverted(prune, params, None, None, 0.9)
  kept = lth.masks.alive_by_name(masks)
  assert sum(kept.values()) == SIZE // 10
  scores = np.concatenate(
    [np.abs(params[n]['kernel']).ravel() for n in ('fc1', 'fc2', 'output')]
  )
  alive = np.concatenate(
    [np.ravel(masks[n]['kernel']) for n in ('fc1', 'fc2', 'output')]
  )
  assert scores[alive].max() <= scores[~alive].min()


def test_a_file_that_changes_is_another_cell(tmp_path):
  path = tmp_path / 'mine.py'
  names = []
  for text in (GOOD, GOOD + '# changed\n'):
    path.write_text(text)
    found = parse(f'--submissions {path} --checks')
    names.append([cell.name for cell in score_submission.cells(found)])
  dense_and_baseline = 1 + len(found.ratios)
  assert names[0][:dense_and_baseline] == names[1][:dense_and_baseline]
  assert not set(names[0][dense_and_baseline:]) & set(names[1][6:])
  # The folder is the same, so that what is there is not trained again.
  assert found.configuration == parse('--checks').configuration


def parse(options):
  return config.parse(options.split(), score_submission.PRESETS, 'help')


def test_rows_and_what_controls_keep(unbroken):
  rows = unbroken.rows()
  options = parse(' '.join(TINY['score_submission']))
  cells = score_submission.cells(options)
  assert [row['method'] for row in rows[::2]] == [c.method for c in cells]
  made = score_submission.Experiment(options)
  masks = {
    (c.method, c.ratio, c.check): seeds.one(
      checkpoints.load(unbroken.folder / c.name, made.like)['masks'], 0
    )
    for c in cells
  }
  for row in rows:
    ratio = float(row['ratio'])
    assert abs(int(row['alive']) - SIZE / ratio) <= 3
    # Weights of fully connected layers are used once per example.
    assert float(row['inference_flops']) == pytest.approx(2 * int(row['alive']))
    examples = 3 * options.batch_size * options.steps
    assert float(row['training_flops']) == pytest.approx(
      examples * float(row['inference_flops'])
    )
  mine, shuffled, same, inverted = (
    masks['snip', 4, check] for check in ('', 'shuffled', 'reinit', 'inverted')
  )
  alive = lth.masks.alive_by_name
  assert alive(mine) == alive(shuffled)
  assert lth.masks.hamming(mine, shuffled) > 0
  assert lth.masks.hamming(mine, same) == 0
  assert lth.masks.count(lth.masks.intersect(mine, inverted)) == 0
  # The submission ERK-random has other keys than what it is scored by.
  baseline = masks['baseline', 4, '']
  assert alive(masks['erk_random', 4, '']) == alive(baseline)
  assert lth.masks.hamming(masks['erk_random', 4, ''], baseline) > 0


def test_points_by_hand():
  def result(method, ratio, check, *accuracy):
    return {
      'method': method,
      'ratio': ratio,
      'check': check,
      'test_accuracy': accuracy,
      'alive': {'a': [3, 3], 'b': [1, 0 if check == '' else 1]},
    }

  run = types.SimpleNamespace(
    config=types.SimpleNamespace(ratios=(2.0, 4.0)),
    results=[
      result('baseline', 2.0, '', 0.9, 0.8),
      result('baseline', 4.0, '', 0.8, 0.8),
      result('mine', 2.0, '', 0.92, 0.84),
      result('mine', 4.0, '', 0.84, 0.84),
      result('mine', 2.0, 'shuffled', 0.92, 0.8),
      result('mine', 4.0, 'shuffled', 0.84, 0.8),
    ],
  )
  found = report.accuracies(run)
  assert report.submissions(run) == ['mine']
  effects = report.above(found, 'mine', run.config)
  np.testing.assert_allclose(effects, [3, 4])
  # Of two seeds, t is 12.7062 and the standard error 0.5.
  assert report.with_interval(effects) == '+3.50 [-2.85, +9.85]'
  low, high = 3.5 - 12.7062 / 2, 3.5 + 12.7062 / 2
  found_interval = statistics.interval(effects)
  np.testing.assert_allclose(found_interval, [3.5, low, high], rtol=1e-5)
  own = report.above(found, 'mine', run.config, 'shuffled')
  np.testing.assert_allclose(own, [0, 4], atol=1e-9)
  assert report.empty(run, 'mine') == 2


@pytest.mark.slow
@pytest.mark.parametrize('name', submissions.names())
def test_all_files_prune_a_decoder(name):
  """Every file runs on a causal decoder, and inverted as well."""
  options = parse(
    f'--submissions {name} --model decoder --dataset python_manual --width 8'
    ' --heads 2 --layers 1 --time 8 --batch-size 2 --seeds 2 --ratios 4'
    ' --steps 2 --eval-every 2 --score-batches 1 --eval-tokens 64'
  )
  made = score_submission.Experiment(options)
  start = seeds.one(made.start.params, 0)
  masks = made.prune(name, 4.0, start, 0)
  others = made.prune(name, 4.0, start, 0, 'inverted')
  total = lth.masks.count(lth.masks.full(start))
  assert abs(lth.masks.count(masks) - total / 4) <= 14
  if name != 'erk_random':
    assert lth.masks.count(lth.masks.intersect(masks, others)) == 0
