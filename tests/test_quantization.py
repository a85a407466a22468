"""Grids of 8 and 4 bits, and training on them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax import quantization
from lthjax.axes import Axes

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((2, 64, 3), np.float32)
MASK = RNG.random(KERNEL.shape) < 0.5
AXES = Axes(stack=(0,), inputs=(1,), outputs=(2,))


def by_hand(kernel, largest, group):
  """A loop over the groups of each output."""
  codes, scales = np.zeros(kernel.shape, int), []
  for layer, output in np.ndindex(2, 3):
    for start in range(0, 64, group):
      part = kernel[layer, start : start + group, output]
      step = np.abs(part).max() / np.float32(largest)
      codes[layer, start : start + group, output] = np.round(part / step)
      scales.append(step)
  scales = np.reshape(scales, (2, 3, 64 // group)).transpose(0, 2, 1)
  return codes, scales


@pytest.mark.parametrize(
  ('rule', 'largest', 'group'),
  [
    (quantization.int8, 127, 64),
    (functools.partial(quantization.int4, group=16), 7, 16),
  ],
)
@pytest.mark.parametrize('mask', [None, MASK])
def test_codes_are_those_of_a_loop(rule, largest, group, mask):
  found = rule(jnp.asarray(KERNEL), mask, AXES)
  alive = KERNEL if mask is None else np.where(mask, KERNEL, np.float32(0))
  codes, scales = by_hand(alive, largest, group)
  assert found.codes.dtype == np.int8
  np.testing.assert_array_equal(found.codes, codes)
  np.testing.assert_allclose(found.scales, scales, rtol=1e-6)
  value = np.asarray(quantization.dequantize(found))
  steps = np.repeat(scales, group, axis=1)
  assert (np.abs(value - alive) <= steps / 2 * (1 + 1e-5)).all()
  assert not value.view(np.int32)[alive == 0].any()  # +0.0


def test_outputs_without_weights_are_zeros():
  kernel = jnp.zeros((4, 2)).at[:, 0].set(1.0)
  value = quantization.dequantize(quantization.int8(kernel))
  np.testing.assert_array_equal(value, kernel)
  dead = quantization.int8(kernel, jnp.zeros((4, 2), bool))
  assert not dead.codes.any()
  assert np.isfinite(dead.scales).all()


def test_heads_have_axes_of_their_own():
  rng = np.random.default_rng(2)
  params = {
    'attention': {
      'query': {'kernel': rng.standard_normal((32, 2, 4), np.float32)},
      'out': {'kernel': rng.standard_normal((2, 32, 4), np.float32)},
    }
  }
  small = quantization.quantize(params)['attention']
  assert small['query']['kernel'].scales.shape == (1, 2, 4)
  assert small['out']['kernel'].scales.shape == (1, 1, 4)
  rule = functools.partial(quantization.int4, group=8)
  small = quantization.quantize(params, rule)['attention']
  assert small['query']['kernel'].scales.shape == (4, 2, 4)
  assert small['out']['kernel'].scales.shape == (2, 4, 4)


def test_training_on_the_grid_keeps_dead_weights_at_zero():
  rng = np.random.default_rng(3)
  x = rng.standard_normal((16, 8), np.float32)
  y = x @ rng.standard_normal((8, 4), np.float32)
  params = {'fc': {'kernel': jnp.zeros((8, 4)) + 0.1, 'bias': jnp.zeros(4)}}
  mask = jnp.asarray(RNG.random((8, 4)) < 0.5)
  masks = {'fc': {'kernel': mask, 'bias': None}}
  tx = lth.static(optax.adam(0.05), masks)
  state = tx.init(params)
  params = lth.masks.apply(masks, params)

  @jax.jit
  def step(params, state):
    def loss(params):
      rounded = quantization.straight_through(params)
      return jnp.mean((x @ rounded['fc']['kernel'] - y) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  losses = []
  for _ in range(30):
    params, state, value = step(params, state)
    losses.append(float(value))
  assert losses[-1] < 0.8 * losses[0]
  rounded = quantization.straight_through(params)['fc']['kernel']
  dead = ~np.asarray(masks['fc']['kernel'])
  assert not np.asarray(rounded).view(np.int32)[dead].any()
  twice = quantization.straight_through({'fc': {'kernel': rounded}})
  np.testing.assert_allclose(twice['fc']['kernel'], rounded, rtol=1e-6)


def test_gradients_pass_and_types_stay():
  params = {'kernel': jnp.asarray(KERNEL[0], jnp.bfloat16)}
  rounded = quantization.straight_through(params)
  assert rounded['kernel'].dtype == jnp.bfloat16
  weights = jnp.arange(192.0, dtype=jnp.bfloat16).reshape(64, 3)

  def loss(params):
    return (quantization.straight_through(params)['kernel'] * weights).sum()

  np.testing.assert_array_equal(jax.grad(loss)(params)['kernel'], weights)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda: quantization.int4(jnp.ones((6, 2)), group=4),
      'Groups of 4 inputs',
    ),
    (lambda: quantization.int8(jnp.ones((6, 2), int)), 'type int32, but must'),
    (lambda: quantization.int4(jnp.ones((6, 2)), group=0), '`group` was 0'),
    (lambda: quantization.int8(KERNEL[0], MASK[0, :3]), '`mask` has the shape'),
    (
      lambda: quantization.int4(KERNEL[0], KERNEL[0]),
      '`mask` must be a tree of',
    ),
    (lambda: quantization.quantize({'kernel': KERNEL}, 'int8'), "'int8', but"),
    (lambda: quantization.straight_through({'w': KERNEL}, 8), '`rule` was 8'),
    (
      lambda: quantization.quantize({'fc': {'kernel': jnp.ones((2, 2)) / 0}}),
      'fc/kernel has weights that are NaN or infinite',
    ),
  ],
)
def test_bad_input(call, message):
  with pytest.raises((TypeError, ValueError), match=re.escape(message)):
    call()
