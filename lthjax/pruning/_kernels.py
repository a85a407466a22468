"""Kernels of a program, pruned where it multiplies with them."""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, counts, trees
from lthjax.calibration import Calibration, _sites
from lthjax.calibration._calibrate import measure
from lthjax.calibration._sites import Site
from lthjax.program._interpreter import Path, bind
from lthjax.program._use import Use
from lthjax.rules import Rule

# What steps keep all entries of a leaf.
_WHOLE = {'expand_dims', 'pad', 'reshape', 'rev', 'squeeze', 'transpose'}


class Note(NamedTuple):
  """What was done to the kernel of a site.

  Attributes:
    keep: bool, in the shape of the operand.
    value: the new operand, if the rule updates it.
    zero: whether the statistic is all zero.
    unseen: how many kernels of a stack have one that is all zero.
    infinite: whether some is not finite.
    failed: whether the rule could not use some.
    tokens_per_input: their number.
    broken: whether some weight is not finite.
  """

  keep: jax.Array
  value: jax.Array | None
  zero: jax.Array
  unseen: jax.Array
  infinite: jax.Array
  failed: jax.Array
  tokens_per_input: jax.Array
  broken: jax.Array


class Feed(NamedTuple):
  """What the visit of a site is given, for each turn of its loops.

  Attributes:
    alive: bool, in the shape of the operand; `None` for all.
    ratio: the sparsity, as numerator and denominator; `None` for the rule's.
  """

  alive: jax.Array | None
  ratio: tuple[jax.Array, jax.Array] | None


