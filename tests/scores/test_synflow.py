"""SynFlow: conservation, any depth and any model, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import slow_but

import lthjax as lth
from lthjax import models, scores, trees
from lthjax.program import _scaled

DEPTH, WIDTH = 40, 32


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(params, x):
  for w in params:
    x = jax.nn.relu(x @ w)
  return x


def scanned(params, x):
  return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, params)[0]


def residual(params, x):
  for w in params:
    x = x + jax.checkpoint(jax.nn.relu)(x @ w)
  return x


def numpy_flow(layers, shortcut):
  """Scores of `plain` and `residual` in float64, over their sum."""
  layers = [np.abs(w.astype(np.float64)) for w in layers]
  matrices = [w + shortcut * np.eye(*w.shape) for w in layers]
  forward, backward = [np.ones(len(layers[0]))], [np.ones(len(layers[-1].T))]
  for w in matrices:
    forward.append(forward[-1] @ w)
  for w in matrices[::-1]:
    backward.append(w @ backward[-1])
  pairs = zip(layers, forward[:-1], backward[-2::-1], strict=True)
  return [w * np.outer(x, g) / forward[-1].sum() for w, x, g in pairs]


@pytest.mark.parametrize(
  ('net', 'scale'),
  slow_but(
    [(plain, 1.0), (plain, 1e-5), (scanned, 1e5), (residual, 1.0)],
    [scanned],
    several=True,
  ),
)
def test_forty_layers(net, scale):
  params = draw(DEPTH, WIDTH, WIDTH) * np.float32(scale)
  given = params if net is scanned else list(params)
  found = np.stack(scores.synflow(net, given, (WIDTH,))).astype(np.float64)
  expected = np.stack(numpy_flow(list(params), net is residual))
  ratio = found / expected
  np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-5)
  # To rounding: the common factor is a power of two.
  size = abs(np.abs(params.astype(np.float64)) + (net is residual) * np.eye(32))
  flow = np.log2(np.linalg.multi_dot([np.ones((1, WIDTH)), *size]).sum())
  assert abs(flow - np.log2(np.median(ratio)) + 0.5) % 1 == pytest.approx(
    0.5, abs=1e-4
  )
  assert abs(np.log2(found.sum())) < 80
  if net is not residual:
    np.testing.assert_allclose(found.sum((1, 2)) / found[0].sum(), 1, rtol=1e-5)


def test_ordinary_networks_are_scored_as_they_are():
  params = [draw(784, 300) / 28, draw(300, 100) / 17, draw(100, 10) / 10]
  found = scores.synflow(plain, params, (784,))
  expected = numpy_flow(params, False)
  flow = np.ones(784) @ np.linalg.multi_dot([*map(np.abs, params)])
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y * flow.sum(), rtol=1e-5)
    assert float(x.sum() / flow.sum()) == pytest.approx(1, abs=1e-5)


def test_params_are_taken_by_their_absolute_value():
  params = {'w': jnp.array([[1.0, -2.0]]), 'b': jnp.array([-3.0, 0.0])}
  found = scores.synflow(lambda p, x: x @ p['w'] + p['b'], params, (1,))
  assert found['w'].tolist() == [[1.0, 2.0]]
  assert found['b'].tolist() == [3.0, 0.0]


def check_zoo(model, input_shape):
  params, model_state = jax.jit(model.init)(jax.random.key(0))

  def apply(params, x):
    return model.apply(params, model_state, x)[0]

  found = trees.by_name(scores.synflow(apply, params, input_shape))
  positive = jax.tree.map(jnp.abs, params)

  def total(p):
    return jnp.sum(apply(p, jnp.ones((1, *input_shape))))

  flow, grads = jax.jit(jax.value_and_grad(total))(positive)
  # What is large is divided by a power of two.
  factor = 2.0 ** max(int(np.floor(np.log2(flow))) + 1 - 64, 0)
  for name, x in found.items():
    expected = trees.by_name(positive)[name] * trees.by_name(grads)[name]
    expected = np.asarray(expected, np.float64) / factor
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-30, err_msg=name)
  return found, flow / factor


class Net(nnx.Module):
  """Convolution, BatchNorm, pooling, dropout and a shortcut."""

  def __init__(self, *, rngs):
    self.conv1 = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=rngs)
    self.conv2 = nnx.Conv(4, 4, (3, 3), use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.output = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, x, *, train=False):
    x = nnx.max_pool(self.conv1(x), (2, 2), strides=(2, 2))
    y = self.norm(self.conv2(x), use_running_average=not train)
    x = nnx.relu(x + nnx.gelu(y)).mean((1, 2))
    return self.output(self.dropout(x, deterministic=not train))


@pytest.mark.slow
def test_convolutions_and_batch_norm():
  found, flow = check_zoo(
    models.functional(lambda rngs: Net(rngs=rngs)), (4, 4, 2)
  )
  # Both paths of the shortcut pass the first and the last layer.
  for name in ('conv1/kernel', 'output/kernel'):
    assert float(found[name].sum() / flow) == pytest.approx(1, abs=1e-3)
  assert 0.1 < found['conv2/kernel'].sum() / flow < 0.999


@pytest.mark.slow
def test_resnet_20():
  found, flow = check_zoo(models.resnet_20((8, 8, 3)), (8, 8, 3))
  for name in ('conv1/kernel', 'output/kernel'):
    assert float(found[name].sum() / flow) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_wider_range_changes_no_value():
  """Every rule against the program as it is, in a range that needs none."""

  def f(a, b, flag):
    c = jnp.concatenate([a @ b, jnp.square(b), b**3])
    c = jnp.where(c > 0.5, c, c / (1 + jnp.abs(b[0]))) - jnp.sqrt(c + 9)
    c = jnp.clip(c * jax.lax.rsqrt(jnp.var(c) + 1e-5), -1, 1)[::-1]
    c = (
      jnp.pad(jnp.cumsum(c, 1), 1) + jax.nn.softmax(c).max() + jnp.tanh(a[0, 0])
    )
    c = jax.lax.dynamic_update_slice(c, a @ a, (0, 0))
    d, ys = jax.lax.scan(
      lambda d, x: (d @ a + x, jnp.sum(d)), a @ b, c[:3, :2], reverse=True
    )
    d = jax.lax.cond(flag, lambda d: d @ b.T, lambda d: -d, d)
    return jnp.sum(d) + jnp.max(ys) * jnp.mean(c.T[1:]) - jnp.min(c)

  a, b = draw(2, 2), draw(2, 2, seed=1)
  a, b = np.abs(a), np.abs(b)

  def scaled(a, b, flag):
    value, exponent = _scaled.evaluate(f, a, b, flag)
    return value * _scaled.power_of_two(exponent)

  for flag in (True, False):
    expected = jax.jit(jax.value_and_grad(f, (0, 1)))(a, b, flag)
    found = jax.jit(jax.value_and_grad(scaled, (0, 1)))(a, b, flag)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
      found,
      expected,
    )


def test_layer_norm_far_out_of_range():
  w = draw(30, 8, 8) * np.float32(1e6)

  def norm(x):
    x = x - x.mean()
    return x * jax.lax.rsqrt(jnp.mean(x**2))

  def f(w, x):
    for layer in w:
      x = x @ jnp.abs(layer)
    return norm(x)[0]

  value, exponent = jax.jit(lambda w: _scaled.evaluate(f, w, np.ones(8)))(w)
  x = np.ones(8)
  for layer in w:
    x = x @ np.abs(layer.astype(np.float64))
    x /= x.max()  # which the norm undoes
  expected = (x - x.mean())[0] / x.std()
  assert float(value) * 2.0 ** int(exponent) == pytest.approx(
    expected, rel=1e-3
  )


@pytest.mark.parametrize('mask_value', [-jnp.inf, np.finfo('f4').min, -1e9])
def test_masked_attention(mask_value):
  mask = np.tri(4, dtype=bool)

  def attend(x, w):
    weights = jax.nn.softmax(jnp.where(mask, x @ w @ x.T, mask_value))
    return jnp.sum(weights @ x**2)

  def scaled(x, w):
    value, exponent = _scaled.evaluate(attend, x, w)
    return value * _scaled.power_of_two(exponent)

  x, w = draw(4, 3), draw(3, 3, seed=1)
  expected = jax.jit(jax.value_and_grad(attend, (0, 1)))(x, w)
  found = jax.jit(jax.value_and_grad(scaled, (0, 1)))(x, w)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    found,
    expected,
  )


@pytest.mark.parametrize('size', [2.0**44, 2.0**-44])
@pytest.mark.parametrize('lowest', [-jnp.inf, np.finfo('f4').min])
def test_infinities_belong_to_no_scale(size, lowest):
  def f(x):
    return jnp.max(x @ x @ x @ x, initial=lowest)

  value, exponent = _scaled.evaluate(f, jnp.full((2, 2), size))
  assert float(value) == 0.5
  assert int(exponent) == 4 * np.log2(size) + 4


@pytest.mark.parametrize('scale', slow_but([1e4, 1e-4], [1e4]))
@pytest.mark.parametrize(
  'tail',
  [lambda x: x * jax.nn.softmax(x), lambda x: jnp.max(x, initial=-jnp.inf)],
  ids=['softmax', 'max'],
)
def test_tails_with_infinities_after_many_layers(tail, scale):
  params = draw(20, 8, 8) * np.float32(scale)
  found = scores.synflow(lambda p, x: tail(plain(p, x)), list(params), (8,))
  # Far out of range, softmax picks the largest, or is uniform.
  only = tail(jnp.arange(8.0)).ndim == 0 or scale > 1
  matrices = np.abs(params.astype(np.float64))
  last = np.linalg.multi_dot([np.ones((1, 8)), *matrices])[0]
  weights = np.eye(8)[last.argmax()] if only else np.full(8, 1 / 8)
  expected = numpy_flow([*params[:-1], params[-1] * weights], False)
  ratio = np.sum(found, (1, 2)) / np.sum(expected, (1, 2))
  np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
  np.testing.assert_allclose(
    np.stack(found), ratio[0] * np.stack(expected), rtol=1e-4
  )


# ---- Bad input.


@pytest.mark.parametrize(
  ('outputs', 'told'),
  [
    (lambda y: (y, {}), r'0: float32\[1, 3\]'),
    (lambda y: {'logits': y}, r'logits: float32\[1, 3\]'),
    (lambda y: y > 0, r'bool\[1, 3\]'),
    (lambda y: None, 'NoneType'),
  ],
)
def test_the_model_must_return_an_array(outputs, told):
  with pytest.raises(
    ValueError, match=f'returned {told}, but must return a single floating'
  ):
    scores.synflow(lambda w, x: outputs(x @ w), draw(4, 3), (4,))


@pytest.mark.parametrize('shape', [(5,), (4, 4, 5), ()])
def test_the_input_shape_must_fit(shape):
  with pytest.raises(
    ValueError,
    match=r'failed on x of shape \(1.*\), with .*`input_shape` was .* must be'
    ' the shape of one example',
  ):
    scores.synflow(lambda w, x: x @ w, draw(4, 3), shape)
  model = models.lenet_300_100((8, 8, 1))
  params = jax.eval_shape(model.init, jax.random.key(0))[0]
  with pytest.raises(ValueError, match='but this model takes'):
    scores.synflow(lambda p, x: model.apply(p, {}, x)[0], params, shape)


def test_scores_that_are_not_finite_or_zero_are_named():
  params = {'a': draw(4, 4), 'b': draw(4, 3)}

  def apply(p, x):
    return (x @ p['a']) @ p['b']

  bad = params | {'b': params['b'] * np.nan}
  with pytest.raises(ValueError, match=r'SynFlow scores are not finite in a'):
    scores.synflow(apply, bad, (4,))
  found = scores.synflow(apply, params | {'b': 0 * params['b']}, (4,))
  with pytest.raises(ValueError, match='scores of alive weights are zero in a'):
    lth.prune(found, lth.masks.full(params, ['a', 'b']), sparsity=0.5)
