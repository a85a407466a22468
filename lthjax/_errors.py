"""Errors that name everything that is wrong at once."""

import re
from collections.abc import Iterable

# A name, perhaps with a remark in parentheses.
_NAME = re.compile(r'\S+( \(.*\))?')


def refuse(
  faults: Iterable[str], sentence: str, error: type[Exception] = ValueError
) -> None:
  """Raises if there are faults; all of them replace ``{}`` in the sentence.

  Names are joined by commas, clauses by semicolons. The empty name, that of a
  tree that is a single array, reads "the array".
  """
  if found := [fault or 'the array' for fault in faults]:
    separator = ', ' if all(map(_NAME.fullmatch, found)) else '; '
    raise error(sentence.replace('{}', separator.join(found), 1))
