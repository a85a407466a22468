"""Batches: which examples a step sees, and what happens to their pixels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_but

from lthjax import data

_KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnames=('batch_size', 'size'))
def _draw(key, steps, *, batch_size, size):
  return jax.vmap(
    lambda step: data.epoch_indices(key, step, batch_size=batch_size, size=size)
  )(steps)


def _epoch(key, epoch, *, batch_size, size):
  """All indices of one epoch, in the order the training loop sees them."""
  steps = size // batch_size
  drawn = _draw(
    key, epoch * steps + jnp.arange(steps), batch_size=batch_size, size=size
  )
  return np.asarray(drawn).ravel()


# Which examples a step sees.


@pytest.mark.parametrize(
  'size',
  slow_but([1, 2, 3, 4, 5, 100, 1297, 4096, 55_000], [1, 5, 1297]),
)
def test_an_epoch_visits_every_example_once(size):
  order = _epoch(_KEY, 3, batch_size=1, size=size)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_the_largest_array_does_not_overflow():
  size = 2**31 - 1
  draw = jax.jit(
    lambda step: data.epoch_indices(_KEY, step, batch_size=50_000, size=size)
  )
  last = np.concatenate([draw(0), draw(size // 50_000 - 1)])
  assert last.min() >= 0
  assert last.max() < size
  assert len(np.unique(last)) == 100_000


def test_the_remainder_of_an_epoch_is_another_one_each_time():
  epochs = [_epoch(_KEY, e, batch_size=30, size=100) for e in range(20)]
  for order in epochs:
    assert len(np.unique(order)) == 90
  left_out = {tuple(np.setdiff1d(np.arange(100), order)) for order in epochs}
  assert len(left_out) == 20


def test_epochs_and_keys_have_different_orders():
  orders = [
    tuple(_epoch(jax.random.key(seed), epoch, batch_size=10, size=50))
    for seed in range(5)
    for epoch in range(5)
  ]
  assert len(set(orders)) == 25


def test_indices_match_a_permutation_worked_out_in_python():
  size, batch_size, step = 1257, 60, 47
  steps = size // batch_size
  round_keys = [
    int(k)
    for k in jax.random.bits(
      jax.random.fold_in(_KEY, step // steps), (24,), jnp.uint32
    )
  ]

  def scramble(x):
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
    return x ^ (x >> 16)

  def permute(x):
    for key in round_keys:
      partner = (key - x) % size
      if scramble(max(x, partner) ^ key) >= 2**31:
        x = partner
    return x

  first = step % steps * batch_size
  expected = [permute(first + i) for i in range(batch_size)]
  found = data.epoch_indices(_KEY, step, batch_size=batch_size, size=size)
  assert found.tolist() == expected


@pytest.mark.parametrize('size', [7, 36, 50])
def test_every_position_and_pair_of_positions_is_uniform(size):
  """Chi-square over 20,000 keys, within five deviations of what is expected."""
  keys = jax.random.split(_KEY, 20_000)
  draw = jax.vmap(
    lambda key: data.epoch_indices(key, 0, batch_size=size, size=size)
  )
  orders = np.asarray(jax.jit(draw)(keys))

  def deviation(cells, count):
    expected, freedom = len(keys) / count, count - 1
    counts = np.bincount(cells, minlength=count)
    square = ((counts - expected) ** 2 / expected).sum()
    return (square - freedom) / math.sqrt(2 * freedom)

  first = orders[:, 0]
  for position in (0, 1, size // 2, size - 1):
    assert abs(deviation(orders[:, position], size)) < 5
  for position in (1, size // 2, size - 1):
    other = orders[:, position]
    pair = first * (size - 1) + other - (other > first)
    assert abs(deviation(pair, size * (size - 1))) < 5


def test_a_step_may_be_traced_and_compiles_once():
  traces = []

  @jax.jit
  def draw(key, step):
    traces.append(step)
    return data.epoch_indices(key, step, batch_size=8, size=20)

  for step in range(6):
    expected = data.epoch_indices(_KEY, step, batch_size=8, size=20)
    np.testing.assert_array_equal(draw(_KEY, step), expected)
    np.testing.assert_array_equal(draw(_KEY, jnp.int32(step)), expected)
  assert len(traces) <= 2  # A Python int is weakly typed, an int32 is not.


def test_indices_map_over_keys_and_scan_over_steps():
  keys = jax.random.split(_KEY, 3)

  def draw(key, step):
    return data.epoch_indices(key, step, batch_size=4, size=10)

  def body(step, _):
    return step + 1, jax.vmap(draw, in_axes=(0, None))(keys, step)

  _, drawn = jax.lax.scan(body, jnp.int32(0), length=5)
  for step in range(5):
    for i, key in enumerate(keys):
      np.testing.assert_array_equal(drawn[step, i], draw(key, step))


def test_old_style_keys_draw_the_same():
  for key in (_KEY, jax.random.key_data(_KEY)):
    found = data.epoch_indices(key, 5, batch_size=4, size=10)
    np.testing.assert_array_equal(
      found, data.epoch_indices(_KEY, 5, batch_size=4, size=10)
    )


@pytest.mark.parametrize('batch_size', [0, -3, 11])
def test_a_batch_that_does_not_fit_is_refused(batch_size):
  with pytest.raises(ValueError, match='must be from 1 to 10'):
    data.epoch_indices(_KEY, 0, batch_size=batch_size, size=10)


def test_a_batch_is_a_pure_function_of_key_and_step():
  split = data.Split(
    images=jnp.arange(20, dtype=jnp.uint8)[:, None, None, None],
    labels=jnp.arange(20, dtype=jnp.int32),
  )
  take = jax.jit(lambda key, step: data.batch(split, key, step, batch_size=6))
  for step in (0, 1, 2, 3, 50):
    images, labels = data.batch(split, _KEY, step, batch_size=6)
    again = take(_KEY, step)
    assert images.shape == (6, 1, 1, 1)
    assert images.dtype == jnp.uint8
    np.testing.assert_array_equal(images.ravel(), labels)
    np.testing.assert_array_equal(again.images, images)
    np.testing.assert_array_equal(again.labels, labels)
    np.testing.assert_array_equal(
      labels, data.epoch_indices(_KEY, step, batch_size=6, size=20)
    )


# What happens to the pixels.


def test_normalize_is_worked_out_a_channel():
  images = jnp.array([[[[0, 255], [51, 102]]]], jnp.uint8)
  found = jax.jit(data.normalize)(
    images, jnp.array([0.5, 0.2]), jnp.array([0.25, 0.1])
  )
  assert found.dtype == jnp.float32
  expected = [[[[-2.0, 8.0], [-1.2, 2.0]]]]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_crops_and_flips_are_those_of_the_padded_image():
  count, pad, shape = 400, 2, (5, 4, 3)
  image = np.arange(1, 61, dtype=np.uint8).reshape(shape)
  images = jnp.broadcast_to(image, (count, *shape))
  found = data.random_crop_flip(_KEY, images, pad=pad)
  assert found.shape == images.shape
  assert found.dtype == jnp.uint8

  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  candidates = {}
  for top in range(2 * pad + 1):
    for left in range(2 * pad + 1):
      crop = padded[top : top + 5, left : left + 4]
      candidates[crop.tobytes()] = top, left, False
      candidates[crop[:, ::-1].tobytes()] = top, left, True
  assert len(candidates) == 50
  seen = [candidates[np.asarray(x).tobytes()] for x in found]
  assert len(set(seen)) == 50  # 400 draws miss one of 50 with p = 0.015.
  assert 150 < sum(flip for _, _, flip in seen) < 250


def test_augmentation_without_padding_only_mirrors():
  images = jax.random.bits(_KEY, (64, 8, 8, 3), jnp.uint8)
  found = data.random_crop_flip(_KEY, images, pad=0)
  same = (found == images).all((1, 2, 3))
  mirrored = (found == images[:, :, ::-1]).all((1, 2, 3))
  assert (same ^ mirrored).all()
  assert 10 < same.sum() < 54


@pytest.mark.slow
def test_augmentation_jits_and_maps_over_keys():
  images = jax.random.bits(_KEY, (3, 4, 8, 8, 1), jnp.uint8)
  keys = jax.random.split(_KEY, 3)
  mapped = jax.jit(jax.vmap(data.random_crop_flip))(keys, images)
  for key, x, found in zip(keys, images, mapped, strict=True):
    np.testing.assert_array_equal(found, data.random_crop_flip(key, x))


def test_a_negative_pad_is_refused():
  with pytest.raises(ValueError, match='`pad` was -1, but must be from 0'):
    data.random_crop_flip(_KEY, jnp.zeros((1, 4, 4, 1), jnp.uint8), pad=-1)
