"""Controls keep one thing of a ticket and change the rest."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from helpers import keys

import lthjax as lth
from lthjax import tickets

KEY = keys(0)
BIAS = np.float32([7.0, -7.0])
MASKS = {
  'fc': {'kernel': np.array([[True, False], [True, True]]), 'bias': None}
}


def tree(values):
  return {'fc': {'kernel': jnp.array(values), 'bias': BIAS}}


def test_sign_preserved_by_hand():
  params = tree([[-1.0, 2.0], [0.5, -3.0]])
  fresh = {
    'fc': {'kernel': jnp.array([[4.0, -5.0], [6.0, -7.0]]), 'bias': -BIAS}
  }
  drawn = tickets.sign_preserved(params, fresh, MASKS)
  np.testing.assert_array_equal(
    drawn['fc']['kernel'], [[-4.0, 5.0], [6.0, -7.0]]
  )
  assert drawn['fc']['bias'] is BIAS


def test_sign_preserved_keeps_the_dtype_of_the_params():
  params = jnp.array([[-1.0, 2.0]], jnp.bfloat16)
  drawn = tickets.sign_preserved(
    params, jnp.array([[4.0, -5.0]]), jnp.ones((1, 2), bool)
  )
  assert drawn.dtype == jnp.bfloat16
  np.testing.assert_array_equal(drawn, [[-4.0, 5.0]])


def test_reshuffle_takes_arrays_of_numpy():
  params, masks = np.arange(4.0, dtype=np.float32), np.ones(4, bool)
  wanted = tickets.reshuffle(KEY, jnp.asarray(params), jnp.asarray(masks))
  moved = tickets.reshuffle(KEY, params, masks)
  np.testing.assert_array_equal(moved, wanted)
  np.testing.assert_array_equal(params, np.arange(4.0))


def test_sign_preserved_leaves_masked_weights_at_zero():
  params = lth.masks.apply(MASKS, tree([[-1.0, 2.0], [0.5, -3.0]]))
  drawn = tickets.sign_preserved(
    params, tree([[4.0, -5.0], [6.0, -7.0]]), MASKS
  )
  kernel = np.asarray(drawn['fc']['kernel'])
  np.testing.assert_array_equal(kernel, [[-4.0, 0.0], [6.0, -7.0]])
  assert not any(kernel[0, 1].tobytes())


def test_signed_constant_has_the_deviation_of_its_layer():
  params = {
    'one': jnp.array([[-1.0, 2.0], [3.0, -4.0]]),
    'two': jnp.array([[10.0, -10.0]]),
    'bias': BIAS,
  }
  masks = lth.masks.full(params)
  constant = tickets.signed_constant(params, masks)
  # The mean is 0, and the mean square (1 + 4 + 9 + 16) / 4.
  np.testing.assert_allclose(
    constant['one'], 7.5**0.5 * np.array([[-1, 1], [1, -1]]), rtol=1e-6
  )
  np.testing.assert_allclose(constant['two'], [[10.0, -10.0]], rtol=1e-6)
  assert constant['bias'] is BIAS


def test_random_signs_keep_magnitudes_to_the_bit():
  """A sign is a fair coin, thrown for each weight of each layer."""
  kernel = jax.random.normal(KEY, (100, 100)).at[0, 0].set(0)
  params = {'one': kernel, 'two': kernel, 'bias': BIAS}
  masks = lth.masks.full(params)
  drawn = tickets.random_signs(KEY, params, masks)
  assert drawn['bias'] is BIAS
  for name in ('one', 'two'):
    np.testing.assert_array_equal(jnp.abs(drawn[name]), jnp.abs(kernel))
    # Five standard deviations of the share of heads in 10,000 throws.
    for values in (drawn[name], drawn[name] * kernel):
      assert abs((np.asarray(values) > 0).mean() - 0.5) < 0.025
  assert 0.475 < (drawn['one'] == drawn['two']).mean() < 0.525
  other = tickets.random_signs(jax.random.key(1), params, masks)
  assert 0.475 < (drawn['one'] == other['one']).mean() < 0.525


@pytest.mark.parametrize('density', [0.0, 0.01, 0.3, 1.0])
def test_reshuffle_permutes_the_alive_values_of_each_layer(density):
  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in {
      'one': (20, 30),
      'two': (3, 4, 5, 6),
      'bias': (9,),
    }.items()
  }
  masks = {
    name: None if x.ndim == 1 else jnp.asarray(rng.random(x.shape) < density)
    for name, x in params.items()
  }
  moved = jax.jit(tickets.reshuffle)(KEY, params, masks)
  chex.assert_trees_all_equal(moved['bias'], params['bias'])
  for name in ('one', 'two'):
    alive = np.asarray(masks[name])
    before, after = np.asarray(params[name]), np.asarray(moved[name])
    np.testing.assert_array_equal(before[~alive], after[~alive])
    np.testing.assert_array_equal(np.sort(before[alive]), np.sort(after[alive]))
    if density >= 0.3:
      assert (before[alive] != after[alive]).mean() > 0.9


def test_reshuffle_draws_every_order_alike():
  params, masks = jnp.array([1.0, 2.0, 9.0, 3.0]), jnp.array([1, 1, 0, 1]) > 0
  keys = jax.random.split(KEY, 6000)
  moved = jax.vmap(tickets.reshuffle, (0, None, None))(keys, params, masks)
  orders, counts = np.unique(np.asarray(moved), axis=0, return_counts=True)
  assert len(orders) == 6
  # 1000 are expected of each, with a deviation of 29.
  assert abs(counts - 1000).max() < 150


def test_layers_of_one_shape_are_permuted_differently():
  params = {'one': jnp.arange(100.0), 'two': jnp.arange(100.0)}
  masks = jax.tree.map(lambda x: x >= 0, params)
  moved = tickets.reshuffle(KEY, params, masks)
  assert (moved['one'] != moved['two']).mean() > 0.9
  other = tickets.reshuffle(jax.random.key(1), params, masks)
  assert (moved['one'] != other['one']).mean() > 0.9


def test_replicates_are_those_of_single_runs():
  keys = jax.random.split(KEY, 3)
  params = {'w': jax.random.normal(keys[0], (3, 4, 5))}
  fresh = {'w': jax.random.normal(keys[1], (3, 4, 5))}
  masks = {'w': jax.random.bernoulli(keys[2], 0.5, (3, 4, 5))}
  for control, arguments in [
    (tickets.sign_preserved, (params, fresh, masks)),
    (tickets.signed_constant, (params, masks)),
    (tickets.reshuffle, (keys, params, masks)),
    (tickets.random_signs, (keys, params, masks)),
  ]:
    control = jax.jit(control)
    together = jax.jit(jax.vmap(control))(*arguments)
    for i in range(3):
      single = functools.partial(jax.tree.map, lambda x, i=i: x[i])
      alone = control(*map(single, arguments))
      chex.assert_trees_all_close(single(together), alone, rtol=1e-6)


def test_masks_may_be_in_another_kind_of_tree():
  params = {'w': np.arange(1, 5, dtype=np.float32)}
  masks = {'w': np.arange(4) < 2}
  other = freeze(params)
  for change in (
    functools.partial(tickets.reshuffle, jax.random.key(0)),
    tickets.signed_constant,
    functools.partial(tickets.random_signs, jax.random.key(0)),
  ):
    found = change(other, masks)
    assert type(found) is type(other)
    np.testing.assert_array_equal(found['w'], change(params, masks)['w'])


@pytest.mark.parametrize(
  'control',
  [
    lambda params: tickets.sign_preserved(params, params, MASKS),
    lambda params: tickets.signed_constant(params, MASKS),
    lambda params: tickets.reshuffle(KEY, params, MASKS),
    lambda params: tickets.random_signs(KEY, params, MASKS),
  ],
)
def test_masks_have_to_fit(control):
  with pytest.raises(ValueError, match='fc/kernel: mask of shape'):
    control(tree([[1.0, 2.0, 3.0]]))
  with pytest.raises(ValueError, match='fc/bias has a mask only'):
    control({'fc': {'kernel': jnp.ones((2, 2))}})


def test_fresh_params_have_to_fit_too():
  params = tree([[1.0, 2.0], [3.0, 4.0]])
  with pytest.raises(ValueError, match='masks do not fit the fresh params'):
    tickets.sign_preserved(params, tree([[1.0, 2.0]]), MASKS)


# --- values of dead weights ---

ZHOU_MASKS = {'w': np.array([[True, False, False, True]]), 'b': None}
INITIAL = {
  'w': np.float32([[1.0, 2.0, -3.0, 4.0]]),
  'b': np.ones(2, np.float32),
}
FINAL = {
  'w': np.float32([[5.0, -2.5, -1.0, 0.5]]),
  'b': np.zeros(2, np.float32),
}


def test_dead_weights_frozen_where_they_started():
  found = tickets.with_frozen_dead(ZHOU_MASKS, FINAL, INITIAL)
  assert found['w'].tolist() == [[5, 2, -3, 0.5]]
  assert found['b'] is FINAL['b']


def test_weights_that_shrank_are_zero():
  start = tickets.zero_shrunk(FINAL, INITIAL, ZHOU_MASKS)
  assert start['w'].tolist() == [[1, 2, 0, 0]]
  assert not np.signbit(start['w']).any()
  assert start['b'] is INITIAL['b']
  # The dead ones alone, and all of them.
  dead = tickets.with_frozen_dead(ZHOU_MASKS, INITIAL, start)
  assert dead['w'].tolist() == [[1, 2, 0, 4]]
  assert tickets.with_frozen_dead(ZHOU_MASKS, start, start)['w'].tolist() == [
    [1, 2, 0, 0]
  ]


def test_frozen_weights_do_not_train():
  def loss(params):
    found = tickets.with_frozen_dead(ZHOU_MASKS, params, INITIAL)
    return jnp.sum(found['w'] ** 2) / 2 + found['b'].sum()

  grads = jax.grad(loss)(FINAL)
  assert grads['w'].tolist() == [[5, 0, 0, 0.5]]
  assert grads['b'].tolist() == [1, 1]


def test_treatments_need_masks_that_fit():
  wrong = {'w': jnp.ones((1, 3), bool), 'b': None}
  for what, treat in (
    ('params', lambda: tickets.with_frozen_dead(wrong, FINAL, INITIAL)),
    ('initial params', lambda: tickets.zero_shrunk(FINAL, INITIAL, wrong)),
  ):
    message = f'w: mask of shape (1, 3), {what} of shape (1, 4)'
    with pytest.raises(ValueError, match=re.escape(message)):
      treat()
  initial = {**INITIAL, 'w': jnp.ones((4, 1))}
  message = 'mask of shape (1, 4), initial params of shape (4, 1)'
  with pytest.raises(ValueError, match=re.escape(message)):
    tickets.with_frozen_dead(ZHOU_MASKS, FINAL, initial)


# --- sanity checks of pruning at initialization ---

SHAPES = {'conv1': (3, 3, 2, 8), 'conv2': (3, 3, 8, 8), 'output': (8, 10)}


def network(seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: {
      'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32),
      'bias': jnp.zeros(shape[-1]),
    }
    for name, shape in SHAPES.items()
  }


def alive(masks):
  return list(lth.masks.alive_by_name(masks).values())


@pytest.mark.slow
def test_inverted_keeps_the_complement():
  params = network()
  dense, scores = lth.masks.full(params), lth.scores.magnitude(params)
  best = lth.prune(scores, dense, sparsity=0.5, scope='global')
  worst = lth.prune(
    jax.tree.map(jnp.negative, scores), dense, sparsity=0.5, scope='global'
  )
  assert lth.masks.count(lth.masks.intersect(best, worst)) == 0
  assert lth.masks.hamming(best, worst) == 1


def test_random_quotas_of_another_mask():
  params = network()
  dense = lth.masks.full(params)
  ticket = lth.prune(
    lth.scores.magnitude(params), dense, sparsity=0.9, scope='global'
  )
  quotas = lth.masks.alive_by_name(ticket)
  one = tickets.random_quotas(KEY, dense, quotas)
  two = tickets.random_quotas(jax.random.key(1), dense, quotas)
  assert lth.masks.alive_by_name(one) == quotas
  assert one['output']['bias'] is None
  assert lth.masks.jaccard(one, two) < 0.3
  # Out of another mask, only its alive weights are drawn.
  fewer = {name: number // 2 for name, number in quotas.items()}
  inside = tickets.random_quotas(KEY, ticket, fewer)
  assert lth.masks.alive_by_name(inside) == fewer
  assert lth.masks.count(lth.masks.difference(inside, ticket)) == 0


def test_smart_ratio_and_hybrid_tickets():
  params = network()
  dense = lth.masks.full(params)
  random, hybrid = (
    lth.prune(
      scores, dense, sparsity=0.8, densities=lth.densities.smart_ratio()
    )
    for scores in (lth.scores.noise(KEY, dense), lth.scores.magnitude(params))
  )
  # 800 weights; the last layer keeps 24 of 80, the others 136 in proportion to
  # 144 * 12 and 576 * 6.
  assert alive(random) == alive(hybrid) == [45, 91, 24]
  for name, layer in hybrid.items():
    kept = np.abs(params[name]['kernel'])[np.asarray(layer['kernel'])]
    lost = np.abs(params[name]['kernel'])[~np.asarray(layer['kernel'])]
    assert kept.min() > lost.max()
  assert lth.masks.jaccard(random, hybrid) < 0.4


@pytest.mark.parametrize(
  ('quotas', 'message'),
  [
    ({'a': 2}, 'b has no quota'),
    ({'a': 2, 'b': 1, 'c': 1}, 'c is not a prunable leaf'),
    ({'a': 4, 'b': -1}, 'a has a quota of 4 out of 3; b has a quota of -1 out'),
  ],
)
def test_quotas_must_fit(quotas, message):
  masks = {'a': jnp.array([1, 1, 1, 0]) > 0, 'b': jnp.ones(2, bool), 'c': None}
  with pytest.raises(ValueError, match=re.escape(message)):
    tickets.random_quotas(KEY, masks, quotas)


@pytest.mark.parametrize(
  'control',
  [
    lambda bad: tickets.sign_preserved(bad, bad, MASKS),
    lambda bad: tickets.signed_constant(bad, MASKS),
    lambda bad: tickets.reshuffle(KEY, bad, MASKS),
    lambda bad: tickets.random_signs(KEY, bad, MASKS),
    lambda bad: tickets.with_frozen_dead(MASKS, bad, bad),
    lambda bad: tickets.zero_shrunk(bad, bad, MASKS),
    lambda bad: tickets.signed_constant(tree(np.ones((2, 2))), bad),
    lambda bad: tickets.random_quotas(KEY, bad, {}),
  ],
)
@pytest.mark.parametrize(
  'bad', [None, 'w', 3.0, [1, 2], jax.ShapeDtypeStruct((2,), bool)]
)
def test_controls_need_trees_of_arrays(control, bad):
  with pytest.raises(TypeError, match='must be a tree of'):
    control(bad)


@pytest.mark.parametrize('key', [None, 0, 'key', keys(0, 1)])
def test_controls_need_a_key(key):
  params = tree(np.ones((2, 2)))
  for control in (tickets.reshuffle, tickets.random_signs):
    with pytest.raises(TypeError, match=r'`key` was .*a single random key'):
      control(key, params, MASKS)
  with pytest.raises(TypeError, match=r'`key` was .*a single random key'):
    tickets.random_quotas(key, MASKS, {'fc/kernel': 1})


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import lthjax as lth

tickets, supermasks, key = lth.tickets, lth.supermasks, jax.random.key(0)
rng = np.random.default_rng(0)
w = rng.normal(size=(8, 12)).astype(np.float32)
w0 = rng.normal(size=(8, 12)).astype(np.float32)
mask = rng.random((8, 12)) < 0.5

def everything(w, w0, m):
  w, w0, m = {'w': w}, {'w': w0}, {'w': m}
  return {
    'sign_preserved': tickets.sign_preserved(w, w0, m),
    'signed_constant': tickets.signed_constant(w, m),
    'random_signs': tickets.random_signs(key, w, m),
    'reshuffle': tickets.reshuffle(key, w, m),
    'with_frozen_dead': tickets.with_frozen_dead(m, w, w0),
    'zero_shrunk': tickets.zero_shrunk(w, w0, m),
    'random_quotas': tickets.random_quotas(key, m, {'w': 5}),
    'transfer': tickets.transfer(tickets.Ticket(0, 1, m, 0, 0, 0), w)[1],
    'core': tickets.core_and_specialists([m, m])[0],
    'init_scores': supermasks.init_scores(key, w),
    'edge_popup': supermasks.edge_popup(w, w0, sparsity=0.5),
    'init_logits': supermasks.init_logits(w),
    'bernoulli': supermasks.bernoulli(w, w0, key, rescale=True),
    'signed_kaiming_constant': supermasks.signed_kaiming_constant(w),
    'scaled_kaiming': supermasks.scaled_kaiming(key, w),
  }

expected = everything(w, w0, mask)
PLACES = (
  (AxisType.Explicit, P('x', 'y')),
  (AxisType.Explicit, P(('x', 'y'))),
  (AxisType.Auto, P(None, 'x')),
)
for kind, spec in PLACES[:NUMBER]:
  mesh = jax.make_mesh((2, 2), ('x', 'y'), axis_types=(kind, kind))
  with jax.set_mesh(mesh):
    place = NamedSharding(mesh, spec)
    put = [jax.device_put(x, place) for x in (w, w0, mask)]
    for name, found in everything(*put).items():
      x, y = found['w'], np.asarray(expected[name]['w'])
      assert x.sharding.is_equivalent_to(place, 2), (name, x.sharding)
      np.testing.assert_allclose(np.asarray(x), y, rtol=1e-6, err_msg=name)
print('same')
"""


@pytest.mark.slow
@pytest.mark.parametrize('number', [1, pytest.param(3, marks=pytest.mark.slow)])
def test_controls_lie_where_the_params_do(run_python, number):
  source = SHARDED.replace('NUMBER', str(number))
  assert run_python(source, '-W', 'error', devices=4) == 'same\n'
