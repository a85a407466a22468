"""Training of a delta, with an optimizer state of its size."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.lota._delta import Delta, check, check_names


def packed(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Trains the values of a `lota.Delta`; Adam needs two numbers for each.

  The params of this transformation are the delta, and its gradients are those
  of the network, taken where the delta is added::

    grads = jax.grad(loss)(lth.lota.add(base, delta), batch)
    updates, state = tx.update(grads, state, delta)
    delta = optax.apply_updates(delta, updates)

  For optimizers that treat weights one by one this is `lthjax.frozen`, except
  that weight decay pulls to the base and not to zero, and so do norms of
  weights, as in `optax.lamb`.

  Args:
    inner: an optax transformation whose state has the same size for a matrix
      and for its entries in a row. Others, such as `optax.contrib.muon` and
      `optax.adafactor`, look at rows and columns, and are refused.

  Returns:
    A transformation whose ``update`` requires ``params``, a delta.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> delta = lth.lota.zeros({'w': jnp.array([[True, False, True]])})
    >>> tx = lth.packed(optax.sgd(0.5))
    >>> grads = {'w': jnp.array([[1.0, 2.0, 3.0]])}
    >>> updates, _ = tx.update(grads, tx.init(delta), delta)
    >>> optax.apply_updates(delta, updates).values
    {'w': Array([-0.5, -1.5], dtype=float32)}

  References:
    Panda et al., Lottery Ticket Adaptation: Mitigating Destructive Interference
    in LLMs, arXiv:2406.16797, section 3.
  """
  _checks.optimizer(inner)
  _check_elementwise(inner)
  inner = optax.with_extra_args_support(inner)

  def init_fn(params: Any) -> Any:
    if not jax.tree.leaves(params):  # `optax.tree.map_params` asks for slots.
      return inner.init(params)
    return inner.init(check(params).values)

  def update_fn(updates, state, params: Any = None, **extra_args):
    _checks.needs_params('packed', params)
    delta = check(params)
    grads = _gradients(updates, delta)
    values: Any
    values, state = inner.update(grads, state, delta.values, **extra_args)
    still = jax.tree.map(jnp.zeros_like, delta.indices)
    return Delta(values, still), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _gradients(grads: Any, delta: Delta) -> dict[str, jax.Array]:
  """Takes the gradients of a network at the places of a delta."""
  if isinstance(grads, Delta):
    return grads.values
  leaves = trees.by_name(grads)
  check_names(delta, leaves)
  return {
    name: jnp.ravel(leaves[name])
    .at[places]
    .get(mode='fill', fill_value=0)
    .astype(jnp.float32)
    for name, places in delta.indices.items()
  }


def _check_elementwise(inner: optax.GradientTransformation) -> None:
  """Raises if a state differs between a matrix and its entries in a row."""

  def sizes(*shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    state = jax.eval_shape(inner.init, {'x': x})
    return sorted(leaf.size for leaf in jax.tree.leaves(state))

  try:
    differ = sizes(256, 384) != sizes(256 * 384)
  except Exception:  # of any kind: it wants the params themselves
    return
  refuse(
    ['its state differs between a matrix and its entries in a row']
    if differ
    else [],
    'This optimizer does not treat weights one by one: {}. Train with'
    ' `lthjax.frozen(tx, masks)`, which keeps the shapes.',
  )
