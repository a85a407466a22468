"""Sanity checks keep one thing of a mask: counts, or order turned around."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax import densities, tickets

KEY = jax.random.key(0)
SHAPES = {'conv1': (3, 3, 2, 8), 'conv2': (3, 3, 8, 8), 'output': (8, 10)}


def network(seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: {
      'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32),
      'bias': jnp.zeros(shape[-1]),
    }
    for name, shape in SHAPES.items()
  }


def alive(masks):
  return list(lth.masks.alive_by_name(masks).values())


def test_inverted_keeps_the_complement():
  params = network()
  dense, scores = lth.masks.full(params), lth.scores.magnitude(params)
  best = lth.prune(scores, dense, sparsity=0.5, scope='global')
  worst = lth.prune(
    tickets.inverted(scores), dense, sparsity=0.5, scope='global'
  )
  assert lth.masks.count(lth.masks.intersect(best, worst)) == 0
  assert lth.masks.hamming(best, worst) == 1


def test_random_quotas_of_another_mask():
  params = network()
  dense = lth.masks.full(params)
  ticket = lth.prune(
    lth.scores.magnitude(params), dense, sparsity=0.9, scope='global'
  )
  quotas = lth.masks.alive_by_name(ticket)
  one = tickets.random_quotas(KEY, dense, quotas)
  two = tickets.random_quotas(jax.random.key(1), dense, quotas)
  assert lth.masks.alive_by_name(one) == quotas
  assert one['output']['bias'] is None
  assert lth.masks.jaccard(one, two) < 0.3
  # Out of another mask, only its alive weights are drawn.
  fewer = {name: number // 2 for name, number in quotas.items()}
  inside = tickets.random_quotas(KEY, ticket, fewer)
  assert lth.masks.alive_by_name(inside) == fewer
  assert lth.masks.count(lth.masks.difference(inside, ticket)) == 0


def test_smart_ratio_and_hybrid_tickets():
  params = network()
  dense = lth.masks.full(params)
  random = tickets.smart_ratio(KEY, dense, 0.8)
  hybrid = tickets.hybrid(params, dense, 0.8)
  # 800 weights; the last layer keeps 24 of 80, the others 136 in proportion to
  # 144 * 12 and 576 * 6.
  assert alive(random) == alive(hybrid) == [45, 91, 24]
  for name, layer in hybrid.items():
    kept = np.abs(params[name]['kernel'])[np.asarray(layer['kernel'])]
    lost = np.abs(params[name]['kernel'])[~np.asarray(layer['kernel'])]
    assert kept.min() > lost.max()
  assert lth.masks.jaccard(random, hybrid) < 0.4
  even = tickets.smart_ratio(KEY, dense, 0.8, densities.uniform)
  assert alive(even) == [29, 115, 16]


@pytest.mark.parametrize(
  ('quotas', 'message'),
  [
    ({'a': 2}, 'b has no quota'),
    ({'a': 2, 'b': 1, 'c': 1}, 'c is no prunable leaf'),
    ({'a': 4, 'b': -1}, 'a has a quota of 4 out of 3; b has a quota of -1 out'),
  ],
)
def test_quotas_must_fit(quotas, message):
  masks = {'a': jnp.array([1, 1, 1, 0]) > 0, 'b': jnp.ones(2, bool), 'c': None}
  with pytest.raises(ValueError, match=re.escape(message)):
    tickets.random_quotas(KEY, masks, quotas)
