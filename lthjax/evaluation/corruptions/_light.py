"""Changes of light."""

from typing import Any

import numpy as np

from lthjax.evaluation.corruptions import _images


def brightness(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Adds 6 to 32 % of white to all pixels.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: not used.

  Returns:
    Images of the same shape and type.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> black = np.zeros((1, 8, 8, 1), np.uint8)
    >>> int(lth.evaluation.corruptions.brightness(black, 2)[0, 0, 0, 0])
    31
  """
  strengths = 0.06, 0.12, 0.18, 0.25, 0.32
  x, share, _ = _images.check('brightness', images, severity, seed, strengths)
  return _images.pixels(x + 255 * share)


def contrast(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Moves pixels towards the mean of their image, by 50 to 90 %.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: not used.

  Returns:
    Images of the same shape and type.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> half = np.zeros((1, 2, 2, 1), np.uint8)
    >>> half[:, 0] = 200
    >>> lth.evaluation.corruptions.contrast(half, 5)[0, ..., 0].tolist()
    [[110, 110], [90, 90]]
  """
  strengths = 0.5, 0.4, 0.3, 0.2, 0.1
  x, left, _ = _images.check('contrast', images, severity, seed, strengths)
  mean = x.mean((1, 2, 3), keepdims=True)
  return _images.pixels(mean + left * (x - mean))


def fog(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Lays bright clouds over each image, which hide 10 to 38 % of it.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: of the clouds.

  Returns:
    Images of the same shape and type.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> black = np.zeros((1, 8, 8, 1), np.uint8)
    >>> foggy = lth.evaluation.corruptions.fog(black, 3)
    >>> foggy.min() > 0, foggy.std() > 0
    (np.True_, np.True_)
  """
  strengths = 0.1, 0.17, 0.24, 0.31, 0.38
  x, share, draws = _images.check('fog', images, severity, seed, strengths)
  clouds = _clouds(draws, len(x), *x.shape[1:3])[..., None]
  return _images.pixels((1 - share) * x + share * 255 * clouds)


def _clouds(
  draws: np.random.Generator, count: int, height: int, width: int
) -> np.ndarray:
  """Smooth noise in [0.4, 1]: grids of 2, 3, 5 and 9 points, interpolated."""
  total = np.zeros((count, height, width))
  for cells in (1, 2, 4, 8):
    grid = draws.random((count, cells + 1, cells + 1)) / cells**0.7
    rows, columns = (_weights(size, cells) for size in (height, width))
    total += np.einsum('hi,nij,wj->nhw', rows, grid, columns)
  total -= total.min((1, 2), keepdims=True)
  highest = np.maximum(total.max((1, 2), keepdims=True), 1e-9)
  return 0.4 + 0.6 * total / highest


def _weights(size: int, cells: int) -> np.ndarray:
  """Weights of the points of a grid at each pixel, ``[size, cells + 1]``."""
  at = np.linspace(0, cells, size)[:, None]
  return np.clip(1 - np.abs(at - np.arange(cells + 1)), 0, None)
