"""Leaves of equal shape move together: the same masks in smaller programs."""

import functools

import jax
import numpy as np
import optax
import pytest
from helpers import eager_step, keys, random_like, slow_but
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth
from lthjax import trees
from lthjax.topologies import _batches

SHAPES = {
  'a': {'kernel': (8, 6), 'bias': (6,)},
  'b': {'kernel': (8, 6)},
  'layers': {'kernel': (2, 8, 6)},
  'e': {'kernel': (4, 12)},
  'output': {'kernel': (8, 6)},
  'empty': {'kernel': (8, 0)},
  'also_empty': {'kernel': (8, 0)},
}
TIMES = {'update_every': 1, 'stop_step': 9}
NM = lth.patterns.NM(2, 4)
RISING = lth.schedules.polynomial_sparsity(0.75, 0, 9, initial=0.5)


def draw(**options):
  return lth.random_masks(keys(1), **{'sparsity': 0.5} | options)


def uneven(shapes, sparsity, **options):
  """A density of its own for every leaf."""
  spread = np.linspace(0.7, 0.3, len(shapes))
  return dict(zip(shapes, map(float, spread), strict=True))


METHODS = {
  'rigl': lambda tx: lth.rigl(
    tx, draw(densities=uneven), **TIMES, applies_gradient=True
  ),
  'rigl_rising': lambda tx: lth.rigl(
    tx, draw(), sparsity=RISING, **TIMES, applies_gradient=True
  ),
  'rigl_nm': lambda tx: lth.rigl(
    tx,
    draw(pattern=NM, sparsity=None),
    pattern=NM,
    applies_gradient=True,
    **TIMES,
  ),
  'set': lambda tx: lth.sparse_evolution(tx, draw(), key=keys(0), **TIMES),
  'snfs': lambda tx: lth.snfs(tx, draw(), **TIMES),
  'srigl': lambda tx: lth.srigl(tx, draw(), min_salient=0.9, **TIMES),
  'srigl_rising': lambda tx: lth.srigl(tx, draw(), sparsity=RISING, **TIMES),
  'gradual': lambda tx: lth.gradual(tx, sparsity=0.7, **TIMES),
  'gradual_nm': lambda tx: lth.gradual(tx, pattern=NM, **TIMES),
  'ac_dc': lambda tx: lth.ac_dc(
    tx, sparsity=0.6, densities=uneven, sparse_steps=[1], dense_steps=[2]
  ),
  'top_kast': lambda tx: lth.top_kast(
    tx, sparsity=0.6, backward_sparsity=0.4, update_every=1
  ),
  'sr_ste': lambda tx: lth.sr_ste(tx, pattern=NM),
}


@pytest.mark.parametrize('method', slow_but(METHODS, ['top_kast']))
def test_stacked_leaves_move_as_single_ones(method, monkeypatch):
  stacked = []
  make = _batches.make

  def spy(*args):
    batches = make(*args)
    stacked.append([n for n in batches.names.values() if len(n) > 1])
    return batches

  monkeypatch.setattr(_batches, 'make', spy)

  def train(size):
    monkeypatch.setattr(_batches, '_SIZE', size)
    tx = METHODS[method](optax.sgd(0.1))
    step = jax.jit(functools.partial(eager_step, tx))
    params = random_like(SHAPES, 0)
    state = tx.init(params)
    masks = [lth.get_masks(state)]
    for i in range(2):
      params, state = step(params, state, random_like(SHAPES, i + 1))
      masks.append(lth.get_masks(state))
    return [trees.prunable(m) for m in masks]

  one_by_one = train(-1)
  assert not any(stacked)
  together = train(2**21)
  alike = ['a/kernel', 'b/kernel']
  assert any(set(alike) <= {*names} for names in stacked[-1])
  # Neurons of the output are not ablated, those of other layers may be.
  alone = method.startswith('srigl')
  assert any('output/kernel' in names for names in stacked[-1]) != alone
  for a, b in zip(one_by_one, together, strict=True):
    for name, mask in a.items():
      np.testing.assert_array_equal(mask, b[name])
  assert any(
    (np.asarray(x) != np.asarray(masks[n])).any()
    for masks in together[1:]
    for n, x in together[0].items()
  )


