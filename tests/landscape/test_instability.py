"""Copies from one state, told apart by their keys alone."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax import landscape
from lthjax.training._state import no_best

DATA = np.array([[1.0, -1.0], [3.0, 1.0], [-2.0, 0.5]], np.float32)
MASKS = {'w': np.array([[True, False]])}


@functools.cache
def seeds():
  return jax.random.split(jax.random.key(1), 3)


def error(params):
  return jnp.mean((params['w'] - DATA) ** 2)


class Toy(NamedTuple):
  key: Any
  params: Any
  model_state: Any = ()


def go_to_its_key(state):
  """Trains to where the key says: known networks, without any training."""
  places = {int(k[1]): i for i, k in enumerate(jax.random.key_data(seeds()))}
  w = DATA[places[int(jax.random.key_data(state.key)[1])]]
  return state._replace(params={'w': w})


def report_of(state=None, keys=None, **options):
  keys = seeds() if keys is None else keys
  state = state or Toy(jax.random.key(0), {'w': jnp.zeros(2)})
  options = {'error': error, 'points': 3} | options
  return landscape.instability(go_to_its_key, state, keys, **options)


@pytest.fixture(scope='module')
def trainer():
  def loss(params, model_state, x, key):
    return jnp.mean((params['w'] - x) ** 2), model_state

  def batch(data, key, step):
    return jax.random.choice(jax.random.fold_in(key, step), data)

  return lth.trainer(
    init=lambda key: ({'w': jax.random.normal(key, (1, 2))}, {}),
    loss=loss,
    tx=lth.static(optax.sgd(0.2), lth.masks.full(MASKS)),
    batch=batch,
  )


def test_all_pairs_by_hand():
  report = report_of(
    predict=lambda params: (DATA @ params['w'] > 0).astype(int)
  )
  assert report.pairs == ((0, 1), (0, 2), (1, 2))
  np.testing.assert_array_equal([x['w'] for x in report.networks], DATA)
  np.testing.assert_allclose(report.distances**2, [8, 11.25, 25.25], rtol=1e-6)
  lengths = np.sqrt([2, 10, 4.25])
  np.testing.assert_allclose(
    report.cosines,
    np.array([2, -2.5, -5.5])
    / [
      lengths[0] * lengths[1],
      lengths[0] * lengths[2],
      lengths[1] * lengths[2],
    ],
    rtol=1e-6,
  )
  # Inner products of the data: 2 2 -2.5 | 2 10 -5.5 | -2.5 -5.5 4.25.
  np.testing.assert_allclose(report.disagreements, [0, 1, 1])
  assert report.barriers.errors.shape == (3, 3)
  for i, (a, b) in enumerate(report.pairs):
    np.testing.assert_allclose(
      report.barriers.errors[i],
      [error({'w': x}) for x in (DATA[a], (DATA[a] + DATA[b]) / 2, DATA[b])],
      rtol=1e-6,
    )


@pytest.mark.slow
def test_copies_are_the_runs_of_their_keys(trainer):
  start = trainer.fit(trainer.init(jax.random.key(0)), DATA, until=5)
  report = landscape.instability(
    lambda state: trainer.fit(state, DATA, until=20),
    start,
    seeds(),
    error=error,
  )
  for key, network in zip(seeds(), report.networks, strict=True):
    alone = trainer.fit(start._replace(key=key), DATA, until=20)
    chex.assert_trees_all_equal(network, alone.params)
  assert (report.distances > 0).all()
  # A convex error is never above the line between its ends.
  np.testing.assert_allclose(report.barriers.above_line, 0, atol=1e-6)
  assert report.disagreements is None


def test_copies_of_a_ticket_keep_its_masks(trainer):
  start = lth.with_masks(trainer.init(jax.random.key(0)), MASKS)
  report = landscape.instability(
    lambda state: trainer.fit(state, DATA, until=5), start, seeds(), error=error
  )
  for network in report.networks:
    assert not any(network['w'][0, 1:].tobytes())


def test_networks_are_what_runs_where_weights_stay_dense():
  tx = lth.straight_through(optax.sgd(0.1), sparsity=0.5)
  params = {'w': jnp.array([[1.0, 2.0]])}
  opt_state = tx.init(params)
  best = no_best(jnp.int32(0), params, {}, seeds()[0])
  state = lth.TrainState(jnp.int32(0), params, opt_state, {}, seeds()[0], best)
  report = landscape.instability(
    lambda state: state._replace(step=state.step + 1),
    state,
    seeds(),
    error=error,
  )
  np.testing.assert_array_equal(report.networks[0]['w'], [[0, 2]])
  assert (report.distances == 0).all()
  assert (report.barriers.barrier == 0).all()


def test_running_statistics_need_a_decision():
  state = Toy(
    jax.random.key(0), {'w': jnp.zeros(2)}, {'norm': {'mean': jnp.ones(2)}}
  )
  with pytest.raises(
    ValueError, match=r'besides its params: norm/mean\..*network='
  ):
    report_of(state)
  report = report_of(state, network=lambda state: state.params)
  assert report.networks[0].keys() == {'w'}
  report = report_of(
    state,
    network=lambda state: (state.params, state.model_state),
    error=lambda network: error(network[0]) + network[1]['norm']['mean'][0],
  )
  np.testing.assert_allclose(
    report.barriers.errors[0, 0], error({'w': DATA[0]}) + 1
  )


@pytest.mark.parametrize(
  ('keys', 'copies'),
  [
    (seeds()[0], '1 different key,'),
    (seeds()[:1], '1 different key,'),
    (seeds()[:0], '0 different keys,'),
  ],
)
def test_fewer_than_two_copies(keys, copies):
  with pytest.raises(ValueError, match=f'`keys` held {copies} .* at least 2'):
    report_of(keys=keys)
  with pytest.raises(ValueError, match=r'`len\(networks\)` was 1, but'):
    landscape.compare([{'w': DATA[0]}], error=error)


def test_keys_may_be_a_list():
  listed = report_of(keys=list(seeds()))
  np.testing.assert_array_equal(listed.distances, report_of().distances)
  with pytest.raises(ValueError, match='held 0 different keys, but'):
    report_of(keys=[])
  with pytest.raises(ValueError, match='held 1 different key, but'):
    report_of(keys=[seeds()[0], seeds()[0]])


def test_all_networks_are_like_the_first():
  a = {'w': DATA[0]}
  with pytest.raises(
    ValueError,
    match=r'network 0: network 2: w has shapes \(2,\) and \(3, 2\); network'
    ' 3: w is in the first only, v is in the second only. Give networks of',
  ):
    landscape.compare([a, a, {'w': DATA}, {'v': DATA}], error=error)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_distances_of_half_precision_are_summed_in_single(dtype):
  a = {'w': jnp.full(4096, 300.0, dtype)}
  b = {'w': jnp.full(4096, -300.0, dtype)}
  gap = landscape.distance(a, b)  # The square of 600 is no float16.
  assert gap == 600 * 64
  assert gap.dtype == jnp.float32
  assert landscape.cosine(a, b) == -1


def test_cosines_are_not_above_one():
  networks = [{'w': x} for x in jax.random.normal(jax.random.key(0), (40, 7))]
  assert max(landscape.cosine(x, x) for x in networks) == 1


def test_bad_copies(trainer):
  with pytest.raises(ValueError, match='held 2 different keys, but each copy'):
    report_of(keys=seeds()[jnp.array([0, 1, 0])])
  with pytest.raises(ValueError, match='is a dict without a field `key`'):
    landscape.instability(lambda x: x, {'w': DATA}, seeds(), error=error)
  state = trainer.init(jax.random.key(0))
  with pytest.raises(ValueError, match=r'`train` took no steps: .* at step 0'):
    landscape.instability(lambda state: state, state, seeds(), error=error)
  with pytest.raises(
    ValueError, match=r'integers, but returned float32 .*argmax'
  ):
    report_of(predict=lambda params: DATA @ params['w'])
