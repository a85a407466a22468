"""SNIP: Lee et al., arXiv:1810.02340."""

import jax
import jax.numpy as jnp

import lthjax as lth


def prune(params, loss, data, sparsity):
  batch = jax.tree.map(lambda *x: jnp.concatenate(x), *data.batches)
  scores, masks = lth.scores.snip(loss, params, batch), lth.masks.full(params)
  return lth.prune(scores, masks, sparsity=sparsity, scope='global')
