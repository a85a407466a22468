"""Adaptation to two tasks: what is trained, what is merged, and the tasks."""

import csv

import jax
import numpy as np
import optax
import pytest
from helpers import bits
from tiny_experiments import TINY

import lota as script_module
import lthjax as lth
from adaptation import arms, network, tasks, tuning
from adaptation.arms import ARMS
from adaptation.tasks import Marks
from lthjax.linguistic import Sentence, Token

PAD, UNKNOWN, START, MASK = Marks()
# Of a decoder's kernels: 40 weights, and 4 of an embedding.
SHAPES = {'model/blocks/a/kernel': (2, 12), 'model/blocks/b/kernel': (4, 4)}


def tree(make):
  a, b = (make(shape) for shape in SHAPES.values())
  return {
    'model': {
      'blocks': {'a': {'kernel': a}, 'b': {'kernel': b}},
      'embed': {'embedding': make((4, 1))},
    },
    'head': {'kernel': make((2, 3)), 'bias': make((3,))},
  }


def random_tree(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    jax.numpy.asarray,
    tree(lambda shape: rng.normal(size=shape).astype(np.float32)),
  )


def chosen(name, taken=None, **how):
  start, tuned = random_tree(0), random_tree(1)
  given = {'key': jax.random.key(0), 'tuned': tuned, 'gradient': None, **how}
  return arms.choose(ARMS[name], start, taken, **given), start, tuned


def flat(masks):
  blocks = masks['model']['blocks']
  return np.concatenate([np.ravel(blocks[x]['kernel']) for x in 'ab'])


@pytest.mark.slow
def test_calibration_keeps_what_moved_farthest_and_then_the_rest():
  first, start, tuned = chosen('lota_90')
  moved = np.abs(flat(tuned) - flat(start))
  largest = set(np.argsort(-moved)[:4].tolist())
  assert set(np.flatnonzero(flat(first)).tolist()) == largest
  taken = arms.everywhere(start, first)
  assert not np.any(taken['model']['embed']['embedding'])
  assert np.all(taken['head']['kernel'])
  assert np.all(taken['head']['bias'])
  second, _, _ = chosen('lota_90', taken)
  assert set(np.flatnonzero(flat(second)).tolist()) == set(
    np.argsort(-moved)[4:8].tolist()
  )


@pytest.mark.parametrize('name', ['random_90', 'magnitude_90', 'gradient_90'])
def test_controls_train_as_many(name):
  masks, start, _ = chosen(name, gradient=lambda: random_tree(2))
  assert flat(masks).sum() == 4
  scores = {'magnitude_90': start, 'gradient_90': random_tree(2)}.get(name)
  if scores is not None:
    # Scores of gradients are given as they are, those of weights are |w|.
    values = flat(scores)
    values = np.abs(values) if name == 'magnitude_90' else values
    assert flat(masks)[np.argsort(-values)[:4]].all()


@pytest.mark.slow
def test_disjoint_changes_arrive_to_the_bit():
  base, one, two = (random_tree(i)['model'] for i in range(3))
  first = jax.tree.map(lambda x: x > 0.5, one)
  second = jax.tree.map(lambda x, m: (x > 0) & ~m, two, first)
  changed = [
    jax.tree.map(lambda b, x, m: jax.numpy.where(m, x, b), base, x, m)
    for x, m in ((one, first), (two, second))
  ]
  masks = (first, second)
  found = {
    rule: arms.merge(rule, base, *changed, masks)
    for rule in ('sum', 'ties', 'mean')
  }
  assert found['sum'][1]
  assert not found['mean'][1]
  assert bits(found['sum'][0]) == bits(found['ties'][0])
  swapped = arms.merge('sum', base, *changed[::-1], masks[::-1])[0]
  assert bits(swapped) == bits(found['sum'][0])
  both = jax.tree.map(lambda a, b: a | b, *masks)
  assert not arms.merge('sum', base, *changed, (both, second))[1]


def test_words_are_ranked_by_their_shares():
  """A word of a short text counts as much as one of a long text."""
  long, short = ['b'] * 6 + ['a'] * 4, ['c', '<unk>']
  words = tasks.vocabulary([long, short], 6)
  assert list(words.ids) == [*tasks.SPECIAL, 'b', 'c']
  assert words.encode(['c', 'a', '<unk>']) == [5, UNKNOWN, UNKNOWN]
  text = 'The <unk> said @-@ "no , no" !'
  found = ['the', '<unk>', 'said', '@-@', '"', 'no', ',', 'no', '"', '!']
  assert tasks.words_of(text) == found


def test_tags_are_where_words_are():
  words = tasks.vocabulary([['dogs', 'bark']], 6)
  forms = (Token('Dogs', upos='NOUN'), Token('run', upos='VERB'))
  sentence = Sentence('one', forms)
  parts = {part: [sentence] for part in tasks.PARTS}
  task = tasks.tagging_task('tags', parts, words, 5)
  known = words.ids['dogs']
  assert task.test.tokens.tolist() == [[START, known, UNKNOWN, PAD, PAD]]
  assert (task.test.labels >= 0).tolist() == [[False, True, True, False, False]]
  assert task.classes == 17


