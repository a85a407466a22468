"""Sums of a frozen kernel and a product of two thin matrices."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.quantization import Quantized, dequantize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapter:
  """A pair of matrices for each kernel; a pytree, all of whose leaves train.

  Attributes:
    down: ``{name: float32[layers, inputs, rank]}``.
    up: ``{name: float32[layers, rank, outputs]}``, zero at first.
    axes: as pairs: the axes of each kernel.
    scale: alpha over the rank.
    masked: whether masks cover the sum of core and adapter.
  """

  down: dict[str, jax.Array]
  up: dict[str, jax.Array]
  axes: tuple[tuple[str, Axes], ...] = dataclasses.field(
    metadata={'static': True}
  )
  scale: float = dataclasses.field(metadata={'static': True})
  masked: bool = dataclasses.field(metadata={'static': True})


def lora(
  key: chex.PRNGKey,
  core: chex.ArrayTree,
  *,
  rank: int,
  alpha: float | None = None,
  where: masks_lib.Where | str | Sequence[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
  masked: bool = False,
) -> Adapter:
  """Makes an adapter that changes nothing yet.

  Args:
    key: random key; each kernel folds in its name.
    core: tree of arrays, or of shapes; kernels may be `Quantized`.
    rank: of the product, at most the inputs and the outputs of each kernel.
    alpha: the product is multiplied by ``alpha / rank``; by default by one.
    where: which kernels, as for `lthjax.masks.full`.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs, neurons or a stack of layers, each of
      which has matrices of its own.
    masked: whether the masks of a sparse core cover the adapter as well:
      ``m * (w + a b)`` instead of ``m * w + a b``.

  Returns:
    The adapter.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> core = {'kernel': jnp.ones((6, 4)), 'bias': jnp.ones(4)}
    >>> adapter = lth.adapters.lora(jax.random.key(0), core, rank=2)
    >>> jax.tree.map(jnp.shape, (adapter.down, adapter.up))
    ({'kernel': (1, 6, 2)}, {'kernel': (1, 2, 4)})

  References:
    Hu et al., arXiv:2106.09685, section 4.1.
  """
  _checks.key('key', key)
  rank = _checks.at_least('rank', rank, 1)
  alpha = rank if alpha is None else _checks.positive('alpha', alpha)
  masked = _checks.flag('masked', masked)
  sizes, its = _sizes(core, where, axes)
  refuse(
    [
      f'{n} ({depth} inputs, {width} outputs)'
      for n, (_, depth, width) in sizes.items()
      if rank > min(depth, width)
    ],
    f'A rank of {rank} is more than these kernels have: {{}}. Lower `rank`, or'
    ' leave them out with `where=`.',
  )
  down, up = {}, {}
  for name, (layers, depth, width) in sizes.items():
    own = trees.fold_in_name(key, name)
    noise = jax.random.normal(own, (layers, depth, rank), jnp.float32)
    down[name] = noise * depth**-0.5
    up[name] = jnp.zeros((layers, rank, width), jnp.float32)
  pairs = tuple((name, its[name]) for name in sizes)
  return Adapter(down, up, pairs, alpha / rank, masked)


def weights(
  core: chex.ArrayTree, adapter: Adapter, masks: chex.ArrayTree | None = None
) -> Any:
  """Returns what the network runs with: core plus adapter.

  Computed in float32 and cast to the types of the core. In a compiled step,
  8-bit kernels are unpacked where they are used.

  Args:
    core: tree of arrays; kernels may be `Quantized`, as
      `lthjax.quantization.quantize` makes them.
    adapter: from `lora`.
    masks: those of the core, which a masked adapter needs. Without it, dead
      weights of the core are taken to be zero already.

  Returns:
    Params. Gradients reach the adapter alone, not the core.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> core = {'kernel': jnp.eye(3)}
    >>> small = lth.quantization.quantize(core)
    >>> adapter = lth.adapters.lora(jax.random.key(0), core, rank=1)
    >>> lth.adapters.weights(small, adapter)['kernel'].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
  """
  _check(adapter)
  _shapes(core)
  plain = jax.lax.stop_gradient(dequantize(core))
  leaves, structure = trees.flatten(plain)
  _checks.check_arrays(leaves, 'core')
  _check_fit(adapter, leaves)
  alive = _masks(adapter, masks, leaves)
  its = dict(adapter.axes)

  def each(name, x):
    if name in its:
      pair = adapter.down[name], adapter.up[name]
      x = _sum(x, *pair, adapter.scale, its[name])
    mask = alive.get(name)
    return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))

  return structure.unflatten(each(name, x) for name, x in leaves.items())


@functools.partial(jax.jit, static_argnums=4)
def _sum(x: jax.Array, down: Any, up: Any, scale: float, its: Axes):
  view, back = axes_lib.columns(x.astype(jnp.float32), its)
  return back(view + scale * (down @ up)).astype(x.dtype)


def merge(
  core: chex.ArrayTree, adapter: Adapter, masks: chex.ArrayTree | None = None
) -> Any:
  """Adds the adapter to the kernels for good.

  The rule is the adapter's own. A masked one gives kernels as sparse as the
  core, which compute what `weights` does. Any other one fills the zeros of the
  core: give no masks, to say so.

  Args:
    core: as for `weights`; `Quantized` kernels become arrays.
    adapter: from `lora`.
    masks: those of the core, if the adapter is masked.

  Returns:
    Params.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> core, masks = {'kernel': jnp.eye(2)}, {'kernel': jnp.eye(2, dtype=bool)}
    >>> key = jax.random.key(0)
    >>> adapter = lth.adapters.lora(key, core, rank=1, masked=True)
    >>> lth.adapters.merge(core, adapter, masks)['kernel'].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  _check(adapter)
  if masks is not None and not adapter.masked:
    raise ValueError(
      'This adapter was trained beside the masks, and not under them: masks'
      ' would cut it after training, to another function. Make it with'
      ' `lora(..., masked=True)` and train again, keep it unmerged with'
      ' `weights`, or merge without masks, which fills the zeros of the core.'
    )
  return weights(core, adapter, masks)


