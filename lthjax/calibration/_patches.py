"""Convolutions as matmuls: the patches of images that filters meet."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax.program._walk import shape

_LARGEST = 2**24  # Entries of patches that are made at a time.


def is_convolution(eqn: jex.JaxprEqn) -> bool:
  """Returns whether an equation is a convolution."""
  return eqn.primitive.name == 'conv_general_dilated'


def images(eqn: jex.JaxprEqn, inputs: Sequence[jax.Array]) -> jax.Array:
  """Returns padded and dilated images, ``[examples, channels, places..]``."""
  params = eqn.params
  x = inputs[0].astype(jnp.float32)
  x = x.transpose(params['dimension_numbers'].lhs_spec)
  pads = zip(params['padding'], params['lhs_dilation'], strict=True)
  config = [(0, 0, 0)] * 2 + [(low, high, d - 1) for (low, high), d in pads]
  return jax.lax.pad(x, jnp.float32(0), config)


def places(eqn: jex.JaxprEqn) -> tuple[int, ...]:
  """Returns how often a filter is applied along each spatial axis."""
  spec = eqn.params['dimension_numbers'].out_spec
  return tuple(shape(eqn.outvars[0])[axis] for axis in spec[2:])


def patches(eqn: jex.JaxprEqn, x: jax.Array) -> jax.Array:
  """Returns what the filters meet, ``[groups.., tokens, window x channels]``.

  There is an axis of groups only if there are several; tokens are examples and
  places. Entries are in the order of the canonical kernel.
  """
  params = eqn.params
  spec, out = params['dimension_numbers'].rhs_spec, places(eqn)
  window = [shape(eqn.invars[1])[axis] for axis in spec[2:]]
  steps = [*zip(params['rhs_dilation'], params['window_strides'], strict=True)]

  def taken(offset):
    starts = [i * d for i, (d, _) in zip(offset, steps, strict=True)]
    ends = [
      start + (number - 1) * stride + 1
      for start, number, (_, stride) in zip(starts, out, steps, strict=True)
    ]
    strides = (1, 1, *(stride for _, stride in steps))
    return jax.lax.slice(x, (0, 0, *starts), (*x.shape[:2], *ends), strides)

  every = [taken(offset) for offset in itertools.product(*map(range, window))]
  groups = params['feature_group_count']
  found = jnp.stack(every)  # [window, examples, channels, places..]
  found = found.reshape(len(every), len(x), groups, -1, math.prod(out))
  found = found.transpose(2, 1, 4, 0, 3)
  found = found.reshape(groups, len(x) * math.prod(out), -1)
  return found if groups > 1 else found[0]


def summed(
  eqn: jex.JaxprEqn,
  inputs: Sequence[jax.Array],
  stat: Callable[[jax.Array], Any],
  tokens: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Returns a statistic of all patches, a few examples at a time."""
  x = images(eqn, inputs)
  number, each = len(x), math.prod(places(eqn))
  if tokens is None:
    count = jnp.int32(number * each)
  else:
    count = jnp.sum(tokens, dtype=jnp.int32)
    tokens = tokens.reshape(number, each)

  def part(x, valid):
    seen = patches(eqn, x)
    if valid is not None:
      seen = jnp.where(valid.reshape(-1, 1), seen, 0.0)
    return stat(seen)

  size = math.prod(shape(eqn.invars[1])) * each
  size //= shape(eqn.invars[1])[eqn.params['dimension_numbers'].rhs_spec[0]]
  size *= eqn.params['feature_group_count']
  few = min(max(_LARGEST // max(size, 1), 1), number)
  turns = number // few
  split = jax.tree.map(
    lambda a: a[: turns * few].reshape(turns, few, *a.shape[1:]), (x, tokens)
  )
  like = jax.eval_shape(part, *jax.tree.map(lambda a: a[0], split))
  total, _ = jax.lax.scan(
    lambda total, each: (total + part(*each), None),
    jnp.zeros(like.shape, like.dtype),
    split,
  )
  if turns * few < number:
    total += part(*jax.tree.map(lambda a: a[turns * few :], (x, tokens)))
  return total, count
