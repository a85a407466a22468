"""Statistics of activations, taken while the program runs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.calibration import _patches, _sites, _tokens, stats
from lthjax.calibration._calibration import Calibration, check
from lthjax.calibration._sites import Site
from lthjax.program._interpreter import Path, bind, check_arguments, trace
from lthjax.program._kernels import Where
from lthjax.program._use import Use
from lthjax.program._values import run

Stat = Callable[[jax.Array], jax.Array]


def calibrate(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  stat: Stat = stats.squares,
  where: Where | None = None,
  token_mask: jax.Array | None = None,
) -> Calibration:
  """Sums a statistic over the activations that each kernel meets.

  The program is followed to every matmul and convolution with a chosen leaf,
  also inside scans, calls and `jax.checkpoint`. A scan stays a scan, and its
  statistics come back stacked, so that the compile time does not grow with
  depth. Kernels that read the same activations, like those of queries and keys,
  share one statistic. A leaf that is used several times has the sum over its
  uses. A convolution is a matmul of patches: each place of each image where the
  filters are applied is a token, and padding counts as zeros. Compiled once for
  each function and shape: pass the same function again, not a new `lambda`.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays.
    *args: trees of arrays: one batch.
    stat: a sum over tokens, from `lthjax.stats` or of the same kind.
    where: the leaves: ``where(name, leaf)``, or a glob or list of globs over
      the kernels of the program; by default all of them. An exact name chooses
      a leaf whatever it is.
    token_mask: bool array of the shape of the first axes of the first argument,
      true where a token counts. Other tokens are left out exactly, wherever the
      program moves them.

  Returns:
    Sums and numbers of tokens.

  Raises:
    ValueError: if a glob matches nothing, a leaf is never multiplied with, the
      token mask matches no axis of an activation, or a statistic is zero or not
      finite.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.ones((3, 2, 2))}  # three layers
    >>> def apply(params, x):
    ...   return jax.lax.scan(lambda x, w: (x @ w, None), x, params['w'])[0]
    >>> found = lth.calibrate(apply, params, jnp.ones((5, 2)))
    >>> found.sums['w'], found.counts['w']
    (Array([[ 5.,  5.],
           [20., 20.],
           [80., 80.]], dtype=float32), Array([5, 5, 5], dtype=int32))
  """
  _checks.function('apply', apply, 'apply(params, *args)')
  _checks.function('stat', stat, 'stat(activations)')
  _checks.arrays(params)
  check_arguments(params, *args)
  _tokens.check(token_mask, args)
  return check(
    _calibrate(
      hashable(apply), stat, hashable_where(where), params, args, token_mask
    )
  )


def hashable(f: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function that `jax.jit` can take as a static argument."""
  try:
    hash(f)
  except TypeError:
    return functools.partial(f)
  return f


def hashable_where(where: Any) -> Any:
  """Returns a choice of leaves that can be hashed."""
  if where is None or callable(where):
    return where
  found = _checks.predicate('where', where)
  return found if isinstance(found, str) else tuple(found)


@functools.partial(jax.jit, static_argnames=('apply', 'stat', 'where'))
def _calibrate(apply, stat, where, params, args, token_mask) -> Calibration:
  closed, _ = trace(apply, params, *args)
  sites = _sites.find(closed, params, where)
  tokens = _tokens.locate(closed, args, sites, token_mask)
  notes, _ = observe(apply, params, args, sites, stat, tokens)
  return collect(sites, notes)


def observe(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  args: Sequence[Any],
  sites: Mapping[Path, Site],
  stat: Stat,
  tokens: Mapping[Path, jax.Array | None],
) -> tuple[dict[Path, tuple[jax.Array, jax.Array]], Any]:
  """Runs a program and notes ``(sum, count)`` at each site."""
  seen: list[tuple[Any, Path]] = []
  same: dict[Path, Path] = {}

  def visit(path, site):
    def note(eqn, inputs):
      x = inputs[1 - site.use.operand]
      kind = (_sites.kind(site.use, eqn), site.use.loops)
      alone = len(site.use.paths) > 1  # Branches must note alike.
      for (other, its_kind), first in () if alone else seen:
        if other is x and its_kind == kind:
          same[path] = first
          return bind(eqn, inputs), None
      if not alone:
        seen.append(((x, kind), path))
      return bind(eqn, inputs), measure(site, eqn, inputs, stat, tokens[path])

    return note

  visits = {
    each: visit(path, site)
    for path, site in sites.items()
    for each in site.use.paths
  }
  output, notes = run(apply, visits, params, *args)
  return {path: notes[same.get(path, path)] for path in sites}, output


def measure(
  site: Site, eqn, inputs, stat: Stat, tokens: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Returns the statistic of the activations at a site, and their number."""
  if _patches.is_convolution(eqn):
    return _patches.summed(eqn, inputs, stat, tokens)
  x = site.activations(eqn, inputs)
  if tokens is not None:
    x = jnp.where(tokens[:, None], x, 0.0)
  total = stat(x)
  if not hasattr(total, 'shape'):
    raise TypeError(
      f'`stat` returned {_checks.describe(total)}, but must return an array, as'
      ' `lthjax.stats.squares` does.'
    )
  if tokens is None:
    return total, jnp.int32(x.shape[-2])
  return total, jnp.sum(tokens, dtype=jnp.int32)


def collect(
  sites: Mapping[Path, Site],
  notes: Mapping[Path, tuple[jax.Array, jax.Array]],
) -> Calibration:
  """Adds up the notes of each leaf, over loops that do not walk over it."""
  sums: dict[str, jax.Array] = {}
  counts: dict[str, jax.Array] = {}
  for name, each in _sites.by_leaf([*sites.values()]).items():
    found = [_own(use, notes[site.use.path]) for site, use in each]
    if len({total.shape for total, _ in found}) > 1:
      raise ValueError(
        f'{name} is used several times, with inputs of different kinds:'
        f' {", ".join(str(total.shape) for total, _ in found)}. Leave it out'
        ' with `where=`.'
      )
    sums[name], counts[name] = jax.tree.map(lambda *x: sum(x[1:], x[0]), *found)
  return Calibration(sums, counts)


def _own(use: Use, note: tuple[jax.Array, jax.Array]):
  away = tuple(
    axis for axis, loop in enumerate(use.loops) if loop not in use.scans
  )
  return jax.tree.map(lambda x: x.sum(away), note)
