"""GraSP: Wang et al., arXiv:2002.07376, with the temperature of its code."""

import lthjax as lth


def prune(params, loss, data, sparsity):
  scores = lth.scores.grasp(loss, params, data.batches, temperature=200.0)
  masks = lth.masks.full(params)
  return lth.prune(scores, masks, sparsity=sparsity, scope='global')
