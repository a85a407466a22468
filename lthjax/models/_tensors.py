"""Params from named tensors of files, and back, by one table per family.

Files hold one matrix ``[out, in]`` per layer; params hold kernels ``[in, ...
out]`` of all layers in one array.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import trees

Shape = tuple[int, ...]

_NORMS = {
  'blocks/attention_norm/scale': 'model.layers.{}.input_layernorm.weight',
  'blocks/mlp_norm/scale': 'model.layers.{}.post_attention_layernorm.weight',
  'blocks/attention/query_norm/scale': (
    'model.layers.{}.self_attn.q_norm.weight'
  ),
  'blocks/attention/key_norm/scale': 'model.layers.{}.self_attn.k_norm.weight',
  'norm/scale': 'model.norm.weight',
}
_ENDS = {
  'embed/embedding': 'model.embed_tokens.weight',
  'output/kernel': 'lm_head.weight',
}


def _with_bias(ours: str, theirs: str) -> dict[str, str]:
  """Names of a layer's kernel and bias."""
  return {
    f'{ours}/kernel': f'{theirs}.weight',
    f'{ours}/bias': f'{theirs}.bias',
  }


def _layers(table: Mapping[str, str]) -> dict[str, str]:
  """Names of the kernels and biases of several layers."""
  found: dict[str, str] = {}
  for ours, theirs in table.items():
    found |= _with_bias(ours, theirs)
  return found


LLAMA = {
  **_NORMS,
  **_ENDS,
  **_layers(
    {
      'blocks/attention/query': 'model.layers.{}.self_attn.q_proj',
      'blocks/attention/key': 'model.layers.{}.self_attn.k_proj',
      'blocks/attention/value': 'model.layers.{}.self_attn.v_proj',
      'blocks/attention/out': 'model.layers.{}.self_attn.o_proj',
      'blocks/mlp/gate': 'model.layers.{}.mlp.gate_proj',
      'blocks/mlp/up': 'model.layers.{}.mlp.up_proj',
      'blocks/mlp/down': 'model.layers.{}.mlp.down_proj',
    }
  ),
}
QWEN_MOE = LLAMA | {
  'blocks/mlp/router/kernel': 'model.layers.{}.mlp.gate.weight',
  'blocks/mlp/shared_gate/kernel': (
    'model.layers.{}.mlp.shared_expert_gate.weight'
  ),
  **{
    f'blocks/mlp/experts/{x}/kernel': (
      f'model.layers.{{}}.mlp.experts.{{}}.{x}_proj.weight'
    )
    for x in ('gate', 'up', 'down')
  },
  **{
    f'blocks/mlp/shared/{x}/kernel': (
      f'model.layers.{{}}.mlp.shared_expert.{x}_proj.weight'
    )
    for x in ('gate', 'up', 'down')
  },
}
MIXTRAL = LLAMA | {
  'blocks/mlp/router/kernel': ('model.layers.{}.block_sparse_moe.gate.weight'),
  **{
    f'blocks/mlp/experts/{ours}/kernel': (
      f'model.layers.{{}}.block_sparse_moe.experts.{{}}.{theirs}.weight'
    )
    for ours, theirs in (('gate', 'w1'), ('up', 'w3'), ('down', 'w2'))
  },
}
BERT = {
  'embed/token/embedding': 'bert.embeddings.word_embeddings.weight',
  'embed/position/embedding': 'bert.embeddings.position_embeddings.weight',
  'embed/segment/embedding': 'bert.embeddings.token_type_embeddings.weight',
  **_layers(
    {
      'blocks/attention/query': 'bert.encoder.layer.{}.attention.self.query',
      'blocks/attention/key': 'bert.encoder.layer.{}.attention.self.key',
      'blocks/attention/value': 'bert.encoder.layer.{}.attention.self.value',
      'blocks/attention/out': 'bert.encoder.layer.{}.attention.output.dense',
      'blocks/mlp/up': 'bert.encoder.layer.{}.intermediate.dense',
      'blocks/mlp/down': 'bert.encoder.layer.{}.output.dense',
      'head/transform': 'cls.predictions.transform.dense',
    }
  ),
  **{
    f'{ours}/{x}': f'{theirs}.LayerNorm.{y}'
    for ours, theirs in {
      'embed/norm': 'bert.embeddings',
      'blocks/attention_norm': 'bert.encoder.layer.{}.attention.output',
      'blocks/mlp_norm': 'bert.encoder.layer.{}.output',
      'head/norm': 'cls.predictions.transform',
    }.items()
    for x, y in (('scale', 'weight'), ('bias', 'bias'))
  },
  'head/bias': 'cls.predictions.bias',
}
GGUF = {
  'embed/embedding': 'token_embd.weight',
  'output/kernel': 'output.weight',
  'norm/scale': 'output_norm.weight',
  'blocks/attention_norm/scale': 'blk.{}.attn_norm.weight',
  'blocks/mlp_norm/scale': 'blk.{}.ffn_norm.weight',
  'blocks/attention/query_norm/scale': 'blk.{}.attn_q_norm.weight',
  'blocks/attention/key_norm/scale': 'blk.{}.attn_k_norm.weight',
  **_layers(
    {
      'blocks/attention/query': 'blk.{}.attn_q',
      'blocks/attention/key': 'blk.{}.attn_k',
      'blocks/attention/value': 'blk.{}.attn_v',
      'blocks/attention/out': 'blk.{}.attn_output',
      'blocks/mlp/gate': 'blk.{}.ffn_gate',
      'blocks/mlp/up': 'blk.{}.ffn_up',
      'blocks/mlp/down': 'blk.{}.ffn_down',
    }
  ),
}


