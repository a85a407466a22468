"""Texts of words and tagged sentences, as tasks for language models."""

import collections
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from common import texts
from linguistics import corpus
from lthjax import linguistic
from lthjax.linguistic import Sentence

SPECIAL = ('<pad>', '<unk>', '<start>', '<mask>')
NOTHING = -1  # label of places where nothing is predicted
DomainName = Literal[texts.TextName, 'toy']
TreebankName = Literal['ewt', 'toy']
PARTS = ('train', 'validation', 'test')
# Words, numbers, marks of WikiText such as <unk> and @-@, and single signs.
_WORD = re.compile(r'<\w+>|@.@|\w+|[^\w\s]')
_TAGS = {tag: i for i, tag in enumerate(linguistic.UPOS)}
_MOST = 500_000  # words of a text


class Part(NamedTuple):
  """Sequences, with what is to be predicted at each of their places.

  Attributes:
    tokens: int32 ``[sequences, time]``.
    labels: int32 ``[sequences, time]``; -1 where nothing is predicted.
  """

  tokens: Any
  labels: Any


class Task(NamedTuple):
  """What a network learns: words of a text, or a class for some places.

  Attributes:
    name: of the task.
    classes: how many there are; 0 if the network predicts words.
    train: sequences to train on.
    validation: others.
    test: others.
  """

  name: str
  classes: int
  train: Part
  validation: Part
  test: Part


class Marks(NamedTuple):
  """Numbers of the tokens that are no words."""

  pad: int = 0
  unknown: int = 1
  start: int = 2
  mask: int = 3


class Words(NamedTuple):
  """A vocabulary of words in small letters; all others are unknown.

  Attributes:
    ids: the number of each word.
    marks: the numbers of those that are no words.
    pieces: whether words that are unknown may consist of known pieces, of which
      all but the first begin with ``##``.
  """

  ids: Mapping[str, int]
  marks: Marks = Marks()
  pieces: bool = False

  @property
  def size(self) -> int:
    return len(self.ids)

  def spell(self, word: str) -> list[int]:
    """The tokens of a word: one, or the longest pieces from its start on."""
    if word in self.ids or not self.pieces:
      return [self.ids.get(word, self.marks.unknown)]
    found, start = [], 0
    while start < len(word):
      head = '##' if start else ''
      ends = range(len(word), start, -1)
      end = next((x for x in ends if head + word[start:x] in self.ids), None)
      if end is None:
        return [self.marks.unknown]
      found.append(self.ids[head + word[start:end]])
      start = end
    return found

  def encode(self, words: Iterable[str]) -> list[int]:
    return [token for word in words for token in self.spell(word)]


def words_of(text: str, most: int = _MOST) -> list[str]:
  """Cuts the start of a text into words in small letters."""
  found = _WORD.findall(text[: 8 * most].lower())
  return found[:most]


def read_text(name: DomainName) -> dict[str, list[str]]:
  """The words of the parts of a text."""
  if name == 'toy':
    splits = corpus.load('toy', 16, None)
    return {
      part: [form.lower() for s in splits[old] for form in s.forms]
      for part, old in zip(PARTS, ('train', 'dev', 'test'), strict=True)
    }
  text = texts.load(name)
  return dict(zip(PARTS, map(words_of, text), strict=True))


def vocabulary(sources: Sequence[Iterable[str]], size: int) -> Words:
  """The most frequent words of several texts, each of equal weight."""
  shares: collections.Counter[str] = collections.Counter()
  for words in sources:
    counts = collections.Counter(words)
    total = counts.total()
    shares.update({word: n / total for word, n in counts.items()})
  known = [word for word, _ in shares.most_common() if word not in SPECIAL][
    : size - len(SPECIAL)
  ]
  return Words({word: i for i, word in enumerate((*SPECIAL, *known))})


def text_task(
  name: str, parts: Mapping[str, Sequence[str]], words: Words, time: int
) -> Task:
  """Words to predict, in sequences that follow one another."""
  made = []
  for part in PARTS:
    ids = np.asarray(words.encode(parts[part]), np.int32)
    count = len(ids) // time
    if not count:
      raise ValueError(
        f'time was {time}, but the {part} part of {name} has {len(ids)} words.'
        ' Take shorter sequences.'
      )
    rows = ids[: count * time].reshape(count, time)
    made.append(Part(rows, rows))
  return Task(name, 0, *made)


def read_treebank(name: TreebankName, time: int) -> dict[str, list[Sentence]]:
  """Tagged sentences that fit, by part."""
  splits = corpus.load(name, time, None)
  return dict(
    zip(PARTS, (splits[x] for x in ('train', 'dev', 'test')), strict=True)
  )


def tagging_task(
  name: str, parts: Mapping[str, Sequence[Sentence]], words: Words, time: int
) -> Task:
  """The universal part of speech of each word."""
  made = []
  for part in PARTS:
    rows, labels = [], []
    for sentence in parts[part]:
      row, tags = [words.marks.start], [NOTHING]
      for form, token in zip(lowered(sentence), sentence.tokens, strict=True):
        spelled = words.spell(form)
        # The first piece of a word has its tag.
        row += spelled
        tags += [_TAGS[token.upos]] + [NOTHING] * (len(spelled) - 1)
      rows.append(row)
      labels.append(tags)
    made.append(
      Part(padded(rows, time, words.marks.pad), padded(labels, time, NOTHING))
    )
  return Task(name, len(_TAGS), *made)


def lowered(sentence: Sentence) -> Iterator[str]:
  return (form.lower() for form in sentence.forms)


def padded(rows: Sequence[Sequence[int]], time: int, fill: int) -> np.ndarray:
  """Rows of equal length: those that are longer are cut, others filled up."""
  out = np.full((len(rows), time), fill, np.int32)
  for row, ids in zip(out, rows, strict=True):
    row[: min(len(ids), time)] = ids[:time]
  return out
