"""Schedules, by hand and at their ends."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax.schedules import cosine_drop_fraction, polynomial_sparsity


def test_polynomial_by_hand():
  # From 0.1 to 0.9 over steps 10 to 50: 0.9 - 0.8 * (1 - past)^3.
  sparsity = polynomial_sparsity(0.9, 10, 50, initial=0.1)
  expected = {
    0: 0.1,
    10: 0.1,
    20: 0.9 - 0.8 * 0.421875,
    30: 0.8,
    40: 0.9 - 0.8 * 0.015625,
    50: 0.9,
    10_000: 0.9,
  }
  found = jax.jit(jax.vmap(sparsity))(jnp.array(list(expected)))
  np.testing.assert_allclose(found, list(expected.values()), rtol=1e-6)
  line = polynomial_sparsity(0.8, 0, 4, power=1)
  found = [float(line(step)) for step in range(5)]
  np.testing.assert_allclose(found, [0, 0.2, 0.4, 0.6, 0.8], atol=1e-7)


def test_polynomial_never_falls():
  sparsity = jax.jit(jax.vmap(polynomial_sparsity(0.9, 0, 9999)))
  assert (np.diff(sparsity(jnp.arange(10_002))) >= 0).all()


def test_cosine_by_hand():
  drop = cosine_drop_fraction(0.4, 6)
  expected = [0.4, 0.2 + 0.2 * 3**0.5 / 2, 0.3, 0.2, 0.1]
  np.testing.assert_allclose([drop(t) for t in range(5)], expected, rtol=1e-6)
  assert float(drop(6)) == float(drop(1000)) == 0
  assert 0 <= jax.jit(drop)(jnp.int32(6)) < 1e-7


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: polynomial_sparsity(1.0, 0, 9),
      '`final` was 1.0, but must be in [0, 1)',
    ),
    (lambda: polynomial_sparsity(0.5, 0, 9, initial=-1), '`initial` was -1'),
    (
      lambda: polynomial_sparsity(0.5, 9, 9),
      '`end_step` was 9, but must come after `begin_step`, 9.',
    ),
    (
      lambda: cosine_drop_fraction(1.1, 9),
      '`drop_fraction` was 1.1, but must be in [0, 1]',
    ),
    (lambda: cosine_drop_fraction(float('nan'), 9), '`drop_fraction` was nan'),
    (lambda: cosine_drop_fraction(0.1, 0), '`stop_step` was 0, but must be'),
  ],
)
def test_out_of_range(make, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make()
