"""Controls keep of a ticket what their table says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax import models
from lthjax.training import TrainState, with_masks
from methods import controls as ticket_controls
from methods.controls import ARMS

SEEDS = 2
# All that start from a ticket alone, and not from other trained networks.
NAMES = [name for name in ARMS if not name.startswith('one_shot')]


@pytest.fixture(scope='module')
def starts():
  """Where a ticket of half of the weights and its controls start."""
  keys = jax.random.split(jax.random.key(0), (3, SEEDS))

  def init(keys):
    params = {'kernel': jax.random.normal(keys[0], (SEEDS, 30, 20))}
    params['bias'] = jnp.full((SEEDS, 20), 3.0)
    return TrainState(0, params, tx.init(params), {}, keys, None)

  masks = {'kernel': jnp.ones((SEEDS, 30, 20), bool), 'bias': None}
  tx = lth.static(optax.sgd(0.1, momentum=0.9), masks)
  start, fresh = init(keys[0]), init(keys[1])
  masks = jax.vmap(lambda m: lth.masks.shuffle(jax.random.key(0), m))(
    {'kernel': jnp.arange(600).reshape(30, 20)[None].repeat(SEEDS, 0) < 300}
  )
  masks['bias'] = None
  return {
    'ticket': (start, masks),
    **{
      name: ticket_controls.begin(name, keys[2], start, fresh, masks, tx)
      for name in NAMES
      if name != 'ticket'
    },
  }


def test_networks_pruned_at_once_keep_as_many_weights_of_each_layer():
  weights = np.random.default_rng(0).normal(size=(SEEDS, 6, 5))
  masks = np.zeros((SEEDS, 6, 5), bool)
  masks[0, :2], masks[1, :4] = True, True
  params = {'kernel': jnp.asarray(weights), 'bias': jnp.ones((SEEDS, 5))}
  found = ticket_controls.largest(
    params, {'kernel': jnp.asarray(masks), 'bias': None}
  )
  assert found['bias'] is None
  for i, count in enumerate([10, 20]):
    threshold = np.sort(np.abs(weights[i]), axis=None)[-count]
    expected = np.abs(weights[i]) >= threshold
    np.testing.assert_array_equal(found['kernel'][i], expected)


@pytest.mark.parametrize('name', NAMES)
def test_what_a_control_keeps(starts, name):
  """Exactly the signs, magnitudes and masks of the table."""
  start, masks = starts['ticket']
  state, found = starts[name]
  before, after = (np.asarray(x.params['kernel']) for x in (start, state))
  mask, other = (np.asarray(x['kernel']) for x in (masks, found))
  assert other.sum((1, 2)).tolist() == [300] * SEEDS
  for i in range(SEEDS):
    one, new = before[i][mask[i]], after[i][mask[i]]
    assert (mask[i] == other[i]).all() == ARMS[name].mask
    assert (np.sign(one) == np.sign(new)).all() == ARMS[name].sign
    assert (np.abs(one) == np.abs(new)).all() == ARMS[name].magnitude
    if name == 'reshuffled':
      np.testing.assert_array_equal(np.sort(one), np.sort(new))


def test_frozen_weights_are_where_they_started(starts):
  """The network is the dense one to the bit, although its masks are not."""
  network = models.Model(
    lambda key: ({}, {}),
    lambda params, state, x, *, train=False: (
      jnp.tanh(x @ params['kernel']) + params['bias'],
      state,
    ),
  )
  start, masks = starts['ticket']
  (state, _), model = starts['frozen'], ticket_controls.beside_frozen(network)
  params = with_masks(state, masks).params
  x = jax.random.normal(jax.random.key(1), (SEEDS, 4, 30))
  apply = jax.vmap(network.apply)
  outputs, (frozen, rest) = jax.vmap(model.apply)(params, state.model_state, x)
  expected, _ = apply(start.params, {}, x)
  np.testing.assert_array_equal(outputs, expected)
  assert (apply(params, {}, x)[0] != expected).any()
  assert rest == {}
  # What a ticket trains is not doubled: biases, and whatever is alive.
  assert not frozen['bias'].any()
  assert not frozen['kernel'][masks['kernel']].any()
