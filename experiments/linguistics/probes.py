"""Where gradients flow, and what the loss of a head costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linguistics.model import (
  Data,
  Network,
  Text,
  edge_bias,
  embedded,
  open_edges,
)
from lthjax import linguistic as lg
from lthjax import program

Found = dict[str, Any]
QUERY_KEY = ('query', 'key')


def edge_gradients(
  network: Network, params: Any, batches: Sequence[Text], data: Data
) -> tuple[np.ndarray, np.ndarray]:
  """Mean gradients of query and key kernels, by the edges they flow through.

  Returns those of the edges of each text and of all others from a word to an
  earlier one. Both are means of absolute values over the batches, of all
  weights in a row.
  """

  def loss(attention, params, text, inside):
    blocks = {**params['model']['blocks']}
    blocks['attention'] = {**blocks['attention'], **attention}
    params = {**params, 'model': {**params['model'], 'blocks': blocks}}
    time = text.tokens.shape[1]
    chosen = jnp.swapaxes((open_edges(text) == inside) & region(text), 1, 2)

    def visit(eqn, inputs):
      (scores,) = program.bind(eqn, inputs)
      # [rows, heads, keys, queries, 1].
      if scores.ndim == 5 and scores.shape[2:] == (time, time, 1):
        through = chosen[:, None, :, :, None]
        scores = jnp.where(through, scores, jax.lax.stop_gradient(scores))
      return [scores], None

    everything = text._replace(edges=jnp.full_like(text.edges, 255))
    bias = edge_bias(params, everything, data)
    added = embedded(params, text, data)
    logits, _ = program.run(
      network.logits, {'dot_general': visit}, params, text.tokens, bias, added
    )
    return _losses(logits, text)[0]

  @jax.jit
  def both(params, text):
    attention = {
      name: params['model']['blocks']['attention'][name] for name in QUERY_KEY
    }

    def one(inside):
      found = jax.grad(loss)(attention, params, text, inside)
      return jnp.concatenate([x.ravel() for x in jax.tree.leaves(found)])

    return jnp.stack([one(True), one(False)])

  found = [np.abs(np.asarray(both(params, text))) for text in batches]
  through, around = np.mean(found, 0)
  return through, around


def region(text: Text) -> jax.Array:
  """Edges from a word to an earlier one, ``[rows, time, time]``."""
  segments, places = text.segments, text.places
  same = segments[:, :, None] == segments[:, None, :]
  earlier = (places[:, None, :] > 0) & (places[:, None, :] < places[:, :, None])
  return same & earlier & (segments >= 0)[:, :, None]


def query_key(params: Any) -> np.ndarray:
  """The weights of query and key kernels, in a row."""
  kernels = params['model']['blocks']['attention']
  found = [
    np.ravel(x) for x in jax.tree.leaves({k: kernels[k] for k in QUERY_KEY})
  ]
  return np.concatenate(found)


def movement(
  network: Network,
  start: Any,
  end: Any,
  batches: Mapping[str, Sequence[Text]],
  data: Data,
) -> Found:
  """Rank correlations of movement with the share of gradient through edges."""
  moved = np.abs(query_key(end) - query_key(start))
  size = np.abs(query_key(end))
  found: Found = {}
  for name, texts in batches.items():
    through, around = edge_gradients(network, start, texts, data)
    share = through / np.maximum(through + around, 1e-30)
    found[name] = {
      'moved': lg.spearman(share, moved),
      'size': lg.spearman(share, size),
    }
  return found


def ablated(
  network: Network, params: Any, tokens: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
  """Loss at each place without each head, minus that with all.

  A head is replaced by its mean over all words. Returns ``[layers, heads,
  sentences, time]``.
  """
  layers, heads = network.sizes.layers, network.sizes.heads
  (path,) = {
    use.path
    for use in program.uses(network.logits, params, tokens)
    if use.name == 'model/blocks/attention/out/kernel'
  }
  valid = np.arange(tokens.shape[1]) < lengths[:, None]

  def visit(eqn, inputs, gone):
    values, *rest = inputs
    words = jnp.broadcast_to(valid[..., None, None], values.shape)
    mean = jnp.mean(values, (0, 1), where=words)
    values = jnp.where(gone[:, None], mean, values)
    return program.bind(eqn, [values, *rest]), None

  @jax.jit
  def losses(params, gone):
    logits, _ = program.run(
      network.logits, {path: visit}, params, tokens, feeds={path: gone}
    )
    return optax.softmax_cross_entropy_with_integer_labels(
      logits[:, :-1], tokens[:, 1:]
    )

  whole = np.asarray(losses(params, jnp.zeros((layers, heads), bool)))
  out = np.zeros((layers, heads, *tokens.shape), np.float32)
  for layer in range(layers):
    for head in range(heads):
      gone = np.zeros((layers, heads), bool)
      gone[layer, head] = True
      found = np.asarray(losses(params, jnp.asarray(gone))) - whole
      out[layer, head, :, :-1] = found
  return out


def circuits(
  changes: np.ndarray,
  attention: np.ndarray,
  tags: np.ndarray,
  axes: dict[str, np.ndarray],
  arcs: dict[str, np.ndarray],
  lengths: np.ndarray,
) -> Found:
  """Rank correlations over heads: mass on an axis, cost on its dependencies.

  With the mass of every other axis as the control.
  """
  region = lg.region(tags)
  places = np.arange(tags.shape[1]) < lengths[:, None] - 1
  mass, cost = {}, {}
  for name, edges in axes.items():
    if (
      not (edges & region).any()
      or not (arcs[name][:, 1:] & places[:, :-1]).any()
    ):
      continue
    mass[name] = lg.mass_overlap(attention, edges, region).excess
    # A word is predicted one place before it.
    own = np.pad(arcs[name][:, 1:], ((0, 0), (0, 1)))
    inside, outside = own & places, ~own & places
    cost[name] = changes[..., inside].mean(-1) - changes[..., outside].mean(-1)
  own = [lg.spearman(mass[name], cost[name]) for name in mass]
  other = [lg.spearman(mass[a], cost[b]) for a in mass for b in mass if a != b]
  return {
    'own': dict(zip(mass, own, strict=True)),
    'mean_own': float(np.nanmean(own)) if own else None,
    'mean_other': float(np.nanmean(other)) if other else None,
  }


def _losses(logits: jax.Array, text: Text) -> tuple[jax.Array, jax.Array]:
  """Mean loss over the words of packed sentences, and how many they are."""
  segments = text.segments
  valid = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits[:, :-1], text.tokens[:, 1:]
  )
  count = jnp.sum(valid)
  return jnp.sum(losses, where=valid) / count, count
