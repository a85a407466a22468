"""Encoders that others have pretrained: folders of Hugging Face."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from adaptation.tasks import Marks, Words
from lthjax import models

VOCABULARY = 'vocab.txt'
MARKS = ('[PAD]', '[UNK]', '[CLS]', '[MASK]')


class Pretrained(NamedTuple):
  """An encoder and its vocabulary."""

  config: models.BertConfig
  params: Any
  words: Words


def find(name: str) -> Path:
  """A folder, or the one with an encoder in an installed package."""
  path = Path(name).expanduser()
  if path.is_dir():
    return path
  spec = None
  if name.isidentifier():
    spec = importlib.util.find_spec(name)
  for root in (spec and spec.submodule_search_locations) or ():
    for config in sorted(Path(root).rglob('config.json')):
      if (config.parent / VOCABULARY).is_file():
        return config.parent
  raise FileNotFoundError(
    f'{name} is neither a folder nor an installed package with config.json and'
    f' {VOCABULARY}. Leave --pretrained out to train a small encoder.'
  )


def load(name: str, time: int) -> Pretrained:
  """Loads an encoder; raises where vocabulary or length do not fit it."""
  folder = find(name)
  config, params = models.load_hf(folder)
  if not isinstance(config, models.BertConfig):
    raise ValueError(
      f'{folder} has a decoder, but must have an encoder (BERT).'
    )
  words = read_vocabulary(folder / VOCABULARY)
  if words.size > config.vocabulary:
    raise ValueError(
      f'The vocabulary does not fit: {folder / VOCABULARY} has {words.size:,}'
      f' tokens, but the encoder {config.vocabulary:,}. Give the files of one'
      ' model.'
    )
  if time > config.context:
    raise ValueError(
      f'time was {time}, but the encoder has {config.context} positions. Take'
      ' shorter sequences.'
    )
  return Pretrained(config, params, words)


def read_vocabulary(path: Path) -> Words:
  """Reads pieces of words, one per line."""
  pieces = path.read_text(encoding='utf-8').splitlines()
  ids = {piece: i for i, piece in enumerate(pieces)}
  if missing := [mark for mark in MARKS if mark not in ids]:
    raise ValueError(f'{path} lacks {", ".join(missing)}, which BERT has.')
  return Words(ids, Marks(*(ids[mark] for mark in MARKS)), pieces=True)
