"""The adapter: NNX modules as pure functions over plain dicts."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lthjax import models

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 4))


class Tower(nnx.Module):
  """More than ten layers in a list, and running statistics."""

  traces = 0

  def __init__(self, *, rngs):
    self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(12)])
    self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)

  def __call__(self, x, *, train=False):
    Tower.traces += 1
    for layer in self.layers:
      x = x + nnx.tanh(layer(x))
    return self.norm(x, use_running_average=not train)


class Noisy(nnx.Module):
  """A module whose state is its random stream."""

  def __init__(self, *, rngs):
    self.output = nnx.Linear(4, 40, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x, *, train=False):
    return self.dropout(self.output(x), deterministic=not train)


def tower(**kwargs):
  return models.functional(lambda rngs: Tower(rngs=rngs), **kwargs)


def stacked(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_plain(tree):
  """All nodes are dicts with str keys, all leaves are arrays."""
  if isinstance(tree, dict):
    assert type(tree) is dict
    assert all(type(name) is str for name in tree)
    for child in tree.values():
      assert_plain(child)
  else:
    assert isinstance(tree, jax.Array)


def test_trees_are_plain_and_split_by_kind():
  params, model_state = tower().init(KEY)
  assert_plain(params)
  assert_plain(model_state)
  assert set(params) == {'layers', 'norm'}
  assert set(params['layers']) == set(map(str, range(12)))
  assert set(params['norm']) == {'bias', 'scale'}
  assert list(model_state) == ['norm']
  assert set(model_state['norm']) == {'mean', 'var'}


@pytest.mark.parametrize('train', [False, True])
def test_is_the_module_itself(train):
  # Layer '10' sorts before layer '2' in the dict, but not in the module.
  model = tower()
  params, model_state = model.init(KEY)
  module = Tower(rngs=nnx.Rngs(KEY))
  chex.assert_trees_all_equal(
    [params['layers'][str(i)]['kernel'] for i in range(12)],
    [layer.kernel[...] for layer in module.layers],
  )
  outputs, new_state = model.apply(params, model_state, X, train=train)
  chex.assert_trees_all_equal(outputs, module(X, train=train))
  chex.assert_trees_all_equal(
    new_state['norm'],
    {'mean': module.norm.mean[...], 'var': module.norm.var[...]},
  )


@pytest.mark.slow
def test_seeds_side_by_side_are_the_seeds_alone():
  model = tower()
  keys = jax.random.split(KEY, 3)
  alone = [model.init(key) for key in keys]
  params, model_state = jax.vmap(model.init)(keys)
  chex.assert_trees_all_equal((params, model_state), stacked(alone))

  def apply(params, model_state, x):
    return model.apply(params, model_state, x, train=True)

  outputs = jax.vmap(apply, in_axes=(0, 0, None))(params, model_state, X)
  expected = stacked([apply(*seed, X) for seed in alone])
  chex.assert_trees_all_close(outputs, expected, atol=1e-5)


def test_scan_trains_as_a_loop_does():
  model = tower()
  params, model_state = model.init(KEY)

  def loss(params, model_state, x):
    outputs, model_state = model.apply(params, model_state, x, train=True)
    return (outputs**3).mean(), model_state

  def step(carry, x):
    params, model_state = carry
    grads, model_state = jax.grad(loss, has_aux=True)(params, model_state, x)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    return (params, model_state), None

  batches = jax.random.normal(KEY, (3, 6, 4))
  carry = params, model_state
  for x in batches:
    carry, _ = jax.jit(step)(carry, x)
  scanned, _ = jax.lax.scan(step, (params, model_state), batches)
  chex.assert_trees_all_close(scanned, carry, atol=1e-5)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), scanned[0], params)
  assert all(jax.tree.leaves(moved['layers']))


def test_calls_leave_no_trace():
  model = tower()
  first, second = model.init(KEY), model.init(jax.random.key(2))
  before = jax.tree.map(np.array, (first, X))
  once = model.apply(*first, X, train=True)
  model.apply(*second, X, train=True)
  again = model.apply(*first, X, train=True)
  chex.assert_trees_all_equal(once, again)
  chex.assert_trees_all_equal((first, X), before)


def test_random_streams_are_state():
  model = models.functional(lambda rngs: Noisy(rngs=rngs))
  params, model_state = model.init(KEY)
  evaluated, same_state = model.apply(params, model_state, X)
  assert bool((evaluated != 0).all())
  chex.assert_trees_all_equal(same_state, model_state)
  one, next_state = model.apply(params, model_state, X, train=True)
  two, _ = model.apply(params, next_state, X, train=True)
  again, _ = model.apply(params, next_state, X, train=True)
  assert 0.3 < float((one == 0).mean()) < 0.7
  assert bool(((one == 0) != (two == 0)).any())
  chex.assert_trees_all_equal(two, again)


def test_two_seeds_share_one_compilation():
  model = tower()
  apply = jax.jit(model.apply, static_argnames='train')
  before = Tower.traces
  for seed in range(3):
    apply(*model.init(jax.random.key(seed)), X, train=True)
  assert Tower.traces == before + 1


def test_old_style_keys_work():
  chex.assert_trees_all_equal(
    tower().init(jax.random.PRNGKey(0))[0], tower().init(KEY)[0]
  )


def test_trees_of_another_model_are_refused():
  model = tower()
  params, model_state = model.init(KEY)
  # As many leaves as before: NNX alone would take these without a word.
  renamed = {**params, 'norm': {'bias': X, 'gain': X}}
  message = (
    '`params` is of another model: it lacks norm/scale; has the unknown'
    ' norm/gain. Pass what `init` or `apply` of this model returned.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    model.apply(renamed, model_state, X)
  with pytest.raises(
    ValueError, match=r'`model_state` .* lacks norm/mean; lacks norm'
  ):
    model.apply(params, {}, X)


@pytest.mark.parametrize('shape', [(4,), (6, 5), (2, 6, 4), ()])
@pytest.mark.parametrize('transform', [lambda f: f, jax.jit])
def test_inputs_of_another_shape_are_refused(transform, shape):
  model = tower(input_shape=(4,))
  trees = jax.tree.map(jnp.zeros_like, jax.eval_shape(model.init, KEY))
  message = (
    f'x has shape {shape}, but this model takes (batch, 4). Give x a batch axis'
    ' or reshape it, or build the model with the `input_shape=` of your data.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    transform(model.apply)(*trees, jnp.zeros(shape))
