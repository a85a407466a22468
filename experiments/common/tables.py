"""Tables of results, for the terminal, for pages and for programs."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rich.table

from lthjax import files


class Table(NamedTuple):
  """A table for people."""

  heads: Sequence[str]
  rows: Sequence[Sequence[str]]
  caption: str = ''  # what the numbers are
  title: str = ''  # above the table in a terminal
  left: int = 1  # how many of the first columns are aligned to the left
  printed: int | None = None  # how many of them fit into a terminal


def for_terminal(table: Table) -> rich.table.Table:
  """A table as the terminal shows it."""
  out = rich.table.Table(title=table.title, caption=table.caption)
  for i, head in enumerate(table.heads[: table.printed]):
    justify = 'left' if i < table.left else 'right'
    head = head.replace('_', '\n').replace(' ', '\n', 1)
    out.add_column(head, justify=justify)
  for row in table.rows:
    out.add_row(*row[: table.printed])
  return out


def markdown(table: Table) -> str:
  """A table as a page has it, below its caption."""
  lines = [table.heads, ['---'] * len(table.heads), *table.rows]
  cells = ([cell.replace('|', '\\|') for cell in line] for line in lines)
  text = '\n'.join(f'| {" | ".join(line)} |' for line in cells)
  return f'{wrapped(table.caption)}\n\n{text}' if table.caption else text


def wrapped(text: str) -> str:
  """A paragraph in lines of 80; pictures stay on one."""
  if text.startswith('!['):
    return text
  return textwrap.fill(text, 80, break_on_hyphens=False)


def spread(values: Any, sign: str = '', digits: int = 2) -> str:
  """Mean and standard deviation of a sample; of one value, the value."""
  values = np.asarray(values, float)
  mean = f'{values.mean():{sign}.{digits}f}'
  if values.size < 2:
    return mean
  return f'{mean} ± {values.std(ddof=1):.{digits}f}'


def finite(value: Any) -> Any:
  """The same value with `None` for numbers that JSON does not have."""
  if isinstance(value, dict):
    return {name: finite(x) for name, x in value.items()}
  if isinstance(value, list | tuple):
    return [finite(x) for x in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes a table for programs; columns are those of all rows, in order."""
  text = io.StringIO()
  columns = list(dict.fromkeys(name for row in rows for name in row))
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  files.write_text(path, text.getvalue())


def write_jsonl(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
  """Writes one JSON object per line."""
  text = ''.join(json.dumps(finite(dict(x))) + '\n' for x in lines)
  files.write_text(path, text)
