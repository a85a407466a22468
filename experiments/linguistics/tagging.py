"""Training of taggers, and the tags that they give."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import interruption
from lthjax import data, linguistic, models
from lthjax.linguistic import Sentence

TIME, BATCH = 32, 32
DROPPED = 0.2  # share of words of which only the ends are seen
RATE = 5e-3


def train(
  sentences: Sequence[Sentence],
  *,
  bidirectional: bool,
  epochs: float,
  seed: int = 0,
) -> Any:
  """Trains a tagger on gold tags; returns its params."""
  model = models.tagger(bidirectional=bidirectional)
  features, tags = map(jnp.asarray, _arrays(sentences))
  size, batch_size = len(features), min(BATCH, len(features))
  steps = max(int(epochs * size / batch_size), 1)
  schedule = optax.warmup_cosine_decay_schedule(0, RATE, steps // 20, steps)

  def batch(arrays, key, step):
    rows = data.epoch_indices(key, step, batch_size=batch_size, size=size)
    return jax.tree.map(lambda x: x[rows], arrays)

  def loss(params, state, batch, key):
    features, tags = batch
    hidden = jax.random.bernoulli(key, DROPPED, tags.shape)
    words = jnp.where(hidden, 0, features[..., 0])
    features = features.at[..., 0].set(words)
    known = tags >= 0
    logits = model.apply(params, features, known)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.maximum(tags, 0)
    )
    return jnp.sum(losses, where=known) / jnp.sum(known), state

  trainer = interruption.trainer(
    lambda key: (model.init(key), {}), loss, optax.adam(schedule), batch
  )
  start = trainer.init(jax.random.key(seed))
  return trainer.fit(start, (features, tags), until=steps).params


def predict(
  params: Any, sentences: Sequence[Sentence], *, bidirectional: bool
) -> list[list[str]]:
  """The tags of sentences; long ones are read in parts."""
  model = models.tagger(bidirectional=bidirectional)
  features, _ = _arrays(sentences)

  @jax.jit
  def run(params, features):
    known = features[..., 0] >= 0
    logits = model.apply(params, jnp.maximum(features, 0), known)
    return logits.argmax(-1).astype(jnp.uint8)

  size = 512
  short = -len(features) % size
  whole = np.pad(features, ((0, short), (0, 0), (0, 0)), constant_values=-1)
  found = np.concatenate(
    [run(params, whole[i : i + size]) for i in range(0, len(whole), size)]
  )
  rows, tags = iter(found), []
  for sentence in sentences:
    count = len(sentence.tokens)
    parts = [next(rows) for _ in range(0, count, TIME)]
    ids = np.concatenate(parts)[:count]
    tags.append([linguistic.UPOS[i] for i in ids])
  return tags


def accuracy(
  predicted: Sequence[Sequence[str]], sentences: Sequence[Sentence]
) -> float:
  """Share of the words that have their gold tags."""
  pairs = [
    (guess, tag)
    for row, sentence in zip(predicted, sentences, strict=True)
    for guess, tag in zip(row, sentence.tags, strict=True)
  ]
  return float(np.mean([guess == tag for guess, tag in pairs]))


def _arrays(sentences: Sequence[Sentence]) -> tuple[np.ndarray, np.ndarray]:
  """Features, and tags or -1, of all sentences in parts of equal length."""
  ids = {tag: i for i, tag in enumerate(linguistic.UPOS)}
  features, tags = [], []
  for sentence in sentences:
    found = models.word_features(sentence.forms)
    known = np.array([ids[tag] for tag in sentence.tags], np.int32)
    for i in range(0, len(known), TIME):
      part = slice(i, i + TIME)
      short = TIME - len(known[part])
      features.append(
        np.pad(found[part], ((0, short), (0, 0)), constant_values=-1)
      )
      tags.append(np.pad(known[part], (0, short), constant_values=-1))
  return np.stack(features), np.stack(tags)
