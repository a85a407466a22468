"""Attention to words of some tags more than of others, whoever attends."""

from typing import Any

import numpy as np

from lthjax.linguistic import _overlap, _tags

_ROUNDS = 50


def key_tag_attention(attention: Any, tags: Any) -> np.ndarray:
  """Returns attention that depends on the tag of the key alone.

  Every row keeps its mass in the region, and every tag what it receives in all
  sentences: within a row, keys share the mass by a weight of their tag. The
  weights are fitted by iterative scaling. Attention that prefers nouns, say,
  has an excess on edges to nouns, whatever the tag of the query; only what is
  left beyond this attention is about pairs of tags.

  Args:
    attention: float[sentences, .., T, T]; axes in between are averaged.
    tags: int[sentences, T], as `tag_ids` returns.

  Returns:
    float64[sentences, T, T], 0 outside of the region.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['NOUN', 'DET', 'VERB'], ['DET', 'NOUN']])
    >>> nouns = np.where(tags == 0, 3.0, 1.0)[:, None] * np.ones((2, 4, 1))
    >>> alone = linguistic.key_tag_attention(nouns, tags)
    >>> alone[0, 3].round(2).tolist()  # of the verb
    [0.0, 3.0, 1.0, 0.0]
  """
  ids = _overlap.check_batch(tags)
  inside = _overlap.check_region(_overlap.region(ids))
  shape = ids.shape + ids.shape[-1:]
  given = _overlap.check_attention(attention, shape)
  values = np.zeros(shape)
  values[inside] = _overlap.mass_of(given, inside).mean(0)
  mass = values.sum(-1, keepdims=True)
  keys = np.broadcast_to(np.maximum(ids, 0)[:, None], shape)

  def received(values):
    return np.bincount(keys[inside], values[inside], _tags.TAGS)

  wanted, weights = received(values), np.ones(_tags.TAGS)
  spread = values
  for _ in range(_ROUNDS):
    shares = np.where(inside, weights[keys], 0.0)
    total = shares.sum(-1, keepdims=True)
    spread = mass * shares / np.where(total > 0, total, 1.0)
    found = received(spread)
    weights *= np.where(
      found > 0, wanted / np.where(found > 0, found, 1.0), 1.0
    )
  return spread
