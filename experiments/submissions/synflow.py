"""SynFlow: Tanaka et al., arXiv:2006.05467, in a hundred steps."""

import functools

import lthjax as lth


def prune(params, loss, data, sparsity):
  del loss
  score = score_of(data.apply, data.shape)
  return lth.prune_iteratively(score, params, sparsity=sparsity, steps=100)


@functools.cache  # The same function again is not compiled again.
def score_of(apply, shape):
  return lambda params: lth.scores.synflow(apply, params, shape)
