"""What the site needs beyond Sphinx: pages of names, links, examples."""

import pathlib
import re
from typing import Any

import gallery
import names

# Links to files and folders without a page of their own, by page.
FOLDERS = {'](notebooks)': '](docs/notebooks.md)'}


def write_sources(app: Any) -> None:
  """Writes the pages that are generated."""
  names.write_pages()
  path = names.DOCS / 'gallery.md'
  text = gallery.page()
  if not path.exists() or path.read_text() != text:
    path.write_text(text)


def read_source(app: Any, docname: str, source: list[str]) -> None:
  """Expands lists of names, and sends links to folders to their pages."""
  text = source[0]
  if docname.startswith('docs/tasks/'):
    text = names.tables(text)
  if docname == 'README':
    for old, new in FOLDERS.items():
      text = text.replace(old, new)
  source[0] = text


def add_example(
  app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
  """Adds the example of another name where a docstring has none."""
  lines[:] = _with_tables(lines)
  example = names.examples().get(name)
  if example is None or example.source == name:
    return
  page = example.source.startswith('/')
  role = 'doc' if page else 'py:obj'
  target = str(pathlib.Path(example.source).with_suffix('')) if page else ''
  lines += ['', f'.. rubric:: Example of :{role}:`{target or example.source}`']
  if example.lines:
    lines += ['', '.. code-block:: python', '']
    lines += [f'   {line}' for line in example.lines]
  lines.append('')


def _with_tables(lines: list[str]) -> list[str]:
  """Returns a docstring with tables of Markdown as those of Sphinx.

  A row whose first cell is empty continues the row above it.
  """
  found: list[str] = []
  rows: list[list[str]] = []
  for line in [*lines, '']:
    if line.startswith('|'):
      cells = [cell.strip() for cell in line.strip('|').split(' | ')]
      if line.startswith('|-'):
        continue
      if cells[0]:
        rows.append(cells)
      else:
        rows[-1] = [f'{a} {b}' for a, b in zip(rows[-1], cells, strict=True)]
      continue
    if rows:
      found += ['.. list-table::', '   :header-rows: 1', '']
      for cells in rows:
        marks = ['   * - ', *['     - '] * (len(cells) - 1)]
        found += [a + b for a, b in zip(marks, cells, strict=True)]
      found.append('')
      rows = []
    found.append(line)
  return found[:-1]


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
  """Resolves what Sphinx could not; literals for what is not ours.

  Types of other libraries have no page where their inventories cannot be read,
  and single backticks are code which may or may not be a name. A reference to
  lthjax that means nothing stays an error.
  """
  if node.get('refdomain') != 'py':
    return None
  target = node.get('reftarget', '')
  module = node.get('py:module') or 'lthjax'
  paths = [target, f'{module}.{target}', f'lthjax.{target}']
  for path in paths:
    if path.startswith(('lth.', 'lthjax.')) and (name := names.canonical(path)):
      domain = env.get_domain('py')
      return domain.resolve_xref(
        env, node['refdoc'], app.builder, 'obj', name, node, contnode
      )
  if node.get('reftype') == 'obj' or _is_foreign(target):
    return contnode
  return None


def _is_foreign(target: str) -> bool:
  """Returns whether a type belongs to Python, another library or a helper."""
  private = re.match(r'(lthjax\.)?(\w+\.)*_', target)
  return private is not None or not target.startswith('lthjax')


def setup(app: Any) -> dict[str, bool]:
  """Connects all of it."""
  app.setup_extension('sphinx.ext.autodoc')
  app.connect('builder-inited', write_sources, priority=1)
  app.connect('source-read', read_source)
  app.connect('autodoc-process-docstring', add_example)
  app.connect('missing-reference', resolve)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}
