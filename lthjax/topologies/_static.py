"""Masks that never move."""

from typing import Any, NamedTuple

import optax

from lthjax import _sharding
from lthjax._sparsify import Topology, sparsify
from lthjax.topologies import _start


class FixedState(NamedTuple):
  """State of `fixed`.

  Attributes:
    masks: which weights are alive.
  """

  masks: Any


def fixed(masks: _start.Masks) -> Topology:
  """Keeps the given masks.

  The masks become part of the optimizer state. Other masks can be put there
  with `lthjax.set_masks`, without compiling anything again.

  Args:
    masks: tree of masks, or a function of params that returns one, such as
      `lthjax.random_masks`. Masks are copied, so that donating the optimizer
      state does not delete them.

  Returns:
    A topology for `lthjax.sparsify`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> topology = lth.topologies.fixed({'w': jnp.array([[True, False]])})
    >>> topology.init({'w': jnp.ones((1, 2))}).masks
    {'w': Array([[ True, False]], dtype=bool)}
  """

  # Copied into the state: donating it must not delete the caller's masks.
  def init_fn(params):
    first = _start.evaluate(masks, params)
    return FixedState(_sharding.copy_into(params, first))

  return Topology(init_fn)


def static(
  inner: optax.GradientTransformation, masks: _start.Masks
) -> optax.GradientTransformationExtraArgs:
  """Trains the weights that the masks keep; holds all others at zero.

  With `lthjax.random_masks` this is the baseline of sparse training from
  scratch: a random network whose masks never move.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    masks: tree of masks that fits the params, or a function of params that
      returns one.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[3.0, -1.0, 2.0, 0.5]])}
    >>> masks = lth.masks.full(params)
    >>> masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
    >>> tx = lth.static(optax.sgd(1.0), masks)
    >>> grads = {'w': jnp.ones((1, 4))}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> optax.apply_updates(params, updates)['w']
    Array([[2., 0., 1., 0.]], dtype=float32)
    >>> draw = lth.random_masks(jax.random.key(0), sparsity=0.75)
    >>> lth.masks.count(
    ...   lth.get_masks(lth.static(optax.sgd(1.0), draw).init(params))
    ... )
    1

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section
    2; Evci et al., Rigging the Lottery: Making All Tickets Winners,
    arXiv:1911.11134, section 4 ("Static").
  """
  return sparsify(inner, fixed(masks))
