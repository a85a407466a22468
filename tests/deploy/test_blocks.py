"""Blocks of four neurons that share their inputs: hand vectors and NumPy."""

import hashlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_but

import lthjax as lth
from lthjax import deploy
from lthjax.deploy import _layouts

pytestmark = pytest.mark.usefixtures('compiled')

RNG = np.random.default_rng(0)


def sparse_of(kernel, mask, **options):
  packed = _layouts.pack(kernel, mask, (0,), block=4, **options)
  return jax.tree.map(jnp.asarray, packed)


def drawn(shape, density):
  kernel = RNG.normal(size=shape).astype(np.float32)
  alive = RNG.random((shape[0], shape[1] // 4)) < density
  return kernel, np.repeat(alive, 4, axis=1)


@jax.jit
def with_gradients(x, sparse, shift, dy):
  values, structure = deploy.split({'w': sparse})

  def product(x, values, shift):
    return deploy.linear(x, deploy.join(values, structure)['w'], shift)

  y, pull = jax.vjp(product, x, values, shift)
  return y, *pull(dy)


def close(found, wanted):
  scale = max(1, np.max(np.abs(wanted), initial=0))
  return np.max(np.abs(found - wanted), initial=0) <= 1e-5 * scale


@pytest.mark.parametrize('batch', [1, 2, 3, 4, 5, 9, 17, 33])
def test_by_hand(batch):
  kernel, mask = np.zeros((513, 4), np.float32), np.zeros((513, 4), bool)
  rows = [0, 3, 512]
  kernel[rows], mask[rows] = np.arange(1, 13).reshape(3, 4), True
  sparse = sparse_of(kernel, mask)
  assert sparse.values.tolist() == list(range(1, 13))
  assert sparse.indices.tolist() == [0, 3, 0]
  assert sparse.starts.tolist() == [0, 2, 3]
  assert (sparse.capacity, sparse.block) == (12, 4)
  x = np.zeros((batch, 513), np.float32)
  x[:, rows] = 10, 100, 1000
  dy = np.zeros((batch, 4), np.float32)
  dy[0] = 1, 10, 100, 1000
  shift = np.float32([0, 0, 0, 0.5])
  y, dx, values, dshift = with_gradients(x, sparse, shift, dy)
  assert y.tolist() == [[9510, 10620, 11730, 12840.5]] * batch
  assert values['w'].tolist() == [
    *(10, 100, 1_000, 10_000),
    *(100, 1_000, 10_000, 100_000),
    *(1_000, 10_000, 100_000, 1_000_000),
  ]
  assert dx[0, jnp.array(rows)].tolist() == [4321, 8765, 13209]
  assert np.count_nonzero(dx) == 3
  assert dshift.tolist() == [1, 10, 100, 1000]


@pytest.mark.parametrize(
  ('shape', 'density'),
  slow_but(
    [((784, 300), 0.1), ((100, 12), 1.0), ((513, 20), 0.4), ((70, 8), 0.0)],
    [(100, 12), (513, 20)],
    several=True,
  ),
)
def test_against_double_precision(shape, density):
  kernel, mask = drawn(shape, density)
  sparse = sparse_of(kernel, mask)
  matrix = (kernel * mask).astype(np.float64)
  places = tuple(np.asarray(x) for x in _layouts.positions(sparse))
  for batch in (1, 4, 8, 33):
    x = RNG.normal(size=(batch, shape[0])).astype(np.float32)
    dy = RNG.normal(size=(batch, shape[1])).astype(np.float32)
    shift = RNG.normal(size=shape[1]).astype(np.float32)
    y, dx, values, _ = with_gradients(x, sparse, shift, dy)
    assert close(y, x @ matrix + shift)
    assert close(dx, dy @ matrix.T)
    assert close(values['w'], (x.T.astype(np.float64) @ dy)[places])


def test_dead_blocks_read_nothing():
  kernel, mask = np.ones((70, 8), np.float32), np.zeros((70, 8), bool)
  mask[0, :4] = mask[69, 4:] = True
  sparse = sparse_of(kernel, mask)
  for batch in (1, 4, 5, 20):
    x = np.full((batch, 70), np.nan, np.float32)
    x[:, 0], x[:, 69] = 10, np.inf
    if not deploy.kernels().available:
      x = np.nan_to_num(x, posinf=np.inf)
      x[:, 69] = 20  # A dense product does read them.
    y = np.asarray(deploy.linear(jnp.asarray(x), sparse))
    np.testing.assert_array_equal(y[:, :4], 10)
    np.testing.assert_array_equal(y[:, 4:], x[:, 69:].repeat(4, 1))


@pytest.mark.slow
def test_masks_of_blocks_are_found():
  """Not where an option asks for single weights, nor in other masks."""
  params = {
    'a': {'kernel': jnp.asarray(RNG.normal(size=(20, 12)), jnp.float32)},
    'b': {'kernel': jnp.asarray(RNG.normal(size=(12, 6)), jnp.float32)},
  }
  masks = lth.prune(
    lth.scores.magnitude(params),
    lth.masks.full(params),
    sparsity=0.75,
    pattern=lth.patterns.Block((1, 2)),
  )
  pairs = deploy.condense(params, masks)
  assert (pairs['a']['kernel'].block, pairs['b']['kernel'].block) == (1, 1)
  alive = np.repeat(RNG.random((20, 3)) < 0.4, 4, axis=1)
  masks = {**masks, 'a': {'kernel': jnp.asarray(alive)}}
  sparse = deploy.condense(params, masks)
  kernel = sparse['a']['kernel']
  assert kernel.block == 4
  assert sparse['b']['kernel'].block == 1
  options = [{'int8': True}, {'capacity': 200}]
  for option in [*options, {'blocks': False}]:
    other = deploy.condense(params, masks, **option)
    assert other['a']['kernel'].block == 1
  wanted = lth.masks.apply(masks, params)
  same = jax.tree.map(
    lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(),
    (deploy.densify(sparse), deploy.densify(deploy.regather(params, sparse))),
    (wanted, wanted),
  )
  assert all(jax.tree.leaves(same))
  matrix = deploy.to_bcsr(kernel).todense().T
  np.testing.assert_array_equal(matrix, wanted['a']['kernel'])
  x = jnp.asarray(RNG.normal(size=(5, 20)), jnp.float32)

  def apply(params, x):
    return jnp.tanh(x @ params['a']['kernel']) @ params['b']['kernel']

  found = deploy.sparse_apply(apply, params)(sparse, x)
  np.testing.assert_allclose(found, apply(wanted, x), rtol=1e-5, atol=1e-5)


def test_spare_room_for_blocks():
  kernel, mask = drawn((40, 8), 0.3)
  params, masks = {'w': jnp.asarray(kernel)}, {'w': jnp.asarray(mask)}
  alive = int(mask.sum())
  sparse = deploy.condense(params, masks, blocks=True, capacity=alive + 5)
  assert sparse['w'].capacity == alive + 8
  values, structure = deploy.split(sparse)
  x = jnp.asarray(RNG.normal(size=(3, 40)), jnp.float32)
  grads = jax.grad(
    lambda v: deploy.linear(x, deploy.join(v, structure)['w']).sum()
  )(values)
  assert grads['w'][alive:].tolist() == [0] * 8
  assert np.count_nonzero(grads['w'][:alive]) == alive
  with pytest.raises(ValueError, match=r'w has \(3,\) values for'):
    deploy.join({'w': np.ones(3, np.float32)}, structure)


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({}, r'w has a mask that is not made of blocks.*Block\(\(1, 4\)\)'),
    ({'int8': True}, '`blocks=True` was given with `int8=True`'),
    (
      {'blocks': np.True_, 'int8': True},
      '`blocks=True` was given with `int8=True`',
    ),
    ({'blocks': 'yes'}, '`blocks` was'),
  ],
  ids=['single', 'int8', 'int8-numpy', 'word'],
)
def test_what_blocks_cannot_be(options, text):
  params = {'w': jnp.ones((6, 8))}
  masks = {'w': jnp.arange(48).reshape(6, 8) % 3 == 0}
  with pytest.raises((TypeError, ValueError), match=text):
    deploy.condense(params, masks, **{'blocks': True, **options})


