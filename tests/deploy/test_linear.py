"""Products with sparse kernels: hand vectors, NumPy, and where they run."""

import dataclasses
import functools
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_but

from lthjax import deploy
from lthjax.deploy import _compile, _kernels, _layouts

RNG = np.random.default_rng(0)
MISSING = _compile.supported()
if os.environ.get('LTHJAX_KERNELS') == '0':
  MISSING = 'LTHJAX_KERNELS=0 switches compiled kernels off'
needs_kernels = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope='module', autouse=True)
def compiled():
  """Builds the kernels once; without them the fallback is tested."""
  if MISSING is None:
    assert deploy.build_kernels().available
    yield
  else:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', UserWarning)
      yield


def sparse_of(kernel, mask, **options):
  packed = _layouts.pack(kernel, mask, (0,), **options)
  return jax.tree.map(jnp.asarray, packed)


def drawn(shape, density, *, block=1, **options):
  kernel = RNG.normal(size=shape).astype(np.float32)
  groups = shape[0], shape[1] // block
  mask = np.repeat(RNG.random(groups) < density, block, axis=1)
  options['block'] = block
  return kernel * mask, sparse_of(kernel, mask, **options)


@functools.partial(jax.jit, static_argnames='bias')
def with_gradients(x, sparse, shift, dy, bias=True):
  values, structure = deploy.split({'w': sparse})

  def product(x, values, shift):
    kernel = deploy.join(values, structure)['w']
    return deploy.linear(x, kernel, shift if bias else None)

  y, pull = jax.vjp(product, x, values, shift)
  return y, *pull(dy)


def close(found, wanted):
  wanted = np.asarray(wanted, np.float64)
  scale = max(1, np.max(np.abs(wanted), initial=0))
  return np.max(np.abs(found - wanted), initial=0) <= 1e-5 * scale


@pytest.mark.parametrize('batch', [1, 5, 9, 17, 33])
def test_tiles_by_hand(batch):
  kernel, mask = np.zeros((513, 2), np.float32), np.zeros((513, 2), bool)
  for at, value in {(0, 0): 1, (512, 0): 2, (3, 1): 4}.items():
    kernel[at], mask[at] = value, True
  sparse = sparse_of(kernel, mask)
  assert sparse.values.tolist() == [1, 4, 2]
  assert sparse.indices.tolist() == [0, 3, 0]
  assert sparse.starts.tolist() == [0, 1, 2, 3, 3]
  x = np.zeros((batch, 513), np.float32)
  x[:, [0, 3, 512]] = 10, 100, 1000
  shift = np.zeros(2, np.float32)
  dy = np.zeros((batch, 2), np.float32)
  dy[0] = 1, 10
  y, _, values, _ = with_gradients(x, sparse, shift, dy)
  assert y.tolist() == [[2010, 400]] * batch
  assert values['w'].tolist() == [10, 1000, 1000]
  _, dx, _, _ = with_gradients(x, sparse, shift, np.ones_like(dy))
  wanted = np.zeros(513)
  wanted[[0, 3, 512]] = 1, 4, 2
  np.testing.assert_array_equal(dx, np.tile(wanted, (batch, 1)))


def test_lookup_by_hand():
  kernel, mask = np.zeros((65, 2), np.float32), np.zeros((65, 2), bool)
  for at, value in {(0, 0): 1, (63, 0): 2, (64, 1): 3}.items():
    kernel[at], mask[at] = value, True
  sparse = sparse_of(kernel, mask, lookup=True)
  table = sparse.lookup
  assert table.offsets.tolist() == [0, 1]
  assert table.windows.tolist() == [0]
  locs, values = np.zeros((4, 4, 4)), np.zeros((4, 16))
  locs[0, 0, 0], locs[0, 1, 0], locs[0, 0, 1] = 128, 128 + 63, 128 + 64
  values[0, 0], values[1, 0], values[0, 1] = 1, 2, 3
  np.testing.assert_array_equal(table.locs, locs.ravel())
  np.testing.assert_array_equal(table.values, values.ravel())
  x = np.zeros(65, np.float32)
  x[[0, 63, 64]] = 1, 10, 100
  assert deploy.linear(jnp.asarray(x), sparse).tolist() == [21, 300]


