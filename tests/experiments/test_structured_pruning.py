"""Structured pruning: what is cut, what it costs, and what is learned."""

import jax
import numpy as np
import pytest

import structured_pruning
from common import config
from methods import structure


@pytest.fixture(scope='module')
def network():
  """The smallest decoder, of random weights as shapes alone."""
  options = config.parse(
    [
      *('--text', 'python_manual', '--width', '8', '--layers', '2'),
      *('--heads', '2', '--key-value-heads', '2', '--mlp', '12'),
      *('--time', '16', '--eval-tokens', '256', '--calibration-tokens', '64'),
      *('--similar-tokens', '64'),
    ],
    structured_pruning.PRESETS,
    '',
  )
  task = structured_pruning.Language(options)
  params = jax.tree.map(
    lambda x: np.random.default_rng(0).normal(size=x.shape).astype(x.dtype),
    task.params,
  )
  return structure.biased(task, params)


def test_multiply_adds_are_those_of_all_matmuls(network):
  vocabulary = network.task.config.vocabulary
  tokens = jax.ShapeDtypeStruct((1, 5), 'int32')
  projections = 4 * 8 * 8  # queries, keys, values and output
  block = 5 * (projections + 3 * 8 * 12) + 2 * 2 * 5 * 5 * 4
  found = structure.multiply_adds(network, network.params, tokens)
  assert found == 2 * block + 5 * 8 * vocabulary


def test_each_part_is_one_group(network):
  for place in structure.PLACES.values():
    assert len(structure.structure.choose(network.groups, place)) == 1
  assert not structure.fits('layers', 'flap')
  assert not structure.fits('neurons', 'cosine')


def test_random_cuts_differ_by_draw(network):
  how = structure.Cut('layers', 0.5, 'random')
  name = structure.PLACES['layers']
  (name,) = structure.structure.choose(network.groups, name)
  found = [
    structure.score(network, how, name, None, None, draw).tolist()
    for draw in (0, 0, 1)
  ]
  assert found[0] == found[1] != found[2]
