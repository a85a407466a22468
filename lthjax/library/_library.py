"""A family of tickets: kept once, promoted, rolled back and served."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import chex

from lthjax import _checks
from lthjax.library import (
  _adding,
  _aliases,
  _card,
  _compare,
  _manifest,
  _placing,
  _signing,
  _states,
)
from lthjax.library._adding import Entry
from lthjax.library._aliases import Change, Check
from lthjax.library._compare import Comparison
from lthjax.library._contents import Reader
from lthjax.library._store import Store
from lthjax.tickets import Ticket
from lthjax.tickets._search import find_params


@dataclasses.dataclass(frozen=True)
class Library:
  """A folder of tickets, which are never changed, and names that move.

  Wherever a method takes a ``name``, it is an alias, a key, or the beginning of
  a key with at least eight digits. Unknown names raise `LookupError`, damaged
  files `ValueError`; neither changes anything.

  Attributes:
    store: the files; see `open`.
  """

  store: Store
  _entries: dict[str, Entry] = dataclasses.field(
    default_factory=dict, repr=False, compare=False
  )

  def add(
    self,
    ticket: Ticket,
    *,
    parent: str | None = None,
    domain: str = '',
    config: Any = None,
    data: Any = None,
    seeds: Iterable[int] = (),
    controls: Mapping[str, Any] | None = None,
    license: str = '',
    git: str = '',
    notes: Mapping[str, Any] | None = None,
    params: Callable[[Any], chex.ArrayTree] = find_params,
    states: bool = False,
  ) -> str:
    """Adds a ticket; the same one added twice is one.

    Kept are the masks, and of the params the values that are alive. Values that
    the parent holds too, such as the weights that all levels rewind to, are not
    stored again.

    Args:
      ticket: what `lthjax.tickets.imp` yields, with metrics that JSON can hold.
        States may be left out by ``ticket._replace(start=None)``.
      parent: name of the ticket that this one comes from.
      domain: what the ticket is for.
      config: configuration of the run, a dataclass or a dict.
      data: what it was trained on: name, version, split, checksum.
      seeds: of the run.
      controls: results of controls, by name.
      license: of the weights, such as "apache-2.0".
      git: version of the code, as ``git describe`` prints it.
      notes: anything else that JSON can hold.
      params: ``params(state)``, by default the field ``params`` of the state. A
        field ``model_state`` is kept too.
      states: whether to keep both states as a whole too, optimizer included,
        for `load_ticket`; in local folders only.

    Returns:
      The key: SHA-256 of all of this, 64 hexadecimal digits.

    Raises:
      OSError: if it cannot be written. Nothing is changed then.
    """
    return _adding.add(
      self.store,
      ticket,
      params,
      _checks.flag('states', states),
      parent=None if parent is None else self.key(parent),
      domain=_checks.text('domain', domain),
      license=_checks.text('license', license),
      git=_checks.text('git', git),
      config=_manifest.config(config),
      data=_manifest.values('data', data),
      seeds=[*_checks.integers('seeds', seeds)],
      controls=_manifest.values('controls', controls or {}),
      notes=_manifest.values('notes', notes or {}),
    )

  def key(self, name: str) -> str:
    """Returns the key of a ticket by its alias, its key, or the key's start."""
    return _adding.resolve(self.store, name)

  def list(self, domain: str | None = None) -> tuple[Entry, ...]:
    """Returns the tickets, newest first; damaged ones are left out, and said.

    Args:
      domain: to see those that were added for it only.
    """
    if domain is not None:
      _checks.text('domain', domain)
    entries, damaged = [], []
    for key in self._keys():
      try:
        entries.append(self._entry(key))
      except ValueError as error:
        damaged.append(str(error))
    if damaged:
      warnings.warn('; '.join(damaged), stacklevel=2)
    entries.sort(key=lambda x: (x.added, x.key), reverse=True)
    return tuple(x for x in entries if domain in (None, x.domain))

  def load(self, name: str, like: Any = None, *, part: str = 'trained') -> Any:
    """Loads the params of a ticket, to the bit; dead weights are +0.0.

    Args:
      name: alias or key.
      like: tree of arrays or of `jax.ShapeDtypeStruct` whose structure, shapes
        and dtypes are required; arrays are placed on its devices. `None` for
        nested dicts.
      part: "trained", "start" (what training rewound to) or "model_state".

    Returns:
      The params. All tickets of one architecture have the same shapes, so that
      a compiled function that takes params serves all of them.
    """
    _checks.one_of('part', part, _manifest.PARTS)
    key = self.key(name)
    reader = Reader(self.store)
    table = reader.open(key).manifest['parts']
    if part not in table:
      raise LookupError(
        f'The ticket {key[:12]} was added without "{part}"; it has'
        f' {", ".join(table) or "masks only"}.'
      )
    if like is not None:
      _placing.check_like(table[part], like, f'The {part} of {key[:12]}')
    return _placing.put(reader.part(key, part), like)

  def masks(self, name: str, like: Any = None) -> Any:
    """Loads the masks of a ticket, in the structure of params or masks."""
    key = self.key(name)
    reader = Reader(self.store)
    table = reader.open(key).manifest['masks']
    if like is not None:
      _placing.check_like(table, like, f'The masks of {key[:12]}', masks=True)
    return _placing.put(reader.masks(key), like)

  def load_ticket(self, name: str, like: Ticket) -> Ticket:
    """Loads a ticket that was added with ``states=True``; see `checkpoints`."""
    return _states.load(self.store, self.key(name), like)

  def promote(
    self,
    name: str,
    alias: str,
    *,
    checks: Mapping[str, Check] | Iterable[Check] = (),
    report: Any = None,
    why: str = '',
    who: str | None = None,
  ) -> Change:
    """Lets an alias point at a ticket, if all required checks pass.

    The ticket is verified first. A refusal is logged, too.

    Args:
      name: the ticket.
      alias: words joined by slashes, such as "support/live".
      checks: functions ``check(report) -> bool``, by name or as a list. One
        that raises has not passed.
      report: evaluation of the ticket, anything that the checks understand; by
        default the metrics that it was added with.
      why: reason, for the log.
      who: for the log; by default user and machine.

    Returns:
      The line in the log.

    Raises:
      ConflictError: if another writer was faster.
      RefusedError: if a check did not pass.
    """
    named = _aliases.named_checks(checks)
    _aliases.check_alias(alias)
    seen = _aliases.log(self.store, alias)
    key = self.verify(name)[0]
    if report is None:
      report = Reader(self.store).open(key).manifest['metrics']
    outcomes = _aliases.run_checks(named, report)
    return _aliases.promote(
      self.store, alias, key, seen, outcomes, who=who, why=why
    )

  def rollback(
    self, alias: str, *, why: str = '', who: str | None = None
  ) -> Change:
    """Lets an alias point at what it pointed at before its last promotion.

    Raises:
      ConflictError: if another writer was faster.
    """
    _aliases.check_alias(alias)
    seen = _aliases.log(self.store, alias)
    key = self.verify(_aliases.before(self.store, alias, seen))[0]
    return _aliases.append(
      self.store, alias, 'rollback', key, seen=seen, who=who, why=why
    )

  def history(self, alias: str) -> tuple[Change, ...]:
    """Returns all changes of an alias, refusals included, oldest first."""
    found = _aliases.log(self.store, alias)
    if not found:
      _aliases.current(self.store, alias)
    return found

  def aliases(self) -> dict[str, str]:
    """Returns the key that each alias points at."""
    names = _aliases.all_aliases(self.store)
    stacks = {x: _aliases.stack(_aliases.log(self.store, x)) for x in names}
    return {alias: found[-1] for alias, found in stacks.items() if found}

  def compare(
    self,
    a: str,
    b: str,
    *,
    predict: Callable[[Any], Any] | None = None,
    like: Any = None,
  ) -> Comparison:
    """Compares two tickets of one network.

    Args:
      a: a ticket.
      b: another one.
      predict: ``predict(params)`` returns classes, or scores ``[examples,
        classes]``, to count the examples on which the tickets differ.
      like: structure of the params that ``predict`` takes; see `load`.

    Returns:
      The `Comparison`; as text, it is a table.
    """
    if predict is not None:
      _checks.function('predict', predict, 'predict(params)')
    reader, keys = Reader(self.store), (self.key(a), self.key(b))
    return _compare.compare(
      [self.masks(key) for key in keys],
      [reader.open(key).manifest['metrics'] for key in keys],
      [functools.partial(self.load, key, like) for key in keys],
      predict,
    )

  def diff(self, a: str, b: str) -> dict[str, tuple[Any, Any]]:
    """Returns what differs in what is known about two tickets.

    Returns:
      ``{entry: (of a, of b)}``: fields, and leaves of masks and parts.
    """
    return _compare.diff(Reader(self.store), self.key(a), self.key(b))

  def verify(self, name: str | None = None) -> tuple[str, ...]:
    """Reads tickets and finds any flipped bit.

    Args:
      name: a ticket; `None` for all of them, and all logs of aliases.

    Returns:
      The keys of what was verified.

    Raises:
      ValueError: naming all that is damaged or missing.
    """
    if name is not None:
      key = self.key(name)
      _adding.verify(self.store, key)
      return (key,)
    keys = self._keys()
    _adding.verify_all(self.store, keys)
    return keys

  def sign(self, name: str, signer: Any) -> str:
    """Verifies a ticket, signs its manifest, and keeps the signature.

    Args:
      name: the ticket.
      signer: a `model_signing.signing.Config`, or anything else whose
        ``sign(folder, path)`` writes a signature of a folder.

    Returns:
      SHA-256 of the signature.
    """
    key = self.verify(name)[0]
    return _signing.sign(Reader(self.store), key, signer)

  def verify_signature(self, name: str, verifier: Any) -> str:
    """Verifies a ticket, and that a signature of it is accepted.

    Args:
      name: the ticket.
      verifier: a `model_signing.verifying.Config`, or anything else whose
        ``verify(folder, path)`` raises unless a signature is right.

    Returns:
      SHA-256 of the signature.

    Raises:
      ValueError: without such a signature.
    """
    key = self.verify(name)[0]
    return _signing.accepted(Reader(self.store), key, verifier)

  def gc(
    self,
    *,
    keep: Collection[str] | Callable[[Entry], bool] = (),
    dry_run: bool = False,
  ) -> tuple[str, ...]:
    """Removes tickets that nothing needs.

    What an alias points at, or can be rolled back to, stays; so do the
    ancestors of all that stays. Do not add tickets at the same time.

    Args:
      keep: names of other tickets to keep, or a function of an `Entry`.
      dry_run: whether to remove nothing, and only return what would go.

    Returns:
      The keys of the tickets that were removed.
    """
    dry_run = _checks.flag('dry_run', dry_run)
    if callable(keep) and not isinstance(keep, type):
      kept = [key for key in self._keys() if keep(self._entry(key))]
    else:
      kept = [self.key(name) for name in _checks.globs('keep', keep)]
    return tuple(_adding.collect(self.store, kept, dry_run))

  def card(self, name: str) -> str:
    """Returns a model card in Markdown: metrics, layers and provenance."""
    return _card.card(Reader(self.store), self.key(name), self.aliases())

  def export(self, name: str, folder: str | os.PathLike[str]) -> Path:
    """Writes a ticket as a folder for other tools: DVC, MLflow or a hub.

    The folder has the card (``README.md``), the manifest, the params with masks
    applied (``model.safetensors``), the same at one bit per weight
    (``ticket.safetensors``, for `lthjax.deploy.load`) and digests of all.

    Args:
      name: the ticket.
      folder: local folder to create; nothing is overwritten.
    """
    key = self.key(name)
    return _card.export(Reader(self.store), key, folder, self.card(key))

  def _keys(self) -> tuple[str, ...]:
    return _adding.keys(self.store)

  def _entry(self, key: str) -> Entry:
    if key not in self._entries:  # Files never change.
      self._entries[key] = _adding.entry(self.store, key)
    return self._entries[key]
