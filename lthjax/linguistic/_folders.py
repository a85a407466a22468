"""Folders of lexicons, which the package does not hold."""

import os
import pathlib
from typing import Any

from lthjax import _checks


def find(path: Any, variable: str, what: str) -> pathlib.Path:
  """Returns an existing path: the argument, or else that of a variable."""
  if path is not None and not isinstance(path, str | os.PathLike):
    raise _checks.wrong_type('path', path, 'be a path or None')
  given = os.fspath(path) if path is not None else os.environ.get(variable)
  if not given:
    raise FileNotFoundError(
      f'There is no path to {what}. Pass one, or set {variable}.'
    )
  found = pathlib.Path(given).expanduser()
  if not found.exists():
    raise FileNotFoundError(
      f'{found} does not exist, but must hold {what}. Pass another path, or set'
      f' {variable}.'
    )
  return found
