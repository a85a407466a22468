"""How the alive set starts and moves, and the optimizers made of it."""

from lthjax.topologies.fixed import FixedState, fixed, static

__all__ = ['FixedState', 'fixed', 'static']