@pytest.mark.parametrize('block', [1, 4])
@pytest.mark.parametrize('density', slow_but([1.0, 0.4, 0.02, 0.0], [0.4]))
def test_lookup_holds_each_weight_once(block, density):
  for shape in ((700, 72), (33, 4), (129, 148)):
    kernel, sparse = drawn(shape, density, block=block, lookup=True)
    table, found = sparse.lookup, np.zeros_like(kernel)
    locs = np.asarray(table.locs).reshape(-1, 4, 4, 4).transpose(0, 2, 1, 3)
    values = np.asarray(table.values).reshape(-1, block, 4, 16)
    offsets = np.asarray(table.offsets)
    assert len(offsets) == -(-shape[1] // (16 * block)) + 1
    for group, slot, row in np.argwhere(locs.reshape(-1, 4, 16)):
      loc = locs.reshape(-1, 4, 16)[group, slot, row]
      place = 32 * int(table.windows[group]) + int(loc) - 128
      tile = np.searchsorted(offsets, group, side='right') - 1
      output = (16 * tile + row) * block
      assert not found[place, output : output + block].any()
      found[place, output : output + block] = values[group, :, slot, row]
    np.testing.assert_array_equal(found, kernel)


@needs_kernels
def test_damaged_lookups_read_nothing_else():
  """Wrong sizes are refused, and windows behind the inputs see zeros."""
  if deploy.kernels().isa != 'avx512':
    pytest.skip('The processor has no AVX-512, so lookups are not read.')
  _, sparse = drawn((300, 8), 0.3, lookup=True)
  table = jax.tree.map(np.asarray, sparse.lookup)
  x = jnp.ones((1, 300))
  for change in (
    {'offsets': table.offsets[::-1]},
    {'offsets': table.offsets + 1},
    {'locs': table.locs[1:]},
    {'values': table.values[:-64]},
    {'windows': table.windows[:0]},
    {'values': table.values.astype(jnp.bfloat16)},
    {'values': table.values.view(np.int32)},
  ):
    bad = dataclasses.replace(table, **change)
    wanted = 'do not fit|neither float32 nor int8'
    with pytest.raises(jax.errors.JaxRuntimeError, match=wanted):
      deploy.linear(x, _layouts.replace(sparse, lookup=bad)).block_until_ready()
  windows = np.full_like(table.windows, 65535)
  bad = dataclasses.replace(table, windows=windows)
  found = deploy.linear(x, _layouts.replace(sparse, lookup=bad))
  assert found.tolist() == [[0] * 8]


@needs_kernels
def test_dead_weights_read_nothing():
  """Also not 0 * inf: neither from padding nor from dead weights."""
  kernel, mask = np.ones((65, 2), np.float32), np.zeros((65, 2), bool)
  mask[0, 0] = mask[63, 0] = mask[64, 1] = True
  for batch in (1, 4, 5, 20):
    for lookup in (True, False):
      x = np.zeros((batch, 65), np.float32)
      x[:, 5], x[:, 1] = np.inf, np.nan
      x[:, [0, 63, 64]] = 1, 10, 100
      sparse = sparse_of(kernel, mask, lookup=lookup)
      y = deploy.linear(jnp.asarray(x), sparse)
      assert y.tolist() == [[11, 100]] * batch
      x[:, 0] = np.inf
      y = deploy.linear(jnp.asarray(x), sparse)
      assert y.tolist() == [[np.inf, 100]] * batch


def test_int8_by_hand():
  kernel = np.array([[1.27, 5.0], [-0.01, 5.0]], np.float32)
  mask = np.array([[True, False], [True, False]])
  sparse = sparse_of(kernel, mask, lookup=True, int8=True)
  np.testing.assert_array_equal(sparse.lookup.scale, np.float32([0.01, 1]))
  assert sparse.lookup.values.dtype == jnp.int8
  slots = np.asarray(sparse.lookup.values).reshape(4, 16)
  assert slots[:, 0].tolist() == [127, -1, 0, 0]
  for batch in (1, 6):
    x, shift = jnp.ones((batch, 2)), jnp.array([0.5, -7.25])
    y = deploy.linear(x, sparse, shift)
    np.testing.assert_allclose(y[:, 0], 1.76, rtol=1e-6)
    assert y[:, 1].tolist() == [-7.25] * batch
  with pytest.raises(TypeError, match='for inference only'):
    jax.grad(lambda x: deploy.linear(x, sparse).sum())(jnp.ones(2))


def test_int8_of_the_smallest_floats_is_zero():
  """A 127th of such a weight is zero, and would make NaN of the others."""
  kernel = np.full((4, 2), 1e-45, np.float32)
  kernel[:, 1] = 127
  mask = np.ones(kernel.shape, bool)
  sparse = sparse_of(kernel, mask, lookup=True, int8=True)
  assert sparse.lookup.scale.tolist() == [1, 1]
  for batch in (1, 6):
    y = deploy.linear(jnp.ones((batch, 4)), sparse)
    assert y.tolist() == [[0, 508]] * batch


def test_alive_zeros_and_spare_room():
  kernel = np.array([[0.0, 3.0], [5.0, -0.0]], np.float32)
  mask = np.array([[True, True], [False, True]])
  sparse = sparse_of(kernel, mask, capacity=8)
  assert sparse.capacity == 8
  x, dy = np.array([[2, 7]], np.float32), np.ones((1, 2), np.float32)
  y, _, values, _ = with_gradients(x, sparse, np.zeros(2, np.float32), dy)
  assert y.tolist() == [[0, 6]]
  assert values['w'].tolist() == [2, 2, 7, 0, 0, 0, 0, 0]
  exact = deploy.densify({'w': sparse_of(kernel, mask)})['w']
  assert np.asarray(exact).tobytes() == np.where(mask, kernel, 0).tobytes()


@pytest.mark.parametrize(
  'shape',
  slow_but(
    [(784, 300), (100, 10), (513, 17), (1000, 1)], [(100, 10), (513, 17)]
  ),
)
@pytest.mark.parametrize('density', slow_but([1.0, 0.1, 0.0], [0.1]))
def test_against_double_precision(shape, density):
  kernel, sparse = drawn(shape, density)
  matrix = kernel.astype(np.float64)
  places = tuple(np.asarray(x) for x in _layouts.positions(sparse))
  for batch in (1, 3, 8, 33):
    x = RNG.normal(size=(batch, shape[0])).astype(np.float32)
    dy = RNG.normal(size=(batch, shape[1])).astype(np.float32)
    shift = RNG.normal(size=shape[1]).astype(np.float32)
    y, dx, values, dshift = with_gradients(x, sparse, shift, dy)
    assert close(y, x @ matrix + shift)
    assert close(dx, dy @ matrix.T)
    assert close(values['w'], (x.T.astype(np.float64) @ dy)[places])
    assert close(dshift, dy.sum(0))


@pytest.mark.slow
@pytest.mark.parametrize('isa', ['0', '3', '4', '5'])
def test_every_instruction_set(run_python, isa):
  run_python(
    f'import os; os.environ["LTHJAX_ISA"] = "{isa}"\n'
    'import runpy; runpy.run_path("tests/deploy/test_linear.py")["grid"]()'
  )


def grid():
  """Runs in a process that is told which instruction set to use."""
  found = deploy.build_kernels()
  print(found)
  shapes = [
    (3072, 768), (784, 300), (300, 100), (100, 10), (7, 3), (513, 17),
    (1000, 1),
  ]  # fmt: skip
  batches = [1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 60, 100]
  kinds = [(shape, {'lookup': True}) for shape in shapes]
  kinds += [
    (shape, {'block': 4, 'lookup': True})
    for shape in shapes
    if shape[1] % 4 == 0
  ]
  for shape, kind in kinds:
    for density in (1, 0.5, 0.1, 0.02, 0):
      kernel, sparse = drawn(shape, density, **kind)
      places = tuple(np.asarray(x) for x in _layouts.positions(sparse))
      matrix = kernel.astype(np.float64)
      # Loops end in the same ways whatever the density.
      for batch in batches if density in (0.5, 0.02) else (1, 5, 33):
        x = RNG.normal(size=(batch, shape[0])).astype(np.float32)
        dy = RNG.normal(size=(batch, shape[1])).astype(np.float32)
        shift = RNG.normal(size=shape[1]).astype(np.float32)
        y, dx, values, dshift = with_gradients(x, sparse, shift, dy)
        assert close(y, x @ matrix + shift), (shape, density, batch)
        assert close(deploy.linear(jnp.asarray(x), sparse, shift), y)
        assert close(dx, dy @ matrix.T), (shape, density, batch)
        wanted = (x.T.astype(np.float64) @ dy)[places]
        assert close(values['w'], wanted), (shape, density, batch)
        assert close(dshift, dy.sum(0))


def test_batches_of_any_rank_and_dtype():
  kernel, sparse = drawn((40, 6), 0.3)
  x = RNG.normal(size=(2, 3, 40)).astype(np.float32)
  assert close(deploy.linear(jnp.asarray(x), sparse), x @ kernel)
  assert close(jnp.asarray(x) @ sparse, x @ kernel)
  assert close(deploy.linear(jnp.asarray(x[0, 0]), sparse), x[0, 0] @ kernel)
  half = jnp.asarray(x, jnp.bfloat16)
  y = deploy.linear(half, sparse)
  assert y.dtype == jnp.bfloat16
  exact = np.asarray(half, np.float64) @ kernel
  np.testing.assert_allclose(np.asarray(y, np.float64), exact, 1e-2, 1e-2)
  assert deploy.linear(jnp.zeros((0, 40)), sparse).shape == (0, 6)


def test_vmap_over_examples_and_over_weights():
  kernel, sparse = drawn((40, 6), 0.3)
  x = jnp.asarray(RNG.normal(size=(5, 40)), jnp.float32)
  found = jax.vmap(lambda x: deploy.linear(x, sparse))(x)
  assert close(found, x @ kernel)
  calls = jax.make_jaxpr(jax.vmap(lambda x: deploy.linear(x, sparse)))(x)
  if deploy.kernels().available:  # The axis became a longer batch.
    assert 'f32[5,6] = ffi_call' in str(calls)
  values, structure = deploy.split({'w': sparse})
  scaled = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), values)

  def product(values, x):
    return deploy.linear(x, deploy.join(values, structure)['w'])

  found = jax.vmap(product, (0, None))(scaled, x)
  assert close(found, np.stack([x @ kernel, 2 * x @ kernel]))
  total = jax.grad(lambda v: jax.vmap(product, (0, None))(v, x).sum())(scaled)
  alone = jax.grad(lambda v: product(v, x).sum())(values)
  assert close(total['w'][0], alone['w'])


