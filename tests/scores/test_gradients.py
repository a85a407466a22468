"""SNIP, GraSP, Fisher and Taylor: by hand, against NumPy, and bad input."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lthjax import scores
from lthjax.data import _batches as data_batches

Batch = data_batches.Split
X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
Y = np.array([0, 1, 1, 0, 1, 0, 0])
SPLITS = [[7], [4, 3], [1, 6], [2, 2, 3], [1] * 7]


def network(seed=1):
  rng = np.random.default_rng(seed)
  w1, b1, w2 = (
    rng.normal(size=shape).astype(np.float32)
    for shape in [(3, 4), (4,), (4, 2)]
  )
  return {'fc1': {'w': w1, 'b': b1}, 'fc2': {'w': w2}}


def logits(params, x):
  hidden = jnp.tanh(x @ params['fc1']['w'] + params['fc1']['b'])
  return hidden @ params['fc2']['w']


def loss(params, batch, temperature=1.0):
  return optax.softmax_cross_entropy_with_integer_labels(
    logits(params, batch.images) / temperature, batch.labels
  ).mean()


def split(sizes):
  ends = np.cumsum(sizes)
  return [
    Batch(X[e - n : e], Y[e - n : e]) for e, n in zip(ends, sizes, strict=True)
  ]


BATCH = Batch(X, Y)


def numpy_loss(flat, x, y, temperature=1.0):
  """The same in float64, on all params in a row."""
  w1, b1, w2 = flat[:12].reshape(3, 4), flat[12:16], flat[16:].reshape(4, 2)
  z = np.tanh(x.astype(np.float64) @ w1 + b1) @ w2 / temperature
  z -= z.max(1, keepdims=True)
  return np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y])


def flatten(tree):
  parts = tree['fc1']['w'], tree['fc1']['b'], tree['fc2']['w']
  return np.concatenate([np.ravel(x) for x in parts]).astype(np.float64)


def slope(f, at, step=1e-5):
  """Central differences."""
  columns = np.eye(len(at)) * step
  return np.array([(f(at + d) - f(at - d)) / (2 * step) for d in columns])


def close(found, expected, rtol):
  found = flatten(found)
  np.testing.assert_allclose(found, expected, rtol, rtol * abs(expected).max())


# ---- Against finite differences in float64.


def test_snip():
  params = network()
  w = flatten(params)
  gradient = slope(lambda w: numpy_loss(w, X, Y), w)
  close(scores.snip(loss, params, BATCH), abs(w * gradient), 1e-5)


@pytest.mark.parametrize('temperature', [None, 5.0])
def test_grasp(temperature):
  params = network()
  w, t = flatten(params), temperature or 1.0

  def gradient(w):
    return slope(lambda w: numpy_loss(w, X, Y, t), w, 1e-4)

  g = gradient(w)
  product = (gradient(w + 1e-3 * g) - gradient(w - 1e-3 * g)) / 2e-3
  found = scores.grasp(loss, params, [BATCH], temperature=temperature)
  close(found, w * product, 1e-4)
  assert (flatten(found) < 0).any()


def test_fisher_and_taylor():
  params = network()
  w = flatten(params)
  each = [
    w * slope(lambda w, i=i: numpy_loss(w, X[i : i + 1], Y[i : i + 1]), w)
    for i in range(7)
  ]
  squares = np.square(each)
  close(scores.fisher(loss, params, [BATCH]), squares.mean(0) / 2, 1e-5)
  close(scores.taylor(loss, params, split([1] * 7)), squares.mean(0), 1e-5)
  halves = [np.mean(each[:4], 0), np.mean(each[4:], 0)]
  expected = (4 * halves[0] ** 2 + 3 * halves[1] ** 2) / 7
  close(scores.taylor(loss, params, split([4, 3])), expected, 1e-5)


# ---- What the criteria promise.


def test_grasp_on_a_quadratic():
  rng = np.random.default_rng(2)
  a = rng.normal(size=(6, 6))
  a, b, w = a @ a.T, rng.normal(size=6), rng.normal(size=6)

  def quadratic(w, batch):
    return jnp.mean(batch) * (w @ a.astype(np.float32) @ w / 2 - w @ b)

  found = scores.grasp(quadratic, jnp.float32(w), [np.ones(3, np.float32)])
  np.testing.assert_allclose(found, w * (a @ (a @ w - b)), rtol=1e-4)


def test_grasp_keeps_what_carries_the_gradient():
  params = network()
  found = flatten(scores.grasp(loss, params, [BATCH]))
  w = flatten(params)

  def norm(w):
    return np.sum(slope(lambda w: numpy_loss(w, X, Y), w) ** 2)

  # As a weight shrinks, the squared norm falls by twice its score.
  shrunk = [norm(w - 1e-4 * w * (np.arange(24) == i)) for i in range(24)]
  change = (np.array(shrunk) - norm(w)) / 1e-4
  np.testing.assert_allclose(change, -2 * found, atol=0.01 * abs(found).max())


@pytest.mark.parametrize('criterion', [scores.grasp, scores.fisher])
def test_any_split_gives_the_same_scores(criterion):
  params = network()
  whole = criterion(loss, params, [BATCH])
  for sizes in SPLITS[1:4]:
    found = criterion(loss, params, iter(split(sizes)))
    close(found, flatten(whole), 2e-6)


def test_many_batches_in_half_precision():
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), network())
  whole = flatten(scores.grasp(loss, params, [BATCH]))
  found = scores.grasp(loss, params, [BATCH] * 64)
  np.testing.assert_allclose(flatten(found), whole, rtol=1e-6)


def test_taylor_of_one_batch_ranks_as_snip():
  params = network()
  snip = flatten(scores.snip(loss, params, BATCH))
  close(scores.taylor(loss, params, [BATCH]), snip**2, 1e-6)


def test_a_new_batch_compiles_nothing():
  traces = []

  def counted(params, batch, temperature=1.0):
    traces.append(0)
    return loss(params, batch, temperature)

  def run(seed, temperature):
    params = network(seed)
    scores.snip(counted, params, BATCH)
    scores.taylor(counted, params, [BATCH])
    scores.fisher(counted, params, [BATCH])
    scores.grasp(counted, params, [BATCH, BATCH], temperature=temperature)

  run(0, 2.0)
  before = len(traces)
  run(1, 3.0)
  assert len(traces) == before


def test_trees_transformations_and_dtypes():
  layer = nnx.eval_shape(lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(layer)
  kernel = X[:3, :2]
  nnx.replace_by_pure_dict(state, {'kernel': kernel, 'bias': X[0, :2]})

  def of_state(state, batch):
    return jnp.mean(nnx.merge(graphdef, state)(batch) ** 2)

  def of_dict(params, batch):
    return jnp.mean((batch @ params['kernel'] + params['bias']) ** 2)

  params = {'kernel': kernel, 'bias': X[0, :2]}
  for name in ('snip', 'grasp', 'fisher', 'taylor'):
    batch = X if name == 'snip' else [X]
    criterion = getattr(scores, name)
    found = criterion(of_state, state, batch)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    expected = criterion(of_dict, params, batch)
    chex.assert_trees_all_close(
      nnx.to_pure_dict(found), expected, rtol=1e-5, atol=1e-6
    )
  # Sensitivities of 1e-10 would be zero in float16.
  half = jax.tree.map(lambda x: (x / 1e3).astype(jnp.float16), params)
  found = scores.snip(of_dict, half, (X / 64).astype(jnp.float16))
  assert found['kernel'].dtype == jnp.float32
  both = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
  together = jax.jit(jax.vmap(lambda p: scores.snip(of_dict, p, X)))(both)
  alone = scores.snip(of_dict, jax.tree.map(lambda x: x[1], both), X)
  chex.assert_trees_all_close(
    jax.tree.map(lambda x: x[1], together), alone, rtol=1e-5
  )


def test_a_complex_weight_is_pruned_with_both_its_parts():
  rng = np.random.default_rng(5)
  real = rng.normal(size=(2, 6)).astype(np.float32)
  x = rng.normal(size=(5, 2, 6)).astype(np.float32)

  def of_parts(w, batch):  # w[0] + 1j * w[1]
    return jnp.mean(jnp.sum(batch * w, (1, 2)) ** 2) + jnp.sum(w[0] * w[1])

  def of_complex(w, batch):
    return of_parts(jnp.stack([w.real, w.imag]), batch)

  def change(batch):
    return np.sum(real * jax.grad(of_parts)(real, batch), 0)

  w = real[0] + 1j * real[1]
  each = np.array([change(example[None]) for example in x])
  for found, expected in [
    (scores.snip(of_complex, w, x), abs(change(x))),
    (scores.taylor(of_complex, w, [x]), change(x) ** 2),
    (scores.fisher(of_complex, w, [x]), np.mean(each**2, 0) / 2),
    (
      scores.grasp(of_complex, w, [x[:2], x[2:]]),
      scores.grasp(of_parts, real, [x]).sum(0),
    ),
  ]:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  # Without influence, though neither factor is zero.
  turned = np.array([1 + 1j], np.complex64)
  found = scores.snip(lambda w, _: jnp.sum(w.real - w.imag), turned, X)
  assert found.tolist() == [0]


# ---- Bad input.

CRITERIA = {
  'snip': lambda loss, batch: scores.snip(loss, network(), batch),
  'grasp': lambda loss, batch: scores.grasp(loss, network(), [batch]),
  'fisher': lambda loss, batch: scores.fisher(loss, network(), [batch]),
  'taylor': lambda loss, batch: scores.taylor(loss, network(), [batch]),
}
each_criterion = pytest.mark.parametrize('name', CRITERIA)


@each_criterion
def test_a_batch_without_labels(name):
  shape = '1, 3' if name == 'fisher' else '7, 3'
  with pytest.raises(
    ValueError,
    match=re.escape(
      '`loss(params, batch)` failed on a batch of'
      f' images: float32[{shape}], labels: NoneType, with'
    )
    + '.* labels included',
  ):
    CRITERIA[name](loss, Batch(X, None))
  with pytest.raises(ValueError, match=r'has no attribute .?images'):
    CRITERIA[name](loss, X)


@each_criterion
def test_the_loss_must_be_a_scalar(name):
  for bad, told in [
    (lambda p, b: logits(p, b.images)[:, 0], r'float32\[\d\]'),
    (lambda p, b: (loss(p, b), logits(p, b.images)), r'0: float32\[\], 1: f'),
    (lambda p, b: jnp.int32(0), r'int32\[\]'),
    (lambda p, b: None, 'NoneType'),
  ]:
    with pytest.raises(
      ValueError, match=f'returned {told}.* must return one floating-point'
    ):
      CRITERIA[name](bad, BATCH)


@each_criterion
def test_scores_that_are_not_finite_are_named(name):
  def overflow(params, batch):  # and 0 * inf
    return jnp.sum(params['fc1']['w']) + 1e30 * jnp.sum(params['fc2']['w']) ** 3

  params = jax.tree.map(lambda x: 0 * x + 1e10, network())
  given = BATCH if name == 'snip' else [BATCH]
  told = {'snip': 'SNIP', 'grasp': 'GraSP'}.get(name, name.capitalize())
  with pytest.raises(
    ValueError, match=rf'{told} scores are not finite in fc2/w \(8\)\. Look'
  ):
    getattr(scores, name)(overflow, params, given)


@pytest.mark.parametrize('name', ['grasp', 'fisher', 'taylor'])
def test_batches_must_be_several(name):
  criterion = functools.partial(getattr(scores, name), loss, network())
  for single in (BATCH, {'x': X}, X):
    with pytest.raises(ValueError, match=r'was one batch of .*`\[batch\]`'):
      criterion(single)
  with pytest.raises(ValueError, match='`batches` was empty'):
    criterion([])
  with pytest.raises(ValueError, match='The number of examples in a batch'):
    criterion([Batch(X, Y[:1])])


@each_criterion
def test_empty_batches(name):
  with pytest.raises(
    ValueError,
    match=re.escape(
      'A batch of images: float32[0, 3], labels: int64[0] has no examples, but'
      ' at least one is needed. Leave empty batches out.'
    ),
  ):
    CRITERIA[name](loss, Batch(X[:0], Y[:0]))


def test_temperature():
  for wrong in (0, -1.0, float('nan')):
    with pytest.raises(ValueError, match=r'`temperature` was .* be positive'):
      scores.grasp(loss, network(), [BATCH], temperature=wrong)
  plain = functools.partial(loss, temperature=1.0)
  with pytest.raises(ValueError, match=r'temperature=\.\.\.\)` failed on'):
    scores.grasp(lambda p, b: plain(p, b), network(), [BATCH], temperature=2.0)


@pytest.mark.parametrize('name', ['snip', 'grasp', 'fisher', 'taylor'])
def test_params_and_losses_of_the_wrong_kind(name):
  criterion = getattr(scores, name)
  batch = BATCH if name == 'snip' else [BATCH]
  params = network() | {'step': np.int32(3), 'on': np.array(True)}
  message = 'but on is bool[]; step is int32[]. Leave such leaves out'
  with pytest.raises(TypeError, match=re.escape(message)):
    criterion(loss, params, batch)
  for wrong in (None, {}, {'w': 'x'}):
    with pytest.raises(TypeError, match='must be a tree of arrays'):
      criterion(loss, wrong, batch)
  with pytest.raises(TypeError, match='`loss` was None, but must be a func'):
    criterion(None, network(), batch)
  if name != 'snip':
    with pytest.raises(TypeError, match='`batches` was 3, but must be a seq'):
      criterion(loss, network(), 3)
