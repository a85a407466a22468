"""A resumable training loop over one value that holds everything."""

from lthjax.training._loop import Best, Trainer, TrainState, trainer, with_masks

__all__ = ['Best', 'TrainState', 'Trainer', 'trainer', 'with_masks']
