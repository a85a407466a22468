"""A space of small networks for images, with a choice for each part.

Patches of the image become positions with channels. Each layer mixes the
channels of a position and its neighbors, as a convolution does, but written as
a matmul of shifted copies, which XLA runs well in loops on a CPU and for
several networks side by side.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lthjax import models


class Network(NamedTuple):
  """The choices that make a network."""

  depth: int  # layers after the one that reads patches
  width: int  # channels
  kernel: int  # side of the neighborhood that a layer sees, odd
  patch: int  # side of the patches
  norm: bool  # whether each ReLU follows a BatchNorm
  skip: bool  # whether shortcuts bypass each layer

  @property
  def name(self) -> str:
    parts = (f'{field[0]}{int(x)}' for field, x in self._asdict().items())
    return '-'.join(parts)

  @property
  def shape(self) -> 'Network':
    """The same for all networks whose arrays have the same shapes."""
    return self._replace(skip=False)


def space(*choices: Sequence[Any]) -> list[Network]:
  """All combinations, each with and without norm and skip."""
  both = (False, True)
  return [Network(*x) for x in itertools.product(*choices, both, both)]


def fitted(
  network: Network, size: int, input_shape: tuple[int, int, int], classes: int
) -> Network:
  """The same choices with the width that brings about ``size`` weights."""
  pixels = network.patch**2 * input_shape[-1]
  # depth * (kernel * width)**2 + (pixels + classes) * width = size
  a, b = network.depth * network.kernel**2, pixels + classes
  width = (math.sqrt(b**2 + 4 * a * size) - b) / (2 * a)
  return network._replace(width=max(1, round(width)))


def build(
  network: Network, input_shape: tuple[int, int, int], classes: int
) -> models.Model:
  """Builds a network as a pair of pure functions."""
  height, width, channels = input_shape
  size = network.patch
  if height % size or width % size:
    raise ValueError(
      f'Images of {height} x {width} pixels cannot be cut into patches of'
      f' {size} x {size}. Choose a divisor of both.'
    )
  names = ['stem', *(f'layer{i}' for i in range(1, network.depth + 1))]

  def init(key):
    """Kaiming's Gaussian; the presence of shortcuts is a number, 0 or 1."""
    params, state = {}, {'skip': jnp.float32(network.skip)}
    layer = network.kernel, network.width
    *keys, last = jax.random.split(key, len(names) + 1)
    for name, layer_key in zip(names, keys, strict=True):
      seen = (size, channels) if name == 'stem' else layer
      params[name] = _dense(layer_key, seen[0] ** 2 * seen[1], network.width)
      if network.norm:
        params[name]['scale'] = jnp.ones(network.width)
        zeros = jnp.zeros(network.width)
        state[name] = {'mean': zeros, 'var': zeros + 1}
    params['output'] = _dense(last, network.width, classes)
    return params, state

  def apply(params, model_state, x, *, train=False):
    state = {'skip': model_state['skip']}

    def layer(name, x):
      p = params[name]
      h = x @ p['kernel']
      if network.norm:
        h, state[name] = _normalize(h, model_state[name], train)
        h *= p['scale']
      return jax.nn.relu(h + p['bias'])

    h = layer('stem', _patches(x, size))
    for name in names[1:]:
      below, h = h, layer(name, _neighbors(h, network.kernel))
      if h.shape == below.shape:  # Layers that lost channels have no shortcut.
        h += state['skip'] * below
    h = h.mean((1, 2))
    return h @ params['output']['kernel'] + params['output']['bias'], state

  return models.Model(init, apply)


def _dense(key, fan_in, fan_out):
  kernel = jax.random.normal(key, (fan_in, fan_out)) * (2 / fan_in) ** 0.5
  return {'kernel': kernel, 'bias': jnp.zeros(fan_out)}


def _normalize(h, running, train):
  """BatchNorm over examples and positions."""
  if not train:
    found = running
  else:
    found = {'mean': h.mean((0, 1, 2)), 'var': h.var((0, 1, 2))}
    running = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, running, found)
  return (h - found['mean']) * jax.lax.rsqrt(found['var'] + 1e-5), running


def _patches(x, size):
  n, height, width, channels = x.shape
  x = x.reshape(n, height // size, size, width // size, size, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], -1)


def _neighbors(h, kernel):
  """The channels of a position and of its neighbors, with zeros outside."""
  _, height, width, _ = h.shape
  margin = kernel // 2
  padded = jnp.pad(h, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
  return jnp.concatenate(
    [
      padded[:, i : i + height, j : j + width]
      for i in range(kernel)
      for j in range(kernel)
    ],
    axis=-1,
  )
