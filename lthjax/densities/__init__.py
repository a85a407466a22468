"""Densities: how a budget of weights is spread over the layers.

A distribution is a function ``(shapes, sparsity) -> {name: density}``. Pass the
function itself: ``lthjax.prune(..., densities=lthjax.densities.erk)``. One that
takes a keyword ``axes`` is told which axes of a kernel count what.
"""

from lthjax.densities._owl import outliers, owl
from lthjax.densities._smart_ratio import smart_ratio
from lthjax.densities._spread import Densities as Densities
from lthjax.densities._spread import custom, er, erk, uniform

__all__ = ['custom', 'er', 'erk', 'outliers', 'owl', 'smart_ratio', 'uniform']
