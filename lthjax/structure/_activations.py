"""Statistics of the activations that carry the units of groups."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.calibration import _sites, _tokens
from lthjax.calibration._calibrate import hashable
from lthjax.program._interpreter import Path, bind, trace
from lthjax.program._values import run
from lthjax.structure import _from_program, _readers
from lthjax.structure._groups import Groups, Where, check_fit, choose


class Moments(NamedTuple):
  """Statistics of what a matmul reads, ``[loops.., batch.., inputs]``.

  Attributes:
    tokens: how many there are, ``[loops..]``.
    mean: over tokens.
    squares: sum over tokens of the squared difference from the mean.
    examples: sum over examples of the square of the mean of absolute values.
  """

  tokens: jax.Array
  mean: jax.Array
  squares: jax.Array
  examples: jax.Array


class Activations(NamedTuple):
  """Statistics of units, from `activations`.

  Those of several batches add up with ``+``, in any order.

  Attributes:
    groups: the groups that were looked at.
    readers: for each, the kernels that contract its units.
    moments: ``{path of the matmul: statistics of what it reads}``.
  """

  groups: Groups
  readers: dict[str, tuple[_readers.Reader, ...]]
  moments: dict[Path, Moments]

  def __add__(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, other: 'Activations'
  ) -> 'Activations':
    """Merges the statistics of another batch."""
    if not isinstance(other, Activations):
      return NotImplemented
    shapes = [
      {path: x.mean.shape for path, x in each.moments.items()}
      for each in (self, other)
    ]
    if shapes[0] != shapes[1]:
      raise ValueError(
        'These activations are of different programs or groups: add those of'
        ' one program, and of one choice of groups.'
      )
    merged = {
      path: _merge(x, other.moments[path]) for path, x in self.moments.items()
    }
    return self._replace(moments=merged)


def activations(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  groups: Groups | None = None,
  where: Where | None = None,
  token_mask: jax.Array | None = None,
) -> Activations:
  """Measures units where they are contracted, in one run of the program.

  A unit's activations are what the next kernels multiply with: the inputs of an
  MLP's second kernel, or those of the output projection of attention. Groups
  know which these are, so no modules have names.

  Args:
    apply: pure function ``apply(params, *args)``.
    params: tree of arrays.
    *args: trees of arrays: one batch, whose first axis counts examples.
    groups: which axes move together; by default those that
      `lthjax.structure.groups` finds.
    where: the groups to look at: names, places such as ``'fc1/kernel[1]'``, or
      globs; by default all without pins.
    token_mask: bool array of the shape of the first axes of the first argument,
      true where a token counts.

  Returns:
    `Activations`, for `minitron`, `flap` and `compensate`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.eye(2), 'out': jnp.array([[1.0, 2.0], [3.0, 0.0]])}
    >>> def apply(params, x):
    ...   return jax.nn.relu(x @ params['in']) @ params['out']
    >>> x = jnp.array([[1.0, 0.0], [3.0, 2.0], [5.0, 1.0]])
    >>> seen = lth.structure.activations(apply, params, x)
    >>> lth.structure.flap(params, seen)['in[1]']
    Array([20.,  9.], dtype=float32)
  """
  _checks.function('apply', apply, 'apply(params, *args)')
  _checks.arrays(params)
  _tokens.check(token_mask, args)
  if groups is None:
    groups = _from_program.groups(apply, params, *args)
  check_fit(groups, params)
  names = choose(groups, where)
  closed, _ = trace(apply, params, *args)
  readers = _readers.readers(closed, params, groups, names)
  if idle := [name for name in names if not readers[name]]:
    if where is not None:
      raise ValueError(
        f'No kernel contracts the units of {", ".join(idle)}, so that there are'
        ' no activations to score them by. Use `lthjax.structure.norm` or'
        ' `taylor`, or leave these groups out with `where=`.'
      )
    names = [name for name in names if readers[name]]
  if not names:
    raise ValueError(
      'There are no units to look at: no kernel contracts a group without pins.'
      f' The groups are {", ".join(groups) or "none"}; choose some with'
      ' `where=`.'
    )
  leaves = {str(r.use.name) for name in names for r in readers[name]}
  moments = _measure(
    hashable(apply), tuple(sorted(leaves)), params, args, token_mask
  )
  stacks = {stack for name in names for stack in groups[name].varies}
  return Activations(
    {name: g for name, g in groups.items() if name in stacks.union(names)},
    {name: readers[name] for name in names},
    moments,
  )


@functools.partial(jax.jit, static_argnames=('apply', 'leaves'))
def _measure(apply, leaves, params, args, token_mask) -> dict[Path, Moments]:
  """Runs the program, and notes the moments at the matmuls of some leaves."""
  closed, _ = trace(apply, params, *args)
  sites = _sites.find(closed, params, lambda name, leaf: name in leaves)
  tokens = _tokens.locate(closed, args, sites, token_mask)
  # Which example a token is of, wherever the program has put it.
  count = jax.tree.leaves(args)[0].shape[0]
  numbers = _tokens.locate(closed, args, sites, jnp.arange(count))

  def visit(path, site):
    def note(eqn, inputs):
      x = site.activations(eqn, inputs)
      example = jax.nn.one_hot(numbers[path], count, axis=0)
      alive = tokens[path]
      if alive is not None:
        x, example = jnp.where(alive[:, None], x, 0.0), example * alive
      return bind(eqn, inputs), _moments(x, example, alive)

    return note

  visits = {
    each: visit(path, site)
    for path, site in sites.items()
    for each in site.use.paths
  }
  _, notes = run(apply, visits, params, *args)
  return {path: notes[path] for path in sites}


def _moments(x: jax.Array, example: jax.Array, alive: Any) -> Moments:
  """Returns moments of ``[.., tokens, inputs]``; dead tokens are zero."""
  sizes = example.sum(-1)
  count = sizes.sum()
  mean = x.sum(-2) / jnp.maximum(count, 1)
  # In two passes: sums of squares would cancel where the mean is large.
  gaps = jnp.square(x - mean[..., None, :])
  if alive is not None:
    gaps = jnp.where(alive[:, None], gaps, 0.0)
  means = example @ jnp.abs(x) / jnp.maximum(sizes, 1)[:, None]
  return Moments(count, mean, gaps.sum(-2), jnp.square(means).sum(-2))


def _merge(a: Moments, b: Moments) -> Moments:
  """Merges moments: the parallel form of Welford's algorithm."""
  lift = a.mean.ndim - a.tokens.ndim
  m, n = (x.tokens.reshape(x.tokens.shape + (1,) * lift) for x in (a, b))
  total = jnp.maximum(m + n, 1)
  gap = b.mean - a.mean
  return Moments(
    a.tokens + b.tokens,
    a.mean + gap * n / total,
    a.squares + b.squares + jnp.square(gap) * m * n / total,
    a.examples + b.examples,
  )


def check_seen(seen: Any) -> None:
  """Raises unless this is what `activations` returns."""
  if not isinstance(seen, Activations):
    raise _checks.wrong_type(
      'seen', seen, 'be what `lthjax.structure.activations` returns'
    )
