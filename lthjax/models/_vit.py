"""ViT-B/16, a transformer over patches of images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lthjax.models import _arguments
from lthjax.models._bert import MLP, Attention
from lthjax.models._functional import Model, functional
from lthjax.models._layers import LayerNorm
from lthjax.models._llama import stack

_PATCH = 16


class _Sizes(NamedTuple):
  """Sizes of a transformer."""

  head_dim: int
  heads: int = 12
  layers: int = 12

  @property
  def width(self) -> int:
    return self.heads * self.head_dim


class Block(nnx.Module):
  """Attention and an MLP, with a norm before each of them."""

  def __init__(self, sizes: _Sizes, *, rngs: nnx.Rngs):
    width = sizes.width
    self.attention_norm = LayerNorm(width, 1e-6, rngs=rngs)
    self.attention = Attention(sizes, rngs=rngs)  # pyright: ignore[reportArgumentType]
    self.mlp_norm = LayerNorm(width, 1e-6, rngs=rngs)
    self.mlp = MLP(width, 4 * width, rngs=rngs)

  def __call__(self, x: jax.Array, allowed: jax.Array) -> jax.Array:
    """Computes the block."""
    x = x + self.attention(self.attention_norm(x), allowed)
    return x + self.mlp(self.mlp_norm(x))


class ViT(nnx.Module):
  """Patches and a class token, a stack of blocks, and a linear layer."""

  def __init__(
    self,
    sizes: _Sizes,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    rngs: nnx.Rngs,
  ):
    height, wide, channels = input_shape
    width = sizes.width
    places = 1 + (height // _PATCH) * (wide // _PATCH)
    size = _PATCH, _PATCH
    self.conv1 = nnx.Conv(
      channels, width, size, strides=size, padding='VALID', rngs=rngs
    )
    self.class_token = nnx.Param(jnp.zeros((1, 1, width)))
    drawn = jax.random.normal(rngs.params(), (1, places, width))
    self.position_embedding = nnx.Param(0.02 * drawn)
    self.blocks = stack(Block, sizes, rngs=rngs)
    self.norm = LayerNorm(width, 1e-6, rngs=rngs)
    self.output = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes logits."""
    del train
    x = self.conv1(x)
    x = x.reshape(len(x), -1, x.shape[-1])
    first = jnp.broadcast_to(self.class_token[...], (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([first, x], 1) + self.position_embedding[...]
    allowed = jnp.ones((1, 1, x.shape[1]), bool)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def run(block, x):
      return block(x, allowed)

    return self.output(self.norm(run(self.blocks, x))[:, 0])


def vit_b_16(
  input_shape: tuple[int, int, int] = (224, 224, 3),
  classes: int = 1000,
  *,
  width: float = 1.0,
) -> Model:
  """Builds ViT-B/16: ``conv1``, twelve stacked ``blocks`` and ``output``.

  Blocks are stacked along the first axis of ``blocks/...`` and run under
  `nnx.scan`, so that one leaf holds a kernel of all layers. There is no
  dropout. What does not fill a patch of 16 x 16 pixels is left out. On
  ImageNet it has 86,567,656 params.

  Args:
    input_shape: height, width and channels of one image.
    classes: number of logits.
    width: multiplies the 64 units of each head, and the others with them.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> params, _ = jax.eval_shape(models.vit_b_16().init, jax.random.key(0))
    >>> params['blocks']['attention']['query']['kernel'].shape
    (12, 768, 12, 64)
    >>> params['blocks']['mlp']['up']['kernel'].shape
    (12, 768, 3072)

  References:
    A. Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for Image
    Recognition at Scale, arXiv:2010.11929, Table 1.
  """
  input_shape, classes = _arguments.check(
    'vit_b_16', input_shape, classes, pixels=_PATCH
  )
  (head_dim,) = _arguments.scaled('vit_b_16', width, 64)
  return functional(
    lambda rngs: ViT(_Sizes(head_dim), input_shape, classes, rngs=rngs),
    input_shape,
  )
