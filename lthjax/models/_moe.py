"""Mixtures of experts: softmax, then the largest gates."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from lthjax.models._config import LlamaConfig, LlamaMoEConfig
from lthjax.models._layers import Project


class SwiGLU(nnx.Module):
  """The MLP of Llama: ``down(silu(gate(x)) * up(x))``."""

  def __init__(self, width: int, mlp: int, bias: bool, *, rngs: nnx.Rngs):
    self.gate = Project('btd,df->btf', (width, mlp), bias=bias, rngs=rngs)
    self.up = Project('btd,df->btf', (width, mlp), bias=bias, rngs=rngs)
    self.down = Project('btf,fd->btd', (mlp, width), bias=bias, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes the layer."""
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Experts(nnx.Module):
  """Several SwiGLU layers side by side, all of them computed."""

  def __init__(self, experts: int, width: int, mlp: int, *, rngs: nnx.Rngs):
    into, out = (experts, width, mlp), (experts, mlp, width)
    self.gate = Project('bted,edf->btef', into, stack=1, rngs=rngs)
    self.up = Project('bted,edf->btef', into, stack=1, rngs=rngs)
    self.down = Project('btef,efd->bted', out, stack=1, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps ``[batch, time, experts, width]`` to an array of that shape."""
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class MoE(nnx.Module):
  """A router, experts, and an optional expert that sees every token.

  Gates, ``[batch, time, experts]`` and zero where a token is not sent, are
  named ``gate``; outputs of the experts are named ``expert_output``.
  """

  def __init__(self, config: LlamaMoEConfig, *, rngs: nnx.Rngs):
    width, experts = config.width, config.experts
    self.chosen = config.experts_per_token
    self.renormalize = config.renormalize
    self.router = Project('btd,de->bte', (width, experts), rngs=rngs)
    self.experts = Experts(experts, width, config.mlp, rngs=rngs)
    self.shared = (
      SwiGLU(width, config.shared_mlp, False, rngs=rngs)
      if config.shared_mlp
      else None
    )
    self.shared_gate = (
      Project('btd,de->bte', (width, 1), rngs=rngs)
      if config.shared_gate
      else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes the layer."""
    logits = self.router(x).astype(jnp.float32)
    experts = logits.shape[-1]
    if self.chosen > experts:
      raise ValueError(
        f'Each token is sent to {self.chosen} experts, but the params have'
        f' {experts}. Keep more experts, or build `llama_moe` with a config of'
        ' fewer `experts_per_token`.'
      )
    largest, places = jax.lax.top_k(jax.nn.softmax(logits), self.chosen)
    if self.renormalize:
      largest = largest / jnp.sum(largest, -1, keepdims=True)
    sent = places[..., None] == jnp.arange(experts)
    gate = jnp.sum(jnp.where(sent, largest[..., None], 0.0), -2)
    gate = checkpoint_name(gate.astype(x.dtype), 'gate')
    # An expert sees zeros in the place of tokens of others, so that statistics
    # of its inputs are those of its own tokens.
    seen = jnp.where(jnp.any(sent, -2)[..., None], x[..., None, :], 0)
    outputs = checkpoint_name(self.experts(seen), 'expert_output')
    y = jnp.einsum('bte,bted->btd', gate, outputs)
    if self.shared is None:
      return y
    shared = self.shared(x)
    if self.shared_gate is not None:
      shared = shared * jax.nn.sigmoid(self.shared_gate(x))
    return y + shared


def mlp(config: LlamaConfig, *, rngs: nnx.Rngs) -> nnx.Module:
  """Builds the MLP of a block."""
  if isinstance(config, LlamaMoEConfig):
    return MoE(config, rngs=rngs)
  return SwiGLU(config.width, config.mlp, config.mlp_bias, rngs=rngs)
