"""Early-bird tickets: masks that settle long before the weights do.

Train, work out after every epoch which channels or weights would be kept, and
stop as soon as that no longer changes. What is left trains on from there, at
its own cost and not at that of the whole network.

References:
  You et al., Drawing Early-Bird Tickets: Towards More Efficient Training of
  Deep Networks, arXiv:1909.11957.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex

from lthjax import masks as masks_lib

State = Any


class EarlyBird(NamedTuple):
  """What `early_bird` knows after an epoch.

  Attributes:
    epoch: number of epochs trained so far.
    state: the state that they led to.
    masks: its masks.
    distances: how far these are from each of those before in the window, the
      latest first.
    drawn: whether the ticket is drawn, and training stops.
  """

  epoch: int
  state: State
  masks: chex.ArrayTree
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

  Masks are looked at before each epoch and after the last one, and the first of
  them belong to the initial state. To go on from the ticket that is drawn,
  train ``lthjax.with_masks(bird.state, masks)``, where ``masks`` are
  ``bird.masks`` for single weights. Those of channels are at the scales only:
  make masks of all that belongs to them, by `lthjax.structured.mask_channels`.

  Args:
    train_epoch: ``train_epoch(state) -> state`` trains a dense network for an
      epoch, or however long it shall be between two looks.
    state: where to start from, usually at initialization.
    masks_of: ``masks_of(state)``, the masks that would be drawn now: for
      channels `lthjax.structured.channel_masks`, for single weights
      `lthjax.prune` of magnitudes with ``scope='global'``.
    epochs: when to give up.
    window: how many masks in a row have to agree with the newest, itself
      included.
    threshold: how far apart, by `lthjax.masks.hamming`, they may be to agree.

  Yields:
    An `EarlyBird` a look: ``epochs + 1`` of them, or fewer if a ticket is
    drawn. The last one tells with ``drawn`` whether it was.

  Raises:
    TypeError: if ``epochs`` or ``window`` is not an integer.
    ValueError: if an option is out of range, or masks have no prunable leaf.

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
    You et al., arXiv:1909.11957, algorithm 1. As in the authors' code the
    newest mask is compared with each of the others; the paper's algorithm
    compares each with the one before it.
  """
  if operator.index(epochs) < 0:
    raise ValueError(f'`epochs` was {epochs}, but must be at least 0.')
  _check(window, threshold)

  def run():
    now, latest = state, []
    for epoch in range(epochs + 1):
      if epoch:
        now = train_epoch(now)
      masks = masks_of(now)
      latest = [masks, *latest][:window]
      distances = distances_to_newest(latest)
      drawn = settled(distances, window=window, threshold=threshold)
      yield EarlyBird(epoch, now, masks, distances, drawn)
      if drawn:
        return

  return run()


def distances_to_newest(latest: Sequence[chex.ArrayTree]) -> tuple[float, ...]:
  """Measures how far the newest masks are from those before.

  Args:
    latest: trees of masks, the newest first.

  Returns:
    `lthjax.masks.hamming` distances to the second, the third, and so on.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.tickets._early_bird import distances_to_newest
    >>> masks = jnp.array([[True, True], [True, False], [False, False]])
    >>> distances_to_newest(list(masks))
    (0.5, 1.0)
  """
  newest, *others = latest
  return tuple(masks_lib.hamming(newest, other) for other in others)


def settled(
  distances: Sequence[float], *, window: int = 5, threshold: float = 0.1
) -> bool:
  """Tells whether it is time to draw the ticket.

  Args:
    distances: from the newest masks to those before, the latest first.
    window: as in `early_bird`.
    threshold: as in `early_bird`.

  Returns:
    Whether there are enough masks, and none of the window is further from the
    newest than the threshold.

  Raises:
    TypeError: if ``window`` is not an integer.
    ValueError: if an option is out of range.

  Example:
    >>> import lthjax as lth
    >>> lth.tickets.settled([0.02, 0.05, 0.08, 0.1, 0.4])
    True
    >>> lth.tickets.settled([0.0, 0.0, 0.0])  # Not enough yet.
    False

  References:
    You et al., arXiv:1909.11957, section 3.2.
  """
  _check(window, threshold)
  seen = distances[: window - 1]
  return len(seen) == window - 1 and all(d <= threshold for d in seen)


def _check(window: int, threshold: float) -> None:
  """Raises if nothing would be compared, or anything would agree."""
  if operator.index(window) < 2:
    raise ValueError(
      f'`window` was {window}, but must be at least 2: the newest masks, and'
      ' some to compare them with.'
    )
  if not 0 <= threshold < 1:
    raise ValueError(
      f'`threshold` was {threshold}, but must be in [0, 1): the share of'
      ' positions at which masks may differ.'
    )
