"""Every proxy by hand, against NumPy, and under what must not change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import slow_but

from lthjax import models, proxies

KEY = jax.random.key(0)
PROXIES = {
  name: getattr(proxies, name)
  for name in (
    *('fisher', 'grad_norm', 'grasp', 'jacob_cov', 'multiply_adds', 'naswot'),
    *('num_params', 'snip', 'synflow', 'zen'),
  )
}
LABELLED = ('fisher', 'grad_norm', 'grasp', 'snip')

# Two examples, two ReLUs (the second example switches one of them off) and an
# output of 4 and 2; the loss is half its square.
PARAMS = {
  'fc1': {'kernel': jnp.array([[1.0, -1.0], [0.0, 2.0]])},
  'fc2': {'kernel': jnp.array([[1.0], [3.0]])},
}
BATCH = jnp.array([[1.0, 1.0], [2.0, 0.0]]), jnp.zeros((2, 1))


def toy(params, x):
  return jax.nn.relu(x @ params['fc1']['kernel']) @ params['fc2']['kernel']


def half_square(outputs, labels):
  return (outputs - labels) ** 2 / 2


# Gradients of the mean loss are [[4, 6], [2, 6]] and [4, 2]. It is homogeneous
# of degree four in the weights, so that H w is three times the gradient g, and
# w H g is 3 |g|^2. Channels of the first layer have a * dL/da of (4, 4) and
# (12, 0), the output has (16, 4). The gradients of both outputs with respect to
# the inputs are (-2, 6) and (1, 0), whose correlation is -1: the eigenvalues
# are 2 and 0.
BY_HAND = {
  'fisher': (8 * 2 + 72 + 136) / 2,
  'grad_norm': 92**0.5 + 20**0.5,
  'grasp': -3 * (92 + 20),
  'jacob_cov': -np.log(2 + 1e-5) - 1 / (2 + 1e-5) - np.log(1e-5) - 1e5,
  'multiply_adds': 6,
  'naswot': np.log(2 * 2 - 1 * 1),
  'num_params': 6,
  'snip': 4 + 6 + 0 + 12 + 4 + 6,
  'synflow': np.log(10 + 10),
}


@pytest.mark.parametrize('name', BY_HAND)
def test_by_hand(name):
  options = {'loss': half_square} if name in LABELLED else {}
  found = run(name, toy, PARAMS, BATCH, **options)
  assert found.dtype == jnp.float32
  assert found.shape == ()
  # An eigenvalue of exactly zero adds 1 / k, of which float32 has seven digits.
  assert float(found) == pytest.approx(float(BY_HAND[name]), rel=1e-6)


def run(name, apply, params, batch, **options):
  """Compiles once, where each operation would be compiled alone."""
  proxy = functools.partial(PROXIES[name], apply, **options)
  return jax.jit(proxy)(params, batch, KEY)


def test_every_proxy_is_tested():
  others = {'Candidate', 'Ranking', 'kendall', 'rank', 'spearman'}
  assert {*PROXIES} == {*proxies.__all__} - others
  assert {*BY_HAND, 'zen'} == {*PROXIES}


class Net(nnx.Module):
  """A network with what others have: convolution, BatchNorm, pooling."""

  def __init__(self, rngs):
    self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(3, rngs=rngs)
    self.fc = nnx.Linear(12, 8, rngs=rngs)
    self.output = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x, *, train=False):
    x = nnx.relu(self.norm(self.conv(x), use_running_average=not train))
    x = nnx.max_pool(x, (2, 2), strides=(2, 2)).reshape(len(x), -1)
    return self.output(nnx.relu(self.fc(x)))


@pytest.fixture(scope='module')
def net():
  """The network in training form, its params, and a batch of eight."""
  model = models.functional(Net)
  params, model_state = jax.jit(model.init)(KEY)
  rng = np.random.default_rng(1)
  x = rng.normal(0.5, 1, (8, 4, 4, 1)).astype('f4')
  labels = np.arange(8) % 4

  def apply(params, x):
    return model.apply(params, model_state, x, train=True)[0]

  return apply, params, (x, labels)


def layers(params, x):
  """What the network computes, in NumPy: codes, output, and BatchNorm's var."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  x = np.asarray(x, np.float64)[..., 0]
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
  h = sum(
    padded[:, i : i + 4, j : j + 4, None] * p['conv']['kernel'][i, j, 0]
    for i in range(3)
    for j in range(3)
  )
  h = h + p['conv']['bias']
  var = h.var((0, 1, 2)) + 1e-5
  h = (h - h.mean((0, 1, 2))) / np.sqrt(var)
  h = h * p['norm']['scale'] + p['norm']['bias']
  codes = [(h > 0).reshape(len(x), -1)]
  h = np.maximum(h, 0).reshape(len(x), 2, 2, 2, 2, 3).max((2, 4))
  h = h.reshape(len(x), -1) @ p['fc']['kernel'] + p['fc']['bias']
  codes.append(h > 0)
  out = np.maximum(h, 0) @ p['output']['kernel'] + p['output']['bias']
  return np.concatenate(codes, 1), out, var


