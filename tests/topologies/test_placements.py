"""Every method on kernels of convolutions that are spread over a mesh."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth
from lthjax.topologies import _batches

PLACES = [
  P('x', 'y'),
  P(('x', 'y')),
  P(None, 'x'),
  P('y', 'x'),
  P(None, ('x', 'y')),
  P('x'),
  P(),
]
AXES = {'w': lth.axes.Axes((), (0, 1), (2,), (3,))}
DENSE = {'sparsity': 0.75, 'axes': AXES}
NM = {'pattern': lth.patterns.NM(2, 4), 'axes': AXES}
MOVES = {'update_every': 2, 'stop_step': 100, 'axes': AXES}


def make(name, key):
  inner = optax.sgd(0.1)
  drawn = lth.random_masks(key, sparsity=0.75, axes=AXES)
  steps = {'sparse_steps': [1], 'dense_steps': [4]}
  kast = {'backward_sparsity': 0.5, 'update_every': 1}
  return {
    'static': lambda: lth.static(inner, drawn),
    'set': lambda: lth.sparse_evolution(inner, drawn, key=key, **MOVES),
    'rigl': lambda: lth.rigl(inner, drawn, **MOVES),
    'snfs': lambda: lth.snfs(inner, drawn, **MOVES),
    'srigl': lambda: lth.srigl(inner, drawn, **MOVES),
    'ac_dc': lambda: lth.ac_dc(inner, **DENSE, **steps),
    'gradual': lambda: lth.gradual(inner, sparsity=0.75, **MOVES),
    'top_kast': lambda: lth.top_kast(inner, **DENSE, **kast),
    'straight_through': lambda: lth.straight_through(inner, **DENSE),
    'sr_ste': lambda: lth.sr_ste(inner, **NM),
  }[name]()


def trained(name, key, w, grads):
  """The masks and weights of each of two steps."""
  tx, params = make(name, key), {'w': w}
  state = tx.init(params)
  found = [lth.get_masks(state)['w']]
  for _ in range(2):
    updates, state = tx.update({'w': grads}, state, params)
    params = optax.apply_updates(params, updates)
    found += [lth.get_masks(state)['w'], params['w']]
  return found


def check(*names):
  """Prints what is not as on one device; runs with eight devices."""
  key, rng = jax.random.key(0), np.random.default_rng(0)
  arrays = [rng.normal(size=(3, 3, 16, 32)).astype(np.float32) for _ in '12']
  mesh = jax.make_mesh((4, 2), ('x', 'y'), (AxisType.Explicit,) * 2)
  for name in names:
    expected = jax.tree.map(np.asarray, trained(name, key, *arrays))
    for place in PLACES:
      if name == 'sr_ste' and place == P(('x', 'y')):
        continue  # Two of its sixteen inputs lie on each device.
      sharding = NamedSharding(mesh, P(None, None, *place))
      with jax.set_mesh(mesh):
        put = [jax.device_put(x, sharding) for x in arrays]
        found = trained(name, key, *put)
      for x, wanted in zip(found, expected, strict=True):
        if not np.array_equal(x, wanted):
          print(name, place, 'differs')
        if not x.sharding.is_equivalent_to(sharding, x.ndim):
          print(name, place, x.sharding)
  print('done')


def check_given():
  """Prints which masks that are given are not placed like the weights."""
  weights, masks = np.ones((8, 4), np.float32), np.arange(32).reshape(8, 4) > 9
  for kind in (AxisType.Explicit, AxisType.Auto):
    mesh = jax.make_mesh((8,), ('x',), (kind,))
    place = NamedSharding(mesh, P('x'))
    params = {'w': jax.device_put(weights, place), 'b': np.ones(3)}
    given = {'w': masks, 'b': None}
    rigl = {'update_every': 2, 'stop_step': 9}
    for tx in (
      lth.static(optax.sgd(0.1), given),
      lth.rigl(optax.sgd(0.1), given, **rigl),
      lth.frozen(optax.sgd(0.1), given),
    ):
      for state in (s := tx.init(params), lth.set_masks(s, given)):
        found = lth.get_masks(state)['w']
        np.testing.assert_array_equal(found, masks)
        if not found.sharding.is_equivalent_to(place, 2):
          print(kind, found.sharding)
  print('done')


def check_large():
  """Prints where SET moves a large leaf otherwise than on one device."""
  _batches._LARGE = 1
  key, found = jax.random.key(0), {}
  w = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
  drawn = lth.random_masks(key, sparsity=0.75)
  moves = {'key': key, 'update_every': 1, 'stop_step': 9}
  tx = lth.sparse_evolution(optax.sgd(0.1), drawn, **moves)
  for kind in (AxisType.Explicit, AxisType.Auto):
    for number in (1, 2, 4, 8):
      devices = jax.devices()[:number]
      mesh = jax.make_mesh((number,), ('x',), (kind,), devices=devices)
      with jax.set_mesh(mesh):
        params = {'w': jax.device_put(w, NamedSharding(mesh, P('x')))}
        state = tx.init(params)
        for _ in range(2):
          _, state = jax.jit(tx.update)(params, state, params)
        found[kind, number] = np.asarray(lth.get_masks(state)['w'])
  params = {'w': jax.numpy.asarray(w)}
  state = first = tx.init(params)
  for _ in range(2):
    _, state = jax.jit(tx.update)(params, state, params)
  expected = np.asarray(lth.get_masks(state)['w'])
  assert not np.array_equal(expected, lth.get_masks(first)['w'])
  for place, mask in found.items():
    if not np.array_equal(mask, expected):
      print(*place, 'differs')
  print('done')


@pytest.mark.slow
def test_set_moves_large_leaves_alike_on_many_devices(run_python):
  source = 'from tests.topologies.test_placements import *; check_large()'
  assert run_python(source, devices=8).splitlines() == ['done']


@pytest.mark.slow
def test_every_method_is_sharded_like_the_weights(run_python):
  names = ['static', 'set', 'rigl', 'snfs', 'srigl', 'ac_dc', 'gradual']
  names += ['top_kast', 'straight_through', 'sr_ste']
  source = f'from tests.topologies.test_placements import *; check(*{names})'
  source += '; check_given()'
  assert run_python(source, devices=8).splitlines() == ['done', 'done']
