"""Losses for networks that learn from others."""

import jax
import jax.numpy as jnp

from lthjax import _checks


def distillation(
  student: jax.Array,
  teacher: jax.Array,
  *,
  temperature: float = 1.0,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Computes how far the student's distribution is from the teacher's.

  That is ``T^2 KL(softmax(teacher / T) || softmax(student / T))``, averaged
  over all axes but the last. The factor keeps gradients of one size; for a
  large T they become ``(student - teacher) / classes``, both centered. No
  gradient reaches the teacher. Where both agree, the loss and its gradient are
  zero.

  Args:
    student: logits ``[..., classes]``.
    teacher: logits of the same shape.
    temperature: T, what logits are divided by.
    weights: of the terms of the average, ``[...]``, such as a mask of tokens.

  Returns:
    A scalar in float32.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> float(lth.losses.distillation(logits, logits + 5.0, temperature=2.0))
    0.0

  References:
    Hinton et al., Distilling the Knowledge in a Neural Network,
    arXiv:1503.02531, section 2.1.
  """
  temperature = _checks.positive('temperature', temperature)
  _check_shapes('distillation', student, teacher)
  student, teacher = (
    x.astype(jnp.float32) / temperature
    for x in (student, jax.lax.stop_gradient(teacher))
  )
  return temperature**2 * _mean(_divergence(student, teacher), weights)


def cosine(
  student: jax.Array, teacher: jax.Array, *, weights: jax.Array | None = None
) -> jax.Array:
  """Computes one minus the cosine of hidden states, averaged.

  No gradient reaches the teacher. A vector of zeros counts as a right angle.

  Args:
    student: hidden states ``[..., width]``.
    teacher: of the same shape.
    weights: of the terms of the average, ``[...]``.

  Returns:
    A scalar in float32.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> float(lth.losses.cosine(jnp.array([3.0, 0.0]), jnp.array([0.0, 2.0])))
    1.0
  """
  _check_shapes('cosine', student, teacher)
  student, teacher = (
    _direction(x.astype(jnp.float32))
    for x in (student, jax.lax.stop_gradient(teacher))
  )
  return _mean(1.0 - jnp.sum(student * teacher, -1), weights)


@jax.custom_jvp
def _divergence(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The divergence of the student's softmax from the teacher's."""
  target, guess = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
  # Classes of probability zero add nothing, also where both are masked.
  terms = jnp.exp(target) * (target - guess)
  return jnp.sum(jnp.where(jnp.isneginf(target), 0.0, terms), -1)


@_divergence.defjvp
def _(primals, tangents):
  # By hand: with probabilities whose sum is 1 + 1e-7, the derivative of the
  # lines above is not zero where the two agree.
  student, teacher = primals
  slope = jax.nn.softmax(student) - jax.nn.softmax(teacher)
  return _divergence(student, teacher), jnp.sum(slope * tangents[0], -1)


def _direction(x: jax.Array) -> jax.Array:
  """Divides by the norm; zeros stay zeros, with a gradient of zero."""
  squares = jnp.sum(x * x, -1, keepdims=True)
  alive = squares > 0
  return jnp.where(
    alive, x * jax.lax.rsqrt(jnp.where(alive, squares, 1.0)), 0.0
  )


def _mean(terms: jax.Array, weights: jax.Array | None) -> jax.Array:
  """A weighted mean; zero if all weights are."""
  if weights is None:
    return jnp.mean(terms)
  weights = jnp.asarray(weights)
  if weights.shape != terms.shape:
    raise ValueError(
      f'`weights` has shape {weights.shape}, but must have {terms.shape}: that'
      ' of the logits or hidden states without their last axis.'
    )
  weights = weights.astype(jnp.float32)
  total = jnp.sum(jnp.where(weights != 0, weights * terms, 0.0))
  sums = jnp.sum(weights)
  return total / jnp.where(sums > 0, sums, 1.0)


def _check_shapes(name: str, student: jax.Array, teacher: jax.Array) -> None:
  """Raises unless both are arrays of one shape, with an axis to sum over."""
  for what, x in (('student', student), ('teacher', teacher)):
    if not isinstance(x, jax.Array):
      _checks.arrays(x, what)
  if student.shape != teacher.shape or not student.ndim:
    raise ValueError(
      f'`{name}` was given a student of shape {student.shape} and a teacher of'
      f' shape {teacher.shape}, but needs two of the same, with at least one'
      ' axis.'
    )
