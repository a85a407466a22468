"""How much of attention lies on a set of edges, and how much would by chance.

Edges are pairs of a query i and a key j of one sentence. All statistics look at
the region ``0 < j < i`` where both are words: ``<bos>``, the diagonal and
padding are outside, and `outside_region` says how much attention they take.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.linguistic import _tags


class Overlap(NamedTuple):
  """Shares of attention mass on a set of edges.

  Attributes:
    overlap: share of the mass in the region that lies on the edges.
    expected: share that edges drawn at random within each row would hold, with
      as many per row.
    excess: overlap minus expected.
  """

  overlap: np.ndarray
  expected: np.ndarray
  excess: np.ndarray


class Outside(NamedTuple):
  """Shares of the attention of words that the region leaves out.

  Attributes:
    bos: share on ``<bos>``.
    self: share on the word itself.
  """

  bos: np.ndarray
  self: np.ndarray


class Flat(NamedTuple):
  """The edges of a region in a row, and attention on them.

  Attributes:
    places: sentence, query and key of each edge, int[edges] each.
    rows: number of each edge's row, ascending.
    sizes: number of edges per row.
    mass: share of all attention of each edge, [channels, edges].
    centered: the same minus the mean of its row, [channels, edges].
    shape: of the channels, such as (layers, heads).
  """

  places: tuple[np.ndarray, ...]
  rows: np.ndarray
  sizes: np.ndarray
  mass: np.ndarray
  centered: np.ndarray
  shape: tuple[int, ...]


def region(tags: Any) -> np.ndarray:
  """Selects the edges that count: from a word to an earlier word.

  Args:
    tags: int[sentences, T], as `tag_ids` returns.

  Returns:
    bool[sentences, T, T].

  Example:
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'NOUN', 'VERB'], ['INTJ']])
    >>> linguistic.region(tags).sum((1, 2))
    array([3, 0])
  """
  words = check_batch(tags) >= 0
  both = words[:, :, None] & words[:, None, :]
  return np.tril(both, -1)


def mass_overlap(attention: Any, edges: Any, region: Any) -> Overlap:
  """Measures the share of attention on edges, beside what chance gives.

  With W the attention in the region R, its row sums ``w_i``, and the share
  ``d_i`` of row i that the edges E hold:

      overlap = sum of W over E / sum of W over R
      expected = sum_i w_i d_i / sum_i w_i

  The second is the mean overlap of edges that are drawn at random within each
  row, as many as in E. The density of E over all of R is not, because early
  rows are short: even uniform attention differs from it.

  Args:
    attention: float[sentences, .., T, T]. Axes in between, such as layers and
      heads, are kept; for all of them together pass `mean_attention`.
    edges: bool[sentences, T, T], such as `pos_mask` returns.
    region: bool[sentences, T, T], from `region`.

  Returns:
    Three float64 arrays with the axes in between.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'ADJ', 'NOUN']], bos=False)
    >>> attention = np.array([[[1, 0, 0], [0.5, 0.5, 0], [0.6, 0.2, 0.2]]])
    >>> found = linguistic.mass_overlap(
    ...   attention, linguistic.pos_mask(tags), linguistic.region(tags)
    ... )
    >>> print(*[f'{x:.3f}' for x in found])
    0.615 0.615 0.000
  """
  flat = flatten(attention, region)
  chosen = check_edges('edges', edges, np.shape(region))[flat.places]
  held = np.bincount(flat.rows, chosen, len(flat.sizes)) / flat.sizes
  overlap = flat.mass @ chosen
  expected = flat.mass @ held[flat.rows]
  return Overlap(
    overlap.reshape(flat.shape),
    expected.reshape(flat.shape),
    (overlap - expected).reshape(flat.shape),
  )


def outside_region(attention: Any, tags: Any) -> Outside:
  """Measures the attention of words that the region leaves out.

  Args:
    attention: float[sentences, .., T, T].
    tags: int[sentences, T], as `tag_ids` returns.

  Returns:
    Shares of the whole attention of words, with the axes in between.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['NOUN', 'VERB']])
    >>> uniform = np.tril(np.ones((1, 3, 3))) / np.arange(1, 4)[:, None]
    >>> linguistic.outside_region(uniform, tags)
    Outside(bos=array(0.41666667), self=array(0.41666667))
  """
  ids = check_batch(tags)
  words, bos = ids >= 0, ids == _tags.BOS
  shape = (*ids.shape, ids.shape[1])
  to_bos = words[:, :, None] & bos[:, None, :]
  to_self = words[:, :, None] & np.eye(ids.shape[1], dtype=bool)
  everything = np.broadcast_to(words[:, :, None], shape)
  values = check_attention(attention, shape)
  rows, total = list(channels(values)), mass_of(values, everything).sum(1)
  axes = np.shape(attention)[1:-2]
  return Outside(
    *(
      (np.array([x[part].sum() for x in rows]) / total).reshape(axes)
      for part in (to_bos, to_self)
    )
  )


def mean_attention(
  attention: Any,
  *,
  layers: Sequence[int] | None = None,
  heads: Sequence[int] | None = None,
) -> np.ndarray:
  """Averages attention over layers and heads.

  Args:
    attention: float[sentences, layers, heads, T, T].
    layers: numbers of the layers to average; by default all.
    heads: numbers of the heads to average; by default all.

  Returns:
    float[sentences, T, T].

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> attention = np.stack([np.zeros((1, 2, 3, 3)), np.ones((1, 2, 3, 3))], 1)
    >>> linguistic.mean_attention(attention, layers=[1]).mean()
    np.float64(1.0)
  """
  shape = getattr(attention, 'shape', ())
  if len(shape) != 5:
    wanted = 'be float[sentences, layers, heads, T, T]'
    raise _checks.wrong_type('attention', attention, wanted)
  chosen = []
  for name, numbers, n in zip(
    ('layers', 'heads'), (layers, heads), shape[1:3], strict=True
  ):
    found = range(n) if numbers is None else _checks.integers(name, numbers)
    refuse(
      [str(i) for i in found if not 0 <= i < n],
      f'`{name}` names {{}}, but the attention has {n} {name}, numbered from 0'
      f' to {n - 1}.',
      IndexError,
    )
    if not found:
      raise ValueError(f'`{name}` is empty. Name at least one, or pass None.')
    chosen.append(list(found))
  return np.asarray(attention)[:, chosen[0]][:, :, chosen[1]].mean((1, 2))


def top_edges(
  attention: Any,
  region: Any,
  *,
  like: Any = None,
  share: float | None = None,
  within: str = 'sentence',
) -> np.ndarray:
  """Selects the strongest edges.

  Args:
    attention: float[sentences, T, T].
    region: bool[sentences, T, T], from `region`.
    like: bool[sentences, T, T]: select as many edges as these have.
    share: instead, select this share of the edges, rounded.
    within: where to count and compare: ``'sentence'``, ``'row'`` or ``'all'``.

  Returns:
    bool[sentences, T, T]. Of equal edges, the first ones are taken.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'ADJ', 'NOUN']], bos=False)
    >>> attention = np.array([[[1, 0, 0], [0.5, 0.5, 0], [0.6, 0.2, 0.2]]])
    >>> top = linguistic.top_edges(
    ...   attention, linguistic.region(tags), share=0.34
    ... )
    >>> np.argwhere(top[0])
    array([[2, 0]])
  """
  flat = flatten(attention, region)
  if flat.shape:
    raise ValueError(
      '`attention` has axes for layers or heads, but must be one map per'
      ' sentence. Average it with `linguistic.mean_attention`.'
    )
  sentences, queries, _ = flat.places
  _checks.one_of('within', within, ('sentence', 'row', 'all'))
  groups = {'sentence': sentences, 'row': flat.rows}.get(
    within, np.zeros_like(queries)
  )
  sizes = np.bincount(groups)
  if (like is None) == (share is None):
    raise ValueError(
      'Pass either `like`, edges to count, or `share`, and not both.'
    )
  if like is not None:
    counted = check_edges('like', like, np.shape(region))[flat.places]
    wanted = np.bincount(groups, counted, len(sizes)).astype(int)
  else:
    part = _checks.closed_share('share', share)
    wanted = np.floor(part * sizes + 0.5).astype(int)
  chosen = np.zeros(np.shape(region), bool)
  chosen[flat.places] = smallest(
    np.lexsort((-flat.mass[0], groups)), groups, sizes, wanted
  )
  return chosen


def edge_jaccard(a: Any, b: Any, region: Any) -> float:
  """Computes the Jaccard index of two sets of edges, over all sentences.

  Args:
    a: bool[sentences, T, T].
    b: bool[sentences, T, T].
    region: bool[sentences, T, T], from `region`.

  Returns:
    Common edges over all edges of both, within the region; 1 if both are empty.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'ADJ', 'NOUN']], bos=False)
    >>> r = linguistic.region(tags)
    >>> round(linguistic.edge_jaccard(linguistic.pos_mask(tags), r, r), 3)
    0.667
  """
  inside = check_region(region)
  one = check_edges('a', a, inside.shape)[inside]
  two = check_edges('b', b, inside.shape)[inside]
  either = (one | two).sum()
  return float((one & two).sum() / either) if either else 1.0


def flatten(attention: Any, region: Any) -> Flat:
  """Lists the edges of a region, with each channel's attention on them."""
  inside = check_region(region)
  values = check_attention(attention, inside.shape)
  places = np.nonzero(inside)
  sentences, queries, _ = places
  _, rows, sizes = np.unique(
    sentences * inside.shape[1] + queries,
    return_inverse=True,
    return_counts=True,
  )
  mass = mass_of(values, inside)
  mass /= mass.sum(1, keepdims=True)
  means = np.stack([np.bincount(rows, x) / sizes for x in mass])
  return Flat(
    places, rows, sizes, mass, mass - means[:, rows], values.shape[1:-2]
  )


