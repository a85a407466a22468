"""Distillation: values and gradients worked out on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import losses

RNG = np.random.default_rng(0)
STUDENT = RNG.standard_normal((3, 5), np.float32)
TEACHER = RNG.standard_normal((3, 5), np.float32)


def by_hand(student, teacher, temperature):
  """Divergences of all rows, in float64."""
  p, q = (
    np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    for x in (
      np.float64(teacher) / temperature,
      np.float64(student) / temperature,
    )
  )
  return temperature**2 * (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_divergence_is_that_of_numpy(temperature):
  rows = by_hand(STUDENT, TEACHER, temperature)
  found = losses.distillation(
    jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature=temperature
  )
  assert float(found) == pytest.approx(rows.mean(), rel=1e-4)
  weights = jnp.array([1.0, 0.0, 3.0])
  found = losses.distillation(
    jnp.asarray(STUDENT), TEACHER, temperature=temperature, weights=weights
  )
  expected = (rows * [1, 0, 3]).sum() / 4
  assert float(found) == pytest.approx(expected, rel=1e-4)


def test_zero_at_equality_whatever_the_shift():
  grad = jax.value_and_grad(losses.distillation)
  value, slope = grad(jnp.asarray(TEACHER), jnp.asarray(TEACHER))
  assert float(value) == 0.0
  assert not np.asarray(slope).any()
  value, slope = grad(jnp.asarray(TEACHER) + 4.0, jnp.asarray(TEACHER))
  assert abs(float(value)) < 1e-6
  assert np.abs(slope).max() < 1e-6


def test_hot_gradients_are_differences_of_centered_logits():
  slope = jax.grad(losses.distillation)(
    jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature=1000.0
  )
  centered = [x - x.mean(-1, keepdims=True) for x in (STUDENT, TEACHER)]
  expected = (centered[0] - centered[1]) / 5 / 3
  np.testing.assert_allclose(slope, expected, atol=2e-4)


def test_teachers_and_masked_classes_have_no_gradient():
  masked = jnp.asarray(TEACHER).at[:, 0].set(-jnp.inf)
  student = jnp.asarray(STUDENT).at[:, 0].set(-jnp.inf)
  value, slopes = jax.value_and_grad(losses.distillation, (0, 1))(
    student, masked
  )
  rows = by_hand(STUDENT[:, 1:], TEACHER[:, 1:], 1.0)
  assert float(value) == pytest.approx(rows.mean(), rel=1e-4)
  assert not np.asarray(slopes[1]).any()
  assert not np.asarray(slopes[0])[:, 0].any()


def test_cosine():
  expected = 1 - (STUDENT * TEACHER).sum(-1) / (
    np.linalg.norm(STUDENT, axis=-1) * np.linalg.norm(TEACHER, axis=-1)
  )
  found = losses.cosine(jnp.asarray(STUDENT), jnp.asarray(TEACHER))
  assert float(found) == pytest.approx(expected.mean(), rel=1e-5)
  slope = jax.grad(losses.cosine)(jnp.zeros((1, 5)), jnp.asarray(TEACHER[:1]))
  assert np.isfinite(slope).all()


def test_shapes_are_checked():
  with pytest.raises(ValueError, match=r'student of shape \(3, 5\) and a teac'):
    losses.distillation(jnp.asarray(STUDENT), jnp.asarray(TEACHER[:2]))
  with pytest.raises(ValueError, match=r'`weights` has shape \(2,\)'):
    losses.cosine(
      jnp.asarray(STUDENT), jnp.asarray(TEACHER), weights=jnp.ones(2)
    )
  with pytest.raises(ValueError, match='`temperature` was 0'):
    losses.distillation(
      jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature=0
    )
