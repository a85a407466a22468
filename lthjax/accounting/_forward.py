"""Multiply-adds of a forward pass, dense and with masks."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from lthjax import _table, program, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse


class MultiplyAdds(NamedTuple):
  """Multiply-adds of a forward pass; papers count two FLOPs for each.

  Attributes:
    dense: ``{name: number}`` of the leaves, with all weights.
    alive: ``{name: number}``, with the alive weights only.
    other: number in products without such a leaf, as in attention.
  """

  dense: dict[str, int]
  alive: dict[str, int]
  other: int

  @property
  def total_dense(self) -> int:
    """Cost of the whole pass with all weights: the papers' ``f_D``."""
    return sum(self.dense.values()) + self.other

  @property
  def total(self) -> int:
    """Cost of the whole pass with alive weights: the papers' ``f_S``."""
    return sum(self.alive.values()) + self.other

  def at(self, densities: Mapping[str, float]) -> float:
    """Returns what the whole pass costs at given densities.

    Args:
      densities: ``{name: density}``, as `lthjax.densities` gives them; leaves
        without one are dense.

    Returns:
      The expected number of multiply-adds.

    Example:
      >>> from lthjax import accounting
      >>> accounting.MultiplyAdds({'fc': 100}, {'fc': 100}, 50).at({'fc': 0.5})
      100.0
    """
    refuse(
      (name for name in densities if name not in self.dense),
      'There are densities for {}, but the leaves counted by name are'
      f' {", ".join(self.dense)}. Choose the same with `where=`.',
    )
    costs = [n * densities.get(name, 1.0) for name, n in self.dense.items()]
    return sum(costs) + self.other

  def summary(self) -> str:
    """Describes the cost as a table with one line per leaf and a total.

    Returns:
      Text of several lines.

    Example:
      >>> from lthjax import accounting
      >>> print(accounting.MultiplyAdds({'fc': 800}, {'fc': 200}, 0).summary())
      leaf   dense  alive    share
      fc       800    200  25.00 %
      other      0      0
      total    800    200  25.00 %
    """
    rows = [(name, n, self.alive[name]) for name, n in self.dense.items()]
    rows += [('other', self.other, self.other)]
    rows += [('total', self.total_dense, self.total)]
    shares = [f'{100 * b / a:.2f} %' if a else '' for _, a, b in rows]
    return _table.write(
      ('leaf', 'dense', 'alive', 'share'),
      [(*row, share) for row, share in zip(rows, shares, strict=True)],
    )


def multiply_adds(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  masks: chex.ArrayTree | None = None,
  where: masks_lib.Where | str | list[str] | None = None,
) -> MultiplyAdds:
  """Counts the multiply-adds of a forward pass, exactly.

  An alive weight costs one multiply-add per use: once per position of the image
  in a convolution, once per token in a dense layer. Biases, normalization
  and everything elementwise cost nothing, as in the literature;
  `lthjax.program.uses` describes how weights are found. The pass itself is not
  computed, so shapes are enough.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    *args: trees of arrays or of `jax.ShapeDtypeStruct`. For the cost of one
      example, give a batch of one.
    masks: tree of masks, not traced; all weights are alive without it. Masks of
      biases, scales and other vectors are ignored.
    where: the leaves to count by name, as in `lthjax.masks.full`. By default
      those that have such a mask, or those of `lthjax.program.kernels`.

  Returns:
    The numbers by leaf, and their totals.

  Example:
    >>> import jax
    >>> import lthjax as lth
    >>> model = lth.models.lenet_300_100()
    >>> params, state = jax.eval_shape(model.init, jax.random.key(0))
    >>> image = jax.ShapeDtypeStruct((1, 28, 28, 1), 'float32')
    >>> cost = lth.accounting.multiply_adds(model.apply, params, state, image)
    >>> cost.total_dense
    266200
    >>> cost.at({'fc1/kernel': 0.5})
    148600.0

  References:
    Evci et al., Rigging the Lottery: Making All Tickets Winners,
    arXiv:1911.11134, appendix on counting FLOPs.
  """
  pruned = {}
  if masks is not None:
    trees.check_like(masks, params, 'params')
    named = trees.by_name(masks)
    pruned = {n: m for n, m in named.items() if m is not None and m.ndim > 1}
  if where is None and pruned:
    chosen = [*pruned]
  elif where is None:
    chosen = None
  else:
    shapes = jax.eval_shape(lambda p: masks_lib.full(p, where), params)
    chosen = [n for n, x in trees.by_name(shapes).items() if x is not None]
  refuse(
    (name for name in pruned if name not in (chosen or pruned)),
    '{} have masks, but `where` leaves them out. Choose at least the leaves'
    ' that have masks, or leave `where` to its default.',
  )
  follow = chosen and (lambda name, leaf: name in chosen)
  uses = program.uses(apply, params, *args, where=follow)
  names = {use.name for use in uses if use.name is not None} | {*(chosen or ())}
  dense = {name: 0 for name in trees.by_name(params) if name in names}
  alive, other = dict(dense), 0
  for use in uses:
    if use.name is None:  # Activations meet activations, as in attention.
      other += use.multiply_adds
      continue
    dense[use.name] += use.multiply_adds
    if use.name in pruned:
      # The mask as the matmul sees the leaf: repeated, sliced or transposed.
      # Counted on the host: int32 would not do for the largest leaves.
      seen = np.count_nonzero(np.asarray(use.view(pruned[use.name])))
      alive[use.name] += round(use.times * seen)
    else:
      alive[use.name] += use.multiply_adds
  return MultiplyAdds(dense, alive, other)