def ratios(sparsity: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns sparsities by leaf as integer fractions, an array for each."""
  if sparsity is None:
    return {}
  _checks.mapping('sparsity', sparsity, 'names of leaves to sparsities')
  found = {}
  for name, (glob, _) in trees.per_leaf(
    dict.fromkeys(sparsity, 0.0), leaves, 'sparsity'
  ).items():
    what = f'sparsity[{glob!r}]'
    try:
      shares = np.asarray(sparsity[glob], np.float64)
    except (TypeError, ValueError):
      wanted = 'be a share, or an array with one for each turn of a loop'
      raise _checks.wrong_type(what, sparsity[glob], wanted) from None
    parts = [
      counts.ratio_of(_checks.closed_share(what, float(x)))
      for x in shares.ravel()
    ]
    tops = np.array([x.numerator for x in parts], np.int32)
    bottoms = np.array([x.denominator for x in parts], np.int32)
    found[name] = tops.reshape(shares.shape), bottoms.reshape(shares.shape)
  return found


def check(
  sites: Mapping[Path, Site],
  rule: Rule,
  leaves: Mapping[str, Any],
  looked_up: Collection[str],
) -> None:
  """Raises for leaves that cannot be pruned where they are used."""
  faults = [f'{name} is looked up as well' for name in sorted(looked_up)]
  by_name: dict[str, list[Use]] = {}
  for site in sites.values():
    for use in site.uses:
      by_name.setdefault(str(use.name), []).append(use)
      faults += _faults_of(site, use, rule, leaves[str(use.name)])
  for name, uses in by_name.items():
    if len(uses) > 1 and not _sites.disjoint(uses):
      faults.append(f'{name} is used {len(uses)} times')
  if faults:
    raise ValueError(
      'Some leaves cannot be pruned as the program runs:'
      f' {"; ".join(dict.fromkeys(faults))}. Leave them out with `where=`, or'
      ' prune them by `lthjax.prune`.'
    )


def _faults_of(site: Site, use: Use, rule: Rule, leaf: Any) -> list[str]:
  name, faults = str(use.name), []
  if use.loops != use.scans:
    faults.append(f'{name} is shared by the turns of a loop')
  if rule.updates and not use.exact:
    faults.append(
      f'{name} is changed before its matmul, so that new values do not go back'
      ' to it: use a rule that only selects'
    )
  if rule.updates and not jnp.issubdtype(leaf.dtype, jnp.floating):
    faults.append(f'{name} is {leaf.dtype}, which does not hold new values')
  operand = jax.ShapeDtypeStruct(use.shapes[use.operand], jnp.float32)
  depth = jax.eval_shape(lambda x: site.columns(x)[0], operand).shape[-2]
  if use.window:  # Groups of m do not span places of the window.
    depth //= math.prod(operand.shape[axis] for axis in use.window)
  pattern = rule.target.pattern
  if pattern is not None and depth % pattern.m:
    faults.append(f'{name} has {depth} inputs, not a multiple of {pattern.m}')
  if len(site.uses) > 1 or not _keeps_all(use):
    with jax.ensure_compile_time_eval():
      covered = sum(u.view(jnp.ones(u.shape, jnp.int8)) for u in site.uses)
      if not bool(jnp.all(covered == 1)):
        faults.append(f'{name} is joined with what is not pruned')
  return faults


def _keeps_all(use: Use) -> bool:
  return all(step.name in _WHOLE for step in use.steps)


def feeds(
  sites: Mapping[Path, Site],
  alive: Mapping[str, jax.Array],
  ratios: Mapping[str, Any],
) -> dict[Path, Feed]:
  """Returns what each site is given: which weights are alive, and how many."""
  found = {}
  for path, site in sites.items():
    masks: Any = None
    if alive:
      views = [use.view(alive[str(use.name)]) for use in site.uses]
      masks = sum(views[1:], views[0])
    names = [str(use.name) for use in site.uses if str(use.name) in ratios]
    given = [ratios[name] for name in names]
    loops = tuple(loop.length for loop in site.use.scans)
    for name, (top, _) in zip(names, given, strict=True):
      if np.shape(top) not in ((), loops):
        each = f', or an array {loops}: one for each turn' if loops else ''
        raise ValueError(
          f'`sparsity[{name!r}]` has the shape {np.shape(top)}, but must be a'
          f' number{each}.'
        )
    ratio: Any = None
    if given:
      ratio = tuple(jnp.broadcast_to(x, loops) for x in given[0])
    if masks is not None or ratio is not None:
      found[path] = Feed(masks, ratio)
  return found


def visit(
  rule: Rule,
  site: Site,
  tokens: jax.Array | None,
  leaves: Mapping[str, Any],
  eqn: jex.JaxprEqn,
  inputs: list[jax.Array],
  feed: Feed | None = None,
) -> tuple[list[jax.Array], Note]:
  """Prunes the kernel of a matmul, and multiplies with what stays."""
  note = prune(rule, site, tokens, leaves, eqn, inputs, feed)
  return bind(eqn, replaced(site, inputs, note)), note


def prune(rule, site, tokens, leaves, eqn, inputs, feed) -> Note:
  """Prunes the kernel of a matmul, given its inputs."""
  statistic, number = None, jnp.int32(0)
  if rule.needs is not None:
    statistic, number = measure(site, eqn, inputs, rule.needs, tokens)
  operand = inputs[site.use.operand]
  return _apply(rule, site, leaves, operand, statistic, number, feed)


def replaced(site: Site, inputs: list[jax.Array], note: Note):
  """Returns the inputs of a matmul with the pruned kernel."""
  side = site.use.operand
  value = inputs[side] if note.value is None else note.value
  pruned = jnp.where(note.keep, value, jnp.zeros((), value.dtype))
  return [pruned if i == side else x for i, x in enumerate(inputs)]


def _apply(rule, site, leaves, operand, statistic, number, feed) -> Note:
  kernel, back = site.columns(operand)
  alive, ratio = feed or (None, None)
  zero, infinite = jnp.zeros((), bool), jnp.zeros((), bool)
  unseen = jnp.int32(0)
  if statistic is not None:
    infinite = ~jnp.all(jnp.isfinite(statistic))
    statistic, zero, unseen = _filled(rule, kernel, statistic)
  if alive is None:
    its_alive = jnp.ones_like(kernel, bool)
  else:
    its_alive = site.columns(alive)[0]
  found = rule(
    site.names, kernel.astype(jnp.float32), statistic, its_alive, ratio
  )
  value = None
  if found.kernel is not None:
    value = back(jnp.where(found.keep, found.kernel, 0.0))
    for use in site.uses:  # What the leaf will hold.
      value = value.astype(leaves[str(use.name)].dtype)
    value = value.astype(operand.dtype)
  share = number / max(kernel.shape[-2], 1)
  failed = jnp.any(found.failed)
  broken = ~jnp.all(jnp.isfinite(kernel))
  keep = back(found.keep)
  return Note(keep, value, zero, unseen, infinite, failed, share, broken)


def _filled(rule, kernel, statistic) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gives a neutral statistic to kernels of a stack that no token reaches.

  It is that of uncorrelated inputs of equal size, for which scores are
  magnitudes, and the best values of what stays are those that it has.
  """
  rank = kernel.ndim - 2
  axes = tuple(range(rank, statistic.ndim))
  empty = jnp.all(statistic == 0, axis=axes, keepdims=True)
  zero = jnp.all(empty)
  if not rank:
    return statistic, zero, jnp.int32(0)
  equal = rule.needs(jnp.eye(kernel.shape[-2], dtype=statistic.dtype))
  filled = jnp.where(empty & ~zero, equal, statistic)
  return filled, zero, jnp.sum(empty & ~zero, dtype=jnp.int32)


def flat_notes(notes: Mapping[Path, Any]) -> dict[Path, Note]:
  """Collects notes, also those that stand together as one."""
  found = {}
  for path, note in notes.items():
    found |= {path: note} if isinstance(note, Note) else note
  return found


def at_once(
  rule: Rule,
  sites: Mapping[Path, Site],
  leaves: Mapping[str, Any],
  feeds: Mapping[Path, Feed],
  calibration: Calibration,
) -> dict[Path, Note]:
  """Prunes all kernels by statistics that are already there."""
  named = _sites.by_leaf([*sites.values()])
  keys = {pair[1].path: key for key, each in named.items() for pair in each}
  missing = sorted(set(keys.values()) - set(calibration.sums))
  if missing and rule.needs is not None:
    raise ValueError(
      f'`calibration` has no statistics of {", ".join(missing)}. Calibrate the'
      ' same function with the same `where=`.'
    )
  notes = {}
  for path, site in sites.items():
    views = [use.view(leaves[str(use.name)]) for use in site.uses]
    operand = sum(views[1:], views[0])
    statistic, number = (
      None,
      jnp.zeros([loop.length for loop in site.use.scans], jnp.int32),
    )
    if rule.needs is not None:
      key = keys[path]
      statistic, number = calibration.sums[key], calibration.counts[key]
      _check_statistic(rule, site, key, statistic)

    def one(operand, statistic, number, feed, site=site):
      return _apply(rule, site, leaves, operand, statistic, number, feed)

    for _ in site.use.scans:
      one = jax.vmap(one)
    notes[path] = one(operand, statistic, number, feeds.get(path))
  return notes


def _check_statistic(rule: Any, site: Site, key: str, found: Any) -> None:
  use = site.use
  shape = [loop.length for loop in use.scans] + [*use.shapes[use.operand]]
  kernel = jax.eval_shape(
    lambda x: site.columns(x)[0], jax.ShapeDtypeStruct(shape, jnp.float32)
  ).shape
  tokens = jax.ShapeDtypeStruct((*kernel[:-2], 1, kernel[-2]), jnp.float32)
  wanted = jax.eval_shape(rule.needs, tokens).shape
  if found.shape != wanted:
    raise ValueError(
      f'The statistic of {key} has the shape {found.shape}, but the rule needs'
      f' {wanted}: calibrate with `stat={getattr(rule.needs, "__name__", "")}`'
      ' and the same function.'
    )


def to_leaves(
  sites: Mapping[Path, Site],
  notes: Mapping[Path, Note],
  leaves: Mapping[str, Any],
  alive: Mapping[str, jax.Array],
  rule: Rule,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Takes masks and new values back to the leaves."""
  params: dict[str, jax.Array] = {}
  masks: dict[str, jax.Array] = {}
  by_name: dict[str, list[tuple[Use, Note]]] = {}
  for path, site in sites.items():
    for use in site.uses:
      by_name.setdefault(str(use.name), []).append((use, notes[path]))
  for name, each in by_name.items():
    leaf = jnp.asarray(leaves[name])
    old = alive.get(name, jnp.ones_like(leaf, bool))
    keep, value = jnp.zeros_like(leaf, bool), jnp.zeros_like(leaf)
    there = jnp.zeros_like(leaf, bool)
    for use, note in each:
      keep |= use.pull_back(note.keep)
      there |= use.pull_back(jnp.ones_like(note.keep))
      if note.value is not None:
        value += use.pull_back(note.value).astype(leaf.dtype)
    # What no matmul reads stays as it was.
    masks[name] = jnp.where(there, keep, old)
    new = jnp.where(there, value, leaf) if rule.updates else leaf
    params[name] = jnp.where(masks[name], new, jnp.zeros((), leaf.dtype))
  return params, masks
