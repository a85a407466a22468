"""Error barriers: by hand, against NumPy, and to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_but

from lthjax import landscape

pytestmark = pytest.mark.optimized

RNG = np.random.default_rng(8)
X = RNG.normal(size=(50, 9)).astype(np.float32)
LABELS = RNG.integers(4, size=50)
SHAPES = {'fc1': (9, 300), 'fc2': (300, 100), 'output': (100, 4)}


def logits(params):
  x = X
  for name in SHAPES:
    x = x @ params[name]['kernel'] + params[name]['bias']
    x = x if name == 'output' else jax.nn.relu(x)
  return x


@jax.jit
def error(params):
  return jnp.mean(jnp.argmax(logits(params), -1) != LABELS)


@jax.jit
def loss(params):
  chosen = jax.nn.log_softmax(logits(params))[jnp.arange(50), LABELS]
  return -jnp.mean(chosen)


def net(seed):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape) / 9, jnp.float32)

  return {
    name: {'kernel': normal(*shape), 'bias': normal(shape[1])}
    for name, shape in SHAPES.items()
  }


def double_well(params):
  return (params['w'] ** 2 - 1) ** 2


def test_interpolate_by_hand():
  a = {'w': jnp.array([0.0, 8.0]), 'b': None}
  b = {'w': jnp.array([4.0, 0.0]), 'b': None}
  for alpha, w in [(0.25, [1, 6]), (0.5, [2, 4]), (0.75, [3, 2]), (2, [8, -8])]:
    middle = landscape.interpolate(a, b, alpha)
    np.testing.assert_array_equal(middle['w'], w)
    assert middle['b'] is None


@pytest.mark.parametrize(
  'dtype', slow_but([jnp.float32, jnp.bfloat16, jnp.float16], [jnp.bfloat16])
)
def test_interpolation_is_exact_at_the_ends_and_where_nothing_changes(dtype):
  a, b = 100 * jax.random.normal(jax.random.key(0), (2, 1000)).astype(dtype)
  a, b = a.at[:100].set(0), b.at[:100].set(0)
  line = jax.jit(jax.vmap(landscape.interpolate, (None, None, 0)))
  alphas = jnp.linspace(0, 1, 7)
  between = line({'w': a}, {'w': b}, alphas)['w']
  assert between.dtype == dtype
  assert between[0].tobytes() == a.tobytes()
  assert between[-1].tobytes() == b.tobytes()
  assert not any(between[:, :100].tobytes())
  for same in line({'w': a}, {'w': a}, alphas)['w']:
    assert same.tobytes() == a.tobytes()


def test_ends_are_exact_however_far_apart():
  a = {'w': jnp.array([60000.0, np.inf, -0.0], jnp.float16), 'x': 1.0}
  b = {'w': jnp.array([-60000.0, 1.0, 2.0], jnp.float16), 'x': 3.0}
  for alpha, end in [(0, a), (1, b), (jnp.array(0.0), a), (jnp.array(1.0), b)]:
    found = landscape.interpolate(a, b, alpha)
    assert found['w'].tobytes() == end['w'].tobytes()
    assert found['x'] == end['x']
  middle = landscape.interpolate(a, b, 0.25)
  assert middle['w'][0] == 30000
  assert middle['w'].dtype == jnp.float16
  assert middle['x'] == 1.5


@pytest.mark.parametrize('batch_size', [None, 1])
@pytest.mark.parametrize(
  ('value', 'found'),
  [
    (True, 'a bool'),
    (jnp.array(False), 'a bool'),
    ((1.0, 2.0), 'a tuple'),
    (None, 'a NoneType'),
    (jnp.ones((2, 1)), 'shape (2, 1)'),
  ],
)
def test_an_error_is_one_number(value, found, batch_size):
  a = {'w': jnp.ones(2)}
  with pytest.raises(ValueError, match='must return a scalar') as info:
    landscape.error_barrier(lambda _: value, a, a, batch_size=batch_size)
  assert f'but returned {found}. Return one number, the' in str(info.value)
  even = landscape.error_barrier(lambda _: 0.25, a, a, batch_size=batch_size)
  assert (even.barrier, even.errors[0]) == (0, 0.25)


def test_networks_meet_by_name():
  a, b = {'fc': {'w': jnp.ones(2)}}, {'fc': [jnp.ones(2)]}
  with pytest.raises(ValueError, match='fc/0 is in the second only'):
    landscape.interpolate(a, b, 0.5)
  pair = landscape.interpolate([jnp.zeros(2)], (jnp.ones(2),), 0.5)
  assert isinstance(pair, list)
  np.testing.assert_array_equal(pair[0], [0.5, 0.5])


def test_barrier_by_hand():
  a, b = {'w': jnp.array(-1.0)}, {'w': jnp.array(1.0)}
  barrier = landscape.error_barrier(double_well, a, b, points=5)
  np.testing.assert_array_equal(barrier.alphas, [0, 0.25, 0.5, 0.75, 1])
  # (w^2 - 1)^2 at -1, -1/2, 0, 1/2, 1.
  np.testing.assert_array_equal(barrier.errors, [0, 0.5625, 1, 0.5625, 0])
  assert barrier.barrier == barrier.above_line == 1


def test_the_middle_is_a_point_of_31_and_not_of_30():
  a, b = {'w': jnp.array(-1.0)}, {'w': jnp.array(1.0)}
  assert landscape.error_barrier(double_well, a, b).barrier == 1
  barrier = landscape.error_barrier(double_well, a, b, points=30).barrier
  # The nearest are at w = +-1/29.
  np.testing.assert_allclose(barrier, (1 - 1 / 29**2) ** 2, rtol=1e-6)


def test_mean_of_the_ends_is_not_the_line_between_them():
  a, b = {'w': jnp.array(1.0)}, {'w': jnp.array(5.0)}
  even = landscape.error_barrier(lambda params: params['w'], a, b)
  assert even.barrier == 2  # 5 - (1 + 5) / 2
  np.testing.assert_allclose(even.above_line, 0, atol=1e-6)
  # Errors 1, 4, 5: 4 - 3 above the line, 5 - 3 above the mean.
  hill = landscape.error_barrier(
    lambda params: jnp.minimum(params['w'] + 1, 4) + params['w'] / 5 - 1.2,
    a,
    {'w': jnp.array(5.0)},
    points=3,
  )
  np.testing.assert_allclose(hill.errors, [1, 3.4, 3.8], rtol=1e-6)
  np.testing.assert_allclose(hill.barrier, 1.4, rtol=1e-5)
  np.testing.assert_allclose(hill.above_line, 1.0, rtol=1e-5)


@pytest.mark.parametrize('batch_size', slow_but([None, 1, 4], [4]))
def test_barrier_against_numpy(batch_size):
  a, b = net(0), net(1)
  found = landscape.error_barrier(loss, a, b, points=7, batch_size=batch_size)
  wanted = []
  for alpha in np.linspace(0, 1, 7):
    x = np.asarray(X, np.float64)
    for layer in SHAPES:
      kernel, bias = (
        (1 - alpha) * np.asarray(a[layer][k], np.float64)
        + alpha * np.asarray(b[layer][k], np.float64)
        for k in ('kernel', 'bias')
      )
      x = x @ kernel + bias
      if layer != 'output':
        x = np.maximum(x, 0)
    chosen = x[np.arange(50), np.asarray(LABELS)]
    wanted.append(np.mean(np.log(np.exp(x).sum(1)) - chosen))
  np.testing.assert_allclose(found.errors, wanted, rtol=1e-5)
  height = max(wanted) - (wanted[0] + wanted[-1]) / 2
  np.testing.assert_allclose(found.barrier, height, atol=1e-5)
  above = wanted - np.linspace(wanted[0], wanted[-1], 7)
  np.testing.assert_allclose(found.above_line, above.max(), atol=1e-5)


@pytest.mark.parametrize(
  ('measure', 'batch_size'), [(error, None), (error, 5), (loss, 1)]
)
def test_identical_networks_have_no_barrier_to_the_bit(measure, batch_size):
  found = landscape.error_barrier(
    measure, net(0), net(0), batch_size=batch_size
  )
  assert found.barrier.tobytes() == found.above_line.tobytes() == bytes(4)
  assert len(set(np.asarray(found.errors).tolist())) == 1
  assert found.errors[0] > 0


def test_ends_are_the_errors_of_the_networks():
  a, b = net(0), net(1)
  found = landscape.error_barrier(loss, a, b, points=3, batch_size=1)
  assert found.errors[0] == loss(a)
  assert found.errors[-1] == loss(b)


def test_a_jitted_error_is_compiled_once():
  traced = []

  @jax.jit
  def counted(params):
    traced.append(1)
    return jnp.sum(params['w'] ** 2)

  for i in range(3):
    ends = {'w': jnp.ones(i + 1)[:1]}, {'w': jnp.full(1, float(i))}
    landscape.error_barrier(counted, *ends, points=4 + i)
  assert len(traced) == 1


def test_barriers_under_vmap_and_jit():
  a, b = {'w': jnp.array([-1.0, -2.0])}, {'w': jnp.array([1.0, 2.0])}
  together = jax.jit(
    jax.vmap(lambda a, b: landscape.error_barrier(double_well, a, b))
  )(a, b)
  # From 9 over 0 and 1 and 0 back to 9: nowhere above the ends.
  np.testing.assert_allclose(together.barrier, [1, 0], atol=1e-6)


def test_networks_of_different_structure():
  a = {'fc1': jnp.ones((2, 3)), 'fc2': jnp.ones(3), 'n': jnp.array(1)}
  b = {'fc1': jnp.ones((2, 4)), 'fc3': jnp.ones(3), 'n': jnp.array(1)}
  match = (
    'fc2 is in the first only; fc3 is in the second only; fc1 has shapes'
    r' \(2, 3\) and \(2, 4\); n has dtype int32, not floating'
  )
  for f in (
    lambda a, b: landscape.interpolate(a, b, 0.5),
    lambda a, b: landscape.error_barrier(double_well, a, b),
    landscape.distance,
    landscape.cosine,
  ):
    with pytest.raises(ValueError, match=match):
      f(a, b)
  with pytest.raises(ValueError, match='w has dtypes float32 and bfloat16'):
    landscape.interpolate({'w': jnp.ones(2)}, {'w': jnp.ones(2, 'bfloat16')}, 0)
  with pytest.raises(ValueError, match='w is None in one of them'):
    landscape.interpolate(
      {'w': jnp.ones(2), 'b': jnp.ones(2)}, {'w': None, 'b': jnp.ones(2)}, 0
    )


def test_bad_arguments():
  a = {'w': jnp.ones(2)}
  with pytest.raises(ValueError, match='`points` was 1, but must be from 2 to'):
    landscape.error_barrier(double_well, a, a, points=1)
  with pytest.raises(
    ValueError, match='`batch_size` was 0, but must be at least 1'
  ):
    landscape.error_barrier(double_well, a, a, batch_size=0)
  with pytest.raises(TypeError, match=r'`params_a` .* it has no array'):
    landscape.error_barrier(double_well, {}, {})
  with pytest.raises(ValueError, match=r'scalar, but returned shape \(2,\)'):
    landscape.error_barrier(double_well, a, a)
  for wrong in (
    None,
    'w',
    3.0,
    {'w': 'w'},
    {'w': jax.ShapeDtypeStruct((), float)},
  ):
    for f in (
      lambda w: landscape.interpolate(w, w, 0.5),
      lambda w: landscape.error_barrier(double_well, w, w),
      lambda w: landscape.distance(a, w),
      lambda w: landscape.cosine(w, a),
    ):
      with pytest.raises(
        TypeError, match=r'`params_[ab]` must be a tree of arr'
      ):
        f(wrong)
  for alpha in ('0.5', None):
    with pytest.raises(
      TypeError, match=r'`alpha` was .*, but must be a number'
    ):
      landscape.interpolate(a, a, alpha)
  with pytest.raises(
    TypeError, match=r'`error` was 0.5, .* `error\(params\) ->'
  ):
    landscape.error_barrier(0.5, a, a)
