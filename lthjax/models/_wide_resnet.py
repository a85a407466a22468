"""WRN-22-2, the wide residual network for CIFAR-10."""

import jax
from flax import nnx

from lthjax.models import _arguments, _normed
from lthjax.models._functional import Model, functional


class WideBlock(nnx.Module):
  """Two 3x3 convolutions, each after its normalization, beside a shortcut."""

  def __init__(
    self, features: int, filters: int, stride: int, *, rngs: nnx.Rngs
  ):
    self.norm1 = _normed.norm(features, rngs=rngs)
    self.conv1 = _normed.conv_3x3(features, filters, strides=stride, rngs=rngs)
    self.norm2 = _normed.norm(filters, rngs=rngs)
    self.conv2 = _normed.conv_3x3(filters, filters, rngs=rngs)
    self.project = stride != 1 or features != filters
    if self.project:
      self.shortcut = _normed.conv_1x1(
        features, filters, strides=stride, rngs=rngs
      )

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Adds the block's output to its, possibly projected, input."""
    frozen = not train
    y = nnx.relu(self.norm1(x, use_running_average=frozen))
    if self.project:
      x = self.shortcut(y)  # It shares the normalization.
    y = nnx.relu(self.norm2(self.conv1(y), use_running_average=frozen))
    return x + self.conv2(y)  # No ReLU: the next block begins with one.


class WideResNet(nnx.Module):
  """Three stages of 16, 32 and 64 filters, ``width`` times over."""

  def __init__(
    self,
    depth: int,
    width: int,
    channels: int,
    classes: int,
    *,
    rngs: nnx.Rngs,
  ):
    self.conv1 = _normed.conv_3x3(channels, 16, rngs=rngs)
    blocks, features = [], 16
    for stage in range(3):
      filters = 16 * width * 2**stage
      for i in range(depth):
        stride = 2 if stage and not i else 1
        blocks.append(WideBlock(features, filters, stride, rngs=rngs))
        features = filters
    self.blocks = nnx.List(blocks)
    self.norm = _normed.norm(features, rngs=rngs)
    self.output = _normed.linear(features, classes, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes logits."""
    x = self.conv1(x)
    for block in self.blocks:
      x = block(x, train=train)
    x = nnx.relu(self.norm(x, use_running_average=not train))
    return self.output(x.mean(axis=(1, 2)))


def wide_resnet_22_2(
  input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10
) -> Model:
  """Builds WRN-22-2: ``conv1``, nine ``blocks``, ``norm`` and ``output``.

  Its blocks have twice the filters of those in `resnet_20`, and normalize
  before their convolutions. The shortcut is a 1x1 convolution where the number
  of filters changes; there is no dropout. Kernels are drawn from Kaiming's
  Gaussian, convolutions have no bias, normalization starts with scale 1 and
  bias 0. On CIFAR-10 it has 1,076,912 weights, and a forward pass takes
  157,730,048 multiply-adds.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> model = models.wide_resnet_22_2()
    >>> params, _ = jax.eval_shape(model.init, jax.random.key(0))
    >>> sorted(params['blocks']['0'])
    ['conv1', 'conv2', 'norm1', 'norm2', 'shortcut']
    >>> params['blocks']['8']['conv2']['kernel'].shape
    (3, 3, 128, 128)

  References:
    S. Zagoruyko, N. Komodakis, Wide Residual Networks, arXiv:1605.07146,
    Table 1.

    U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen, Rigging the Lottery:
    Making All Tickets Winners, arXiv:1911.11134, section 4.2.
  """
  input_shape, classes = _arguments.check(
    'wide_resnet_22_2', input_shape, classes
  )
  return functional(
    lambda rngs: WideResNet(3, 2, input_shape[-1], classes, rngs=rngs),
    input_shape,
  )
