"""SynFlow: Tanaka et al., arXiv:2006.05467, in a hundred steps.

A decoder is scored once: its norms do not conserve the flow, so a layer would
be emptied on the way, and no score would be left.
"""

import functools

import lthjax as lth


def prune(params, loss, data, sparsity):
  del loss
  score = score_of(data.apply, data.shape)
  steps = 100 if len(data.shape) == 3 else 1
  return lth.prune_iteratively(score, params, sparsity=sparsity, steps=steps)


@functools.cache  # The same function again is not compiled again.
def score_of(apply, shape):
  return lambda params: lth.scores.synflow(apply, params, shape)
