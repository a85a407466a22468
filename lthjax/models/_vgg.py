"""VGG-11 and VGG-16 with batch normalization, in their form for CIFAR-10."""

from collections.abc import Sequence

import jax
from flax import nnx

from lthjax.models import _arguments, _normed
from lthjax.models._functional import Model, functional

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
  """Five stages of normalized 3x3 convolutions and one linear layer."""

  def __init__(
    self,
    depths: Sequence[int],
    channels: int,
    classes: int,
    *,
    rngs: nnx.Rngs,
  ):
    self.depths = tuple(depths)
    features = channels
    for stage, (depth, filters) in enumerate(
      zip(depths, _WIDTHS, strict=True), start=1
    ):
      for i in range(1, depth + 1):
        conv = _normed.conv_3x3(features, filters, rngs=rngs)
        setattr(self, f'conv{stage}_{i}', conv)
        setattr(self, f'norm{stage}_{i}', _normed.norm(filters, rngs=rngs))
        features = filters
    self.output = _normed.linear(features, classes, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes logits."""
    for stage, depth in enumerate(self.depths, start=1):
      if stage > 1:
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
      for i in range(1, depth + 1):
        conv = getattr(self, f'conv{stage}_{i}')
        norm = getattr(self, f'norm{stage}_{i}')
        x = nnx.relu(norm(conv(x), use_running_average=not train))
    return self.output(x.mean(axis=(1, 2)))


def vgg_11(
  input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10
) -> Model:
  """Builds VGG-11: ``conv1_1`` to ``conv5_2``, and ``output``.

  As `vgg_16`, with one, one, two, two and two convolutions in its stages. On
  CIFAR-10 these have 9,217,728 weights, and ``output`` has 5,120.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> params, _ = jax.eval_shape(models.vgg_11().init, jax.random.key(0))
    >>> [name for name in sorted(params) if name.startswith('conv3')]
    ['conv3_1', 'conv3_2']

  References:
    K. Simonyan, A. Zisserman, Very Deep Convolutional Networks for Large-Scale
    Image Recognition, arXiv:1409.1556, Table 1, column A.
  """
  return _vgg('vgg_11', (1, 1, 2, 2, 2), input_shape, classes)


def vgg_16(
  input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10
) -> Model:
  """Builds VGG-16: ``conv1_1`` to ``conv5_3``, and ``output``.

  The form for small images that the lottery ticket papers train: the first four
  poolings take a maximum, the last one averages whatever is left, and a single
  linear layer stands for the original three. Kernels are drawn from Kaiming's
  Gaussian, convolutions have no bias (normalization, ``norm1_1`` and so on,
  subtracts it), normalization starts with scale 1 and bias 0 (OpenLTH draws
  the scale from [0, 1)). On CIFAR-10 the convolutions have 14,710,464
  weights, and ``output`` has 5,120.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> params, _ = jax.eval_shape(models.vgg_16().init, jax.random.key(0))
    >>> params['conv5_3']['kernel'].shape, params['output']['kernel'].shape
    ((3, 3, 512, 512), (512, 10))

  References:
    K. Simonyan, A. Zisserman, Very Deep Convolutional Networks for Large-Scale
    Image Recognition, arXiv:1409.1556, Table 1, column D.

    J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin, Linear Mode Connectivity
    and the Lottery Ticket Hypothesis, arXiv:1912.05671, Table 1.
  """
  return _vgg('vgg_16', (2, 2, 3, 3, 3), input_shape, classes)


def _vgg(name, depths, input_shape, classes) -> Model:
  """Checks the arguments and wraps a `VGG`."""
  # Four poolings halve the image; the average is then over at least one pixel.
  input_shape, classes = _arguments.check(
    name, input_shape, classes, pixels=2 ** (len(depths) - 1)
  )
  return functional(
    lambda rngs: VGG(depths, input_shape[-1], classes, rngs=rngs), input_shape
  )
