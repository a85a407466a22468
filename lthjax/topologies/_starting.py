"""First masks that are handed in, instead of random ones."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.densities import Densities


def check_given(
  sparsity: Any,
  masks: chex.ArrayTree | None,
  key: chex.PRNGKey | None,
  densities: Densities | None,
  where: Any,
) -> None:
  """Checks that one thing, and one only, says what the first masks are.

  Args:
    sparsity: for random masks, which need a key and may take densities.
    masks: to start from.
    key: random key.
    densities: how a sparsity spreads over layers.
    where: which leaves a sparsity is for.

  Raises:
    ValueError: if nothing does, or two things contradict each other.
  """
  if (sparsity is None) == (masks is None):
    given = 'neither' if masks is None else 'both'
    raise ValueError(
      'Give either `sparsity`, for random first masks, or `masks` to start'
      f' from; {given} were given.'
    )
  if masks is None and key is None:
    raise ValueError(
      'The first masks are random, so they need a `key`, such as'
      ' `jax.random.key(0)`.'
    )
  if masks is not None and densities is not None:
    raise ValueError(
      '`masks` fix the density of every layer, so they take no `densities`'
      ' beside them. Leave those out.'
    )
  if masks is not None and where is not masks_lib.kernels:
    raise ValueError(
      '`masks` tell which layers are dense, by None, so they take no `where`'
      ' beside them. Leave it out.'
    )


def take(
  masks: chex.ArrayTree,
  params: chex.ArrayTree,
  faults: Callable[[Mapping[str, jax.Array]], list[str]],
) -> chex.ArrayTree:
  """Copies masks that were handed in, if a topology can start from them.

  Args:
    masks: tree of masks.
    params: tree of arrays that they must fit.
    faults: tells what is wrong with masks, as `lthjax.patterns.NM.faults`.

  Returns:
    Tree of masks of the structure of the params.

  Raises:
    ValueError: naming every leaf that does not fit the params, or that the
      topology finds fault with.
  """
  trees.check_like(masks, params, 'params')
  prunable = {n: m for n, m in trees.by_name(masks).items() if m is not None}
  # Also where `init` is compiled: the masks themselves are not traced there.
  with jax.ensure_compile_time_eval():
    wrong = faults(prunable) if prunable else ['every one is None']
  if wrong:
    raise ValueError(
      f'Training cannot start from these `masks`: {"; ".join(wrong)}. Mend'
      ' them, or leave a layer dense with None.'
    )
  return trees.copy_into(params, masks)