def test_naswot_against_numpy(net):
  apply, params, batch = net
  codes, _, _ = layers(params, batch[0])
  distance = (codes[:, None] != codes[None]).sum(-1)
  expected = np.linalg.slogdet(codes.shape[1] - distance)[1]
  found = run('naswot', apply, params, batch)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_zen_against_numpy(net):
  apply, params, batch = net
  x, noise = jax.random.normal(KEY, (2, 8, 4, 4, 1))
  _, near, var = layers(params, x)
  _, far, _ = layers(params, x + 0.1 * noise)
  distance = np.sqrt(((near - far) ** 2).sum(1)).mean()
  expected = np.log(distance) + np.log(np.sqrt(var.mean()))
  found = run('zen', apply, params, batch, scale=0.1)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_jacob_cov_against_numpy():
  rng = np.random.default_rng(0)
  weights = [rng.normal(size=s).astype('f4') for s in ((20, 30), (30, 5))]
  x = rng.normal(size=(6, 20)).astype('f4')
  first, second = (w.astype('f8') for w in weights)
  gates = x @ first > 0
  jacobian = (gates * second.sum(1)) @ first.T
  v = np.linalg.eigvalsh(np.corrcoef(jacobian))
  expected = -np.sum(np.log(v + 1e-5) + 1 / (v + 1e-5))
  found = run(
    'jacob_cov', lambda w, x: jax.nn.relu(x @ w[0]) @ w[1], weights, (x, None)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_jacob_cov_has_digits_for_small_eigenvalues():
  # Float32 has 2 - 1.9999999 for the smaller eigenvalue of the correlations.
  x = jnp.array([[1.0, -1.0, 0.0], [1.0, -1.0, 3e-4]])
  rows = np.asarray(x, 'f8')
  v = np.linalg.eigvalsh(np.corrcoef(rows))
  expected = -np.sum(np.log(v + 1e-5) + 1 / (v + 1e-5))
  found = run('jacob_cov', lambda _, x: x**2 / 2, None, (x, None))
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_fisher_sums_positions_and_takes_the_channels_of_a_convolution():
  def conv(params, x, layout='NHWC'):
    spec = (layout, 'HWIO', layout)
    return jax.lax.conv_general_dilated(
      x, params['kernel'], (1, 1), 'VALID', dimension_numbers=spec
    )

  def half_squares(y, labels):
    del labels
    return jnp.sum(y**2, (1, 2, 3)) / 2

  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, 4, 4, 2)).astype('f4')
  params = {'kernel': rng.normal(size=(2, 2, 2, 3)).astype('f4')}
  activations = np.asarray(conv(params, x))  # and dL/da is a
  expected = np.mean(np.sum(activations**2, (1, 2)) ** 2, 0).sum() / 2
  for layout, images in [('NHWC', x), ('NCHW', np.moveaxis(x, -1, 1))]:
    apply = functools.partial(conv, layout=layout)
    found = run('fisher', apply, params, (images, x), loss=half_squares)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('name', slow_but(PROXIES, ['fisher', 'naswot']))
def test_order_of_the_batch_does_not_matter(name, net):
  apply, params, (x, labels) = net
  proxy = jax.jit(functools.partial(PROXIES[name], apply))
  order = np.random.default_rng(0).permutation(len(x))
  found = proxy(params, (x, labels), KEY)
  again = proxy(params, (x[order], labels[order]), KEY)
  assert np.isfinite(found)
  np.testing.assert_allclose(found, again, rtol=2e-4)


