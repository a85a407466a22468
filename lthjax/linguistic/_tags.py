"""The 17 universal tags, and which of them are compatible."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lthjax import _checks
from lthjax._errors import refuse

UPOS = (
  *('NOUN', 'VERB', 'ADJ', 'ADV', 'PRON', 'PROPN', 'DET', 'ADP', 'AUX'),
  *('CCONJ', 'SCONJ', 'NUM', 'PART', 'INTJ', 'PUNCT', 'SYM', 'X'),
)
TAGS = len(UPOS)
BOS, PAD = -1, -2
IDS = {tag: i for i, tag in enumerate(UPOS)}

# Each unordered pair once; ADJ-DET, VERB-PART and AUX-PRON are not compatible.
_PAIRS = {
  'NOUN': 'VERB ADJ PRON PROPN DET ADP AUX CCONJ NUM',
  'VERB': 'ADV PRON PROPN AUX CCONJ SCONJ',
  'ADJ': 'ADV PRON PROPN AUX CCONJ',
  'ADV': 'CCONJ',
  'PRON': 'PROPN ADP',
  'PROPN': 'DET ADP CCONJ',
}


def compatibility() -> np.ndarray:
  """Builds the matrix of compatible universal tags.

  Each tag is compatible with itself, punctuation with all, and 26 pairs of tags
  with each other.

  Returns:
    bool[17, 17] in the order of `UPOS`, symmetric, with 101 entries that are
    true.

  Example:
    >>> from lthjax import linguistic
    >>> m = linguistic.compatibility()
    >>> noun, det, adj = map(linguistic.UPOS.index, ['NOUN', 'DET', 'ADJ'])
    >>> bool(m[noun, det]), bool(m[adj, det]), int(m.sum())
    (True, False, 101)
  """
  matrix = np.eye(TAGS, dtype=bool)
  matrix[IDS['PUNCT']] = matrix[:, IDS['PUNCT']] = True
  for tag, others in _PAIRS.items():
    for other in others.split():
      matrix[IDS[tag], IDS[other]] = matrix[IDS[other], IDS[tag]] = True
  return matrix


def relabelled(seed: int, matrix: Any = None) -> np.ndarray:
  """Permutes the 16 tags other than punctuation in a matrix.

  The result means nothing, and has as many entries that are true. A benefit
  that remains with it comes from the tags and not from linguistics.

  Args:
    seed: of the permutation, at least 0.
    matrix: bool[17, 17]; by default `compatibility`.

  Returns:
    bool[17, 17].

  Example:
    >>> from lthjax import linguistic
    >>> int(linguistic.relabelled(0).sum())
    101
  """
  rng = np.random.default_rng(_checks.at_least('seed', seed, 0))
  return relabel(check_matrix(matrix), rng)


def relabel(matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Permutes rows and columns alike, apart from those of punctuation."""
  order = np.arange(TAGS)
  others = np.delete(order, IDS['PUNCT'])
  order[others] = rng.permutation(others)
  return matrix[np.ix_(order, order)]


def tag_ids(
  sentences: Sequence[Sequence[str]],
  *,
  bos: bool = True,
  length: int | None = None,
) -> np.ndarray:
  """Makes one array of the tags of several sentences.

  Args:
    sentences: the tags of each sentence, by name.
    bos: whether each row starts with `BOS`, as the tokens of a language model
      do.
    length: of the rows, ``<bos>`` included; by default that of the longest.

  Returns:
    int32[sentences, length]: indices into `UPOS`, `BOS`, and `PAD` where a
    sentence is over.

  Example:
    >>> from lthjax import linguistic
    >>> linguistic.tag_ids([['DET', 'NOUN', 'VERB'], ['INTJ']])
    array([[-1,  6,  0,  1],
           [-1, 13, -2, -2]], dtype=int32)
  """
  rows = check_sentences('sentences', sentences)
  check_names(rows)
  first = int(_checks.flag('bos', bos))
  longest = max((len(row) for row in rows), default=0) + first
  length = check_length(length, longest)
  ids = np.full((len(rows), length), PAD, np.int32)
  ids[:, :first] = BOS
  for row, tags in zip(ids, rows, strict=True):
    row[first : first + len(tags)] = [IDS[tag] for tag in tags]
  return ids


