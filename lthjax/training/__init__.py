"""A resumable training loop over one value that holds everything."""

from lthjax.training._loop import (
  Best,
  Trainer,
  TrainState,
  no_best,
  trainer,
  with_masks,
)

__all__ = [
  'Best',
  'TrainState',
  'Trainer',
  'no_best',
  'trainer',
  'with_masks',
]