@needs_kernels
def test_calls_from_many_threads_agree():
  from concurrent.futures import ThreadPoolExecutor

  kernel, sparse = drawn((700, 500), 0.2)
  x = jnp.asarray(RNG.normal(size=(64, 700)), jnp.float32)
  f = jax.jit(lambda x, s: deploy.linear(x, s))
  alone = np.asarray(f(x, sparse)).tobytes()
  assert close(f(x, sparse), x @ kernel)
  with ThreadPoolExecutor(8) as pool:
    found = pool.map(lambda _: np.asarray(f(x, sparse)).tobytes(), range(400))
    assert set(found) == {alone}


@needs_kernels
@pytest.mark.slow
def test_independent_layers_do_not_wait_for_each_other(run_python):
  """Eight sparse layers on a pool of two threads: no deadlock."""
  run_python(
    'import os; os.environ["NPROC"] = "2"\n'
    'import runpy; runpy.run_path("tests/deploy/test_linear.py")["eight"]()'
  )


def eight():
  """10,000 calls of a program in which eight products may run at once."""
  from concurrent.futures import ThreadPoolExecutor

  deploy.build_kernels()
  layers = [drawn((600, 400), 0.2)[1] for _ in range(8)]
  f = jax.jit(lambda x, layers: [deploy.linear(x, s) for s in layers])
  x = jnp.asarray(RNG.normal(size=(32, 600)), jnp.float32)
  with ThreadPoolExecutor(8) as pool:
    for _ in pool.map(
      lambda _: jax.block_until_ready(f(x, layers)), range(10_000)
    ):
      pass


