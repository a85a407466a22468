"""SynFlow: how much of the flow through the network passes a weight."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from lthjax.program._scaled import evaluate, power_of_two
from lthjax.scores import _checks
from lthjax.scores._snip import product

_IN_RANGE = 64  # Flows up to two to this power are given as they are.


def synflow(
  apply: Callable[[chex.ArrayTree, jax.Array], jax.Array],
  params: chex.ArrayTree,
  input_shape: tuple[int, ...],
) -> chex.ArrayTree:
  """Scores a weight by the flow through it, without any data: ``w * dR/dw``.

  R is the sum of the outputs for an input of ones when all params are replaced
  by their absolute values, biases and the scales of normalizations included. In
  a network without biases, or with biases that are still zero, the scores of
  every layer sum to R. Prune with it in many steps (`lthjax.prune_iteratively`)
  and no layer is emptied before the others.

  A flow beyond 2^64, as it is after a dozen wide layers, or below 2^-64, is
  scaled into this range by a power of two. That changes no order and no ratio,
  and needs no other precision: forwards and backwards, the numbers are near one
  in networks of any depth, with or without shortcuts.

  Args:
    apply: ``apply(params, x)``, which returns a single array. BatchNorm must be
      in inference form, such as ``lambda params, x: model.apply(params,
      model_state, x)[0]`` with a ``model_state`` from initialization. Custom
      rules for its derivatives are not used. It is compiled once, as long as
      the same function is passed.
    params: tree of arrays.
    input_shape: shape of one example, without the batch axis.

  Returns:
    Scores of the same structure and shapes, at least float32.

  Raises:
    ValueError: if the model does not take an input of this shape or does not
      return a single array; outside of transformations also if a score is not
      finite.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'fc1': jnp.array([[1.0, -2.0]]),
    ...   'fc2': jnp.array([[3.0], [-4.0]]),
    ... }
    >>> apply = lambda params, x: x @ params['fc1'] @ params['fc2']
    >>> scores = lth.scores.synflow(apply, params, (1,))
    >>> scores['fc1'].tolist(), scores['fc2'].tolist()  # R is 1*3 + 2*4
    ([[3.0, 8.0]], [[3.0], [8.0]])

  References:
    Tanaka et al., Pruning neural networks without any data by iteratively
    conserving synaptic flow, arXiv:2006.05467, equation 2 and algorithm 1.
  """
  shape = (1, *map(int, input_shape))
  _checks.check_outputs(apply, params, jax.ShapeDtypeStruct(shape, jnp.float32))
  return _checks.check_finite(_flow(apply, params, shape), 'SynFlow')


@functools.partial(jax.jit, static_argnums=(0, 2))
def _flow(apply, params, shape):
  positive = jax.tree.map(jnp.abs, params)
  x = jnp.ones(shape, jnp.float32)

  def flow(positive):
    total = evaluate(lambda p: jnp.sum(apply(p, x)), positive)
    return total.value, total.exponent

  grads, exponent = jax.grad(flow, has_aux=True)(positive)
  scale = power_of_two(jnp.clip(exponent, -_IN_RANGE, _IN_RANGE))
  return jax.tree.map(lambda s: s * scale, product(positive, grads))
