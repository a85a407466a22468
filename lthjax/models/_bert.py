"""Encoders of the BERT family, with a head for masked words."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lthjax.models import _layers, _tokens
from lthjax.models._config import BertConfig
from lthjax.models._functional import functional
from lthjax.models._layers import Embedding, LayerNorm, Project
from lthjax.models._llama import stack


class Encoder(NamedTuple):
  """An encoder as pure functions over a plain nested dict of params.

  Attributes:
    init: ``init(key)`` draws params.
    apply: ``apply(params, tokens, token_mask=None, token_types=None)`` returns
      logits of the token at each place, ``[batch, time, vocabulary]``. All
      three are ``[batch, time]``; where ``token_mask`` is false is a pad, which
      no token attends to.
    hidden: as ``apply``, but returns the last hidden states ``[batch, time,
      width]``.
  """

  init: Callable[[jax.Array], Any]
  apply: Callable[..., jax.Array]
  hidden: Callable[..., jax.Array]


class _Inputs(NamedTuple):
  """What an encoder reads."""

  tokens: jax.Array
  token_mask: jax.Array | None
  token_types: jax.Array | None
  logits: bool


class Embeddings(nnx.Module):
  """The sum of token, position and segment, normalized."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.width
    self.token = Embedding(config.vocabulary, width, rngs=rngs)
    self.position = Embedding(config.context, width, rngs=rngs)
    self.segment = Embedding(config.token_types, width, rngs=rngs)
    self.norm = LayerNorm(width, config.norm_eps, rngs=rngs)

  def __call__(self, tokens: jax.Array, types: jax.Array | None) -> jax.Array:
    """Embeds tokens."""
    positions = self.position.embedding[: tokens.shape[1]]
    segments = (
      self.segment.embedding[0] if types is None else self.segment(types)
    )
    return self.norm(self.token(tokens) + positions + segments)


class Attention(nnx.Module):
  """Attention to all places but pads."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width, heads, dim = config.width, config.heads, config.head_dim

    def into():
      return Project(
        'btd,dhk->bthk', (width, heads, dim), 2, bias=True, rngs=rngs
      )

    self.query, self.key, self.value = into(), into(), into()
    shape = heads, dim, width
    self.out = Project('bthk,hkd->btd', shape, bias=True, rngs=rngs)

  def __call__(self, x: jax.Array, allowed: jax.Array) -> jax.Array:
    """Computes the layer."""
    query, key, value = self.query(x), self.key(x), self.value(x)
    return self.out(_layers.attend(query, key, value, allowed))


class MLP(nnx.Module):
  """Two layers with the exact GELU between them."""

  def __init__(self, width: int, mlp: int, *, rngs: nnx.Rngs):
    self.up = Project('btd,df->btf', (width, mlp), bias=True, rngs=rngs)
    self.down = Project('btf,fd->btd', (mlp, width), bias=True, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes the layer."""
    return self.down(jax.nn.gelu(self.up(x), approximate=False))


class Block(nnx.Module):
  """Attention and an MLP, with a norm behind each sum."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width, eps = config.width, config.norm_eps
    self.attention = Attention(config, rngs=rngs)
    self.attention_norm = LayerNorm(width, eps, rngs=rngs)
    self.mlp = MLP(width, config.mlp, rngs=rngs)
    self.mlp_norm = LayerNorm(width, eps, rngs=rngs)

  def __call__(self, x: jax.Array, allowed: jax.Array) -> jax.Array:
    """Computes the block."""
    x = self.attention_norm(x + self.attention(x, allowed))
    return self.mlp_norm(x + self.mlp(x))


class Head(nnx.Module):
  """What turns hidden states into those that meet the token embedding."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width = config.width
    shape = width, width
    self.transform = Project('btd,de->bte', shape, bias=True, rngs=rngs)
    self.norm = LayerNorm(width, config.norm_eps, rngs=rngs)
    self.bias = nnx.Param(jnp.zeros(config.vocabulary))

  def __call__(self, x: jax.Array, embed: Embedding) -> jax.Array:
    """Computes logits."""
    x = jax.nn.gelu(self.transform(x), approximate=False)
    return embed.attend(self.norm(x)) + self.bias[...]


class Bert(nnx.Module):
  """Embeddings, a stack of blocks, and a head."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.embed = Embeddings(config, rngs=rngs)
    self.blocks = stack(Block, config, rngs=rngs)
    self.head = Head(config, rngs=rngs)

  def __call__(self, inputs: _Inputs, *, train: bool = False) -> jax.Array:
    """Computes logits or hidden states."""
    del train
    tokens, mask, types, logits = inputs
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    allowed = mask[:, None, :]

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def run(block, x):
      return block(x, allowed)

    x = run(self.blocks, self.embed(tokens, types))
    return self.head(x, self.embed.token) if logits else x


def bert(config: BertConfig) -> Encoder:
  """Builds BERT: norms behind the sums, exact GELU, a head for masked words.

  Blocks are stacked along the first axis of ``blocks/...`` and run under
  `nnx.scan`. The head shares its kernel with the token embedding. Sizes are
  read from the params, as in `llama`.

  Args:
    config: of the network, as `load_hf` returns it.

  Returns:
    The network as an `Encoder`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import models
    >>> model = models.bert(
    ...   models.BertConfig(
    ...     vocabulary=32,
    ...     width=16,
    ...     layers=2,
    ...     heads=4,
    ...     head_dim=4,
    ...     mlp=24,
    ...   )
    ... )
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> tokens = jnp.array([[1, 2, 3]])
    >>> jax.eval_shape(model.apply, params, tokens).shape
    (1, 3, 32)

  References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for
    Language Understanding, arXiv:1810.04805, section 3.
  """
  if not isinstance(config, BertConfig):
    raise TypeError(
      f'`bert` needs a `BertConfig`, but got {type(config).__name__}.'
    )
  net = functional(lambda rngs: Bert(config, rngs=rngs))

  def init(key):
    return net.init(key)[0]

  def run(params, tokens, token_mask, token_types, logits):
    tokens, mask = _tokens.check('bert', params, tokens, token_mask)
    types = _tokens.check_types(tokens, token_types)
    _tokens.check_length('bert', params, tokens)
    return net.apply(params, {}, _Inputs(tokens, mask, types, logits))[0]

  def apply(params, tokens, token_mask=None, token_types=None):
    return run(params, tokens, token_mask, token_types, True)

  def hidden(params, tokens, token_mask=None, token_types=None):
    return run(params, tokens, token_mask, token_types, False)

  return Encoder(init, apply, hidden)
