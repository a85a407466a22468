"""Small language models whose weights follow from the names of their leaves."""

import zlib

import jax
import numpy as np

from lthjax import models, trees

_LLAMA = {
  'vocabulary': 64,
  'width': 32,
  'layers': 2,
  'heads': 4,
  'key_value_heads': 2,
  'head_dim': 8,
  'mlp': 48,
}
_LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 32,
}
_EXPERTS = {**_LLAMA, 'mlp': 24, 'experts': 5, 'experts_per_token': 2}


def llama_config(**changes):
  return models.LlamaConfig(**_LLAMA | changes)


def moe_config(**changes):
  return models.LlamaMoEConfig(**_EXPERTS | changes)


def cases():
  """Configs of all families, together with all choices."""
  biases = {'qkv_bias': True, 'out_bias': True, 'mlp_bias': True}
  return {
    'llama': llama_config(tied=True, rope_theta=500.0),
    'llama_biases': llama_config(
      head_dim=6, key_value_heads=4, rope_scaling=(*_LLAMA3.items(),), **biases
    ),
    'qwen2': llama_config(qkv_bias=True, key_value_heads=1, norm_eps=1e-3),
    'qwen3': llama_config(query_key_norm=True, head_dim=16, tied=True),
    'mixtral': moe_config(renormalize=True),
    'qwen2_moe': moe_config(
      qkv_bias=True, renormalize=False, shared_mlp=20, shared_gate=True
    ),
    'qwen3_moe': moe_config(query_key_norm=True, renormalize=False),
    'bert': models.BertConfig(
      vocabulary=64, width=32, layers=2, heads=4, head_dim=8, mlp=48, context=32
    ),
  }


def network(config):
  """The network of a config."""
  if isinstance(config, models.BertConfig):
    return models.bert(config)
  if isinstance(config, models.LlamaMoEConfig):
    return models.llama_moe(config)
  return models.llama(config)


def random_params(config):
  """Params as NumPy arrays."""
  shapes = jax.eval_shape(network(config).init, jax.random.key(0))
  leaves, structure = trees.flatten(shapes)

  def fill(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = 0.2 * rng.standard_normal(shape, np.float32)
    return x + np.float32(name.endswith('scale'))

  return structure.unflatten(fill(n, x.shape) for n, x in leaves.items())


def inputs(config):
  """Tokens, with pads on the right of the second sequence, and segments."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 64, (2, 11), np.int32)
  mask = np.ones((2, 11), bool)
  mask[1, 7:] = False
  types = np.zeros((2, 11), np.int32)
  types[:, 5:] = 1
  if isinstance(config, models.BertConfig):
    return tokens, mask, types
  return tokens, mask


def excerpt(logits):
  """The logits that are written down: some tokens at some places."""
  return np.asarray(logits)[[0, 0, 1], [2, 10, 6], :6]
