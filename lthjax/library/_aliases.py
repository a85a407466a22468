"""Names that move from ticket to ticket: a log of numbered files each.

A change is one new file, created only if its number is free, so that of two
writers one gets an error. Each names the hash of the file before it. Nothing is
renamed or overwritten, which object stores could not do as a whole.
"""

import datetime
import getpass
import json
import re
import socket
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.library import _format, _manifest
from lthjax.library._store import Store

_WORD = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]*')
_HEX = re.compile(r'[0-9a-f]{8,}')
_FIELDS = ('number', 'action', 'key', 'source', 'who', 'when', 'why', 'checks')
_ACTIONS = ('promote', 'rollback', 'refused')

Check = Callable[[Any], Any]


class ConflictError(RuntimeError):
  """Another writer was faster. Nothing was changed."""


class RefusedError(RuntimeError):
  """A required check failed. The alias points at what it pointed at before."""


class Change(NamedTuple):
  """One line in the log of an alias.

  Attributes:
    number: from 1 on.
    action: "promote", "rollback" or "refused".
    key: the ticket that was asked for; unless refused, the alias points at it.
    source: the ticket that the alias pointed at before, or `None`.
    who: user and machine.
    when: time in UTC, in the form of ISO 8601.
    why: a text.
    checks: ``{name: outcome}``; "passed" or what went wrong.
  """

  number: int
  action: str
  key: str
  source: str | None
  who: str
  when: str
  why: str
  checks: dict[str, str]


def check_alias(alias: Any) -> str:
  """Returns an alias that can be a name in the library, and is not a key."""
  if not isinstance(alias, str):
    raise _checks.wrong_type('alias', alias, 'be a text, as "support/live"')
  words = alias.split('/')
  if not all(_WORD.fullmatch(word) for word in words) or len(alias) > 200:
    wanted = (
      'consist of words of letters, digits, "_", "-" and ".", joined by'
      ' slashes, such as "support/live"'
    )
    raise _checks.wrong_value('alias', alias, wanted)
  if _HEX.fullmatch(alias):
    wanted = 'not look like the key of a ticket'
    raise _checks.wrong_value('alias', alias, wanted)
  return alias


def all_aliases(store: Store) -> list[str]:
  """Returns all aliases."""
  return [name.replace('+', '/') for name in store.names('aliases')]


def log(store: Store, alias: str) -> tuple[Change, ...]:
  """Returns the changes of an alias, oldest first, once they are known sound.

  Raises:
    ValueError: if the log has a gap, or was changed after it was written.
  """
  return _read(store, alias)[0]


def stack(changes: Iterable[Change]) -> list[str]:
  """Returns what an alias points at (last), and what it can go back to."""
  found: list[str] = []
  for change in changes:
    if change.action == 'promote' and found[-1:] != [change.key]:
      found.append(change.key)
    elif change.action == 'rollback':
      found.pop()
  return found


def current(store: Store, alias: str) -> str:
  """Returns the key that an alias points at, or raises `LookupError`."""
  found = stack(log(store, alias))
  if not found:
    known = ', '.join(all_aliases(store)) or 'none'
    raise LookupError(
      f'There is no alias {alias!r} in {store.root}; there are: {known}.'
      ' Promote a ticket to it first.'
    )
  return found[-1]


def before(store: Store, alias: str, changes: Iterable[Change]) -> str:
  """Returns the key to roll back to, or raises `LookupError`."""
  points_at = stack(changes)
  if len(points_at) < 2:
    first = current(store, alias)
    raise LookupError(
      f'{alias} points at its first ticket, {first[:12]}: there is nothing to'
      ' go back to. Promote another ticket instead.'
    )
  return points_at[-2]


def append(
  store: Store,
  alias: str,
  action: str,
  key: str,
  *,
  seen: tuple[Change, ...],
  who: str | None,
  why: str,
  checks: Mapping[str, str] = types.MappingProxyType({}),
) -> Change:
  """Appends a change to a log that has not moved since it was seen.

  Raises:
    ConflictError: if it has; nothing is changed then.
  """
  changes, before = _read(store, alias)
  change = Change(
    number=len(seen) + 1,
    action=action,
    key=key,
    source=([None, *stack(seen)])[-1],
    who=_user() if who is None else _checks.text('who', who),
    when=now(),
    why=_checks.text('why', why),
    checks=dict(checks),
  )
  text = _format.canonical({**change._asdict(), 'before': before})
  try:
    if len(changes) != len(seen):
      raise FileExistsError
    store.create(_path(alias, change.number), text.encode())
  except FileExistsError:
    last = log(store, alias)[-1]
    raise ConflictError(
      f'{last.who} changed {alias} at the same time ({last.action},'
      f' {last.key[:12]}). Nothing was changed by this call: look at the'
      f' history of {alias}, and try again.'
    ) from None
  return change