def test_hidden_words():
  tokens = np.full((64, 64), 7, np.int32)
  tokens[:, 40:50] = UNKNOWN
  tokens[:, 50:] = PAD
  shown, labels = map(np.asarray, network.hide(jax.random.key(0), tokens, 99))
  chosen = labels >= 0
  assert not chosen[:, 40:].any()
  assert chosen[:, :40].mean() == pytest.approx(0.3, abs=0.03)
  assert (labels[chosen] == 7).all()
  assert (shown[~chosen] == tokens[~chosen]).all()
  assert (shown[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.05)
  others = shown[chosen & (shown != MASK) & (shown != 7)]
  assert others.min() >= len(tasks.SPECIAL)
  assert others.size / chosen.sum() == pytest.approx(0.1, abs=0.04)


def test_what_comes_before_what():
  config = script_module.PRESETS['tiny']
  names = [cell.name for cell in script_module.cells(config)]
  for kind in ('decoder', 'encoder'):
    place = {name: i for i, name in enumerate(names)}
    full = place[f'networks/{kind}-full-alone']
    assert place[f'networks/{kind}'] < full
    assert full < place[f'networks/{kind}-lota_90-first']
    assert f'networks/{kind}-random_90-alone' not in place
    merged = place[f'merged/{kind}-lota_90-sum']
    assert place[f'networks/{kind}-lota_90-alone'] < merged


def test_forgotten_and_trained(unbroken):
  rows = {(x['arm'], x['stage'], x['seed']): x for x in unbroken.rows()}
  kernels = 2 * (4 * 8 * 8 + 3 * 8 * 12)
  for seed in ('0', '1'):
    first, second = (rows['lota_90', x, seed] for x in ('first', 'second'))
    assert (
      int(first['trained']) == int(second['trained']) == round(kernels / 10)
    )
    lost = float(second['domain_loss']) - float(first['domain_loss'])
    assert float(second['forgotten']) == pytest.approx(lost)
    assert first['tags_accuracy'] == first['forgotten'] == ''
    assert rows['lota_90', 'sum', seed]['exact'] == 'True'
    # Old words are forgotten from the same base by all arms.
    assert int(rows['full', 'first', seed]['trained']) > kernels


@pytest.mark.slow
def test_an_encoder_with_adapters(main, tmp_path):
  options = '--networks encoder --arms full lora gradient_90 --merged lora'
  options = [*TINY['lota'], *options.split(), '--output', str(tmp_path)]
  code, _, errors = main(*options, '--rules', 'ties')
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  with (folder / 'results.csv').open(newline='') as file:
    rows = {(x['arm'], x['stage'], x['seed']): x for x in csv.DictReader(file)}
  kernels = 2 * (4 * 8 * 8 + 2 * 8 * 12)
  for seed in ('0', '1'):
    trained = {
      arm: int(rows[arm, 'second', seed]['trained'])
      for arm in ('full', 'lora', 'gradient_90')
    }
    assert trained['gradient_90'] == round(kernels / 10)
    # Of rank 1, the lowest: inputs and outputs of all kernels.
    assert trained['lora'] == 2 * (4 * 16 + 2 * 20)
    assert rows['lora', 'ties', seed]['exact'] == 'False'
    # The same pretrained words, and the same heads.
    losses = {x: float(rows[x, 'first', seed]['domain_loss']) for x in trained}
    assert len(set(losses.values())) == 3


def test_the_best_step_size_is_taken_by_all_seeds():
  rates, seen = (1.0, 0.25, 300.0), []

  def train(tx):
    return lth.trainer(
      lambda key: ({'w': jax.random.normal(key, (3,))}, {}),
      lambda params, state, x, key: (((params['w'] * x) ** 2).sum(), state),
      tx,
      lambda data, key, step: data,
      evaluate=lambda params, state, data: {'loss': (params['w'] ** 2).sum()},
      every=2,
      vmapped=True,
    )

  keys, data = jax.random.split(jax.random.key(0), 2), np.ones(3, np.float32)
  trainer = train(tuning.scaled(optax.sgd(0.9)))
  state, rate = tuning.fit(
    trainer,
    trainer.init(keys),
    data,
    rates=rates,
    until=4,
    evaluated=lambda step, metrics: seen.append((step, metrics['loss'])),
  )
  assert rate == 0.25
  assert [step for step, _ in seen] == [2, 4]
  # The factor of w in each step is 1 - 2 * 0.9 * 0.25.
  start = trainer.init(keys).params['w']
  np.testing.assert_allclose(state.params['w'], start * 0.55**4, rtol=1e-5)
  np.testing.assert_allclose(
    seen[-1][1], (np.asarray(state.params['w']) ** 2).sum(1), rtol=1e-5
  )
  once, rate = tuning.fit(
    trainer, trainer.init(keys), data, rates=(1.0,), until=4, evaluated=None
  )
  plain = train(optax.sgd(0.9))
  whole = plain.fit(plain.init(keys), data, until=4)
  assert rate == 1.0
  assert bits(once.params) == bits(whole.params)