def assemble(
  where: str,
  table: Mapping[str, str],
  wanted: chex.ArrayTree,
  stored: Mapping[str, Shape],
  read: Callable[[str], np.ndarray],
  dtype: Any,
  unused: tuple[str, ...] = (),
) -> Any:
  """Reads params from tensors, or names all that are missing or do not fit.

  Args:
    where: what to call the file in errors.
    table: names of our leaves to templates of the names of tensors.
    wanted: params as shapes.
    stored: names of the tensors to their shapes.
    read: reads one tensor.
    dtype: of the params.
    unused: globs over tensors that may be there and are not needed.

  Returns:
    The params.
  """
  leaves, structure = trees.flatten(wanted)
  places = {name: _places(name, table, x.shape) for name, x in leaves.items()}
  needed = {
    theirs: shape for found in places.values() for _, theirs, shape in found
  }
  unknown = [
    x for x in stored if x not in needed and not trees.matches(unused, x)
  ]
  faults = []
  if missing := sorted(needed.keys() - stored.keys()):
    faults.append(f'lacks {", ".join(missing)}')
  if unknown:
    faults.append(f'has the unknown {", ".join(sorted(unknown))}')
  misfits = [
    f'{name} {tuple(stored[name])} instead of {shape}'
    for name, shape in needed.items()
    if name in stored and tuple(stored[name]) != shape
  ]
  if misfits:
    faults.append(
      f'has shapes that do not fit its config: {", ".join(misfits)}'
    )
  if faults:
    raise ValueError(
      f'{where} {"; and ".join(faults)}. Use the files of one model, all of'
      ' them, with the config that belongs to it.'
    )
  return structure.unflatten(
    _fill(name, x.shape, places[name], read, dtype)
    for name, x in leaves.items()
  )


def _fill(name, shape, places, read, dtype) -> jax.Array:
  """Reads one leaf, layer by layer."""
  array = np.empty(shape, dtype)
  for index, theirs, _ in places:
    x = read(theirs)
    x = x.T if name.endswith('kernel') else x
    array[index] = x.reshape(array[index].shape)
  return jnp.asarray(array)


def disassemble(
  table: Mapping[str, str], params: chex.ArrayTree
) -> dict[str, np.ndarray]:
  """Returns the tensors that `assemble` makes params from."""
  tensors = {}
  for name, leaf in trees.by_name(params).items():
    array = np.asarray(leaf)
    for index, theirs, shape in _places(name, table, array.shape):
      x = array[index]
      x = x.reshape(shape[::-1]).T if name.endswith('kernel') else x
      tensors[theirs] = np.ascontiguousarray(x.reshape(shape))
  return tensors


def _places(
  name: str, table: Mapping[str, str], shape: Shape
) -> list[tuple[Shape, str, Shape]]:
  """Lists index, name and shape of the tensors of a leaf."""
  template = table[name]
  stack = template.count('{}')
  inner = shape[stack:]
  if name.endswith('kernel'):
    inputs = 2 if name.endswith('attention/out/kernel') else 1
    inner = math.prod(inner[inputs:]), math.prod(inner[:inputs])
  elif name.endswith('bias'):
    inner = (math.prod(inner),)
  return [
    (index, template.format(*index), inner)
    for index in itertools.product(*map(range, shape[:stack]))
  ]
