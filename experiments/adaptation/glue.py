"""Folders of tasks in tables, as those of GLUE: one class for each row."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adaptation.tasks import NOTHING, Part, Task, Words, padded, words_of

LABELS = ('label', 'gold_label', 'quality', 'is_duplicate')
TEXTS = (
  ('sentence1', 'sentence2'),
  ('question1', 'question2'),
  ('question', 'sentence'),
  ('premise', 'hypothesis'),
  ('#1 string', '#2 string'),
  ('sentence',),
  ('text',),
)
FILES = ('train.tsv', 'dev.tsv')
HELD_OUT = 10  # One training row of so many is for validation.
KNOWN = 0.5  # share of the words of a task that a vocabulary must have


class Row(NamedTuple):
  """An example."""

  texts: tuple[str, ...]
  label: str


def read(folder: Path, words: Words, time: int) -> list[Task]:
  """Reads every folder with the files train.tsv and dev.tsv; dev is to test.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if a file lacks the columns, or if its words are not those of
      the vocabulary.
  """
  return [task(path, words, time) for path in folders(folder)]


def names(folder: Path) -> list[str]:
  """The names of the tasks of a folder."""
  return [path.name for path in folders(folder)]


def folders(folder: Path) -> list[Path]:
  """The folders of the tasks."""
  folder = folder.expanduser()
  found = [
    path
    for path in sorted(folder.glob('*/'))
    if all((path / name).is_file() for name in FILES)
  ]
  if not found:
    raise FileNotFoundError(
      f'{folder} has no folder with the files {" and ".join(FILES)}. Give the'
      ' folder that holds those of the tasks.'
    )
  return found


def task(folder: Path, words: Words, time: int) -> Task:
  """The task of one folder."""
  known, test = (rows(folder / name) for name in FILES)
  names = sorted({row.label for row in known})
  if len(names) < 2:
    raise ValueError(
      f'{folder / FILES[0]} has {len(names)} labels, but a task needs two or'
      ' more.'
    )
  if new := sorted({row.label for row in test} - set(names)):
    raise ValueError(
      f'{folder / FILES[1]} has the labels {", ".join(new)}, which'
      f' {FILES[0]} does not have. Give files of one task.'
    )
  check_vocabulary(folder / FILES[0], known, words)
  held = known[::HELD_OUT]
  rest = [row for i, row in enumerate(known) if i % HELD_OUT]
  made = (part(x, names, words, time) for x in (rest, held, test))
  return Task(folder.name, len(names), *made)


def rows(path: Path) -> list[Row]:
  """Reads a table with a head."""
  with path.open(encoding='utf-8', newline='') as file:
    lines = [line.rstrip('\r\n').split('\t') for line in file]
  head = [name.strip().lower() for name in (lines or [[]])[0]]
  texts = next((x for x in TEXTS if set(x) <= set(head)), None)
  label = next((x for x in LABELS if x in head), None)
  if texts is None or label is None:
    options = ', '.join(' and '.join(x) for x in TEXTS)
    raise ValueError(
      f'{path} has the columns {", ".join(head) or "none"}, but needs one of'
      f' {", ".join(LABELS)} for the class, and for the text one of: {options}.'
      ' Name them in its first line.'
    )
  places = [head.index(name) for name in texts]
  found = []
  for number, line in enumerate(lines[1:], 2):
    if len(line) != len(head):
      raise ValueError(
        f'{path} has {len(line)} columns in line {number}, but {len(head)} in'
        ' its first one.'
      )
    found.append(Row(tuple(line[i] for i in places), line[head.index(label)]))
  if len(found) < HELD_OUT:
    raise ValueError(
      f'{path} has {len(found)} examples, but needs {HELD_OUT} or more.'
    )
  return found


def check_vocabulary(path: Path, rows: Sequence[Row], words: Words) -> None:
  """Raises if more than half of the words are unknown."""
  ids = words.encode(_words(rows))
  unknown = float(np.mean([x == words.marks.unknown for x in ids]))
  if unknown > 1 - KNOWN:
    raise ValueError(
      f'The vocabulary does not fit: of the words of {path},'
      f' {100 * unknown:.0f} % are not among its {words.size:,}. Raise'
      ' --vocabulary, or give a pretrained encoder for this language.'
    )


def part(
  rows: Sequence[Row], names: Sequence[str], words: Words, time: int
) -> Part:
  """Texts behind a mark each; the label is at the first."""
  tokens, start = [], words.marks.start
  for row in rows:
    # Of two texts, both lose their ends.
    room = time // len(row.texts)
    tokens.append(
      [
        x
        for text in row.texts
        for x in [start, *words.encode(words_of(text))][:room]
      ]
    )
  labels = np.full((len(rows), time), NOTHING, np.int32)
  labels[:, 0] = [names.index(row.label) for row in rows]
  return Part(padded(tokens, time, words.marks.pad), labels)


def _words(rows: Sequence[Row]) -> Iterator[str]:
  for row in rows:
    for text in row.texts:
      yield from words_of(text)
