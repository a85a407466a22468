"""Whole states beside tickets, as orbax checkpoints in a local library."""

import shutil
from collections.abc import Collection
from pathlib import Path

from lthjax import checkpoints
from lthjax.library._store import Store
from lthjax.tickets import Ticket


def check(store: Store) -> None:
  """Raises unless checkpoints can be written in a library."""
  if store.system is not None:
    raise ValueError(
      f'{store.root} is a bucket, but whole states are kept in local folders'
      ' only. Leave `states` out: params are kept anywhere.'
    )
  checkpoints.check_path(store.root)


def save(store: Store, key: str, ticket: Ticket) -> None:
  """Writes both states of a ticket, unless they are there."""
  if not (path := _path(store, key)).exists():
    checkpoints.save_ticket(path, ticket)


def load(store: Store, key: str, like: Ticket) -> Ticket:
  """Reads a ticket with its states, or raises `LookupError`."""
  if store.system is not None or not (path := _path(store, key)).exists():
    raise LookupError(
      f'The ticket {key[:12]} was added without its states. Its params are'
      ' there: use `load`.'
    )
  return checkpoints.load_ticket(path, like)


def verify(store: Store, key: str) -> None:
  """Raises `ValueError` if states are there and damaged."""
  if store.system is None and (path := _path(store, key)).exists():
    checkpoints.read_metadata(path)


def collect(store: Store, keep: Collection[str]) -> None:
  """Removes states whose tickets are gone."""
  if store.system is None:
    for name in store.names('states'):
      if name not in keep:
        shutil.rmtree(_path(store, name))


def _path(store: Store, key: str) -> Path:
  return Path(store.root) / 'states' / key
