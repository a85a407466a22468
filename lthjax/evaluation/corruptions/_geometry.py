"""Images that are moved, turned and slanted."""

from typing import Any

import numpy as np

from lthjax.evaluation.corruptions import _images


def shift(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Moves each image in a direction of its own, by 1.5 to 9 % of its size.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: of the directions.

  Returns:
    Images of the same shape and type, with black where nothing was.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> white = np.full((2, 8, 8, 1), 255, np.uint8)
    >>> moved = lth.evaluation.corruptions.shift(white, 5)
    >>> int(moved.max()), bool(moved.min() < 255)
    (255, True)
  """
  strengths = 0.015, 0.03, 0.05, 0.07, 0.09
  x, share, draws = _images.check('shift', images, severity, seed, strengths)
  angle = draws.uniform(0, 2 * np.pi, len(x))
  moves = share * _images.side(x) * np.stack([np.sin(angle), np.cos(angle)], 1)
  same = np.broadcast_to(np.eye(2), (len(x), 2, 2))
  return _images.pixels(_transform(x, same, moves))


def rotate(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Turns each image to the left or to the right, by 4 to 20 degrees.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: of the direction.

  Returns:
    Images of the same shape and type, with black where nothing was.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> white = np.full((2, 8, 8, 1), 255, np.uint8)
    >>> turned = lth.evaluation.corruptions.rotate(white, 5)
    >>> int(turned[0, 4, 4, 0]), bool(turned[0, 0, 0, 0] < 255)
    (255, True)
  """
  strengths = 4, 8, 12, 16, 20
  x, degrees, draws = _images.check('rotate', images, severity, seed, strengths)
  angle = np.deg2rad(degrees) * _images.per_image(draws, x)
  sin, cos = np.sin(angle), np.cos(angle)
  matrices = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
  return _images.pixels(_transform(x, matrices, np.zeros((len(x), 2))))


def shear(images: Any, severity: int, seed: int = 0) -> np.ndarray:
  """Slants each image to the left or to the right, by 12 to 44 %.

  Args:
    images: ``uint8[examples, height, width, channels]``, not normalized.
    severity: from 1 to 5.
    seed: of the direction.

  Returns:
    Images of the same shape and type, with black where nothing was.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> white = np.full((2, 9, 9, 1), 255, np.uint8)
    >>> slanted = lth.evaluation.corruptions.shear(white, 5)
    >>> int(slanted[0, 4].min()), bool(slanted[0, 0].min() < 255)
    (255, True)
  """
  strengths = 0.12, 0.2, 0.28, 0.36, 0.44
  x, share, draws = _images.check('shear', images, severity, seed, strengths)
  matrices = np.tile(np.eye(2), (len(x), 1, 1))
  matrices[:, 1, 0] = share * _images.per_image(draws, x)
  return _images.pixels(_transform(x, matrices, np.zeros((len(x), 2))))


def _transform(
  x: np.ndarray, matrices: np.ndarray, moves: np.ndarray
) -> np.ndarray:
  """Maps each image around its middle; black outside, linear between."""
  import scipy.ndimage

  middle = (np.array(x.shape[1:3]) - 1) / 2
  out = np.empty_like(x)
  for i, (matrix, move) in enumerate(zip(matrices, moves, strict=True)):
    offset = middle - matrix @ (middle + move)
    for channel in range(x.shape[-1]):
      scipy.ndimage.affine_transform(
        x[i, ..., channel],
        matrix,
        offset,
        output=out[i, ..., channel],
        order=1,
        mode='constant',
      )
  return out
