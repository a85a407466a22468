"""Pruning in one step or several: scores, budgets and patterns to masks."""

from lthjax.counts import Rounding, layer_counts
from lthjax.pruning._iterative import prune_iteratively
from lthjax.pruning._one_shot import Scope, prune
from lthjax.pruning._program import PrunedProgram, prune_program

__all__ = [
  'PrunedProgram',
  'Rounding',
  'Scope',
  'layer_counts',
  'prune',
  'prune_iteratively',
  'prune_program',
]
