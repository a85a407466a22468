"""Groups: axes that move together.

A hidden unit is a column of one kernel, an entry of its bias and a row of the
next kernel: whoever permutes, scores or removes it touches all of them. A
`Group` lists these places; everything that needs to know reads it from there:

| groups come from         | for                                             |
|--------------------------|-------------------------------------------------|
| `from_program`           | any model, by following axes through it         |
| `chain`                  | layers that follow one another, by their names  |
| `by_axes`                | everything else, by hand                        |

| they are used by         | to                                              |
|--------------------------|-------------------------------------------------|
| `permute`                | reorder units                                   |
| `expand`                 | turn masks of units into masks of weights       |
| `score_by_group`         | compare units                                   |
| `compact`                | remove units for real                           |
| `lthjax.landscape.align` | match the units of two networks                 |
| `lthjax.structured`      | prune channels, and check what was removed      |
"""

from lthjax.groups._chain import chain
from lthjax.groups._from_program import from_program
from lthjax.groups._groups import (
  Axis,
  Group,
  Groups,
  Member,
  by_axes,
  by_leaf,
  table,
)
from lthjax.groups._units import compact, expand, permute, score_by_group

__all__ = [
  'Axis',
  'Group',
  'Groups',
  'Member',
  'by_axes',
  'by_leaf',
  'chain',
  'compact',
  'expand',
  'from_program',
  'permute',
  'score_by_group',
  'table',
]
