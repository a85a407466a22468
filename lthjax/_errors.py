"""Errors that name everything that is wrong at once."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# A name, perhaps with a remark in parentheses.
_NAME = re.compile(r'\S+( \(.*\))?')


def refuse(
  faults: Iterable[str], sentence: str, error: type[Exception] = ValueError
) -> None:
  """Raises if there are faults; all of them replace ``{}`` in the sentence.

  Names are joined by commas, clauses by semicolons. The empty name, that of a
  tree that is a single array, reads "the array".
  """
  if found := list(faults):
    names = all(not fault or _NAME.fullmatch(fault) for fault in found)
    listed = (', ' if names else '; ').join(x or 'the array' for x in found)
    raise error(sentence.replace('{}', listed, 1))


def differences(
  there: Mapping[str, Any], here: Mapping[str, Any], where: str = 'here'
) -> list[str]:
  """Describes the entries in which two tables differ, in order of names."""
  return [
    f'{name or "the array"}: {there.get(name, "nothing")} there,'
    f' {here.get(name, "nothing")} {where}'
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  ]
