"""The ways to find a network inside of random weights that are compared.

A method turns a network into one whose params are scores or logits. The weights
are part of its model state, which training hands on as it is.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

import lthjax as lth
from lthjax import supermasks
from lthjax.models import Model

MethodName = Literal[
  'dense', 'edge_popup_constant', 'edge_popup_kaiming', 'bernoulli'
]


class Frozen(NamedTuple):
  """Model state of a network under a supermask."""

  weights: chex.ArrayTree  # random
  model_state: chex.ArrayTree  # of the network itself
  key: chex.PRNGKey  # of the draw; training goes on from key to key


class Method(NamedTuple):
  """One way to find a supermask."""

  label: str
  color: str
  weights: Callable[..., Any]  # (key, params, kept), to choose from
  init: Callable[..., Any]  # (key, params), what trains
  run: Callable[..., Any]  # (weights, trained, key, kept), what runs
  masks: Callable[..., Any]  # (trained, key, kept), of the weights that run


def hidden(network: Model, method: Method, kept: float | None) -> Model:
  """Makes the network whose params choose among the weights of another.

  ``kept`` is the share of the weights to keep; `None` if the method learns it.
  """

  def init(key):
    key, weights_key, first_key = jax.random.split(key, 3)
    params, model_state = network.init(key)
    weights = method.weights(weights_key, params, kept)
    trained = method.init(first_key, params)
    return trained, Frozen(weights, model_state, weights_key)

  def apply(trained, frozen, x, *, train=False):
    weights, model_state, key = frozen
    if train:
      key, _ = jax.random.split(key)
    params = method.run(weights, trained, key, kept)
    outputs, model_state = network.apply(params, model_state, x, train=train)
    return outputs, Frozen(weights, model_state, key)

  return Model(init, apply)


def gain(
  network: Model, params: chex.ArrayTree, model_state: Any, images: jax.Array
) -> jax.Array:
  """Mean squared singular value of the Jacobian of outputs by inputs.

  At 1, signals keep their size on the way through a network, on average.
  """

  def outputs(image):
    return network.apply(params, model_state, image[None])[0][0]

  jacobians = jax.lax.map(jax.jacrev(outputs), images, batch_size=20)
  jacobians = jacobians.reshape(*jacobians.shape[:2], -1)
  values = min(jacobians.shape[1:])  # As many singular values as that.
  return jnp.sum(jacobians**2, axis=(1, 2)).mean() / values


def _edge_popup(label: str, color: str, weights: Any) -> Method:
  return Method(
    label,
    color,
    weights,
    supermasks.init_scores,
    lambda weights, scores, key, kept: supermasks.edge_popup(
      weights, scores, sparsity=1 - kept
    ),
    lambda scores, key, kept: supermasks.edge_popup_masks(
      scores, sparsity=1 - kept
    ),
  )


def _signed_constant(params: chex.ArrayTree) -> chex.ArrayTree:
  return lth.tickets.signed_constant(params, lth.masks.full(params))


METHODS: dict[MethodName, Method] = {
  'edge_popup_constant': _edge_popup(
    'edge-popup, signed constant',
    '#1b6ca8',
    lambda key, params, kept: supermasks.signed_kaiming_constant(params),
  ),
  'edge_popup_kaiming': _edge_popup(
    'edge-popup, scaled Kaiming',
    '#2a9d8f',
    lambda key, params, kept: supermasks.scaled_kaiming(
      key, params, sparsity=1 - kept
    ),
  ),
  'bernoulli': Method(
    'Bernoulli, rescaled, signed constant',
    '#c8553d',
    lambda key, params, kept: _signed_constant(params),
    lambda key, params: supermasks.init_logits(params),
    lambda weights, logits, key, kept: supermasks.bernoulli(
      weights, logits, key, rescale=True
    ),
    lambda logits, key, kept: supermasks.bernoulli_masks(logits, key),
  ),
}

# Masks of the trained network, over its initial weights.
CRITERIA = {
  'large_final': lambda final, initial: lth.scores.large_final(final),
  'large_final_same_sign': lth.scores.large_final_same_sign,
}
WEIGHTS = {
  'initial': lambda params: params,
  'signed_constant': _signed_constant,
}


def large(scores: chex.ArrayTree, kept: float) -> chex.ArrayTree:
  """Masks of the largest scores, with Zhou's rates.

  A round of pruning that leaves 0.8 of other layers leaves 0.9 of the last one.
  """
  last = kept ** (math.log(0.9) / math.log(0.8))
  return lth.prune(
    scores,
    lth.masks.full(scores),
    fraction={'output/*': 1 - last, '*': 1 - kept},
  )
