"""Text tables."""

from collections.abc import Sequence


def write(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> str:
  """Writes a table: names to the left, numbers to the right."""
  texts = [
    [printable(x) if isinstance(x, str) else f'{x:,}' for x in row]
    for row in (header, *rows)
  ]
  widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
  lines = []
  for first, *others in texts:
    cells = [first.ljust(widths[0])]
    cells += [x.rjust(w) for x, w in zip(others, widths[1:], strict=True)]
    lines.append('  '.join(cells).rstrip())
  return '\n'.join(lines)


def printable(text: str) -> str:
  """Spells out control characters, such as a terminal's escapes."""
  if text.isprintable():
    return text
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)
