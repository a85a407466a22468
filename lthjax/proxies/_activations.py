"""NASWOT: whether examples switch on different units."""

from typing import Any

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import program
from lthjax.proxies import _checks
from lthjax.proxies._checks import Apply


def naswot(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
) -> jax.Array:
  """Takes ``log |det K|``: K counts the ReLUs on which two examples agree.

  The code of an example says of each ReLU of the network whether its input is
  positive; the entry of K for two examples is the number of ReLUs less the
  Hamming distance of their codes. Networks that give every example a region of
  its own have the largest determinants.

  A ReLU is whatever the model computes as the maximum with a literal zero:
  `jax.nn.relu`, `jax.nn.relu6`, ``jnp.maximum(x, 0)``, if examples are on its
  first axis. Other nonlinearities do not count.

  Args:
    apply: ``apply(params, x) -> outputs``.
    params: tree of arrays.
    batch: inputs, and labels or None.
    key: not used.

  Returns:
    A scalar; higher is held to be better. Minus infinity if two examples have
    the same code.

  Raises:
    ValueError: if the model has no ReLU or does not return a single array, or
      has them inside of a `jax.lax.while_loop` or a `jax.lax.cond`.

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
  x = _checks.as_batch(batch).x
  _checks.check_outputs(apply, params, x)

  def visit(eqn, inputs):
    outs, code = program.bind(eqn, inputs), None
    signals = [
      value
      for atom, value in zip(eqn.invars, inputs, strict=True)
      if not (isinstance(atom, jex.Literal) and atom.val == 0)
    ]
    if len(signals) == 1 and outs[0].shape[:1] == x.shape[:1]:
      code = (signals[0] > 0).reshape(len(x), -1)
    return outs, code

  _, notes = program.run(apply, {'max': visit}, params, x)
  # Inside scans, the turns of the loop are units as well.
  codes = [
    jnp.moveaxis(code, -2, 0).reshape(len(x), -1)
    for code in notes.values()
    if code is not None
  ]
  if not codes:
    raise ValueError(
      'The model has no ReLU, but `naswot` compares which of them are on. Use'
      ' another proxy, such as `jacob_cov`.'
    )
  on = jnp.concatenate(codes, 1).astype(jnp.float32)
  agree = on @ on.T + (1 - on) @ (1 - on).T
  return jnp.linalg.slogdet(agree)[1]
