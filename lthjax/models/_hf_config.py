"""Configurations of Hugging Face's `config.json`, read and written."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lthjax.models import _config, _tensors
from lthjax.models._config import BertConfig, LlamaConfig, LlamaMoEConfig

Config = LlamaConfig | BertConfig

TABLES = {
  'bert': _tensors.BERT,
  'llama': _tensors.LLAMA,
  'mixtral': _tensors.MIXTRAL,
  'qwen2': _tensors.LLAMA,
  'qwen2_moe': _tensors.QWEN_MOE,
  'qwen3': _tensors.LLAMA,
  'qwen3_moe': _tensors.QWEN_MOE,
}
_ARCHITECTURES = {
  'bert': 'BertForMaskedLM',
  'llama': 'LlamaForCausalLM',
  'mixtral': 'MixtralForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen2_moe': 'Qwen2MoeForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'qwen3_moe': 'Qwen3MoeForCausalLM',
}
# Our name, theirs, and what they take for a missing one.
_COMMON = [
  ('vocabulary', 'vocab_size', None),
  ('width', 'hidden_size', None),
  ('layers', 'num_hidden_layers', None),
  ('heads', 'num_attention_heads', None),
  ('mlp', 'intermediate_size', None),
]
_LLAMA = [
  *_COMMON,
  ('context', 'max_position_embeddings', 2048),
  ('norm_eps', 'rms_norm_eps', 1e-6),
  ('tied', 'tie_word_embeddings', False),
]
_BERT = [
  *_COMMON,
  ('context', 'max_position_embeddings', 512),
  ('token_types', 'type_vocab_size', 2),
  ('norm_eps', 'layer_norm_eps', 1e-12),
]


def read(where: str, data: Mapping[str, Any]) -> Config:
  """Returns the config of a model, or names all that is not supported."""
  kind = data.get('model_type')
  if kind not in TABLES:
    raise ValueError(
      f'{where} is of model_type {kind!r}, but only {", ".join(TABLES)} are'
      ' supported.'
    )
  rows = _BERT if kind == 'bert' else _LLAMA
  rows = [
    (ours, 'moe_intermediate_size' if ours == 'mlp' else theirs, default)
    if kind in ('qwen2_moe', 'qwen3_moe')
    else (ours, theirs, default)
    for ours, theirs, default in rows
  ]
  found = {ours: data.get(theirs, default) for ours, theirs, default in rows}
  missing = [theirs for ours, theirs, _ in rows if found[ours] is None]
  if missing:
    raise ValueError(f'{where} lacks {", ".join(missing)}.')
  if unsupported := _unsupported(kind, data):
    raise ValueError(
      f'{where} asks for what is not supported: {", ".join(unsupported)}.'
    )
  try:
    found['head_dim'] = _head_dim(data)
    if kind == 'bert':
      return BertConfig(**found)
    return _read_llama(kind, data, found)
  except ValueError as error:
    raise ValueError(f'{where} does not describe a model: {error}') from None


def _head_dim(data: Mapping[str, Any]) -> int:
  """Size of a head, as given or as a share of the width."""
  if (given := data.get('head_dim')) is not None:
    return given
  width, heads = data['hidden_size'], data['num_attention_heads']
  if not isinstance(heads, int) or heads < 1 or width % heads:
    raise ValueError(
      f'hidden_size={width} is not a multiple of num_attention_heads={heads},'
      ' and head_dim is not given.'
    )
  return width // heads


def _read_llama(kind: str, data: Mapping[str, Any], found: dict) -> LlamaConfig:
  """Reads what only decoders have."""
  rope = dict(data.get('rope_parameters') or {})
  theta = rope.pop('rope_theta', None) or data.get('rope_theta')
  scaling = data.get('rope_scaling') or rope
  if _config.rope_type(dict(scaling)) == 'default':
    scaling = {}
  biased = bool(data.get('attention_bias', False))
  found |= {
    'key_value_heads': data.get('num_key_value_heads') or found['heads'],
    'rope_theta': float(theta or (1e6 if kind == 'mixtral' else 1e4)),
    'rope_scaling': tuple(sorted(scaling.items())),
    'qkv_bias': kind in ('qwen2', 'qwen2_moe') or biased,
    'out_bias': biased and kind in ('llama', 'qwen3', 'qwen3_moe'),
    'mlp_bias': kind == 'llama' and bool(data.get('mlp_bias', False)),
    'query_key_norm': kind in ('qwen3', 'qwen3_moe'),
  }
  if kind not in ('mixtral', 'qwen2_moe', 'qwen3_moe'):
    return LlamaConfig(**found)
  experts = data.get('num_local_experts', data.get('num_experts', 0))
  shared = data.get('shared_expert_intermediate_size', 0)
  return LlamaMoEConfig(
    **found,
    experts=experts,
    experts_per_token=data.get('num_experts_per_tok', 0),
    renormalize=kind == 'mixtral' or bool(data.get('norm_topk_prob', False)),
    shared_mlp=shared if kind == 'qwen2_moe' else 0,
    shared_gate=kind == 'qwen2_moe' and bool(shared),
  )


def _unsupported(kind: str, data: Mapping[str, Any]) -> list[str]:
  """Lists what would need another network."""
  rope = data.get('rope_parameters') or {}
  act = 'gelu' if kind == 'bert' else 'silu'
  windowed = data.get('sliding_window') is not None and (
    kind == 'mixtral' or data.get('use_sliding_window', False)
  )
  wrong = {
    'hidden_act': data.get('hidden_act', act) != act,
    'position_embedding_type': (
      data.get('position_embedding_type', 'absolute') != 'absolute'
    ),
    'sliding_window': windowed,
    'partial_rotary_factor': rope.get('partial_rotary_factor', 1.0) != 1.0,
    'decoder_sparse_step': data.get('decoder_sparse_step', 1) != 1,
    'mlp_only_layers': bool(data.get('mlp_only_layers')),
    'is_decoder': kind == 'bert' and data.get('is_decoder', False),
  }
  values = {**rope, **data}
  return [f'{name}={values.get(name)!r}' for name, bad in wrong.items() if bad]


def family(config: Config) -> str:
  """Returns the model_type whose network a config describes."""
  if isinstance(config, BertConfig):
    return 'bert'
  c = config
  biases = c.qkv_bias, c.out_bias, c.mlp_bias
  fits = {
    'llama': not c.query_key_norm and c.qkv_bias == c.out_bias,
    'qwen2': not c.query_key_norm and biases == (True, False, False),
    'qwen3': c.query_key_norm and c.qkv_bias == c.out_bias and not c.mlp_bias,
  }
  if isinstance(c, LlamaMoEConfig):
    plain = not c.shared_mlp
    fits = {
      'mixtral': (
        not any(biases) and not c.query_key_norm and c.renormalize and plain
      ),
      'qwen2_moe': fits['qwen2'] and c.shared_gate,
      'qwen3_moe': fits['qwen3'] and plain,
    }
  for name, fit in fits.items():
    if fit and c.rotary:
      return name
  raise ValueError(
    f'No model of Hugging Face has the choices of {config}: {", ".join(fits)}'
    ' do not. Save params with `lthjax.checkpoints` instead.'
  )


def write(config: Config) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  kind = family(config)
  rows = _BERT if kind == 'bert' else _LLAMA
  data: dict[str, Any] = {
    'architectures': [_ARCHITECTURES[kind]],
    'model_type': kind,
    'hidden_act': 'gelu' if kind == 'bert' else 'silu',
    'head_dim': config.head_dim,
  }
  data |= {theirs: getattr(config, ours) for ours, theirs, _ in rows}
  if isinstance(config, BertConfig):
    if config.width != config.heads * config.head_dim:
      raise ValueError(
        'BERT of Hugging Face has heads of width / heads, but this one has'
        f' width={config.width}, heads={config.heads} and'
        f' head_dim={config.head_dim}. Save it with `lthjax.checkpoints`.'
      )
    return {**data, 'tie_word_embeddings': True}
  scaling = dict(config.rope_scaling)
  data |= {
    'num_key_value_heads': config.key_value_heads,
    'rope_theta': config.rope_theta,
    'rope_scaling': scaling or None,
    'attention_bias': config.qkv_bias and config.out_bias,
    'mlp_bias': config.mlp_bias,
  }
  if isinstance(config, LlamaMoEConfig):
    data |= {
      'num_local_experts': config.experts,
      'num_experts': config.experts,
      'num_experts_per_tok': config.experts_per_token,
      'norm_topk_prob': config.renormalize,
      'moe_intermediate_size': config.mlp,
      'decoder_sparse_step': 1,
    }
    if config.shared_mlp:
      data['shared_expert_intermediate_size'] = config.shared_mlp
  return data


def fitted(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> Config:
  """Returns the config of params that may have been cut."""
  attention = 'blocks/attention/'
  query, key = (
    shapes[f'{attention}query/kernel'],
    shapes[f'{attention}key/kernel'],
  )
  value = shapes[f'{attention}value/kernel']
  if value[-1] != key[-1]:
    raise ValueError(
      f'Files of Hugging Face have one head_dim, but keys have {key[-1]}'
      f' entries and values {value[-1]}. Save them with `lthjax.checkpoints`.'
    )
  changes: dict[str, Any] = {
    'layers': query[0],
    'width': query[1],
    'heads': query[2],
    'head_dim': query[3],
  }
  if isinstance(config, BertConfig):
    changes['vocabulary'] = shapes['embed/token/embedding'][0]
    changes['context'] = shapes['embed/position/embedding'][0]
    changes['mlp'] = shapes['blocks/mlp/up/kernel'][-1]
    return dataclasses.replace(config, **changes)
  changes['vocabulary'] = shapes['embed/embedding'][0]
  changes['key_value_heads'] = key[2]
  if isinstance(config, LlamaMoEConfig):
    experts = shapes['blocks/mlp/experts/up/kernel']
    changes |= {'experts': experts[1], 'mlp': experts[-1]}
    if config.shared_mlp:
      changes['shared_mlp'] = shapes['blocks/mlp/shared/up/kernel'][-1]
  else:
    changes['mlp'] = shapes['blocks/mlp/up/kernel'][-1]
  return dataclasses.replace(config, **changes)
