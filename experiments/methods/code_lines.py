"""Lines of a tiny language in which quotes and brackets have to be closed."""

from typing import Literal, NamedTuple

import numpy as np

TaskName = Literal['quotes', 'brackets']
LETTERS = 'abcdefgh'
# The first one begins each line, and the second ends it and fills it up.
NAMES = ['^', '\n', "'", '"', '[', ']', ',', *LETTERS]
NUMBER = {name: i for i, name in enumerate(NAMES)}
START, END = 0, 1
LONGEST = 5  # letters of a string or a list


class Prompts(NamedTuple):
  """Beginnings of lines, and the last of two tokens that might follow.

  Attributes:
    tokens: int32 ``[prompts, time]``, filled up.
    last: int32 ``[prompts]``, the place of the last token.
    right: int32 ``[prompts]``, the token that follows.
    wrong: int32 ``[prompts]``, the one that would follow in the other case.
  """

  tokens: np.ndarray
  last: np.ndarray
  right: np.ndarray
  wrong: np.ndarray


def lines(seed: int, count: int, time: int) -> np.ndarray:
  """Draws lines: strings in either quote, and lists of one depth or two."""
  rng = np.random.default_rng(seed)
  return np.stack([filled(line(rng), time) for _ in range(count)])


def line(rng: np.random.Generator) -> str:
  letters = rng.choice(list(LETTERS), rng.integers(1, LONGEST + 1))
  if rng.random() < 0.5:
    quote = rng.choice(["'", '"'])
    return f'{quote}{"".join(letters)}{quote}'
  depth = rng.integers(1, 3)
  return f'{"[" * depth}{",".join(letters)}{"]" * depth}'


def filled(text: str, time: int) -> np.ndarray:
  """Tokens of a line or of its beginning."""
  tokens = [START, *(NUMBER[x] for x in text)]
  return np.array(tokens + [END] * (time - len(tokens)), np.int32)


def prompts(task: TaskName, seed: int, count: int, time: int) -> Prompts:
  """Beginnings of lines up to where a quote or a second bracket may close.

  Both cases are there equally often, and differ in nothing but the quotes, or
  in whether there is one bracket at the beginning or two.
  """
  rng = np.random.default_rng(seed)
  found = []
  for number in range(count):
    letters = rng.choice(list(LETTERS), rng.integers(1, LONGEST + 1))
    case = number % 2
    if task == 'quotes':
      both = ("'", '"')
      text = both[case] + ''.join(letters)
    else:
      both = ('\n', ']')
      text = '[' * (1 + case) + ','.join(letters) + ']'
    right, wrong = NUMBER[both[case]], NUMBER[both[1 - case]]
    found.append((filled(text, time), len(text), right, wrong))
  parts = zip(*found, strict=True)
  return Prompts(*(np.asarray(part, np.int32) for part in parts))


def time_of_longest() -> int:
  """The tokens of the longest line, with its start and its end."""
  return 2 + 2 * 2 + 2 * LONGEST - 1