@needs_kernels
def test_damaged_structures_are_refused():
  _, sparse = drawn((40, 6), 0.3)
  starts = sparse.starts.at[2].set(10_000)
  with pytest.raises(Exception, match='`starts` of a sparse kernel must rise'):
    jax.block_until_ready(
      deploy.linear(jnp.ones((8, 40)), _layouts.replace(sparse, starts=starts))
    )
  wild = sparse.indices.at[0].set(
    65_000
  )  # Masked: reads elsewhere, not outside.
  y = deploy.linear(jnp.ones((8, 40)), _layouts.replace(sparse, indices=wild))
  assert y.shape == (8, 6)


@pytest.mark.parametrize(
  ('x', 'bias', 'error', 'text'),
  [
    (np.ones((2, 7), np.float32), None, ValueError, 'has 40 inputs'),
    (np.float32(1), None, ValueError, 'has 40 inputs'),
    (np.ones((2, 40), np.int32), None, TypeError, 'dtype int32'),
    (
      np.ones((2, 40), np.float32),
      np.ones(7, np.float32),
      ValueError,
      r'`bias` has shape \(7,\), but this kernel has 6 outputs',
    ),
  ],
  ids=['inputs', 'scalar', 'integers', 'bias'],
)
def test_operands_that_do_not_fit(x, bias, error, text):
  _, sparse = drawn((40, 6), 0.3)
  with pytest.raises(error, match=text):
    deploy.linear(x, sparse, bias)


