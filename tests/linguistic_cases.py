"""Random sentences and attention, for tests of overlaps."""

import numpy as np

from lthjax import linguistic


def batch(seed, lengths=(7, 4, 9, 4), channels=(2, 3)):
  """Random tags, and causal attention that knows nothing of them."""
  rng = np.random.default_rng(seed)
  names = [
    [linguistic.UPOS[i] for i in rng.integers(0, 17, n)] for n in lengths
  ]
  tags = linguistic.tag_ids(names)
  t = tags.shape[1]
  raw = np.tril(rng.random((len(lengths), *channels, t, t)))
  return tags, raw / raw.sum(-1, keepdims=True)


def edges_of(tags, matrix=None):
  """Compatible words, in NumPy."""
  m = linguistic.compatibility() if matrix is None else matrix
  allowed = m[np.maximum(tags, 0)[:, :, None], np.maximum(tags, 0)[:, None]]
  other = tags < 0
  diagonal = np.eye(tags.shape[1], dtype=bool)
  return allowed | other[:, :, None] | other[:, None] | diagonal
