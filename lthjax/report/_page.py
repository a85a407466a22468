"""A report as one page for a browser.

The page is one file: style, script and picture are inside, and its security
policy forbids the browser to fetch anything.
"""

import base64
import html as html_lib
import importlib.resources
import math
import os
import struct
import zlib

import numpy as np

from lthjax import _checks, files
from lthjax.evaluation import Evaluation, LanguageEvaluation
from lthjax.report import _evaluation, _language, _tables
from lthjax.report._capacity import Capacity

# Dark to bright, perceptually even; the same as in page.css.
_COLORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98))
_COLORS += ((253, 231, 37),)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';\
 img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
<script>
{script}</script>
</body>
</html>
"""


def html(
  found: Capacity | Evaluation | LanguageEvaluation,
  *,
  title: str | None = None,
) -> str:
  """Writes a report as a page that needs no other file.

  Args:
    found: what `lthjax.report.capacity`, `lthjax.evaluation.evaluate` or
      `lthjax.evaluation.evaluate_language` returned.
    title: heading of the page; by default, what the report is about.

  Returns:
    A whole HTML document: tables that sort by a click on their header, and a
    picture of the inputs. It follows the light or dark setting of the browser.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'fc': jnp.array([[True, False]])}
    >>> page = lth.report.html(lth.report.capacity(masks), title='a < b')
    >>> '<h1>a &lt; b</h1>' in page
    True
  """
  if isinstance(found, Evaluation):
    parts = _evaluation.headline(found), _evaluation.tables(found)
    usual, body = 'Beside accuracy', _of_tables(*parts)
  elif isinstance(found, LanguageEvaluation):
    parts = _language.headline(found), _language.tables(found)
    usual, body = 'Beside perplexity', _of_tables(*parts)
  else:
    _tables.check(found)
    usual, body = 'Where capacity lives', _of_capacity(found)
  title = usual if title is None else _checks.text('title', title)
  return _PAGE.format(
    title=_escape(title),
    style=_resource('page.css'),
    script=_resource('page.js'),
    body='\n'.join(filter(None, body)),
  )


def write_html(
  path: str | os.PathLike[str],
  found: Capacity | Evaluation | LanguageEvaluation,
  *,
  title: str | None = None,
) -> None:
  """Writes the page of `html` to a file, which appears whole or not at all.

  Args:
    path: the file, which is replaced if it exists; its parents are made.
    found: what `lthjax.report.capacity`, `lthjax.evaluation.evaluate` or
      `lthjax.evaluation.evaluate_language` returned.
    title: heading of the page; by default, what the report is about.

  Raises:
    OSError: if it cannot be written; an earlier file stays as it was.

  Example:
    >>> import pathlib, tempfile
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> found = lth.report.capacity({'fc': jnp.array([[True, False]])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   lth.report.write_html(f'{folder}/report.html', found)
    ...   pathlib.Path(folder, 'report.html').read_text()[:15]
    '<!doctype html>'
  """
  files.write_text(path, html(found, title=title))


def _of_capacity(found: Capacity) -> list[str]:
  body = [
    _headline(_tables.headline(found)),
    _section('Layers', _table(_tables.layers(found))),
    _inputs(found),
  ]
  if (movement := _tables.movement(found)) is not None:
    body.append(_section('Movement', _table(movement)))
  if overlaps := _tables.overlap(found):
    first, *others = (_table(x, matrix=True) for x in overlaps)
    details = f'<details><summary>By layer</summary>{"".join(others)}</details>'
    body.append(_section('Overlap', first + details))
  return body


def _of_tables(headline: str, tables: list[_tables.Table]) -> list[str]:
  return [_headline(headline), *(_section(x.title, _table(x)) for x in tables)]


def _headline(text: str) -> str:
  return f'<p class="headline">{_escape(text)}</p>'


def _section(title: str, *parts: str) -> str:
  name = title.lower().replace(' ', '-')
  inside = '\n'.join(parts)
  return (
    f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n'
    f'{inside}\n</section>'
  )


def _table(table: _tables.Table, *, matrix: bool = False) -> str:
  """Returns a table in a box that scrolls on narrow screens."""
  title, caption = _escape(table.title), _escape(table.caption)
  if matrix:  # Several stand under one heading.
    caption = f'<strong>{title}.</strong> {caption}'
  head = ''.join(
    f'<th scope="col">{name if matrix else _button(name)}</th>'
    for name in map(_escape, table.header)
  )
  rows = '\n'.join(f'<tr>{_row(row)}</tr>' for row in table.rows)
  total = ''
  if table.total is not None:
    total = f'<tfoot><tr>{_row(table.total)}</tr></tfoot>\n'
  return (
    f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">\n'
    f'<table{" class=matrix" if matrix else ""}>\n'
    f'<caption>{caption}</caption>\n'
    f'<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n{total}'
    '</table>\n</div>'
  )


def _button(name: str) -> str:
  return f'<button type="button">{name}</button>'


def _row(row: tuple[_tables.Cell, ...]) -> str:
  first, *others = row
  return f'<th scope="row">{_escape(first.text)}</th>' + ''.join(
    map(_cell, others)
  )


def _cell(cell: _tables.Cell) -> str:
  attributes = ''
  if cell.value is not None and not math.isnan(cell.value):
    # JavaScript spells infinity this way.
    value = repr(cell.value).replace('inf', 'Infinity')
    attributes += f' data-value="{value}"'
  if cell.share is not None:
    attributes += f' class="share" style="--share: {cell.share:.4f}"'
  return f'<td{attributes}>{_escape(cell.text)}</td>'


def _inputs(found: Capacity) -> str:
  """Returns the map of the inputs with its caption and scale."""
  words = _tables.inputs(found)
  if words is None or found.saliency is None:
    return ''
  counts = _tables.picture(found.saliency)
  data = base64.b64encode(_png(counts)).decode()
  height, width = counts.shape
  return _section(
    'Inputs',
    f'<figure>\n<img src="data:image/png;base64,{data}" width="{width}"'
    f' height="{height}" alt="Map of the inputs. {_escape(words)}">',
    f'<div class="scale" aria-hidden="true"><span>0</span><i></i>'
    f'<span>{counts.max():,.16g}</span></div>',
    f'<figcaption>{_escape(words)}</figcaption>\n</figure>',
  )


def _png(counts: np.ndarray) -> bytes:
  """Encodes counts as a PNG with a palette, one pixel each."""
  stops = np.linspace(0, 255, len(_COLORS))
  palette = [np.interp(np.arange(256), stops, x) for x in np.transpose(_COLORS)]
  pixels = np.rint(255 * (counts / max(counts.max(), 1))).astype(np.uint8)
  # Every line begins with its filter: 0 for none.
  lines = b''.join(b'\0' + line.tobytes() for line in pixels)

  def chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return (
      struct.pack('>I', len(data)) + kind + data + struct.pack('>I', checksum)
    )

  # Eight bits per pixel, color type 3: indices into the palette.
  height, width = counts.shape
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', struct.pack('>2I5B', width, height, 8, 3, 0, 0, 0))
    + chunk(b'PLTE', np.rint(palette).astype(np.uint8).T.tobytes())
    + chunk(b'IDAT', zlib.compress(lines, 9))
    + chunk(b'IEND', b'')
  )


def _escape(text: str) -> str:
  return html_lib.escape(text, quote=True)


def _resource(name: str) -> str:
  """Reads a file of the package."""
  folder = importlib.resources.files('lthjax.report')
  return folder.joinpath(name).read_text(encoding='utf-8')
