"""What all corruptions share: checks, random numbers, and rounding."""

import zlib
from typing import Any, Protocol

import numpy as np

from lthjax import _checks, trees


class Corruption(Protocol):
  """A function that corrupts images."""

  def __call__(self, images: Any, severity: int, seed: int = 0) -> np.ndarray:
    """Returns images of the same shape and type."""
    ...


def check(
  name: str, images: Any, severity: Any, seed: Any, strengths: tuple
) -> tuple[np.ndarray, Any, np.random.Generator]:
  """Returns images in double precision, the strength, and random numbers."""
  dtype, shape = getattr(images, 'dtype', None), np.shape(images)
  if dtype != np.uint8 or len(shape) != 4 or trees.is_traced(images):
    wanted = (
      'be raw images, uint8[examples, height, width, channels], not traced.'
      ' Corrupt them before they are normalized'
    )
    raise _checks.wrong_type('images', images, wanted)
  if 0 in shape:
    raise _checks.wrong_value('images', images, 'have pixels')
  severity = _checks.integer('severity', severity)
  if not 1 <= severity <= 5:
    raise _checks.wrong_value('severity', severity, 'be from 1 to 5')
  seed = _checks.at_least('seed', seed, 0)
  draws = np.random.default_rng([seed, severity, zlib.crc32(name.encode())])
  pixels = np.asarray(images).astype(np.float64)
  return pixels, strengths[severity - 1], draws


def pixels(x: np.ndarray) -> np.ndarray:
  """Rounds to the nearest gray level."""
  return np.rint(np.clip(x, 0, 255)).astype(np.uint8)


def side(x: np.ndarray) -> float:
  """The length that strengths are relative to, in pixels."""
  return float(min(x.shape[1:3]))


def per_image(draws: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """A sign for each image."""
  return draws.choice([-1.0, 1.0], len(x))
