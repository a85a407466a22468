"""Activations that are not read: thresholds by block, and what is counted."""

import types

import numpy as np
import pytest
from helpers import random_like

from methods import activation

KERNELS = {'up': {'kernel': (2, 4, 4)}}
PARAMS = {'embed': random_like((5, 4), 0), 'blocks': random_like(KERNELS, 1)}
TOKENS = np.array([[0, 1, 2], [3, 4, 0]])


def block(params, x):
  return x + x @ params['up']['kernel']


TASK = types.SimpleNamespace(
  model=types.SimpleNamespace(
    embed=lambda params, tokens: params['embed'][tokens], block=block
  ),
  config=types.SimpleNamespace(layers=2),
)


def test_thresholds_are_those_of_dense_inputs():
  found = activation.thresholds(TASK, PARAMS, TOKENS, 'uniform', 0.5, 0.1)
  x, kernel = PARAMS['embed'][TOKENS], PARAMS['blocks']['up']['kernel']
  second = x + x @ kernel[0]
  middle = [np.sort(np.abs(y).ravel())[11] for y in (x, second)]
  np.testing.assert_allclose(found['blocks/up/kernel'], middle, rtol=1e-5)


def test_unread_weights_are_counted_by_their_number():
  params = {
    'blocks': random_like({'a': {'kernel': (4, 6)}, 'b': {'kernel': (6, 2)}}, 2)
  }

  def apply(params, x):
    blocks = params['blocks']
    return x @ blocks['a']['kernel'] @ blocks['b']['kernel']

  x = random_like((3, 4), 3)
  rules = {'blocks/a/kernel': 0.0, 'blocks/b/kernel': 1e6}
  found = activation.unread(apply, params, x, rules, 0.5)
  assert found == pytest.approx(12 / 36)
  assert activation.unread(apply, params, x, None, 0.5) == pytest.approx(0.5)
