"""Early-bird tickets: masks that settle long before the weights do.

Train a dense network, compute after every epoch which channels or weights would
be kept, and stop once that no longer changes. What is left trains on, at its
own cost instead of that of the whole network.

References:
  You et al., Drawing Early-Bird Tickets: Towards More Efficient Training of
  Deep Networks, arXiv:1909.11957.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex

from lthjax import _checks
from lthjax import masks as masks_lib

State = Any


class EarlyBird(NamedTuple):
  """One check of `early_bird`.

  Attributes:
    epoch: number of epochs trained so far.
    state: the state after them.
    masks: its masks.
    distances: distances from these masks to the previous ones in the window,
      the latest first.
    drawn: whether the ticket is drawn, so that training stops.
  """

  epoch: int
  state: State
  masks: Any
  distances: tuple[float, ...]
  drawn: bool


def early_bird(
  train_epoch: Callable[[State], State],
  state: State,
  masks_of: Callable[[State], chex.ArrayTree],
  *,
  epochs: int,
  window: int = 5,
  threshold: float = 0.1,
) -> Iterator[EarlyBird]:
  """Trains a dense network until its masks have settled.

  Masks are checked before each epoch and after the last one. To continue from
  the drawn ticket, train ``lthjax.with_masks(bird.state, bird.masks)``. Channel
  masks cover only the scales: `lthjax.structure.mask_channels` extends them to
  all weights of a channel.

  Args:
    train_epoch: ``train_epoch(state) -> state`` trains a dense network for an
      epoch, or for any other interval between two checks.
    state: where to start from, usually at initialization.
    masks_of: ``masks_of(state)``, the masks that would be drawn now: for
      channels `lthjax.structure.channel_masks`, for single weights
      `lthjax.prune` by magnitude with ``scope='global'``.
    epochs: maximum number of epochs.
    window: number of consecutive masks that must agree with the newest,
      including itself.
    threshold: largest `lthjax.masks.hamming` distance at which masks agree.

  Yields:
    One `EarlyBird` per check: ``epochs + 1`` of them, or fewer if a ticket is
    drawn. ``drawn`` is true on the last one if a ticket was drawn.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> def masks_of(scale):  # Keeps the larger half.
    ...   return lth.keep_largest(scale, 2)
    >>> birds = lth.tickets.early_bird(
    ...   lambda scale: scale * jnp.array([0.9, 0.8, 0.7, 0.6]),
    ...   jnp.array([1.0, 2.0, 2.2, 0.1]),
    ...   masks_of,
    ...   epochs=20,
    ...   window=3,
    ... )
    >>> for bird in birds:
    ...   print(bird.epoch, bird.distances)
    0 ()
    1 (0.0,)
    2 (0.0, 0.0)
    >>> bird.drawn
    True

  References:
    You et al., arXiv:1909.11957, algorithm 1. As in the authors' code, the
    newest mask is compared with each of the others; the paper's algorithm
    compares each with the one before it.
  """
  epochs = _checks.at_least('epochs', epochs, 0)
  window, threshold = _check(window, threshold)
  _checks.function('train_epoch', train_epoch, 'train_epoch(state) -> state')
  _checks.function('masks_of', masks_of, 'masks_of(state) -> masks')

  def run():
    now, latest = state, []
    for epoch in range(epochs + 1):
      if epoch:
        now = train_epoch(now)
      masks = masks_of(now)
      # The FIFO queue of algorithm 1, the newest first.
      latest = [masks, *latest][:window]
      distances = tuple(masks_lib.hamming(masks, old) for old in latest[1:])
      drawn = settled(distances, window=window, threshold=threshold)
      yield EarlyBird(epoch, now, masks, distances, drawn)
      if drawn:
        return

  return run()


def settled(
  distances: Sequence[float], *, window: int = 5, threshold: float = 0.1
) -> bool:
  """Returns whether it is time to draw the ticket.

  That is when there are enough masks, and all in the window are within the
  threshold of the newest. The distances are from the newest masks to the
  previous ones, the latest first; `early_bird` documents the other arguments.

  Example:
    >>> import lthjax as lth
    >>> lth.tickets.settled([0.02, 0.05, 0.08, 0.1, 0.4])
    True
    >>> lth.tickets.settled([0.0, 0.0, 0.0])  # Not enough yet.
    False

  References:
    You et al., arXiv:1909.11957, section 3.2.
  """
  window, threshold = _check(window, threshold)
  if not isinstance(distances, Sequence):
    raise _checks.wrong_type('distances', distances, 'be a list of numbers')
  # NaN compares as false, so that it never settles.
  seen = distances[: window - 1]
  return len(seen) == window - 1 and all(d <= threshold for d in seen)


def _check(window: int, threshold: float) -> tuple[int, float]:
  """Returns the options if something is compared and may disagree."""
  share = _checks.share('threshold', threshold, 'at 1, any masks would agree')
  return _checks.at_least('window', window, 2), share
