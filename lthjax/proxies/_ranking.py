"""Ranking of the candidates of a search space by a proxy."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax

from lthjax import _checks
from lthjax._errors import refuse

Proxy = Callable[..., jax.Array]


class Candidate(Protocol):
  """A network as two pure functions, such as `lthjax.models.Model`."""

  @property
  def init(self) -> Any:
    """``init(key)`` returns ``(params, model_state)``."""
    ...

  @property
  def apply(self) -> Any:
    """``apply(params, model_state, x, train=)``: outputs and new state."""
    ...


class Ranking(NamedTuple):
  """Candidates in order.

  Attributes:
    scores: ``{name: score}``, in the order they were given.
    order: names, best first; ties stay in the order they were given.
  """

  scores: dict[str, float]
  order: list[str]


def rank(
  candidates: Mapping[str, Candidate],
  proxy: Proxy,
  batch: Any,
  key: chex.PRNGKey,
  *,
  train: bool = False,
  samples: int = 1,
) -> Ranking:
  """Scores every candidate by a proxy and sorts them, best first.

  All candidates see the same batch and draw params with the same key.
  Candidates with the same program and the same shapes of params and model state
  share one compilation, whatever their values and however they were built.

  Args:
    candidates: ``{name: model}``, two or more.
    proxy: ``proxy(apply, params, batch, key)``, a scalar, higher is better: any
      of `lthjax.proxies`, perhaps with options bound by `functools.partial`.
    batch: inputs and labels.
    key: random key of the initial params, and of what the proxy draws.
    train: whether models run in training form, in which BatchNorm normalizes
      by the batch, as in the code of most papers; `lthjax.proxies.synflow`
      needs the inference form.
    samples: number of initial params over which scores are averaged.

  Returns:
    Scores and order.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> batch = jnp.ones((8, 4, 4, 1)), jnp.zeros(8, int)
    >>> candidates = {
    ...   'lenet': lth.models.lenet_300_100((4, 4, 1)),
    ...   'conv': lth.models.conv_2((4, 4, 1)),
    ... }
    >>> ranking = lth.rank(
    ...   candidates, lth.proxies.num_params, batch, jax.random.key(0)
    ... )
    >>> ranking.order
    ['conv', 'lenet']

  References:
    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134.
  """
  _checks.mapping('candidates', candidates, 'names to models')
  _checks.function('proxy', proxy, 'proxy(apply, params, batch, key)')
  _checks.key('key', key)
  train = _checks.flag('train', train)
  _checks.at_least('len(candidates)', len(candidates), 2)
  why = 'each of them is scored'
  samples = _checks.between('samples', samples, 1, 100_000, why)
  draws = [jax.random.split(k) for k in jax.random.split(key, samples)]
  programs: dict[Any, jax.stages.Compiled] = {}
  scores = {}
  for name, candidate in candidates.items():
    _checks.having(name, candidate, 'init apply', 'a `lthjax.models.Model`')
    args = [(*candidate.init(k), batch, proxy_key) for k, proxy_key in draws]
    lowered = _lower(name, candidate, proxy, train, args[0])
    # The text has constants, and shapes of what is read.
    shapes = tuple(str(x) for x in jax.tree.leaves(lowered.in_avals))
    program = lowered.in_tree, shapes, lowered.as_text()
    if program not in programs:
      programs[program] = lowered.compile()
    found = [float(programs[program](*arrays)) for arrays in args]
    scores[name] = sum(found) / samples
  refuse(
    (name for name, score in scores.items() if math.isnan(score)),
    'The scores of {} are NaN. Check the batch and the initial params, or leave'
    ' these candidates out.',
  )
  # `sorted` is stable: ties stay in the order given.
  order = sorted(scores, key=lambda name: -scores[name])
  return Ranking(scores, order)


def _lower(name, candidate, proxy, train, args) -> jax.stages.Lowered:
  """Traces the score of a candidate as a function of arrays."""

  def score(params, model_state, batch, key):
    def apply(params, x):
      return candidate.apply(params, model_state, x, train=train)[0]

    value = proxy(apply, params, batch, key)
    if jax.numpy.shape(value):
      raise ValueError(
        f'the proxy returned an array of shape {value.shape}, but must return a'
        ' scalar'
      )
    return value

  try:
    return jax.jit(score).lower(*args)
  except (TypeError, ValueError) as error:
    raise ValueError(f'The candidate {name} has no score: {error}') from error
