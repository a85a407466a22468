"""What the excess would be if the edges had nothing to do with the words."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.linguistic import _overlap, _tags

KINDS = {
  'permuted': 'tags permuted within each sentence',
  'other': 'tags of another sentence of equal length',
  'relabelled': 'tags other than punctuation renamed',
  'row_matched': 'random edges, as many in each row',
}
# Edges of all draws that are held at once.
_AT_ONCE = 1 << 22


class Null(NamedTuple):
  """Excess of edges, beside that of edges without meaning.

  Attributes:
    kind: how edges without meaning were made.
    statistic: the excess of the edges, with the axes of layers and heads.
    draws: float64[draws, ..]: those of edges without meaning.
    p: share of the draws that reach the statistic, which counts as one of them.
  """

  kind: str
  statistic: np.ndarray
  draws: np.ndarray
  p: np.ndarray

  @property
  def mean(self) -> np.ndarray:
    """Mean of the draws, which need not be 0."""
    return self.draws.mean(0)

  @property
  def sd(self) -> np.ndarray:
    """Standard deviation of the draws."""
    return self.draws.std(0, ddof=1)


def null(
  attention: Any,
  tags: Any,
  kind: str = 'permuted',
  *,
  matrix: Any = None,
  edges: Any = None,
  draws: int = 999,
  seed: int = 0,
) -> Null:
  """Draws edges without meaning, and compares their excess.

  Densities differ between draws, so that only the excess can be compared. The
  values of p are about the sentences and one model. For a verdict on models,
  train several and pass the excess of each to `over_seeds`: within one model
  the draws spread several times less than models do.

  Args:
    attention: float[sentences, .., T, T]; axes in between are kept.
    tags: int[sentences, T], as `tag_ids` returns.
    kind: ``'permuted'`` permutes the tags within each sentence, ``'other'``
      takes those of another sentence of equal length (its own, where there is
      no other), ``'relabelled'`` renames the 16 tags other than punctuation in
      the matrix, and ``'row_matched'`` draws as many edges in each row.
    matrix: bool[17, 17]; by default `compatibility`.
    edges: bool[sentences, T, T], with ``'row_matched'`` only: edges that do not
      come from tags, such as those of an axis.
    draws: number of draws.
    seed: of the draws, at least 0.

  Returns:
    The excess of the edges and of each draw, and p = (1 + draws that reach it)
    / (draws + 1).

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'NOUN', 'VERB', 'ADP', 'NOUN']] * 9)
    >>> attention = np.tril(np.random.default_rng(0).random((9, 6, 6)))
    >>> found = linguistic.null(attention, tags, draws=99)
    >>> found.draws.shape, 0.01 <= float(found.p) <= 1
    ((99,), True)
  """
  ids = _overlap.check_batch(tags)
  m = _tags.check_matrix(matrix)
  n = _checks.between('draws', draws, 1, 1_000_000, 'p needs no more')
  rng = np.random.default_rng(_checks.at_least('seed', seed, 0))
  _checks.one_of('kind', kind, KINDS)
  if edges is not None and kind != 'row_matched':
    raise ValueError(
      f'`edges` go with kind "row_matched", but `kind` was "{kind}", which'
      ' makes edges of tags. Pass a `matrix`, or change the kind.'
    )
  flat = _overlap.flatten(attention, _overlap.region(ids))
  if edges is None:
    real = _edges_of(ids, m, flat.places)
  else:
    shape = (*ids.shape, ids.shape[1])
    real = _overlap.check_edges('edges', edges, shape)[flat.places]
  statistic = flat.centered @ real
  if kind == 'relabelled':
    found = _relabelled_excess(ids, m, flat, n, rng)
  else:
    make = _maker(kind, ids, m, real, flat)
    found = np.concatenate(
      [chunk @ flat.centered.T for chunk in _chunks(make, rng, n, real.size)]
    )
  # A draw that equals the statistic but for rounding reaches it.
  reached = (found >= statistic - 1e-12).sum(0)
  return Null(
    kind,
    statistic.reshape(flat.shape),
    found.reshape(n, *flat.shape),
    ((1 + reached) / (n + 1)).reshape(flat.shape),
  )


def permuted_tags(tags: Any, seed: int) -> np.ndarray:
  """Permutes the tags of the words of each sentence.

  Args:
    tags: int[sentences, T], as `tag_ids` returns.
    seed: of the permutations, at least 0.

  Returns:
    int32[sentences, T]; ``<bos>`` and padding stay where they are.

  Example:
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'NOUN', 'VERB']])
    >>> sorted(linguistic.permuted_tags(tags, 0)[0].tolist())
    [-1, 0, 1, 6]
  """
  ids = _overlap.check_batch(tags)
  rng = np.random.default_rng(_checks.at_least('seed', seed, 0))
  return _permuted(ids, rng).astype(np.int32)


def other_tags(tags: Any, seed: int) -> np.ndarray:
  """Gives each sentence the tags of another one of equal length.

  Args:
    tags: int[sentences, T], as `tag_ids` returns.
    seed: of the choice, at least 0.

  Returns:
    int32[sentences, T]. A sentence whose length no other has keeps its tags.

  Example:
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'NOUN'], ['ADP', 'PRON']])
    >>> linguistic.other_tags(tags, 0).tolist() == tags[::-1].tolist()
    True
  """
  ids = _overlap.check_batch(tags)
  rng = np.random.default_rng(_checks.at_least('seed', seed, 0))
  return ids[_others(_by_length(ids), rng)].astype(np.int32)


def row_matched(edges: Any, tags: Any, seed: int) -> np.ndarray:
  """Draws random edges, as many in each row of the region.

  Args:
    edges: bool[sentences, T, T], such as `pos_mask` returns.
    tags: int[sentences, T], as `tag_ids` returns.
    seed: of the draw, at least 0.

  Returns:
    bool[sentences, T, T]; outside of the region as given.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'NOUN', 'VERB', 'ADP']])
    >>> mask = np.asarray(linguistic.pos_mask(tags))
    >>> drawn = linguistic.row_matched(mask, tags, 0)
    >>> np.tril(drawn[0]).sum(1).tolist() == np.tril(mask[0]).sum(1).tolist()
    True
  """
  inside = _overlap.region(tags)
  drawn = _overlap.check_edges('edges', edges, inside.shape).copy()
  rng = np.random.default_rng(_checks.at_least('seed', seed, 0))
  places = np.nonzero(inside)
  if len(places[0]):
    rows = places[0] * inside.shape[1] + places[1]
    drawn[places] = _redrawn(drawn[places], rows, rng)
  return drawn


def fit_matrix(attention: Any, tags: Any, *, matrix: Any = None) -> np.ndarray:
  """Fits a matrix over pairs of tags to attention: the positive control.

  Takes the pairs of tags with the largest excess per edge, while they have no
  more edges than another matrix. Its excess in other sentences bounds what any
  matrix over tags can explain, and shows that the test can see something.

  Args:
    attention: float[sentences, .., T, T] of training sentences.
    tags: int[sentences, T], as `tag_ids` returns.
    matrix: bool[17, 17] whose number of edges is the limit; by default
      `compatibility`.

  Returns:
    bool[17, 17], queries by keys, not symmetric.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['ADJ', 'DET', 'NOUN']] * 2, bos=False)
    >>> attention = np.tile([[1.0, 0, 0], [1, 0, 0], [0.1, 0.9, 0]], (2, 1, 1))
    >>> fitted = linguistic.fit_matrix(attention, tags)
    >>> noun, det = map(linguistic.UPOS.index, ['NOUN', 'DET'])
    >>> bool(fitted[noun, det])
    True
  """
  ids = _overlap.check_batch(tags)
  flat = _overlap.flatten(attention, _overlap.region(ids))
  limit = _edges_of(ids, _tags.check_matrix(matrix), flat.places).sum()
  pairs = _pairs_of(ids, flat.places)
  counts = np.bincount(pairs, minlength=_tags.TAGS**2)
  gains = np.bincount(pairs, flat.centered.mean(0), _tags.TAGS**2)
  fitted = np.zeros(_tags.TAGS**2, bool)
  for pair in np.argsort(-gains / np.maximum(counts, 1), kind='stable'):
    if 0 < counts[pair] <= limit:
      fitted[pair] = True
      limit -= counts[pair]
  return fitted.reshape(_tags.TAGS, _tags.TAGS)


def _maker(
  kind: str,
  ids: np.ndarray,
  matrix: np.ndarray,
  real: np.ndarray,
  flat: _overlap.Flat,
) -> Callable[[np.random.Generator], np.ndarray]:
  """A function that draws edges of a region in a row."""
  if kind == 'row_matched':
    return lambda rng: _redrawn(real, flat.rows, rng)
  if kind == 'other':
    groups = _by_length(ids)
    return lambda rng: _edges_of(ids[_others(groups, rng)], matrix, flat.places)
  return lambda rng: _edges_of(_permuted(ids, rng), matrix, flat.places)


def _chunks(
  make: Callable[[np.random.Generator], np.ndarray],
  rng: np.random.Generator,
  n: int,
  edges: int,
) -> Iterator[np.ndarray]:
  size = max(_AT_ONCE // edges, 1)
  for start in range(0, n, size):
    yield np.stack(
      [make(rng) for _ in range(start, min(start + size, n))]
    ).astype(np.float64)


def _relabelled_excess(
  ids: np.ndarray,
  matrix: np.ndarray,
  flat: _overlap.Flat,
  n: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """The excess is a sum over pairs of tags, which renaming leaves alone."""
  pairs = _pairs_of(ids, flat.places)
  sums = np.stack([np.bincount(pairs, x, _tags.TAGS**2) for x in flat.centered])
  drawn = [_tags.relabel(matrix, rng).ravel() for _ in range(n)]
  return np.stack(drawn) @ sums.T


def _pairs_of(ids: np.ndarray, places: tuple[np.ndarray, ...]) -> np.ndarray:
  """The pair of tags of each edge, as one number."""
  sentences, queries, keys = places
  return ids[sentences, queries] * _tags.TAGS + ids[sentences, keys]


def _edges_of(
  ids: np.ndarray,
  matrix: np.ndarray,
  places: tuple[np.ndarray, ...],
) -> np.ndarray:
  return matrix.ravel()[_pairs_of(ids, places)]


def _permuted(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Sorts words by random numbers, and all else by its place."""
  words = ids >= 0
  order = np.argsort(np.where(words, rng.random(ids.shape), 2), 1)
  # The words of a sentence in random order, written to where words are.
  found = ids.copy()
  first = np.arange(ids.shape[1]) < words.sum(1)[:, None]
  found[words] = np.take_along_axis(ids, order, 1)[first]
  return found


def _by_length(ids: np.ndarray) -> list[np.ndarray]:
  """Groups sentences whose words are at the same places."""
  _, groups = np.unique(ids >= 0, axis=0, return_inverse=True)
  order = np.argsort(groups, kind='stable')
  return np.split(order, np.cumsum(np.bincount(groups))[:-1])


def _others(groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
  """For each sentence, another one of its group."""
  chosen = np.zeros(sum(map(len, groups)), int)
  for members in groups:
    n = len(members)
    steps = rng.integers(1, n, n) if n > 1 else np.zeros(1, int)
    chosen[members] = members[(np.arange(n) + steps) % n]
  return chosen


def _redrawn(
  real: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Shuffles the edges of each row."""
  order = np.argsort(rows + rng.random(len(rows)))
  drawn = np.empty_like(real)
  drawn[order] = real
  return drawn
