"""Overlaps of attention with masks, their nulls, and what heads hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from linguistics.corpus import Split
from lthjax import linguistic as lg

Found = dict[str, Any]


def overlap(attention: np.ndarray, tags: np.ndarray) -> Found:
  """Shares of attention on compatible pairs, in all, by layer and by head."""
  region = lg.region(tags)
  edges = np.asarray(lg.pos_mask(tags))
  mean = lg.mean_attention(attention)
  layers = attention.mean(2)
  found = {
    name: _plain(lg.mass_overlap(x, edges, region))
    for name, x in (('all', mean), ('layers', layers), ('heads', attention))
  }
  outside = lg.outside_region(mean, tags)
  top = lg.top_edges(mean, region, share=0.1, within='all')
  return {
    **found['all'],
    'layers': found['layers'],
    'heads': found['heads'],
    'bos': float(outside.bos),
    'self': float(outside.self),
    'strongest': float(edges[top].mean()),
    'density': float(edges[region].mean()),
    'jaccard': lg.edge_jaccard(strongest(mean, tags), edges, region),
  }


def strongest(mean: np.ndarray, tags: np.ndarray) -> np.ndarray:
  """As many of the strongest edges of each sentence as are compatible."""
  edges = np.asarray(lg.pos_mask(tags))
  return lg.top_edges(mean, lg.region(tags), like=edges)


def shared(a: np.ndarray, b: np.ndarray, tags: np.ndarray) -> float:
  """Jaccard index of the strongest edges of two models."""
  one, two = (strongest(lg.mean_attention(x), tags) for x in (a, b))
  return lg.edge_jaccard(one, two, lg.region(tags))


def chance_jaccard(
  attention: np.ndarray, tags: np.ndarray, draws: int
) -> Found:
  """Jaccard index with masks of tags permuted in the sentence."""
  region = lg.region(tags)
  top = strongest(lg.mean_attention(attention), tags)
  found = []
  for seed in range(draws):
    edges = np.asarray(lg.pos_mask(lg.permuted_tags(tags, seed)))
    found.append(lg.edge_jaccard(top, edges, region))
  return {'mean': float(np.mean(found)), 'sd': float(np.std(found))}


def nulls(attention: np.ndarray, tags: np.ndarray, draws: int) -> Found:
  """Excess beside that of edges without meaning, of three kinds."""
  layers = attention.mean(2)
  both = np.concatenate([layers.mean(1, keepdims=True), layers], 1)
  out: Found = {}
  for kind in ('permuted', 'other', 'relabelled'):
    null = lg.null(both, tags, kind, draws=draws)
    low, high = np.quantile(null.draws, [0.025, 0.975], 0)
    out[kind] = {
      'statistic': null.statistic.tolist(),
      'mean': null.mean.tolist(),
      'sd': null.sd.tolist(),
      'low': low.tolist(),
      'high': high.tolist(),
      'p': null.p.tolist(),
    }
  return out


def positive_control(
  train: tuple[np.ndarray, np.ndarray], dev: tuple[np.ndarray, np.ndarray]
) -> Found:
  """A matrix fitted to training attention, scored on other sentences."""
  fitted = lg.fit_matrix(lg.mean_attention(train[0]), train[1])
  found = score_matrix(fitted, *dev)
  agree = float((fitted == lg.compatibility()).mean())
  return {**found, 'agree': agree}


def score_matrix(
  matrix: np.ndarray, attention: np.ndarray, tags: np.ndarray
) -> Found:
  """Overlap with the edges that a matrix opens."""
  edges = np.asarray(lg.pos_mask(tags, matrix))
  mean = lg.mean_attention(attention)
  return _plain(lg.mass_overlap(mean, edges, lg.region(tags)))


def beyond_popular_tags(attention: np.ndarray, tags: np.ndarray) -> float:
  """Mass on compatible tags, beyond what the tags of keys alone explain."""
  mean = lg.mean_attention(attention)
  alone = lg.key_tag_attention(mean, tags)
  edges, region = np.asarray(lg.pos_mask(tags)), lg.region(tags)
  one, other = (lg.mass_overlap(x, edges, region) for x in (mean, alone))
  return float(one.overlap - other.overlap)


def beyond_permuted_tags(
  attention: Sequence[np.ndarray], tags: np.ndarray, draws: int
) -> list[float]:
  """Excess of each model beyond the mean of masks of permuted tags."""
  means = np.stack([lg.mean_attention(x) for x in attention], 1)
  null = lg.null(means, tags, draws=draws)
  return (null.statistic - null.mean).tolist()


def published(attention: np.ndarray, tags: np.ndarray) -> Found:
  """The published protocol, with its control and fair ones."""
  return lg.published_protocol(attention, tags)._asdict()


def heads(
  attention: np.ndarray, params: Any, masks: Any, tags: np.ndarray
) -> Found:
  """Excess of heads against what pruning has left of them."""
  found = overlap(attention, tags)
  layers, count = np.shape(found['heads']['excess'])
  kernels, alive = (x['model']['blocks']['attention'] for x in (params, masks))
  density = [
    lg.head_density(
      np.asarray(alive[name]['kernel']), count, axis=2, layers=True
    )
    for name in ('query', 'key')
  ]
  norm = lg.head_norm(
    np.asarray(kernels['out']['kernel']), count, axis=1, layers=True
  )
  return {
    'excess': found['heads']['excess'],
    'density': np.mean(density, 0).tolist(),
    'norm': norm.tolist(),
    'layers': layers,
  }


def arcs(split: Split, edges: Sequence[np.ndarray]) -> np.ndarray:
  """Whether the arc of a word to an earlier head is among edges.

  Returns bool ``[sentences, time]``, at the later of the two words.
  """
  out = np.zeros(split.tokens.shape, bool)
  for row, sentence, allowed in zip(out, split.sentences, edges, strict=True):
    for i, head in enumerate(sentence.heads):
      if head and allowed[i, head - 1]:
        row[max(i + 1, head)] = True
  return out


def _plain(found: lg.Overlap) -> Found:
  return {name: np.asarray(x).tolist() for name, x in found._asdict().items()}
