"""Checks of the arguments that networks are built from."""

import math
import operator


def check(
  name: str, input_shape: tuple[int, int, int], classes: int, pixels: int = 1
) -> tuple[tuple[int, int, int], int]:
  """Returns Python ints, for images of at least ``pixels`` by ``pixels``."""
  problems = []
  shape = _ints(input_shape)
  if shape is None or len(shape) != 3 or min(shape) < 1:
    problems.append(
      f'input_shape={input_shape!r}, but it needs three positive integers:'
      ' (height, width, channels) of one image, without the batch axis'
    )
  elif min(shape[:2]) < pixels:
    problems.append(
      f'input_shape={input_shape!r}, but with its poolings it needs at least'
      f' {pixels} x {pixels} pixels: resize the images or use a network with'
      ' fewer poolings'
    )
  count = _ints([classes])
  if count is None or count[0] < 2:
    problems.append(
      f'classes={classes!r}, but it needs an integer of at least 2'
    )
  if problems or shape is None or count is None:
    raise ValueError(f'`{name}` was given {"; and ".join(problems)}.')
  height, width, channels = shape
  return (height, width, channels), count[0]


def scaled(name: str, width: float, *sizes: int) -> tuple[int, ...]:
  """Multiplies the sizes of hidden layers, and rounds them."""
  # A string such as "2" would convert, but is a mistake.
  try:
    factor = 0.0 if isinstance(width, str) else float(width)
  except (TypeError, ValueError, OverflowError):
    factor = 0.0
  found = (0,)
  if 0 < factor < math.inf:
    found = tuple(round(size * factor) for size in sizes)
  if min(found) < 1:
    raise ValueError(
      f'`{name}` was given width={width!r}, but it multiplies the {min(sizes)}'
      ' units of its narrowest layer and must leave at least one. Give a'
      ' positive number, such as 0.5.'
    )
  return found


def _ints(values) -> list[int] | None:
  """Returns a list of Python ints, or `None` if they are anything else."""
  try:
    return [operator.index(value) for value in values]
  except TypeError:
    return None
