"""What a weight is worth: a higher score is kept, for every criterion.

There are two kinds. Scores of values take the params, and where they need them
the params at initialization. Scores at initialization (`snip`, `grasp`,
`synflow`, `taylor`, `fisher`) take a loss or a model too, as a pure function.
All return a tree of scores of the structure of the params.
"""

from lthjax.scores._fisher import fisher
from lthjax.scores._grasp import grasp
from lthjax.scores._large_final import (
  large_final,
  large_final_same_sign,
  large_init,
  large_init_large_final,
  small_final,
  small_init,
  small_init_small_final,
)
from lthjax.scores._magnitude import magnitude
from lthjax.scores._movement import magnitude_increase, movement
from lthjax.scores._noise import noise
from lthjax.scores._snip import snip
from lthjax.scores._synflow import synflow
from lthjax.scores._taylor import taylor

__all__ = [
  'fisher',
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
