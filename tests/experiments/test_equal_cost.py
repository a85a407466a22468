"""Sparse training for equal FLOPs: how long, how wide, at which rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dynamic_sparse_training
import lthjax as lth
from common import config
from methods import equal_cost
from methods import sparse as sparse_methods

DIGITS = (
  '--preset equal_flops --dataset digits --validation 180 --seeds 2'
  ' --eval-every 10 --update-every 10 --batch-size 60'
)
DENSE = 50_200  # weights of LeNet-300-100 on 8x8 images


def parse(*arguments):
  return config.parse(arguments, dynamic_sparse_training.PRESETS, 'help')


def lengths(*arguments):
  """Steps of each method and sparsity."""
  cells = dynamic_sparse_training.cells(parse(*DIGITS.split(), *arguments))
  return {
    (cell.method, cell.sparsity): cell.steps
    for cell in cells
    if isinstance(cell, dynamic_sparse_training.Cell)
  }


@pytest.mark.slow
def test_lengths_by_hand():
  found = lengths('--steps', '400', '--update-every', '50')
  assert found['dense', 0.0] == 400
  assert [found['static', x] for x in (0.5, 0.75)] == [800, 1600]
  # At 98 %, fifty times as many steps would cost as much: fifteen are allowed.
  assert found['static', 0.98] == found['rigl', 0.98] == 6_000
  # Of 3 * .25 * 50 + 3 * .75 + ..., see `step_cost.rigl`: a dense backward pass
  # replaces a sparse one at every 51st step.
  cost = lth.accounting.step_cost.rigl(1, 0.25, 50) / 3
  assert found['rigl', 0.75] == round(400 / cost)
  # SR-STE: sparse forward, and dense for both halves of the backward pass.
  cost = lth.accounting.step_cost.straight_through(1, 0.5) / 3
  assert found['sr_ste', 0.5] == round(400 / cost)
  # IMP to 75 % trains with 100, 50 and 25 %, together 1.75 times as much.
  assert found['imp', 0.75] == 3 * int(400 / 1.75)
  assert {x for name, x in found if name == 'rigl_nm'} == {0.5, 0.75}


@pytest.mark.slow
def test_lengths_cost_what_dense_training_costs():
  """But for whole numbers of steps, and of moves."""
  often = '--steps', '400', '--update-every', '50'
  options = parse(*DIGITS.split(), *often)
  for (name, sparsity), steps in lengths(*often).items():
    plan = dynamic_sparse_training.plan_of(options, name, sparsity, steps)
    cost = equal_cost.relative_cost(name, plan) * steps
    assert cost <= 1.02 * 400, name
    assert cost > 0.98 * 400 or steps == 6_000, name


def test_sparsities_of_iterative_pruning():
  way = sparse_methods.sparsities_on_the_way
  assert way(0.75) == [0, 0.5, 0.75]
  assert way(0.5) == [0, 0.5]
  assert len(way(0.98)) == 7
  assert way(0.98)[-1] == 0.98


@pytest.mark.parametrize(
  ('arguments', 'error'),
  [
    ('--methods rigl_nm --sparsities 0.98', 'keeps 1, 2 or 3 of 4 weights'),
    ('--rates 0.1 0.0', 'rates had 0.0, but must be above 0'),
    ('--rates 0.1 0.1', 'rates'),
    ('--longest 0', 'longest'),
    ('--model conv_2', 'equal_flops needs a network whose FLOPs'),
    ('--sparse-kernels', 'do not go with equal_flops'),
  ],
)
def test_bad_options(arguments, error, capsys):
  with pytest.raises((SystemExit, ValueError)) as raised:
    parse(*DIGITS.split(), *arguments.split())
  said = f'{raised.value}{capsys.readouterr().err}'.replace('│', '')
  assert error in ' '.join(said.split())


@pytest.mark.slow
def test_small_dense_networks_have_as_many_weights():
  task = dynamic_sparse_training.Experiment(
    parse(*DIGITS.split(), '--methods', 'dense')
  ).task
  assert equal_cost.count_prunable(task.params) == DENSE
  for sparsity in (0.5, 0.75, 0.98):
    small = equal_cost.small_dense(task, 'lenet_300_100', sparsity)
    weights = equal_cost.count_prunable(small.params)
    budget = (1 - sparsity) * DENSE
    # One more unit of the first layer has at most 64 + 100 weights.
    assert budget - 250 < weights <= budget
  with pytest.raises(ValueError, match='no lenet_300_100 has so few weights'):
    equal_cost.small_dense(task, 'lenet_300_100', 0.9999)


@pytest.mark.slow
def test_what_was_ever_alive():
  """Of RigL the union of its masks; of others what they keep."""
  params = {'w': jax.random.normal(jax.random.key(0), (8, 8))}
  draw = lth.random_masks(jax.random.key(1), sparsity=0.75)
  moving = lth.rigl(
    optax.sgd(0.1), draw, update_every=2, stop_step=9, drop_fraction=0.5
  )
  for tx in (moving, lth.static(optax.sgd(0.1), draw)):
    explored = equal_cost.exploring(tx)
    state, alone, p = explored.init(params), tx.init(params), params
    union = np.asarray(lth.get_masks(alone)['w'])
    for step in range(10):
      grads = {'w': jax.random.normal(jax.random.key(step), (8, 8))}
      updates, state = explored.update(grads, state, p)
      expected, alone = tx.update(grads, alone, p)
      assert (updates['w'] == expected['w']).all()
      p = optax.apply_updates(p, updates)
      union = union | np.asarray(lth.get_masks(alone)['w'])
      assert (lth.get_masks(state)['w'] == lth.get_masks(alone)['w']).all()
    assert (np.asarray(state.explored['w']) == union).all()
    assert union.sum() > 16 if tx is moving else union.sum() == 16
    stacked = jax.tree.map(lambda x: x[None], state)
    assert equal_cost.shares_explored(stacked, params) == [union.mean()]


def test_rates_are_in_the_state():
  tx = optax.chain(optax.sgd(1.0, momentum=0.9), equal_cost.rated())
  alone = optax.sgd(0.25, momentum=0.9)
  params = {'w': jnp.ones(3)}
  state = optax.tree.set(tx.init(params), rate=jnp.float32(0.25))
  expected = alone.init(params)
  for _ in range(3):
    a, state = tx.update(params, state)
    b, expected = alone.update(params, expected)
    np.testing.assert_allclose(a['w'], b['w'], rtol=1e-6)