def run_checks(
  checks: Mapping[str, Check] | Iterable[Check], report: Any
) -> dict[str, str]:
  """Returns the outcome of each check of a report: "passed", or why not."""
  outcomes = {}
  for name, check in named_checks(checks).items():
    try:
      passed = check(report)
    except Exception as error:
      outcomes[name] = f'{type(error).__name__}: {error}'
      continue
    if getattr(passed, 'shape', None) == () and hasattr(passed, 'item'):
      passed = passed.item()
    if isinstance(passed, bool):
      outcomes[name] = 'passed' if passed else 'failed'
    else:  # Nothing passes by accident.
      outcomes[name] = f'returned {_checks.describe(passed)}, not True or False'
  return outcomes


def named_checks(
  checks: Mapping[str, Check] | Iterable[Check],
) -> dict[str, Check]:
  """Returns checks by name; a list goes by the names of its functions."""
  named: dict[Any, Any] = {'': None}
  if isinstance(checks, Mapping):
    named = dict(checks)
  elif isinstance(checks, list | tuple):
    named = {getattr(f, '__name__', repr(f)): f for f in checks}
    if len(named) < len(checks):
      raise ValueError(
        '`checks` has several functions of one name. Pass a dict from names to'
        ' functions.'
      )
  if not all(
    isinstance(n, str) and n and callable(f) for n, f in named.items()
  ):
    wanted = 'be a dict from names to functions `(report) -> bool`, or a list'
    raise _checks.wrong_type('checks', checks, wanted)
  return named


def now() -> str:
  """Returns the time in UTC."""
  utc = datetime.datetime.now(datetime.UTC)
  return utc.isoformat(timespec='microseconds')


def _user() -> str:
  try:
    user = getpass.getuser()
  except (KeyError, OSError):  # A container may have no users.
    user = 'unknown'
  return f'{user} on {socket.gethostname()}'


def _path(alias: str, number: int | None = None) -> str:
  folder = f'aliases/{alias.replace("/", "+")}'  # No word has a plus.
  return folder if number is None else f'{folder}/{number:08d}.json'


def _read(store: Store, alias: str) -> tuple[tuple[Change, ...], str | None]:
  """Returns the log of an alias, and the hash of its last file."""
  check_alias(alias)
  changes: list[Change] = []
  before = None
  names = store.names(_path(alias))
  for number, name in enumerate(names, 1):
    if name != f'{number:08d}.json':
      raise ValueError(
        f'The log of {alias} in {store.root} has {name} where {number:08d}.json'
        ' should be. It is left untouched; restore it from a copy.'
      )
    data = store.read(f'{_path(alias)}/{name}')
    try:
      changes.append(_change(data, number, before, changes))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
      raise ValueError(
        f'{store.root / _path(alias, number)} is damaged: {error}. It is left'
        ' untouched; restore it from a copy.'
      ) from None
    before = _format.sha256(data)
  return tuple(changes), before


def _change(
  data: bytes, number: int, before: str | None, earlier: list[Change]
) -> Change:
  """Returns a line of a log, or raises `ValueError`."""
  entry = json.loads(data)
  if not isinstance(entry, dict) or entry.keys() != {*_FIELDS, 'before'}:
    raise ValueError('it has other fields')
  if _format.canonical(entry).encode() != data:
    raise ValueError('it is not as it was written')
  if entry.pop('before') != before:
    raise ValueError('it does not follow the file before it')
  change = Change(**entry)
  points_at = stack(earlier)
  allowed = [None, *points_at][-1]
  if change.number != number or change.action not in _ACTIONS:
    raise ValueError('its number or action is wrong')
  if not _manifest.is_key(change.key) or change.source != allowed:
    raise ValueError(f'it leads from {change.source} to {change.key!r}')
  if change.action == 'rollback' and points_at[-2:-1] != [change.key]:
    raise ValueError('it goes back to where the alias has not been')
  return change


def verify(store: Store, exists: Callable[[str], bool]) -> list[str]:
  """Describes what is wrong with any log."""
  faults = []
  for alias in all_aliases(store):
    try:
      missing = [key for key in stack(log(store, alias)) if not exists(key)]
      faults += [f'{alias} needs {key}, which is missing' for key in missing]
    except ValueError as error:
      faults.append(str(error))
  return faults


def promote(
  store: Store,
  alias: str,
  key: str,
  seen: tuple[Change, ...],
  outcomes: Mapping[str, str],
  **about: Any,
) -> Change:
  """Logs a promotion, or a refusal, and raises `RefusedError` on that."""
  passed = all(x == 'passed' for x in outcomes.values())
  action = 'promote' if passed else 'refused'
  change = append(
    store, alias, action, key, seen=seen, checks=outcomes, **about
  )
  refuse(
    [f'{name}: {x}' for name, x in outcomes.items() if x != 'passed'],
    f'{key[:12]} is not promoted to {alias} in {store.root}: {{}}. The refusal'
    ' is in the history; the alias points at what it pointed at before.',
    RefusedError,
  )
  return change
