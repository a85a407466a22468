"""Pruning in many steps: exact counts, nesting, one compile, bad input."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax import _bisection
from lthjax.axes import Axes
from lthjax.pruning._iterative import _schedule

LENET = [(784, 300), (300, 100), (100, 10)]
SMALL = {'a': (8, 6), 'b': (4, 5), 'c': (4, 7)}


def network(shapes=None, seed=0):
  rng = np.random.default_rng(seed)
  shapes = SMALL if shapes is None else shapes
  return {
    name: {
      'kernel': rng.normal(size=shape).astype(np.float32),
      'bias': np.zeros(shape[-1:], np.float32),
    }
    for name, shape in shapes.items()
  }


def lenet(seed=0):
  rng = np.random.default_rng(seed)
  deviations = [(2 / sum(shape)) ** 0.5 for shape in LENET]
  return [
    rng.normal(size=s).astype(np.float32) * np.float32(d)
    for s, d in zip(LENET, deviations, strict=True)
  ]


def apply(params, x):
  for w in params[:-1]:
    x = jax.nn.relu(x @ w)
  return x @ params[-1]


def cross_entropy(params, batch):
  x, labels = batch
  return optax.losses.softmax_cross_entropy_with_integer_labels(
    apply(params, x), labels
  ).mean()


def synflow(params):
  return lth.scores.synflow(apply, params, (784,))


def alive(masks):
  return list(lth.masks.alive_by_name(masks).values())


def numpy_synflow(params, sparsity, steps):
  """The algorithm of the paper, in float64."""
  masks = [np.ones(w.shape, bool) for w in params]
  total = sum(m.size for m in masks)
  for step in range(1, steps + 1):
    a, b, c = (
      abs(w.astype(float)) * m for w, m in zip(params, masks, strict=True)
    )
    x1 = a.sum(0)
    x2 = x1 @ b
    g2 = c.sum(1)
    g1 = b @ g2
    scores = [a * g1, b * np.outer(x1, g2), c * x2[:, None]]
    flat = np.concatenate(
      [np.where(m, s, -1).ravel() for s, m in zip(scores, masks, strict=True)]
    )
    keep = round(total * (1 - sparsity) ** (step / steps))
    least = np.partition(flat, total - keep)[total - keep]
    chosen = flat > least
    ties = np.flatnonzero(flat == least)
    chosen[ties[: keep - chosen.sum()]] = True
    ends = np.cumsum([m.size for m in masks])[:-1]
    masks = [
      x.reshape(m.shape)
      for x, m in zip(np.split(chosen, ends), masks, strict=True)
    ]
  return masks


@pytest.mark.slow
def test_synflow_at_ratio_100_empties_no_layer():
  params = lenet()
  masks = lth.prune_iteratively(synflow, params, sparsity=0.99, steps=30)
  kept = alive(masks)
  assert sum(kept) == 2662
  assert min(kept) > 100
  # As in the paper's algorithm, but for scores that tie to rounding.
  expected = numpy_synflow(params, 0.99, 30)
  wrong = [np.sum(m != e) for m, e in zip(masks, expected, strict=True)]
  assert sum(wrong) < 20
  # What is left still conserves.
  sums = [x.sum() for x in synflow(lth.masks.apply(masks, params))]
  np.testing.assert_allclose(sums, sums[0], rtol=1e-5)
  # At once, and by magnitude, a layer is as good as lost.
  dense = lth.masks.full(params)
  with pytest.warns(UserWarning, match='left no weight in 0, and a layer'):
    once = lth.prune(synflow(params), dense, sparsity=0.99, scope='global')
  assert min(alive(once)) < min(kept)


@pytest.mark.slow
def test_at_ratio_10000_the_others_lose_a_layer():
  # Narrow at the end, so that its weights are the large ones.
  params = lenet()
  dense = lth.masks.full(params)
  budget = {'sparsity': 0.9999, 'scope': 'global'}
  with pytest.warns(UserWarning, match='left no weight in 0'):
    magnitude = lth.prune(lth.scores.magnitude(params), dense, **budget)
  assert alive(magnitude)[0] == 0
  x = jax.random.normal(jax.random.key(1), (100, 784))
  snip = lth.scores.snip(cross_entropy, params, (x, jnp.arange(100) % 10))
  with pytest.warns(UserWarning, match='left no weight in 0'):
    assert min(alive(lth.prune(snip, dense, **budget))) == 0
  assert min(alive(lth.prune(snip, dense, **budget, at_least=2))) == 2
  kept = alive(lth.prune_iteratively(synflow, params, sparsity=0.9999))
  assert sum(kept) == 27
  assert min(kept) > 0


def test_another_sparsity_compiles_nothing():
  traces = []

  def scores(params):
    traces.append(0)
    return lth.scores.magnitude(params)

  for seed, sparsity in [(0, 0.5), (1, 0.9), (2, 0.1)]:
    params = network(seed=seed)
    masks = lth.prune_iteratively(
      scores, params, sparsity=sparsity, steps=7, at_least=1
    )
    assert lth.masks.count(masks) == 96 - round(96 * sparsity)
    before = before if seed else len(traces)  # noqa: F821
  assert len(traces) == before


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'scope': 'layer'},
    {'scope': 'layer', 'densities': lth.densities.erk, 'rounding': 'floor'},
  ],
)
def test_fixed_scores_are_pruned_as_at_once(options):
  params = network()
  masks = lth.prune_iteratively(
    lth.scores.magnitude, params, sparsity=0.7, steps=5, **options
  )
  once = lth.prune(
    lth.scores.magnitude(params),
    lth.masks.full(params),
    sparsity=0.7,
    **{'scope': 'global'} | options,
  )
  assert masks['a']['bias'] is None
  assert lth.masks.hamming(masks, once) == 0


def test_the_density_falls_by_the_same_factor():
  schedule = functools.partial(
    _schedule,
    {'a': (8, 8), 'b': (64, 3)},
    0.75,
    4,
    rounding='nearest',
    axes={},
  )
  assert schedule(scope='global', densities=None).tolist() == [181, 128, 91, 64]
  by_layer = schedule(scope='layer', densities=None)
  assert by_layer['a'].tolist() == [45, 32, 23, 16]
  assert by_layer['b'].tolist() == [136, 96, 68, 48]


def test_dead_weights_are_zero_when_scored_and_never_return():
  # Each weight scores by how many others of its row are alive, and by itself.
  def scores(params):
    w = params['w']
    return {'w': jnp.sum(w != 0, 1, keepdims=True) * jnp.where(w == 0, 99, w)}

  params = {'w': jnp.array([[4.0, 3.0, 0.5], [5.0, 0.1, 0.2]])}
  prune = functools.partial(lth.prune_iteratively, scores, params)
  # At first all rows count three: the two smallest go, from the second row.
  masks = prune(sparsity=1 / 3, steps=1)
  assert masks['w'].tolist() == [[True, True, True], [True, False, False]]
  # Then its 5 counts once and falls behind 4 and 3, which count thrice.
  masks = prune(sparsity=2 / 3, steps=3)
  assert masks['w'].tolist() == [[True, True, False], [False, False, False]]
  assert prune(sparsity=2 / 3, steps=1)['w'].tolist() == [
    [True, False, False],
    [True, False, False],
  ]


def test_iterative_snip():
  params = network({'a': (5, 8), 'b': (8, 3)})
  x, y = network({'x': (20, 5), 'y': (20, 3)}, 1).values()

  def loss(params, batch):
    hidden = jnp.tanh(batch[0] @ params['a']['kernel'])
    return jnp.mean((hidden @ params['b']['kernel'] - batch[1]) ** 2)

  batch = x['kernel'], y['kernel']
  masks = lth.prune_iteratively(
    lambda params: lth.scores.snip(loss, params, batch),
    params,
    sparsity=0.75,
    steps=8,
  )
  expected = lth.masks.full(params)
  for count in [54, 45, 38, 32, 27, 23, 19, 16]:
    masked = lth.masks.apply(expected, params)
    scores = lth.scores.snip(loss, masked, batch)
    scores = jax.tree.map(
      lambda s, m: s if m is not None else None,
      scores,
      expected,
      is_leaf=lambda x: x is None,
    )
    expected = lth.keep_largest(scores, count, expected)
  assert lth.masks.hamming(masks, expected) == 0


def test_seeds_side_by_side_and_under_jit():
  both = jax.tree.map(lambda *x: jnp.stack(x), network(), network(seed=1))
  prune = functools.partial(
    lth.prune_iteratively, lth.scores.magnitude, sparsity=0.6, steps=3
  )
  together = jax.jit(jax.vmap(prune))(both)
  alone = prune(network(seed=1))
  assert lth.masks.hamming(jax.tree.map(lambda m: m[1], together), alone) == 0


STACK = {'w': Axes(stack=(0,), inputs=(1,), outputs=(2,))}


def test_each_stacked_layer_has_a_budget():
  w = np.random.default_rng(0).normal(size=(3, 20, 10)).astype(np.float32)
  params = {'w': w * np.reshape([1, 0.1, 0.01], (3, 1, 1)).astype(np.float32)}
  prune = functools.partial(
    lth.prune_iteratively, lth.scores.magnitude, params, axes=STACK, steps=4
  )
  masks = prune(sparsity=0.9, scope='layer')
  assert np.sum(masks['w'], (1, 2)).tolist() == [20, 20, 20]
  masks = prune(sparsity=0.9, at_least=3)
  assert np.sum(masks['w'], (1, 2)).tolist() == [54, 3, 3]
  with pytest.warns(UserWarning, match=r'no weight in w \(2 layers of it\)'):
    masks = prune(sparsity=0.9)
  assert np.sum(masks['w'], (1, 2)).tolist() == [60, 0, 0]


def test_at_least_some_in_every_layer():
  params = network()
  prune = functools.partial(
    lth.prune_iteratively, lth.scores.magnitude, params, sparsity=0.98, steps=5
  )
  assert alive(prune(scope='layer', at_least=2)) == [2, 2, 2]
  with pytest.raises(ValueError, match='leaves 2 weights for 3 layers'):
    prune(at_least=1)
  assert min(alive(prune(sparsity=0.9, at_least=2))) == 2


def test_empty_arrays():
  params = {'a': np.zeros((0, 4), np.float32), 'c': np.eye(4, dtype=np.float32)}
  params['c'] += 0.5
  for options in ({}, {'scope': 'layer'}, {'at_least': 1}):
    masks = lth.prune_iteratively(
      lth.scores.magnitude, params, sparsity=0.75, steps=3, **options
    )
    assert alive(masks) == [0, 4]
    np.testing.assert_array_equal(masks['c'], np.eye(4))


@pytest.mark.slow
def test_counts_above_int32(monkeypatch):
  params = network()
  prune = functools.partial(
    lth.prune_iteratively, lth.scores.magnitude, params, sparsity=0.7, steps=3
  )
  expected = [prune(), prune(at_least=2)]
  monkeypatch.setattr(_bisection, '_INT32', 64)  # 96 weights share a budget
  monkeypatch.setattr(_bisection, '_WORD', 3)
  jax.clear_caches()
  for found, wanted in zip([prune(), prune(at_least=2)], expected, strict=True):
    assert lth.masks.hamming(found, wanted) == 0
  jax.clear_caches()


# ---- Bad input.


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'steps': 0}, '`steps` was 0, but must be at least 1'),
    ({'steps': 2**31}, '`steps` was 2147483648, but must be at most 1048576'),
    ({'sparsity': 1.0}, '`sparsity` was 1.0, but must be in [0, 1)'),
    ({'sparsity': -0.1}, '`sparsity` was -0.1'),
    ({'scope': 'leaf'}, "`scope` was 'leaf', but must be"),
    ({'densities': lth.densities.erk}, 'so it needs `scope="layer"`'),
    (
      {'sparsity': 0.98},
      'leaves 2 weights for 3 layers (a/kernel, b/kernel, c/kernel)',
    ),
    (
      {'sparsity': 0.98, 'scope': 'layer'},
      'A sparsity of 0.98 leaves no weight in b/kernel. Lower',
    ),
    ({'where': '*/w'}, "match no leaf: '*/w'"),
  ],
)
def test_bad_arguments(options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.prune_iteratively(
      lth.scores.magnitude, network(), **{'sparsity': 0.5} | options
    )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'steps': 2.5}, '`steps` was 2.5, but must be an integer, such as 2.'),
    ({'steps': None}, '`steps` was None, but must be an integer.'),
    ({'sparsity': '0.5'}, "`sparsity` was '0.5', but must be a number."),
    ({'densities': 'erk', 'scope': 'layer'}, 'pass `lthjax.densities.erk`.'),
    ({'at_least': True}, '`at_least` was True, but must be an integer.'),
    ({'params': None}, '`params` must be a tree of arrays, but it was None.'),
    ({'params': {'w': 3}}, 'must be a tree of arrays, but w is an int.'),
    ({'score_fn': {}}, '`score_fn` was {}, but must be a function `score_fn('),
    ({'score_fn': int}, "`score_fn` was <class 'int'>, but must be a function"),
  ],
)
def test_arguments_of_the_wrong_type(options, message):
  defaults = {'score_fn': lth.scores.magnitude, 'params': network()}
  with pytest.raises(TypeError, match=re.escape(message)):
    lth.prune_iteratively(**defaults | {'sparsity': 0.5} | options)


def test_scores_must_fit():
  prune = functools.partial(
    lth.prune_iteratively, params=network(), sparsity=0.5, steps=2
  )
  with pytest.raises(ValueError, match='The masks do not fit the scores: c/'):
    prune(lambda p: {'a': p['a'], 'b': p['b']})
  with pytest.raises(TypeError, match='b/kernel is bool'):
    prune(lambda p: p | {'b': jax.tree.map(lambda x: x > 0, p['b'])})


def test_scores_that_say_nothing_are_named():
  def scores(params):
    few = jnp.sum(params['a']['kernel'] != 0) < 30
    a = jnp.where(few, 0, jnp.abs(params['a']['kernel']))
    b = jnp.abs(params['b']['kernel']).at[0, 0].set(jnp.nan)
    c = jnp.abs(params['c']['kernel'])
    return {
      n: {'kernel': x, 'bias': None}
      for n, x in zip('abc', (a, b, c), strict=True)
    }

  params = {
    n: {'kernel': x['kernel'], 'bias': None} for n, x in network().items()
  }
  prune = functools.partial(
    lth.prune_iteratively, scores, params, sparsity=0.75, steps=2, scope='layer'
  )
  with pytest.raises(
    ValueError,
    match=r'useless in a/kernel \(all zero at step 2\), b/kernel \(not'
    r' finite at step 1\)\. Pruning by them',
  ):
    prune()
  assert lth.masks.count(jax.jit(prune)()) == 24
