"""Fisher information of channels: how the loss reacts to losing one."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import program
from lthjax.proxies import _inputs
from lthjax.proxies._inputs import Apply, Loss


def fisher(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
  *,
  loss: Loss = _inputs.cross_entropy,
) -> jax.Array:
  """Sums ``mean((sum(a * dL/da)) ** 2) / 2`` over all channels.

  The inner sum is over the positions of a channel, the mean over the examples.
  Activations a are outputs of matmuls and convolutions, before biases, which
  are zero at initialization; L is the loss of an example. For weights instead
  of channels, use `lthjax.scores.fisher`.

  For the arguments, see `lthjax.proxies`. Activations must have examples on the
  first axis; channels are on the last axis, or on the channel axis of a
  convolution.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> apply = lambda params, x: x @ params['kernel']
    >>> params = {'kernel': jnp.ones((1, 2))}
    >>> batch = jnp.array([[1.0], [3.0]]), jnp.zeros((2, 2))
    >>> loss = lambda y, labels: (y - labels).sum(1)  # dL/da is 1
    >>> proxies.fisher(apply, params, batch, loss=loss)  # 2 * (1 + 9) / 4
    Array(5., dtype=float32)

  References:
    Turner et al., BlockSwap: Fisher-guided Block Substitution for Network
    Compression on a Budget, arXiv:1906.04113, equation 4. Abdelfattah et al.,
    Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134, equation 2.
  """
  del key
  x, labels = _inputs.as_labelled(batch)
  _inputs.check_outputs(apply, params, x)
  mean_loss = _inputs.mean_loss(apply, loss)

  def visit(eqn, inputs, shift=0):
    (output,) = program.bind(eqn, inputs)
    if output.shape[:1] != x.shape[:1]:  # A product of params alone.
      return [output], None
    axis = _channel_axis(eqn)
    moved = jnp.moveaxis(output, axis, -1)
    # Examples x positions x channels, after an axis for each scan around.
    activation = moved.reshape(len(x), -1, moved.shape[-1])
    shifted = (activation + shift).reshape(moved.shape)
    return [jnp.moveaxis(shifted, -1, axis)], activation

  def run(shifts, params):
    """The sum of the losses, with a shift added to each activation."""
    total, activations = program.run(
      mean_loss, visits, params, (x, labels), feeds=shifts
    )
    return total * len(x), activations

  visits = dict.fromkeys(_MATMULS, visit)
  shapes = jax.eval_shape(lambda: run({}, params)[1])
  zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  # dL/da is the gradient with respect to a shift of a, taken at zero.
  grads, activations = jax.grad(run, has_aux=True)(zeros, params)
  pairs = zip(*map(jax.tree.leaves, (activations, grads)), strict=True)
  total = jnp.float32(0)
  for a, g in pairs:
    # Equation 4: sum over positions, square, and average over examples.
    change = jnp.sum(a.astype(jnp.float32) * g.astype(jnp.float32), -2)
    total += jnp.sum(jnp.mean(change**2, -2)) / 2
  return total


_MATMULS = ('conv_general_dilated', 'dot_general')


def _channel_axis(eqn) -> int:
  """Returns the axis of channels in the output of a matmul or convolution."""
  if eqn.primitive.name == 'conv_general_dilated':
    return eqn.params['dimension_numbers'].out_spec[1]
  return eqn.outvars[0].aval.ndim - 1
