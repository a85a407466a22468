"""Thresholds of activations, and how a budget spreads over matmuls."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks
from lthjax import masks as masks_lib
from lthjax.activations import _sites
from lthjax.calibration import _tokens

_LEVELS = 1000  # Sparsities are multiples of 0.001.
_MOST = 0.99  # The largest sparsity of a matmul.

Where = masks_lib.Where | str | Sequence[str] | None


class Teal(NamedTuple):
  """What `teal` returns.

  Attributes:
    thresholds: ``{name: float32[loops..]}``, for `sparsify`.
    sparsities: ``{name: float64[loops..]}``, by which they were chosen.
    error: squared error of the output, relative to its square.
  """

  thresholds: dict[str, jax.Array]
  sparsities: dict[str, np.ndarray]
  error: float


def thresholds(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  sparsity: float,
  where: Where = None,
  token_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Finds thresholds below which a share of the activations of each matmul is.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays.
    *args: trees of arrays: the calibration data.
    sparsity: share of the activations to drop, in [0, 1), in steps of 0.001.
    where: the kernels, as for `lthjax.calibrate`.
    token_mask: which tokens count, as for `lthjax.calibrate`.

  Returns:
    ``{name: float32[loops..]}``, one for each turn of the loops around. Exactly
    the rounded number of activations is at most the threshold, ties aside.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> apply = lambda params, x: x @ params['w']
    >>> x = jnp.array([[-3.0, -1.0, 0.5, 2.0]])
    >>> params = {'w': jnp.eye(4)}
    >>> lth.activations.thresholds(apply, params, x, sparsity=0.5)
    {'w': Array(1., dtype=float32)}

  References:
    Liu et al., TEAL, arXiv:2408.14690, section 4.
  """
  sparsity = _checks.share('sparsity', sparsity)
  tables, _ = _tables(apply, params, args, where, token_mask)
  level = round(sparsity * _LEVELS)
  return {name: table[..., level] for name, table in tables.items()}


def teal(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  sparsity: float,
  step: float = 0.05,
  where: Where = None,
  token_mask: jax.Array | None = None,
) -> Teal:
  """Spreads a sparsity over the matmuls of a block by its output error.

  Starting from dense, the matmul whose rise costs the least error at the output
  of ``apply`` gets sparser, again and again, until the mean over all weights is
  reached. Each rise is worth the same number of weights. Each turn of a loop is
  a matmul of its own, and each trial runs ``apply`` once: for a deep model, do
  this block by block, with the function and the inputs of each block.

  Args:
    apply: pure function of a block, ``apply(params, *args)``.
    params: tree of arrays.
    *args: trees of arrays: the calibration data.
    sparsity: share of the activations to drop, in [0, 0.99], weighed by the
      weights of each matmul.
    step: by how much the mean rises at a time.
    where: the kernels, as for `lthjax.calibrate`.
    token_mask: which tokens count for thresholds, as for `lthjax.calibrate`.

  Returns:
    Thresholds, sparsities and the error.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'a': jnp.eye(4), 'b': 100 * jnp.eye(4)}
    >>> apply = lambda params, x: x @ params['a'] + x @ params['b']
    >>> x = jnp.array([[-3.0, -1.0, 0.5, 2.0]])
    >>> found = lth.activations.teal(apply, params, x, sparsity=0.25, step=0.25)
    >>> found.sparsities
    {'a': array(0.5), 'b': array(0.)}

  References:
    Liu et al., TEAL, arXiv:2408.14690, algorithm 1. Steps are weighed by the
    weights that a matmul has; the authors' code has a table for them.
  """
  sparsity = _checks.closed_share('sparsity', sparsity)
  if sparsity > _MOST:
    raise _checks.wrong_value('sparsity', sparsity, f'be at most {_MOST}')
  step = _checks.positive('step', step)
  tables, sizes = _tables(apply, params, args, where, token_mask)
  shapes = {name: table.shape[:-1] for name, table in tables.items()}
  ends = np.cumsum([int(np.prod(s)) for s in shapes.values()])[:-1]

  def split(flat):
    parts = zip(shapes.items(), np.split(flat, ends), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}

  weights = np.concatenate(
    [np.full(int(np.prod(s)), float(sizes[name])) for name, s in shapes.items()]
  )
  weights /= weights.sum()
  levels = np.zeros(len(weights))
  sites = _sites.find(apply, params, args, list(tables))[1]
  trial = jax.jit(functools.partial(_errors, apply, sites))

  def errors(candidates):
    each = [split(np.rint(c * _LEVELS).astype(np.int32)) for c in candidates]
    stacked = {n: np.stack([e[n] for e in each]) for n in tables}
    return np.asarray(trial(params, args, tables, stacked), np.float64)

  error = 0.0
  while (left := sparsity - weights @ levels) > 1e-9:
    rise = np.minimum(min(step, left) / weights, _MOST - levels)
    found = errors(levels + np.diag(rise))
    # Per weight, as the last rise of a matmul may be smaller.
    cost = np.where(
      rise > 1e-9, (found - error) / np.maximum(rise * weights, 1e-12), np.inf
    )
    best = int(np.argmin(cost))
    levels[best] += rise[best]
    error = found[best]
  chosen = split(levels)
  places = {n: np.rint(x * _LEVELS).astype(np.int32) for n, x in chosen.items()}
  return Teal(
    {n: _at(tables[n], places[n]) for n in tables}, chosen, float(error)
  )


