"""A report for a terminal."""

import textwrap

from lthjax import _table
from lthjax.evaluation import Evaluation, LanguageEvaluation
from lthjax.report import _evaluation, _language, _tables
from lthjax.report._capacity import Capacity


def text(found: Capacity | Evaluation | LanguageEvaluation) -> str:
  """Writes a report as tables.

  Args:
    found: what `lthjax.report.capacity`, `lthjax.evaluation.evaluate` or
      `lthjax.evaluation.evaluate_language` returned.

  Returns:
    Text of several lines, with the similarity over all layers.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'fc': jnp.array([[True, False], [False, False]]), 'b': None}
    >>> print(lth.report.text(lth.report.capacity(masks, input_layers='fc')))
    1 of 4 weights alive: 25.00 %.
    <BLANKLINE>
    layer   shape  alive  density  dead inputs  dead outputs
    b       dense      –        –            –             –
    fc     (2, 2)      1  25.00 %       1 of 2        1 of 2
    total       4      1  25.00 %       1 of 2        1 of 2
    <BLANKLINE>
    Alive weights of fc from each of 2 inputs: 0 to 1, 0.50 on average, none
    from 1 of 2.
  """
  if isinstance(found, Evaluation):
    return _written(_evaluation.headline(found), _evaluation.tables(found))
  if isinstance(found, LanguageEvaluation):
    return _written(_language.headline(found), _language.tables(found))
  _tables.check(found)
  parts = [_tables.headline(found), _write(_tables.layers(found))]
  if inputs := _tables.inputs(found):
    parts.append(textwrap.fill(inputs, 80))
  for table in (_tables.movement(found), *_tables.overlap(found)[:1]):
    if table is not None:
      parts.append(f'{textwrap.fill(table.caption, 80)}\n{_write(table)}')
  return '\n\n'.join(parts)


def _written(headline: str, tables: list[_tables.Table]) -> str:
  parts = [textwrap.fill(headline, 80)]
  for table in tables:
    caption = textwrap.fill(f'{table.title}. {table.caption}', 80)
    parts.append(f'{caption}\n\n{_write(table)}')
  return '\n\n'.join(parts)


def _write(table: _tables.Table) -> str:
  """Aligns the columns of a table."""
  rows = [*table.rows, table.total] if table.total else table.rows
  return _table.write(table.header, [[x.text for x in row] for row in rows])
