"""`experiments/imagenet.py` with a network of two layers in place of ViT."""

import jax
import jax.numpy as jnp

import imagenet
from lthjax import models


def small(shape, classes, *, width):
  """A hidden layer of sixteen units over the corner of an image."""
  del shape, width

  def init(key):
    one, two = jax.random.split(key)
    hidden = jax.random.normal(one, (192, 16)) / 14
    output = jax.random.normal(two, (16, classes)) / 4
    params = {
      'hidden': {'kernel': hidden, 'bias': jnp.zeros(16)},
      'output': {'kernel': output, 'bias': jnp.zeros(classes)},
    }
    return params, {}

  def apply(params, state, x, *, train=False):
    del train
    x = x[:, :8, :8].reshape(len(x), 192)
    x = jax.nn.relu(x @ params['hidden']['kernel'] + params['hidden']['bias'])
    return x @ params['output']['kernel'] + params['output']['bias'], state

  return models.Model(init, apply)


if __name__ == '__main__':
  imagenet.NETWORKS['vit'] = small
  imagenet.main()
