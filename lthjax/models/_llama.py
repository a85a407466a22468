"""Decoders of the Llama family: Llama, Qwen2, Qwen3, SmolLM2, and mixtures."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.export
import jax.numpy as jnp
from flax import nnx

from lthjax import _checks
from lthjax.models import _layers, _moe, _tokens
from lthjax.models._config import LlamaConfig, LlamaMoEConfig
from lthjax.models._functional import functional
from lthjax.models._layers import Embedding, Project, RMSNorm


class Cache(NamedTuple):
  """Keys and values of the tokens so far.

  Attributes:
    keys: ``[layers, batch, places, key_value_heads, head_dim]``, rotated.
    values: as ``keys``.
    valid: bool ``[batch, places]``, which places hold a token.
    used: number of places that are taken, pads included.
  """

  keys: jax.Array
  values: jax.Array
  valid: jax.Array
  used: jax.Array


class Decoder(NamedTuple):
  """A decoder as pure functions over a plain nested dict of params.

  Attributes:
    init: ``init(key)`` draws params.
    apply: ``apply(params, tokens, token_mask=None, bias=None)`` returns logits
      ``[batch, time, vocabulary]`` of the next tokens. ``tokens`` are integers
      ``[batch, time]``; where ``token_mask``, of the same shape, is false is a
      pad, which no token attends to. ``bias``, floats ``[batch, time, time]``
      or ``[batch, heads, time, time]``, is added to the attention scores of
      every layer: -inf closes an edge from a query to a key. It is data: other
      values compile nothing.
    hidden: as ``apply``, but returns the normalized last hidden states
      ``[batch, time, width]``.
    init_cache: ``init_cache(params, batch, places)`` makes an empty `Cache`.
    decode: ``decode(params, tokens, cache, token_mask=None)`` continues the
      sequences of a cache, and returns logits and the next cache. A cache
      without room is an error; under a trace, its logits are NaN.
    embed: ``embed(params, tokens)`` returns what enters the first block,
      ``[batch, time, width]``.
    block: ``block(params, x, token_mask=None)`` computes one block from its own
      params, those of ``blocks`` without their first axis.
    unembed: ``unembed(params, x)`` returns the logits after the last block.
  """

  init: Callable[[jax.Array], Any]
  apply: Callable[..., jax.Array]
  hidden: Callable[..., jax.Array]
  init_cache: Callable[[chex.ArrayTree, int, int], Cache]
  decode: Callable[..., tuple[jax.Array, Cache]]
  embed: Callable[..., jax.Array]
  block: Callable[..., jax.Array]
  unembed: Callable[..., jax.Array]


class _Inputs(NamedTuple):
  """What a decoder reads; with hidden states, those after the last block."""

  tokens: jax.Array | None
  token_mask: jax.Array | None = None
  cache: Cache | None = None
  logits: bool = True
  bias: jax.Array | None = None
  hidden: Any = None


class Attention(nnx.Module):
  """Causal attention with rotary positions and grouped heads."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    width, dim = config.width, config.head_dim

    def into(heads):
      return Project(
        'btd,dhk->bthk', (width, heads, dim), 2, bias=config.qkv_bias, rngs=rngs
      )

    self.query = into(config.heads)
    self.key = into(config.key_value_heads)
    self.value = into(config.key_value_heads)
    self.out = Project(
      'bthk,hkd->btd',
      (config.heads, dim, width),
      bias=config.out_bias,
      rngs=rngs,
    )
    normed = config.query_key_norm
    norm = functools.partial(RMSNorm, dim, config.norm_eps, rngs=rngs)
    self.query_norm = norm() if normed else None
    self.key_norm = norm() if normed else None

  def __call__(self, x, angles, allowed, bias, places, start) -> Any:
    """Computes the layer, and the places of a cache after it."""
    query, key, value = self.query(x), self.key(x), self.value(x)
    if self.query_norm is not None and self.key_norm is not None:
      query, key = self.query_norm(query), self.key_norm(key)
    query = _layers.rotate(query, angles)
    key = _layers.rotate(key, angles)
    if places is not None:
      key, value = (
        jax.lax.dynamic_update_slice_in_dim(
          old, new.astype(old.dtype), start, 1
        )
        for old, new in zip(places, (key, value), strict=True)
      )
      places = key, value
    return self.out(_layers.attend(query, key, value, allowed, bias)), places


