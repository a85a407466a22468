"""Noise of single pixels."""

from typing import Any

import numpy as np

from lthjax.evaluation.corruptions import _images


def gaussian_noise(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Adds normal noise with a deviation of 10 to 50 % of white.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: of the noise.

  Returns:
    Images of the same shape and type.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> gray = np.full((2, 8, 8, 1), 128, np.uint8)
    >>> noisy = lth.evaluation.corruptions.gaussian_noise(gray, 1)
    >>> noisy.shape, noisy.dtype, bool(20 < noisy.std() < 32)
    ((2, 8, 8, 1), dtype('uint8'), True)
  """
  strengths = 0.1, 0.2, 0.3, 0.4, 0.5
  x, strength, draws = _images.check(
    'gaussian_noise', images, severity, seed, strengths
  )
  return _images.pixels(x + 255 * strength * draws.standard_normal(x.shape))


def shot_noise(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Draws each pixel from the light that reaches it, 12 to 1 photons at white.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: of the noise.

  Returns:
    Images of the same shape and type; black stays black.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> black = np.zeros((2, 8, 8, 1), np.uint8)
    >>> int(lth.evaluation.corruptions.shot_noise(black, 5).max())
    0
  """
  strengths = 12.0, 6.0, 3.0, 2.0, 1.0
  x, photons, draws = _images.check(
    'shot_noise', images, severity, seed, strengths
  )
  return _images.pixels(draws.poisson(x / 255 * photons) * (255 / photons))


def impulse_noise(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Turns 3 to 25 % of the pixels black or white.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: of the noise.

  Returns:
    Images of the same shape and type.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> gray = np.full((2, 8, 8, 1), 128, np.uint8)
    >>> noisy = lth.evaluation.corruptions.impulse_noise(gray, 1)
    >>> np.unique(noisy).tolist()
    [0, 128, 255]
  """
  strengths = 0.03, 0.07, 0.12, 0.18, 0.25
  x, strength, draws = _images.check(
    'impulse_noise', images, severity, seed, strengths
  )
  hit = draws.random(x.shape) < strength
  value = 255.0 * draws.integers(0, 2, x.shape)
  return _images.pixels(np.where(hit, value, x))
