"""Pruning and reconstructing a stack of blocks, one after the other."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.calibration import calibrate
from lthjax.calibration._calibrate import hashable
from lthjax.program._interpreter import check_arguments
from lthjax.program._kernels import Where
from lthjax.pruning import prune_program
from lthjax.reconstruction._reconstruct import (
  check_batches,
  check_tokens,
  in_batches,
  reconstruct,
)
from lthjax.rules import Rule

Report = Callable[[int, float, float], Any]


class PrunedBlocks(NamedTuple):
  """What `prune_blocks` returns.

  Attributes:
    params: of the blocks, as they were given: stacked, or a list.
    masks: tree of masks of that form, `None` where nothing was pruned.
    output: what the last pruned block returned.
    errors: float32 ``[blocks, 2]``: relative squared errors of the output of
      each block before and after its reconstruction; `None` without any.
  """

  params: Any
  masks: Any
  output: Any
  errors: jax.Array | None


def prune_blocks(
  block: Callable[..., Any],
  blocks: Any,
  x: chex.ArrayTree,
  *args: Any,
  rule: Rule,
  tx: optax.GradientTransformation | None = None,
  steps: int = 0,
  batch_size: int = 8,
  where: Where | None = None,
  masks: Any = None,
  sparsity: Mapping[str, Any] | None = None,
  token_mask: jax.Array | None = None,
  granularity: str = 'site',
  key: chex.PRNGKey | None = None,
  on_block: Report | None = None,
) -> PrunedBlocks:
  """Prunes a stack of blocks, and reconstructs each before the next.

  Each block is pruned by the activations of the pruned part of the model. Then
  its alive weights are trained so that, from these activations, it computes
  what the dense model computes there: see `reconstruct`. Only one block trains
  at a time, and all are trained by one compiled program.

  Args:
    block: pure function ``block(params, x, *args)`` that returns the next
      ``x``.
    blocks: params of all blocks: a tree whose leaves have a leading axis of
      layers, or a list of trees.
    x: activations ``[examples, ...]`` that enter the first block.
    *args: more trees of arrays ``[examples, ...]`` for all blocks.
    rule: how to prune a kernel, from `lthjax.rules`.
    tx: optimizer of the reconstruction, new for each block.
    steps: number of its steps; 0 prunes only.
    batch_size: number of examples per step, and of whatever runs in batches.
    where: the leaves of a block, as for `lthjax.calibrate`.
    masks: prune further: masks of the form of ``blocks``.
    sparsity: ``{name: sparsity}`` of leaves that differ from the rule's; an
      array has a number for each block.
    token_mask: bool array of the shape of the first axes of ``x``, true where a
      token counts.
    granularity: ``'site'`` prunes each kernel of a block before the next, by
      all examples at once. ``'block'`` prunes all of them by what the dense
      block computes: statistics add up over batches of ``batch_size``, so the
      memory of a batch is enough.
    key: shuffles the examples; by default ``jax.random.key(0)``.
    on_block: ``on_block(number, before, after)`` is told the errors of each
      block as it is done, which are NaN where nothing is reconstructed.

  Returns:
    Params, masks, the output and errors.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> blocks = {'w': jax.random.normal(jax.random.key(0), (3, 8, 8))}
    >>> block = lambda params, x: x + jnp.tanh(x @ params['w'])
    >>> x = jax.random.normal(jax.random.key(1), (32, 8))
    >>> found = lth.prune_blocks(
    ...   block,
    ...   blocks,
    ...   x,
    ...   rule=lth.rules.wanda(0.5),
    ...   tx=optax.adam(1e-2),
    ...   steps=20,
    ...   batch_size=16,
    ... )
    >>> found.masks['w'].sum((1, 2))
    Array([32, 32, 32], dtype=int32)
    >>> bool((found.errors[:, 1] < found.errors[:, 0]).all())
    True

  References:
    Wagner et al., A Free Lunch in LLM Compression: Revisiting Retraining after
    Pruning, arXiv:2510.14444.
  """
  _checks.function('block', block, 'block(params, x, *args)')
  block = hashable(block)
  steps = _checks.at_least('steps', steps, 0)
  _checks.one_of('granularity', granularity, ('site', 'block'))
  if steps or tx is not None:
    _checks.optimizer(tx)
  _checks.arrays(x, 'x')
  check_arguments(blocks, x, *args)
  _checks.at_least('batch_size', batch_size, 1)
  if steps or granularity == 'block':
    check_batches(x, x, args, batch_size)
  check_tokens(token_mask, x)
  key = jax.random.key(0) if key is None else _checks.key('key', key)
  layers, join = _layers(blocks, 'blocks')
  given = [None] * len(layers)
  if masks is not None:
    given, _ = _layers(masks, 'masks', len(layers))
  shares = _by_layer(sparsity, len(layers))
  # Arrays on the device from the first block on, so that one program fits all.
  x, args = jax.tree.map(jnp.asarray, (x, args))
  run = functools.partial(_forward, block, batch_size)
  prune = functools.partial(
    _pruned, block, args, rule, where, token_mask, batch_size, granularity
  )
  found, dense_x = [], x
  for number, dense in enumerate(layers):
    pruned = prune(dense, x, masks=given[number], sparsity=shares[number])
    if not steps or tx is None:
      # By blocks, the output is that of a batch.
      whole = granularity == 'site'
      x = pruned.output if whole else run(pruned.params, (x, *args))
      found.append((pruned.params, pruned.masks, None))
      if on_block is not None:
        jax.block_until_ready(x)  # Done, and not only begun.
        on_block(number, math.nan, math.nan)
      continue
    done = reconstruct(
      block,
      pruned.params,
      dense,
      pruned.masks,
      x,
      tx,
      steps,
      batch_size,
      args=args,
      dense_x=dense_x,
      token_mask=token_mask,
      key=jax.random.fold_in(key, number),
    )
    x, dense_x = run(done.params, (x, *args)), run(dense, (dense_x, *args))
    found.append((done.params, pruned.masks, [done.before, done.after]))
    if on_block is not None:
      on_block(number, float(done.before), float(done.after))
  new, new_masks, errors = zip(*found, strict=True)
  return PrunedBlocks(
    join(new), join(new_masks), x, jnp.array(errors) if steps else None
  )


def _pruned(
  block, args, rule, where, token_mask, size, granularity, dense, x, **options
) -> Any:
  """Prunes a block, by all examples or by sums over batches."""
  inputs: Any = (x, *args)
  options |= {'rule': rule, 'where': where}
  if granularity == 'site' or rule.needs is None:
    return prune_program(
      block, dense, *inputs, token_mask=token_mask, **options
    )
  total: Any = None
  for first in range(0, len(jax.tree.leaves(x)[0]), size):
    part, valid = jax.tree.map(
      lambda a, i=first: a[i : i + size], (inputs, token_mask)
    )
    more = calibrate(
      block, dense, *part, stat=rule.needs, where=where, token_mask=valid
    )
    total = more if total is None else total + more
  few = jax.tree.map(lambda a: a[:size], inputs)
  return prune_program(block, dense, *few, calibration=total, **options)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(block, size, params, inputs):
  return in_batches(block, params, inputs, size)


def _layers(
  blocks: Any, what: str, number: int | None = None
) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
  """Takes a stack of blocks apart, and says how to put it together."""
  if isinstance(blocks, list | tuple):
    if not blocks or number not in (None, len(blocks)):
      raise ValueError(
        f'`{what}` was a list of {len(blocks)}, but must have one tree for each'
        f' block{"" if number is None else f", {number}"}.'
      )
    return [jax.tree.map(jnp.asarray, each) for each in blocks], list
  leaves = _checks.arrays(blocks, what)
  sizes = {n: jnp.shape(x)[:1] for n, x in leaves.items() if x is not None}
  wanted: Any = (number,) if number else next(iter(sizes.values()), ())
  refuse(
    [
      f'{name or "the array"} {jnp.shape(leaves[name])}'
      for name, size in sizes.items()
      if size != wanted or not size
    ]
    or ([] if sizes else ['there is no array']),
    f'`{what}` must stack its blocks along the first axis of each leaf, here'
    f' {wanted}, but there are {{}}. Pass a list of trees where blocks are not'
    ' stacked.',
  )

  def take(i):
    return jax.tree.map(lambda x: jnp.asarray(x[i]), blocks)

  return [take(i) for i in range(wanted[0])], _stacked


def _stacked(trees_: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *x: jnp.stack(x), *trees_)


def _by_layer(sparsity: Any, number: int) -> list[dict[str, Any] | None]:
  """Takes sparsities apart, where they differ between blocks."""
  if sparsity is None:
    return [None] * number
  _checks.mapping('sparsity', sparsity, 'names of leaves to sparsities')
  for name, x in sparsity.items():
    if np.shape(x) == ():
      _checks.real(f'sparsity[{name!r}]', x)
  shares = {name: np.asarray(x, np.float64) for name, x in sparsity.items()}
  refuse(
    [
      f'{n} {x.shape}'
      for n, x in shares.items()
      if x.shape not in ((), (number,))
    ],
    f'`sparsity` must have one number per leaf, or one for each of {number}'
    ' blocks, but {}.',
  )
  return [
    {n: float(x[i] if x.ndim else x) for n, x in shares.items()}
    for i in range(number)
  ]
