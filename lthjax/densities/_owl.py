"""Budgets by the outliers among scores."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, _layout
from lthjax import axes as axes_lib
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.densities._spread import Densities, Shapes


def outliers(
  calibration: Any,
  params: chex.ArrayTree,
  *,
  m: float = 5.0,
  axes: Mapping[str, Axes] | None = None,
  block: Callable[[str], str] | None = None,
) -> dict[str, Any]:
  """Measures the share of Wanda scores far above the mean, block by block.

  All kernels of a block have the share of the block: of its scores
  ``|w| * norm of the input`` that are more than ``m`` times their mean. A turn
  of a scan is a block; elsewhere, leaves whose names are the same up to the
  first number are one, such as those of ``blocks/0``.

  Args:
    calibration: sums of squares, or Gram matrices, from `lthjax.calibrate`.
    params: the params that were calibrated.
    m: how far above the mean an outlier is.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say what are inputs.
    block: ``block(name)`` returns a name for the block of a leaf, where the
      names of leaves do not say it.

  Returns:
    ``{name: share}`` for `owl`; an array where a loop walks over the leaf, with
    a share for each turn.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[1.0], [1.0], [1.0], [1.0], [10.0]])}
    >>> apply = lambda params, x: x @ params['w']
    >>> found = lth.calibrate(apply, params, jnp.ones((3, 5)))
    >>> lth.densities.outliers(found, params, m=3)
    {'w': 0.2}

  References:
    Yin et al., Outlier Weighed Layerwise Sparsity, arXiv:2310.05175, eq. 2.
  """
  wanted = 'a calibration from `lthjax.calibrate`'
  _checks.having('calibration', calibration, 'sums counts', wanted)
  m = _checks.positive('m', m)
  leaves = {n: x for n, x in _checks.arrays(params).items() if x is not None}
  refuse(
    [name for name in calibration.sums if name not in leaves],
    'There are no leaves {} in `params`. Pass the params that were calibrated;'
    ' fused kernels whose parts are used apart have no block of their own, so'
    ' leave them out with `where=`.',
  )
  chosen = {name: leaves[name] for name in calibration.sums}
  found = axes_lib.resolve(axes, chosen)
  blocks: dict[Any, dict[str, Any]] = {}
  for name, leaf in chosen.items():
    loops = calibration.counts[name].shape
    scores = _scores(
      name, leaf, found[name], calibration.sums[name], math.prod(loops)
    )
    key = block(name) if block else _block(name, bool(loops))
    blocks.setdefault((key, loops), {})[name] = scores
  shares = {}
  for (_, loops), each in blocks.items():
    total: Any = sum(x.sum(1) for x in each.values())
    size = sum(x.shape[1] for x in each.values())
    limit = m * total / size
    above: Any = sum(
      jnp.sum(x > limit[:, None], 1, jnp.int32) for x in each.values()
    )
    share = np.asarray(above, np.float64).reshape(loops) / size
    shares |= dict.fromkeys(each, share if loops else float(share))
  return {name: shares[name] for name in chosen}


def _scores(name: str, leaf: Any, its: Axes, sums: Any, layers: int) -> Any:
  """Returns Wanda's scores as ``[turns, rest]``."""
  view, _ = axes_lib.columns(jnp.asarray(leaf, jnp.float32), its)
  stack, inputs, _ = view.shape
  if sums.size == stack * inputs:
    squares = sums.reshape(stack, inputs)
  elif sums.size == stack * inputs**2:  # Gram matrices
    grams = sums.reshape(stack, inputs, inputs)
    squares = jnp.diagonal(grams, axis1=1, axis2=2)
  else:
    raise ValueError(
      f'The statistic of {name} has the shape {sums.shape}, which does not fit'
      f' {stack} layers of {inputs} inputs. Calibrate with'
      ' `stat=lthjax.stats.squares`, and pass `axes=` where kernels are not'
      ' [inputs, outputs].'
    )
  return (jnp.abs(view) * jnp.sqrt(squares)[..., None]).reshape(layers, -1)


def _block(name: str, looped: bool) -> str:
  """Returns the name up to the first number, or the first stacked container."""
  if looped:
    return next(iter(_layout.containers(name)), name.split('/')[0])
  parts = name.split('/')
  for i, part in enumerate(parts):
    if re.search(r'\d', part):
      return '/'.join(parts[: i + 1])
  return name


def owl(outliers: Mapping[str, Any], *, lam: float = 0.08) -> Densities:
  """OWL: layers whose scores have more outliers keep more weights.

  Args:
    outliers: ``{name: share}`` of the scores of a leaf, or of its block, that
      are far above their mean, as `outliers` measures them. An array has a
      share for each turn of a loop over the leaf.
    lam: the largest deviation of a density from the mean, before the mean,
      weighed by size, is corrected.

  Returns:
    A distribution. Its total is exact, also where densities are clipped. Leaves
    with an array of shares have an array of densities: for the ``sparsity=`` of
    `lthjax.prune_program`, pass one minus these.

  Example:
    >>> from lthjax import densities
    >>> spread = densities.owl({'a': 1, 'b': 2, 'c': 5})
    >>> found = spread({'a': (10, 10), 'b': (10, 10), 'c': (10, 20)}, 0.7)
    >>> {name: round(1 - density, 4) for name, density in found.items()}
    {'a': 0.79, 'b': 0.75, 'c': 0.63}

  References:
    Yin et al., Outlier Weighed Layerwise Sparsity, arXiv:2310.05175, section 4.
  """
  _checks.mapping('outliers', outliers, 'names of leaves to shares')
  lam = _checks.not_negative('lam', lam)
  given = {n: np.asarray(x, np.float64) for n, x in outliers.items()}
  refuse([n for n, x in given.items() if not x.size], 'No shares for {}.')
  refuse(
    [n for n, x in given.items() if not np.isfinite(x).all() or (x < 0).any()],
    '`outliers` must be finite and not negative, unlike those of {}.',
  )

  def spread(
    shapes: Shapes, sparsity: float, *, axes: Mapping[str, Axes] | None = None
  ) -> dict[str, Any]:
    del axes
    density = 1 - _checks.share('sparsity', sparsity)
    if missing := sorted(set(_checks.shapes('shapes', shapes)) - set(given)):
      raise ValueError(f'`outliers` has no share for {", ".join(missing)}.')
    mine = {name: given[name] for name in shapes}
    if not mine:
      return {}
    every = np.concatenate([np.ravel(x) for x in mine.values()])
    low, width = every.min(), np.ptp(every)
    raised = {
      n: 2 * lam * (x - low) / width if width else 0 * x
      for n, x in mine.items()
    }
    size = {n: math.prod(shapes[n]) / x.size for n, x in mine.items()}

    def moved(shift: float) -> dict[str, Any]:
      return {
        n: np.clip(density + up + shift, 0.0, 1.0) for n, up in raised.items()
      }

    bottom, top = -1 - 2 * lam, 1.0
    for _ in range(80):  # The shift that makes the total exact.
      middle = (bottom + top) / 2
      over = sum(
        size[n] * (d - density).sum() for n, d in moved(middle).items()
      )
      bottom, top = (bottom, middle) if over > 0 else (middle, top)
    return {n: d if mine[n].ndim else float(d) for n, d in moved(top).items()}

  return spread
