"""Text from decoders, and how well they predict it."""

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax.models import _tokens
from lthjax.models._llama import Decoder


def generate(
  model: Decoder,
  params: chex.ArrayTree,
  tokens: jax.Array,
  new_tokens: int,
  *,
  temperature: float = 0.0,
  key: jax.Array | None = None,
  token_mask: jax.Array | None = None,
  stop: int | None = None,
) -> jax.Array:
  """Continues sequences, with a cache of keys and values.

  Args:
    model: the decoder.
    params: its params.
    tokens: integers ``[batch, time]``.
    new_tokens: how many tokens to add.
    temperature: 0 takes the most likely token; above, tokens are drawn with
      logits divided by it.
    key: source of the draws, which a temperature above 0 needs.
    token_mask: bool ``[batch, time]``, false at pads, on either side.
    stop: a token after which a sequence repeats that token.

  Returns:
    The new tokens, int32 ``[batch, new_tokens]``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import models
    >>> model = models.llama(
    ...   models.LlamaConfig(
    ...     vocabulary=32,
    ...     width=16,
    ...     layers=2,
    ...     heads=4,
    ...     key_value_heads=2,
    ...     head_dim=4,
    ...     mlp=24,
    ...   )
    ... )
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0))
    >>> params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
    >>> models.generate(model, params, jnp.array([[1, 2, 3]]), 4).shape
    (1, 4)
  """
  new_tokens = _checks.at_least('new_tokens', new_tokens, 1)
  temperature = _checks.not_negative('temperature', temperature)
  if temperature and key is None:
    raise ValueError(
      f'`generate` draws tokens at temperature={temperature} and needs a key,'
      ' such as `key=jax.random.key(0)`.'
    )
  tokens, mask = _tokens.check('generate', params, tokens, token_mask)
  tokens = tokens.astype(jnp.int32)  # Small types do not hold all new tokens.
  if mask is None:
    mask = jnp.ones(tokens.shape, bool)
  if not tokens.shape[1]:
    raise ValueError(
      f'`generate` was given tokens of shape {tokens.shape}, but continues'
      ' sequences of at least one.'
    )
  if not trees.is_traced(mask) and not bool(mask.any(-1).all()):
    raise ValueError(
      '`token_mask` leaves a sequence without tokens. Give each at least one.'
    )
  stop = -1 if stop is None else _checks.at_least('stop', stop, 0)
  key = key if temperature else None
  return _generate(
    model, params, tokens, mask, key, temperature, new_tokens, stop
  )


@functools.partial(jax.jit, static_argnames=('model', 'new_tokens'))
def _generate(model, params, tokens, mask, key, temperature, new_tokens, stop):
  batch, time = tokens.shape
  cache = model.init_cache(params, batch, time + new_tokens)
  logits, cache = model.decode(params, tokens, cache, mask)
  last = time - 1 - jnp.argmax(mask[:, ::-1], -1)
  logits = jnp.take_along_axis(logits, last[:, None, None], 1)[:, 0]

  def choose(logits, step):
    if key is None:
      return jnp.argmax(logits, -1).astype(tokens.dtype)
    drawn = jax.random.categorical(
      jax.random.fold_in(key, step), logits.astype(jnp.float32) / temperature
    )
    return drawn.astype(tokens.dtype)

  def step(carry, number):
    token, cache = carry
    logits, cache = model.decode(params, token[:, None], cache)
    following = choose(logits[:, 0], number)
    following = jnp.where(token == stop, token, following)
    return (following, cache), token

  first = choose(logits, 0)
  (last, _), tokens = jax.lax.scan(
    step, (first, cache), jnp.arange(1, new_tokens)
  )
  return jnp.concatenate([tokens, last[None]]).T


def perplexity(
  apply: Any,
  params: chex.ArrayTree,
  tokens: jax.Array,
  *,
  token_mask: jax.Array | None = None,
  batch_size: int = 1,
) -> float:
  """Computes the exponential of the mean loss of the next token.

  The first token of each sequence is not predicted, nor are pads.

  Args:
    apply: ``apply(params, tokens, token_mask)`` returns logits.
    params: of the decoder.
    tokens: integers ``[sequences, time]``.
    token_mask: bool of the same shape, false at pads.
    batch_size: how many sequences to compute at once.

  Returns:
    The perplexity.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import models
    >>> uniform = lambda params, tokens, mask: jnp.zeros((*tokens.shape, 8))
    >>> round(models.perplexity(uniform, {}, jnp.array([[1, 2, 3]])), 4)
    8.0
  """
  tokens, mask = _tokens.check('perplexity', params, tokens, token_mask)
  if mask is None:
    mask = jnp.ones(tokens.shape, bool)
  batch_size = _checks.at_least('batch_size', batch_size, 1)
  losses, count = _losses(apply, params, tokens, mask, batch_size)
  if not count:
    raise ValueError(
      f'`perplexity` was given tokens of shape {tokens.shape}, but needs a'
      ' sequence of at least two that are not pads.'
    )
  return math.exp(float(losses) / int(count))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _losses(apply, params, tokens, mask, batch_size):
  """Sums losses and counts predicted tokens."""

  def one(sequence):
    tokens, mask = sequence
    logits = apply(params, tokens[None], mask[None])[0, :-1]
    logits = logits.astype(jnp.float32)
    right = jnp.take_along_axis(logits, tokens[1:, None], -1)[:, 0]
    losses = jax.nn.logsumexp(logits, -1) - right
    counted = mask[1:] & mask[:-1]
    return jnp.sum(jnp.where(counted, losses, 0.0)), jnp.sum(counted)

  sums = jax.lax.map(one, (tokens, mask), batch_size=batch_size)
  return jax.tree.map(jnp.sum, sums)
