"""Reports of where capacity lives: by layer, neuron and input.

`capacity` analyzes a tree of masks, and params if they are given. `text`,
`figure` and `html` show the result: in a terminal, as a figure, and as one page
for a browser that needs neither a network nor other files. `text` and `html`
show what `lthjax.evaluation.evaluate` and
`lthjax.evaluation.evaluate_language` return as well.
"""

from lthjax.report._capacity import Capacity, capacity
from lthjax.report._distance_moved import DistanceMoved, distance_moved
from lthjax.report._figure import figure
from lthjax.report._layers import Layer, layers
from lthjax.report._page import html, write_html
from lthjax.report._saliency import input_saliency
from lthjax.report._similarity import Similarity, similarity
from lthjax.report._text import text

__all__ = [
  'Capacity',
  'DistanceMoved',
  'Layer',
  'Similarity',
  'capacity',
  'distance_moved',
  'figure',
  'html',
  'input_saliency',
  'layers',
  'similarity',
  'text',
  'write_html',
]
