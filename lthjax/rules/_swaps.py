"""Better masks, by exchanging a kept weight for a pruned one."""

import functools

import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.calibration import stats
from lthjax.rules._refit import apply_inner, check_rule
from lthjax.rules._rule import Pruned, Rule

_TOGETHER = 2**24  # Pairs of weights looked at in one go.


def swaps(rule: Rule, *, most: int = 50) -> Rule:
  """Prunes by a rule, then exchanges weights while the error of outputs falls.

  Weights keep their values, also after a rule that updates them; `refit` can
  follow. Each output keeps its number of weights, and N:M holds.

  Args:
    rule: any rule.
    most: the most exchanges per output.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> rule = lth.rules.refit(lth.rules.swaps(lth.rules.wanda(0.5)))
    >>> rule.needs.__name__
    'gram'

  References:
    Zimmer et al., SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale,
    arXiv:2512.10922.
  """
  options = {
    'rule': check_rule(rule),
    'most': _checks.at_least('most', most, 0),
  }
  return Rule(_prune, rule.target, stats.gram, False, tuple(options.items()))


def swap(
  kernel: jax.Array,
  keep: jax.Array,
  gram: jax.Array,
  *,
  most: int = 50,
  m: int | None = None,
  alive: jax.Array | None = None,
) -> jax.Array:
  """Exchanges kept weights for pruned ones, the best pair of an output first.

  Args:
    kernel: dense kernel ``[inputs, outputs]``.
    keep: bool, of its shape.
    gram: ``[inputs, inputs]``.
    most: the most exchanges per output.
    m: exchange only within groups of ``m`` inputs, a divisor of their number.
    alive: weights that may come back; all by default.

  Returns:
    The new mask.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> gram = jnp.array([[1.0, -0.8, 0.0], [-0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> kernel = jnp.array([[1.0], [1.2], [0.9]])
    >>> keep = jnp.array([[False], [True], [False]])
    >>> lth.rules.swap(kernel, keep, gram).ravel()
    Array([False, False,  True], dtype=bool)
  """
  kernel, keep, gram = map(jnp.asarray, (kernel, keep, gram))
  alive = jnp.ones_like(keep) if alive is None else jnp.asarray(alive)
  if m is not None and len(gram) % m:
    raise ValueError(
      f'`m` was {m}, but must divide the {len(gram)} inputs. Pass a divisor, or'
      ' leave `m` out.'
    )
  one = functools.partial(_output, gram=gram, m=m or len(gram), most=most)
  batch = max(min(_TOGETHER // max(gram.size, 1), kernel.shape[1]), 1)
  new = jax.lax.map(
    lambda each: one(*each), (kernel.T, keep.T, alive.T), batch_size=batch
  )
  return new.T


def _prune(kernel, gram, alive, target, ratio, rule, most) -> Pruned:
  found = apply_inner(rule, kernel, gram, alive, ratio)
  m = target.pattern.m if target.pattern else None
  keep = swap(kernel, found.keep, gram, most=most, m=m, alive=alive)
  return found._replace(keep=keep, kernel=None)


def _output(w, keep, alive, gram, m, most):
  """Exchanges weights of one output while its error falls."""
  own = jnp.square(w) * jnp.diagonal(gram)
  groups = jnp.arange(len(w)).reshape(-1, m)
  # Inputs may only be exchanged for those of their group: [groups, m, m].
  near = gram[groups[:, :, None], groups[:, None, :]]

  def best(keep, errors):
    # Of going u and coming p: what they change, and what they share.
    going = jnp.where(keep, own + 2 * w * errors, jnp.inf)
    coming = jnp.where(~keep & alive, own - 2 * w * errors, jnp.inf)
    v = w[groups]
    change = coming[groups][:, None, :] - 2 * v[..., None] * v[:, None] * near
    # The least of each row first: the place of the least of all is slow.
    change_of = going + change.min(-1).ravel()
    u = jnp.argmin(change_of)
    p = u // m * m + jnp.argmin(change[u // m, u % m])
    return change_of[u], u, p

  def unfinished(state):
    number, _, _, (change, _, _) = state
    return (number < most) & (change < 0)

  def exchange(state):
    number, keep, errors, (_, u, p) = state
    errors = errors + gram[:, u] * w[u] - gram[:, p] * w[p]
    keep = keep.at[u].set(False).at[p].set(True)
    return number + 1, keep, errors, best(keep, errors)

  errors = jnp.matmul(gram, jnp.where(keep, 0.0, w), precision='highest')
  start = 0, keep, errors, best(keep, errors)
  _, keep, *_ = jax.lax.while_loop(unfinished, exchange, start)
  return keep
