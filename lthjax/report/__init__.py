"""Where capacity lives: what masks keep, by layer, neuron and input.

`capacity` looks at a tree of masks, and whatever else there is of the network.
`text`, `figure` and `html` show what it found: to a terminal, in a figure, and
as one page for a browser that needs neither a network nor other files.
"""

from lthjax.report._figure import figure
from lthjax.report.capacity import Capacity, capacity
from lthjax.report.layers import Layer, layers
from lthjax.report.movement import Movement, movement
from lthjax.report.overlaps import Overlaps, overlaps
from lthjax.report.page import html, write_html
from lthjax.report.saliency import input_saliency
from lthjax.report.text import text

__all__ = [
  'Capacity',
  'Layer',
  'Movement',
  'Overlaps',
  'capacity',
  'figure',
  'html',
  'input_saliency',
  'layers',
  'movement',
  'overlaps',
  'text',
  'write_html',
]
