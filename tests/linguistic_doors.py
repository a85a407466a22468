"""Valid calls of `lthjax.linguistic`, for the table of all functions."""

import numpy as np
from linguistic_cases import batch, edges_of

from lthjax import linguistic as lg

TREEBANK = """\
1\tShe\tshe\tPRON\t_\t_\t2\tnsubj\t_\t_
2\teats\teat\tVERB\t_\t_\t0\troot\t_\t_
"""


def add_rows(add, folder):
  """Adds a row per function, as `doors.doors` does; writes into a folder."""
  treebank = folder / 'x.conllu'
  treebank.write_text(TREEBANK)
  (sentence,) = lg.read_conllu(treebank)
  tags, attention = batch(0, lengths=(4, 3))
  edges, region = edges_of(tags), lg.region(tags)
  mean = lg.mean_attention(attention)
  needs = lg.Restriction(False, ((True, 'animate'),))
  eat = lg.VerbClass('eat-1', None, ('eat',), (), {'Agent': needs}, ())
  verbnet = lg.VerbNet((eat,), {'eat': (eat,)})
  empty = {'n': {}, 'v': {}}
  wordnet = lg.WordNet(empty, empty)

  arguments = {
    'attention': ('maps', mean),
    'edges': ('edges', edges),
    'gold': ('flag', True),
    'heads': ('count', 1),
    'layers': ('flag', False),
    'matrix': ('matrix', None),
    'region': ('region', region),
    'seed': ('count from 0', 0),
    'sentence': ('sentence', sentence),
    'sentences': ('sentences', [sentence]),
    'tags': ('tags', tags),
    'verbnet': ('verbnet', verbnet),
    'wordnet': ('wordnet', wordnet),
  }

  def row(function, given='', **special):
    add(function, **({w: arguments[w] for w in given.split()} | special))

  names, length = ('names', [['X']]), ('small count', 8)
  row(lg.tag_ids, sentences=names, bos=('flag', True), length=length)
  row(lg.subword_tags, 'tags', words=('places', np.ones((2, 3), int)))
  row(lg.relabelled, 'seed matrix')
  row(lg.pos_mask, 'tags matrix')
  row(
    lg.bias,
    pos=('edges', edges),
    features=('edges', edges),
    mode=('word', 'full'),
    alpha=('array', None),
    value=('below zero', -1),
  )
  matrices = ('matrices', [edges[0]])
  fill, bos = ('fill', 1), ('flag', True)
  row(lg.pad_edges, matrices=matrices, bos=bos, length=length, fill=fill)
  row(lg.read_conllu, path=('text', str(treebank)))
  forms = ('anything', None)  # Any collection: a form is in it or not.
  row(lg.type_tags, 'sentences', vocabulary=forms, lowercase=('flag', False))
  row(
    lg.tags_from,
    'sentences',
    source=('word', 'type'),
    types=('types', lg.type_tags([sentence])),
  )
  row(lg.region, 'tags')
  row(lg.mass_overlap, 'attention edges region')
  row(lg.outside_region, 'attention tags')
  row(
    lg.mean_attention,
    attention=('maps', attention),
    layers=('integers', None),
    heads=('integers', None),
  )
  row(
    lg.top_edges,
    'attention region',
    share=('closed share', 0.5),
    within=('word', 'row'),
  )
  row(lg.edge_jaccard, 'region', a=('edges', edges), b=('edges', edges))
  row(
    lg.null,
    'attention tags matrix seed',
    kind=('word', 'permuted'),
    draws=('small count', 3),
  )
  row(lg.permuted_tags, 'tags seed')
  row(lg.other_tags, 'tags seed')
  row(lg.row_matched, 'edges tags seed')
  row(lg.fit_matrix, 'attention tags matrix')
  row(lg.key_tag_attention, 'attention tags')
  row(lg.published_protocol, 'attention tags matrix seed')
  row(lg.over_seeds, values=('values', [1.0, 2.0]), level=('share', 0.9))
  for f, name, x in [
    (lg.head_density, 'mask', edges),
    (lg.head_norm, 'kernel', mean),
  ]:
    row(f, 'heads layers', axis=('axis', 1), **{name: ('kernel', x)})
  row(lg.spearman, x=('values', [1, 2]), y=('values', [2, 1]))
  row(lg.wordnet_features, 'wordnet')
  row(
    lg.compat,
    'verbnet',
    verb=('text', 'eat'),
    features=('set', frozenset()),
    deprel=('text', None),
    preposition=('text', None),
  )
  row(
    lg.compat_matrix,
    'sentence verbnet',
    features=('hook', lambda lemma, upos: None),
    gold_slots=('flag', False),
  )
  row(lg.clauses, 'sentence gold')
  row(lg.binding_mask, 'sentence gold')
  row(lg.axis_edges, 'sentence wordnet verbnet')
