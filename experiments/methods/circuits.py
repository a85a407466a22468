"""A decoder whose nodes can be taken away, and circuits of few of them."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import lthjax as lth
from methods.code_lines import END, NAMES, Prompts

Nodes = dict[str, jax.Array]  # by place: a mask, or a mean
FIRST = 0.3  # share of all that is left that goes at first
# Kernels of a block: the places that they lead from and to.
WIRES = {
  'query': ('read', 'query'),
  'key': ('read', 'key'),
  'value': ('read', 'value'),
  'out': ('value', 'write'),
  'up': ('mlp_read', 'neuron'),
  'down': ('neuron', 'mlp_write'),
}
PLACES = ('read', 'query', 'key', 'value', 'write', 'mlp_read', 'neuron')
PLACES += ('mlp_write',)


class Sizes(NamedTuple):
  """Sizes of a decoder; its nodes are channels, of which few are active."""

  width: int
  layers: int
  heads: int
  mlp: int
  time: int
  active: float = 1.0  # share of the entries of each place that are not zero

  def of(self, place: str) -> int:
    return self.mlp if place == 'neuron' else self.width


class Ablation(NamedTuple):
  """Nodes that stay, and what the others are set to."""

  masks: Nodes
  means: Nodes


def init(sizes: Sizes, key: chex.PRNGKey) -> chex.ArrayTree:
  """Draws params."""

  def kernel(key, inputs, outputs):
    return inputs**-0.5 * jax.random.normal(key, (inputs, outputs))

  first, last, place, *rest = jax.random.split(key, 3 + sizes.layers)
  blocks = {}
  for number, own in enumerate(rest):
    wires = zip(WIRES.items(), jax.random.split(own, len(WIRES)), strict=True)
    blocks[f'{number}'] = {
      name: {'kernel': kernel(k, sizes.of(source), sizes.of(target))}
      for (name, (source, target)), k in wires
    }
  width, tokens = sizes.width, len(NAMES)
  return {
    'blocks': blocks,
    'embed': {'embedding': jax.random.normal(first, (tokens, width))},
    'places': {'embedding': jax.random.normal(place, (sizes.time, width)) / 2},
    'unembed': {'kernel': kernel(last, width, tokens)},
  }


def apply(
  sizes: Sizes,
  params: Any,
  tokens: jax.Array,
  ablation: Ablation | None = None,
) -> tuple[jax.Array, Nodes]:
  """Logits ``[batch, time, tokens]``, and the values of all nodes."""
  seen: Nodes = {}

  def node(name: str, x: jax.Array) -> jax.Array:
    count = max(round(sizes.active * x.shape[-1]), 1)
    if count < x.shape[-1]:
      x = lth.activations.abs_top_k(x, count)
    seen[name] = x
    if ablation is not None:
      mask, mean = ablation.masks[name], ablation.means[name]
      x = mask * x + (1 - mask) * mean
    return x

  x = params['embed']['embedding'][tokens]
  x = x + params['places']['embedding'][: tokens.shape[1]]
  for number, block in params['blocks'].items():
    x = x + _attention(sizes, block, x, functools.partial(_named, node, number))
    x = x + _mlp(block, x, functools.partial(_named, node, number))
  return _normed(x) @ params['unembed']['kernel'], seen


def _named(node: Any, number: str, place: str, x: jax.Array) -> jax.Array:
  return node(f'{number}/{place}', x)


def _attention(sizes: Sizes, block: Any, x: jax.Array, node: Any) -> jax.Array:
  read = node('read', _normed(x))

  def heads(name):
    y = node(name, read @ block[name]['kernel'])
    return y.reshape(*y.shape[:-1], sizes.heads, -1)

  query, key, value = heads('query'), heads('key'), heads('value')
  scores = jnp.einsum('bqhd,bkhd->bhqk', query, key)
  scores = scores * (sizes.width // sizes.heads) ** -0.5
  causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
  weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
  mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
  mixed = mixed.reshape(*mixed.shape[:-2], -1)
  return node('write', mixed @ block['out']['kernel'])


def _mlp(block: Any, x: jax.Array, node: Any) -> jax.Array:
  read = node('mlp_read', _normed(x))
  neurons = node('neuron', jax.nn.gelu(read @ block['up']['kernel']))
  return node('mlp_write', neurons @ block['down']['kernel'])


def _normed(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5)


def losses(logits: jax.Array, tokens: jax.Array) -> tuple[Any, Any]:
  """Mean loss and accuracy of the next tokens, up to the end of each line."""
  logits, wanted = logits[:, :-1], tokens[:, 1:]
  counts = tokens[:, :-1] != END
  each = -jnp.take_along_axis(
    jax.nn.log_softmax(logits), wanted[..., None], -1
  )[..., 0]
  hits = jnp.argmax(logits, -1) == wanted
  return jnp.mean(each, where=counts), jnp.mean(hits, where=counts)


def means(sizes: Sizes, params: Any, tokens: jax.Array) -> Nodes:
  """The mean of each node over the tokens of lines."""
  _, seen = apply(sizes, params, tokens)
  counts = (tokens != END)[..., None]
  return {name: jnp.mean(x, (0, 1), where=counts) for name, x in seen.items()}


def task_loss(
  sizes: Sizes, masks: Any, params: Any, averages: Nodes, prompts: Prompts
) -> tuple[jax.Array, jax.Array]:
  """Loss and accuracy of the choice between two tokens.

  Masks are ``{'nodes': ..., 'edges': ...}``: nodes that are not there have
  their mean, weights that are not there are zero.
  """
  blocks = jax.tree.map(lambda w, m: w * m, params['blocks'], masks['edges'])
  ablation = Ablation(masks['nodes'], averages)
  whole = {**params, 'blocks': blocks}
  logits, _ = apply(sizes, whole, jnp.asarray(prompts.tokens), ablation)
  rows = jnp.arange(len(prompts.last))
  at = logits[rows, prompts.last]
  gap = at[rows, prompts.right] - at[rows, prompts.wrong]
  return jnp.mean(jax.nn.softplus(-gap)), jnp.mean(gap > 0)


def everything(sizes: Sizes, params: Any) -> dict[str, Any]:
  """Masks of all nodes, and of all weights that are not zero."""
  nodes = {
    f'{number}/{place}': np.ones(sizes.of(place), np.float32)
    for number in params['blocks']
    for place in PLACES
  }
  edges = jax.tree.map(
    lambda w: np.asarray(w != 0, np.float32), params['blocks']
  )
  return {'nodes': nodes, 'edges': edges}


class Circuit(NamedTuple):
  """What is left for one task.

  Attributes:
    masks: of nodes and edges; each edge is between two nodes.
    loss: of the task.
    accuracy: of the task.
  """

  masks: dict[str, Any]
  loss: float
  accuracy: float

  @property
  def nodes(self) -> dict[str, np.ndarray]:
    """Which nodes have an edge."""
    found = {}
    for number, block in self.masks['edges'].items():
      for place in PLACES:
        ends = [
          np.any(block[name]['kernel'], 1 - side)
          for name, ways in WIRES.items()
          for side in (0, 1)
          if ways[side] == place
        ]
        found[f'{number}/{place}'] = np.any(ends, axis=0)
    return found

  @property
  def edges(self) -> int:
    return count(self.masks['edges'])


def count(masks: Any) -> int:
  return int(sum(np.sum(x) for x in jax.tree.leaves(masks)))


def between(masks: dict[str, Any]) -> dict[str, Any]:
  """Drops edges that lack a node at one of their ends."""
  nodes = masks['nodes']
  edges = {
    number: {
      name: {
        'kernel': block[name]['kernel']
        * nodes[f'{number}/{source}'][:, None]
        * nodes[f'{number}/{target}']
      }
      for name, (source, target) in WIRES.items()
    }
    for number, block in masks['edges'].items()
  }
  return {'nodes': nodes, 'edges': edges}


@functools.partial(jax.jit, static_argnums=0)
def measure(sizes, masks, params, averages, prompts) -> Any:
  """``(loss, accuracy)``, and the gradient of the loss by all masks."""
  loss = functools.partial(task_loss, sizes)
  return jax.value_and_grad(loss, has_aux=True)(
    masks, params, averages, prompts
  )


def find(
  sizes: Sizes, params: Any, averages: Nodes, prompts: Prompts, target: float
) -> Circuit:
  """Takes away nodes, and then edges, as long as the task is solved.

  What goes first is what changes the loss least, to first order: a share of all
  that is left, which is halved whenever the loss would be above the target, and
  grows again where it is not. It ends where the next one is one too many.
  """
  masks = everything(sizes, params)

  def look(masks):
    (loss, accuracy), grads = measure(sizes, masks, params, averages, prompts)
    return Circuit(masks, float(loss), float(accuracy)), grads

  best, grads = look(masks)
  for part in ('nodes', 'edges'):
    share = FIRST
    while left := count(best.masks[part]):
      number = max(int(share * left), 1)
      fewer = without(best.masks[part], grads[part], number)
      tried, its_grads = look(between({**best.masks, part: fewer}))
      if tried.loss <= target:
        best, grads = tried, its_grads
        share = min(1.5 * share, FIRST)
      elif number > 1:
        share /= 2
      else:
        break
  return best


def without(masks: Any, grads: Any, number: int) -> Any:
  """Takes away those that change the loss least, of all leaves together."""
  leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, masks))
  flat = np.concatenate([x.ravel() for x in leaves])
  size = np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)])
  order = np.argsort(np.where(flat > 0, np.abs(size), np.inf), kind='stable')
  flat[order[:number]] = 0
  parts = np.split(flat, np.cumsum([x.size for x in leaves])[:-1])
  return structure.unflatten(
    part.reshape(x.shape) for part, x in zip(parts, leaves, strict=True)
  )
