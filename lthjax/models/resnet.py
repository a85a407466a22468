"""ResNet-20, the residual network for CIFAR-10."""

import jax
from flax import nnx

from lthjax.models import _arguments, _normed
from lthjax.models.functional import Model, functional


class Block(nnx.Module):
  """Two 3x3 convolutions beside a shortcut.

  Args:
    features: channels of the input.
    filters: channels of the output.
    stride: of the first convolution and of the shortcut.
    rngs: source of the weights.
  """

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
    """Adds the block's output to its, possibly projected, input.

    Args:
      x: features of shape ``(batch, height, width, features)``.
      train: normalize with the batch's statistics and record them.

    Returns:
      Features of shape ``(batch, height / stride, width / stride, filters)``.
    """
    frozen = not train
    y = nnx.relu(self.norm1(self.conv1(x), use_running_average=frozen))
    y = self.norm2(self.conv2(y), use_running_average=frozen)
    if self.project:
      x = self.shortcut_norm(self.shortcut(x), use_running_average=frozen)
    return nnx.relu(x + y)


class ResNet(nnx.Module):
  """Three stages of 16, 32 and 64 filters, each of ``depth`` blocks.

  Args:
    depth: blocks in each stage; the network has ``6 * depth + 2`` layers.
    channels: channels of the images.
    classes: number of logits.
    rngs: source of the weights.
  """

  def __init__(
    self, depth: int, channels: int, classes: int, *, rngs: nnx.Rngs
  ):
    self.conv1 = _normed.conv_3x3(channels, 16, rngs=rngs)
    self.norm1 = _normed.norm(16, rngs=rngs)
    blocks, features = [], 16
    for filters in (16, 32, 64):
      for _ in range(depth):
        stride = 1 if filters == features else 2
        blocks.append(Block(features, filters, stride, rngs=rngs))
        features = filters
    self.blocks = nnx.List(blocks)
    self.output = _normed.linear(64, classes, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes logits.

    Args:
      x: images of shape ``(batch, height, width, channels)``.
      train: normalize with the batch's statistics and record them.

    Returns:
      Logits of shape ``(batch, classes)``.
    """
    x = nnx.relu(self.norm1(self.conv1(x), use_running_average=not train))
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

  Args:
    input_shape: height, width and channels of one image.
    classes: number of logits.

  Returns:
    The network as a `Model`; its ``model_state`` holds the running means and
    variances.

  Raises:
    ValueError: if ``input_shape`` or ``classes`` is not valid.

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
    lambda rngs: ResNet(3, input_shape[-1], classes, rngs=rngs), input_shape
  )
