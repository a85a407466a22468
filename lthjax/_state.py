"""A topology, which `sparsify` is given, and the state that it keeps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import optax


class Topology(NamedTuple):
  """A few pure functions that choose the masks at the start and move them.

  The state of a topology is a NamedTuple with a field ``masks``: the weights
  that the network runs with. These train, and all others are held at zero. If
  the state has a field ``backward`` as well, params stay dense: the weights in
  ``backward`` train (`None` at a leaf trains all of it), and all others keep
  their values. The loss is then taken at `lthjax.forward_params`.

  Attributes:
    init: ``init(params) -> state``.
    move: ``move(state, params, grads, step) -> state`` with other masks, called
      at the steps that ``moves`` selects, with the gradients of all weights,
      dead ones included. `None` if masks never move.
    moves: ``moves(step) -> bool``, traced or not; steps are counted from 1.
    observe: ``observe(state, grads) -> state``, called at every step before
      masks move, to keep statistics of the gradients; `None` for nothing.
    penalize: ``penalize(state, grads, params) -> grads``, which adds to the
      gradients before the optimizer sees them; `None` adds nothing.
    applies_gradient: whether a step that moves masks also trains. If so, masks
      move by the weights as that step would train them, and then the step
      trains those that stay alive. If not, masks move instead, and neither the
      weights that stay alive nor anything in the optimizer's state changes.
    grows: whether ``move`` ever brings weights to life. These start to train
      at the next step, for which the state keeps a second tree of masks.
  """

  init: Callable[[optax.Params], Any]
  move: Callable[[Any, optax.Params, optax.Updates, jax.Array], Any] | None = (
    None
  )
  moves: Callable[[jax.Array], Any] = lambda step: False
  observe: Callable[[Any, optax.Updates], Any] | None = None
  penalize: Callable[[Any, optax.Updates, optax.Params], Any] | None = None
  applies_gradient: bool = False
  grows: bool = True


class SparsifyState(NamedTuple):
  """State of `sparsify`.

  Attributes:
    step: number of updates so far, int32.
    topology_state: state of the topology, with the masks.
    inner_state: state of the wrapped transformation.
    trained: masks of the weights that the last update trained; those that it
      brought to life are not among them. Where weights wait, ``(masks,
      backward)`` as they were for the last update. `None` if masks never grow.
  """

  step: chex.Array
  topology_state: Any
  inner_state: optax.OptState
  trained: chex.ArrayTree | None = None

  @property
  def keeps_dense(self) -> bool:
    """Whether weights outside the masks keep their values."""
    return hasattr(self.topology_state, 'backward')

  @property
  def freezes(self) -> bool:
    """Whether the network runs with all weights, of which only some train."""
    return self.keeps_dense and not jax.tree.leaves(self.topology_state.masks)
