"""Bytes of a network on disk, in three formats."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax.numpy as jnp

from lthjax import _checks, _table, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax.axes import Axes


class Storage(NamedTuple):
  """Bytes of each leaf in each format.

  Attributes:
    dense: ``{name: bytes}`` of all values.
    bitmask: ``{name: bytes}`` of the alive values and one bit per weight.
    csr: ``{name: bytes}`` of the alive values and the index of each, in rows.
  """

  dense: dict[str, int]
  bitmask: dict[str, int]
  csr: dict[str, int]

  @property
  def total(self) -> tuple[int, int, int]:
    """Bytes of all leaves in the three formats."""
    dense, bitmask, csr = (sum(sizes.values()) for sizes in self)
    return dense, bitmask, csr

  def summary(self) -> str:
    """Describes the sizes as a table with one line per leaf and a total.

    Returns:
      Text of several lines.

    Example:
      >>> from lthjax import deploy
      >>> print(deploy.Storage({'w': 8}, {'w': 5}, {'w': 14}).summary())
      leaf   dense  bitmask  csr
      w          8        5   14
      total      8        5   14
    """
    names = list(self.dense)
    rows = [(name, *(sizes[name] for sizes in self)) for name in names]
    rows.append(('total', *self.total))
    return _table.write(('leaf', *self._fields), rows)


def storage(
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  *,
  axes: Mapping[str, Axes] | None = None,
) -> Storage:
  """Counts the bytes that params take, dense and in two sparse formats.

  For a leaf of n weights of b bytes each, a of them alive:

  - dense: ``n * b``.
  - bitmask: ``ceil(n / 8) + a * b``. The mask goes row by row, as
    `lthjax.masks.pack` has it, the values in the same order.
  - csr: ``a * (b + c) + 4 * (r + 1)``, compressed sparse rows. A row holds
    what feeds one output: each of the r outputs has ``n / r`` inputs, whose
    indices take c bytes: 2, or 4 for more than 65,536 inputs. The start of each
    row takes another 4. One-dimensional leaves are one row. Where names and
    shapes do not say which axes count outputs, it is the last one.

  Leaves without a mask, and those with all weights alive, are stored dense in
  every format. Overhead of file formats, such as names and shapes, is not
  counted.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    masks: tree of masks, not traced.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes count outputs.

  Returns:
    Bytes by leaf, and their totals.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'kernel': jnp.ones((100, 10)), 'bias': jnp.ones(10)}
    >>> masks = {'kernel': jnp.arange(1000).reshape(100, 10) < 50, 'bias': None}
    >>> sizes = lth.deploy.storage(params, masks)
    >>> sizes.bitmask
    {'bias': 40, 'kernel': 325}
    >>> sizes.total
    (4040, 365, 384)
  """
  leaves = _checks.arrays(params, shapes=True)
  trees.check_like(masks, params, 'params')
  alive = masks_lib.alive_by_name(masks)
  its = axes_lib.resolve(axes, masks, strict=False)
  sizes = Storage({}, {}, {})
  for name, leaf in leaves.items():
    if leaf is None:
      continue
    size, width = math.prod(leaf.shape), jnp.dtype(leaf.dtype).itemsize
    kept = alive.get(name, size)
    dense = bitmask = csr = size * width
    if kept < size:
      bitmask = -(-size // 8) + kept * width
      rows = _outputs(leaf.shape, its.get(name))
      number = 2 if size // rows <= 2**16 else 4
      csr = kept * (width + number) + 4 * (rows + 1)
    sizes.dense[name] = dense
    sizes.bitmask[name] = bitmask
    sizes.csr[name] = csr
  return sizes


def _outputs(shape: tuple[int, ...], axes: Axes | None) -> int:
  """Counts the outputs of a kernel, in all layers of a stack."""
  if len(shape) < 2:
    return 1
  if axes is None:
    return shape[-1]
  return axes_lib.size(shape, (*axes.stack, *axes.outputs))
