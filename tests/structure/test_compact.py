"""Units are removed only if the program stays the same without them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_like

import lthjax as lth
from lthjax import models
from lthjax.structure import compact

SHAPES = {'in': (6, 8), 'bias': (8,), 'out': (8, 3)}
KEEP = np.arange(8) % 3 > 0


def apply(params, x):
  return jax.nn.relu(x @ params['in'] + params['bias']) @ params['out']


@pytest.fixture
def params():
  return random_like(SHAPES, 0)


@pytest.fixture
def x():
  return random_like({'x': (5, 6)}, 1)['x']


def test_by_hand(params, x):
  small, _ = compact(apply, params, {'bias[0]': KEEP}, x)
  np.testing.assert_array_equal(small['in'], params['in'][:, KEEP])
  np.testing.assert_array_equal(small['bias'], params['bias'][KEEP])
  np.testing.assert_array_equal(small['out'], params['out'][KEEP])


def test_groups_by_hand(params, x):
  groups = lth.structure.by_axes(
    params, {'in': (None, 'units'), 'bias': ('units',), 'out': ('units', None)}
  )
  small, _ = compact(apply, params, {'units': KEEP}, x, groups=groups)
  assert small['out'].shape == (5, 3)
  wrong = {
    'units': groups['units']._replace(members=groups['units'].members[:2])
  }
  with pytest.raises(
    ValueError, match='units: TypeError: dot_general requires'
  ):
    compact(apply, params, {'units': KEEP}, x, groups=wrong)


@pytest.mark.slow
def test_a_network_with_running_statistics():
  """Blocks and streams of ResNet-20 at once, most channels of each."""
  model = models.resnet_20((8, 8, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda s: rng.uniform(0.1, 1, s.shape).astype(s.dtype), shapes
  )
  images = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)

  def logits(variables, images):
    return model.apply(*variables, images)[0]

  groups = lth.structure.groups(logits, variables, images)
  keeps = {
    name: rng.permutation(group.size) > group.size // 3
    for name, group in groups.items()
    if not group.pins
  }
  small, _ = compact(logits, variables, keeps, images)
  assert small[0]['conv1']['kernel'].shape == (3, 3, 3, 10)
  assert small[1]['blocks']['8']['norm1']['mean'].shape == (42,)


def test_a_program_with_a_size_of_its_own(params, x):
  """Two heads of four features in a reshape: it runs, and is wrong."""

  def two_heads(params, x):
    h = jax.nn.relu(x @ params['in'] + params['bias'])
    scores = h.reshape(len(x), 2, -1)
    weights = jax.nn.softmax(jnp.einsum('bhd,chd->hbc', scores, scores))
    h = jnp.einsum('hbc,chd->bhd', weights, scores)
    return h.reshape(len(x), -1) @ params['out']

  groups = lth.structure.groups(two_heads, params, x)
  heads, features = (
    next(name for name, g in groups.items() if not g.pins and g.size == n)
    for n in (2, 4)
  )
  compact(two_heads, params, {features: np.arange(4) > 0}, x)
  with pytest.raises(
    ValueError,
    match=rf'is another function: {re.escape(heads)}: the output differs by'
    r' .*\. Is there a size in the program that does not come from the params',
  ):
    compact(
      two_heads,
      params,
      {heads: np.arange(2) > 0, features: np.arange(4) > 0},
      x,
    )


def test_a_layer_that_makes_something_of_zeros(params, x):
  """Linear attention with exp: a zeroed feature still adds exp(0)**2 = 1."""

  def linear(params, x):
    h = jnp.exp(0.1 * x @ params['in'])
    return (h @ h.T) @ x

  groups = lth.structure.groups(linear, params, x)
  assert not groups['in[1]'].pins
  with pytest.raises(ValueError, match=r'in\[1\]: the output differs by'):
    compact(linear, params, {'in[1]': KEEP}, x)


def test_outputs_are_compared_one_by_one(params, x):
  def several(params, x):
    h = jax.nn.relu(x @ params['in'] + params['bias'])
    some = (h >= 0).astype(int)
    return {'y': h @ params['out'], 'units': jnp.einsum('bh,bh->b', some, some)}

  with pytest.raises(ValueError, match=r'bias\[0\]: units differs'):
    compact(several, params, {'bias[0]': KEEP}, x)


@pytest.mark.parametrize(
  ('keeps', 'text'),
  [
    (
      {'in[0]': np.ones(6, bool)},
      'in[0] (input): units of pinned groups cannot',
    ),
    ({'in[0]': np.ones(6, bool)}, 'Groups without pins are bias[0];'),
    ({'units': KEEP}, 'units is not a group (bias[0], in[0], out[1])'),
    ({'bias[0]': KEEP[:4]}, 'bias[0] has bool (4,), not bool (8,)'),
    ({'bias[0]': KEEP & False}, 'bias[0] keeps nothing'),
    ({'bias[0]': None}, 'bias[0] has NoneType (), not bool (8,)'),
    (None, '`masks of units` was None, but must map'),
  ],
)
def test_units_that_cannot_go(params, x, keeps, text):
  with pytest.raises((TypeError, ValueError), match=re.escape(text)):
    compact(apply, params, keeps, x)


def test_not_finite_and_not_there(params, x):
  with pytest.raises(ValueError, match=r'bias\[0\]: the output differs by nan'):
    compact(apply, params, {'bias[0]': KEEP}, x * np.nan)
  with pytest.raises(ValueError, match='`compact` needs a probe'):
    compact(lambda p: apply(p, x), params, {'bias[0]': KEEP})
  with pytest.raises(ValueError, match=r'call it outside of `jax\.jit`'):
    jax.jit(lambda p: compact(apply, p, {'bias[0]': KEEP}, x))(params)
  for tolerance in (-1.0, np.nan, '1'):
    with pytest.raises((TypeError, ValueError), match='`tolerance` was'):
      compact(apply, params, {'bias[0]': KEEP}, x, tolerance=tolerance)
