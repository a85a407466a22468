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
  """The level after a ticket, or level 0.

  Args:
    search: such as `lthjax.tickets.imp`.
    train: what trains a state under masks.
    start: state to rewind to.
    masks: masks that keep everything, one per seed.
    last: ticket of the level before.
    config: says how much to prune.
    **options: other options of the search.
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


def _prune(config: Any) -> Callable[..., Any]:
  scope: Any = getattr(config, 'scope', 'layer')
  return functools.partial(
    lth.prune, fraction=dict(config.fraction), scope=scope
  )
