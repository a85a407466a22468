"""Scores by what units do: vectors by hand, and oracles in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from group_programs import (
  DECODER,
  TOKENS,
  attend,
  conv,
  decoder,
  experts,
  fused_qkv,
  norm,
  rotate,
  unrolled,
)
from helpers import random_like

import lthjax as lth
from lthjax import structure

DOWN = 'layers/down[1]'
ROWS = np.array([[1, 0], [3, 2], [5, 1]], np.float32)
TWO = {
  'in': np.eye(2, dtype=np.float32),
  'out': np.array([[1, 2], [3, 0]], np.float32),
  'bias': np.zeros(2, np.float32),
}


def two(params, x):
  return x @ params['in'] @ params['out'] + params['bias']


@pytest.fixture(scope='module')
def network():
  params = random_like(DECODER, 0, scale=0.3)
  return params, structure.groups(decoder, params, TOKENS)


@jax.jit
def hidden(params, tokens):
  """What the last kernel of each layer reads."""
  found, x = [], params['embed'][tokens]
  for i in range(3):
    p = jax.tree.map(lambda leaf, i=i: leaf[i], params['layers'])
    h = norm(x, p['norm1'])
    q, k, v = (
      jnp.einsum('btd,dhk->bthk', h, p[n]) for n in ('query', 'key', 'value')
    )
    k, v = (jnp.repeat(y, 2, axis=2) for y in (rotate(k), v))
    x = x + jnp.einsum('bthk,hkd->btd', attend(rotate(q), k, v), p['out'])
    h = norm(x, p['norm2'])
    found.append(jax.nn.silu(h @ p['gate']) * (h @ p['up']))
    x = x + found[-1] @ p['down']
  return jnp.stack(found)


def test_flap_by_hand():
  seen = structure.activations(two, TWO, ROWS)
  scores = structure.flap(TWO, seen)
  np.testing.assert_allclose(scores['in[1]'], [20, 9], rtol=1e-6)
  keeps = structure.keep(seen.groups, scores, 0.5)
  assert keeps['in[1]'].tolist() == [True, False]
  found = structure.compensate(TWO, keeps, seen)
  np.testing.assert_allclose(found['bias'], [3, 0], rtol=1e-6)
  # The mean of the output is that of all units.
  small, _ = structure.compact(two, found, keeps, ROWS)
  np.testing.assert_allclose(
    two(small, ROWS).mean(0), two(TWO, ROWS).mean(0), rtol=1e-6
  )


def test_minitron_by_hand():
  x = np.array([[[1, -2], [3, 4]], [[0, 1], [-2, 1]]], np.float32)
  seen = structure.activations(two, TWO, x)
  np.testing.assert_allclose(
    structure.minitron(seen)['in[1]'], [5**0.5, 10**0.5], rtol=1e-6
  )


def test_depth_by_hand():
  """x = [1, 0] and y = [1, 1] have a cosine of 1 / sqrt(2)."""
  params = {'w': np.array([[[0, 1], [0, 0]]], np.float32)}

  def apply(params, x):
    return jax.lax.scan(lambda x, w: (x + x @ w, None), x, params['w'])[0]

  x = np.array([[1, 0]], np.float32)
  # A loop of one turn has no axis to cut; two turns do.
  twice = {'w': np.concatenate([params['w']] * 2)}
  (scores,) = structure.depth(apply, twice, x).values()
  expected = [1 - 0.5**0.5, 1 - 3 / 10**0.5]
  np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.slow
def test_neurons_of_scanned_layers_as_computed_in_numpy(network):
  params, groups = network
  seen = structure.activations(
    decoder, params, TOKENS, groups=groups, where=DOWN
  )
  (name,) = seen.readers
  # [layers, batch, time, neurons]
  y = np.asarray(hidden(params, TOKENS), np.float64)
  expected = np.sqrt((np.abs(y).mean(2) ** 2).sum(1))
  np.testing.assert_allclose(
    structure.minitron(seen)[name], expected, rtol=1e-4
  )
  rows = y.reshape(3, -1, 64)
  expected = rows.var(1, ddof=1) * (params['layers']['down'] ** 2).sum(-1)
  np.testing.assert_allclose(
    structure.flap(params, seen)[name], expected, rtol=1e-3
  )


@pytest.mark.slow
def test_scanned_and_unrolled_layers_have_the_same_scores(network):
  params, groups = network
  layers = {
    str(i): jax.tree.map(lambda x, i=i: x[i], params['layers'])
    for i in range(3)
  }
  apart = {**params, 'layers': layers}
  seen = structure.activations(decoder, params, TOKENS, groups=groups)
  other = structure.activations(unrolled, apart, TOKENS)
  scores = structure.minitron(seen), structure.flap(params, seen)
  others = structure.minitron(other), structure.flap(apart, other)
  for found, single in zip(scores, others, strict=True):
    for name, each in found.items():
      assert each.shape == (3, groups[name].size)
    sizes = sorted(np.size(x) for x in single.values())
    assert sizes == sorted(3 * [2, 2, 8, 64])
    whole = np.sort(np.concatenate([np.ravel(x) for x in found.values()]))
    parts = np.sort(np.concatenate([np.ravel(x) for x in single.values()]))
    np.testing.assert_allclose(whole, parts, rtol=1e-4)


def test_heads_of_a_fused_kernel():
  """Several inputs belong to a head: the norm, and the sum, over them."""
  params = random_like({'qkv': (6, 36), 'bias': (36,), 'out': (12, 6)}, 0)
  x = random_like({'x': (2, 5, 6)}, 1)['x']
  apply = functools.partial(fused_qkv, order='split')
  seen = structure.activations(apply, params, x, where='out[0]')
  heads = next(
    n for n, g in seen.groups.items() if g.size == 3 and n in seen.readers
  )
  read = apply({**params, 'out': np.eye(12, dtype=np.float32)}, x)
  read = np.asarray(read, np.float64)
  means = (np.abs(read).mean(1) ** 2).sum(0).reshape(3, 4)
  np.testing.assert_allclose(
    structure.minitron(seen)[heads], np.sqrt(means.sum(1)), rtol=1e-5
  )
  spread = read.reshape(-1, 12).var(0, ddof=1) * (params['out'] ** 2).sum(1)
  np.testing.assert_allclose(
    structure.flap(params, seen)[heads], spread.reshape(3, 4).sum(1), rtol=1e-5
  )


@pytest.mark.slow
def test_padding_and_batches(network):
  """Junk in pads does not matter; batches add up in any order."""
  params, groups = network
  options = {'groups': groups, 'where': DOWN}
  first, second = np.array([[7, 1, 90, 3, 3]]), np.array([[4, 2, 9]])
  padded = np.concatenate([first, [[4, 2, 9, 88, 89]]])
  mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
  seen = structure.activations(
    decoder, params, padded, token_mask=mask, **options
  )
  parts = [
    structure.activations(decoder, params, tokens, **options)
    for tokens in (first, second)
  ]
  for both in (parts[0] + parts[1], parts[1] + parts[0]):
    for f in (structure.minitron, functools.partial(structure.flap, params)):
      for name, scores in f(seen).items():
        np.testing.assert_allclose(f(both)[name], scores, rtol=1e-3)


@pytest.mark.slow
def test_depth_leaves_out_padding(network):
  params, groups = network
  padded = np.array([[4, 2, 9, 88, 89]])
  mask = np.array([[1, 1, 1, 0, 0]], bool)
  (found,) = structure.depth(
    decoder, params, padded, groups=groups, token_mask=mask
  ).values()
  ((name, alone),) = structure.depth(
    decoder, params, padded[:, :3], groups=groups
  ).items()
  assert groups[name].pins == {'loop'}
  np.testing.assert_allclose(found, alone, rtol=1e-4)


def layers_with_biases(params, x):
  def layer(x, p):
    return x + jax.nn.relu(x @ p['in']) @ p['out'] + p['bias'], None

  return jax.lax.scan(layer, x, params)[0]


def test_means_go_into_the_bias_of_each_layer():
  shapes = {'in': (2, 4, 6), 'out': (2, 6, 4), 'bias': (2, 4)}
  params = random_like(shapes, 0)
  x = random_like({'x': (7, 4)}, 1)['x']
  seen = structure.activations(layers_with_biases, params, x)
  ((name, readers),) = seen.readers.items()
  keeps = {name: np.array([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 0]], bool)}
  found = structure.compensate(params, keeps, seen)
  np.testing.assert_array_equal(found['in'], params['in'])
  scores = structure.flap(params, seen)[name]
  for i in range(2):
    h = np.maximum(x @ params['in'][i], 0)
    spread = h.var(0, ddof=1) * (params['out'][i] ** 2).sum(-1)
    np.testing.assert_allclose(scores[i], spread, rtol=1e-4)
    more = np.where(keeps[name][i], 0, h.mean(0)) @ params['out'][i]
    np.testing.assert_allclose(
      found['bias'][i], params['bias'][i] + more, rtol=1e-4, atol=1e-5
    )
    x = x + h @ params['out'][i] + params['bias'][i]
  assert [reader.bias for reader in readers] == ['bias']


def test_taylor_is_the_change_of_a_linear_loss():
  params = random_like({'in': (3, 5), 'out': (5, 2)}, 0)
  slopes = random_like({'in': (3, 5), 'out': (5, 2)}, 1)
  groups = structure.by_axes(
    params, {'in': (None, 'units'), 'out': ('units', None)}
  )

  def loss(p):
    return sum(jnp.vdot(p[name], slopes[name]) for name in p)

  scores = structure.taylor(params, jax.grad(loss)(params), groups)['units']
  for unit in range(5):
    keeps = {'units': np.arange(5) != unit}
    masks = structure.masks(keeps, params, groups)
    without = loss(lth.masks.apply(masks, params))
    np.testing.assert_allclose(
      scores[unit], abs(loss(params) - without), rtol=1e-4
    )


def test_experts_are_one_group_that_cannot_be_removed_blindly():
  shapes = {'router': (6, 4), 'in': (4, 6, 5), 'out': (4, 5, 6)}
  params = random_like(shapes, 0)
  x = random_like({'x': (3, 6)}, 1)['x']
  for combine in ('one-hot', 'scatter'):
    apply = functools.partial(experts, combine=combine)
    groups = structure.groups(apply, params, x)
    (name,) = (n for n, g in groups.items() if 'sorted' in g.pins)
    assert {(m.leaf, m.axis) for m in groups[name].members} == {
      ('router', 1),
      ('in', 0),
      ('out', 0),
    }
    with pytest.raises(ValueError, match=r'reduced, sorted\)'):
      structure.keep(groups, {name: np.arange(4.0)}, 0.5, where='router[1]')
    scores = structure.minitron(
      structure.activations(apply, params, x, groups=groups, where='out[1]')
    )
    assert [x.shape for x in scores.values()] == [(5,)]


def test_what_cannot_be_measured(network):
  params, groups = network

  def run(**options):
    return structure.activations(
      decoder, params, TOKENS, groups=groups, **options
    )

  with pytest.raises(ValueError, match='`where` has patterns that match no'):
    run(where='heads')
  with pytest.raises(
    ValueError, match=r'No kernel contracts the units of layers/\w+\[0\]'
  ):
    run(where='layers/norm1[0]')
  seen = run(where=DOWN)
  (name,) = seen.readers
  keeps = structure.keep(groups, structure.minitron(seen), 0.25)
  with pytest.raises(
    ValueError, match=f'layers/down of {re.escape(name)}. Give the layers'
  ):
    structure.compensate(params, keeps, seen)
  other = structure.activations(two, TWO, ROWS)
  with pytest.raises(ValueError, match='are of different programs or groups'):
    other + seen
  with pytest.raises(TypeError, match='`seen` was None, but must be what'):
    structure.minitron(None)
  with pytest.raises(ValueError, match='so there is no depth to score'):
    structure.depth(two, TWO, ROWS)
  with pytest.raises(ValueError, match=r'do not fit in of shape \(2, 2\)'):
    structure.taylor(TWO, {**TWO, 'in': np.ones(2)}, other.groups)


def test_channels_are_read_by_convolutions():
  """Every place of every image is a token."""
  shapes = {'a': (3, 3, 2, 4), 'b': (1, 1, 4, 3), 'bias': (3,)}
  params = random_like(shapes, 0)
  x = random_like({'x': (2, 5, 5, 2)}, 1)['x']

  def apply(params, x):
    return conv(jax.nn.relu(conv(x, params['a'])), params['b']) + params['bias']

  seen = structure.activations(apply, params, x)
  ((name, (reader,)),) = seen.readers.items()
  assert (name, reader.bias) == ('a[3]', 'bias')
  read = np.asarray(jax.nn.relu(conv(x, params['a'])), np.float64)
  read = read.reshape(2, 25, 4)
  np.testing.assert_allclose(
    structure.minitron(seen)[name],
    np.sqrt((read.mean(1) ** 2).sum(0)),
    rtol=1e-5,
  )
  spread = read.reshape(-1, 4).var(0, ddof=1)
  expected = spread * (params['b'][0, 0] ** 2).sum(-1)
  scores = structure.flap(params, seen)
  np.testing.assert_allclose(scores[name], expected, rtol=1e-5)
  keeps = structure.keep(seen.groups, scores, 0.5)
  found = structure.compensate(params, keeps, seen)
  small, _ = structure.compact(apply, found, keeps, x)
  assert small['a'].shape == (3, 3, 2, 2)
  mean = np.mean(apply(small, x), (0, 1, 2))
  np.testing.assert_allclose(
    mean, np.mean(apply(params, x), (0, 1, 2)), rtol=1e-4, atol=1e-5
  )
