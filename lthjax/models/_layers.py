"""Layers of transformers, whose sizes are those of their arrays.

No layer remembers a size, so that a network that was cut runs as it is.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lthjax.models import _config


class Project(nnx.Module):
  """A matmul, written as an einsum, and a bias.

  Args:
    equation: of the einsum, input first.
    shape: shape of the kernel.
    outputs: number of axes of the kernel, from the last, that count outputs.
    stack: number of axes, from the first, that count separate layers.
    bias: whether there is a bias.
    rngs: source of the weights.
  """

  def __init__(
    self,
    equation: str,
    shape: tuple[int, ...],
    outputs: int = 1,
    *,
    stack: int = 0,
    bias: bool = False,
    rngs: nnx.Rngs,
  ):
    self.equation = equation
    fan_in = math.prod(shape[stack : len(shape) - outputs])
    scale = fan_in**-0.5
    self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
    self.bias = nnx.Param(jnp.zeros(shape[-outputs:])) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes ``x @ kernel + bias``."""
    y = jnp.einsum(self.equation, x, self.kernel[...])
    return y if self.bias is None else y + self.bias[...]


class Embedding(nnx.Module):
  """One vector per token."""

  def __init__(self, count: int, width: int, *, rngs: nnx.Rngs):
    self.embedding = nnx.Param(
      0.02 * jax.random.normal(rngs.params(), (count, width))
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Looks vectors up."""
    return self.embedding[...][tokens]

  def attend(self, x: jax.Array) -> jax.Array:
    """Computes logits, in the place of a layer of their own."""
    return jnp.einsum('btd,vd->btv', x, self.embedding[...])


class RMSNorm(nnx.Module):
  """Divides by the root mean square, in float32."""

  def __init__(self, width: int, eps: float, *, rngs: nnx.Rngs):
    del rngs
    self.eps = eps
    self.scale = nnx.Param(jnp.ones(width))

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes the last axis."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
    return y.astype(x.dtype) * self.scale[...]


class LayerNorm(nnx.Module):
  """Subtracts the mean and divides by the deviation, in float32."""

  def __init__(self, width: int, eps: float, *, rngs: nnx.Rngs):
    del rngs
    self.eps = eps
    self.scale = nnx.Param(jnp.ones(width))
    self.bias = nnx.Param(jnp.zeros(width))

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes the last axis."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
    return y.astype(x.dtype) * self.scale[...] + self.bias[...]


def rotary(
  positions: jax.Array, head_dim: int, config: Any
) -> tuple[jax.Array, jax.Array] | None:
  """Computes cosines and sines, ``[batch, time, 1, head_dim / 2]``."""
  if not config.rotary:
    return None
  powers = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequencies = 1.0 / config.rope_theta**powers
  frequencies = _stretch(frequencies, dict(config.rope_scaling))
  angles = positions[..., None, None].astype(jnp.float32) * frequencies
  return jnp.cos(angles), jnp.sin(angles)


def _stretch(frequencies: jax.Array, scaling: dict[str, Any]) -> jax.Array:
  """Lowers frequencies for sequences that are longer than in training."""
  kind = _config.rope_type(scaling)
  if kind == 'default':
    return frequencies
  slow = frequencies / scaling['factor']
  if kind == 'linear':
    return slow
  # Llama 3: long waves are stretched, short ones are not, with a ramp between.
  low, high = scaling['low_freq_factor'], scaling['high_freq_factor']
  turns = scaling['original_max_position_embeddings'] * frequencies
  share = (turns / (2 * math.pi) - low) / (high - low)
  share = jnp.clip(share, 0.0, 1.0)
  return share * frequencies + (1 - share) * slow


def rotate(
  x: jax.Array, angles: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
  """Turns pairs of entries: those of the first and of the second half."""
  if angles is None:
    return x
  cos, sin = (a.astype(x.dtype) for a in angles)
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  allowed: jax.Array,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Computes attention, with several query heads to a key and value head.

  Args:
    query: ``[batch, time, heads, head_dim]``.
    key: ``[batch, places, key_value_heads, head_dim]``.
    value: as ``key``.
    allowed: bool ``[batch or 1, time or 1, places]``.
    bias: what is added to the scores, ``[batch or 1, heads or 1, time,
      places]``.

  Returns:
    Averages of the values, ``[batch, time, heads, head_dim]``.
  """
  batch, time, heads, head_dim = query.shape
  groups = key.shape[2]
  query = query.reshape(batch, time, groups, heads // groups, head_dim)
  scores = jnp.einsum('btgrk,bsgk->bgrts', query, key) * head_dim**-0.5
  scores = scores.astype(jnp.float32)
  if bias is not None:
    split = (groups, -1) if bias.shape[1] > 1 else (1, 1)
    bias = bias.reshape(len(bias), *split, *bias.shape[2:])
    scores = scores + bias.astype(jnp.float32)
  lowest = jnp.finfo(jnp.float32).min
  scores = jnp.where(allowed[:, None, None], scores, lowest)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  mixed = jnp.einsum('bgrts,bsgk->btgrk', weights, value)
  return mixed.reshape(batch, time, heads, value.shape[-1])