def _errors(apply, sites, params, args, tables, levels) -> jax.Array:
  """Relative squared errors of the output, one for each set of levels."""
  paths = _sites.by_name(sites)
  dense = jax.tree.leaves(apply(params, *args))

  def change(site, x, threshold):
    del site
    return jnp.where(jnp.abs(x) > threshold, x, jnp.zeros((), x.dtype)), None

  def one(levels):
    feeds = {paths[n]: _at(tables[n], levels[n]) for n in tables}
    out, _ = _sites.visit(apply, params, args, sites, change, feeds)
    pairs = zip(jax.tree.leaves(out), dense, strict=True)
    return sum(_square(a.astype(jnp.float32) - b) for a, b in pairs)

  whole = sum(_square(x.astype(jnp.float32)) for x in dense)
  # One after the other: side by side they would need the memory of all.
  return jax.lax.map(one, levels) / whole


def _square(x: jax.Array) -> jax.Array:
  return jnp.sum(jnp.square(x))


def _at(table: jax.Array, levels: Any) -> jax.Array:
  """Takes one level of each table."""
  levels = jnp.asarray(levels)[..., None]
  return jnp.take_along_axis(table, levels, axis=-1)[..., 0]


def _tables(
  apply, params, args, where, token_mask
) -> tuple[dict[str, jax.Array], dict[str, int]]:
  """Thresholds of every level, and weights, for each kernel."""
  _checks.function('apply', apply, 'apply(params, *args)')
  _checks.arrays(params)
  _tokens.check(token_mask, args)
  closed, sites = _sites.find(apply, params, args, where)
  paths = _sites.by_name(sites)
  tokens = _tokens.locate(closed, args, sites, token_mask)

  def note(site, x):
    return x, _levels(x, tokens[site.use.path])

  @jax.jit
  def run(params, args):
    return _sites.visit(apply, params, args, sites, note, {})[1]

  notes = run(params, args)
  faults = [n for n, p in paths.items() if not jnp.isfinite(notes[p]).all()]
  if faults:
    raise ValueError(
      f'Activations of {", ".join(faults)} are not finite. Look for NaN in the'
      ' params and inputs.'
    )
  sizes = {
    name: int(np.prod(sites[path].use.shapes[sites[path].use.operand]))
    for name, path in paths.items()
  }
  return {name: notes[path] for name, path in paths.items()}, sizes


def _levels(x: jax.Array, tokens: jax.Array | None) -> jax.Array:
  """The k-th smallest magnitude, for k of each level; zero for none."""
  size = jnp.abs(x.astype(jnp.float32))
  if tokens is None:
    ordered, number = jnp.sort(size.ravel()), size.size
    places = np.rint(np.arange(_LEVELS + 1) / _LEVELS * number).astype(np.int64)
    places = jnp.asarray(places - 1, jnp.int32)
  else:
    size = jnp.where(tokens[:, None], size, jnp.inf)
    ordered = jnp.sort(size.ravel())
    number = jnp.sum(tokens) * (size.size // tokens.size)
    shares = jnp.arange(_LEVELS + 1) / _LEVELS
    places = jnp.rint(shares * number).astype(jnp.int32) - 1
  return jnp.where(places >= 0, ordered[jnp.maximum(places, 0)], 0.0)
