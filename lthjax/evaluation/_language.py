"""Language models: perplexity by domain, and flips on multiple choice."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks
from lthjax.evaluation import _inputs


def sequence_losses(
  apply: Callable[..., jax.Array],
  params: chex.ArrayTree,
  tokens: Any,
  *,
  token_mask: Any = None,
  batch_size: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
  """Sums the loss of the next token over each sequence.

  Args:
    apply: ``apply(params, tokens, token_mask)`` returns logits ``[batch, time,
      vocabulary]``; compiled once if it is the same function.
    params: of the decoder.
    tokens: integers ``[sequences, time]``.
    token_mask: bool of the same shape, false at pads.
    batch_size: how many sequences to compute at once.

  Returns:
    Sums of losses in nats and numbers of predicted tokens, ``[sequences]``
    each, for `perplexity_by_domain`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> uniform = lambda params, tokens, mask: jnp.zeros((*tokens.shape, 8))
    >>> tokens = jnp.array([[1, 2, 3], [4, 5, 6]])
    >>> losses, counts = lth.evaluation.sequence_losses(uniform, {}, tokens)
    >>> counts.tolist(), (losses / jnp.log(8)).round(3).tolist()
    ([2, 2], [2.0, 2.0])
  """
  _checks.function('apply', apply, '(params, tokens, token_mask)')
  tokens = jnp.asarray(_checks.array('tokens', tokens))
  if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
    wanted = 'be integers, [sequences, time]'
    raise _checks.wrong_type('tokens', tokens, wanted)
  mask = jnp.ones(tokens.shape, bool)
  if token_mask is not None:
    mask = jnp.asarray(_checks.array('token_mask', token_mask)).astype(bool)
  if mask.shape != tokens.shape:
    raise ValueError(
      f'`token_mask` has shape {mask.shape}, but the tokens have'
      f' {tokens.shape}. It needs one entry for each token.'
    )
  batch_size = _checks.at_least('batch_size', batch_size, 1)
  losses, counts = _losses(apply, params, tokens, mask, batch_size)
  return np.asarray(losses, np.float64), np.asarray(counts)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _losses(apply, params, tokens, mask, batch_size):

  def one(sequence):
    tokens, mask = sequence
    logits = apply(params, tokens[None], mask[None])[0, :-1]
    logits = logits.astype(jnp.float32)
    right = jnp.take_along_axis(logits, tokens[1:, None], -1)[:, 0]
    losses = jax.nn.logsumexp(logits, -1) - right
    counted = mask[1:] & mask[:-1]
    return jnp.sum(jnp.where(counted, losses, 0.0)), jnp.sum(counted)

  return jax.lax.map(one, (tokens, mask), batch_size=batch_size)


def perplexity_by_domain(
  losses: Any, counts: Any, domains: Any
) -> dict[Any, float]:
  """Computes the perplexity of each domain of texts.

  Args:
    losses: sums of losses in nats, ``[sequences]``.
    counts: numbers of predicted tokens, ``[sequences]``.
    domains: integers or strings, one for each sequence.

  Returns:
    ``{domain: perplexity}``, in order of the domains.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> losses, counts = np.log([4.0, 4.0, 8.0]), np.array([1, 1, 1])
    >>> found = lth.evaluation.perplexity_by_domain(
    ...   losses, counts, ['a', 'b', 'b']
    ... )
    >>> {name: round(x, 3) for name, x in found.items()}
    {'a': 4.0, 'b': 5.657}
  """
  sums = np.asarray(_checks.array('losses', losses), np.float64)
  n = np.asarray(_checks.array('counts', counts), np.float64)
  if sums.ndim != 1 or not len(sums) or n.shape != sums.shape:
    raise ValueError(
      f'`losses` and `counts` have shapes {sums.shape} and {n.shape}, but must'
      ' have one entry for each sequence.'
    )
  if not np.isfinite(sums).all() or (n < 0).any():
    raise ValueError(
      '`losses` must be finite and `counts` not negative. `sequence_losses`'
      ' returns both.'
    )
  domains = _inputs.groups(domains, len(sums), 'domains')
  found = {}
  for name in np.unique(domains).tolist():
    members = domains == name
    if not (total := n[members].sum()):
      raise ValueError(
        f'The domain {name!r} has no predicted token. Leave it out.'
      )
    found[name] = float(np.exp(sums[members].sum() / total))
  return found


class Flips(NamedTuple):
  """Answers to multiple choice that pruning turns.

  Attributes:
    rate: share of the questions whose answer turned from right to wrong or from
      wrong to right, which accuracy alone does not show.
    to_wrong: share that turned from right to wrong.
    to_right: share that turned from wrong to right.
    changed: share with another answer than before, right or wrong.
  """

  rate: float
  to_wrong: float
  to_right: float
  changed: float


def flips(scores: Any, dense: Any, answers: Any) -> Flips:
  """Counts answers to multiple choice that differ from the dense model's.

  Args:
    scores: log-likelihoods of the choices, ``[questions, choices]``; ``-inf``
      where a question has fewer.
    dense: those of the dense model.
    answers: integers ``[questions]``, the right choices.

  Returns:
    The `Flips`.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> dense = np.array([[0.0, -1.0], [0.0, -1.0], [-1.0, 0.0]])
    >>> pruned = np.array([[-1.0, 0.0], [0.0, -1.0], [0.0, -1.0]])
    >>> found = lth.evaluation.flips(pruned, dense, np.array([0, 0, 0]))
    >>> found.rate == 2 / 3, found.to_wrong == found.to_right == 1 / 3
    (True, True)

  References:
    Dutta et al., Accuracy is Not All You Need, arXiv:2407.09141, section 3.
  """
  a, b = (
    np.asarray(_checks.array(name, x), np.float64)
    for name, x in (('scores', scores), ('dense', dense))
  )
  if a.ndim != 2 or a.shape != b.shape or 0 in a.shape:
    raise ValueError(
      f'`scores` and `dense` have shapes {a.shape} and {b.shape}, but must both'
      ' be [questions, choices]. Ask both models the same questions.'
    )
  if (
    not ((a < np.inf) & (b < np.inf)).all()
    or not (np.isfinite(a).any(-1) & np.isfinite(b).any(-1)).all()
  ):
    raise ValueError(
      '`scores` and `dense` must be log-likelihoods, without NaN or inf, and'
      ' with at least one finite choice for each question.'
    )
  y = _inputs.labels(answers, a, 'answers')
  mine, before = a.argmax(-1), b.argmax(-1)
  now, then = mine == y, before == y
  rates = (now != then, then & ~now, now & ~then, mine != before)
  return Flips(*(float(x.mean()) for x in rates))
