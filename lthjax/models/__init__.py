"""Networks of the papers as pure functions, initialized as in the papers.

Every network is a `Model`: ``init(key)`` draws parameters, ``apply(params,
model_state, x, train=...)`` computes logits. The classification layer is always
called ``output``, so that ``'output/*'`` finds it in every network.
"""

from lthjax.models._conv import conv_2, conv_4, conv_6, conv_8
from lthjax.models._functional import Model, functional
from lthjax.models._lenet import lenet_300_100
from lthjax.models._resnet import resnet_20, resnet_50
from lthjax.models._vgg import vgg_11, vgg_16
from lthjax.models._wide_resnet import wide_resnet_22_2

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
