"""The overlap as it was published, beside fair controls."""

from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.linguistic import _nulls, _overlap, _tags


class Published(NamedTuple):
  """The overlap as published, and with controls of equal density.

  Attributes:
    masks: share of the attention between words, with the diagonal, that the
      masks hold.
    control: that of random edges as published.
    row_matched: that of random edges with as many in each row.
    relabelled: that of masks from a matrix that means nothing.
  """

  masks: float
  control: float
  row_matched: float
  relabelled: float


def published_protocol(
  attention: Any, tags: Any, *, matrix: Any = None, seed: int = 0
) -> Published:
  """Measures overlap as it was published, and with fair controls.

  The published control draws edges with the density of the causal mask of tags
  over the whole square, and then closes the upper triangle again. It so keeps
  about half of the edges. The diagonal is open in all masks, and counts.

  Args:
    attention: float[sentences, .., T, T]; axes in between are averaged.
    tags: int[sentences, T], as `tag_ids` returns.
    matrix: bool[17, 17]; by default `compatibility`.
    seed: of the controls, at least 0.

  Returns:
    Four shares of the attention between words.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'NOUN', 'VERB', 'ADP', 'NOUN']] * 9)
    >>> uniform = np.tril(np.ones((9, 6, 6)))
    >>> found = linguistic.published_protocol(uniform, tags)
    >>> found.control < found.row_matched
    True
  """
  ids = _overlap.check_batch(tags)
  m = _tags.check_matrix(matrix)
  rng = np.random.default_rng(_checks.at_least('seed', seed, 0))
  inside = _overlap.region(ids)
  words = ids >= 0
  own = np.eye(ids.shape[1], dtype=bool) & words[:, :, None]
  shape = inside.shape
  counted = _overlap.check_region(inside) | own
  given = _overlap.check_attention(attention, shape)
  total = _overlap.mass_of(given, counted).mean(0).sum()
  values = np.mean([*_overlap.channels(given)], 0)

  def held(edges):
    return float(values[(inside & edges) | own].sum() / total)

  def of(matrix):
    return matrix[np.maximum(ids, 0)[:, :, None], np.maximum(ids, 0)[:, None]]

  masks = of(m)
  square = (words.sum(1) ** 2).sum()
  density = ((masks & inside) | own).sum() / square
  return Published(
    held(masks),
    held(rng.random(shape) < density),
    held(_nulls.row_matched(masks, ids, seed)),
    held(of(_tags.relabel(m, rng))),
  )
