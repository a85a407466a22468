"""Texts to train and test language models on, and their tokens."""

import gzip
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lthjax import files

TextName = Literal[
  'tinyshakespeare', 'wikitext2', 'ud_english_ewt', 'python_manual'
]
FOLDER = 'LTHJAX_TEXT_DIR'


class Splits(NamedTuple):
  """A text in three parts."""

  train: str
  validation: str
  test: str


class Tokens(NamedTuple):
  """The tokens of a text, as int32 ``[tokens]``, and how they are read."""

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  vocabulary: int
  encode: Callable[[str], list[int]]
  decode: Callable[[Sequence[int]], str]


def folder() -> Path:
  """Where texts are: LTHJAX_TEXT_DIR, or `text` beside TFDS_DATA_DIR."""
  if given := os.environ.get(FOLDER):
    return files.local_path(given)
  images = os.environ.get('TFDS_DATA_DIR', '')
  return files.local_path(images).parent / 'text' if images else Path('text')


def load(name: TextName) -> Splits:
  """Reads a text; raises `FileNotFoundError` where it is not.

  The manual of Python comes with Python, as digits come with scikit-learn.
  """
  if name == 'python_manual':
    topics = importlib.import_module('pydoc_data.topics').topics
    # Printable ASCII, so that the vocabulary is small.
    text = '\n'.join(topics[key] for key in sorted(topics))
    return _cut(''.join(x for x in text if x == '\n' or ' ' <= x <= '~'))
  if name == 'tinyshakespeare':
    return _cut(_read('tinyshakespeare/input.txt.gz'))
  if name == 'wikitext2':
    parts = ('train', 'valid', 'test')
    return Splits(*(_read(f'wikitext-2/wiki.{x}.tokens.gz') for x in parts))
  parts = ('train', 'dev', 'test')
  return Splits(*(_sentences(f'en_ewt-ud-{x}.conllu.gz') for x in parts))


def _read(name: str) -> str:
  path = folder() / name
  if not path.exists():
    raise FileNotFoundError(
      f'{path} is not there. Put it there, set {FOLDER} to the folder that has'
      f' {name}, or take --text python_manual, which comes with Python.'
    )
  with gzip.open(path, 'rt', encoding='utf-8') as file:
    return file.read()


def _sentences(name: str) -> str:
  """The sentences of a treebank as they were written, in one line."""
  head = '# text = '
  lines = _read(f'ud_english_ewt/{name}').splitlines()
  return ' '.join(x.removeprefix(head) for x in lines if x.startswith(head))


def _cut(text: str) -> Splits:
  """The first 90 % to train, then 5 % to validate and 5 % to test."""
  first, second = len(text) * 90 // 100, len(text) * 95 // 100
  return Splits(text[:first], text[first:second], text[second:])


def characters(text: Splits) -> Tokens:
  """One token per character."""
  names = sorted(set().union(*text))
  number = {name: i for i, name in enumerate(names)}

  def encode(part):
    return [number[x] for x in part]

  return _tokens(
    text, len(names), encode, lambda ids: ''.join(names[i] for i in ids)
  )


def words(text: Splits) -> Tokens:
  """One token per word, and one for the end of each line."""
  end = '<eos>'

  def parts_of(part):
    lines = part.removesuffix('\n').split('\n')
    return [word for line in lines for word in (*line.split(), end)]

  names = sorted(set().union(*map(parts_of, text)))
  number = {name: i for i, name in enumerate(names)}

  def encode(part):
    return [number[x] for x in parts_of(part)]

  return _tokens(
    text, len(names), encode, lambda ids: ' '.join(names[i] for i in ids)
  )


def by_tokenizer(
  text: Splits, tokenizer: Any, vocabulary: int, most: int
) -> Tokens:
  """Tokens of a `tokenizers.Tokenizer`, of the start of each part."""

  def encode(part):
    return tokenizer.encode(part).ids

  shorter = Splits(*(part[:most] for part in text))
  return _tokens(shorter, vocabulary, encode, tokenizer.decode)


def _tokens(text, vocabulary, encode, decode) -> Tokens:
  train, validation, test = (np.asarray(encode(x), np.int32) for x in text)
  return Tokens(train, validation, test, vocabulary, encode, decode)
