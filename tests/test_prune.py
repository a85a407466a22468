"""One-shot pruning: exact ladders, nesting, scopes, and every bad input."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import slow_but
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import lthjax as lth
from lthjax import _bisection
from lthjax.axes import Axes
from lthjax.patterns import NM, Unstructured

LENET = {'fc1': (784, 300), 'fc2': (300, 100), 'output': (100, 10)}
LENET_FRACTION = {'output/*': 0.1, '*': 0.2}
ROUNDINGS = ['nearest', 'floor', 'ceil']


def network(shapes, seed=0):
  """Random scores with many ties, and the masks that keep everything."""
  rng = np.random.default_rng(seed)
  scores = {
    name: {
      'kernel': np.abs(rng.normal(size=shape)).round(2).astype(np.float32),
      'bias': np.full(shape[-1:], np.nan, np.float32),  # never looked at
    }
    for name, shape in shapes.items()
  }
  return scores, lth.masks.full(scores)


@contextlib.contextmanager
def emptied(expected, *names):
  """Expects the warning of layers without weights, if there are any."""
  with contextlib.ExitStack() as stack:
    if expected:
      text = f'no weight in {", ".join(names)}'
      stack.enter_context(pytest.warns(UserWarning, match=re.escape(text)))
    yield


def counts(masks):
  return list(lth.masks.alive_by_name(masks).values())


def subset(inner, outer):
  return lth.masks.count(lth.masks.difference(inner, outer)) == 0


def flat(n):
  """One layer of n weights that are all worth the same."""
  scores = {'w': np.ones((1, n), np.float32)}
  return scores, lth.masks.full(scores)


# ---- How many.


@pytest.mark.slow
@pytest.mark.parametrize(
  ('rounding', 'expected'),
  {
    'nearest': {
      1: [188160, 24000, 900],
      7: [49325, 6291, 478],
      15: [8275, 1056, 206],
    },
    'floor': {
      1: [188160, 24000, 900],
      7: [49327, 6292, 480],
      15: [8277, 1058, 209],
    },
    'ceil': {
      1: [188160, 24000, 900],
      7: [49324, 6291, 477],
      15: [8273, 1054, 203],
    },
  }.items(),
)
def test_ladder_of_lenet(rounding, expected):
  scores, masks = network(LENET)
  found, before = {}, masks
  for level in range(1, 16):
    masks = lth.prune(
      scores, before, fraction=LENET_FRACTION, rounding=rounding
    )
    assert subset(masks, before)
    found[level], before = counts(masks), masks
  assert {level: found[level] for level in expected} == expected


def test_global_ladder_of_lenet():
  scores, masks = network(LENET)
  found = []
  for _ in range(7):
    masks = lth.prune(
      scores, masks, fraction=0.2, scope='global', rounding='ceil'
    )
    found.append(lth.masks.count(masks))
  assert found == [212960, 170368, 136294, 109035, 87228, 69782, 55825]


@pytest.mark.parametrize(
  ('weights', 'share', 'rounding', 'removed'),
  [
    (100, 0.29, 'nearest', 29),  # int(100 * 0.29) is 28
    (100, 0.29, 'floor', 29),
    (100, 0.07, 'ceil', 7),  # ceil(100 * 0.07) is 8
    (100, 0.07, 'nearest', 7),
    (10, 0.2, 'nearest', 2),
    (10, 0.2, 'ceil', 2),
    (10, 1 - 0.9, 'floor', 1),  # 0.09999999999999998
    (10, 1 - 0.8, 'ceil', 2),
    (100, 1 - 0.9, 'floor', 10),
    (10, 0.7, 'floor', 7),  # 0.1 + 0.6 is 0.7 as well
    (10, 0.1 + 0.6, 'floor', 7),
    (9, 1 / 3, 'floor', 3),
    (9, 2 / 3, 'ceil', 6),
    (21, 3 / 7, 'ceil', 9),
    (5, 0.5, 'nearest', 3),  # half a weight counts as one
    (5, 0.5, 'floor', 2),
    (5, 0.5, 'ceil', 3),
    (5, 0.0, 'ceil', 0),
    (3, 0.99, 'nearest', 3),
    (3, 0.99, 'floor', 2),
    (1, 0.3, 'nearest', 0),
    (100_000, 0.99999, 'nearest', 99_999),
    (100_000, 0.00001, 'nearest', 1),
    pytest.param(10**6, 0.123456, 'ceil', 123_456, marks=pytest.mark.slow),
  ],
)
def test_decimals_mean_what_they_say(weights, share, rounding, removed):
  scores, masks = flat(weights)
  expected = np.arange(weights) < weights - removed  # ties: the first survive

  def prune(masks, **options):
    with emptied(removed == weights):
      return lth.prune(scores, masks, rounding=rounding, **options)

  for pruned in (
    prune(masks, sparsity=share),
    prune(masks, fraction=share),
    prune(masks, fraction={'*': share}, scope='global'),
    prune(masks, sparsity=share, densities=lth.densities.uniform),
  ):
    np.testing.assert_array_equal(pruned['w'][0], expected)
  if removed < weights:
    pruned = prune(masks, sparsity=share, scope='global')
    np.testing.assert_array_equal(pruned['w'][0], expected)


def test_sparsity_is_of_all_and_fraction_of_the_alive():
  scores, masks = flat(100)
  half = lth.prune(scores, masks, sparsity=0.5)
  assert counts(lth.prune(scores, half, sparsity=0.75)) == [25]
  assert counts(lth.prune(scores, half, fraction=0.75)) == [12]
  # A sparsity that is reached already changes nothing.
  assert lth.masks.hamming(lth.prune(scores, half, sparsity=0.2), half) == 0
  assert lth.masks.hamming(lth.prune(scores, half, fraction=0.0), half) == 0


# ---- Which.


def test_by_hand():
  scores = {'w': jnp.array([[0.5, 2.0, 0.1], [1.0, 0.1, 0.3]])}
  masks = {'w': jnp.array([[True, False, True], [True, True, True]])}
  # Of five, two go: of the equal ones the later first.
  pruned = lth.prune(scores, masks, fraction=0.4)
  assert pruned['w'].tolist() == [[True, False, False], [True, False, True]]
  pruned = lth.prune(scores, masks, fraction=0.2)
  assert pruned['w'].tolist() == [[True, False, True], [True, False, True]]
  pruned = lth.prune(scores, masks, sparsity=0.5)
  assert pruned['w'].tolist() == [[True, False, False], [True, False, True]]


OPTIONS = [
  {'sparsity': 0.9},
  {'sparsity': 0.9, 'densities': lth.densities.erk},
  {'sparsity': 0.2, 'scope': 'global'},
  {'fraction': 0.9, 'rounding': 'floor'},
  {'fraction': 0.2, 'scope': 'global', 'rounding': 'ceil'},
  {'fraction': {'b/*': 0.1}},
  {'fraction': {'b/*': 0.0, '*': 0.5}, 'scope': 'global'},
  {'pattern': NM(2, 4)},
]
SMALL = {'a': (8, 6), 'b': (4, 5), 'c': (4, 7)}


@pytest.mark.parametrize('options', OPTIONS, ids='-'.join)
def test_dead_weights_never_return(options):
  scores, masks = network(SMALL)
  rng = np.random.default_rng(1)
  masks = jax.tree.map(lambda m: jnp.asarray(rng.random(m.shape) < 0.4), masks)
  # Dead weights have the highest scores, or none.
  scores = {
    name: {
      'kernel': np.where(
        masks[name]['kernel'], x['kernel'], rng.choice([9, np.nan, np.inf])
      ).astype(np.float32),
      'bias': x['bias'],
    }
    for name, x in scores.items()
  }
  pruned = lth.prune(scores, masks, **options)
  assert subset(pruned, masks)
  assert jax.tree.structure(pruned) == jax.tree.structure(masks)
  # Nor does it matter what they are worth.
  zeroed = lth.masks.apply(masks, scores)
  assert lth.masks.hamming(lth.prune(zeroed, masks, **options), pruned) == 0
  if 'pattern' not in options:
    for name, before, after in zip(
      SMALL, counts(masks), counts(pruned), strict=True
    ):
      kernel = scores[name]['kernel']
      keep, was = pruned[name]['kernel'], masks[name]['kernel']
      removed = kernel[np.asarray(was & ~keep)]
      kept = kernel[np.asarray(keep)]
      assert removed.size == before - after
      assert max(removed, default=-1) <= min(kept, default=10)


def test_global_scope_ranks_all_leaves_together():
  scores, masks = network(SMALL)
  pruned = lth.prune(scores, masks, sparsity=0.7, scope='global')
  kernels = [scores[name]['kernel'] for name in SMALL]
  expected = lth.keep_largest(kernels, 96 - 67)
  for name, keep in zip(SMALL, expected, strict=True):
    np.testing.assert_array_equal(pruned[name]['kernel'], keep)


def test_global_scope_with_globs_has_a_budget_for_each_glob():
  scores, masks = network(SMALL)
  fraction = {'b/*': 0.0, '*': 0.2}
  pruned = lth.prune(scores, masks, fraction=fraction, scope='global')
  assert pruned['b']['kernel'].all()
  # 48 + 28 weights compete; 15 of them go.
  keep = lth.keep_largest([scores[n]['kernel'] for n in ('a', 'c')], 76 - 15)
  np.testing.assert_array_equal(pruned['a']['kernel'], keep[0])
  np.testing.assert_array_equal(pruned['c']['kernel'], keep[1])
  assert counts(pruned)[0] != 48 - 10  # which is what layers would do


def test_the_first_glob_wins_and_the_rest_is_left_alone():
  scores, masks = network(SMALL)
  fraction = {'a/*': 0.5, '[ab]/kernel': 0.25}
  assert counts(lth.prune(scores, masks, fraction=fraction)) == [24, 15, 28]
  with pytest.raises(ValueError, match='`fraction` was empty, but must have'):
    lth.prune(scores, masks, fraction={})


def test_one_glob_fits_nnx_and_dicts():
  class LeNet(nnx.Module):
    def __init__(self, rngs):
      for name, shape in LENET.items():
        setattr(self, name, nnx.Linear(*shape, rngs=rngs))

  state = nnx.state(nnx.eval_shape(lambda: LeNet(nnx.Rngs(0))), nnx.Param)
  state = jax.tree.map(lambda x: np.ones(x.shape, np.float32), state)
  params = nnx.to_pure_dict(state)
  pruned = [
    lth.prune(
      lth.scores.magnitude(tree), lth.masks.full(tree), fraction=LENET_FRACTION
    )
    for tree in (state, params)
  ]
  assert isinstance(pruned[0], nnx.State)
  for masks in pruned:
    assert counts(masks) == [188160, 24000, 900]
  for x, y in zip(*map(jax.tree.leaves, pruned), strict=True):
    np.testing.assert_array_equal(x, y)


# ---- Stacked layers.

BLOCKS = (1.0, 0.7, 0.5, 0.35)
STACK = {'w': Axes(stack=(0,), inputs=(1,), outputs=(2,))}


def stacked(seed=0):
  """Four blocks in one leaf, whose weights are smaller and smaller."""
  rng = np.random.default_rng(seed)
  x = np.abs(rng.normal(size=(4, 20, 15))) * np.reshape(BLOCKS, (4, 1, 1))
  return {'w': x.astype(np.float32)}


def densities(mask):
  return [round(float(np.mean(block)), 3) for block in mask]


def test_each_stacked_layer_has_a_budget():
  scores = stacked()
  masks = lth.masks.full(scores)
  for options in ({'sparsity': 0.9}, {'fraction': 0.9}):
    prune = functools.partial(lth.prune, axes=STACK, **options)
    pruned = prune(scores, masks)
    assert densities(pruned['w']) == [0.1] * 4
    for block, keep in zip(scores['w'], pruned['w'], strict=True):
      alone = lth.prune({'w': block}, {'w': np.ones((20, 15), bool)}, **options)
      np.testing.assert_array_equal(keep, alone['w'])
    traced = jax.jit(prune)(scores, masks)
    np.testing.assert_array_equal(traced['w'], pruned['w'])
  # In one budget, as a leaf that is not stacked, the last ones are lost.
  flat = {'w': Axes(inputs=(0, 1), outputs=(2,))}
  found = densities(lth.prune(scores, masks, sparsity=0.9, axes=flat)['w'])
  assert found[0] > 0.2
  assert found[3] < 0.01


def test_stacked_layers_lose_shares_of_what_they_have():
  scores = stacked()
  alive = np.arange(300).reshape(1, 20, 15) < [[[40]], [[100]], [[7]], [[0]]]
  prune = functools.partial(
    lth.prune, fraction=0.25, axes=STACK, rounding='floor'
  )
  for pruned in (
    prune(scores, {'w': alive}),
    jax.jit(prune)(scores, {'w': alive}),
  ):
    assert np.sum(pruned['w'], (1, 2)).tolist() == [30, 75, 6, 0]


def test_layers_named_after_stacks_are_stacked():
  scores = {'layers': {'kernel': stacked()['w']}}
  pruned = lth.prune(scores, lth.masks.full(scores), sparsity=0.9)
  assert densities(pruned['layers']['kernel']) == [0.1] * 4


def test_stacked_layers_under_one_budget():
  scores = stacked()
  scores['w'][3] *= 1e-3
  masks = lth.masks.full(scores)
  prune = functools.partial(lth.prune, sparsity=0.9, scope='global', axes=STACK)
  with emptied(True, 'w (1 layers of it)'):
    assert not prune(scores, masks)['w'][3].any()
  held = functools.partial(prune, at_least=5)
  for pruned in (held(scores, masks), jax.jit(held)(scores, masks)):
    assert np.sum(pruned['w'], (1, 2))[3] == 5
    assert lth.masks.count(pruned) == 120


# ---- At least some in every layer.


@pytest.mark.parametrize('least', [1, 3])
def test_a_global_budget_keeps_some_in_every_layer(least):
  scores, masks = network(SMALL)
  scores['b']['kernel'] *= 1e-3
  prune = functools.partial(lth.prune, scores, masks, scope='global')
  with emptied(True, 'b/kernel'):
    free = prune(sparsity=0.8)
  held = prune(sparsity=0.8, at_least=least)
  assert lth.masks.count(held) == lth.masks.count(free) == 19
  assert counts(held)[1] == least
  # The best of b in exchange for the worst of the others.
  keep = lth.keep_largest(scores['b']['kernel'], least)
  np.testing.assert_array_equal(held['b']['kernel'], keep)
  others = [scores[name]['kernel'] for name in 'ac']
  rest = lth.keep_largest(others, 19 - least)
  for name, keep in zip('ac', rest, strict=True):
    np.testing.assert_array_equal(held[name]['kernel'], keep)
  # Where every layer has enough, nothing changes.
  held = prune(sparsity=0.2, at_least=1)
  assert lth.masks.hamming(held, prune(sparsity=0.2)) == 0


def test_a_budget_by_layer_gives_way():
  scores, masks = network(SMALL)
  masks['b']['kernel'] = masks['b']['kernel'].at[1:].set(False)  # 5 are left
  prune = functools.partial(lth.prune, scores, masks)
  assert counts(prune(sparsity=0.95, at_least=3)) == [3, 3, 3]
  assert counts(prune(fraction=0.9, at_least=3)) == [5, 3, 3]
  assert counts(prune(fraction={'b/*': 0.9}, at_least=9)) == [48, 5, 28]
  traced = jax.jit(functools.partial(lth.prune, fraction=0.9, at_least=3))
  assert counts(traced(scores, masks)) == [5, 3, 3]


def test_too_few_weights_for_every_layer():
  with pytest.raises(ValueError, match='for 3 layers of at least 4 weights'):
    lth.prune(*network(SMALL), sparsity=0.9, scope='global', at_least=4)
  with pytest.raises(ValueError, match=r'`at_least=99` needs \d+ in these'):
    lth.prune(*network(SMALL), fraction=0.5, scope='global', at_least=99)
  with pytest.raises(ValueError, match='`at_least` was -1, but must be at'):
    lth.prune(*network(SMALL), sparsity=0.9, at_least=-1)


def test_a_layer_that_loses_all_is_named_once():
  scores, masks = network(SMALL)
  with emptied(True, 'a/kernel, c/kernel'):
    pruned = lth.prune(scores, masks, fraction={'[ac]/*': 0.999})
  # It is empty already: nothing more to say.
  lth.prune(scores, pruned, sparsity=0.5)
  # Nor is anything said where counts are not known.
  jax.jit(functools.partial(lth.prune, fraction=0.999))(scores, masks)


# ---- Sizes.


def test_empty_arrays():
  scores = {'a': np.zeros((0, 4), np.float32), 'c': np.ones((3, 4), np.float32)}
  masks = lth.masks.full(scores)
  for options in (
    {'sparsity': 0.5},
    {'fraction': 0.5},
    {'sparsity': 0.5, 'scope': 'global', 'at_least': 1},
    {'fraction': {'*': 0.5}, 'scope': 'global'},
    {'sparsity': 0.5, 'densities': lth.densities.erk},
  ):
    assert counts(lth.prune(scores, masks, **options)) == [0, 6]
  nothing = {'a': scores['a']}
  masks = lth.masks.full(nothing)
  assert counts(lth.prune(nothing, masks, sparsity=0.5)) == [0]


@pytest.mark.slow
def test_global_budgets_above_int32(monkeypatch):
  scores, masks = network(SMALL)
  options = [
    {'sparsity': 0.7, 'scope': 'global'},
    {'fraction': 0.7, 'scope': 'global'},
    {'sparsity': 0.7, 'scope': 'global', 'at_least': 2},
  ]
  expected = [lth.prune(scores, masks, **o) for o in options]
  # As if an int32 had five bits.
  monkeypatch.setattr(_bisection, '_INT32', 32)
  monkeypatch.setattr(_bisection, '_WORD', 3)
  monkeypatch.setattr(lth.counts, '_INT32', 32)
  jax.clear_caches()
  for o, wanted in zip(options, expected, strict=True):
    found = lth.prune(scores, masks, **o)
    assert lth.masks.hamming(found, wanted) == 0
  with pytest.raises(ValueError, match='In a/kernel, 2\\^31 weights or more'):
    jax.jit(functools.partial(lth.prune, fraction=0.5))(scores, masks)
  jax.clear_caches()


def test_trees_are_flattened_once(monkeypatch):
  scores, masks = network(SMALL)
  flatten, flattened = jax.tree_util.tree_flatten_with_path, []

  def counted(tree, *args, **kwargs):
    flattened.append(tree)
    return flatten(tree, *args, **kwargs)

  monkeypatch.setattr(jax.tree_util, 'tree_flatten_with_path', counted)
  monkeypatch.setattr(
    jax.tree_util, 'tree_map_with_path', lambda *_, **__: pytest.fail('again')
  )
  for options in OPTIONS[:-1]:
    lth.prune(scores, masks, **options)
    assert [id(tree) for tree in flattened] == [id(masks), id(scores)]
    flattened.clear()


# ---- The same under transformations.


@pytest.mark.parametrize(
  'options', slow_but(OPTIONS, OPTIONS[1::3]), ids='-'.join
)
def test_jit_and_vmap_give_the_same_masks(options):
  prune = functools.partial(lth.prune, **options)
  rng = np.random.default_rng(2)
  runs = []
  for seed in range(3):
    scores, masks = network(SMALL, seed)
    # Replicates with different numbers of weights, as they are after a while.
    masks = jax.tree.map(
      lambda m, d=0.3 * (seed + 1): jnp.asarray(rng.random(m.shape) < d), masks
    )
    runs.append((scores, masks))
  eager = [prune(*run) for run in runs]
  stacked = jax.tree.map(lambda *xs: np.stack(xs), *runs)
  together = jax.jit(jax.vmap(prune))(*stacked)
  for i, expected in enumerate(eager):
    one = jax.tree.map(lambda m, i=i: m[i], together)
    assert lth.masks.hamming(one, expected) == 0
  assert lth.masks.hamming(jax.jit(prune)(*runs[0]), eager[0]) == 0


def test_levels_compile_once():
  traces = 0

  @jax.jit
  def level(scores, masks):
    nonlocal traces
    traces += 1
    return lth.prune(scores, masks, fraction=LENET_FRACTION)

  shapes = {'fc1': (20, 15), 'output': (15, 10)}
  scores, masks = network(shapes)
  eager = masks
  for _ in range(5):
    masks = level(scores, masks)
    eager = lth.prune(scores, eager, fraction=LENET_FRACTION)
    assert lth.masks.hamming(masks, eager) == 0
  assert traces == 1


def test_traced_nan_goes_first():
  scores = {'w': jnp.array([[3.0, jnp.nan, 2.0, 1.0]])}
  masks = lth.masks.full(scores)
  prune = jax.jit(functools.partial(lth.prune, sparsity=0.25))
  assert prune(scores, masks)['w'].tolist() == [[True, False, True, True]]


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_scores_of_half_precision(dtype):
  scores, masks = network(SMALL)
  scores = jax.tree.map(lambda x: x.astype(dtype), scores)
  wide = jax.tree.map(lambda x: x.astype(np.float32), scores)
  for options in ({'fraction': 0.2}, {'sparsity': 0.7, 'scope': 'global'}):
    found = lth.prune(scores, masks, **options)
    assert lth.masks.hamming(found, lth.prune(wide, masks, **options)) == 0


def check_sharded():
  """Runs in a process with four devices: masks stay with their params."""
  scores, masks = network({'a': (16, 8), 'b': (8, 24)})
  specs = {'a': P('d'), 'b': P(None, 'd')}
  with jax.set_mesh(jax.make_mesh((4,), ('d',), (AxisType.Explicit,))):
    params = {
      name: {'kernel': jax.device_put(scores[name]['kernel'], spec)}
      for name, spec in specs.items()
    }
    dense = lth.masks.full(params)
    for options in (
      {'fraction': 0.3},
      {'sparsity': 0.7, 'scope': 'global'},
      {'pattern': NM(2, 4)},
    ):
      expected = lth.prune(scores, masks, **options)
      found = jax.jit(functools.partial(lth.prune, **options))(params, dense)
      for name, layer in params.items():
        mask, like = found[name]['kernel'], layer['kernel'].sharding
        np.testing.assert_array_equal(mask, expected[name]['kernel'])
        assert mask.sharding.is_equivalent_to(like, mask.ndim)
      lth.masks.apply(found, params)
  print('done')


def test_sharded(run_python):
  source = 'from tests.test_prune import *; check_sharded()'
  assert run_python(source, devices=4).split() == ['done']


# ---- Bad input.


@pytest.mark.parametrize('name', ['sparsity', 'fraction'])
@pytest.mark.parametrize('share', [1, 1.0, -0.1, 1.5, float('nan')])
def test_shares_are_in_range(name, share):
  message = f'`{name}` was {share}, but must be in [0, 1): at 1 no weight'
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.prune(*flat(10), **{name: share})


@pytest.mark.parametrize('share', [1.0, -0.2])
def test_shares_of_globs_are_in_range(share):
  message = f'`fraction` was {share}, but must be in [0, 1)'
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.prune(*flat(10), fraction={'w': 0.2, '*': share})


@pytest.mark.parametrize(
  ('budget', 'message'),
  [
    ({}, 'the alive weights to remove); neither was given'),
    (
      {'sparsity': 0.5, 'fraction': 0.5},
      'Give `prune` either `sparsity` (dead share of all weights) or `fraction`'
      ' (share of the alive weights to remove); sparsity and fraction',
    ),
    ({'sparsity': 0.5, 'scope': 'all'}, "`scope` was 'all', but must be"),
    (
      {'sparsity': 0.5, 'rounding': 'up'},
      '`rounding` was \'up\', but must be "nearest", "floor" or "ceil"',
    ),
    (
      {'fraction': {'w': 0.1, 'fc*': 0.1}},
      "`fraction` has patterns that match no prunable leaf: 'fc*'. The prunable"
      ' leaves are w;',
    ),
    (
      {'fraction': 0.1, 'densities': lth.densities.erk},
      '`densities` spreads a `sparsity` over layers',
    ),
    (
      {'sparsity': 0.1, 'densities': lth.densities.erk, 'scope': 'global'},
      'so it needs `sparsity` and `scope="layer"`',
    ),
    (
      {'sparsity': 0.1, 'pattern': NM(2, 4)},
      'NM(n=2, m=4) fixes the density to 0.5 in every layer',
    ),
    ({'fraction': 0.1, 'pattern': NM(2, 4)}, 'takes no sparsity, fraction'),
    ({'scope': 'global', 'pattern': NM(2, 4)}, 'Leave them out'),
    (
      {'densities': lth.densities.erk, 'pattern': NM(2, 4)},
      'takes no sparsity, fraction, densities or scope',
    ),
    ({'pattern': NM(2, 4)}, 'w (1, 12) has 1 on axis 0'),
    (
      {'pattern': NM(2, 5), 'axes': {'w': Axes(inputs=(1,), outputs=(0,))}},
      'w (1, 12) has 12 on axis 1',
    ),
    ({'pattern': NM(5, 4)}, 'needs 1 <= n <= m, but n is 5 and m is 4'),
    ({'pattern': NM('2', '4')}, 'needs 1 <= n <= m, but n is 2 and m is 4'),
  ],
)
def test_bad_budgets(budget, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.prune(*flat(12), **budget)


def test_global_scope_needs_a_pattern_of_single_weights():
  class Rows(Unstructured):
    """Some pattern of a user, with a density that is free."""

  class Columns:
    density = None

    def fit(self, axes, leaves):
      return lth.axes.resolve(axes, leaves)

    def select(self, scores, eligible, count, axes):
      return eligible

  lth.prune(*flat(4), sparsity=0.5, pattern=Columns())
  lth.prune(*flat(4), sparsity=0.5, scope='global', pattern=Rows())
  with pytest.raises(ValueError, match='ranks single weights across leaves'):
    lth.prune(*flat(4), sparsity=0.5, scope='global', pattern=Columns())


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'b': None}, 'b has a mask only'),
    ({'a': np.ones((2, 3), bool), 'c': None}, r'a: mask of shape \(2, 3\)'),
    ({'c': np.ones(3, bool)}, 'c is None in the scores but has a mask'),
    ({}, 'c has no mask'),
  ],
)
def test_masks_must_fit(change, message):
  scores = {'a': np.ones((3, 2), np.float32), 'c': None}
  masks = {'a': np.ones((3, 2), bool)} | change
  with pytest.raises(ValueError, match=message):
    lth.prune(scores, masks, sparsity=0.5)


def test_nothing_to_prune():
  masks = {'a': None, 'b': None}
  scores = {name: np.ones((3, 2), np.float32) for name in masks}
  with pytest.raises(ValueError, match='nothing to prune: every mask is None'):
    lth.prune(scores, masks, sparsity=0.5)


@pytest.mark.parametrize(
  'options',
  [
    {'sparsity': 0.5},
    {'fraction': 0.5, 'scope': 'global'},
    {'pattern': NM(2, 4)},
  ],
)
def test_nan_is_named(options):
  scores, masks = network(SMALL)
  scores['a']['kernel'][0, :3] = np.nan
  scores['b']['kernel'][:] = np.nan
  masks['a']['kernel'] = masks['a']['kernel'].at[0, 0].set(False)
  with pytest.raises(
    ValueError,
    match=re.escape(
      'Scores of alive weights are NaN in a/kernel (2), b/kernel (20). Pruning'
    ),
  ):
    lth.prune(scores, masks, **options)


def test_scores_that_are_all_zero_are_named():
  scores, masks = network(SMALL)
  scores['b']['kernel'][:] = 0
  scores['a']['kernel'][1:] = 0  # its first row still says something
  masks['c']['kernel'] &= False  # nothing is left to be scored
  with pytest.raises(
    ValueError,
    match=r'All scores of alive weights are zero in b/kernel\. Pruning by them',
  ):
    lth.prune(scores, masks, fraction=0.5)
  masks['a']['kernel'] = masks['a']['kernel'].at[0].set(False)
  with pytest.raises(ValueError, match='zero in a/kernel, b/kernel'):
    lth.prune(scores, masks, fraction=0.5)
  jax.jit(functools.partial(lth.prune, fraction=0.5))(scores, masks)


@pytest.mark.parametrize(
  'options',
  [
    {'fraction': {'a': 0.5}},
    {'fraction': {'a': 0.5, 'b': 0.0}, 'scope': 'global'},
    {'sparsity': 0.0},
    {'sparsity': 0.0, 'scope': 'global'},
    {'sparsity': 0.5, 'densities': lambda *_: {'a': 0.0, 'b': 1.0}},
  ],
)
def test_scores_of_leaves_that_lose_nothing_may_be_zero(options):
  scores = {'a': jnp.arange(1.0, 7).reshape(2, 3), 'b': jnp.zeros((2, 3))}
  masks = lth.masks.full(scores, where=['a', 'b'])  # b would be a bias
  with emptied('densities' in options, 'a, and a layer without'):
    assert lth.prune(scores, masks, **options)['b'].all()


def test_fewer_weights_than_layers():
  scores, masks = network(SMALL)  # 96 weights
  with emptied(True, 'b/kernel'):
    lth.prune(scores, masks, sparsity=0.97, scope='global')
  with pytest.raises(
    ValueError,
    match=r'leaves 2 weights for 3 layers \(a/kernel, b/kernel, c/kernel\),',
  ):
    lth.prune(scores, masks, sparsity=0.98, scope='global')


@pytest.mark.parametrize('options', OPTIONS[-2:], ids='-'.join)
def test_scores_must_be_floats(options):
  scores, masks = network(SMALL)
  scores['a']['kernel'] = np.ones((8, 6), int)
  scores['c']['kernel'] = np.ones((4, 7), bool)
  with pytest.raises(
    TypeError, match='but a/kernel is int32; c/kernel is bool'
  ):
    lth.prune(scores, masks, **options)


@pytest.mark.parametrize(
  'share',
  [np.float32(0.7), np.float16(0.7), jnp.float32(0.7), jnp.asarray(0.7)],
  ids=str,
)
def test_numbers_of_low_precision_are_decimals(share):
  scores = {'w': jnp.arange(5.0)[None]}
  masks = lth.masks.full(scores)
  # 3.5 of five go, which rounds to four; by the float, it would be three.
  for options in (
    {'sparsity': share},
    {'fraction': share},
    {'fraction': {'w': share}},
    {'sparsity': share, 'scope': 'global'},
  ):
    assert counts(lth.prune(scores, masks, **options)) == [1]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'sparsity': '0.5'}, "`sparsity` was '0.5', but must be a number."),
    ({'sparsity': True}, '`sparsity` was True, but must be a number.'),
    ({'sparsity': [0.5]}, '`sparsity` was [0.5], but must be a number.'),
    ({'fraction': {'w': None}}, '`fraction` was None, but must be a number.'),
    ({'fraction': 1j}, '`fraction` was 1j, but must be a number.'),
    ({'sparsity': 0.5, 'densities': 'erk'}, 'pass `lthjax.densities.erk`.'),
    ({'pattern': '2:4'}, 'pass `lthjax.patterns.NM(2, 4)`.'),
    ({'pattern': None, 'sparsity': 0.5}, '`pattern` was None, but must be'),
    ({'sparsity': 0.5, 'at_least': 1.5}, '`at_least` was 1.5, but must be an'),
    ({'sparsity': 0.5, 'at_least': None}, '`at_least` was None, but must be'),
  ],
)
def test_arguments_of_the_wrong_type(options, message):
  with pytest.raises(TypeError, match=re.escape(message)):
    lth.prune(*flat(8), **options)


def test_a_traced_sparsity():
  scores, masks = flat(8)
  with pytest.raises(TypeError, match='`sparsity` is traced, but must be a'):
    jax.jit(lambda s: lth.prune(scores, masks, sparsity=s))(0.5)


@pytest.mark.parametrize(
  ('scores', 'masks', 'message'),
  [
    ({'w': 'x'}, {'w': np.ones(2, bool)}, '`scores` must be a tree of arrays'),
    (
      None,
      {'w': np.ones(2, bool)},
      '`scores` must be a tree of arrays',
    ),
    ({'w': np.ones(2)}, None, '`masks` must be a tree of bool arrays and None'),
    ({'w': np.ones(2)}, {}, '`masks` must be a tree of bool arrays and None'),
    ({'w': np.ones(2)}, {'w': True}, 'but w is a bool. `lthjax.masks.full'),
    ({'w': np.ones(2)}, {'w': np.ones(2)}, 'but w is float64[2]. `lthjax.m'),
    (
      {'w': np.ones(2)},
      {'w': jax.ShapeDtypeStruct((2,), bool)},
      'but w is an abstract bool[2]',
    ),
    (
      {'w': jax.ShapeDtypeStruct((2,), np.float32)},
      {'w': np.ones(2, bool)},
      'but w is an abstract float32[2]',
    ),
    (
      {'w': np.ones(2, np.complex64)},
      {'w': np.ones(2, bool)},
      'w is complex64. Cast them',
    ),
  ],
)
def test_trees_of_the_wrong_kind(scores, masks, message):
  with pytest.raises(TypeError, match=re.escape(message)):
    lth.prune(scores, masks, sparsity=0.5)


def test_scores_are_compared_with_their_signs():
  """Params as scores keep the largest values, not the largest magnitudes."""
  weights = np.float32([-3.0, 2.0, -1.0, 0.5])
  masks = np.ones(4, bool)
  signed = lth.prune({'w': weights}, {'w': masks}, sparsity=0.5)
  magnitude = lth.prune(
    lth.scores.magnitude({'w': weights}), {'w': masks}, sparsity=0.5
  )
  assert signed['w'].tolist() == [False, True, False, True]
  assert magnitude['w'].tolist() == [True, True, False, False]


def test_leaves_without_masks_say_what_is_stacked():
  rng = np.random.default_rng(0)
  kernel = (
    rng.normal(size=(4, 6, 8)) * np.array([1, 0.7, 0.5, 0.1])[:, None, None]
  )
  params = {
    'trunk': {
      'ln': {'scale': np.ones((4, 6), np.float32)},
      'fc': {'kernel': kernel.astype(np.float32)},
    }
  }
  masks = lth.masks.full(params)
  assert masks['trunk']['ln']['scale'] is None
  for pruned in (
    lth.prune(lth.scores.magnitude(params), masks, sparsity=0.75),
    lth.prune_iteratively(
      lth.scores.magnitude, params, sparsity=0.75, steps=2, scope='layer'
    ),
  ):
    assert np.sum(pruned['trunk']['fc']['kernel'], (1, 2)).tolist() == [12] * 4
