"""Controls of a ticket: keeping all but one property of it, or only one.

A ticket has three properties: which weights are alive, and their initial signs
and magnitudes. A control keeps some of them. One keeps all three, and changes
the dead weights: they are not zero, but keep their initial values.
"""

import functools
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from lthjax import tickets
from lthjax.models import Model
from lthjax.training import TrainState

Control = Literal[
  'reinit',
  'shuffled',
  'shuffled_input',
  'one_shot',
  'one_shot_matched',
  'sign_preserved',
  'signed_constant',
  'random_signs',
  'reshuffled',
  'frozen',
]


# What they keep of sign, magnitude and mask, one by one.
PARTS: tuple[Control, ...] = (
  'reinit',
  'shuffled',
  'sign_preserved',
  'signed_constant',
  'random_signs',
  'reshuffled',
  'frozen',
)


class Arm(NamedTuple):
  """What is trained: a ticket, or a control."""

  label: str
  color: str
  sign: bool  # whether alive weights keep their signs
  magnitude: bool  # whether they keep their magnitudes
  mask: bool  # whether the same weights are alive


ARMS = {
  'ticket': Arm('winning ticket', '#1b6ca8', True, True, True),
  'sign_preserved': Arm(
    'new magnitudes, same signs', '#2a9d8f', True, False, True
  ),
  'signed_constant': Arm(
    'constant magnitude, same signs', '#9b5de5', True, False, True
  ),
  'random_signs': Arm(
    'same magnitudes, new signs', '#7f4f24', False, True, True
  ),
  'reshuffled': Arm(
    'values permuted within layers', '#e07a9b', False, False, True
  ),
  'reinit': Arm('random reinitialization', '#e9a03b', False, False, True),
  'shuffled': Arm('shuffled mask', '#c8553d', True, True, False),
  'shuffled_input': Arm(
    'mask shuffled at each input', '#8d3b2e', True, True, False
  ),
  'one_shot': Arm('pruned at once', '#4b4b8f', True, True, False),
  'one_shot_matched': Arm(
    'pruned at once, trained as long before', '#9b9bd0', True, True, False
  ),
  'frozen': Arm(
    'ticket, dead weights at their start', '#6c757d', True, True, True
  ),
}


def begin(
  name: Control,
  keys: chex.PRNGKey,
  start: TrainState,
  fresh: TrainState,
  masks: chex.ArrayTree,
  tx: optax.GradientTransformation,
) -> tuple[TrainState, chex.ArrayTree]:
  """Where a control of several runs side by side starts, and its masks.

  The ticket starts from ``start`` with ``masks``, and other seeds from
  ``fresh``; there is one key per run.
  """
  if name in ('shuffled', 'shuffled_input'):
    within = 'input' if name == 'shuffled_input' else 'layer'
    shuffle = functools.partial(lth.masks.shuffle, within=within)
    return start, jax.vmap(shuffle)(keys, masks)
  if name == 'frozen':
    # Initial values of dead weights, beside params that are zero there.
    zeros = jax.tree.map(jnp.zeros_like, start.params)
    frozen = tickets.with_frozen_dead(masks, zeros, start.params)
    return start._replace(model_state=(frozen, start.model_state)), masks
  params = {
    'reinit': lambda: fresh.params,
    'sign_preserved': lambda: tickets.sign_preserved(
      start.params, fresh.params, masks
    ),
    'signed_constant': lambda: jax.vmap(tickets.signed_constant)(
      start.params, masks
    ),
    'random_signs': lambda: jax.vmap(tickets.random_signs)(
      keys, start.params, masks
    ),
    'reshuffled': lambda: jax.vmap(tickets.reshuffle)(
      keys, start.params, masks
    ),
  }[name]()
  # New weights have no past: neither momentum nor batch statistics.
  return start._replace(
    params=params,
    model_state=fresh.model_state,
    opt_state=tickets.fresh_slots(tx, start.opt_state),
  ), masks


def largest(params: chex.ArrayTree, masks: chex.ArrayTree) -> chex.ArrayTree:
  """Masks of the largest weights of trained params: as many per layer."""

  def one(param, mask):
    if mask is None:
      return None
    return lth.keep_largest(jnp.abs(param), jnp.sum(mask))

  return jax.vmap(lambda p, m: jax.tree.map(one, p, m))(params, masks)


def beside_frozen(network: Model) -> Model:
  """A network that adds constant values, part of its state, to its params.

  Params that a mask holds at zero are therefore these values.
  """

  def init(key):
    params, state = network.init(key)
    return params, (jax.tree.map(jnp.zeros_like, params), state)

  def apply(params, model_state, x, *, train=False):
    frozen, state = model_state
    params = jax.tree.map(jnp.add, params, frozen)
    outputs, state = network.apply(params, state, x, train=train)
    return outputs, (frozen, state)

  return Model(init, apply)
