"""Ways to adapt a model, and which of its weights each of them trains."""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

import lthjax as lth
from adaptation.network import KERNELS, Network
from lthjax import adapters, lota, trees

ArmName = Literal[
  'full',
  'lota_90',
  'lota_99',
  'lora',
  'random_90',
  'magnitude_90',
  'gradient_90',
]
RuleName = Literal['sum', 'mean', 'ties']
DENSE = 0.2  # share of a dense delta that TIES keeps, as in the paper


class Arm(NamedTuple):
  """A way to adapt."""

  label: str
  color: str
  sparsity: float | None = None  # of what trains; None: all weights train
  chosen_by: str = ''

  @property
  def masked(self) -> bool:
    return self.sparsity is not None


ARMS: dict[ArmName, Arm] = {
  'full': Arm('full fine-tuning', '#222222'),
  'lota_90': Arm('LoTA, 90 %', '#1b6ca8', 0.9, 'calibration'),
  'lota_99': Arm('LoTA, 99 %', '#5aa9e6', 0.99, 'calibration'),
  'lora': Arm('LoRA', '#c8553d'),
  'random_90': Arm('random, 90 %', '#8a8a8a', 0.9, 'noise'),
  'magnitude_90': Arm('initial magnitude, 90 %', '#2a9d8f', 0.9, 'magnitude'),
  'gradient_90': Arm('gradient of a batch, 90 %', '#e9a03b', 0.9, 'gradient'),
}
RANKED = 0.1  # share of the kernels whose number LoRA trains


def kernels(params: Any) -> Any:
  """Masks that keep the kernels of the blocks, which arms choose from."""
  return lth.masks.full(params, where=KERNELS)


def choose(
  arm: Arm,
  start: chex.ArrayTree,
  taken: chex.ArrayTree | None,
  *,
  key: chex.PRNGKey,
  tuned: Any,
  gradient: Callable[[], Any],
) -> Any:
  """Masks of what an arm trains, of one run.

  Args:
    arm: with a sparsity.
    start: params before training.
    taken: masks of what an earlier task has trained.
    key: of random masks.
    tuned: the params after full fine-tuning, for calibration.
    gradient: computes scores from one batch.
  """
  free = kernels(start)
  if taken is not None:
    used = jax.tree.map(
      lambda m, free: None if free is None else m,
      taken,
      free,
      is_leaf=trees.is_none,
    )
    free = lota.complement(used)
  sparsity = arm.sparsity or 0.0
  if arm.chosen_by == 'calibration':
    return lota.calibrated(start, tuned, free, sparsity=sparsity)
  scores = {
    'noise': lambda: lth.scores.noise(key, start),
    'magnitude': lambda: lth.scores.magnitude(start),
    'gradient': gradient,
  }[arm.chosen_by]()
  return lota.largest(scores, free, sparsity=sparsity)


def everywhere(params: Any, masks: Any) -> Any:
  """Masks for all leaves: what was not chosen from is frozen, heads train."""

  def each(name, x, mask):
    if mask is not None:
      return mask
    return jnp.full(x.shape, name.startswith('head/'))

  leaves, structure = trees.flatten(params)
  chosen = trees.by_name(masks)
  return structure.unflatten(
    each(name, x, chosen.get(name)) for name, x in leaves.items()
  )


def adapter(net: Network, key: chex.PRNGKey) -> adapters.Adapter:
  """An adapter that trains about as much as a tenth of the kernels."""
  where = KERNELS.removeprefix('model/')
  axes = {name: its for name, its in net.axes.items() if fnmatch(name, where)}
  leaves = trees.by_name(net.shapes)
  count = round(RANKED * sum(leaves[name].size for name in axes))
  rank = adapters.rank_of_count(net.shapes, count, where=where, axes=axes)
  return adapters.lora(key, net.shapes, rank=rank, where=where, axes=axes)


def counts(net: Network, name: str, masks: Any) -> list[int]:
  """How many weights of the model each run trains."""
  leaves = jax.tree.leaves(masks)
  if name == 'lora':
    shapes = jax.eval_shape(lambda key: adapter(net, key), jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(shapes))
    return [size] * len(leaves[0])
  total: Any = sum(x.reshape(len(x), -1).sum(1) for x in leaves)
  return total.tolist()


def merge(
  rule: RuleName, base: Any, one: Any, two: Any, masks: tuple[Any, Any]
) -> tuple[Any, bool]:
  """Merges two adapted models of one run, each with masks of its changes.

  Returns:
    The merged model, and whether each change arrived there to the bit.
  """
  pairs = zip((one, two), masks, strict=True)
  deltas = [lota.difference(base, x, m) for x, m in pairs]
  total = sum(x.size for x in jax.tree.leaves(base))
  dense = any(lth.masks.count(m) > total / 2 for m in masks)
  rules = {
    'sum': lota.merge_sum,
    'mean': lota.merge_mean,
    'ties': lambda x: lota.merge_ties(x, density=DENSE if dense else 1.0),
  }
  merged = lota.add(base, rules[rule](deltas))
  arrived = jax.tree.map(
    lambda new, x, a, y, b: bool(
      jnp.all(same(new, jnp.where(a, x, jnp.where(b, y, new))))
      & ~jnp.any(a & b)
    ),
    merged,
    lota.add(base, deltas[0]),
    masks[0],
    lota.add(base, deltas[1]),
    masks[1],
  )
  return merged, all(jax.tree.leaves(arrived))


def same(a: jax.Array, b: jax.Array) -> jax.Array:
  """Where two arrays of float32 have the same bits."""
  return a.view(jnp.uint32) == b.view(jnp.uint32)
