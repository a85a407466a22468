"""Configurations of transformers, with all faults named at once."""

import dataclasses
import math
import operator
from typing import Any


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """Sizes and choices of a decoder of the Llama family.

  Attributes:
    vocabulary: number of tokens.
    width: size of the residual stream.
    layers: number of blocks.
    heads: number of query heads.
    key_value_heads: number of key and value heads, which divides ``heads``.
    head_dim: size of a head, even; it may differ from ``width / heads``.
    mlp: hidden neurons of a block, or of one expert.
    context: the longest sequence that the model was trained for.
    rotary: whether queries and keys turn with their positions. Without it,
      order is seen through the causal mask alone.
    rope_theta: base of the wavelengths of rotary positions.
    rope_scaling: how wavelengths are stretched, as ``(name, value)`` pairs of
      Hugging Face's ``rope_scaling``: of type ``linear`` or ``llama3``.
    norm_eps: what is added to the mean square.
    tied: whether logits are computed with the token embedding.
    qkv_bias: whether query, key and value have biases.
    out_bias: whether the projection of the heads has a bias.
    mlp_bias: whether the layers of the MLP have biases.
    query_key_norm: whether queries and keys are normalized, head by head.
  """

  vocabulary: int
  width: int
  layers: int
  heads: int
  key_value_heads: int
  head_dim: int
  mlp: int
  context: int = 2048
  rotary: bool = True
  rope_theta: float = 10_000.0
  rope_scaling: tuple[tuple[str, Any], ...] = ()
  norm_eps: float = 1e-5
  tied: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  query_key_norm: bool = False

  def __post_init__(self):
    faults = _faults(self, 'layers')
    if not faults and self.heads % self.key_value_heads:
      faults.append(
        f'key_value_heads={self.key_value_heads} must divide heads={self.heads}'
      )
    if not faults and self.rotary and self.head_dim % 2:
      faults.append(
        f'head_dim={self.head_dim} must be even, because rotary positions turn'
        ' pairs of its entries'
      )
    faults += _rope_faults(dict(self.rope_scaling))
    _raise(self, faults)


@dataclasses.dataclass(frozen=True)
class LlamaMoEConfig(LlamaConfig):
  """A `LlamaConfig` with a mixture of experts for the MLP.

  Attributes:
    experts: number of experts.
    experts_per_token: how many experts each token is sent to.
    renormalize: whether the gates of these experts are scaled to sum to one.
    shared_mlp: hidden neurons of an expert that sees every token; 0 for none.
    shared_gate: whether a sigmoid gate scales the shared expert.
  """

  experts: int = 8
  experts_per_token: int = 2
  renormalize: bool = True
  shared_mlp: int = 0
  shared_gate: bool = False

  def __post_init__(self):
    super().__post_init__()
    faults = []
    if self.experts_per_token > self.experts:
      faults.append(
        f'experts_per_token={self.experts_per_token} is more than'
        f' experts={self.experts}'
      )
    if self.shared_gate and not self.shared_mlp:
      faults.append('shared_gate=True needs shared_mlp above 0')
    if self.mlp_bias:
      faults.append('mlp_bias=True, but experts have no biases')
    _raise(self, faults)


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Sizes of an encoder of the BERT family.

  Attributes:
    vocabulary: number of tokens.
    width: size of the residual stream.
    layers: number of blocks.
    heads: number of heads.
    head_dim: size of a head.
    mlp: hidden neurons of a block.
    context: number of positions, the longest sequence.
    token_types: number of kinds of segments.
    norm_eps: what is added to the variance.
  """

  vocabulary: int
  width: int
  layers: int
  heads: int
  head_dim: int
  mlp: int
  context: int = 512
  token_types: int = 2
  norm_eps: float = 1e-12

  def __post_init__(self):
    _raise(self, _faults(self, 'layers'))


# What may be zero, and what is not a count.
_OPTIONAL = ('shared_mlp',)


def _faults(config: Any, example: str) -> list[str]:
  """Lists fields of the wrong type or sign."""
  faults = []
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.type in (bool, 'bool'):
      if not isinstance(value, bool):
        faults.append(f'{field.name}={value!r} must be True or False')
    elif field.type in (int, 'int'):
      least = 0 if field.name in _OPTIONAL else 1
      if not _is_integer(value) or value < least:
        faults.append(
          f'{field.name}={value!r} must be an integer of at least {least}'
        )
    elif field.type in (float, 'float') and not _is_positive(value):
      faults.append(f'{field.name}={value!r} must be a positive number')
  return faults


def _is_integer(value: Any) -> bool:
  try:
    operator.index(value)
  except TypeError:
    return False
  return not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
  try:
    return not isinstance(value, str) and 0 < float(value) < math.inf
  except (TypeError, ValueError):
    return False


def rope_type(scaling: dict[str, Any]) -> str:
  """Returns the type of a ``rope_scaling`` of Hugging Face."""
  return scaling.get('rope_type', scaling.get('type', 'default'))


_ROPE = {
  'default': (),
  'linear': ('factor',),
  'llama3': (
    'factor',
    'high_freq_factor',
    'low_freq_factor',
    'original_max_position_embeddings',
  ),
}


def _rope_faults(scaling: dict[str, Any]) -> list[str]:
  """Lists what is wrong with a ``rope_scaling``."""
  kind = rope_type(scaling)
  if kind not in _ROPE:
    return [f'rope_scaling of type {kind!r} must be one of {", ".join(_ROPE)}']
  wrong = [x for x in _ROPE[kind] if not _is_positive(scaling.get(x))]
  if wrong:
    return [f'rope_scaling needs positive numbers for {", ".join(wrong)}']
  return []


def _raise(config: Any, faults: list[str]) -> None:
  if faults:
    raise ValueError(f'`{type(config).__name__}`: {"; ".join(faults)}.')
