"""Patterns: which shapes survive, along the axes that they are meant for."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import slow_but
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth
from lthjax import patterns, trees
from lthjax.axes import Axes

DENSE = Axes(inputs=(0,), outputs=(1,))
OUT_FIRST = Axes(inputs=(1,), outputs=(0,))

# Names and shapes, with the axis along which groups run.
KERNELS = [
  ('fc/kernel', (8, 3), 0),
  ('conv/kernel', (3, 3, 4, 2), 2),
  ('conv1d/kernel', (5, 8, 2), 1),
  ('attention/query/kernel', (8, 2, 3), 0),
  ('q_proj/kernel', (8, 3, 2), 0),
  ('attn/wqkv', (3, 4, 2, 5), 1),
  ('attention/out/kernel', (2, 4, 5), 1),
  ('blocks/fc/kernel', (3, 8, 2), 1),  # scanned: layers come first
  ('blocks/conv2d/kernel', (3, 1, 1, 4, 2), 3),
  ('blocks/attention/query/kernel', (3, 8, 2, 5), 1),
  ('blocks/attention/out/kernel', (3, 2, 8, 5), 2),
  ('experts/w1', (3, 8, 2), 1),
  ('layers/0/weight', (3, 8), 1),  # Equinox
  ('w', (4, 3), 0),
  ('', (4, 3), 0),
]


def axes_of(name, shape):
  return lth.axes.resolve(None, {name: shape})[name]


def oracle(scores, alive, n, m, axis):
  """The n largest of every m by a stable sort, one group at a time."""
  moved = np.moveaxis(scores, axis, -1)
  groups = moved.reshape(-1, m)
  allowed = np.moveaxis(alive, axis, -1).reshape(-1, m)
  keep = np.zeros(groups.shape, bool)
  for i, (group, ok) in enumerate(zip(groups, allowed, strict=True)):
    order = [j for j in np.argsort(-group, kind='stable') if ok[j]]
    keep[i, order[:n]] = True
  return np.moveaxis(keep.reshape(moved.shape), -1, axis)


def ties(seed, shape):
  """Scores of which many are equal."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).round(0).astype(np.float32)


@pytest.mark.parametrize(
  ('name', 'shape', 'axis', 'n', 'm'),
  [
    *((*kernel, 2, 4) for kernel in KERNELS),
    *((*kernel, 1, m) for kernel in KERNELS[::5] for m in (4, 2)),
  ],
)
def test_groups_against_sort(name, shape, axis, n, m):
  scores = ties(len(name), shape)
  full = np.ones(shape, bool)
  keep = np.asarray(
    patterns.NM(n, m).select(scores, full, None, axes_of(name, shape))
  )
  assert keep.dtype == bool
  np.testing.assert_array_equal(keep, oracle(scores, full, n, m, axis))
  groups = np.moveaxis(keep, axis, -1).reshape(-1, m)
  assert (groups.sum(1) == n).all()


def test_dead_weights_stay_dead():
  scores = ties(0, (8, 6))
  alive = np.random.default_rng(1).random((8, 6)) < 0.5
  keep = patterns.NM(2, 4).select(scores, alive, None, DENSE)
  np.testing.assert_array_equal(keep, oracle(scores, alive, 2, 4, 0))
  assert not (np.asarray(keep) & ~alive).any()
  groups = alive.reshape(2, 4, 6).sum(1)
  found = np.asarray(keep).reshape(2, 4, 6).sum(1)
  np.testing.assert_array_equal(found, np.minimum(groups, 2))


@pytest.mark.parametrize(('n', 'm'), [(4, 4), (3, 32), (16, 32)])
def test_other_sizes(n, m):
  scores = ties(2, (64, 3))
  full = np.ones(scores.shape, bool)
  keep = patterns.NM(n, m).select(scores, full, None, DENSE)
  np.testing.assert_array_equal(keep, oracle(scores, full, n, m, 0))


def test_axes_from_the_caller():
  scores = {'fc': {'a': ties(3, (3, 8)), 'x': ties(4, (8, 3))}}
  masks = lth.masks.full(scores)
  axes = {'*/a': Axes(inputs=(-1,), outputs=(0,))}
  keep = lth.prune(scores, masks, pattern=patterns.NM(2, 4), axes=axes)['fc']
  for name, i in [('a', 1), ('x', 0)]:
    x = scores['fc'][name]
    expected = oracle(x, np.ones(x.shape, bool), 2, 4, i)
    np.testing.assert_array_equal(keep[name], expected)