def subword_tags(tags: Any, words: Any) -> np.ndarray:
  """Gives each piece of a word the tag of the word.

  Args:
    tags: int[sentences, words], as `tag_ids` returns.
    words: int[sentences, pieces]: for each piece, the position of its word in
      ``tags``, `BOS` or `PAD`.

  Returns:
    int32[sentences, pieces].

  Example:
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'NOUN']])
    >>> linguistic.subword_tags(tags, [[-1, 1, 2, 2, -2]])
    array([[-1,  6,  0,  0, -2]], dtype=int32)
  """
  found = check_ids('tags', tags)
  try:
    places = np.asarray(words)
  except (TypeError, ValueError):
    places = np.zeros(())  # Such as lists of unequal length.
  if places.dtype.kind != 'i' or places.shape[:-1] != found.shape[:-1]:
    raise ValueError(
      f'`words` was {_checks.spell(words)}, but must hold an integer for each'
      f' piece of the sentences of `tags`, {_checks.describe(found)}.'
    )
  if places.size and not PAD <= places.min() <= places.max() < found.shape[-1]:
    raise ValueError(
      f'`words` goes from {places.min()} to {places.max()}, but must be a'
      f' position in `tags`, from 0 to {found.shape[-1] - 1}, {BOS} for <bos>'
      f' or {PAD} for padding.'
    )
  carried = np.take_along_axis(found, np.maximum(places, 0), -1)
  return np.where(places < 0, places, carried).astype(np.int32)


def check_sentences(name: str, x: Any) -> list[list[str]]:
  """Returns sentences as lists of strings."""
  if isinstance(x, str) or not isinstance(x, Sequence | np.ndarray):
    raise _checks.wrong_type(name, x, 'hold sentences, each a list of strings')
  wrong = [
    row
    for row in x
    if isinstance(row, str)
    or not isinstance(row, Sequence | np.ndarray)
    or not all(isinstance(tag, str) for tag in row)
  ]
  if wrong:
    wanted = 'hold a list of strings for each sentence'
    raise TypeError(
      f'`{name}` must {wanted}, but held {_checks.spell(wrong[0])}.'
    )
  return [list(row) for row in x]


def check_length(length: Any, longest: int) -> int:
  """Returns the number of places per sentence, by default the longest's."""
  if length is None:
    return longest
  if (
    _checks.between('length', length, 1, 1 << 20, 'masks are square') < longest
  ):
    raise ValueError(
      f'`length` was {length}, but the longest sentence takes {longest}'
      ' places. Leave out longer sentences, or ask for more places.'
    )
  return int(length)


def check_names(rows: Iterable[Iterable[str]]) -> None:
  """Raises if a tag is not one of the 17."""
  refuse(
    sorted({str(tag) for row in rows for tag in row} - IDS.keys()),
    'Tags must be among the 17 universal ones, but found {}. Map them to '
    + ', '.join(UPOS[:-1])
    + ' or X, which is for all else.',
  )


def check_matrix(matrix: Any) -> np.ndarray:
  """Returns a bool matrix over pairs of tags, by default compatibility."""
  if matrix is None:
    return compatibility()
  found = getattr(matrix, 'shape', None)
  if found != (TAGS, TAGS) or matrix.dtype != bool:
    wanted = f'be bool[{TAGS}, {TAGS}], such as `linguistic.compatibility()`'
    raise _checks.wrong_type('matrix', matrix, wanted)
  return np.asarray(matrix)


def check_ids(name: str, x: Any) -> np.ndarray:
  """Returns tags as an array whose values are all known."""
  try:
    found = np.asarray(x)
  except ValueError as error:
    raise unequal(name) from error
  except TypeError:
    found = np.zeros(())  # Such as a random key.
  check_kind(name, found, x)
  refuse(
    sorted(str(i) for i in set(found.ravel().tolist()) - _KNOWN),
    f'`{name}` must hold ids from 0 to {TAGS - 1}, {BOS} for <bos> and {PAD}'
    ' for padding, but found {}. `linguistic.tag_ids` makes them of names.',
  )
  return found


def check_kind(name: str, found: Any, given: Any) -> None:
  """Raises unless tags are integers with an axis of positions."""
  if not found.ndim or found.dtype.kind != 'i':
    wanted = 'be int[.., positions], as `linguistic.tag_ids(names)` returns'
    raise _checks.wrong_type(name, given, wanted)


def unequal(name: str) -> ValueError:
  """The error of sentences that do not fit into one array."""
  return ValueError(
    f'`{name}` holds sentences of unequal length, but must be one array. Pad'
    f' them with {PAD}, as `linguistic.tag_ids(names)` does.'
  )


_KNOWN = {*range(TAGS), BOS, PAD}
