"""Linguistic attention masks, and how much of attention they hold.

Tags become masks (`pos_mask`), lexicons say which verbs and nouns fit
(`compat_matrix`), masks become biases of attention (`bias`), and
`mass_overlap` compares trained attention with any set of edges. The package
holds no linguistic data: `read_conllu`, `load_verbnet` and `load_wordnet` read
from folders of yours.

Positions of a batch are those of a language model: `BOS`, the words, `PAD`.
Attention and masks are queries by keys.
"""

from lthjax.linguistic._binding import (
  PRONOUNS,
  Pronoun,
  binding_mask,
  clauses,
)
from lthjax.linguistic._five_axes import AXES, axis_edges
from lthjax.linguistic._heads import head_density, head_norm, spearman
from lthjax.linguistic._masks import bias, pad_edges, pos_mask
from lthjax.linguistic._nulls import (
  Null,
  fit_matrix,
  null,
  other_tags,
  permuted_tags,
  row_matched,
)
from lthjax.linguistic._overlap import (
  Outside,
  Overlap,
  edge_jaccard,
  mass_overlap,
  mean_attention,
  outside_region,
  region,
  top_edges,
)
from lthjax.linguistic._popularity import key_tag_attention
from lthjax.linguistic._published import Published, published_protocol
from lthjax.linguistic._restrictions import UNJUDGED, compat, compat_matrix
from lthjax.linguistic._seeds import SeedTest, over_seeds
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
from lthjax.linguistic._verbnet import (
  Frame,
  Restriction,
  VerbClass,
  VerbNet,
  load_verbnet,
)
from lthjax.linguistic._wordnet import (
  Features,
  Synset,
  WordNet,
  load_wordnet,
  wordnet_features,
)

__all__ = [
  'AXES',
  'BOS',
  'PAD',
  'PRONOUNS',
  'UNJUDGED',
  'UPOS',
  'Features',
  'Frame',
  'Null',
  'Outside',
  'Overlap',
  'Pronoun',
  'Published',
  'Restriction',
  'SeedTest',
  'Sentence',
  'Synset',
  'Token',
  'TypeTags',
  'VerbClass',
  'VerbNet',
  'WordNet',
  'axis_edges',
  'bias',
  'binding_mask',
  'clauses',
  'compat',
  'compat_matrix',
  'compatibility',
  'edge_jaccard',
  'fit_matrix',
  'head_density',
  'head_norm',
  'key_tag_attention',
  'load_verbnet',
  'load_wordnet',
  'mass_overlap',
  'mean_attention',
  'null',
  'other_tags',
  'outside_region',
  'over_seeds',
  'pad_edges',
  'permuted_tags',
  'pos_mask',
  'published_protocol',
  'read_conllu',
  'region',
  'relabelled',
  'row_matched',
  'spearman',
  'subword_tags',
  'tag_ids',
  'tags_from',
  'top_edges',
  'type_tags',
  'wordnet_features',
]