def rank_of_count(
  core: chex.ArrayTree,
  count: int,
  *,
  where: masks_lib.Where | str | Sequence[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
) -> int:
  """Returns the rank at which an adapter trains about so many numbers.

  For adapters to be compared with masks of `lthjax.lota`.

  Args:
    core: as for `lora`.
    count: how many numbers should train, such as `lthjax.masks.count`.
    where: as for `lora`.
    axes: as for `lora`.

  Returns:
    The rank whose number of weights is nearest, at least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.adapters.rank_of_count({'kernel': jnp.ones((60, 40))}, 240)
    2
  """
  count = _checks.at_least('count', count, 1)
  sizes, _ = _sizes(core, where, axes)
  each = sum(layers * (depth + w) for layers, depth, w in sizes.values())
  return max(1, (2 * count + each) // (2 * each))


def _sizes(
  core: Any, where: Any, axes: Mapping[str, Axes] | None
) -> tuple[dict[str, tuple[int, int, int]], dict[str, Axes]]:
  """Counts layers, inputs and outputs of the chosen kernels."""
  shapes = _shapes(core)
  chosen = masks_lib.full(shapes, where)
  its = axes_lib.resolve(axes, chosen)
  return {
    name: (
      axes_lib.size(mask.shape, its[name].stack),
      axes_lib.size(mask.shape, its[name].summed),
      axes_lib.size(mask.shape, its[name].outputs),
    )
    for name, mask in trees.prunable(chosen).items()
  }, its


def _shapes(core: Any) -> Any:
  """The core with the codes of kernels in their place, if it is a core."""
  shapes = jax.tree.map(
    lambda x: x.codes if isinstance(x, Quantized) else x,
    core,
    is_leaf=lambda x: isinstance(x, Quantized),
  )
  _checks.arrays(shapes, 'core', shapes=True)
  return shapes


def _check(adapter: Any) -> None:
  if not isinstance(adapter, Adapter):
    wanted = 'be an adapter, as `lthjax.adapters.lora` makes'
    raise _checks.wrong_type('adapter', adapter, wanted)


def _check_fit(adapter: Adapter, leaves: Mapping[str, Any]) -> None:
  """Raises if an adapter is for other params."""
  faults = []
  for name, its in adapter.axes:
    x = leaves.get(name)
    if x is None:
      faults.append(f'{name} (unknown)')
      continue
    down, up = np.shape(adapter.down[name]), np.shape(adapter.up[name])
    wanted = (*down[:2], up[2])
    used = sorted((*its.stack, *its.summed, *its.outputs))
    groups = (its.stack, its.summed, its.outputs)
    if used != [*range(x.ndim)] or wanted != tuple(
      axes_lib.size(x.shape, group) for group in groups
    ):
      faults.append(f'{name} (of shape {x.shape}, adapter for {wanted})')
  refuse(
    faults,
    'The adapter is not for this core: {}. Pass the params that it was made'
    ' for.',
  )


def _masks(
  adapter: Adapter, masks: Any, leaves: Mapping[str, Any]
) -> Mapping[str, Any]:
  """The masks to cover the sum with, if any."""
  if not adapter.masked:
    if masks is not None:
      raise ValueError(
        '`masks` were given, but the adapter is not masked: its product is'
        ' added beside the masks. Apply them to the core beforehand, or make'
        ' the adapter with `lora(..., masked=True)`.'
      )
    return {}
  if masks is None:
    raise ValueError(
      'A masked adapter needs the masks of the core at every step: pass'
      ' `masks=`, or make it with `lora(..., masked=False)`.'
    )
  alive = _checks.bool_masks(masks)
  trees.check_tables(alive, leaves, 'core')
  return alive
