"""Strong tickets: subnetworks of random weights that never train.

What trains is a tree of scores, or of logits, beside the params; it goes
through any optax optimizer. The functions here turn both into the params that
the network runs with. Gradients reach every score, even where the mask is
closed; the params keep their bits.

Supermasks of a trained network need nothing from here:
``lthjax.prune(lthjax.scores.large_final_same_sign(params, initial), masks,
sparsity=0.8)`` makes the masks, and ``lthjax.masks.apply(masks, initial)`` the
network.
"""

from lthjax.supermasks._bernoulli import (
  bernoulli,
  bernoulli_masks,
  init_logits,
)
from lthjax.supermasks._edge_popup import (
  edge_popup,
  edge_popup_masks,
  init_scores,
)
from lthjax.supermasks._weights import scaled_kaiming, signed_kaiming_constant

__all__ = [
  'bernoulli',
  'bernoulli_masks',
  'edge_popup',
  'edge_popup_masks',
  'init_logits',
  'init_scores',
  'scaled_kaiming',
  'signed_kaiming_constant',
]
