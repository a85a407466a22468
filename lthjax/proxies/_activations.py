"""NASWOT: whether different examples activate different units."""

from typing import Any

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import program
from lthjax.proxies import _inputs
from lthjax.proxies._inputs import Apply


def naswot(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
) -> jax.Array:
  """Computes ``log |det K|``, where K counts ReLUs on which examples agree.

  The code of an example has one bit per ReLU: whether its input is positive.
  The entry of K for two examples is the number of ReLUs minus the Hamming
  distance of their codes. Networks in which every example has its own code have
  the largest determinants.

  Every maximum with a literal zero is a ReLU, if examples are on the first
  axis: `jax.nn.relu`, `jax.nn.relu6`, ``jnp.maximum(x, 0)``. Other
  nonlinearities do not count.

  For the arguments, see `lthjax.proxies`; labels and key are not used.

  Returns:
    A scalar; higher is better. Minus infinity if two examples have the same
    code.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import proxies
    >>> apply = lambda params, x: jax.nn.relu(x)
    >>> x = jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])
    >>> jnp.exp(proxies.naswot(apply, None, (x, None)))  # 3 * 3 - 2 * 2
    Array(5., dtype=float32)

  References:
    Mellor et al., Neural Architecture Search without Training,
    arXiv:2006.04647, equations 2 and 3.
  """
  del key
  x = _inputs.as_batch(batch).x
  _inputs.check_outputs(apply, params, x)

  def visit(eqn, inputs):
    outs, code = program.bind(eqn, inputs), None
    # A maximum with a literal zero is a ReLU; the other operand is its input.
    signals = [
      value
      for atom, value in zip(eqn.invars, inputs, strict=True)
      if not (isinstance(atom, jex.Literal) and atom.val == 0)
    ]
    if len(signals) == 1 and outs[0].shape[:1] == x.shape[:1]:
      code = (signals[0] > 0).reshape(len(x), -1)
    return outs, code

  _, notes = program.run(apply, {'max': visit}, params, x)
  # The iterations of a scan are units as well.
  codes = [
    jnp.moveaxis(code, -2, 0).reshape(len(x), -1)
    for code in notes.values()
    if code is not None
  ]
  if not codes:
    raise ValueError(
      'The model has no ReLU, but `naswot` compares which ReLUs are on. Use'
      ' another proxy, such as `jacob_cov`.'
    )
  # Equation 2: K = N - Hamming distance, the ReLUs on which two examples agree.
  on = jnp.concatenate(codes, 1).astype(jnp.float32)
  agree = on @ on.T + (1 - on) @ (1 - on).T
  return jnp.linalg.slogdet(agree)[1]
