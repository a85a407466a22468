"""What users pass to deployment by mistake, and what they may pass."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_but

from lthjax import deploy
from lthjax.deploy import _layouts

pytestmark = pytest.mark.usefixtures('compiled')

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(40, 8)).astype(np.float32)
MASK = RNG.random((40, 8)) < 0.3
DENSE = KERNEL * MASK
PARAMS, MASKS = {'w': KERNEL}, {'w': MASK}


def sparse(kernel=KERNEL, mask=MASK, **options):
  kernel, mask = {'w': jnp.asarray(kernel)}, {'w': jnp.asarray(mask)}
  return deploy.condense(kernel, mask, max_density=1.0, **options)['w']


def matmul(params, x):
  return x @ params['w']


def near(found, wanted):
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_second_derivatives():
  """Of a loss in values and activations, against those of a dense kernel."""
  kernel = sparse()
  place = tuple(np.asarray(x) for x in _layouts.positions(kernel))
  x = jnp.asarray(RNG.normal(size=(5, 40)), jnp.float32)
  v, dv = kernel.values, jnp.asarray(RNG.normal(size=93), jnp.float32)
  dx = jnp.asarray(RNG.normal(size=(5, 40)), jnp.float32)
  assert v.shape == dv.shape

  def product(values, x):
    return deploy.linear(x, _layouts.replace(kernel, values=values))

  def dense(values, x):
    return x @ jnp.zeros((40, 8)).at[place].set(values)

  @jax.jit
  def twice(v, x, dv, dx):
    def slope(f, v, x):
      grads = jax.grad(lambda v, x: jnp.tanh(f(v, x)).sum(), (0, 1))(v, x)
      return (grads[0] * dv).sum() + (grads[1] * dx).sum()

    return [
      jax.grad(lambda v, x, f=f: slope(f, v, x), (0, 1))(v, x)
      for f in (product, dense)
    ]

  jax.tree.map(near, *twice(v, x, dv, dx))


def test_maps_in_maps():
  kernel = sparse(lookup=True)
  x = RNG.normal(size=(2, 3, 4, 40)).astype(np.float32)
  run = jax.vmap(jax.vmap(lambda x: deploy.linear(x, kernel)))
  near(run(x), x @ DENSE)
  values = jnp.stack([kernel.values, 2 * kernel.values])

  def product(values, x):
    one = _layouts.replace(kernel, values=values, lookup=None)
    return deploy.linear(x, one)

  found = jax.vmap(jax.vmap(product, (None, 0)), (0, None))(values, x[0])
  near(found, np.stack([x[0] @ DENSE, 2 * x[0] @ DENSE]))


@pytest.mark.parametrize(
  'shape', slow_but([(0, 5), (5, 0), (1, 1), (1, 4)], [(0, 5), (5, 0)])
)
def test_axes_of_length_zero_and_one(shape):
  for alive in (True, False):
    kernel = sparse(np.ones(shape, np.float32), np.full(shape, alive))
    for batch in (0, 1, 7):
      x, shift = jnp.ones((batch, shape[0])), jnp.ones(shape[1])
      y, pull = jax.vjp(deploy.linear, x, kernel, shift)
      assert y.tolist() == [[1 + shape[0] * alive] * shape[1]] * batch
      dx, dkernel, dshift = pull(y * 0 + 1)
      assert dx.tolist() == [[shape[1] * alive] * shape[0]] * batch
      assert dkernel.values.tolist() == [batch] * (shape[0] * shape[1] * alive)
      assert dshift.tolist() == [batch] * shape[1]


def test_arrays_of_numpy_and_of_any_order():
  kernel = sparse(np.asfortranarray(KERNEL), np.asfortranarray(MASK))
  x = np.asfortranarray(RNG.normal(size=(6, 40)), np.float32)
  near(x @ kernel, x @ DENSE)
  near(deploy.linear(x[::2], kernel), x[::2] @ DENSE)
  near(jax.jit(lambda x: x.T @ kernel)(np.ascontiguousarray(x.T)), x @ DENSE)
  with pytest.raises(TypeError):
    kernel @ np.ones((8, 3), np.float32)  # pyright: ignore


def test_values_of_low_precision():
  values, structure = deploy.split({'w': sparse()})
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), values)

  def total(values):
    kernel = deploy.join(values, structure)['w']
    return deploy.linear(jnp.ones((3, 40)), kernel).sum()

  grads = jax.grad(total)(half)
  assert grads['w'].dtype == jnp.bfloat16
  assert set(grads['w'].tolist()) == {3}


def cast(_):
  kernel = jax.tree.map(lambda x: x.astype(jnp.bfloat16), sparse())
  return deploy.linear(jnp.ones((3, 40)), kernel)


def joined(values):
  return deploy.join(values, deploy.split({'w': sparse()})[1])


def condensed(**options):
  return lambda _: deploy.condense(PARAMS, MASKS, **options)


def saved(params, int8=False):
  masks = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
  return lambda path: deploy.save(path / 'a', params, masks, int8=int8)


MISTAKES = {
  'traced params': (
    lambda _: jax.jit(lambda p: deploy.condense(p, MASKS))(PARAMS),
    '`condense` counts and packs alive weights: call it outside of `jax.jit`',
  ),
  'abstract params': (
    lambda _: deploy.condense(
      {'w': jax.ShapeDtypeStruct((40, 8), jnp.float32)}, MASKS
    ),
    '`params` must be a tree of arrays, but w is an abstract',
  ),
  'a name without a leaf': (
    condensed(capacity={'fc': 500}),
    '`capacity` has names that are not those of leaves: fc. The leaves are w',
  ),
  'room in words': (condensed(capacity={'w': 'all'}), r"`capacity\['w'\]` was"),
  'structure cast': (cast, 'indices is bfloat16.*; starts is bfloat16'),
  'structure alone': (
    lambda _: np.ones((3, 40), np.float32) @ deploy.split(sparse())[1],
    'values is a NoneType.*`join`',
  ),
  'bias in words': (
    lambda _: deploy.linear(jnp.ones((3, 40)), sparse(), 'b'),  # pyright: ignore
    "`bias` was 'b', but must be an array",
  ),
  'kernels as values': (
    lambda _: joined({'w': sparse()}),
    'w has a `Sparse` kernel in place of values',
  ),
  'no values': (lambda _: joined(None), 'the array has values only'),
  'no dense leaf': (
    lambda _: deploy.regather({'w': None}, {'w': sparse()}),
    r'w is nothing in the dense params and \(40, 8\) in the sparse',
  ),
  'no function': (
    lambda _: deploy.sparse_apply('f', PARAMS),  # pyright: ignore
    "`apply` was 'f', but must be a function",
  ),
  'words in arguments': (
    lambda _: deploy.sparse_apply(matmul, PARAMS)({'w': sparse()}, 'x'),
    'argument 1 has str at its top',
  ),
  'a report of nothing': (
    lambda _: deploy.report(None, PARAMS, MASKS),  # pyright: ignore
    '`apply` was None, but must be a function',
  ),
  'no repeats': (
    lambda _: deploy.report(matmul, PARAMS, MASKS, repeats=None),  # pyright: ignore
    '`repeats` was None, but must be an integer',
  ),
  'storage of numbers': (
    lambda _: deploy.storage({'w': 1.0}, {'w': None}),
    '`params` must be a tree of arrays, but w is a float',
  ),
  'an export of nothing': (
    lambda _: deploy.export(None, {'w': sparse()}),  # pyright: ignore
    '`apply_sparse` was None, but must be a function',
  ),
  'files of keys': (
    lambda path: deploy.save(
      path / 'a', {'key': jax.random.key(0)}, {'key': None}
    ),
    'key has dtype key<fry>.*`jax.random.key_data',
  ),
  'names in names': (
    lambda path: deploy.save(
      path / 'a', {'a': KERNEL, 'a/b': KERNEL}, {'a': None, 'a/b': None}
    ),
    r'a has parts of the same name \(a/b\)',
  ),
  'traced files': (
    lambda path: jax.jit(lambda p: deploy.save(path / 'a', p, MASKS))(PARAMS),
    '`save` writes numbers to a file',
  ),
  'scalars of 8 bits': (
    saved({'w': np.ones((), np.float32)}, int8=True),
    r'w is float32\[\], but int8',
  ),
  'integers of 8 bits': (
    saved({'w': np.ones((3, 4), np.int32)}, int8=True),
    'w is int32.3, 4., but int8',
  ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_are_named(name, tmp_path):
  call, text = MISTAKES[name]
  with pytest.raises((TypeError, ValueError), match=text):
    call(tmp_path)
  assert not os.listdir(tmp_path)


def test_files_of_unusual_leaves(tmp_path):
  params = {
    'bare': None,
    'complex': jnp.ones(2, jnp.complex64),
    'dead': jnp.ones((3, 4)),
    'none': jnp.ones((4, 0)),
  }
  masks = {
    'bare': None,
    'complex': None,
    'dead': jnp.zeros((3, 4), bool),
    'none': jnp.ones((4, 0), bool),
  }
  deploy.save(tmp_path / 'a', params, masks, int8=True)
  found, found_masks = deploy.load(tmp_path / 'a')
  params['dead'] = jnp.zeros((3, 4))
  jax.tree.map(np.testing.assert_array_equal, found, params)
  jax.tree.map(np.testing.assert_array_equal, found_masks, masks)


def test_every_changed_bit_is_noticed(tmp_path):
  deploy.save(tmp_path / 'a', {'w': KERNEL[:6]}, {'w': MASK[:6]})
  whole = (tmp_path / 'a').read_bytes()
  errors = []
  for bit in range(3, 8 * len(whole), 97):
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    (tmp_path / 'b').write_bytes(changed)
    try:
      params, masks = deploy.load(tmp_path / 'b')
    except ValueError as error:
      errors.append(str(error))
    else:  # A blank, or the name of the digest, where nothing is lost.
      np.testing.assert_array_equal(params['w'], DENSE[:6])
      np.testing.assert_array_equal(masks['w'], MASK[:6])
  assert errors
  assert all('b is damaged' in error for error in errors)


def test_exports_that_do_not_fit():
  kernel, x = {'w': sparse(lookup=False)}, jnp.ones((2, 40))
  run = deploy.sparse_apply(matmul, PARAMS)
  data = deploy.export(run, kernel, jax.typeof(x))
  found = deploy.load_export(data)
  near(found(kernel, x), x @ DENSE)
  for other in (PARAMS, {'w': sparse(capacity=200)}, None):
    with pytest.raises(ValueError, match='The export takes params of float32'):
      found(other, x)
  for bad in (data[:-5], data[:40], b'', data[:99] + b'?' + data[100:]):
    with pytest.raises(ValueError, match='bytes are not an export of'):
      deploy.load_export(bad)


@pytest.mark.parametrize(
  ('change', 'example', 'text'),
  [
    (np.nan, np.ones((2, 4), np.float32), 'not all numbers are finite in: the'),
    (1, jax.ShapeDtypeStruct((2, 4), np.float32), 'compares numbers: pass arr'),
  ],
  ids=['nan', 'shapes'],
)
def test_what_cannot_be_compared(change, example, text):
  params = {'w1': np.ones((4, 3), np.float32), 'w2': np.eye(3, 2, dtype='f')}
  params['w1'][0, 0] *= change
  masks = {'w1': np.ones((4, 3), bool), 'w2': params['w2'] > 0}

  def apply(params, x):
    return jnp.maximum(x @ params['w1'], 0) @ params['w2']

  with pytest.raises((TypeError, ValueError), match=text):
    deploy.compact(apply, params, masks, example)
