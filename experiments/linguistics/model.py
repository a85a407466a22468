"""A decoder whose attention is masked by data, trained for several seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import interruption
from lthjax import models, program, trees

TAGS = 17
ATTENTION = 'model/blocks/attention/*/kernel'
FFN = 'model/blocks/mlp/*/kernel'


class Text(NamedTuple):
  """Packed sentences, and which edges are open in each.

  Attributes:
    tokens: int32 ``[rows, time]``.
    segments: int32 ``[rows, time]``: the sentence of each place, or -1.
    places: int32 ``[rows, time]``: places in their sentences.
    tags: int32 ``[rows, time]``, from 0 to 17, which is no tag.
    edges: bits ``[runs, rows, time, time / 8]``.
  """

  tokens: Any
  segments: Any
  places: Any
  tags: Any
  edges: Any


class Data(NamedTuple):
  """What a training sees; all of it are arguments of one compiled loop.

  Attributes:
    train: packed training sentences.
    dev: packed validation sentences.
    order: int32 ``[runs, rows drawn]``: rows in the order of training.
    opened: what open edges add to their logits.
    closed: what closed edges add.
    learned: 1 where open edges add what their head has learned.
    tagged: 1 where the embedding of a tag is added to that of its word.
  """

  train: Text
  dev: Text
  order: Any
  opened: Any = 0.0
  closed: Any = -np.inf
  learned: Any = 0.0
  tagged: Any = 0.0


class Sizes(NamedTuple):
  """Sizes of the network and of its training."""

  vocabulary: int
  width: int
  layers: int
  heads: int
  time: int
  steps: int
  rows: int  # per step
  learning_rate: float
  every: int


class Network:
  """Params, loss, attention and training, compiled once for all arms."""

  def __init__(self, sizes: Sizes):
    self.sizes = sizes
    width, heads = sizes.width, sizes.heads
    self.mlp = 8 * width // 3
    self.decoder = models.llama(
      models.LlamaConfig(
        vocabulary=sizes.vocabulary,
        width=width,
        layers=sizes.layers,
        heads=heads,
        key_value_heads=heads,
        head_dim=width // heads,
        mlp=self.mlp,
        tied=True,
        rotary=False,
      )
    )
    self.compilations = 0
    self.shapes = jax.eval_shape(self.init, jax.random.key(0))
    where = list(self.kernels())
    self.full = lth.masks.full(self.shapes, where=where)
    self.trainer = interruption.trainer(
      lambda key: (self.init(key), {'run': jnp.int32(0)}),
      self._loss,
      lth.static(self._optimizer(), self.full),
      lambda data, key, step: (data, step),
      evaluate=self._evaluate,
      every=sizes.every,
      vmapped=True,
    )
    self._attention = jax.jit(self._maps)
    self.test = jax.jit(jax.vmap(self._measure, in_axes=(0, 0, None, None)))

  def kernels(self, of: str = 'both') -> list[str]:
    """Names of the kernels of attention or of feed-forward layers."""
    parts = {'attention': ['attention'], 'ffn': ['mlp']}
    wanted = parts.get(of, ['attention', 'mlp'])
    return [
      name
      for name in trees.by_name(self.shapes)
      if name.endswith('/kernel') and set(wanted) & set(name.split('/'))
    ]

  def init(self, key: chex.PRNGKey) -> dict[str, Any]:
    """Draws params; what tags and heads add is zero."""
    sizes, width = self.sizes, self.sizes.width
    place = jax.random.fold_in(key, 1)
    return {
      'model': jax.tree_util.tree_map_with_path(
        self._scaled, self.decoder.init(key)
      ),
      'position': POSITION * jax.random.normal(place, (sizes.time, width)),
      'tag': jnp.zeros((TAGS + 1, width)),
      'alpha': jnp.zeros(sizes.heads),
    }

  def _scaled(self, path, x):
    """Smaller kernels, so that the residual stream starts with the words."""
    name = trees.path_name(path)
    if name.endswith('embedding'):
      return INITIAL / 0.02 * x
    if not name.endswith('kernel'):
      return x
    inputs = self.mlp if name.endswith('down/kernel') else self.sizes.width
    adds = name.endswith(('down/kernel', 'out/kernel'))
    return INITIAL * inputs**0.5 * (0.5 if adds else 1.0) * x

  def _optimizer(self) -> optax.GradientTransformation:
    sizes = self.sizes
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, sizes.learning_rate, max(sizes.steps // 10, 1), sizes.steps
    )
    return optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=BETA)
    )

  def logits(self, params: Any, *inputs: Any) -> jax.Array:
    """Logits of the next words; for the inputs see `hidden`."""
    hidden = self.hidden(params, *inputs)
    table = params['model']['embed']['embedding']
    return jnp.einsum('btd,vd->btv', hidden, table)

  def hidden(
    self, params: Any, tokens: Any, bias: Any = None, added: Any = None
  ) -> jax.Array:
    """The normalized last hidden states.

    Args:
      params: of one run.
      tokens: ``[rows, time]``.
      bias: of the attention.
      added: what is added to the embedded words, ``[rows, time, width]``; by
        default positions, of rows that are one sentence each.
    """
    if added is None:
      added = jnp.broadcast_to(
        params['position'], (*tokens.shape, self.sizes.width)
      )

    def visit(eqn, inputs):
      outs = program.bind(eqn, inputs)
      if outs[0].shape == added.shape:
        outs = [outs[0] + added]
      return outs, None

    outs, _ = program.run(
      self.decoder.hidden,
      {'gather': visit},
      params['model'],
      tokens,
      None,
      bias,
    )
    return outs

  def _loss(self, params, state, batch, key):
    self.compilations += 1  # Python runs only when JAX traces.
    data, step = batch
    run, size = state['run'], self.sizes.rows
    order = data.order[run]
    places = (step * size + jnp.arange(size)) % order.shape[0]
    rows = order[places]
    loss, _, count = self._sums(params, _rows(data.train, run, rows), data)
    return loss / count, state

  def _evaluate(self, params, state, data):
    loss, accuracy = self._measure(params, state['run'], data.dev, data)
    return {'loss': loss, 'accuracy': accuracy}

  def _measure(self, params, run, text, data):
    parts = _parts(_rows(text, run, slice(None)))
    sums = jax.lax.map(lambda part: self._sums(params, part, data), parts)
    loss, right, count = (x.sum() for x in sums)
    return loss / count, right / count

  def _sums(self, params, text, data):
    """The sum of the losses, the number of right words, and that of words."""
    bias = edge_bias(params, text, data)
    added = embedded(params, text, data)
    hidden = self.hidden(params, text.tokens, bias, added)[:, :-1]
    # One matrix per run: XLA copies logits with axes for rows and places.
    hidden = hidden.reshape(-1, hidden.shape[-1])
    table, targets = params['model']['embed']['embedding'], text.tokens[:, 1:]
    targets = targets.reshape(-1)
    logits = hidden @ table.T
    same = text.segments[:, 1:] == text.segments[:, :-1]
    valid = (same & (text.segments[:, 1:] >= 0)).reshape(-1)
    # The logit of the target by itself: its gradient needs no scatter into all.
    own = jnp.sum(hidden * table[targets], -1)
    losses = jax.nn.logsumexp(logits, -1) - own
    picked = jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]
    right = picked == logits.max(-1)
    return jnp.sum(losses, where=valid), jnp.sum(right & valid), jnp.sum(valid)

  def attention(self, params: Any, tokens: np.ndarray) -> np.ndarray:
    """Attention of one run to sentences, ``[sentences, layers, heads, T, T]``.

    Without a mask: what a model attends to by itself.
    """
    size = min(128, len(tokens))
    short = -len(tokens) % size
    padded = np.pad(tokens, ((0, short), (0, 0)))
    parts = [
      np.asarray(self._attention(params, padded[i : i + size]))
      for i in range(0, len(padded), size)
    ]
    return np.concatenate(parts)[: len(tokens)]

  def _maps(self, params, tokens):
    maps = program.attention_maps(self.logits, params, tokens)
    shape = (len(tokens), self.sizes.heads, *maps[0].shape[-2:])
    return jnp.stack([x.reshape(shape) for x in maps], 1)


def embedded(params: Any, text: Text, data: Data) -> jax.Array:
  """What is added to the embedded words: positions, and perhaps tags."""
  return params['position'][text.places] + (
    data.tagged * params['tag'][text.tags]
  )


def open_edges(text: Text) -> jax.Array:
  """The edges of a text as bools ``[rows, time, time]``."""
  bits = (text.edges[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
  return bits.reshape(*bits.shape[:-2], -1)[..., : text.tokens.shape[1]] == 1


def edge_bias(params: Any, text: Text, data: Data) -> jax.Array:
  """What is added to the logits of attention, ``[rows, heads, time, time]``."""
  segments = text.segments
  same = segments[:, :, None] == segments[:, None, :]
  edges = open_edges(text) | jnp.eye(text.tokens.shape[1], dtype=bool)
  plain = jnp.where(edges, data.opened, data.closed)
  learned = data.learned * params['alpha'][:, None, None] * edges[:, None]
  return jnp.where(same[:, None], plain[:, None] + learned, -jnp.inf)


def _rows(text: Text, run: Any, rows: Any) -> Text:
  return Text(
    text.tokens[rows],
    text.segments[rows],
    text.places[rows],
    text.tags[rows],
    text.edges[run, rows],
  )


def _parts(text: Text) -> Text:
  """Splits rows into parts whose logits fit into a cache; pads the last."""
  count = len(text.tokens)

  def split(x, fill):
    pads = [(0, -count % PART), *[(0, 0)] * (x.ndim - 1)]
    padded = jnp.pad(x, pads, constant_values=fill)
    return padded.reshape(-1, PART, *x.shape[1:])

  return Text(*map(split, text, (0, -1, 0, TAGS, 0)))


def guide(
  network: Network,
  params: dict[str, Any],
  matrix: np.ndarray,
  tags: np.ndarray,
  strength: float,
  key: chex.PRNGKey,
) -> dict[str, Any]:
  """Initial params whose attention prefers pairs of tags.

  Every word gets a direction of its most frequent tag, as large as its random
  vector, and the product of query and key kernels of every head a factor that
  takes pairs of these directions to the matrix, by its singular values.

  Args:
    network: whose params these are.
    params: of one run.
    matrix: ``[17, 17]``.
    tags: of each word of the vocabulary, from 0 to 17, which is none.
    strength: what compatible pairs add to their logits.
    key: source of the directions.
  """
  sizes = network.sizes
  width, dim = sizes.width, sizes.width // sizes.heads
  size = max(width, TAGS)  # Orthogonal wherever there is room for all.
  directions = jax.random.orthogonal(key, size)[:TAGS, :width]
  model = dict(params['model'])
  table = model['embed']['embedding']
  known = jnp.concatenate([directions, jnp.zeros((1, width))])[tags]
  norm = INITIAL * width**0.5
  model['embed'] = {'embedding': table + norm * known}
  # The normalized word has length sqrt(width), about half of its square in the
  # tag.
  scale = strength * dim**0.5 / (width / 2)
  left, values, right = np.linalg.svd(np.asarray(matrix, np.float64))
  rank = min(dim, TAGS)
  factors = np.zeros((2, TAGS, dim))
  factors[0][:, :rank] = (left * np.sqrt(values))[:, :rank]
  factors[1][:, :rank] = (right.T * np.sqrt(values))[:, :rank]
  blocks = {**model['blocks']}
  attention = {**blocks['attention']}
  for name, factor in zip(('query', 'key'), factors, strict=True):
    added = scale**0.5 * directions.T @ jnp.asarray(factor, jnp.float32)
    kernel = attention[name]['kernel'] + added[None, :, None, :]
    attention[name] = {**attention[name], 'kernel': kernel}
  model['blocks'] = {**blocks, 'attention': attention}
  return {**params, 'model': model}


INITIAL = 0.05  # deviation of initial weights
POSITION = 0.02  # and of positions, as in GPT-2
BETA = 0.98
PART = 16  # rows that are evaluated at once

Train = Callable[..., Any]
