"""Linguistic attention masks, and how much of attention they hold.

Tags become masks (`pos_mask`), masks become biases of attention (`bias`), and
`mass_overlap` compares trained attention with any set of edges. The package
holds no linguistic data: `read_conllu` reads a treebank from a folder of yours.

Positions of a batch are those of a language model: `BOS`, the words, `PAD`.
Attention and masks are queries by keys.
"""

from lthjax.linguistic._masks import bias, pad_edges, pos_mask
from lthjax.linguistic._tags import (
  BOS,
  PAD,
  UPOS,
  compatibility,
  relabelled,
  subword_tags,
  tag_ids,
)
from lthjax.linguistic._treebanks import (
  Sentence,
  Token,
  TypeTags,
  read_conllu,
  tags_from,
  type_tags,
)

__all__ = [
  'BOS',
  'PAD',
  'UPOS',
  'Sentence',
  'Token',
  'TypeTags',
  'bias',
  'compatibility',
  'pad_edges',
  'pos_mask',
  'read_conllu',
  'relabelled',
  'subword_tags',
  'tag_ids',
  'tags_from',
  'type_tags',
]
