"""Growth of perturbations under supermasks, beside masks at random."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

import lthjax as lth


def chi(params: Any, masks: Any, images: jax.Array) -> dict[str, jax.Array]:
  """The growth of a squared perturbation through layers of LeNet-300-100.

  ``chi = sum_ij m_ij w_ij^2 E relu'(h_i)^2 / outputs``: for random masks of
  density d and weights of variance ``2 / (d * inputs)``, it is 1.

  Args:
    params: weights ``[inputs, outputs]`` by layer.
    masks: which of them are alive.
    images: examples, normalized.

  Returns:
    chi of the layers behind a ReLU: ``fc2`` and ``output``.
  """
  params = lth.masks.apply(masks, params)
  x, found = images.reshape(len(images), -1), {}
  for name in ('fc1', 'fc2', 'output'):
    kernel = params[name]['kernel']
    if name != 'fc1':
      open_share = (x > 0).mean(0)  # E relu'(h)^2
      found[name] = open_share @ (kernel**2).sum(1) / kernel.shape[1]
    x = jax.nn.relu(x @ kernel + params[name]['bias'])
  return found


def compare(
  keys: chex.PRNGKey, weights: Any, masks: Any, images: jax.Array
) -> dict[str, dict[str, list[float]]]:
  """chi per layer and seed, for masks and for those shuffled in each layer."""
  shuffled = jax.vmap(lth.masks.shuffle)(keys, masks)
  measure = jax.jit(jax.vmap(chi, in_axes=(0, 0, None)))
  return {
    name: {k: x.tolist() for k, x in measure(weights, m, images).items()}
    for name, m in (('edge-popup', masks), ('random masks', shuffled))
  }


def kept_squares(weights: Any, masks: Any) -> dict[str, list[float]]:
  """The mean square of kept weights over that of all, per layer and seed."""
  found = {}
  for name, layer in masks.items():
    keep, squares = layer['kernel'], weights[name]['kernel'] ** 2
    kept = jnp.where(keep, squares, 0).sum((1, 2)) / keep.sum((1, 2))
    found[name] = (kept / squares.mean((1, 2))).tolist()
  return found
