"""Random masks with the layer sizes of ERK: Evci et al., arXiv:1911.11134."""

import lthjax as lth


def prune(params, loss, data, sparsity):
  del loss
  draw = lth.random_masks(
    data.key, sparsity=sparsity, densities=lth.densities.erk
  )
  return draw(params)
