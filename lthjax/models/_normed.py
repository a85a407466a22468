"""Layers that the networks with batch normalization share."""

import functools

import jax
from flax import nnx

# He et al., arXiv:1502.01852, equation 10. Not `he_normal`, which truncates.
KAIMING = jax.nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')

conv_1x1 = functools.partial(
  nnx.Conv, kernel_size=(1, 1), use_bias=False, kernel_init=KAIMING
)
# One pixel on each side, also under a stride (where 'SAME' would pad one side).
conv_3x3 = functools.partial(
  nnx.Conv,
  kernel_size=(3, 3),
  padding=1,
  use_bias=False,
  kernel_init=KAIMING,
)
conv_7x7 = functools.partial(
  nnx.Conv,
  kernel_size=(7, 7),
  strides=2,
  padding=3,
  use_bias=False,
  kernel_init=KAIMING,
)
linear = functools.partial(nnx.Linear, kernel_init=KAIMING)
norm = functools.partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)
