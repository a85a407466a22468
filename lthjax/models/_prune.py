"""Pruning language models block by block."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import optax

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.models import _tokens
from lthjax.models._llama import Decoder
from lthjax.program._kernels import Where
from lthjax.reconstruction import prune_blocks
from lthjax.reconstruction._blocks import Report
from lthjax.rules import Rule

_BLOCKS = 'blocks/'


class PrunedDecoder(NamedTuple):
  """What `prune_decoder` returns.

  Attributes:
    params: pruned params.
    masks: tree of masks, `None` where nothing was pruned.
    errors: float32 ``[layers, 2]``: relative squared errors of the output of
      each block before and after its reconstruction; `None` without any.
  """

  params: Any
  masks: Any
  errors: jax.Array | None


def prune_decoder(
  model: Decoder,
  params: chex.ArrayTree,
  tokens: jax.Array,
  *,
  rule: Rule,
  tx: optax.GradientTransformation | None = None,
  steps: int = 0,
  batch_size: int = 8,
  where: Where | None = None,
  masks: chex.ArrayTree | None = None,
  sparsity: Mapping[str, Any] | None = None,
  token_mask: jax.Array | None = None,
  granularity: str = 'site',
  key: chex.PRNGKey | None = None,
  on_block: Report | None = None,
) -> PrunedDecoder:
  """Prunes the blocks of a decoder, and reconstructs each before the next.

  This is `lthjax.prune_blocks` for `llama` and `llama_moe`; embeddings, norms
  and the output layer stay dense. For about 8,000 tokens, some hundred steps of
  Adam with a learning rate of 1e-4 are a good start.

  Args:
    model: from `llama` or `llama_moe`.
    params: of the decoder.
    tokens: calibration data, integers ``[sequences, time]``.
    rule: how to prune a kernel, from `lthjax.rules`.
    tx: optimizer of the reconstruction, new for each block.
    steps: number of its steps for each block; 0 prunes only.
    batch_size: number of sequences per step.
    where: the leaves of a block, by their names in it, such as
      ``'mlp/*/kernel'``.
    masks: prune further: dead weights stay dead.
    sparsity: ``{name: sparsity}`` of leaves that differ from the rule's, by
      names as in ``params``; an array has a number for each block.
    token_mask: bool, of the shape of the tokens, false at pads.
    granularity: ``'site'``, or ``'block'`` for statistics over batches, as for
      `lthjax.prune_blocks`.
    key: shuffles the sequences; by default ``jax.random.key(0)``.
    on_block: ``on_block(number, before, after)`` is told the errors of each
      block as it is done, which are NaN where nothing is reconstructed.

  Returns:
    Params, masks and errors.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> from lthjax import models
    >>> model = models.llama(
    ...   models.LlamaConfig(
    ...     vocabulary=32,
    ...     width=8,
    ...     layers=2,
    ...     heads=2,
    ...     key_value_heads=1,
    ...     head_dim=4,
    ...     mlp=12,
    ...     tied=True,
    ...   )
    ... )
    >>> params = model.init(jax.random.key(0))
    >>> tokens = jax.random.randint(jax.random.key(1), (8, 16), 0, 32)
    >>> params, masks, errors = models.prune_decoder(
    ...   model,
    ...   params,
    ...   tokens,
    ...   rule=lth.rules.wanda(0.5),
    ...   tx=optax.adam(1e-3),
    ...   steps=10,
    ...   batch_size=4,
    ... )
    >>> masks['blocks']['mlp']['down']['kernel'].sum((1, 2))
    Array([48, 48], dtype=int32)
    >>> errors.shape
    (2, 2)
  """
  if not isinstance(model, Decoder):
    raise TypeError(
      f'`model` was {_checks.describe(model)}, but must be a `Decoder`: pass'
      ' `lthjax.models.llama(config)`.'
    )
  leaves = _checks.arrays(params)
  tokens, valid = _tokens.check('prune_decoder', params, tokens, token_mask)
  tree: Any = params
  if masks is not None:
    trees.check_like(masks, params, 'params')
    masks = _blocks_of(masks)
  found = prune_blocks(
    model.block,
    tree['blocks'],
    model.embed(params, tokens),
    *(() if valid is None else (valid,)),
    rule=rule,
    tx=tx,
    steps=steps,
    batch_size=batch_size,
    where=where,
    masks=masks,
    sparsity=_names_in_block(sparsity),
    token_mask=valid,
    granularity=granularity,
    key=key,
    on_block=on_block,
  )
  _, structure = trees.flatten(params)
  named = {_BLOCKS + n: mask for n, mask in trees.by_name(found.masks).items()}
  return PrunedDecoder(
    {**tree, 'blocks': found.params},
    structure.unflatten(named.get(name) for name in leaves),
    found.errors,
  )


def _blocks_of(masks: Any) -> Any:
  """Returns the masks of the blocks; there may be no others."""
  refuse(
    [n for n in trees.prunable(masks) if not n.startswith(_BLOCKS)],
    'Only blocks are pruned, but `masks` has masks for {}. Set these to None.',
  )
  return masks['blocks']


def _names_in_block(sparsity: Any) -> Any:
  """Returns sparsities by the names that leaves have in a block."""
  if sparsity is None:
    return None
  _checks.mapping('sparsity', sparsity, 'names of leaves to sparsities')
  refuse(
    [n for n in sparsity if not n.startswith(_BLOCKS)],
    'Only blocks are pruned, but `sparsity` names {}. Give names such as'
    ' "blocks/mlp/up/kernel".',
  )
  return {n.removeprefix(_BLOCKS): x for n, x in sparsity.items()}
