"""The networks of the papers, as pure functions with the papers' weights.

Every network is a `Model`: ``init(key)`` draws parameters, ``apply(params,
model_state, x, train=...)`` computes logits. The classification layer is always
called ``output``, so that ``'output/*'`` finds it in every network.
"""

from lthjax.models.conv import conv_2, conv_4, conv_6, conv_8
from lthjax.models.functional import Model, functional
from lthjax.models.lenet import lenet_300_100
from lthjax.models.resnet import resnet_20, resnet_50
from lthjax.models.vgg import vgg_11, vgg_16
from lthjax.models.wide_resnet import wide_resnet_22_2

__all__ = [
  'Model',
  'conv_2',
  'conv_4',
  'conv_6',
  'conv_8',
  'functional',
  'lenet_300_100',
  'resnet_20',
  'resnet_50',
  'vgg_11',
  'vgg_16',
  'wide_resnet_22_2',
]
