"""Which leaf meets which matmul: counted by hand, and by running the program.

If all inputs and weights are one, each multiply-add contributes one to the
outputs of a single layer without padding. This is the independent count.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from programs import constrained, counts, mesh, shaped

from lthjax import program


def mlp(params, x):
  x = jax.nn.relu(x @ params['fc1'] + params['bias'])
  return x @ params['fc2']


MLP = {'fc1': shaped(4, 3), 'bias': shaped(3), 'fc2': shaped(3, 2)}
X = shaped(5, 4)


def test_mlp_use_by_use():
  first, second = program.uses(mlp, MLP, X)
  assert (first.name, first.primitive, first.path) == (
    'fc1',
    'dot_general',
    (0,),
  )
  assert (first.shapes, first.runs) == (((5, 4), (4, 3)), 1)
  assert (first.multiply_adds, first.times) == (60, 5)
  assert (second.name, second.shapes) == ('fc2', ((5, 3), (3, 2)))
  assert (second.multiply_adds, second.times) == (30, 5)


def test_nothing_is_computed():
  params = {'w': shaped(10**6, 10**6)}
  assert counts(lambda p, x: x @ p['w'], params, shaped(7, 10**6)) == {
    'w': 7 * 10**12
  }


def test_arrays_and_shapes_count_alike():
  arrays = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), (MLP, X))
  assert counts(mlp, *arrays) == counts(mlp, MLP, X) == {'fc1': 60, 'fc2': 30}


@jax.custom_vjp
def own_vjp(w, x):
  return x @ w


own_vjp.defvjp(lambda w, x: (x @ w, (w, x)), lambda res, g: res)


@jax.custom_jvp
def own_jvp(w, x):
  return x @ w


@own_jvp.defjvp
def _(primals, tangents):
  return own_jvp(*primals), own_jvp(*tangents)


@jax.custom_batching.custom_vmap
def own_vmap(w, x):
  return x @ w


own_vmap.def_vmap(lambda size, batched, w, x: (x @ w, True))


def by_rows(w, x):
  return jax.vmap(lambda row: row @ w)(x)


def cast_and_turned(w, x):
  w = w.astype(jnp.bfloat16).T.reshape(-1).reshape(3, 2, 2)
  return jnp.einsum('oij,bij->bo', w, x.astype(jnp.bfloat16).reshape(5, 2, 2))


def sharded(w, x):
  """Each device has a block of the inputs."""
  return jax.shard_map(
    lambda x, w: jax.lax.psum(x @ w, 'x'),
    mesh=mesh(),
    in_specs=(jax.P(None, 'x'), jax.P('x')),
    out_specs=jax.P(),
  )(x, w)


def gathered(w, x):
  """Each device has a block of the kernel, and gets the others."""
  return jax.shard_map(
    lambda x, w: x @ jax.lax.all_gather(w, 'x', axis=1, tiled=True),
    mesh=mesh(),
    in_specs=(jax.P('x'), jax.P(None, 'x')),
    out_specs=jax.P('x'),
  )(x, w)


GUISES = [
  lambda w, x: x @ w,
  lambda w, x: w.T @ x.T,
  jax.jit(lambda w, x: jax.jit(lambda x, w: x @ w)(x, w)),
  jax.checkpoint(lambda w, x: x @ w),
  own_vjp,
  own_jvp,
  own_vmap,
  jax.lax.composite(lambda w, x: x @ w, name='own.matmul'),
  by_rows,
  jax.jit(jax.checkpoint(jax.jit(by_rows))),
  cast_and_turned,
  lambda w, x: jax.lax.dot_general(w, x, (((0,), (1,)), ((), ()))),
  lambda w, x: x @ jax.lax.optimization_barrier((w, x))[0],
  lambda w, x: x @ constrained(w),
  lambda w, x: x @ checkpoint_name(w, 'kernel'),
  lambda w, x: x @ jax.device_put(jnp.copy(w))[None, :, ::-1][0],
  lambda w, x: x[:, :2] @ jnp.split(w, 2)[0] + x[:, 2:] @ w[2:],
  lambda w, x: x @ jnp.concatenate([w[:1], jnp.stack([w[1], w[2], w[3]])]),
  lambda w, x: x[:, None] @ jnp.broadcast_to(w, (5, 4, 3)),
  lambda w, x: x[:, None] @ jnp.tile(w, (5, 1, 1)),
  lambda w, x: jax.lax.cond(x[0, 0] > 0, jnp.dot, lambda x, w: x @ w, x, w),
  lambda w, x: jax.lax.scan(lambda c, row: (c, row @ w), 0, x)[1],
  lambda w, x: jax.lax.map(lambda row: row @ w, x),
  lambda w, x: jax.lax.scan(lambda w, row: (w, row @ w), w, x)[1],
  lambda w, x: jax.lax.scan(lambda c, col: (c, x @ col), 0, w.T)[1],
  lambda w, x: x @ jax.lax.scan(lambda c, row: (c, row), 0, w)[1],
  lambda w, x: x @ jax.lax.dynamic_slice(w, (0, 0), (4, 3)),
  lambda w, x: jax.lax.ragged_dot(x, w[None], np.int32([5])),
  sharded,
  jax.jit(jax.checkpoint(gathered)),
]


@pytest.mark.parametrize('layer', GUISES)
def test_one_layer_in_many_guises(layer):
  uses = program.uses(lambda p, x: layer(p['w'], x), {'w': shaped(4, 3)}, X)
  assert {use.name for use in uses} == {'w'}
  assert sum(use.multiply_adds for use in uses) == 60
  mask = np.random.default_rng(0).random((4, 3)) < 0.5
  ran = layer(jnp.float32(mask), jnp.ones((5, 4))).sum()
  assert sum(use.times * int(use.view(mask).sum()) for use in uses) == int(ran)


@pytest.mark.parametrize('layer', GUISES)
def test_the_way_back(layer):
  uses = program.uses(lambda p, x: layer(p['w'], x), {'w': shaped(4, 3)}, X)
  assert all(use.shape == (4, 3) for use in uses)
  assert all(use.exact for use in uses)
  w = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
  seen = np.zeros((4, 3))
  for use in uses:
    view = use.view(w)
    number = np.asarray(use.pull_back(jnp.ones_like(view)))
    # Each entry comes back to its own place, as often as the operand has it.
    np.testing.assert_array_equal(use.pull_back(view), w * number)
    np.testing.assert_array_equal(use.pull_back(view > 0), number > 0)
    assert number.sum() == np.count_nonzero(view)
    loops = tuple(loop.length for loop in use.scans)
    assert view.shape == loops + use.shapes[use.operand]
    axes = sorted((*use.contracted, *use.batch, *use.free))
    assert axes == list(range(len(use.shapes[use.operand])))
    seen += number > 0
  assert (seen == 1).all()  # Every entry has one use.


def test_what_does_not_fit_the_operand_cannot_go_back():
  (use,) = program.uses(lambda p, x: x @ p['w'].T, {'w': shaped(3, 4)}, X)
  with pytest.raises(ValueError, match=r'of shape \(3, 4\), but w stands at'):
    use.pull_back(jnp.ones((3, 4)))
  with pytest.raises(ValueError, match='was given int32, but sums entries'):
    use.pull_back(jnp.ones((4, 3), int))


def test_uses_are_listed_while_something_else_is_traced():
  def apply(params, x):
    kernel = jnp.concatenate([params['a'], params['c']], axis=1)
    return x @ kernel[:, 1:]

  @jax.jit
  def traced(params, x):
    uses = program.uses(apply, params, x)
    found.extend(use.multiply_adds for use in uses)
    return [use.pull_back(use.view(params[use.name])) for use in uses]

  found = []
  a, c = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
  back, same = traced({'a': a, 'c': c}, np.ones((5, 4), np.float32))
  assert found == [40, 40]
  np.testing.assert_array_equal(back, a * [0, 1, 1])
  np.testing.assert_array_equal(same, c)


def test_batches_of_weights():
  def apply(params, x):
    return jax.vmap(jax.vmap(jnp.dot, (0, None)), (0, 0))(x, params['w'])

  params = {'w': shaped(7, 4, 3)}
  assert counts(apply, params, shaped(7, 5, 4)) == {'w': 7 * 5 * 4 * 3}


def test_tied_weights_count_twice():
  def apply(params, x):
    return jax.nn.relu(x @ params['w']) @ params['w'].T

  first, second = program.uses(apply, {'w': shaped(4, 3)}, X)
  assert first.name == second.name == 'w'
  assert first.multiply_adds == second.multiply_adds == 60
  w = jnp.arange(12).reshape(4, 3)
  np.testing.assert_array_equal(first.view(w), w)
  np.testing.assert_array_equal(second.view(w), w.T)


def test_gradients_count_as_other_matmuls():
  def apply(params, x):
    return jax.grad(lambda w: (x @ w).sum())(params['w'])

  assert counts(apply, {'w': shaped(4, 3)}, X) == {'w': 60, None: 60}


def test_where_chooses_the_leaves():
  assert counts(mlp, MLP, X, where='fc2') == {None: 60, 'fc2': 30}
  with pytest.raises(ValueError, match='No leaf of the params was selected'):
    program.uses(mlp, MLP, X, where=lambda name, leaf: False)


# Masks, and other things that keep dead weights at zero.


@pytest.mark.parametrize(
  'masked',
  [
    lambda w, m: jnp.where(m, w, 0),
    lambda w, m: jnp.where(~m, jnp.zeros(()), w),
    lambda w, m: w * m,
    lambda w, m: m.astype(jnp.bfloat16) * w.astype(jnp.bfloat16),
    lambda w, m: w + jax.lax.stop_gradient(jnp.where(m, w, 0) - w),
    lambda w, m: jnp.where(m, w, jax.lax.stop_gradient(w)),
    lambda w, m: jnp.where(jnp.abs(w) > 0.1, w, 0),
    lambda w, m: jnp.where(~(w == 0), w, 0),
    lambda w, m: w / jnp.linalg.norm(w, axis=0),
    lambda w, m: w * jax.lax.rsqrt(jnp.sum(w * w, axis=0, keepdims=True)),
    lambda w, m: jnp.round(jnp.clip(w / jnp.abs(w).max(), -1, 1) * 127) / 9,
    lambda w, m: jnp.sign(w) * 0.5,
    lambda w, m: jax.vmap(jnp.multiply)(w, m),
  ],
)
def test_masked_and_scaled_kernels(masked):
  def apply(params, mask, x):
    return x.astype(jnp.float32) @ masked(params['w'], mask)

  mask = shaped(4, 3, dtype=bool)
  (use,) = program.uses(apply, {'w': shaped(4, 3)}, mask, X)
  assert (use.name, use.multiply_adds, use.times) == ('w', 60, 5)
  w = jnp.arange(12).reshape(4, 3)
  np.testing.assert_array_equal(use.view(w), w)


def test_nested_scans():
  def apply(params, x):
    def outer(x, layer):  # 3 times, with its own slice
      w, x = layer.T, x @ params['in']

      def inner(x, half):  # 2 times, on halves of the slice
        return x + (x @ params['in'])[:, :2] @ half, None

      return jax.lax.scan(inner, x, w.reshape(2, 2, 4))[0], None

    return jax.lax.scan(outer, x, params['layers'])[0]

  params = {'in': shaped(4, 4), 'layers': shaped(3, 4, 4)}
  first, second, third = program.uses(apply, params, X)
  assert [u.name for u in (first, second, third)] == ['in', 'in', 'layers']
  assert [u.runs for u in (first, second, third)] == [3, 6, 6]
  assert [u.times for u in (first, second, third)] == [15, 30, 5]
  assert third.multiply_adds == 3 * 5 * 16
  w = jnp.arange(48).reshape(3, 4, 4)
  expected = w.transpose(0, 2, 1).reshape(3, 2, 2, 4)
  np.testing.assert_array_equal(third.view(w), expected)


def test_loops_of_known_length():
  def apply(params, x):
    return jax.lax.fori_loop(0, 7, lambda i, x: x @ params['w'], x)

  assert counts(apply, {'w': shaped(4, 4)}, X) == {'w': 7 * 5 * 16}


# Parts of leaves, and several leaves in one kernel.


def test_slices_count_what_they_use():
  def apply(params, x):
    return x @ params['w'][0, 1:, :2] + x @ params['w'][1, :3, 1:]

  first, second = program.uses(apply, {'w': shaped(2, 4, 3)}, shaped(5, 3))
  assert first.multiply_adds == second.multiply_adds == 30
  w = jnp.arange(24).reshape(2, 4, 3)
  np.testing.assert_array_equal(first.view(w), w[0, 1:, :2])
  np.testing.assert_array_equal(second.view(w), w[1, :3, 1:])


def test_concatenated_kernels():
  def apply(params, x):
    kernel = jnp.concatenate([params['a'], params['c']], axis=1)
    return x @ kernel[:, 1:]

  params = {'a': shaped(4, 3), 'c': shaped(4, 2)}
  first, second = program.uses(apply, params, X)
  assert (first.name, first.multiply_adds) == ('a', 5 * 4 * 2)
  assert (second.name, second.multiply_adds) == ('c', 5 * 4 * 2)
  mask = jnp.arange(12).reshape(4, 3) % 3 == 1
  assert first.times * int(first.view(mask).sum()) == 5 * 4
  assert first.view(mask).shape == (4, 4)


def test_layers_stacked_for_a_scan():
  def apply(params, x):
    layers = jnp.stack([params['a'], params['c'] * 2])
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0]

  params = {'a': shaped(4, 4), 'c': shaped(4, 4)}
  first, second = program.uses(apply, params, X)
  assert first.multiply_adds == second.multiply_adds == 80
  mask = jnp.eye(4, dtype=bool)
  np.testing.assert_array_equal(second.view(mask), [jnp.zeros((4, 4)), mask])
