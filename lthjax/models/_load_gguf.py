"""Decoders from GGUF files."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lthjax.models import _gguf, _tensors
from lthjax.models._config import LlamaConfig
from lthjax.models._llama import llama

_FAMILIES = ('llama', 'qwen2', 'qwen3')
# Our name, and theirs behind the name of the family.
_FIELDS = [
  ('width', 'embedding_length'),
  ('layers', 'block_count'),
  ('heads', 'attention.head_count'),
  ('mlp', 'feed_forward_length'),
  ('context', 'context_length'),
  ('norm_eps', 'attention.layer_norm_rms_epsilon'),
]


def load_gguf(
  path: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[LlamaConfig, Any]:
  """Loads a decoder of the families llama, qwen2 and qwen3 from a GGUF file.

  Tensors may be of type F32, F16, BF16, Q8_0, Q4_0 and Q4_1. The order in which
  llama.cpp stores the rows of queries and keys is undone.

  Args:
    path: the file.
    dtype: of the params.

  Returns:
    The config, for `llama`, and the params.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is truncated, if tensors are missing, unknown, of an
      unsupported type or of the wrong shape, all of which are named.
  """
  file = _gguf.read(path)
  config = _config(file)
  _gguf.check(file)
  wanted = jax.eval_shape(llama(config).init, jax.random.key(0))
  turned = file.metadata['general.architecture'] == 'llama'

  def read(name):
    x = file.read(name)
    if turned and name.split('.')[2:3] in (['attn_q'], ['attn_k']):
      return _unturn(x, config.head_dim)
    return x

  params = _tensors.assemble(
    str(file.path),
    _tensors.GGUF,
    wanted,
    {name: tensor.shape for name, tensor in file.tensors.items()},
    read,
    dtype,
  )
  return config, params


def _unturn(x: np.ndarray, head_dim: int) -> np.ndarray:
  """Moves rows of rotary pairs, which are neighbors, to the two halves."""
  heads = x.shape[0] // head_dim
  pairs = x.reshape(heads, head_dim // 2, 2, *x.shape[1:])
  return pairs.swapaxes(1, 2).reshape(x.shape)


def _check_numbers(file: _gguf.File, family: str) -> None:
  """Raises unless sizes are single numbers above zero."""
  names = [name for _, name in _FIELDS]
  names += ['attention.key_length', 'attention.head_count_kv', 'rope.freq_base']
  found = {name: file.metadata.get(f'{family}.{name}', 1) for name in names}
  faults = [
    f'{family}.{name}={x!r}'
    for name, x in found.items()
    if isinstance(x, bool) or not isinstance(x, int | float) or not x > 0
  ]
  if len(shape := file.tensors['token_embd.weight'].shape) != 2:
    faults.append(f'token_embd.weight of shape {shape}')
  if faults:
    raise ValueError(
      f'{file.path} must have one number above zero for each size, and a matrix'
      f' of embeddings, but has {", ".join(faults)}.'
    )


def _config(file: _gguf.File) -> LlamaConfig:
  """Reads the config, or names what is missing or not supported."""
  data = file.metadata
  family = data.get('general.architecture')
  if family not in _FAMILIES:
    raise ValueError(
      f'{file.path} has the architecture {family!r}, but only'
      f' {", ".join(_FAMILIES)} are supported.'
    )

  def get(name: str, default: Any = None) -> Any:
    return data.get(f'{family}.{name}', default)

  missing = [f'{family}.{name}' for _, name in _FIELDS if get(name) is None]
  if 'token_embd.weight' not in file.tensors:
    missing.append('the tensor token_embd.weight')
  if missing:
    raise ValueError(f'{file.path} lacks {", ".join(missing)}.')
  _check_numbers(file, family)
  heads, width = get('attention.head_count'), get('embedding_length')
  head_dim = get('attention.key_length', width // heads)
  wrong = {
    'expert_count': bool(get('expert_count')),
    'rope.scaling.type': get('rope.scaling.type', 'none') != 'none',
    'rope.dimension_count': get('rope.dimension_count', head_dim) != head_dim,
    'attention.value_length': (
      get('attention.value_length', head_dim) != head_dim
    ),
    'attention.sliding_window': bool(get('attention.sliding_window')),
  }
  faults = [f'{family}.{x}={get(x)!r}' for x, bad in wrong.items() if bad]
  if 'rope_freqs.weight' in file.tensors:
    faults.append('the tensor rope_freqs.weight')
  if faults:
    raise ValueError(
      f'{file.path} asks for what is not supported: {", ".join(faults)}.'
    )
  names = file.tensors
  fields: dict[str, Any] = {ours: get(theirs) for ours, theirs in _FIELDS}
  try:
    return LlamaConfig(
      vocabulary=names['token_embd.weight'].shape[0],
      head_dim=head_dim,
      key_value_heads=get('attention.head_count_kv', heads),
      rope_theta=get('rope.freq_base', 10_000.0),
      tied='output.weight' not in names,
      qkv_bias='blk.0.attn_q.bias' in names,
      out_bias='blk.0.attn_output.bias' in names,
      mlp_bias='blk.0.ffn_up.bias' in names,
      query_key_norm='blk.0.attn_q_norm.weight' in names,
      **fields,
    )
  except ValueError as error:
    raise ValueError(
      f'{file.path} does not describe a model: {error}'
    ) from None
