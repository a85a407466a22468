"""What deployment gains: bytes and measured times, said plainly."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from lthjax import _checks, _table, trees
from lthjax import masks as masks_lib
from lthjax.deploy import _kernels
from lthjax.deploy._apply import sparse_apply
from lthjax.deploy._condense import condense, is_sparse, named
from lthjax.deploy._storage import Storage, storage


class Report(NamedTuple):
  """Bytes of a network and times of a call, dense and sparse.

  Attributes:
    storage: bytes of each leaf on disk, dense and as bitmask and values.
    sparse: ``{name: bytes}`` in memory of the kernels that became sparse.
    dense: names of masked leaves that stayed dense: stacked kernels,
      convolutions, and those with too many alive weights.
    dense_seconds: the shortest of several calls with dense params.
    sparse_seconds: likewise with sparse params.
    kernels: what there is of compiled kernels.
  """

  storage: Storage
  sparse: dict[str, int]
  dense: tuple[str, ...]
  dense_seconds: float
  sparse_seconds: float
  kernels: _kernels.Kernels

  @property
  def speedup(self) -> float:
    """Dense over sparse seconds."""
    return self.dense_seconds / self.sparse_seconds

  def __str__(self) -> str:
    """Describes the gains in a few lines."""
    dense, bitmask, _ = self.storage.total
    lines = [
      f'on disk: {dense:,} bytes dense, {bitmask:,} as alive values and mask'
      f' ({dense / max(bitmask, 1):.1f} times smaller)'
    ]
    rows = [(name, size) for name, size in self.sparse.items()]
    if rows:
      lines.append(_table.write(('sparse kernel', 'bytes in memory'), rows))
    if self.dense:
      lines.append(f'masked but dense: {", ".join(self.dense)}')
    # Within the noise of a measurement, nothing is claimed.
    verdict = f'{self.speedup:.1f} times faster'
    if self.speedup < 1.05:
      verdict = 'no faster'
    lines.append(
      f'one call: {self.dense_seconds * 1e3:.3f} ms dense,'
      f' {self.sparse_seconds * 1e3:.3f} ms sparse: {verdict}'
    )
    if not self.kernels.available:
      lines.append(f'compiled kernels: none. {self.kernels.reason}')
    return '\n'.join(lines)


def report(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  *args: Any,
  repeats: int = 30,
  **options: Any,
) -> Report:
  """Measures what sparse kernels gain for a model on this machine.

  Dense and sparse calls take turns, so that a busy machine slows both.

  Args:
    apply: pure function ``apply(params, *args)``.
    params: tree of arrays.
    masks: tree of masks.
    *args: what to call it with; the batch size matters.
    repeats: number of calls of each, of which the shortest counts.
    **options: for `condense`.

  Returns:
    The `Report`, which prints as text.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jax.random.normal(jax.random.key(0), (512, 512))}
    >>> masks = lth.masks.full(params)
    >>> masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.9)
    >>> found = lth.deploy.report(
    ...   lambda p, x: x @ p['w'], params, masks, jnp.ones((8, 512))
    ... )
    >>> print(found)  # doctest: +SKIP
    on disk: 1,048,576 bytes dense, 137,624 as alive values and mask (7.6 ...)
    sparse kernel  bytes in memory
    w                      159,332
    one call: 0.130 ms dense, 0.029 ms sparse: 4.5 times faster
  """
  repeats = _checks.at_least('repeats', repeats, 1)
  _checks.function('apply', apply, 'apply(params, *args)')
  sparse = condense(params, masks, **options)
  masked = masks_lib.apply(masks, params)
  dense_call, sparse_call = jax.jit(apply), jax.jit(sparse_apply(apply, params))
  calls = [
    lambda: jax.block_until_ready(dense_call(masked, *args)),
    lambda: jax.block_until_ready(sparse_call(sparse, *args)),
  ]
  best = [np.inf, np.inf]
  for turn in range(repeats + 1):
    for i, call in enumerate(calls):
      start = time.perf_counter()
      call()
      if turn:  # The first one compiles.
        best[i] = min(best[i], time.perf_counter() - start)
  leaves = named(sparse)
  masked_names = [n for n, m in trees.by_name(masks).items() if m is not None]
  return Report(
    storage=storage(params, masks),
    sparse={
      name: sum(x.nbytes for x in jax.tree.leaves(leaf))
      for name, leaf in leaves.items()
      if is_sparse(leaf)
    },
    dense=tuple(n for n in masked_names if not is_sparse(leaves[n])),
    dense_seconds=float(best[0]),
    sparse_seconds=float(best[1]),
    kernels=_kernels.kernels(),
  )
