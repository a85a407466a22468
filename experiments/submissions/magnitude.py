"""The largest weights at initialization."""

import lthjax as lth


def prune(params, loss, data, sparsity):
  del loss, data
  scores, masks = lth.scores.magnitude(params), lth.masks.full(params)
  return lth.prune(scores, masks, sparsity=sparsity, scope='global')
