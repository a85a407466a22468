"""Every criterion by hand, and on the trees that people have."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth
from lthjax import scores, trees

FINAL = [1.0, -2.0, 0.0, -0.5, 3.0, -4.0]
INITIAL = [-3.0, -0.5, 1.0, 0.0, 2.0, -5.0]
EXPECTED = {
  'magnitude': [1.0, 2.0, 0.0, 0.5, 3.0, 4.0],
  'large_final': [1.0, 2.0, 0.0, 0.5, 3.0, 4.0],
  'small_final': [-1.0, -2.0, 0.0, -0.5, -3.0, -4.0],
  'large_init': [3.0, 0.5, 1.0, 0.0, 2.0, 5.0],
  'small_init': [-3.0, -0.5, -1.0, 0.0, -2.0, -5.0],
  'large_init_large_final': [1.0, 0.5, 0.0, 0.0, 2.0, 4.0],
  'small_init_small_final': [-3.0, -2.0, -1.0, -0.5, -3.0, -5.0],
  'magnitude_increase': [-2.0, 1.5, -1.0, 0.5, 1.0, -1.0],
  'movement': [4.0, 1.5, 1.0, 0.5, 1.0, 1.0],
  'large_final_same_sign': [0.0, 2.0, 0.0, 0.0, 3.0, 4.0],
}
# These take a loss or a model, and are tested in files of their own.
AT_INIT = ['fisher', 'gradient', 'grasp', 'snip', 'synflow', 'taylor']


OF_PARAMS = ('magnitude', 'large_final', 'small_final')


def score(name, params, initial):
  function = getattr(scores, name)
  if name == 'noise':
    return function(jax.random.key(0), params)
  return function(params) if name in OF_PARAMS else function(params, initial)


def test_every_score_is_tested():
  assert sorted([*EXPECTED, *AT_INIT, 'noise']) == sorted(scores.__all__)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', EXPECTED)
def test_by_hand(name, dtype):
  params = {'w': jnp.array(FINAL, dtype), 'b': None}
  initial = {'w': jnp.array(INITIAL, dtype), 'b': None}
  found = score(name, params, initial)
  assert found['b'] is None
  assert found['w'].dtype == dtype
  assert found['w'].tolist() == EXPECTED[name]


@pytest.mark.parametrize('name', [*EXPECTED, 'noise'])
def test_trees_of_nnx_and_dicts(name):
  def model(seed):
    rng = np.random.default_rng(seed)
    shape = {'kernel': (3, 4), 'bias': (4,)}
    draw = {n: rng.normal(size=s).astype(np.float32) for n, s in shape.items()}
    layer = nnx.eval_shape(lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    state = nnx.state({'fc': layer}, nnx.Param)
    nnx.replace_by_pure_dict(state, {'fc': draw})
    return state, {'fc': draw}

  (final, final_dict), (initial, initial_dict) = model(0), model(1)
  found = score(name, final, initial)
  expected = score(name, final_dict, initial_dict)
  assert jax.tree.structure(found) == jax.tree.structure(final)
  assert jax.tree.structure(expected) == jax.tree.structure(final_dict)
  for leaf, wanted in trees.by_name(expected).items():
    np.testing.assert_array_equal(trees.by_name(found)[leaf], wanted)
  for params, values in [(final, found), (final_dict, expected)]:
    masks = lth.prune(values, lth.masks.full(params), sparsity=0.75)
    assert lth.masks.count(masks) == 3


@pytest.mark.parametrize(
  'name', [n for n in EXPECTED if not n.endswith('_init')]
)
def test_nan_is_not_hidden(name):
  # So that `prune` can say that training diverged, and where.
  params = {'w': jnp.array([[1.0, jnp.nan, jnp.nan]])}
  initial = {'w': jnp.array([[1.0, 2.0, -2.0]])}
  values = score(name, params, initial)
  with pytest.raises(ValueError, match=r'alive weights are NaN in w \(2\)'):
    lth.prune(values, lth.masks.full(params), sparsity=0.5)


def test_noise_differs_by_key_and_leaf():
  params = {'a': np.zeros((20, 30)), 'b': np.zeros((20, 30)), 'c': None}
  found = scores.noise(jax.random.key(0), params)
  other = scores.noise(jax.random.key(1), params)
  assert found['c'] is None
  draws = [found['a'], found['b'], other['a'], other['b']]
  for x in draws:
    assert x.dtype == np.float32
    assert 0 <= x.min() < x.max() < 1
    assert abs(x.mean() - 0.5) < 0.05
  correlation = np.corrcoef([np.ravel(x) for x in draws])
  assert np.abs(correlation - np.eye(4)).max() < 0.2


def test_noise_does_not_depend_on_other_leaves():
  params = {'a': np.zeros((4, 5)), 'b': np.zeros((4, 5))}
  both = scores.noise(jax.random.key(0), params)
  alone = scores.noise(
    jax.random.key(0), {'b': jax.ShapeDtypeStruct((4, 5), jnp.bfloat16)}
  )
  np.testing.assert_array_equal(both['b'], alone['b'])
  again = jax.jit(scores.noise)(jax.random.key(0), params)
  np.testing.assert_array_equal(both['a'], again['a'])


def check_sharded():
  """Runs in a process with four devices: scores lie where the params do."""
  params = {'w': np.ones((8, 12), np.float32), 'v': np.ones((4, 6), np.float32)}
  specs = {'w': P('d'), 'v': P(None, 'd')}
  names = [*EXPECTED, 'noise']
  wanted = {name: score(name, params, params) for name in names}
  compiled = jax.jit(score, static_argnums=0)
  # Compiled, types alone say where results lie.
  for kind, makes in (
    (AxisType.Auto, [score]),
    (AxisType.Explicit, [score, compiled]),
  ):
    mesh = jax.make_mesh((2,), ('d',), (kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
      put = {
        n: jax.device_put(x, NamedSharding(mesh, specs[n]))
        for n, x in params.items()
      }
      for name in names:
        for make in makes:
          found = make(name, put, put)
          for n, x in found.items():
            np.testing.assert_array_equal(x, wanted[name][n])
            assert x.sharding.is_equivalent_to(put[n].sharding, x.ndim)
  print('done')


@pytest.mark.slow
def test_sharded(run_python):
  source = 'from tests.scores.test_scores import *; check_sharded()'
  assert run_python(source, devices=4).split() == ['done']


@pytest.mark.parametrize('name', [n for n in EXPECTED if n not in OF_PARAMS])
def test_initial_params_must_be_those_of_the_params(name):
  params = {'w': np.ones((2, 3)), 'v': np.ones(2), 'b': None}
  for initial, told in [
    ({'w': np.ones((2, 3)), 'b': None}, 'differ in v ((2,) and None).'),
    ({**params, 'w': np.ones((3, 2))}, 'differ in w ((2, 3) and (3, 2)).'),
    ({**params, 'b': np.ones(2)}, 'differ in b (None and (2,)).'),
  ]:
    with pytest.raises(ValueError, match=re.escape(told)):
      score(name, params, initial)
  # The order of keys and the containers do not matter.
  initial = {'v': np.ones(2), 'b': None, 'w': np.ones((2, 3))}
  assert list(score(name, params, initial)) == ['b', 'v', 'w']


@pytest.mark.parametrize('name', [*EXPECTED, 'noise'])
@pytest.mark.parametrize('params', [None, 'x', {'w': 'x'}, {}, 3])
def test_params_must_be_arrays(name, params):
  with pytest.raises(TypeError, match='`params` must be a tree of arrays'):
    score(name, params, {'w': np.ones(3)})


@pytest.mark.parametrize('name', EXPECTED)
def test_complex_weights(name):
  final = {'w': np.array([3 + 4j, -1j], np.complex64)}
  initial = {'w': np.array([0j, -2j], np.complex64)}
  if name == 'large_final_same_sign':
    with pytest.raises(TypeError, match='compares signs, which complex'):
      score(name, final, initial)
    return
  found = score(name, final, initial)['w']
  assert found.dtype == np.float32
  sizes = np.abs(final['w']), np.abs(initial['w'])
  if name == 'movement':
    assert found.tolist() == [5, 1]
  else:  # only sizes matter
    assert found.tolist() == score(name, *sizes).tolist()
