"""Messages between devices, counted in the text of a compiled program."""

import math
import re
from typing import NamedTuple

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'collective-permute',
  'all-to-all',
)
_OPERATION = re.compile(rf'= (.*?) ({"|".join(KINDS)})(-start)?\(')
_SHAPE = re.compile(r'(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')


class Sum(NamedTuple):
  """How many messages of one kind a program holds, and their bytes.

  One in the body of a loop counts once: each of its passes sends it again.
  """

  number: int
  bytes: int


def count(text: str) -> dict[str, Sum]:
  """Sums up the messages of a program by kind, most frequent first."""
  found: dict[str, Sum] = {}
  for shapes, kind, _ in _OPERATION.findall(text):
    number, size = found.get(kind, Sum(0, 0))
    found[kind] = Sum(number + 1, size + _bytes(shapes))
  return dict(sorted(found.items(), key=lambda x: -x[1].number))


def _bytes(shapes: str) -> int:
  """Bytes of a result, which may be a tuple."""
  return sum(
    math.prod(map(int, filter(None, size.split(','))))
    * max(int(bits or 8) // 8, 1)
    for _, bits, size in _SHAPE.findall(shapes)
  )
