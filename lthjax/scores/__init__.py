"""Scores: what a weight is worth. For every criterion, a higher score is kept.

Scores of values take the params and, where they need them, the params at
initialization. Scores at initialization (`snip`, `gradient`, `grasp`,
`synflow`, `taylor`, `fisher`) take a loss or a model too, as a pure function.
All return a tree of scores with the structure of the params.
"""

from lthjax.scores._fisher import fisher
from lthjax.scores._gradient import gradient
from lthjax.scores._grasp import grasp
from lthjax.scores._noise import noise
from lthjax.scores._snip import snip
from lthjax.scores._synflow import synflow
from lthjax.scores._taylor import taylor
from lthjax.scores._values import (
  large_final,
  large_final_same_sign,
  large_init,
  large_init_large_final,
  magnitude,
  magnitude_increase,
  movement,
  small_final,
  small_init,
  small_init_small_final,
)

__all__ = [
  'fisher',
  'gradient',
  'grasp',
  'large_final',
  'large_final_same_sign',
  'large_init',
  'large_init_large_final',
  'magnitude',
  'magnitude_increase',
  'movement',
  'noise',
  'small_final',
  'small_init',
  'small_init_small_final',
  'snip',
  'synflow',
  'taylor',
]
