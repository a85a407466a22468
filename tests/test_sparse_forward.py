"""What holds of all methods that train dense weights."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import slow_but

import lthjax as lth

INNER = optax.sgd(0.1, momentum=0.9)
METHODS = {
  'straight_through': functools.partial(lth.straight_through, sparsity=0.5),
  'groups': functools.partial(lth.sr_ste, pattern=lth.patterns.NM(2, 4)),
  'sr_ste': functools.partial(lth.sr_ste, sparsity=0.5, update_every=2),
  'top_kast': functools.partial(
    lth.top_kast, sparsity=0.5, backward_sparsity=0.25, update_every=2
  ),
}
every_method = pytest.mark.parametrize('method', METHODS)


def random_like(seed):
  rng = np.random.default_rng(seed)
  return {
    'kernel': jnp.asarray(rng.normal(size=(8, 6)), jnp.float32),
    'bias': jnp.asarray(rng.normal(size=6), jnp.float32),
  }


PARAMS = random_like(0)


def eager_step(tx, params, state, grads):
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


@functools.cache
def compiled(method):
  tx = METHODS[method](INNER)
  return tx, jax.jit(functools.partial(eager_step, tx))


def as_bytes(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@every_method
def test_counts_are_exact_whatever_the_weights(method):
  tx, step = compiled(method)
  for bad in (np.nan, np.inf, 0.0):
    params = jax.tree.map(lambda x, b=bad: jnp.where(x > -0.5, b, x), PARAMS)
    state = tx.init(params)
    assert lth.masks.count(lth.get_masks(state)) == 24
    for i in range(2):
      params, state = step(params, state, random_like(i))
      assert lth.masks.count(lth.get_masks(state)) == 24
      if method == 'top_kast':
        masks, trained = lth.get_masks(state), state.topology_state.backward
        assert lth.masks.count(trained) == 36
        assert lth.masks.count(lth.masks.difference(masks, trained)) == 0


@every_method
def test_resumable_to_the_bit(method):
  tx, step = compiled(method)

  def go_on(params, state, steps):
    for i in steps:
      params, state = step(params, state, random_like(i))
    return params, state

  straight = as_bytes(go_on(PARAMS, tx.init(PARAMS), range(1, 6)))
  for stop in (1, 2, 3):  # Just before a move, on it, and just after.
    saved = go_on(PARAMS, tx.init(PARAMS), range(1, stop + 1))
    leaves, treedef = jax.tree.flatten(saved)
    saved = jax.tree.unflatten(treedef, [jnp.array(x) for x in leaves])
    assert as_bytes(go_on(*saved, range(stop + 1, 6))) == straight


@pytest.mark.parametrize('method', ['straight_through', 'top_kast'])
def test_eager_scanned_and_vmapped_choose_alike(method):
  tx, step = compiled(method)
  grads = [random_like(i) for i in range(1, 5)]
  params, state = PARAMS, tx.init(PARAMS)
  alone, own = PARAMS, state
  for g in grads:
    params, state = step(params, state, g)
    alone, own = eager_step(tx, alone, own, g)
  assert as_bytes(lth.get_masks(own)) == as_bytes(lth.get_masks(state))
  both = jax.tree.map(lambda x: jnp.stack([x, -x]), PARAMS)
  stacked = jax.tree.map(
    lambda *x: jnp.stack([jnp.stack(x), -jnp.stack(x)]), *grads
  )

  @jax.jit
  @jax.vmap
  def train(params, grads):
    def body(carry, g):
      return eager_step(tx, *carry, g), None

    return jax.lax.scan(body, (params, tx.init(params)), grads)[0]

  both, together = train(both, stacked)
  for i in range(2):
    mine = jax.tree.map(lambda x, i=i: x[i], together)
    assert as_bytes(mine.topology_state) == as_bytes(state.topology_state)
  chex.assert_trees_all_close(both['kernel'][0], params['kernel'], rtol=1e-5)


@pytest.mark.parametrize('compile_it', [False, True])
@pytest.mark.parametrize(
  'grads_dtype', slow_but([jnp.float32, jnp.bfloat16], [jnp.bfloat16])
)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_what_does_not_train_keeps_its_bits(dtype, grads_dtype, compile_it):
  tx = lth.top_kast(optax.adamw(0.1), sparsity=0.75, backward_sparsity=0.5)
  w = jnp.array([[3.0, -3.0, 2.0, -2.0], [-0.0, 0.0, 1 / 3, -1 / 3]], dtype)
  step = functools.partial(eager_step, tx)
  step = jax.jit(step) if compile_it else step
  params, _ = step(w, tx.init(w), jnp.full(w.shape, jnp.nan, grads_dtype))
  assert params.dtype == dtype
  assert as_bytes(params[1]) == as_bytes(w[1])
  assert np.isnan(np.asarray(params[0], np.float32)).all()


def test_what_does_not_train_never_matters():
  inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
  tx = lth.top_kast(inner, sparsity=0.75, backward_sparsity=0.5, decay=0.0)
  params = {'w': jnp.array([[4.0, 3.0, 1.0, 0.5]])}
  grads = {'w': jnp.array([[3.0, 4.0, 1e6, jnp.inf]])}
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates['w'], [[-0.6, -0.8, 0, 0]], rtol=1e-6)


def test_what_does_not_train_has_no_slots_even_at_first():
  tx = lth.top_kast(optax.adagrad(0.1), sparsity=0.75, backward_sparsity=0.5)
  state = tx.init({'w': jnp.array([[4.0, 3.0, 1.0, 0.5]])})
  slots = optax.tree.get(state, 'sum_of_squares')['w']
  np.testing.assert_allclose(slots, [[0.1, 0.1, 0, 0]])


def test_masks_are_chosen_under_a_branch_or_always():
  def program(method):
    tx = METHODS[method](INNER)
    return str(jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS), PARAMS))

  assert 'cond[' not in program('straight_through')
  assert 'cond[' in program('top_kast')


@every_method
def test_masks_are_no_constants_of_the_program(method):
  tx, _ = compiled(method)
  assert not jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS), PARAMS).consts


def test_update_needs_params():
  tx, _ = compiled('straight_through')
  message = (
    '`sparsify` needs the current params: call `tx.update(grads, state,'
    ' params)`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    tx.update(PARAMS, tx.init(PARAMS))


@pytest.mark.parametrize(
  'grads', [{'kernel': PARAMS['kernel']}, {**PARAMS, 'kernel': jnp.ones(3)}]
)
def test_gradients_have_to_fit(grads):
  tx, _ = compiled('top_kast')
  with pytest.raises(ValueError, match='masks do not fit the gradients'):
    tx.update(grads, tx.init(PARAMS), PARAMS)
