"""Checks of tokens, before a network looks them up."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import trees


def check(
  name: str, params: Any, tokens: Any, token_mask: Any
) -> tuple[jax.Array, jax.Array | None]:
  """Returns tokens and their mask as arrays, or raises."""
  tokens = jnp.asarray(tokens)
  if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(
      f'`{name}` was given tokens of shape {tokens.shape} and type'
      f' {tokens.dtype}, but needs integers of shape (batch, time). For one'
      ' sequence, use `tokens[None]`.'
    )
  _check_range(name, params, tokens)
  return tokens, check_mask(tokens, token_mask)


def check_mask(tokens: jax.Array, token_mask: Any) -> jax.Array | None:
  """Returns the mask of tokens as bools, or raises."""
  if token_mask is None:
    return None
  mask = jnp.asarray(token_mask)
  if mask.shape != tokens.shape:
    raise ValueError(
      f'`token_mask` has shape {mask.shape}, but the tokens have shape'
      f' {tokens.shape}. It needs one entry for each token, true where it is'
      ' not a pad.'
    )
  return mask.astype(bool)


def _check_range(name: str, params: Any, tokens: jax.Array) -> None:
  """Raises if a token has no embedding; traced tokens are not looked at."""
  if trees.is_traced(tokens) or not tokens.size:
    return
  try:
    embed = params['embed']
    count = embed.get('token', embed)['embedding'].shape[0]
  except (AttributeError, KeyError, TypeError):
    return  # Params of another structure are refused later, by name.
  with jax.ensure_compile_time_eval():  # Something else may be traced.
    low, high = int(tokens.min()), int(tokens.max())
  if low < 0 or high >= count:
    raise ValueError(
      f'`{name}` was given tokens from {low} to {high}, but its embedding has'
      f' the {count} tokens from 0 to {count - 1}. Use the tokenizer that'
      ' belongs to these params.'
    )


def check_bias(
  name: str,
  params: Any,
  tokens: jax.Array,
  token_mask: jax.Array | None,
  bias: Any,
) -> jax.Array | None:
  """Returns a bias as ``[batch, heads or 1, time, time]``, or raises."""
  if bias is None:
    return None
  bias = jnp.asarray(bias)
  (batch, time), heads = tokens.shape, _heads(params)
  shapes = [(batch, time, time)]
  shapes += [(batch, heads, time, time)] if heads else []
  if not jnp.issubdtype(bias.dtype, jnp.floating) or bias.shape not in shapes:
    raise ValueError(
      f'`{name}` was given a bias of shape {bias.shape} and type {bias.dtype},'
      f' but needs floats of shape {" or ".join(map(str, shapes))}. For a mask'
      ' of bools, use `jnp.where(mask, 0.0, -jnp.inf)`.'
    )
  bias = bias if bias.ndim == 4 else bias[:, None]
  known = trees.concrete({'bias': bias, 'mask': token_mask})
  if known is not None:
    _check_open(name, known['bias'], known['mask'])
  return bias


def _heads(params: Any) -> int | None:
  """Number of heads of the params, if they are those of a decoder."""
  try:
    return params['blocks']['attention']['query']['kernel'].shape[-2]
  except (AttributeError, KeyError, TypeError):
    return None  # Refused later, by name.


def _check_open(name: str, bias: Any, token_mask: Any) -> None:
  """Raises on values that no softmax can take, and on rows all closed."""
  if np.isnan(bias).any() or (bias == np.inf).any():
    raise ValueError(
      f'`{name}` was given a bias with NaN or inf, but every entry must be'
      ' finite, or -inf to close an edge.'
    )
  time = bias.shape[-1]
  earlier = np.tri(time, dtype=bool)[None, None]
  if token_mask is not None:
    # What pads attend to does not matter.
    earlier = earlier & token_mask[:, None, None, :]
    bias = np.where(token_mask[:, None, :, None], bias, 0.0)
    earlier = earlier | ~token_mask[:, None, :, None]
  closed = ~((bias > -np.inf) & earlier).any(-1)
  if closed.any():
    row, _, place = np.argwhere(closed)[0]
    raise ValueError(
      f'`{name}` was given a bias that closes all edges of token {place} of'
      f' sequence {row}, but each token needs one to itself or before. Open'
      ' the diagonal.'
    )


def check_room(tokens: jax.Array, cache: Any) -> None:
  """Raises if a cache has no room for more tokens; a traced one may not."""
  batch, places = cache.valid.shape
  if tokens.shape[0] != batch:  # `len` takes no symbolic shapes.
    raise ValueError(
      f'The cache is one for {batch} sequences, but tokens of'
      f' {tokens.shape[0]} were given. Make another with `init_cache(params,'
      ' batch, places)`.'
    )
  known = trees.concrete({'used': cache.used})
  used = 0 if known is None else int(known['used'])
  if used + tokens.shape[1] > places:
    raise ValueError(
      f'The cache has {places} places, of which {used} are used, but'
      f' {tokens.shape[1]} more tokens were given. Make a longer one with'
      ' `init_cache(params, batch, places)`.'
    )


def check_types(tokens: jax.Array, token_types: Any) -> jax.Array | None:
  """Returns the segments of tokens as an array, or raises."""
  if token_types is None:
    return None
  types = jnp.asarray(token_types)
  if types.shape != tokens.shape or not jnp.issubdtype(
    types.dtype, jnp.integer
  ):
    raise ValueError(
      f'`token_types` has shape {types.shape} and type {types.dtype}, but must'
      f' be integers of the shape {tokens.shape} of the tokens.'
    )
  return types


def check_length(name: str, params: Any, tokens: jax.Array) -> None:
  """Raises if there are more tokens than learned positions."""
  try:
    places = params['embed']['position']['embedding'].shape[0]
  except (AttributeError, KeyError, TypeError):
    return
  if tokens.shape[1] > places:
    raise ValueError(
      f'`{name}` was given sequences of {tokens.shape[1]} tokens, but its'
      f' params have {places} positions. Cut the sequences into parts.'
    )