def test_filling_groups_by_hand():
  scores = np.array([[5, 1, 9, 7], [0, 2, 2, 1], [3, 4, 1, 2]], np.float32)
  keep = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], bool)
  full = patterns.NM(2, 4).fill(scores, keep, None, OUT_FIRST)
  # The first grows 9, the second the first of two that tie, the third nothing.
  expected = [[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
  np.testing.assert_array_equal(full, expected)
  scores[0, 2] = scores[1] = np.nan  # NaN never grows.
  full = patterns.NM(2, 4).fill(scores, keep, None, OUT_FIRST)
  expected = [[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1]]
  np.testing.assert_array_equal(full, expected)


@pytest.mark.parametrize(
  ('name', 'shape', 'axis'), [KERNELS[0], KERNELS[3], KERNELS[6]]
)
@pytest.mark.parametrize(('n', 'm'), [(2, 4), (1, 2)])
def test_filling_groups_against_sort(name, shape, axis, n, m):
  pattern = patterns.NM(n, m)
  scores = ties(1, shape)
  some = np.random.default_rng(2).random(shape) < 0.5
  keep = oracle(ties(3, shape), some, n, m, axis)
  axes = axes_of(name, shape)
  full = np.asarray(pattern.fill(scores, keep, None, axes))
  # The kept ones come first, and then the largest of the others.
  first = np.where(keep, np.float32(100), scores)
  expected = oracle(first, np.ones(shape, bool), n, m, axis)
  np.testing.assert_array_equal(full, expected)
  assert not (keep & ~full).any()
  again = pattern.fill(ties(4, shape), full, None, axes)
  np.testing.assert_array_equal(again, full)
  assert pattern.faults({name: full}, {name: axes}) == []
  assert keep.sum() < full.sum()


def test_unstructured_fill():
  scores = np.array([[1, 3, 3, 9]], np.float32)
  keep = np.array([[True, False, False, False]])
  fill = patterns.Unstructured().fill
  full = fill(scores, keep, 3, DENSE)
  np.testing.assert_array_equal(full, [[1, 1, 0, 1]])
  np.testing.assert_array_equal(fill(scores, keep, 1, DENSE), keep)


def test_masks_at_fault():
  masks = {
    'a': np.eye(4, dtype=bool),
    'c': np.tile([[True], [True], [False], [False]], (2, 3)),
    'd': np.zeros((4, 2), bool),
    'layers/w': np.array([np.eye(4), np.zeros((4, 4))], bool),
  }

  def faults(pattern, masks):
    return pattern.faults(masks, pattern.fit(None, masks))

  assert faults(patterns.Unstructured(), masks) == [
    'd has none alive',
    'layers/w has 1 of 2 layers with none alive',
  ]
  assert faults(patterns.NM(2, 4), masks) == [
    'a has 4 groups of 4 on axis 0 without exactly 2 alive',
    'd has 2 groups of 4 on axis 0 without exactly 2 alive',
    'layers/w has 8 groups of 4 on axis 1 without exactly 2 alive',
  ]
  assert faults(patterns.NM(1, 4), {'a': masks['a']}) == []
  assert faults(patterns.Columns(), masks) == [
    'a has 4 tiles that are alive in part',
    'c has 3 tiles that are alive in part',
    'layers/w has 4 tiles that are alive in part',
    'd has none alive',
    'layers/w has 1 of 2 layers with none alive',
  ]
  assert faults(patterns.Rows(), {'c': masks['c']}) == []
  assert faults(patterns.Block((2, 3)), {'c': masks['c']}) == []
  assert faults(patterns.Block((4, 1)), {'c': masks['c']}) == [
    'c has 6 tiles that are alive in part'
  ]


@pytest.mark.parametrize(
  'pattern', [patterns.Unstructured(), patterns.NM(2, 4), patterns.Rows()]
)
def test_traced_masks_are_not_looked_into(pattern):
  def number_of_faults(mask):
    return len(pattern.faults({'w': mask}, {'w': DENSE}))

  assert jax.jit(number_of_faults)(np.zeros((4, 2), bool)) == 0


def test_prune_a_network():
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
      self.conv = nnx.Conv(4, 3, (2, 2), rngs=rngs)

  shapes = nnx.state(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), nnx.Param)
  scores = jax.tree.map(lambda x: ties(x.size, x.shape), shapes)
  masks = lth.masks.full(shapes)
  pruned = lth.prune(scores, masks, pattern=patterns.NM(2, 4))
  assert lth.masks.density(pruned) == 0.5
  axes = {
    'attention/key/kernel': 0,
    'attention/out/kernel': 1,
    'attention/query/kernel': 0,
    'attention/value/kernel': 0,
    'conv/kernel': 2,
  }
  named = trees.by_name(pruned)
  assert {n for n, m in named.items() if m is not None} == set(axes)
  for name, axis in axes.items():
    values = np.asarray(trees.by_name(scores)[name])
    expected = oracle(values, np.ones(values.shape, bool), 2, 4, axis)
    np.testing.assert_array_equal(named[name], expected)
  # Twice the same is once; and one of four is a subset.
  again = lth.prune(scores, pruned, pattern=patterns.NM(2, 4))
  assert lth.masks.hamming(again, pruned) == 0
  fewer = lth.prune(scores, pruned, pattern=patterns.NM(1, 4))
  assert lth.masks.density(fewer) == 0.25
  assert lth.masks.count(lth.masks.difference(fewer, pruned)) == 0


def test_unstructured():
  scores, alive = ties(5, (6, 7)), np.ones((6, 7), bool)
  pattern = patterns.Unstructured()
  assert pattern.density is None
  assert pattern.fit(None, {'w': (3, 5)}) == {'w': DENSE}
  np.testing.assert_array_equal(
    pattern.select(scores, alive, 11, DENSE),
    lth.keep_largest(scores, 11, alive),
  )


def test_density_of_nm():
  assert patterns.NM(2, 4).density == 0.5
  assert patterns.NM(1, 4).density == 0.25


def test_every_leaf_that_does_not_fit_is_named():
  shapes = {
    'attention/query/kernel': (10, 4, 4),
    'conv/kernel': (3, 3, 3, 16),
    'fc1/kernel': (6, 4),
    'fc2/kernel': (8, 3),
    'scale': (8,),
  }
  message = (
    '2:4 sparsity does not fit: attention/query/kernel (10, 4, 4) has 10 on'
    ' axis 0, not a multiple of 4; conv/kernel (3, 3, 3, 16) has 3 on axis 2,'
    ' not a multiple of 4; fc1/kernel (6, 4) has 6 on axis 0, not a multiple of'
    ' 4; scale (8,) has no axis of inputs. Leave these leaves dense with'
    ' `lthjax.masks.full(params, where=...)`, or correct their axes with'
    ' `axes=`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    patterns.NM(2, 4).fit(None, shapes)
  scores = {n: np.ones(s, np.float32) for n, s in shapes.items()}
  masks = lth.masks.full(scores)
  with pytest.raises(ValueError, match=r'fc1/kernel \(6, 4\) has 6'):
    lth.prune(scores, masks, pattern=patterns.NM(2, 4))


@pytest.mark.parametrize(('n', 'm'), [(5, 4), (0, 4), (-1, 4), (0, 0)])
def test_n_of_m(n, m):
  with pytest.raises(
    ValueError, match=f'needs 1 <= n <= m, but n is {n} and m is {m}'
  ):
    patterns.NM(n, m).fit(None, {'w': (8, 8)})


def test_kernels_that_can_be_read_in_two_ways_are_refused():
  scores = {'w': ties(0, (4, 8, 8)), 'fc': ties(1, (8, 8))}
  masks = lth.masks.full(scores)
  for pattern in (patterns.NM(2, 4), patterns.Rows(), patterns.Block((2, 2))):
    with pytest.raises(ValueError, match=r'layers in w \(4, 8, 8\)\. Ask'):
      lth.prune(
        scores,
        masks,
        pattern=pattern,
        sparsity=None if pattern.density else 0.5,
      )
  axes = lth.axes.by_layout(scores, stacked={'w': 0})
  pruned = lth.prune(scores, masks, pattern=patterns.NM(2, 4), axes=axes)
  expected = oracle(scores['w'], np.ones((4, 8, 8), bool), 2, 4, 1)
  np.testing.assert_array_equal(pruned['w'], expected)
  # Where axes do not matter, nothing is refused.
  assert lth.masks.count(lth.prune(scores, masks, sparsity=0.5)) == 160


# ---- Tiles


def tiles(pattern, shape, axes):
  """Lists the tiles of one kernel, layer by layer, as lists of indices."""
  found = {}
  for index in np.ndindex(*shape):

    def at(group, index=index):
      return tuple(index[axis] for axis in group)

    last_in, last_out = axes.inputs[-1], axes.outputs[-1]
    if isinstance(pattern, patterns.Rows):
      key = at(axes.inputs)
    elif isinstance(pattern, patterns.Columns):
      key = at(axes.outputs)
    else:
      a, b = pattern.shape
      key = list(index)
      key[last_in] //= a
      key[last_out] //= b
      key = tuple(key[i] for i in axes.layer)
    found.setdefault(at(axes.stack), {}).setdefault(key, []).append(index)
  return [list(layer.values()) for layer in found.values()]


def prune_tiles(pattern, scores, alive, count, axes):
  """Keeps whole tiles of the largest sums, one layer at a time."""
  keep = np.zeros(scores.shape, bool)
  for layer in tiles(pattern, scores.shape, axes):
    size = len(layer[0])
    number = max((count + size // 2) // size, min(count, 1))
    sums = [
      sum(float(scores[i]) for i in tile if alive[i])
      if any(alive[i] for i in tile)
      else -math.inf
      for tile in layer
    ]
    order = np.argsort(-np.array(sums), kind='stable')[:number]
    for j in order:
      for i in layer[j]:
        keep[i] = alive[i]
  return keep


TILES = [patterns.Rows(), patterns.Columns(), patterns.Block((2, 1))]
# Their axes are those of others, and `test_groups_against_sort` reads them.
SAME = ('q_proj/kernel', 'experts/w1', 'w', '')


@pytest.mark.parametrize(
  ('name', 'shape', 'axis'),
  slow_but(
    [x for x in KERNELS if x[0] not in SAME],
    ['fc/kernel', 'conv/kernel', 'blocks/attention/query/kernel'],
    several=True,
  ),
)
@pytest.mark.parametrize('pattern', TILES, ids=str)
def test_tiles_against_loops(pattern, name, shape, axis):
  del axis
  axes = axes_of(name, shape)
  rng = np.random.default_rng(len(name))
  scores = rng.integers(0, 9, shape).astype(np.float32)
  alive = rng.random(shape) < 0.8
  size = math.prod(shape[i] for i in axes.layer)
  select, fill = (
    jax.jit(f, static_argnums=3) for f in (pattern.select, pattern.fill)
  )
  for count in (0, 1, size // 3, size):
    keep = np.asarray(select(scores, alive, count, axes))
    expected = prune_tiles(pattern, scores, alive, count, axes)
    np.testing.assert_array_equal(keep, expected)
    # From there, the best of the other tiles come in whole.
    full = fill(scores, keep, size // 2, axes)
    least = prune_tiles(
      pattern,
      np.where(keep, np.float32(1000), scores),
      np.ones(shape, bool),
      max(size // 2, 1),
      axes,
    )
    if count <= size // 3 and keep.any():
      np.testing.assert_array_equal(full, least | keep)


def test_blocks_by_hand():
  # Sums of blocks of two inputs by one neuron: 5 1, 0 7.
  scores = np.array([[5, 0], [0, 1], [0, 3], [0, 4]], np.float32)
  masks = {'w': np.ones((4, 2), bool)}
  block = patterns.Block((2, 1))
  one, two = (
    lth.prune({'w': scores}, masks, sparsity=s, pattern=block)['w']
    for s in (0.75, 0.5)
  )
  np.testing.assert_array_equal(one, [[0, 0], [0, 0], [0, 1], [0, 1]])
  np.testing.assert_array_equal(two, [[1, 0], [1, 0], [0, 1], [0, 1]])
  # One neuron of four: sums are 5 and 8. One input of two: 5, 1, 3, 4.
  for pattern, sparsity, expected in [
    (patterns.Columns(), 0.5, [[0, 1]] * 4),
    (patterns.Rows(), 0.75, [[1, 1], [0, 0], [0, 0], [0, 0]]),
    (patterns.Rows(), 0.5, [[1, 1], [0, 0], [0, 0], [1, 1]]),
    # The budget is one weight, and one input is the least there is.
    (patterns.Rows(), 0.9, [[1, 1], [0, 0], [0, 0], [0, 0]]),
  ]:
    found = lth.prune({'w': scores}, masks, sparsity=sparsity, pattern=pattern)
    np.testing.assert_array_equal(found['w'], expected)
  # A block with NaN never wins, and a half-dead block counts what is alive.
  scores[3, 1] = np.nan
  keep = block.select(scores, masks['w'], 4, DENSE)
  np.testing.assert_array_equal(keep, [[1, 1], [1, 1], [0, 0], [0, 0]])
  alive = np.array([[0, 1], [1, 1], [1, 1], [1, 0]], bool)
  keep = block.select(scores, alive, 4, DENSE)
  np.testing.assert_array_equal(keep, [[0, 1], [0, 1], [0, 1], [0, 0]])


def test_filters_of_convolutions():
  rng = np.random.default_rng(0)
  scores = {'conv/kernel': rng.random((3, 3, 4, 8)).astype(np.float32)}
  masks = lth.masks.full(scores)
  kept = lth.prune(scores, masks, sparsity=0.75, pattern=patterns.Columns())
  sums = scores['conv/kernel'].sum((0, 1, 2))
  alive = np.asarray(kept['conv/kernel']).all((0, 1, 2))
  assert sorted(np.flatnonzero(alive)) == sorted(np.argsort(-sums)[:2])
  assert lth.masks.count(kept) == 2 * 36


def test_tiles_that_do_not_fit():
  shapes = {'conv/kernel': (3, 3, 2, 8), 'fc': (6, 3)}
  message = (
    'Block(shape=(4, 2)) does not fit: conv/kernel (3, 3, 2, 8) has 2 on axis'
    ' 2, not a multiple of 4; fc (6, 3) has 6 on axis 0, not a multiple of 4;'
    ' fc (6, 3) has 3 on axis 1, not a multiple of 2. Leave'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    patterns.Block((4, 2)).fit(None, shapes)
  with pytest.raises(ValueError, match=r'scale \(3,\) has no axis of inputs'):
    patterns.Rows().fit(None, {'scale': (3,)})


@pytest.mark.parametrize('shape', [(0, 1), (4,), 4, (2.0, 1), 'ab', None])
def test_blocks_have_two_sizes(shape):
  with pytest.raises(ValueError, match='`Block` takes two positive integers'):
    patterns.Block(shape).fit(None, {'w': (8, 8)})


@pytest.mark.slow
@pytest.mark.parametrize('empty', slow_but([(0, 4), (4, 0), (0, 0)], [(4, 0)]))
def test_empty_leaves(empty):
  shapes = {'lora_b': empty, 'fc': (8, 4)}
  scores = {n: np.ones(s, np.float32) for n, s in shapes.items()}
  masks = {n: np.ones(s, bool) for n, s in shapes.items()}
  for pattern in (patterns.Unstructured(), patterns.NM(2, 4), *TILES):
    found = lth.prune(
      scores,
      masks,
      pattern=pattern,
      sparsity=None if pattern.density else 0.5,
    )
    assert lth.masks.alive_by_name(found) == {'lora_b': 0, 'fc': 16}
    assert pattern.faults(found, pattern.fit(None, found)) == []


def test_patterns_are_values():
  assert patterns.Rows() != patterns.Columns()
  assert patterns.NM(2, 4) == patterns.NM(2, 4) != patterns.Block((2, 4))
  assert len({*TILES, patterns.Unstructured(), patterns.Rows()}) == 4
  # Integers of NumPy and JAX, of which the latter have no hash.
  numbers = np.int64(2), jnp.int32(4)
  assert {patterns.NM(*numbers), patterns.Block(list(numbers))} == {
    patterns.NM(2, 4),
    patterns.Block((2, 4)),
  }


@pytest.mark.parametrize('pattern', slow_but(TILES, TILES[:1]), ids=str)
def test_training_in_tiles(pattern):
  params = {'w': jnp.asarray(ties(0, (8, 6))), 'layers/w': jnp.ones((2, 8, 6))}
  masks = lth.random_masks(jax.random.key(0), sparsity=0.5, pattern=pattern)
  moving = lth.rigl(
    optax.sgd(0.1),
    masks,
    pattern=pattern,
    update_every=1,
    stop_step=3,
    drop_fraction=optax.constant_schedule(0.5),
    applies_gradient=True,
  )
  pruning = lth.gradual(
    optax.sgd(0.1), sparsity=0.5, pattern=pattern, update_every=1, stop_step=3
  )
  for tx in (moving, pruning):
    state = tx.init(params)
    update = jax.jit(tx.update)
    seen = set()
    for step in range(3):
      grads = {n: jnp.asarray(ties(step, x.shape)) for n, x in params.items()}
      _, state = update(grads, state, params)
      masks = lth.get_masks(state)
      assert pattern.faults(masks, pattern.fit(None, masks)) == []
      seen.add(np.asarray(masks['w']).tobytes())
    assert np.asarray(masks['layers/w']).sum((1, 2)).tolist() == [24, 24]
    assert lth.masks.count({'w': masks['w']}) == 24
    assert len(seen) > 1


# ---- Stacks


@pytest.mark.parametrize(
  'pattern', slow_but([patterns.Unstructured(), *TILES], TILES[2:]), ids=str
)
def test_a_stack_is_pruned_layer_by_layer(pattern):
  rng = np.random.default_rng(0)
  layers = [rng.random((8, 6)).astype(np.float32) * s for s in (1, 0.7, 0.3)]
  whole, single = {'layers/kernel': np.stack(layers)}, dict(enumerate(layers))
  for options in ({'sparsity': 0.75}, {'fraction': 0.5}):
    found, expected = (
      lth.prune(x, lth.masks.full(x), pattern=pattern, **options)
      for x in (whole, single)
    )
    for i, layer in enumerate(np.asarray(found['layers/kernel'])):
      np.testing.assert_array_equal(layer, expected[i])


def test_axes_of_a_stack_may_be_anywhere():
  x = np.random.default_rng(0).random((8, 3, 6)).astype(np.float32)
  axes = {'w': Axes(stack=(1,), inputs=(0,), outputs=(2,))}
  masks = {'w': np.ones(x.shape, bool)}
  for pattern in (patterns.Unstructured(), patterns.NM(2, 4), *TILES):
    sparsity = None if pattern.density else 0.75
    found = lth.prune(
      {'w': x}, masks, pattern=pattern, sparsity=sparsity, axes=axes
    )['w']
    for i in range(3):
      one = {'w': x[:, i]}
      expected = lth.prune(
        one, lth.masks.full(one), pattern=pattern, sparsity=sparsity
      )
      np.testing.assert_array_equal(found[:, i], expected['w'])


@pytest.mark.parametrize(
  ('pattern', 'spec', 'message'),
  [
    (
      lth.patterns.NM(2, 4),
      P(('x', 'y')),
      '2:4 sparsity needs groups that lie on one device each: w has 16 on axis'
      ' 0, spread over the 8 devices of mesh axis x and y. Shard another axis',
    ),
    (lth.patterns.NM(2, 4), P('x'), None),
    (lth.patterns.NM(2, 4), P(None, ('x', 'y')), None),
    (lth.patterns.Block((4, 2)), P('x', 'y'), None),
    (
      lth.patterns.Block((8, 8)),
      P('x', 'y'),
      'w has 16 on axis 0, spread over the 4 devices of mesh axis x; w has 8 on'
      ' axis 1',
    ),
    (lth.patterns.Rows(), P(('x', 'y')), None),
  ],
)
def test_groups_lie_on_one_device(pattern, spec, message):
  mesh = AbstractMesh((4, 2), ('x', 'y'))
  place = NamedSharding(mesh, spec)
  leaves = {'w': jax.ShapeDtypeStruct((16, 8), np.float32, sharding=place)}
  if message is None:
    pattern.fit(None, leaves)
    return
  with pytest.raises(ValueError, match=re.escape(message)):
    pattern.fit(None, leaves)


@pytest.mark.parametrize(
  'pattern',
  [lth.patterns.Block((4, 1)), lth.patterns.Rows(), lth.patterns.Columns()],
)
def test_more_weights_than_an_int32_counts(pattern):
  def prune(scores):
    masks = {'w': jnp.ones_like(scores, bool)}
    return lth.prune({'w': scores}, masks, pattern=pattern, sparsity=0.25)

  shape = (2**16, 2**16)
  found = jax.eval_shape(prune, jax.ShapeDtypeStruct(shape, np.float32))
  assert found['w'].shape == shape
