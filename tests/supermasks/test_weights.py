"""Random weights for supermasks."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits

import lthjax as lth

supermasks = lth.supermasks

RNG = np.random.default_rng(0)
PARAMS = {
  'conv': {'kernel': RNG.normal(size=(3, 3, 8, 50)).astype(np.float32)},
  'out': {
    'kernel': RNG.normal(size=(40, 90)).astype(jnp.bfloat16),
    'bias': np.float32([3.0, -1.0]),
  },
}
FAN_INS = {'conv': 72, 'out': 40}


def draw(params, **options):
  return supermasks.scaled_kaiming(jax.random.key(2), params, **options)


@pytest.mark.parametrize('sparsity', [0.0, 0.75])
def test_signed_constant(sparsity):
  before = bits(PARAMS)
  found = supermasks.signed_kaiming_constant(PARAMS, sparsity=sparsity)
  for layer, inputs in FAN_INS.items():
    w, new = PARAMS[layer]['kernel'], found[layer]['kernel']
    assert new.dtype == w.dtype
    wanted = np.sign(w) * math.sqrt(2 / (inputs * (1 - sparsity)))
    assert (new == wanted.astype(w.dtype)).all()
  assert found['out']['bias'] is PARAMS['out']['bias']
  assert bits(PARAMS) == before


@pytest.mark.parametrize('sparsity', [0.0, 0.75])
def test_scaled_kaiming(sparsity):
  found = draw(PARAMS, sparsity=sparsity)
  for layer, inputs in FAN_INS.items():
    new = found[layer]['kernel']
    assert new.dtype == PARAMS[layer]['kernel'].dtype
    std = math.sqrt(2 / (inputs * (1 - sparsity)))
    values = np.asarray(new, np.float64)
    # Five standard errors.
    assert abs(values.std() / std - 1) < 5 / math.sqrt(2 * values.size)
    assert abs(values.mean()) < 5 * std / math.sqrt(values.size)
  assert found['out']['bias'] is PARAMS['out']['bias']
  only = draw(PARAMS, where='conv/kernel', sparsity=sparsity)
  assert bits(only['conv']) == bits(found['conv'])
  assert only['out']['kernel'] is PARAMS['out']['kernel']


@pytest.mark.parametrize(
  ('name', 'shape', 'inputs'),
  [
    ('fc/kernel', (784, 300), 784),
    ('conv/kernel', (3, 3, 16, 32), 144),
    ('attention/query/kernel', (64, 4, 16), 64),
    ('attention/out/kernel', (4, 16, 64), 64),
    ('layers/kernel', (12, 64, 32), 64),
    ('fc/weight', (300, 784), 784),
  ],
)
def test_fan_in(name, shape, inputs):
  params = {name: np.ones(shape, np.float32)}
  found = supermasks.signed_kaiming_constant(params)[name]
  np.testing.assert_allclose(found, (2 / inputs) ** 0.5)


@pytest.mark.parametrize('make', [supermasks.signed_kaiming_constant, draw])
@pytest.mark.parametrize('sparsity', [1.0, -0.1, float('nan')])
def test_sparsity_out_of_range(make, sparsity):
  message = f'`sparsity` was {sparsity}, but must be in [0, 1): at 1'
  with pytest.raises(ValueError, match=re.escape(message)):
    make(PARAMS, sparsity=sparsity)


INITIAL = {
  'w': np.float32([[1.0, 2.0, -3.0, 4.0]]),
  'b': np.ones(2, np.float32),
}
FINAL = {
  'w': np.float32([[5.0, -2.5, -1.0, 0.5]]),
  'b': np.zeros(2, np.float32),
}


def test_supermask_of_a_trained_network():
  """Criteria and treatments put together: large final, same sign."""
  masks = lth.prune(
    lth.scores.large_final_same_sign(FINAL, INITIAL),
    lth.masks.full(INITIAL),
    sparsity=0.5,
  )
  # 5 and 1 are the largest that kept their sign; -2.5 did not.
  assert masks['w'].tolist() == [[True, False, True, False]]
  assert lth.masks.apply(masks, INITIAL)['w'].tolist() == [[1, 0, -3, 0]]
