"""What experts are worth, and which of them stay."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.experts._routing import Routing, check
from lthjax.selection import keep_largest


def reap(routing: Routing) -> dict[str, jax.Array]:
  """Scores an expert by what it adds for the tokens that are sent to it.

  The score is the mean, over these tokens, of the gate times the norm of the
  output. An expert that no token is sent to scores zero.

  Args:
    routing: from `lthjax.experts.routing`.

  Returns:
    ``{group: float32[loops.., experts]}``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> one = {'e': jnp.ones((), int)}
    >>> found = lth.experts.Routing(
    ...   {'e': jnp.array([2, 0])}, {'e': jnp.array([3.0, 0.0])}, one, one
    ... )
    >>> lth.experts.reap(found)
    {'e': Array([1.5, 0. ], dtype=float32)}

  References:
    Lasby et al., REAP the Experts, arXiv:2510.13999, equation 9, with gates
    that are normalized over the experts of a token.
  """
  check(routing)
  return {
    name: jnp.where(n > 0, routing.contributions[name] / jnp.maximum(n, 1), 0.0)
    for name, n in routing.counts.items()
  }


def frequency(routing: Routing) -> dict[str, jax.Array]:
  """Scores an expert by the share of tokens that are sent to it.

  Args:
    routing: from `lthjax.experts.routing`.

  Returns:
    ``{group: float32[loops.., experts]}``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> four = {'e': jnp.asarray(4)}
    >>> found = lth.experts.Routing(
    ...   {'e': jnp.array([2, 0])}, {'e': jnp.array([3.0, 0.0])}, four, four
    ... )
    >>> lth.experts.frequency(found)
    {'e': Array([0.5, 0. ], dtype=float32)}
  """
  check(routing)
  return {
    name: n / jnp.maximum(routing.tokens[name], 1)[..., None]
    for name, n in routing.counts.items()
  }


def keep(
  scores: Mapping[str, jax.Array], count: int, *, parts: int = 1
) -> dict[str, jax.Array]:
  """Keeps the experts with the highest scores in each layer.

  Args:
    scores: ``{group: floating-point [loops.., experts]}``.
    count: how many stay in each layer. Ties go to the lowest index.
    parts: where the router chooses among groups of consecutive experts first,
      their number: equally many stay in each.

  Returns:
    ``{group: bool [loops.., experts]}``, for `cut`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = {'e': jnp.array([1.0, 4.0, 3.0, 2.0])}
    >>> lth.experts.keep(scores, 2)['e'].tolist()
    [False, True, True, False]
  """
  _checks.mapping('scores', scores, 'groups of experts to scores')
  count = _checks.at_least('count', count, 1)
  parts = _checks.at_least('parts', parts, 1)
  refuse(
    [
      f'{name} is {_checks.describe(x)}'
      for name, x in scores.items()
      if not getattr(x, 'shape', ()) or trees.is_abstract(x)
    ],
    '`scores` must be an array `[loops.., experts]` for each group, but {}.',
    TypeError,
  )
  refuse(
    [
      f'{name} has {x.shape[-1]}'
      for name, x in scores.items()
      if x.shape[-1] % parts or count % parts or count > x.shape[-1]
    ],
    f'{count} experts in {parts} equal parts cannot be kept: {{}}. Keep fewer,'
    ' and equally many of each part.',
  )
  known = trees.concrete({n: jnp.any(jnp.isnan(x)) for n, x in scores.items()})
  refuse(
    [name for name, nan in (known or {}).items() if nan],
    'Scores are NaN in {}, and any choice by them would be arbitrary. Look for'
    ' NaN in the params and in the calibration data.',
  )
  found = {}
  for name, x in scores.items():
    split = x.reshape(*x.shape[:-1], parts, -1)
    kept = keep_largest(split, count // parts, axis=split.ndim - 1)
    found[name] = kept.reshape(x.shape)
  return found
