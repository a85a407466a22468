"""Structure: axes that move together, and units removed for real.

A hidden unit is a column of one kernel, an entry of its bias and a row of the
next kernel: whoever permutes, scores or removes it touches all of them. A
`Group` lists these places; everything that needs to know reads it from there:

| groups come from         | for                                             |
|--------------------------|-------------------------------------------------|
| `groups`                 | any model, by following axes through it         |
| `chain`                  | layers that follow one another, by their names  |
| `by_axes`                | everything else, by hand                        |

| they are used by         | to                                              |
|--------------------------|-------------------------------------------------|
| `norm`, `taylor`         | score units by their weights and gradients      |
| `activations`            | measure units where the next kernels read them  |
| `minitron`, `flap`       | score units by these activations                |
| `depth`                  | score whole layers                              |
| `keep`                   | choose units by their scores                    |
| `compensate`             | put what they add on average into biases        |
| `masks`                  | turn masks of units into masks of weights       |
| `compact`                | remove units for real, and check the program    |
| `cut`                    | remove units without a check                    |
| `permute`                | reorder units                                   |
| `channel_masks`          | choose channels by the scales of normalizations |
| `lthjax.landscape.align` | match the units of two networks                 |
"""

from lthjax.structure._activations import Activations, activations
from lthjax.structure._chain import chain
from lthjax.structure._channels import add_l1, channel_masks, mask_channels
from lthjax.structure._compact import compact
from lthjax.structure._compensate import compensate
from lthjax.structure._depth import depth
from lthjax.structure._from_program import groups
from lthjax.structure._groups import (
  Axis,
  Group,
  Groups,
  Member,
  by_axes,
  by_leaf,
  choose,
  table,
)
from lthjax.structure._keep import keep
from lthjax.structure._scores import flap, minitron, norm, taylor
from lthjax.structure._units import cut, masks, permute

__all__ = [
  'Activations',
  'Axis',
  'Group',
  'Groups',
  'Member',
  'activations',
  'add_l1',
  'by_axes',
  'by_leaf',
  'chain',
  'channel_masks',
  'choose',
  'compact',
  'compensate',
  'cut',
  'depth',
  'flap',
  'groups',
  'keep',
  'mask_channels',
  'masks',
  'minitron',
  'norm',
  'permute',
  'table',
  'taylor',
]
