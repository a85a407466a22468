"""Searches for tickets that are kept level by level."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax

import lthjax as lth
from lthjax.tickets import Ticket


def check_fraction(config: Any, task: Any, masks: chex.ArrayTree) -> None:
  """Raises on a bad fraction before anything is trained or written."""
  jax.eval_shape(_prune(config), task.params, masks)


def next_ticket(
  search: Callable[..., Any],
  train: Any,
  start: Any,
  masks: chex.ArrayTree,
  last: Ticket | None,
  config: Any,
  **options: Any,
) -> Ticket:
  """The level after a ticket, or level 0 if there is none before.

  ``search`` is `lthjax.tickets.imp` or the like, ``train`` and ``start`` are
  its train and state, and ``masks`` keep everything, for every seed.
  """
  tickets = search(
    train,
    start,
    masks,
    levels=1 if last is None else last.level + 2,
    prune=_prune(config),
    vmapped=True,
    resume=last,
    **options,
  )
  return next(tickets)


def ticket(
  level: int, start: Any, kept: dict[str, Any] | None
) -> Ticket | None:
  """Networks that were kept as the ticket of a level, to go on from there."""
  if kept is None:
    return None
  trained = start._replace(**{k: x for k, x in kept.items() if k != 'masks'})
  return Ticket(level, 1.0, kept['masks'], start, trained, None)


def _prune(config: Any) -> Callable[..., Any]:
  scope: Any = getattr(config, 'scope', 'layer')
  return functools.partial(
    lth.prune, fraction=dict(config.fraction), scope=scope
  )
