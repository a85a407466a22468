"""Exactly the k largest: by hand, against NumPy's sort, on many devices."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_but
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth
from lthjax import _bisection
from lthjax._late import Late
from lthjax._sums import count_true
from lthjax.selection import keep_each

pytestmark = pytest.mark.optimized

DTYPES = ['float32', 'bfloat16', 'float16']


def oracle(leaves, count, eligible=None):
  """The same by a stable sort of all leaves together, in float64."""
  values = [np.asarray(x).astype(np.float64).ravel() for x in leaves]
  flat = np.concatenate(values)
  valid = ~np.isnan(flat)
  if eligible is not None:
    valid &= np.concatenate([np.ravel(e) for e in eligible])
  candidates = np.flatnonzero(valid)
  order = candidates[np.argsort(-flat[candidates], kind='stable')]
  keep = np.zeros(flat.size, bool)
  keep[order[: max(count, 0)]] = True
  parts = np.split(keep, np.cumsum([v.size for v in values])[:-1])
  return [k.reshape(np.shape(x)) for k, x in zip(parts, leaves, strict=True)]


def awkward(seed, shape, dtype, denormals=True):
  """Few distinct values, and every kind that a comparison can get wrong."""
  rng = np.random.default_rng(seed)
  info = jnp.finfo(dtype)
  tiny = float(info.smallest_subnormal)
  pool = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5]
  if denormals:
    pool += [tiny, -tiny, 3 * tiny, -3 * tiny]
  pool += [float(info.max), float(info.min), float(info.tiny)]
  # By way of float64: the CPU backend flushes denormals when it computes.
  return rng.choice(np.array(pool), shape).astype(jnp.dtype(dtype))


@pytest.mark.parametrize(
  ('scores', 'count', 'expected'),
  [
    ([3.0, 1.0, 2.0, 2.0], 0, [0, 0, 0, 0]),
    ([3.0, 1.0, 2.0, 2.0], 1, [1, 0, 0, 0]),
    ([3.0, 1.0, 2.0, 2.0], 2, [1, 0, 1, 0]),
    ([3.0, 1.0, 2.0, 2.0], 3, [1, 0, 1, 1]),
    ([3.0, 1.0, 2.0, 2.0], 4, [1, 1, 1, 1]),
    ([3.0, 1.0, 2.0, 2.0], 9, [1, 1, 1, 1]),
    ([7.0, 7.0, 7.0, 7.0], 3, [1, 1, 1, 0]),
    ([-0.0, 0.0, -0.0, 0.0], 2, [1, 1, 0, 0]),
    ([0.0, -0.0, 0.0, -1.0], 2, [1, 1, 0, 0]),
    ([-np.inf, np.inf, 0.0, -np.inf], 3, [1, 1, 1, 0]),
    ([np.nan, -np.inf, np.nan, np.inf], 4, [0, 1, 0, 1]),
    ([np.nan, -np.nan, np.nan, -5.0], 1, [0, 0, 0, 1]),
    ([-3.0, -1.0, -2.0, -2.0], 2, [0, 1, 1, 0]),
    # Denormals are in order, though arithmetic on a CPU takes them for zero.
    ([1e-42, 3e-42, 0.0, 2e-42], 1, [0, 1, 0, 0]),
    ([1e-42, 3e-42, 0.0, 2e-42], 2, [0, 1, 0, 1]),
    ([-1e-42, -3e-42, -0.0, -2e-42], 2, [1, 0, 1, 0]),
    ([1e-45, 0.0, -1e-45, -0.0], 1, [1, 0, 0, 0]),
  ],
)
def test_by_hand(scores, count, expected):
  x = np.array(scores, np.float32)
  for keep in (
    lth.keep_largest(x, count),
    jax.jit(lth.keep_largest)(x, count),
    lth.keep_largest(x, count, axis=0),
    lth.keep_largest(np.tile(x[:, None], 2), count, axis=0)[:, 1],
  ):
    assert keep.dtype == bool
    assert keep.astype(int).tolist() == expected


def test_eligible_by_hand():
  scores = jnp.array([3.0, jnp.nan, 2.0, jnp.inf, 1.0])
  alive = jnp.array([True, True, False, False, True])
  keep = lth.keep_largest(scores, 1, alive)
  assert keep.tolist() == [True, False, False, False, False]
  keep = lth.keep_largest(scores, 5, alive)
  assert keep.tolist() == [True, False, False, False, True]
  assert not lth.keep_largest(scores, 5, jnp.zeros(5, bool)).any()


@pytest.mark.parametrize('dtype', DTYPES)
def test_every_count_against_sort(dtype):
  x = awkward(0, (7, 9), dtype)
  alive = np.random.default_rng(1).random(x.shape) < 0.7
  for count in range(x.size + 3):
    np.testing.assert_array_equal(
      lth.keep_largest(x, count), oracle([x], count)[0]
    )
    keep = np.asarray(lth.keep_largest(x, count, alive))
    np.testing.assert_array_equal(keep, oracle([x], count, [alive])[0])
    assert keep.sum() == min(count, (alive & (x == x)).sum())


def test_float64():
  x = awkward(0, (7, 9), 'float64')
  with jax.enable_x64(True):
    scores = jnp.asarray(x)
    assert scores.dtype == np.float64
    for count in (0, 1, 17, 40, 63, 65):
      np.testing.assert_array_equal(
        lth.keep_largest(scores, count), oracle([x], count)[0]
      )
    # Neighbours that float32 cannot tell apart.
    close = jnp.array([1.0, np.nextafter(1.0, 2.0), 1.0])
    assert lth.keep_largest(close, 1).tolist() == [False, True, False]
    assert lth.keep_largest(close, 1, axis=0).tolist() == [False, True, False]
    long = jnp.tile(close, 6)  # two results of one value each
    assert lth.keep_largest(long, 2, axis=0).sum() == 2


@pytest.mark.parametrize('shape', [(), (0,), (1,), (0, 3), (997,), (1024, 3)])
@pytest.mark.parametrize('count', [0, 1, 500, 5000])
def test_sizes(shape, count):
  x = awkward(2, shape, 'float32')
  keep = lth.keep_largest(x, count)
  np.testing.assert_array_equal(keep, oracle([x], count)[0])


def test_more_entries_than_int16_counts():
  # Partial sums are int16; a leading axis just below and above its range.
  for shape in [(2**15 - 1, 3), (2**15, 3), (2**17,)]:
    x = np.ones(shape, np.float32)
    size = x.size
    for count in (1, size - 1, size):
      assert int(lth.keep_largest(x, count).sum()) == count


@pytest.mark.parametrize(
  'seed', [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 5))]
)
def test_exact_count_of_large_bf16(seed):
  # One bf16 step is 2 at 256 and 2^120 at the top: `max + eps` would drown.
  rng = np.random.default_rng(seed)
  x = (rng.normal(size=(40, 50)) * 10.0 ** rng.integers(0, 38)).astype(
    jnp.bfloat16
  )
  alive = rng.random(x.shape) < 0.5
  for count in rng.integers(0, 1200, 8):
    keep = np.asarray(lth.keep_largest(x, count, alive))
    assert keep.sum() == min(count, alive.sum())
    np.testing.assert_array_equal(keep, oracle([x], count, [alive])[0])


def test_many_counts_trace_once():
  traces = 0

  @jax.jit
  def select(scores, count):
    nonlocal traces
    traces += 1
    return lth.keep_largest(scores, count)

  x = awkward(3, (7, 9), 'float32')
  for count in range(10):
    np.testing.assert_array_equal(select(x, count), oracle([x], count)[0])
  assert traces == 1


def test_many_counts_compile_once_without_jit():
  x = jnp.asarray(awkward(3, (7, 9), 'float32'))
  alive = jnp.ones(x.shape, bool)
  lth.keep_largest(x, 1, alive)
  with jax.no_tracing(True):
    for count in (0, 5, 63, 100):
      lth.keep_largest(x, count, alive)
    lth.keep_largest(x, np.int64(7), alive)


def test_tree_shares_one_budget():
  scores = {
    'a': jnp.array([1.0, 5.0]),
    'b': None,
    'c': {'d': jnp.array([[5.0], [3.0]])},
  }
  keep = lth.keep_largest(scores, 1)  # the tie goes to the earlier leaf
  assert keep['a'].tolist() == [False, True]
  assert keep['b'] is None
  assert keep['c']['d'].tolist() == [[False], [False]]
  keep = lth.keep_largest(scores, 3)
  assert keep['a'].tolist() == [False, True]
  assert keep['c']['d'].tolist() == [[True], [True]]


@pytest.mark.parametrize('dtypes', [*itertools.product(DTYPES[:2], repeat=2)])
def test_tree_against_sort(dtypes):
  # Denormals that change their type may become zero on the way.
  leaves = [
    awkward(4, (7, 9), dtypes[0], denormals=False),
    awkward(5, (31,), dtypes[1], denormals=False),
    awkward(6, (), dtypes[0], denormals=False),
  ]
  rng = np.random.default_rng(7)
  alive = [rng.random(x.shape) < 0.8 for x in leaves]
  for count in (0, 1, 20, 47, 95, 97):
    keep = lth.keep_largest(leaves, count, alive)
    expected = oracle(leaves, count, alive)
    for k, e in zip(keep, expected, strict=True):
      np.testing.assert_array_equal(k, e)


def test_eligible_may_be_in_another_container():
  scores = [jnp.array([1.0, 2.0]), jnp.array([3.0])]
  alive = (np.array([True, True]), np.array([False]))
  keep = lth.keep_largest(scores, 1, alive)
  assert isinstance(keep, list)
  assert [k.tolist() for k in keep] == [[False, True], [False]]


@pytest.mark.parametrize(
  ('dtype', 'axis', 'length'),
  [
    *itertools.product(['float32'], [1], [1, 16, 17, 40]),
    *itertools.product(['float32'], [0, -1], [16, 17]),
    *itertools.product(['bfloat16', 'float16'], [1], [16, 17]),
  ],
)
def test_axis_against_sort(dtype, axis, length):
  shape = [3, 2, 3]
  shape[axis] = length
  x = awkward(length, shape, dtype)
  alive = np.random.default_rng(8).random(shape) < 0.8
  one = np.delete(shape, axis)
  counts = np.random.default_rng(9).integers(0, length + 2, one)
  keep = lth.keep_largest(x, np.expand_dims(counts, axis), alive, axis=axis)
  keep, x = np.moveaxis(keep, axis, -1), np.moveaxis(x, axis, -1)
  alive = np.moveaxis(alive, axis, -1)
  for i in np.ndindex(*one):
    np.testing.assert_array_equal(
      keep[i], oracle([x[i]], counts[i], [alive[i]])[0]
    )


@pytest.mark.parametrize('axes', [(1, 2), (2, 0), (0, -1), (0, 1, 2), (1,)])
def test_several_axes_against_slices(axes):
  shape = (4, 5, 6)
  x = np.random.default_rng(7).normal(size=shape).round(1).astype('f4')  # ties
  alive = np.random.default_rng(3).random(shape) < 0.8
  axes = tuple(sorted(i % 3 for i in axes))
  rest = [i for i in range(3) if i not in axes]
  one = [1 if i in axes else n for i, n in enumerate(shape)]
  counts = np.random.default_rng(4).integers(0, 22, one)
  keep = np.asarray(lth.keep_largest(x, counts, alive, axis=axes))

  def slices(y):
    return y.transpose(*rest, *axes).reshape(counts.size, -1)

  for k, s, a, n in zip(*map(slices, (keep, x, alive, counts)), strict=True):
    np.testing.assert_array_equal(k, oracle([s], n[0], [a])[0])


@pytest.mark.parametrize('length', [5, 40])
def test_axis_with_one_count_for_all(length):
  x = awkward(10, (length, 6), 'float32')
  for count in (0, 1, 3, length):
    keep = np.asarray(lth.keep_largest(x, count, axis=0))
    for j in range(6):
      np.testing.assert_array_equal(keep[:, j], oracle([x[:, j]], count)[0])


@pytest.mark.parametrize('length', [8, 40])
def test_vmap_is_a_loop(length):
  x = awkward(11, (5, length), 'float32')
  alive = np.random.default_rng(12).random(x.shape) < 0.8
  counts = np.array([0, 1, length // 2, length, length + 1])
  whole = jax.vmap(lth.keep_largest)(x, counts, alive)
  along = jax.vmap(lambda *args: lth.keep_largest(*args, axis=0))(
    x, counts, alive
  )
  for i in range(5):
    expected = oracle([x[i]], counts[i], [alive[i]])[0]
    np.testing.assert_array_equal(whole[i], expected)
    np.testing.assert_array_equal(along[i], expected)


@pytest.mark.parametrize('axis', [None, 0, 1])
def test_neither_sorts_nor_gathers(axis):
  x = jnp.zeros((40, 8))
  program = jax.make_jaxpr(lambda x, k: lth.keep_largest(x, k, axis=axis))(x, 3)
  found = re.findall(r'\b(sort|top_k|gather|scatter|cumsum)\b', str(program))
  assert found == []


def check_sharded():
  """Runs in a process with eight devices: same bits, and no data moves."""
  matrix = awkward(13, (64, 48), 'float32')
  tree = {
    'a': matrix,
    'b': awkward(14, (8 * 125,), 'float32'),
    'c': awkward(15, (3, 16, 8), 'bfloat16'),
    'd': matrix,
  }
  short, large = matrix[:8], awkward(16, (32, 24, 40), 'float32')
  expected = {
    'flat': lth.keep_largest(matrix, 1000),
    'axis': [lth.keep_largest(matrix, 10, axis=axis) for axis in (0, 1)],
    'stack': lth.keep_largest(tree['c'], 70, axis=(1, 2)),
    'short': lth.keep_largest(short, 3, axis=0),
    'large': lth.keep_largest(large, 5000),
    'tree': lth.keep_largest(tree, 2000),
  }
  expected = jax.tree.map(np.asarray, expected)
  np.testing.assert_array_equal(expected['flat'], oracle([matrix], 1000)[0])

  def compile_one(x, *args, **kwargs):
    select = functools.partial(lth.keep_largest, **kwargs)
    compiled = jax.jit(select).lower(x, *args).compile()
    text = compiled.as_text()
    assert not re.search('all-gather|all-to-all|collective-permute', text)
    sent = re.findall(r'= (.*?) all-reduce(?:-start)?\(', text)
    sent = set(re.findall(r'\w+\[[\d,]*\]', ' '.join(sent)))
    if (axis := kwargs.get('axis')) is None:  # Only numbers are sent,
      assert sent <= {'s32[]'}, sent
    else:  # or one for each slice.
      slices = np.delete(x.shape, axis).prod()
      for one in sent:
        size = math.prod(map(int, re.findall(r'\d+', one.partition('[')[2])))
        assert one.startswith(('s32', 'pred')), sent
        assert size <= slices, sent
    return compiled

  def check(x, wanted, *args, **kwargs):
    keep = compile_one(x, *args, **kwargs)(x, *args)
    jax.tree.map(np.testing.assert_array_equal, keep, wanted)
    for k, s in zip(jax.tree.leaves(keep), jax.tree.leaves(x), strict=True):
      assert k.sharding.is_equivalent_to(s.sharding, k.ndim)

  auto, explicit = AxisType.Auto, AxisType.Explicit
  for devices, kind in ((1, auto), (2, explicit), (8, auto), (8, explicit)):
    mesh = jax.make_mesh(
      (devices,), ('d',), (kind,), devices=jax.devices()[:devices]
    )

    def put(x, *spec, mesh=mesh):
      return jax.device_put(x, NamedSharding(mesh, P(*spec)))

    with jax.set_mesh(mesh):
      rows, columns = put(matrix, 'd'), put(matrix, None, 'd')
      leaves = {
        'a': columns,
        'b': put(tree['b'], 'd'),
        'c': put(tree['c'], None, 'd'),
        'd': rows,
      }
      check(leaves, expected['tree'], 2000)
      if devices == 8:
        check(rows, expected['flat'], 1000)
        check(columns, expected['flat'], 1000)
        check(leaves['c'], expected['stack'], 70, axis=(1, 2))
        check(put(short, 'd'), expected['short'], 3, axis=0)
        check(put(large, 'd'), expected['large'], 5000)
        place = NamedSharding(mesh, P('d'))
        huge = jax.ShapeDtypeStruct((32, 1024, 4096), 'float32', sharding=place)
        memory = compile_one(huge, 5000).memory_analysis()
        scores = 4 * math.prod(huge.shape) // devices
        assert memory.temp_size_in_bytes <= 3 * scores, memory
        fours = jax.ShapeDtypeStruct((2**20, 4, 8), 'float32', sharding=place)
        memory = compile_one(fours, 2, axis=1).memory_analysis()
        scores = 4 * math.prod(fours.shape) // devices
        assert memory.temp_size_in_bytes <= 3 * scores, memory
        each = jax.jit(lambda xs: keep_each(xs, [1000, 1000, 1000]))
        if kind == AxisType.Explicit:  # Of other arrays, types say nothing.
          large = jax.ShapeDtypeStruct((1024, 2048), 'float32', sharding=place)
          text = each.lower([large] * 3).as_text()
          assert text.count('stablehlo.while') == 1, 'one loop for all'
          for spec, axes in ((('d',), None), ((None, 'd'), (1, 2))):
            tests = np.random.default_rng(0).random((16, 64, 96)) < 0.4
            count = jax.jit(functools.partial(count_true, axes=axes))
            np.testing.assert_array_equal(
              count(put(tests, *spec)),
              tests.sum(axes, keepdims=axes is not None),
            )
        for keep in each([rows, columns, rows]):
          np.testing.assert_array_equal(keep, expected['flat'])
        for axis, wanted in enumerate(expected['axis']):
          check(rows, wanted, 10, axis=axis)
          check(columns, wanted, 10, axis=axis)
  # Inside `shard_map` every device selects among its own.
  with jax.set_mesh(mesh):
    local = jax.shard_map(
      lambda x: lth.keep_largest(x, 9), in_specs=P('d'), out_specs=P('d')
    )
    parts = [oracle([x], 9)[0] for x in np.split(matrix, devices)]
    np.testing.assert_array_equal(local(rows), np.concatenate(parts))
  print('done')


@pytest.mark.slow
def test_same_bits_on_any_number_of_devices(run_python, monkeypatch):
  # What is sent does not depend on how the code of a device is compiled.
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  source = 'from tests.test_selection import *; check_sharded()'
  assert run_python(source, devices=8).split() == ['done']


def test_scores_must_be_floats():
  scores = {'a': jnp.arange(3), 'b': {'c': jnp.ones(2)}, 'd': jnp.ones(2, bool)}
  message = (
    'Scores must be floating point, but a is int32; d is bool. Cast them with'
    ' `.astype(jnp.float32)`, or take `jnp.abs` of complex ones.'
  )
  with pytest.raises(TypeError, match=re.escape(message)):
    lth.keep_largest(scores, 1)
  with pytest.raises(TypeError, match='but the array is complex64'):
    lth.keep_largest(jnp.ones(2, jnp.complex64), 1)


@pytest.mark.parametrize(
  ('scores', 'message'),
  [
    ({'w': 'x'}, 'Scores must be floating point, but w is a str.'),
    (True, 'Scores must be floating point, but the array is a bool.'),
    (
      {'w': jax.ShapeDtypeStruct((3,), np.float32)},
      '`scores` must be a tree of arrays, but w is an abstract float32[3].',
    ),
  ],
)
def test_scores_of_the_wrong_kind(scores, message):
  with pytest.raises(TypeError, match=re.escape(message)):
    lth.keep_largest(scores, 1)


@pytest.mark.parametrize('count', [2.0, 28.999999999999996, np.float32(3)])
def test_count_must_be_an_integer(count):
  with pytest.raises(TypeError, match='must be an integer'):
    lth.keep_largest(jnp.ones(100), count)


def test_count_must_not_be_negative():
  x = np.ones((2, 3), np.float32)
  for count in (-1, np.int8(-1), jnp.int32(-2)):
    with pytest.raises(ValueError, match='but must be at least 0'):
      lth.keep_largest(x, count)
  with pytest.raises(ValueError, match='but must be at least 0'):
    lth.keep_largest(x, np.array([[1], [-1]]), axis=1)
  # Where it cannot be seen, it keeps nothing.
  assert not jax.jit(lth.keep_largest)(x, -1).any()


@pytest.mark.parametrize('count', [None, 'three', [1], True, np.bool_(1)])
def test_count_of_the_wrong_type(count):
  with pytest.raises(TypeError, match=r'`count` was .* must be an integer'):
    lth.keep_largest(np.ones(3, np.float32), count)


@pytest.mark.parametrize(
  'count', [2**40, np.int64(2**40), np.uint32(2**32 - 1), np.int8(100)]
)
def test_counts_of_all_integer_types(count):
  x = np.ones(7, np.float32)
  assert lth.keep_largest(x, count).all()
  if np.dtype(np.asarray(count).dtype).itemsize <= 4:
    assert lth.keep_largest(x, jnp.asarray(count)).all()


def test_counts_above_int32(monkeypatch):
  # As if an int32 had four bits, so that small arrays need two words.
  monkeypatch.setattr(_bisection, '_INT32', 16)
  monkeypatch.setattr(_bisection, '_WORD', 3)
  leaves = [
    awkward(20, (5, 2, 7), 'float32'),
    awkward(21, (13,), 'float32'),
    awkward(22, (3, 11), 'float32'),
    awkward(23, (), 'float32'),
  ]
  rng = np.random.default_rng(24)
  alive = [rng.random(x.shape) < 0.8 for x in leaves]
  for count in (0, 1, 20, 47, 95, 97, 10**10):
    keep = lth.keep_largest(leaves, count, alive)
    expected = oracle(leaves, count, alive)
    for k, e in zip(keep, expected, strict=True):
      np.testing.assert_array_equal(k, e)
  ties = np.zeros((6, 5, 3), np.float32)
  for count in (0, 1, 44, 89, 90):
    expected = oracle([ties], count)[0]
    np.testing.assert_array_equal(lth.keep_largest(ties, count), expected)
  # Slices, and a traced count.
  wide = awkward(25, (4, 5, 6), 'float32')
  select = jax.jit(functools.partial(lth.keep_largest, axis=(1, 2)))
  keep = select(wide, np.full((4, 1, 1), 9))
  for k, x in zip(keep, wide, strict=True):
    np.testing.assert_array_equal(k, oracle([x], 9)[0])


def check_ties_above_int32():
  """Prints where ties of sharded arrays are broken otherwise than by a sort."""
  _bisection._INT32, _bisection._WORD = 16, 3
  rng = np.random.default_rng(0)
  places = {
    (8, 4, 6): P('x', 'y'),
    (4, 16): P(None, ('x', 'y')),
    (24,): P('x'),
    (2, 0, 8): P('y'),
    (5, 3): P(),
    (): P(),
  }
  select = jax.jit(lambda *args: lth.keep_largest(*args))
  slices = jax.jit(lambda *args: lth.keep_largest(*args, axis=(1, 2)))
  for kind, turn in itertools.product((AxisType.Explicit, AxisType.Auto), '12'):
    mesh = jax.make_mesh((4, 2), ('x', 'y'), (kind,) * 2)
    leaves = [rng.integers(-1, 2, shape).astype('f4') for shape in places]
    alive = [rng.random(shape) < 0.8 for shape in places]
    with jax.set_mesh(mesh):
      put = [NamedSharding(mesh, place) for place in places.values()]
      given = jax.device_put((leaves, alive), (put, put))
      for count in (0, 1, *rng.integers(0, 260, 8).tolist(), 10**6):
        found = select(given[0], jnp.int32(count), given[1])
        wanted = oracle(leaves, count, alive)
        if not all(map(np.array_equal, found, wanted)):
          print(kind, turn, count)
      counts = rng.integers(0, 24, (8, 1, 1))
      found = slices(given[0][0], counts, given[1][0])
      for x, own, one, n in zip(
        found, leaves[0], alive[0], counts.ravel(), strict=True
      ):
        if not np.array_equal(x, oracle([own], n, [one])[0]):
          print(kind, turn, n)
  print('done')


@pytest.mark.slow
def test_ties_above_int32_on_many_devices(run_python, monkeypatch):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  source = 'from tests.test_selection import *; check_ties_above_int32()'
  assert run_python(source, devices=8).split() == ['done']


def test_as_many_scores_as_there_are():
  half = jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32)
  tree = [half, half, half]
  kept = jax.eval_shape(lambda x: lth.keep_largest(x, 2**31 + 1), tree)
  assert [k.shape for k in kept] == [half.shape] * 3


@pytest.mark.parametrize(
  ('shape', 'axis', 'length'),
  [
    ((2**31 + 1,), None, '2,147,483,649'),
    ((3, 2**31 + 8), 1, '2,147,483,656'),
    ((2**32, 2), None, '4,294,967,296'),
  ],
)
def test_an_axis_is_no_longer_than_positions_count(shape, axis, length):
  select = functools.partial(lth.keep_largest, count=5, axis=axis)
  message = f'An axis of the scores has {length} entries, but must have at most'
  with pytest.raises(ValueError, match=re.escape(message)):
    jax.eval_shape(select, jax.ShapeDtypeStruct(shape, jnp.float32))
  longest = jax.ShapeDtypeStruct((2**31,), jnp.float32)
  assert jax.eval_shape(functools.partial(select, axis=None), longest)


def test_many_arrays_in_one_loop():
  leaves = [
    awkward(30, (7, 9), 'float32'),
    awkward(31, (7, 9), 'float32'),
    awkward(32, (9,), 'bfloat16'),
    awkward(33, (7, 9), 'float32'),
    awkward(34, (), 'float16'),
    awkward(35, (9,), 'bfloat16'),
    awkward(36, (0, 3), 'float32'),
  ]
  rng = np.random.default_rng(37)
  alive = [rng.random(x.shape) < 0.8 for x in leaves]
  for counts in ([5, 60, 3, 0, 1, 9, 0], [70, 1, 0, 33, 0, 2, 4]):
    for eligible in (None, alive):
      eager = keep_each(leaves, counts, eligible)
      keep = jax.jit(keep_each)(leaves, counts, eligible)
      for i, (k, x) in enumerate(zip(keep, leaves, strict=True)):
        own = None if eligible is None else eligible[i]
        expected = lth.keep_largest(x, counts[i], own)
        np.testing.assert_array_equal(k, expected)
        np.testing.assert_array_equal(eager[i], expected)
        assert k.shape == x.shape


def test_many_arrays_by_slices():
  leaves = [awkward(seed, (4, 3, 5), 'float32') for seed in (40, 41, 42)]
  counts = [np.arange(4).reshape(4, 1, 1), 7, np.full((4, 1, 1), 6)]
  axes = [(1, 2), None, (1, 2)]
  select = functools.partial(keep_each, axes=axes)
  for keep in (select(leaves, counts), jax.jit(select)(leaves, counts)):
    np.testing.assert_array_equal(keep[1], oracle([leaves[1]], 7)[0])
    for i in (0, 2):
      for j in range(4):
        expected = oracle([leaves[i][j]], counts[i].ravel()[j])[0]
        np.testing.assert_array_equal(keep[i][j], expected)


@pytest.mark.parametrize('dtype', DTYPES[:2])
def test_late_scores_give_the_same_bits(dtype):
  leaves = [awkward(seed, (4, 3, 5), dtype) for seed in (43, 44)]
  alive = [np.random.default_rng(i).random((4, 3, 5)) < 0.8 for i in (45, 46)]
  counts = [np.arange(4).reshape(4, 1, 1) * 5, 17]
  axes = [(1, 2), None]

  @jax.jit
  def select(leaves, alive, true):
    late = [Late(x, lambda x=x: x, true=true) for x in leaves]
    others = [Late(m, lambda m=m: ~m) for m in alive]
    return keep_each(late, counts, others, axes=axes)

  found = select(leaves, [~m for m in alive], True)
  for args in zip(found, leaves, counts, alive, axes, strict=True):
    keep, x, count, mask, axis = args
    expected = lth.keep_largest(x, count, mask, axis=axis)
    np.testing.assert_array_equal(keep, expected)


def test_program_of_many_arrays_stays_small():
  def lines(number):
    leaves = [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * number
    counts = [3] * number
    jaxpr = jax.make_jaxpr(lambda xs: keep_each(xs, counts))(leaves)
    return str(jaxpr).count('while'), len(str(jaxpr).splitlines())

  (loops, few), (loops_of_many, many) = lines(2), lines(40)
  assert loops == loops_of_many == 3  # two digits, and the ties
  assert many < 10 * few


@pytest.mark.parametrize('axis', [(0, 1), (1, 2), (0, 2), (2, 0), (-1,)])
def test_several_axes_against_sort(axis):
  x = awkward(50, (3, 18, 4), 'float32')
  axes = sorted(a % 3 for a in axis)
  keep = np.asarray(lth.keep_largest(x, 5, axis=axis))
  rest = [a for a in range(3) if a not in axes]
  x, keep = np.transpose(x, rest + axes), np.transpose(keep, rest + axes)
  for i in np.ndindex(*x.shape[: len(rest)]):
    np.testing.assert_array_equal(keep[i], oracle([x[i]], 5)[0])


@pytest.mark.parametrize(
  'dtype',
  [
    'float8_e8m0fnu',
    'float8_e4m3fn',
    'float8_e5m2',
    'float8_e3m4',
    'float8_e4m3b11fnuz',
    'float4_e2m1fn',
  ],
)
@pytest.mark.parametrize('other', slow_but([None, 'float32'], ['float32']))
def test_small_floats(dtype, other):
  dtype = jnp.dtype(dtype)
  bits = np.arange(2 ** jnp.finfo(dtype).bits, dtype=np.uint8)
  bits = np.random.default_rng(0).permutation(bits)
  x = bits.view(dtype) if bits.size == 256 else bits.astype(dtype)
  leaves = [x] if other is None else [x, np.linspace(-9, 9, 30, dtype=other)]
  for count in (0, 1, 7, 100, 200, 300):
    found = lth.keep_largest(leaves, count)
    for k, e in zip(found, oracle(leaves, count), strict=True):
      np.testing.assert_array_equal(k, e)
  if other is None:
    keep = lth.keep_largest(x[:12], 3, axis=0)
    np.testing.assert_array_equal(keep, oracle([x[:12]], 3)[0])


def test_weak_types_count_in_full():
  leaves = [jnp.ones(2, jnp.bfloat16), jnp.full(2, 1.001)]
  keep = lth.keep_largest(leaves, 2)
  assert [k.tolist() for k in keep] == [[False, False], [True, True]]


@pytest.mark.parametrize('scores', [None, {}, {'a': None}])
def test_no_scores(scores):
  with pytest.raises(ValueError, match='needs at least one array'):
    lth.keep_largest(scores, 1)


@pytest.mark.parametrize(
  ('eligible', 'message'),
  [
    ({'a': jnp.ones(2, bool), 'b': None}, 'is None where there are scores: b'),
    (
      {'a': jnp.ones(3, bool), 'b': jnp.ones(2, bool)},
      r'a: mask of shape \(3,\), scores of shape \(2,\)',
    ),
    (
      {'a': jnp.ones(2), 'b': jnp.ones(2, int)},
      'a: mask of dtype float32, not bool; b: mask of dtype int32, not bool',
    ),
    ({'a': jnp.ones(2, bool)}, 'b has no mask'),
    ({'a': True, 'b': jnp.ones(2, bool)}, 'a: mask is a bool, not an array'),
  ],
)
def test_eligible_must_fit(eligible, message):
  scores = {'a': jnp.ones(2), 'b': jnp.ones(2)}
  with pytest.raises(ValueError, match=message):
    lth.keep_largest(scores, 1, eligible)


def test_eligible_of_a_bare_array_must_fit():
  with pytest.raises(ValueError, match=r'the array: mask of shape \(2,\)'):
    lth.keep_largest(jnp.ones(3), 1, jnp.ones(2, bool))


@pytest.mark.parametrize(
  ('scores', 'axis'),
  [
    ([np.ones(3), np.ones(4)], 0),
    (np.ones((3, 4)), 2),
    (np.ones((3, 4)), -3),
    (np.float32(1), 0),
    (np.ones((3, 4)), (0, 2)),
    (np.ones((3, 4)), (1, -1)),
  ],
)
def test_axis_must_exist(scores, axis):
  with pytest.raises(
    ValueError, match='needs a single array with such an axis'
  ):
    lth.keep_largest(scores, 1, axis=axis)


@pytest.mark.parametrize(
  ('shape', 'axis', 'wanted'),
  [
    ((2,), None, ()),
    ((3,), 1, (3, 1)),
    ((3, 4), 1, (3, 1)),
    ((2, 4), 0, (1, 4)),
  ],
)
def test_count_must_broadcast(shape, axis, wanted):
  message = f'the shape {shape}, but must broadcast to {wanted}'
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.keep_largest(jnp.ones((3, 4)), jnp.ones(shape, int), axis=axis)


@pytest.mark.parametrize(
  ('shape', 'axes'),
  [
    ((768, 6), (0,)),  # in blocks of 16 rows
    ((4, 3, 3, 64, 5), (1, 2, 3)),
    ((2, 120, 3), (1,)),  # of 3
    ((24, 3), (0,)),  # too few, as is a prime
    ((101, 3), (0,)),
    ((2**16, 2), (0,)),  # more than an int16 counts
    ((34, 2, 34), (0, 2)),  # which are no neighbors
    ((2, 40, 300), (1, 2)),  # in blocks within a row
    ((2, 33 * 12, 9), (1, 2)),  # of rows
    ((3, 64, 3, 3), (1, 2, 3)),  # of neither
    ((101, 3), (0, 1)),
    ((1023 * 1024,), (0,)),  # as many as an int16 counts
  ],
)
def test_bools_are_counted_along_any_axes(shape, axes):
  for share in (0.4, 2):  # All of them are true in the end.
    tests = np.random.default_rng(0).random(shape) < share
    np.testing.assert_array_equal(
      jax.jit(functools.partial(count_true, axes=axes))(tests),
      tests.sum(axes, keepdims=True),
    )
