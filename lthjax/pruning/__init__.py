"""Pruning in one step or several: scores, budgets and patterns to masks."""

from lthjax.pruning._iterative import prune_iteratively
from lthjax.pruning._one_shot import Rounding, Scope, layer_counts, prune

__all__ = ['Rounding', 'Scope', 'layer_counts', 'prune', 'prune_iteratively']