def test_dense_kernels_are_not_sparse():
  with pytest.raises(TypeError, match='takes a `Sparse` kernel'):
    deploy.linear(jnp.ones((2, 3)), jnp.ones((3, 4)))  # pyright: ignore


@pytest.mark.slow
def test_without_kernels_the_result_is_the_same(run_python):
  """Another process, in which compiled kernels are switched off."""
  source = """
import os, warnings
os.environ['LTHJAX_KERNELS'] = '0'
import jax, jax.numpy as jnp, numpy as np
from lthjax import deploy
assert not deploy.kernels().available
assert 'LTHJAX_KERNELS=0' in deploy.kernels().reason
rng = np.random.default_rng(1)
w = jnp.asarray(rng.normal(size=(40, 6)), jnp.float32)
x = jnp.asarray(rng.normal(size=(8, 40)), jnp.float32)
mask = jnp.asarray(rng.random((40, 6)) < .3)
sparse = deploy.condense({'w': w}, {'w': mask})
with warnings.catch_warnings(record=True) as caught:
  warnings.simplefilter('always')
  values, structure = deploy.split(sparse)
  kernel = lambda v: deploy.join(v, structure)["w"]
  loss = lambda v, x: (deploy.linear(x, kernel(v)) ** 2).sum()
  found = jax.value_and_grad(loss, (0, 1))(values, x)
print(sum('without compiled kernels' in str(w.message) for w in caught))
dense = jnp.where(mask, w, 0)
wanted = jax.value_and_grad(lambda w, x: ((x @ w) ** 2).sum(), (0, 1))(dense, x)
np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
np.testing.assert_allclose(found[1][1], wanted[1][1], rtol=1e-5, atol=1e-5)
"""
  assert run_python(source).strip() == '1'


@needs_kernels
def test_a_library_of_a_newer_interface_is_left_alone(monkeypatch):
  class Newer:
    def lthjax_ffi_version(self):
      return 99

  monkeypatch.setattr(_kernels, '_candidates', lambda: ['newer.so'])
  monkeypatch.setattr(_kernels.ctypes, 'CDLL', lambda path: Newer())
  _kernels._find.cache_clear()
  found = deploy.kernels()
  monkeypatch.undo()
  _kernels._find.cache_clear()
  assert not found.available
  assert 'version 0.99 of the foreign function interface' in found.reason
  assert 'build_kernels()' in found.reason
  assert deploy.kernels().available


@needs_kernels
@pytest.mark.parametrize('isa', ['avx', '-1', '4.0', '\u00b2', ' '])
def test_instruction_sets_are_numbers(isa, monkeypatch):
  monkeypatch.setenv('LTHJAX_ISA', isa)
  _kernels._find.cache_clear()
  with pytest.raises(ValueError, match=f"LTHJAX_ISA was '{isa}', but must"):
    deploy.kernels()
  monkeypatch.undo()
  _kernels._find.cache_clear()