@pytest.mark.parametrize('name', ['fisher', 'naswot'])
def test_scanned_layers_are_those_of_a_loop(name):
  rng = np.random.default_rng(0)
  kernels = {'kernel': rng.normal(size=(3, 4, 4)).astype('f4')}
  x = rng.normal(size=(6, 4)).astype('f4')

  def layer(h, kernel):
    return jax.nn.relu(h @ kernel), None

  def loop(params, x):
    for kernel in params['kernel']:
      x, _ = layer(x, kernel)
    return x

  def scan(params, x):
    return jax.lax.scan(jax.checkpoint(layer), x, params['kernel'])[0]

  batch = x, np.arange(6) % 4
  found = [run(name, f, kernels, batch) for f in (loop, scan)]
  np.testing.assert_allclose(*found, rtol=1e-5)


def test_synflow_takes_any_depth_and_no_signs():
  def deep(params, x):
    def step(h, kernel):
      return h @ kernel, None

    return jax.lax.scan(step, x, params['kernel'])[0]

  # A flow of 4 * 1000 ** 60 passes each of sixty layers, beyond float32.
  params = {'kernel': jnp.full((60, 4, 4), 250.0)}
  batch = jnp.zeros((3, 4)), None
  expected = np.log(60 * 4) + 60 * np.log(1000)
  proxy = jax.jit(functools.partial(proxies.synflow, deep))
  for sign in (1, -1):
    found = proxy({'kernel': sign * params['kernel']}, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_naswot_of_examples_alike_is_minus_infinity():
  x = jnp.array([[1.0, -1.0], [2.0, -3.0]])
  found = proxies.naswot(lambda _, x: jnp.maximum(x, 0), None, (x, None))
  assert found == -jnp.inf


@pytest.mark.parametrize('name', LABELLED)
def test_batch_without_labels(name):
  proxy = functools.partial(PROXIES[name], toy, PARAMS)
  with pytest.raises(ValueError, match='The batch has no labels, but this pro'):
    proxy((BATCH[0], None))
  with pytest.raises(
    ValueError, match=r'was float32\[.*\], but must be a pair'
  ):
    proxy(BATCH[0])
  with pytest.raises(ValueError, match='but labels of shape \\(3, 1\\): both'):
    proxy((BATCH[0], jnp.zeros((3, 1))))


@pytest.mark.parametrize(
  'name', sorted({*PROXIES} - {'num_params', 'multiply_adds'})
)
def test_model_whose_output_is_not_one_array(name):
  text = r'returned a tuple for x of shape .* must return a single floating-po'
  with pytest.raises(ValueError, match=text):
    PROXIES[name](lambda params, x: (x, x), PARAMS, BATCH, KEY)
  with pytest.raises(ValueError, match=r'returned float32\[\] for x'):
    PROXIES[name](lambda params, x: x.mean(), PARAMS, BATCH, KEY)


def test_other_bad_input():
  x = BATCH[0]
  with pytest.raises(
    ValueError, match=r'`len\(x\)` was 1, but must be at least 2'
  ):
    proxies.jacob_cov(toy, PARAMS, (x[:1], None))
  with pytest.raises(ValueError, match='The model has no ReLU, but `naswot`'):
    proxies.naswot(lambda params, x: x @ params, x, (x, None))
  with pytest.raises(ValueError, match='`zen` draws its inputs, so it needs a'):
    proxies.zen(toy, PARAMS, BATCH)
  with pytest.raises(ValueError, match='The params have no kernels to sum ove'):
    proxies.grad_norm(
      lambda b, x: x + b['bias'], {'bias': x[0]}, BATCH, loss=half_square
    )
  with pytest.raises(ValueError, match=r'have shape \(2,\), but need a first'):
    proxies.naswot(toy, PARAMS, (x[0], None))

  def loop(params, x):
    return jax.lax.while_loop(
      lambda h: jnp.sum(h) > 1, lambda h: jax.nn.relu(h @ params), x
    )

  with pytest.raises(ValueError, match='`while` contains max, which cannot be'):
    proxies.naswot(loop, x, (x, None))
