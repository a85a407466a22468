"""ResNet-20 for CIFAR-10 and ResNet-50 for ImageNet, residual networks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lthjax.models import _arguments, _normed
from lthjax.models._functional import Model, functional


class Block(nnx.Module):
  """Two 3x3 convolutions beside a shortcut."""

  expansion = 1

  def __init__(
    self, features: int, filters: int, stride: int, *, rngs: nnx.Rngs
  ):
    self.conv1 = _normed.conv_3x3(features, filters, strides=stride, rngs=rngs)
    self.norm1 = _normed.norm(filters, rngs=rngs)
    self.conv2 = _normed.conv_3x3(filters, filters, rngs=rngs)
    self.norm2 = _normed.norm(filters, rngs=rngs)
    self.project = stride != 1 or features != filters
    if self.project:
      self.shortcut = _normed.conv_1x1(
        features, filters, strides=stride, rngs=rngs
      )
      self.shortcut_norm = _normed.norm(filters, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Adds the block's output to its, possibly projected, input."""
    frozen = not train
    y = nnx.relu(self.norm1(self.conv1(x), use_running_average=frozen))
    y = self.norm2(self.conv2(y), use_running_average=frozen)
    if self.project:
      x = self.shortcut_norm(self.shortcut(x), use_running_average=frozen)
    return nnx.relu(x + y)


class Bottleneck(nnx.Module):
  """A 3x3 convolution between two of 1x1, beside a shortcut."""

  expansion = 4

  def __init__(
    self, features: int, filters: int, stride: int, *, rngs: nnx.Rngs
  ):
    outputs = self.expansion * filters
    self.conv1 = _normed.conv_1x1(features, filters, rngs=rngs)
    self.norm1 = _normed.norm(filters, rngs=rngs)
    self.conv2 = _normed.conv_3x3(filters, filters, strides=stride, rngs=rngs)
    self.norm2 = _normed.norm(filters, rngs=rngs)
    self.conv3 = _normed.conv_1x1(filters, outputs, rngs=rngs)
    self.norm3 = _normed.norm(outputs, rngs=rngs)
    self.project = stride != 1 or features != outputs
    if self.project:
      self.shortcut = _normed.conv_1x1(
        features, outputs, strides=stride, rngs=rngs
      )
      self.shortcut_norm = _normed.norm(outputs, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Adds the block's output to its, possibly projected, input."""
    frozen = not train
    y = nnx.relu(self.norm1(self.conv1(x), use_running_average=frozen))
    y = nnx.relu(self.norm2(self.conv2(y), use_running_average=frozen))
    y = self.norm3(self.conv3(y), use_running_average=frozen)
    if self.project:
      x = self.shortcut_norm(self.shortcut(x), use_running_average=frozen)
    return nnx.relu(x + y)


class ResNet(nnx.Module):
  """Stages of blocks, each with half the image size and twice the filters."""

  def __init__(
    self,
    block: type[Block] | type[Bottleneck],
    filters: int,
    depths: Sequence[int],
    channels: int,
    classes: int,
    *,
    large: bool = False,
    rngs: nnx.Rngs,
  ):
    self.large = large
    stem = _normed.conv_7x7 if large else _normed.conv_3x3
    self.conv1 = stem(channels, filters, rngs=rngs)
    self.norm1 = _normed.norm(filters, rngs=rngs)
    blocks, features = [], filters
    for stage, depth in enumerate(depths):
      for i in range(depth):
        # The first block of a stage halves the image; the first stage keeps it.
        stride = 2 if stage > 0 and i == 0 else 1
        blocks.append(block(features, filters * 2**stage, stride, rngs=rngs))
        features = filters * 2**stage * block.expansion
    self.blocks = nnx.List(blocks)
    self.output = _normed.linear(features, classes, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes logits."""
    x = nnx.relu(self.norm1(self.conv1(x), use_running_average=not train))
    if self.large:
      # Zero is the least value after ReLUs.
      x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
      x = nnx.max_pool(x, (3, 3), strides=(2, 2))
    for block in self.blocks:
      x = block(x, train=train)
    return self.output(x.mean(axis=(1, 2)))


def resnet_20(
  input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10
) -> Model:
  """Builds ResNet-20: ``conv1``, nine ``blocks`` and ``output``.

  Where a stage begins, the shortcut is a 1x1 convolution with normalization, as
  in the lottery ticket papers (He's option B), so that all its 270,896 weights
  on CIFAR-10 can be pruned. Kernels are drawn from Kaiming's Gaussian,
  convolutions have no bias, normalization starts with scale 1 and bias 0
  (OpenLTH draws the scale from [0, 1)).

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> model = models.resnet_20()
    >>> params, model_state = jax.eval_shape(model.init, jax.random.key(0))
    >>> sorted(params['blocks']['3'])
    ['conv1', 'conv2', 'norm1', 'norm2', 'shortcut', 'shortcut_norm']
    >>> params['blocks']['3']['shortcut']['kernel'].shape
    (1, 1, 16, 32)
    >>> sorted(model_state['norm1'])
    ['mean', 'var']

  References:
    K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image
    Recognition, arXiv:1512.03385, section 4.2.

    J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin, Linear Mode Connectivity
    and the Lottery Ticket Hypothesis, arXiv:1912.05671, Table 1.
  """
  input_shape, classes = _arguments.check('resnet_20', input_shape, classes)
  return functional(
    lambda rngs: ResNet(
      Block, 16, (3, 3, 3), input_shape[-1], classes, rngs=rngs
    ),
    input_shape,
  )


def resnet_50(
  input_shape: tuple[int, int, int] = (224, 224, 3),
  classes: int = 1000,
  *,
  width: float = 1.0,
) -> Model:
  """Builds ResNet-50: ``conv1``, sixteen ``blocks`` and ``output``.

  Version 1.5, which papers on sparse training use: a block that halves the
  image does so in its 3x3 convolution, not in the 1x1 convolution before it.
  Initialized as `resnet_20`. On ImageNet it has 25,502,912 weights, 2,048,000
  of them in ``output``, and a forward pass takes 4,089,184,256 multiply-adds.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> params, _ = jax.eval_shape(models.resnet_50().init, jax.random.key(0))
    >>> params['conv1']['kernel'].shape, params['output']['kernel'].shape
    ((7, 7, 3, 64), (2048, 1000))

  References:
    K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image
    Recognition, arXiv:1512.03385, Table 1.

    P. Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour,
    arXiv:1706.02677, section 5.1 (the stride).
  """
  input_shape, classes = _arguments.check('resnet_50', input_shape, classes)
  (filters,) = _arguments.scaled('resnet_50', width, 64)
  return functional(
    lambda rngs: ResNet(
      Bottleneck,
      filters,
      (3, 4, 6, 3),
      input_shape[-1],
      classes,
      large=True,
      rngs=rngs,
    ),
    input_shape,
  )
