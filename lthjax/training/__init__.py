"""A resumable training loop over one value that holds everything."""

from lthjax.training._loop import Trainer, trainer
from lthjax.training._state import Best, DivergedError, TrainState, with_masks

__all__ = [
  'Best',
  'DivergedError',
  'TrainState',
  'Trainer',
  'trainer',
  'with_masks',
]
