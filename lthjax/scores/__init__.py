"""What a weight is worth: a higher score is kept.

A score takes the params, and where it needs them the params at initialization,
and returns a tree of scores of the same structure.
"""

from lthjax.scores.large_final import (
  large_final,
  large_final_same_sign,
  large_init,
  large_init_large_final,
  small_final,
  small_init,
  small_init_small_final,
)
from lthjax.scores.magnitude import magnitude
from lthjax.scores.movement import magnitude_increase, movement
from lthjax.scores.random import random

__all__ = [
  'large_final',
  'large_final_same_sign',
  'large_init',
  'large_init_large_final',
  'magnitude',
  'magnitude_increase',
  'movement',
  'random',
  'small_final',
  'small_init',
  'small_init_small_final',
]