@pytest.mark.parametrize(
  'method', slow_but(['rigl', 'gradual', 'top_kast', 'srigl'], ['rigl'])
)
def test_programs_hardly_grow_with_the_number_of_leaves(method):
  tx = METHODS[method](optax.sgd(0.1, momentum=0.9))

  def lines(number):
    params = {
      f'{i}/kernel': jax.ShapeDtypeStruct((8, 8), np.float32)
      for i in range(number)
    }
    state = jax.eval_shape(tx.init, params)
    program = jax.jit(tx.update).lower(params, state, params)
    return program.as_text().count('\n')

  # A plain step takes five lines for each.
  assert lines(8) - lines(4) < 4 * 64


def moved(method, shapes, places=None):
  """Masks after each of two compiled steps, and the loops of a step."""
  tx = METHODS[method](optax.sgd(0.1))
  put = (lambda x: x) if places is None else lambda x: jax.device_put(x, places)
  params = put(random_like(shapes, 0))
  state, found = tx.init(params), []
  step = jax.jit(functools.partial(eager_step, tx))
  for i in range(2):
    params, state = step(params, state, put(random_like(shapes, i + 1)))
    found.append(lth.get_masks(state))
  text = step.lower(params, state, params).as_text()
  return found, text.count('stablehlo.while')


def check_mesh(rows, columns, *methods):
  """Stacked, in a loop, or each by itself, as without a mesh."""
  shapes = {f'{x}/kernel': (8, 16) for x in 'abc'}
  shapes |= {'d/kernel': (16, 8), 'layers/kernel': (2, 8, 16)}
  mesh = jax.make_mesh((rows, columns), ('x', 'y'), (AxisType.Explicit,) * 2)
  places = {name: NamedSharding(mesh, P('x', 'y')) for name in shapes}
  places['c/kernel'] = NamedSharding(mesh, P('y', 'x'))
  places['layers/kernel'] = NamedSharding(mesh, P(None, 'x', 'y'))
  before, loops = _batches._SIZE, {}
  for method in methods:
    wanted, _ = moved(method, shapes)
    for size in (2**21, 1):
      _batches._SIZE = size
      with jax.set_mesh(mesh):
        found, loops[method, size] = moved(method, shapes, places)
      for masks, same in zip(found, wanted, strict=True):
        for name, mask in masks.items():
          np.testing.assert_array_equal(mask, same[name], f'{method} {size}')
          assert mask.sharding.is_equivalent_to(places[name], mask.ndim)
    _batches._SIZE = before
  return loops


@pytest.mark.slow
def test_leaves_of_one_sharding_move_by_one_program():
  loops = check_mesh(1, 1, 'rigl')
  # Of a and b together, and in turn; the others are alone.
  assert loops == {('rigl', 2**21): 2, ('rigl', 1): 9}


@pytest.mark.slow
def test_leaves_of_one_sharding_on_four_devices(run_python):
  methods = ['rigl_rising', 'set', 'srigl', 'gradual', 'top_kast']
  check = f'check_mesh(2, 2, *{methods})'
  source = f'from tests.topologies.test_batches import *; print({check})'
  assert 'top_kast' in run_python(source, devices=4)


@pytest.mark.slow
def test_programs_hardly_grow_on_a_mesh():
  tx = METHODS['rigl'](optax.sgd(0.1, momentum=0.9))
  mesh = jax.make_mesh((1,), ('x',), (AxisType.Explicit,))

  def lines(number):
    place = NamedSharding(mesh, P('x'))
    params = {
      f'{i}/kernel': jax.ShapeDtypeStruct((2048, 2048), 'f4', sharding=place)
      for i in range(number)
    }
    state = jax.eval_shape(tx.init, params)
    program = jax.jit(tx.update).lower(params, state, params)
    return program.as_text().count('\n')

  with jax.set_mesh(mesh):  # A leaf by itself takes 600.
    assert lines(8) - lines(4) < 4 * 160
