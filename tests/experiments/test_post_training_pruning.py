"""Pruning of a trained decoder: what is pruned, and how much."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_experiments import TINY

import lthjax as lth
import post_training_pruning as script_module
from common.config import parse as parse_config
from methods import one_shot
from methods.one_shot import METHODS, Target


def parse(*arguments):
  presets = script_module.PRESETS
  return parse_config([*TINY['post_training_pruning'], *arguments], presets, '')


@pytest.fixture(scope='module')
def experiment():
  return script_module.Experiment(parse())


@pytest.fixture(scope='module')
def params(experiment):
  return experiment.task.model.init(jax.random.key(0))


def prune(experiment, params, name, target):
  return one_shot.prune(
    METHODS[name],
    experiment.task,
    params,
    experiment.task.draw(0),
    target,
    experiment.effort,
  )


def test_rows_are_of_each_draw(unbroken):
  rows = unbroken.rows()
  found = [(row['method'], row['target'], row['seed']) for row in rows]
  assert found == [
    ('dense', '', '0'),
    ('magnitude', '50 %', '0'),
    ('wanda', '50 %', '0'),
    ('wanda', '50 %', '1'),
  ]
  assert {row['density'] for row in rows} == {'1.0', '0.5'}
  vocabulary = 95
  assert all(1 < float(row['perplexity']) < 2 * vocabulary for row in rows)


@pytest.mark.slow
def test_the_sparsity_of_a_program_is_that_of_the_rule(experiment, params):
  found, masks = prune(experiment, params, 'wanda', Target(0.75))
  tokens = experiment.task.draw(0)
  rule = lth.rules.wanda(0.75)
  expected = lth.prune_program(
    experiment.task.model.hidden, params, tokens, rule=rule
  )
  jax.tree.map(np.testing.assert_array_equal, masks, expected.masks)
  jax.tree.map(np.testing.assert_array_equal, found, expected.params)


@pytest.mark.slow
def test_owl_keeps_the_total(experiment, params):
  method = METHODS['wanda_owl']
  found = one_shot.sparsities(
    method, experiment.task, params, experiment.task.draw(0), Target(0.7)
  )
  assert len(found) == 7
  blocks = np.array([*found.values()])
  assert blocks.shape == (7, 2)
  assert (blocks == blocks[0]).all()
  assert blocks[0].mean() == pytest.approx(0.7)
  assert 0 < np.ptp(blocks[0]) <= 0.16 + 1e-6


def test_cells_of_each_method():
  config = script_module.PRESETS['tiny']
  cells = script_module.cells(config)
  found = {}
  for cell in cells[1:]:
    found.setdefault(cell.method, set()).add((cell.target.name, cell.draw))
  everywhere = ['50 %', '60 %', '70 %', '80 %', '4:8', '2:4']
  assert found['wanda'] == {(x, i) for x in everywhere for i in range(3)}
  assert found['magnitude'] == {(x, 0) for x in everywhere}
  assert found['sparse_gpt_int8'] == {('50 %', i) for i in range(3)}
  assert found['wanda_owl'] == {('70 %', i) for i in range(3)}
  other = dataclasses.replace(config, sparsities=(0.5,), owl_sparsity=0.6)
  targets = {
    cell.target.name
    for cell in script_module.cells(other)
    if cell.method == 'wanda'
  }
  assert targets == {'50 %', '4:8', '2:4'}


@pytest.mark.slow
def test_swaps_tell_of_each_block(experiment, params):
  said = []
  masks = [
    one_shot.prune(
      METHODS[name],
      experiment.task,
      params,
      experiment.task.draw(0),
      Target(0.5),
      experiment.effort,
      said.append,
    )[1]['blocks']['mlp']['up']['kernel']
    for name in ('wanda', 'swaps')
  ]
  assert said == [0, 1]
  assert (masks[0] != masks[1]).any()
  assert (masks[0].sum(1) == masks[1].sum(1)).all()


@pytest.mark.slow
def test_blocks_are_trained_for_a_pattern(experiment, params):
  target = Target(None, lth.patterns.NM(2, 4))
  found, masks = prune(experiment, params, 'reconstruct', target)
  tokens = experiment.task.draw(0)
  run = jax.jit(experiment.task.model.hidden)
  rule = METHODS['reconstruct'].rule(pattern=target.pattern)
  other = lth.prune_program(run, params, tokens, rule=rule).params

  def error(params):
    return float(jnp.mean((run(params, tokens) - dense) ** 2))

  dense = run(params, tokens)
  assert error(found) < error(other)
  keep = masks['blocks']['mlp']['up']['kernel']
  assert (keep.reshape(2, 2, 4, 12).sum(2) == 2).all()