def digest():
  """Prints a hash of products and gradients in both layouts."""
  numbers, found = np.random.default_rng(1), hashlib.sha256()
  for block in (1, 4):
    kernel = numbers.normal(size=(1400, 512)).astype(np.float32)
    alive = numbers.random((1400, 512 // block)) < 0.25
    mask = np.repeat(alive, block, axis=1)
    packed = _layouts.pack(kernel, mask, (0,), block=block, lookup=True)
    sparse = jax.tree.map(jnp.asarray, packed)
    for batch in (4, 16, 31, 65):
      x = numbers.normal(size=(batch, 1400)).astype(np.float32)
      dy = numbers.normal(size=(batch, 512)).astype(np.float32)
      shift = numbers.normal(size=512).astype(np.float32)
      y = jax.jit(deploy.linear)(x, sparse, shift)
      for leaf in jax.tree.leaves((y, with_gradients(x, sparse, shift, dy))):
        found.update(np.asarray(leaf).tobytes())
  print(found.hexdigest())


@pytest.mark.slow
def test_one_core_computes_the_same_bits(run_python, capsys):
  """Another process, which asks for more than the processor has."""
  if not hasattr(os, 'sched_setaffinity') or not deploy.kernels().available:
    pytest.skip('needs compiled kernels, and to choose the cores')
  digest()
  here = capsys.readouterr().out
  there = run_python(
    'import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n'
    'os.environ["LTHJAX_ISA"] = "9"\n'
    'import runpy; runpy.run_path("tests/deploy/test_blocks.py")["digest"]()'
  )
  assert there == here
