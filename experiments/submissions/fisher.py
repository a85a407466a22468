"""Fisher scores: Theis et al., arXiv:1801.05787, at initialization."""

import lthjax as lth


def prune(params, loss, data, sparsity):
  scores = lth.scores.fisher(loss, params, data.batches)
  masks = lth.masks.full(params)
  return lth.prune(scores, masks, sparsity=sparsity, scope='global')
