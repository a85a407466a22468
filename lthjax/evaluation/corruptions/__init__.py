"""Twelve corruptions of raw images, in five severities.

Each is called as ``corruption(images, severity, seed=0)``, with
``uint8[examples, height, width, channels]`` before any normalization, and
returns the same shape and type. The same seed draws the same noise. Strengths
are relative to the size of an image, and meant for those of 8 to 64 pixels: on
digits, a fully connected network loses up to 9 points of accuracy at severity
1, and 6 to 45 at severity 5. Kinds are those of Hendrycks & Dietterich,
arXiv:1903.12261, and Mu & Gilmer, arXiv:1906.02337; the images are not those of
MNIST-C or CIFAR-10-C, and numbers cannot be compared.

`ALL` has all of them by name, for `lthjax.evaluation.evaluate`.
"""

from lthjax.evaluation.corruptions._blur import (
  defocus_blur,
  jpeg,
  motion_blur,
)
from lthjax.evaluation.corruptions._geometry import rotate, shear, shift
from lthjax.evaluation.corruptions._images import Corruption
from lthjax.evaluation.corruptions._light import brightness, contrast, fog
from lthjax.evaluation.corruptions._noise import (
  gaussian_noise,
  impulse_noise,
  shot_noise,
)

ALL: dict[str, Corruption] = {
  'gaussian_noise': gaussian_noise,
  'shot_noise': shot_noise,
  'impulse_noise': impulse_noise,
  'defocus_blur': defocus_blur,
  'motion_blur': motion_blur,
  'brightness': brightness,
  'contrast': contrast,
  'fog': fog,
  'shift': shift,
  'rotate': rotate,
  'shear': shear,
  'jpeg': jpeg,
}

__all__ = [
  'ALL',
  'Corruption',
  'brightness',
  'contrast',
  'defocus_blur',
  'fog',
  'gaussian_noise',
  'impulse_noise',
  'jpeg',
  'motion_blur',
  'rotate',
  'shear',
  'shift',
  'shot_noise',
]
