"""Tickets written, described and removed."""

import platform
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from lthjax import _checks, trees
from lthjax._versions import __version__
from lthjax.library import (
  _aliases,
  _card,
  _contents,
  _format,
  _manifest,
  _placing,
  _signing,
  _states,
)
from lthjax.library._contents import Reader
from lthjax.library._store import Store
from lthjax.tickets import Ticket
from lthjax.training._state import field, has_field

_PREFIX = re.compile(r'[0-9a-f]{8,64}')
_TICKET = 'level density masks start trained metrics'


class Entry(NamedTuple):
  """A ticket in a list.

  Attributes:
    key: 64 hexadecimal digits.
    domain: what it was added for.
    level: number of prunings.
    density: alive share of the prunable weights.
    metrics: as they were added.
    parent: the key of the ticket that it comes from, or `None`.
    added: time in UTC, in the form of ISO 8601.
  """

  key: str
  domain: str
  level: int
  density: float
  metrics: Any
  parent: str | None
  added: str


def keys(store: Store) -> tuple[str, ...]:
  """Returns the keys of all tickets."""
  names = store.names('tickets')
  found = (name.partition('.')[0] for name in names)
  return tuple(
    key
    for key, name in zip(found, names, strict=True)
    if _manifest.is_key(key) and _contents.path(key).endswith('/' + name)
  )


def resolve(store: Store, name: str) -> str:
  """Returns the key of a ticket by alias, key or prefix, or `LookupError`."""
  _checks.text('name', name)
  if not _PREFIX.fullmatch(name):
    return _aliases.current(store, name)
  if _manifest.is_key(name) and store.exists(_contents.path(name)):
    return name
  found = [key for key in keys(store) if key.startswith(name)]
  if len(found) != 1:
    count = f'{len(found)} tickets' if found else 'no ticket'
    raise LookupError(
      f'There is {count} {name} in {store.root}. Give a key that `list()`'
      ' shows, or more of its digits.'
    )
  return found[0]


def entry(store: Store, key: str) -> Entry:
  """Returns a ticket as a list shows it."""
  _, manifest, storage = Reader(store).open(key)
  fields = ('domain', 'level', 'density', 'metrics', 'parent')
  return Entry(key, *[manifest[x] for x in fields], added=storage['added'])


def add(
  store: Store,
  ticket: Ticket,
  params: Callable[[Any], Any],
  states: bool,
  **about: Any,
) -> str:
  """Adds a ticket, and returns its key; nothing is written twice."""
  _checks.having('ticket', ticket, _TICKET, 'a `lthjax.tickets.Ticket`')
  if states:
    _states.check(store)
  masks, parts = _placing.take(ticket, params)
  manifest = {
    **about,
    'format': _manifest.FORMAT,
    'version': __version__,
    'level': _checks.at_least('ticket.level', ticket.level, 0),
    'density': _density(masks),
    'rewind_step': _step(ticket.start),
    'metrics': _manifest.values('metrics', ticket.metrics),
    **_placing.tables(trees.by_name(ticket.masks), masks, parts),
  }
  key = _format.sha256(_format.canonical(manifest))
  name, parent = _contents.path(key), about['parent']
  if states:
    _states.save(store, key, ticket)
  if store.exists(name):
    return key
  device = jax.devices()[0].device_kind
  machine = f'{platform.machine()}, {device}, jax {jax.__version__}'
  storage = {'added': _aliases.now(), 'machine': machine}
  data = _contents.encode(manifest, storage, masks, parts, Reader(store))
  try:
    store.create(name, data)
  except FileExistsError:  # Another process has added the same ticket.
    return key
  if parent is not None and not store.exists(_contents.path(parent)):
    store.remove(name)
    raise _aliases.ConflictError(
      f'The parent {parent[:12]} was removed while its child was added. Nothing'
      ' was added: keep the parent, and try again.'
    )
  return key


def _step(state: Any) -> int | None:
  """The step that training started from, where the state knows it."""
  if state is None or not has_field(state, 'step'):
    return None
  step: Any = field(state, 'step')
  return None if np.shape(step) else _checks.integer('ticket.start.step', step)


def _density(masks: _placing.Masks) -> float:
  """The alive share of the prunable weights, without any device."""
  known = [mask for mask in masks.values() if mask is not None]
  if not (size := sum(mask.size for mask in known)):
    raise ValueError(
      '`ticket.masks` have no prunable weight, so there is no ticket. Make'
      ' masks with `lthjax.masks.full(params)`.'
    )
  return sum(int(mask.sum()) for mask in known) / size


def collect(store: Store, keep: Collection[str], dry_run: bool) -> list[str]:
  """Removes tickets that nothing needs, and returns their keys."""
  needed = set(keep)
  for alias in _aliases.all_aliases(store):
    needed |= {*_aliases.stack(_aliases.log(store, alias))}
  reader = Reader(store)
  for key in tuple(needed):
    needed |= {at for at, _ in _card.chain(reader, key)}
  parents = {
    key: reader.open(key).manifest['parent']
    for key in keys(store)
    if key not in needed
  }
  # Children before parents: a kill leaves no ticket without its source.
  removed = sorted(parents, key=lambda key: _depth(key, parents), reverse=True)
  if not dry_run:
    for key in removed:
      store.remove(_contents.path(key))
    kept = keys(store)
    _states.collect(store, kept)
    _signing.collect(store, kept)
    folders = [f'aliases/{x}' for x in store.names('aliases')]
    for folder in ('', 'tickets', *folders):
      store.remove_dead(folder)
  return removed


def _depth(key: str | None, parents: dict[str, str | None]) -> int:
  """Counts the ancestors that are in a table."""
  number = 0
  while key in parents:
    key, number = parents[key], number + 1
  return number


def verify(store: Store, key: str) -> None:
  """Reads a ticket, and raises `ValueError` if it is damaged."""
  reader = Reader(store)
  manifest = reader.open(key).manifest
  reader.check_digest(key)
  for name in manifest['masks']:
    reader.mask(key, name)
  for part, leaves in manifest['parts'].items():
    for name in leaves:
      reader.leaf(key, part, name)
  _states.verify(store, key)
  _signing.verify(store, key)


def verify_all(store: Store, found: Iterable[str]) -> None:
  """Verifies tickets and logs, or raises `ValueError` naming all damage."""
  known, faults = set(found), []
  for key in sorted(known):
    try:
      verify(store, key)
    except (ValueError, LookupError) as error:
      faults.append(str(error))
  faults += _aliases.verify(store, known.__contains__)
  if faults:
    raise ValueError('\n'.join(faults))
