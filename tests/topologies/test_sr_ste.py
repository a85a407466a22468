"""SR-STE: by hand; the oracle is that of straight-through."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth

W = {'w': jnp.array([[4.0, 3.0, -2.0, 1.0]]), 'b': jnp.array([2.0])}


def test_three_steps_by_hand():
  tx = lth.sr_ste(optax.sgd(1.0), sparsity=0.5, decay=0.5)
  params, state, update = W, tx.init(W), jax.jit(tx.update)
  steps = [
    # Half of -2 and of 1 is added, then half of 1 and -1, of 0.5 and 1.5.
    ([0, 2, 0, -3], [4, 1, -1, 3.5], [1, 0, 0, 1]),
    ([1, 0, -2, 0], [3, 0.5, 1.5, 3.5], [1, 0, 0, 1]),
    ([4, -2, 0, 3], [-1, 2.25, 0.75, 0.5], [1, 1, 0, 0]),
  ]
  for grad, w, mask in steps:
    grads = {'w': jnp.array([grad], jnp.float32), 'b': jnp.zeros(1)}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    assert params['w'][0].tolist() == w
    assert lth.get_masks(state)['w'][0].tolist() == mask
    assert params['b'] == 2  # Leaves that are never pruned do not decay.


def test_the_paper_decays_by_two_in_ten_thousand():
  tx = lth.sr_ste(optax.sgd(1.0), sparsity=0.5)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, W), tx.init(W), W)
  np.testing.assert_allclose(updates['w'], [[0, 0, 4e-4, -2e-4]], rtol=1e-6)


def test_the_decay_may_be_injected():
  @optax.inject_hyperparams
  def make(decay):
    return lth.sr_ste(optax.sgd(1.0), sparsity=0.5, decay=decay)

  tx = make(decay=0.5)
  state = tx.init(W)
  state.hyperparams['decay'] = jnp.float32(0.25)
  updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, W), state, W)
  assert updates['w'].tolist() == [[0, 0, 0.5, -0.25]]


@pytest.mark.parametrize('decay', [-0.1, float('nan')])
@pytest.mark.parametrize('method', ['sr_ste', 'top_kast'])
def test_decay_must_not_be_negative(method, decay):
  options = {'backward_sparsity': 0.2} if method == 'top_kast' else {}
  message = f'`decay` was {decay}, but must not be negative.'
  with pytest.raises(ValueError, match=re.escape(message)):
    getattr(lth, method)(optax.sgd(1.0), sparsity=0.5, decay=decay, **options)
