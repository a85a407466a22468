"""Conv-2, Conv-4, Conv-6 and Conv-8: small VGG-like networks for CIFAR-10."""

import functools
from collections.abc import Sequence

import jax
from flax import nnx

from lthjax.models import _arguments
from lthjax.models._functional import Model, functional


class ConvNet(nnx.Module):
  """Pairs of 3x3 convolutions, each with a pooling, and three linear layers."""

  def __init__(
    self,
    widths: Sequence[int],
    input_shape: tuple[int, int, int],
    classes: int,
    hidden: int = 256,
    *,
    rngs: nnx.Rngs,
  ):
    glorot = jax.nn.initializers.glorot_normal()
    conv = functools.partial(
      nnx.Conv, kernel_size=(3, 3), kernel_init=glorot, rngs=rngs
    )
    linear = functools.partial(nnx.Linear, kernel_init=glorot, rngs=rngs)
    self.depth = len(widths)
    height, width, features = input_shape
    for i, filters in enumerate(widths, start=1):
      setattr(self, f'conv{i}', conv(features, filters))
      features = filters
    # Every second convolution is followed by a pooling, which rounds down.
    shrink = 2 ** (self.depth // 2)
    pixels = (height // shrink) * (width // shrink)
    self.fc1 = linear(pixels * features, hidden)
    self.fc2 = linear(hidden, hidden)
    self.output = linear(hidden, classes)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes logits."""
    del train
    for i in range(1, self.depth + 1):
      x = nnx.relu(getattr(self, f'conv{i}')(x))
      if i % 2 == 0:
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    x = nnx.relu(self.fc1(x))
    x = nnx.relu(self.fc2(x))
    return self.output(x)


def conv_2(
  input_shape: tuple[int, int, int] = (32, 32, 3),
  classes: int = 10,
  width: float = 1.0,
) -> Model:
  """Builds Conv-2: ``conv1``, ``conv2``, ``fc1``, ``fc2`` and ``output``.

  The convolutions have 64 filters, the hidden layers 256 units. Kernels are
  drawn from Glorot's Gaussian (`jax.nn.initializers.glorot_normal`, truncated
  at two standard deviations), biases start at zero. On CIFAR-10 it has
  4,300,992 weights, 38,592 of them in the convolutions.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> model = models.conv_2()
    >>> params, _ = jax.eval_shape(model.init, jax.random.key(0))
    >>> [(name, layer['kernel'].size) for name, layer in params.items()][:3]
    [('conv1', 1728), ('conv2', 36864), ('fc1', 4194304)]

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, Figure 2.
  """
  return _conv_net('conv_2', (64, 64), input_shape, classes, width)


def conv_4(
  input_shape: tuple[int, int, int] = (32, 32, 3),
  classes: int = 10,
  width: float = 1.0,
) -> Model:
  """Builds Conv-4: as `conv_2`, with two more convolutions of 128 filters.

  On CIFAR-10 it has 2,425,024 weights, 259,776 of them in the convolutions.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> params, _ = jax.eval_shape(models.conv_4().init, jax.random.key(0))
    >>> list(params)
    ['conv1', 'conv2', 'conv3', 'conv4', 'fc1', 'fc2', 'output']

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, Figure 2.
  """
  return _conv_net('conv_4', (64, 64, 128, 128), input_shape, classes, width)


def conv_6(
  input_shape: tuple[int, int, int] = (32, 32, 3),
  classes: int = 10,
  width: float = 1.0,
) -> Model:
  """Builds Conv-6: as `conv_4`, with two more convolutions of 256 filters.

  On CIFAR-10 it has 2,261,184 weights, 1,144,512 of them in the convolutions.
  (The paper's table says 1.7 million in total; its layers add up to this.)

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> params, _ = jax.eval_shape(models.conv_6().init, jax.random.key(0))
    >>> params['conv6']['kernel'].shape, params['fc1']['kernel'].shape
    ((3, 3, 256, 256), (4096, 256))

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, Figure 2.
  """
  return _conv_net(
    'conv_6', (64, 64, 128, 128, 256, 256), input_shape, classes, width
  )


def conv_8(
  input_shape: tuple[int, int, int] = (32, 32, 3),
  classes: int = 10,
  width: float = 1.0,
) -> Model:
  """Builds Conv-8: as `conv_6`, with two more convolutions of 512 filters.

  On CIFAR-10 it has 5,275,840 weights, 4,683,456 of them in the convolutions.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> params, _ = jax.eval_shape(models.conv_8().init, jax.random.key(0))
    >>> params['conv8']['kernel'].shape, params['fc1']['kernel'].shape
    ((3, 3, 512, 512), (2048, 256))

  References:
    V. Ramanujan, M. Wortsman, A. Kembhavi, A. Farhadi, M. Rastegari, What's
    Hidden in a Randomly Weighted Neural Network?, arXiv:1911.13299, Table 1.
  """
  filters = (64, 64, 128, 128, 256, 256, 512, 512)
  return _conv_net('conv_8', filters, input_shape, classes, width)


def _conv_net(name, filters, input_shape, classes, width) -> Model:
  """Checks the arguments and wraps a `ConvNet`."""
  input_shape, classes = _arguments.check(
    name, input_shape, classes, pixels=2 ** (len(filters) // 2)
  )
  *filters, hidden = _arguments.scaled(name, width, *filters, 256)
  return functional(
    lambda rngs: ConvNet(filters, input_shape, classes, hidden, rngs=rngs),
    input_shape,
  )
