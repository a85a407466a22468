"""Loss of detail: blur and compression."""

import importlib
import io
from typing import Any

import numpy as np

from lthjax.evaluation.corruptions import _images

_ANGLES = 8


def defocus_blur(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Spreads each pixel over a disk, as a lens out of focus does.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5: a radius of 6 to 17 % of the image.
    seed: not used.

  Returns:
    Images of the same shape and type.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> gray = np.full((2, 8, 8, 1), 128, np.uint8)
    >>> blurred = lth.evaluation.corruptions.defocus_blur(gray, 5)
    >>> (blurred == gray).all().item()  # borders go on as they are
    True
  """
  strengths = 0.06, 0.09, 0.12, 0.145, 0.17
  x, share, _ = _images.check('defocus', images, severity, seed, strengths)
  radius = share * _images.side(x)
  reach = int(np.ceil(radius))
  fine = np.arange(-8 * reach - 4, 8 * reach + 4) / 8 + 1 / 16
  inside = np.hypot(fine[:, None], fine) <= max(radius, 0.5)
  width = 2 * reach + 1
  kernel = inside.reshape(width, 8, width, 8).mean((1, 3))
  return _images.pixels(_convolve(x, kernel))


def motion_blur(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Smears each image along a line, in one of eight directions.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5: a line of 12 to 44 % of the image.
    seed: of the directions.

  Returns:
    Images of the same shape and type.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> gray = np.full((2, 8, 8, 1), 128, np.uint8)
    >>> blurred = lth.evaluation.corruptions.motion_blur(gray, 5)
    >>> (blurred == gray).all().item()  # borders go on as they are
    True
  """
  strengths = 0.12, 0.2, 0.28, 0.36, 0.44
  x, share, draws = _images.check('motion', images, severity, seed, strengths)
  length = share * _images.side(x)
  which = draws.integers(0, _ANGLES, len(x))
  out = np.empty_like(x)
  for number in np.unique(which):
    kernel = _line(length, np.pi * number / _ANGLES)
    out[which == number] = _convolve(x[which == number], kernel)
  return _images.pixels(out)


def jpeg(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Compresses each image as JPEG, with a quality of 30 down to 3.

  Args:
    images: ``uint8[examples, height, width, channels]`` with 1 or 3 channels.
    severity: from 1 to 5.
    seed: not used.

  Returns:
    Images of the same shape and type.

  Raises:
    ImportError: without the package Pillow.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> gray = np.full((2, 8, 8, 1), 128, np.uint8)
    >>> lth.evaluation.corruptions.jpeg(gray, 1).shape
    (2, 8, 8, 1)
  """
  strengths = 30, 18, 11, 6, 3
  x, quality, _ = _images.check('jpeg', images, severity, seed, strengths)
  if x.shape[-1] not in (1, 3):
    raise ValueError(
      f'`images` have {x.shape[-1]} channels, but JPEG needs 1 or 3.'
    )
  try:
    pillow = importlib.import_module('PIL.Image')
  except ImportError:
    raise ImportError(
      'JPEG needs the package Pillow: `pip install pillow`.'
    ) from None

  def one(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    pillow.fromarray(image).save(buffer, 'JPEG', quality=quality)
    return np.asarray(pillow.open(buffer))

  flat = np.asarray(images)
  flat = flat[..., 0] if x.shape[-1] == 1 else flat
  return np.stack([one(image) for image in flat]).reshape(x.shape)


def _line(length: float, angle: float) -> np.ndarray:
  """A kernel whose weights lie along a line through its middle."""
  reach = int(np.ceil(length / 2)) + 1
  kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
  for t in np.linspace(-length / 2, length / 2, 8 * reach + 1):
    y, x = reach + t * np.sin(angle), reach + t * np.cos(angle)
    row, column = int(np.floor(y)), int(np.floor(x))
    for i, v in ((row, row + 1 - y), (row + 1, y - row)):
      for j, w in ((column, column + 1 - x), (column + 1, x - column)):
        kernel[i, j] += v * w
  return kernel


def _convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  import scipy.ndimage

  kernel = kernel / kernel.sum()
  return scipy.ndimage.convolve(x, kernel[None, :, :, None], mode='nearest')
