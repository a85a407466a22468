"""SynFlow: Tanaka et al., arXiv:2006.05467, in a hundred steps."""

import functools

import lthjax as lth


def prune(params, loss, data, sparsity):
  del loss
  return lth.prune_iteratively(
    score_of(data.apply, data.shape),
    params,
    sparsity=sparsity,
    steps=100,
    at_least=1,  # Attention has no flow that would see to it.
  )


@functools.cache  # The same function again is not compiled again.
def score_of(apply, shape):
  return lambda params: lth.scores.synflow(apply, params, shape)
