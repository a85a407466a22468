"""Sentences as arrays: words, tags, and several sentences packed into a row."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common import texts as plain
from linguistics import texts
from lthjax import linguistic as lg
from lthjax.linguistic import Sentence, Token

BOS, UNKNOWN = 0, 1  # words; tags are those of `lthjax.linguistic`


class Split(NamedTuple):
  """Sentences, one per row: ``<bos>``, words, padding.

  Attributes:
    sentences: of the treebank.
    tokens: int32 ``[sentences, time]``.
    tags: ``{source: int32[sentences, time]}``.
  """

  sentences: Sequence[Sentence]
  tokens: np.ndarray
  tags: dict[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.sentences)

  @property
  def lengths(self) -> np.ndarray:
    """Places of each sentence, ``<bos>`` included."""
    return np.array([len(s.tokens) + 1 for s in self.sentences])


class Packing(NamedTuple):
  """Where each sentence is once several of them share a row.

  Attention of a row is closed between sentences, and positions count from the
  start of each, so that a sentence does not notice the others.
  """

  rows: np.ndarray  # of each sentence
  starts: np.ndarray
  lengths: np.ndarray
  shape: tuple[int, int]

  def pack(self, values: np.ndarray, fill: int = 0) -> np.ndarray:
    """Packs ``[sentences, time]``."""
    out = np.full(self.shape, fill, values.dtype)
    places = zip(self.rows, self.starts, self.lengths, strict=True)
    for (row, start, length), x in zip(places, values, strict=True):
      out[row, start : start + length] = x[:length]
    return out

  def segments(self) -> np.ndarray:
    """Number of the sentence at each place; -1 where there is none."""
    numbers = np.arange(len(self.rows), dtype=np.int32)
    each = np.repeat(numbers[:, None], self.shape[1], 1)
    return self.pack(each, -1)

  def places(self) -> np.ndarray:
    """Places in their sentences."""
    each = np.arange(self.shape[1], dtype=np.int32)
    return self.pack(np.repeat(each[None], len(self.rows), 0))

  def pack_edges(self, edges: np.ndarray) -> np.ndarray:
    """Packs bools ``[sentences, time, time]`` as bits ``[rows, time, .]``."""
    count, time = self.shape
    out = np.zeros((count, time, time), bool)
    places = zip(self.rows, self.starts, self.lengths, strict=True)
    for (row, start, length), x in zip(places, edges, strict=True):
      where = slice(start, start + length)
      out[row, where, where] = x[:length, :length]
    return np.packbits(out, axis=-1, bitorder='little')


def packed(lengths: np.ndarray, time: int, rows: int | None = None) -> Packing:
  """Fills rows with sentences, the longest first; or exactly so many rows."""
  row, start = np.zeros((2, len(lengths)), np.int32)
  room: list[list[int]] = [[] for _ in range(time + 1)]
  used = 0
  for i in np.argsort(-lengths, kind='stable'):
    length = int(lengths[i])
    free = next((r for r in range(length, time + 1) if room[r]), None)
    if free is None:
      row[i], free, used = used, time, used + 1
    else:
      row[i] = room[free].pop()
    start[i] = time - free
    room[free - length].append(int(row[i]))
  if rows is not None and used > rows:
    raise ValueError(f'{used} rows do not fit into {rows}.')
  return Packing(row, start, lengths, (used if rows is None else rows, time))


class Vocabulary(NamedTuple):
  """The most frequent words in small letters; others are unknown."""

  words: dict[str, int]

  def encode(self, sentences: Sequence[Sentence], time: int) -> np.ndarray:
    out = np.zeros((len(sentences), time), np.int32)
    for row, sentence in zip(out, sentences, strict=True):
      found = [self.words.get(x.lower(), UNKNOWN) for x in sentence.forms]
      row[1 : len(found) + 1] = found
    return out


def vocabulary(sentences: Sequence[Sentence], size: int) -> Vocabulary:
  """The words of the training sentences, by how frequent they are."""
  counts = collections.Counter(x.lower() for s in sentences for x in s.forms)
  common = [word for word, _ in counts.most_common(size - 2)]
  return Vocabulary({word: i + 2 for i, word in enumerate(common)})


class Corpus(NamedTuple):
  """Training, validation and test sentences with the words they know."""

  train: Split
  dev: Split
  test: Split
  words: Vocabulary
  time: int


Predict = Callable[[Sequence[Sentence]], list[list[str]]]


def build(
  splits: Mapping[str, Sequence[Sentence]],
  size: int,
  time: int,
  predict: Predict | None,
  tagged: Sequence[Sentence] | None = None,
) -> Corpus:
  """Encodes splits, with the tags of all sources that there are.

  Most frequent tags come from the training sentences, or from others that are
  ``tagged``, where those have no tags.
  """
  words = vocabulary(splits['train'], size)
  known, gold = words.words.keys(), tagged is None
  types = lg.type_tags(tagged or splits['train'], known, lowercase=True)
  made = {
    name: _split(each, words, time, types, predict, gold)
    for name, each in splits.items()
  }
  return Corpus(**made, words=words, time=time)


def _split(sentences, words, time, types, predict, gold) -> Split:
  sources: dict[str, Any] = {}
  if gold:
    sources['gold'] = lg.tags_from('gold', sentences)
  sources['type'] = lg.tags_from('type', sentences, types=types)
  if predict is not None:
    guessed = predict(sentences)
    sources['causal'] = lg.tags_from('causal', sentences, predicted=guessed)
  tags = {k: lg.tag_ids(x, length=time) for k, x in sources.items()}
  return Split(sentences, words.encode(sentences, time), tags)


def fitting(sentences: Sequence[Sentence], time: int) -> list[Sentence]:
  """Sentences of four words or more that fit into a row after ``<bos>``."""
  return [s for s in sentences if 4 <= len(s.tokens) < time]


def some(sentences: Sequence[Any], count: int, seed: int = 0) -> list[Any]:
  """So many of them, or all, in their order."""
  order = np.random.default_rng(seed).permutation(len(sentences))[:count]
  return [sentences[i] for i in sorted(order)]


def load(
  dataset: str, time: int, validation: int | None
) -> dict[str, list[Sentence]]:
  """Sentences of a data set; those of WikiText-2 have no tags."""
  if dataset == 'toy':
    drawn = toy(1400)
    ends = {'train': (0, 1000), 'dev': (1000, 1200), 'test': (1200, 1400)}
    splits = {k: [*drawn[i:j]] for k, (i, j) in ends.items()}
  elif dataset == 'wikitext2':
    splits = {k: pieces(k, time) for k in ('train', 'dev', 'test')}
  else:
    splits = {
      k: fitting(texts.treebank(k), time) for k in ('train', 'dev', 'test')
    }
  splits['dev'] = some(splits['dev'], validation or 512)
  return splits


def pieces(split: str, time: int) -> list[Sentence]:
  """WikiText-2 in pieces as long as a row, each as one sentence."""
  found = plain.load('wikitext2')
  text = {'train': found.train, 'dev': found.validation, 'test': found.test}
  words = [
    word
    for line in text[split].split('\n')
    for word in [*line.split(), '<eos>']
  ]
  size = time - 1
  return [
    Sentence(f'{split}-{i}', tuple(map(Token, words[i : i + size])))
    for i in range(0, len(words) - size + 1, size)
  ]


_LEXICON = {
  'DET': 'the a this every',
  'NOUN': 'dog cat bird house river stone idea teacher letter garden',
  'VERB': 'sees finds carries likes breaks writes',
  'ADJ': 'old small green quick heavy',
  'ADV': 'often rarely now',
  'ADP': 'in on under near',
  'PRON': 'she he it himself herself',
  'PROPN': 'Kim Lee Ada',
  'PUNCT': '. !',
}


@functools.cache
def toy(count: int, seed: int = 0) -> tuple[Sentence, ...]:
  """Sentences of a small grammar, made on the spot, with tags and heads."""
  rng = np.random.default_rng(seed)
  return tuple(_toy_sentence(rng, f'toy-{i}') for i in range(count))


def _toy_sentence(rng: np.random.Generator, name: str) -> Sentence:
  tokens: list[list[Any]] = []  # heads may be named until they are there

  def word(tag, head, deprel):
    form = str(rng.choice(_LEXICON[tag].split()))
    tokens.append([form, form.lower(), tag, head, deprel])

  def phrase(head, deprel):
    kind = rng.integers(4)
    if kind > 1:  # Its noun comes after a determiner and perhaps an adjective.
      noun = len(tokens) + kind
      word('DET', noun, 'det')
      if kind == 3:
        word('ADJ', noun, 'amod')
      word('NOUN', head, deprel)
    else:
      word('PRON' if kind else 'PROPN', head, deprel)

  phrase('verb', 'nsubj')
  if rng.integers(2):
    word('ADV', 'verb', 'advmod')
  verb = len(tokens) + 1
  word('VERB', 0, 'root')
  phrase(verb, 'obj')
  if rng.integers(2):
    noun_after = len(tokens)
    word('ADP', 'next', 'case')
    phrase(verb, 'obl')
    tokens[noun_after][3] = len(tokens)
  word('PUNCT', verb, 'punct')
  return Sentence(
    name,
    tuple(
      Token(form, lemma, tag, {}, verb if head == 'verb' else head, deprel)
      for form, lemma, tag, head, deprel in tokens
    ),
  )
