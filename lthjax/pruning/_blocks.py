"""Pruning all kernels of a turn of a loop by what the dense turn computes."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from lthjax.calibration._sites import Site
from lthjax.program._interpreter import Path, bind, inside, scan
from lthjax.program._values import _Run
from lthjax.pruning import _kernels
from lthjax.pruning._kernels import Feed
from lthjax.rules import Rule


def by_block(
  rule: Rule,
  sites: Mapping[Path, Site],
  tokens: Mapping[Path, jax.Array | None],
  leaves: Mapping[str, Any],
  feeds: Mapping[Path, Feed],
) -> tuple[dict[Path, Any], dict[Path, Any]]:
  """Returns visits, and feeds for them, of outermost loops and of the rest."""
  loops: dict[Path, dict[Path, Site]] = {}
  visits: dict[Path, Any] = {}
  given: dict[Path, Any] = {}
  for path, site in sites.items():
    if site.use.scans:
      loops.setdefault(site.use.scans[0].path, {})[path] = site
      continue
    for each in site.use.paths:
      visits[each] = functools.partial(
        _kernels.visit, rule, site, tokens[path], leaves
      )
    if path in feeds:
      given[path] = feeds[path]
  for loop, inner in loops.items():
    visits[loop] = functools.partial(_turns, rule, inner, tokens, leaves, loop)
    given[loop] = {path: feeds[path] for path in inner if path in feeds}
  return visits, given


def _turns(rule, sites, tokens, leaves, loop, eqn, inputs, feeds):
  """Runs each turn twice: dense, to prune by it, and pruned."""
  ((path, program),) = inside(eqn, loop)
  looking = {
    each: functools.partial(_look, rule, site, tokens[here], leaves)
    for here, site in sites.items()
    for each in site.use.paths
  }
  using = {
    each: functools.partial(_use, site)
    for site in sites.values()
    for each in site.use.paths
  }
  leads = frozenset(each[:n] for each in looking for n in range(len(each)))

  def turn(inputs, feeds):
    _, notes = _Run(looking, leads)(program, inputs, path, feeds)
    outs, _ = _Run(using, leads)(program, inputs, path, notes)
    return outs, notes

  return scan(eqn, inputs, turn, feeds)


def _look(rule, site, tokens, leaves, eqn, inputs, feed=None):
  note = _kernels.prune(rule, site, tokens, leaves, eqn, inputs, feed)
  return bind(eqn, inputs), note


def _use(site, eqn, inputs, note):
  return bind(eqn, _kernels.replaced(site, inputs, note)), None
