"""LeNet-300-100, the fully connected network of the lottery ticket papers."""

import functools
import math

import jax
from flax import nnx

from lthjax.models import _arguments
from lthjax.models._functional import Model, functional


class LeNet300100(nnx.Module):
  """Two hidden layers of 300 and 100 ReLUs over flattened images."""

  def __init__(
    self,
    input_shape: tuple[int, int, int],
    classes: int,
    hidden: tuple[int, ...] = (300, 100),
    *,
    rngs: nnx.Rngs,
  ):
    linear = functools.partial(
      nnx.Linear, kernel_init=jax.nn.initializers.glorot_normal(), rngs=rngs
    )
    first, second = hidden
    self.fc1 = linear(math.prod(input_shape), first)
    self.fc2 = linear(first, second)
    self.output = linear(second, classes)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes logits."""
    del train
    x = x.reshape(x.shape[0], -1)
    x = nnx.relu(self.fc1(x))
    x = nnx.relu(self.fc2(x))
    return self.output(x)


def lenet_300_100(
  input_shape: tuple[int, int, int] = (28, 28, 1),
  classes: int = 10,
  width: float = 1.0,
) -> Model:
  """Builds LeNet-300-100: layers ``fc1``, ``fc2`` and ``output``.

  Kernels are drawn from Glorot's Gaussian (`jax.nn.initializers.glorot_normal`,
  truncated at two standard deviations), biases start at zero. On MNIST it has
  266,200 weights: 235,200 + 30,000 + 1,000.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> model = models.lenet_300_100(input_shape=(8, 8, 1))
    >>> params, model_state = model.init(jax.random.key(0))
    >>> {name: layer['kernel'].shape for name, layer in params.items()}
    {'fc1': (64, 300), 'fc2': (300, 100), 'output': (100, 10)}
    >>> x = jax.numpy.ones((5, 8, 8, 1))
    >>> logits, model_state = model.apply(params, model_state, x)
    >>> logits.shape
    (5, 10)

  References:
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied
    to Document Recognition, Proceedings of the IEEE, 1998.

    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, Figure 2.
  """
  input_shape, classes = _arguments.check('lenet_300_100', input_shape, classes)
  hidden = _arguments.scaled('lenet_300_100', width, 300, 100)
  return functional(
    lambda rngs: LeNet300100(input_shape, classes, hidden, rngs=rngs),
    input_shape,
  )