def mass_of(attention: np.ndarray, inside: np.ndarray) -> np.ndarray:
  """Returns the attention of each channel on some edges, [channels, edges]."""
  mass = np.stack([x[inside].astype(np.float64) for x in channels(attention)])
  if not (np.isfinite(mass).all() and (mass >= 0).all() and mass.any(1).all()):
    raise ValueError(
      '`attention` has entries that are negative or not finite, or none above'
      ' zero among the edges that count. Pass probabilities, after the softmax.'
    )
  return mass


def smallest(
  order: np.ndarray, groups: np.ndarray, sizes: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
  """Marks the first ``wanted`` members of each group of a sorted order."""
  starts = np.cumsum(sizes) - sizes
  sorted_groups = groups[order]
  rank = np.arange(len(order)) - starts[sorted_groups]
  chosen = np.zeros(len(order), bool)
  chosen[order] = rank < wanted[sorted_groups]
  return chosen


def channels(attention: np.ndarray) -> Iterator[np.ndarray]:
  """Goes through the layers and heads: [sentences, T, T] of each."""
  b, *axes, t, _ = attention.shape
  together = attention.reshape(b, int(np.prod(axes, dtype=int)), t, t)
  return (together[:, c] for c in range(together.shape[1]))


def check_batch(tags: Any) -> np.ndarray:
  """Returns tags of several sentences."""
  ids = _tags.check_ids('tags', tags)
  if ids.ndim != 2:
    wanted = 'be int[sentences, positions], as `linguistic.tag_ids` returns'
    raise _checks.wrong_type('tags', tags, wanted)
  return ids


def check_region(region: Any) -> np.ndarray:
  """Returns a region that is not empty."""
  shape = getattr(region, 'shape', ())
  if len(shape) != 3 or shape[1] != shape[2] or region.dtype != bool:
    wanted = 'be bool[sentences, T, T], as `linguistic.region(tags)` returns'
    raise _checks.wrong_type('region', region, wanted)
  if not (inside := np.asarray(region)).any():
    raise ValueError(
      '`region` is empty: no sentence has two words. Pass longer sentences.'
    )
  return inside


def check_edges(name: str, edges: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns edges over the sentences of a region."""
  if getattr(edges, 'shape', None) != shape or edges.dtype != bool:
    wanted = f'be bool[{", ".join(map(str, shape))}], like the region'
    raise _checks.wrong_type(name, edges, wanted)
  return np.asarray(edges)


def check_attention(attention: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns attention over the sentences of a region."""
  found = getattr(attention, 'shape', ())
  if len(found) < 3 or (found[0], *found[-2:]) != shape:
    b, t, _ = shape
    wanted = f'be float[{b}, .., {t}, {t}], like tags and region'
    raise _checks.wrong_type('attention', attention, wanted)
  if 0 in found[1:-2]:
    raise ValueError(
      f'`attention` has the shape {found}, with no layer or head. Pass one or'
      ' more.'
    )
  return np.asarray(_checks.array('attention', attention))
