"""SynFlow: the share of the flow through the network that passes a weight."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax._checks import integers
from lthjax.program._scaled import evaluate, power_of_two
from lthjax.scores import _checks
from lthjax.scores._snip import product

_IN_RANGE = 64  # Flows up to two to this power are not rescaled.


def synflow(
  apply: Callable[[chex.ArrayTree, jax.Array], jax.Array],
  params: chex.ArrayTree,
  input_shape: tuple[int, ...],
) -> Any:
  """Scores weights by the flow through them, without any data: ``w * dR/dw``.

  R is the sum of the outputs for an input of ones, with all params replaced by
  their absolute values, including biases and the scales of normalizations. In a
  network whose biases are zero, the scores of each layer sum to R. Pruned in
  many steps with `lthjax.prune_iteratively`, no layer is emptied before the
  others.

  A flow above 2^64, as after a dozen wide layers, or below 2^-64 is scaled into
  this range by a power of two, which changes no order and no ratio. Forward and
  backward, the numbers stay near one in networks of any depth, with or without
  shortcuts, so float32 is enough.

  Args:
    apply: ``apply(params, x)``, which returns a single array. BatchNorm must be
      in inference form: ``lambda params, x: model.apply(params, model_state,
      x)[0]`` with a ``model_state`` from initialization. Custom derivative
      rules are ignored. It is compiled once per function.
    params: tree of arrays.
    input_shape: shape of one example, without the batch axis.

  Returns:
    Scores of the same structure and shapes, at least float32.

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
  shape = (1, *integers('input_shape', input_shape))
  _checks.check_outputs(apply, params, jax.ShapeDtypeStruct(shape, jnp.float32))
  return _checks.check_finite(_flow(apply, params, shape), 'SynFlow')


@functools.partial(jax.jit, static_argnums=(0, 2))
def _flow(apply, params, shape):
  positive = jax.tree.map(jnp.abs, params)
  x = jnp.ones(shape, jnp.float32)

  # Equation 2: R is the sum of the outputs for ones, here R * 2**exponent.
  def flow(positive):
    total = evaluate(lambda p: jnp.sum(apply(p, x)), positive)
    return total.value, total.exponent

  grads, exponent = jax.grad(flow, has_aux=True)(positive)
  scale = power_of_two(jnp.clip(exponent, -_IN_RANGE, _IN_RANGE))
  return jax.tree.map(lambda s: s * scale, product(positive, grads))