class Block(nnx.Module):
  """Attention and an MLP, each behind a norm and around a skip."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config.width, config.norm_eps, rngs=rngs)
    self.attention = Attention(config, rngs=rngs)
    self.mlp_norm = RMSNorm(config.width, config.norm_eps, rngs=rngs)
    self.mlp = _moe.mlp(config, rngs=rngs)

  def __call__(self, x, angles, allowed, bias, places, start):
    """Computes the block, and the places of a cache after it."""
    y, places = self.attention(
      self.attention_norm(x), angles, allowed, bias, places, start
    )
    x = x + y
    return x + self.mlp(self.mlp_norm(x)), places


class _LoneBlock(Block):
  """A block that works out places and angles by itself."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    super().__init__(config, rngs=rngs)
    self.config = config

  def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, inputs: tuple[jax.Array, jax.Array | None], *, train: bool = False
  ) -> jax.Array:
    """Computes the block."""
    del train
    x, mask = inputs
    positions, allowed, _ = _places(x, mask, None)
    head_dim = self.attention.key.kernel.shape[-1]
    angles = _layers.rotary(positions, head_dim, self.config)
    return super().__call__(x, angles, allowed, None, None, None)[0]


class Llama(nnx.Module):
  """Embedding, a stack of blocks, a norm, and logits."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.embed = Embedding(config.vocabulary, config.width, rngs=rngs)
    self.blocks = stack(Block, config, rngs=rngs)
    self.norm = RMSNorm(config.width, config.norm_eps, rngs=rngs)
    shape = config.width, config.vocabulary
    self.output = (
      None if config.tied else Project('btd,dv->btv', shape, rngs=rngs)
    )

  def __call__(self, inputs: _Inputs, *, train: bool = False):
    """Computes logits or hidden states, and the next cache."""
    del train
    tokens, mask, cache, logits, bias, x = inputs
    if tokens is None:
      return self._logits(self.norm(x)), None
    blocks: Any = self.blocks
    positions, allowed, valid = _places(tokens, mask, cache)
    head_dim = blocks.attention.key.kernel.shape[-1]
    angles = _layers.rotary(positions, head_dim, self.config)
    start = None if cache is None else cache.used

    @nnx.scan(in_axes=(0, nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def run(block, x, places):
      return block(x, angles, allowed, bias, places, start)

    places = None if cache is None else (cache.keys, cache.values)
    x, places = run(blocks, self.embed(tokens), places)
    x = self.norm(x)
    if logits:
      x = self._logits(x)
    if cache is None or valid is None:
      return x, None
    keys, values = places
    return x, Cache(keys, values, valid, cache.used + tokens.shape[1])

  def _logits(self, x):
    return self.embed.attend(x) if self.output is None else self.output(x)


def stack(make: Callable[..., Any], config: Any, *, rngs: nnx.Rngs) -> Any:
  """Builds the blocks, stacked along the first axis of all arrays."""

  @nnx.split_rngs(splits=config.layers)
  @nnx.vmap(in_axes=0, out_axes=0)
  def build(rngs):
    return make(config, rngs=rngs)

  return build(rngs)


def _places(tokens, mask, cache):
  """Positions of the tokens, which places they attend to, and valid places."""
  time = tokens.shape[1]
  steps = jnp.arange(time)
  if cache is None:
    allowed = (steps[:, None] >= steps)[None]
    if mask is not None:
      allowed = allowed & mask[:, None, :]
    return steps[None], allowed, None
  if mask is None:
    mask = jnp.ones(tokens.shape, bool)
  # Pads take places, but no positions.
  before = jnp.sum(cache.valid, -1, keepdims=True)
  positions = before + jnp.cumsum(mask, -1) - 1
  valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, mask, cache.used, 1)
  causal = (cache.used + steps)[:, None] >= jnp.arange(valid.shape[1])
  return jnp.maximum(positions, 0), causal & valid[:, None, :], valid


def llama(config: LlamaConfig) -> Decoder:
  """Builds a decoder: Llama, Qwen2, Qwen3 or SmolLM2, by its config.

  Blocks are stacked along the first axis of ``blocks/...``, and run under
  `nnx.scan`, so that compile time does not grow with depth. Kernels are
  ``[in, heads, head_dim]``, ``[heads, head_dim, out]`` and ``[in, out]``. Sizes
  are read from the params: a network whose heads or neurons were cut runs with
  the config that it had before.

  Args:
    config: of the network, as `load_hf` and `load_gguf` return it.

  Returns:
    The network as a `Decoder`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import models
    >>> config = models.LlamaConfig(
    ...   vocabulary=32,
    ...   width=16,
    ...   layers=2,
    ...   heads=4,
    ...   key_value_heads=2,
    ...   head_dim=4,
    ...   mlp=24,
    ...   tied=True,
    ... )
    >>> model = models.llama(config)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> params['blocks']['attention']['query']['kernel'].shape
    (2, 16, 4, 4)
    >>> tokens = jnp.array([[1, 2, 3]])
    >>> jax.eval_shape(model.apply, params, tokens).shape
    (1, 3, 32)

  References:
    Touvron et al., LLaMA: Open and Efficient Foundation Language Models,
    arXiv:2302.13971, section 2.2; Su et al., RoFormer: Enhanced Transformer
    with Rotary Position Embedding, arXiv:2104.09864, equation 34, with the
    pairs in halves; Ainslie et al., GQA, arXiv:2305.13245.
  """
  if not isinstance(config, LlamaConfig) or isinstance(config, LlamaMoEConfig):
    raise TypeError(
      f'`llama` needs a `LlamaConfig`, but got {type(config).__name__}. For a'
      ' `LlamaMoEConfig` use `llama_moe`.'
    )
  return _decoder('llama', config)


def llama_moe(config: LlamaMoEConfig) -> Decoder:
  """Builds a decoder with a mixture of experts in each block.

  The gates of a token are the softmax over all experts, of which the largest
  are kept and, with ``renormalize``, scaled to sum to one. Every expert runs on
  all tokens, with zeros for those that are not sent to it, which is exact and
  simple, and costs what a dense MLP of all neurons costs. The values ``gate``
  and ``expert_output`` have these names, as `jax.ad_checkpoint.checkpoint_name`
  gives them.

  Args:
    config: of the network.

  Returns:
    The network as a `Decoder`.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> config = models.LlamaMoEConfig(
    ...   vocabulary=32,
    ...   width=16,
    ...   layers=2,
    ...   heads=4,
    ...   key_value_heads=2,
    ...   head_dim=4,
    ...   mlp=8,
    ...   experts=4,
    ...   experts_per_token=2,
    ...   shared_mlp=8,
    ... )
    >>> params = jax.eval_shape(
    ...   models.llama_moe(config).init, jax.random.key(0)
    ... )
    >>> params['blocks']['mlp']['experts']['up']['kernel'].shape
    (2, 4, 16, 8)

  References:
    Jiang et al., Mixtral of Experts, arXiv:2401.04088, section 2.1; Dai et al.,
    DeepSeekMoE, arXiv:2401.06066, section 3.2 (shared experts).
  """
  if not isinstance(config, LlamaMoEConfig):
    raise TypeError(
      '`llama_moe` needs a `LlamaMoEConfig`, but got'
      f' {type(config).__name__}. For a `LlamaConfig` use `llama`.'
    )
  return _decoder('llama_moe', config)


def _decoder(name: str, config: LlamaConfig) -> Decoder:
  """Wraps the module into pure functions."""
  net = functional(lambda rngs: Llama(config, rngs=rngs))
  lone = functional(lambda rngs: _LoneBlock(config, rngs=rngs))

  def call(params, *inputs) -> Any:
    return net.apply(params, {}, _Inputs(*inputs))[0]

  def init(key):
    return net.init(key)[0]

  def run(params, tokens, token_mask, logits, bias):
    tokens, mask = _tokens.check(name, params, tokens, token_mask)
    bias = _tokens.check_bias(name, params, tokens, mask, bias)
    return call(params, tokens, mask, None, logits, bias)[0]

  def apply(params, tokens, token_mask=None, bias=None):
    return run(params, tokens, token_mask, True, bias)

  def hidden(params, tokens, token_mask=None, bias=None):
    return run(params, tokens, token_mask, False, bias)

  def init_cache(params, batch, places):
    if not jax.export.is_symbolic_dim(batch):
      batch = _checks.at_least('batch', batch, 0)
    places = _checks.at_least('places', places, 1)
    attention = params['blocks']['attention']
    key, value = attention['key']['kernel'], attention['value']['kernel']
    shape = (key.shape[0], batch, places)
    return Cache(
      jnp.zeros((*shape, *key.shape[-2:]), key.dtype),
      jnp.zeros((*shape, *value.shape[-2:]), value.dtype),
      jnp.zeros((batch, places), bool),
      jnp.zeros((), jnp.int32),
    )

  def decode(params, tokens, cache, token_mask=None):
    tokens, mask = _tokens.check(name, params, tokens, token_mask)
    _tokens.check_room(tokens, cache)
    logits, after = call(params, tokens, mask, cache)
    full = after.used > after.valid.shape[1]
    return jnp.where(full, jnp.nan, logits), after

  def embed(params, tokens):
    tokens, _ = _tokens.check(name, params, tokens, None)
    return jnp.asarray(params['embed']['embedding'])[tokens]

  def block(params, x, token_mask=None):
    return lone.apply(params, {}, (x, token_mask))[0]

  def unembed(params, x):
    return call(params, None, None, None, True, None, x)[0]

  return Decoder(init, apply, hidden, init_cache, decode, embed, block, unembed)
