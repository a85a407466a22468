"""Strong tickets: subnetworks of random weights that nobody trains.

What trains is a tree of scores, or of logits, beside the params; it goes
through any optax optimizer. The functions here make of both the params that the
network runs with, and their gradient reaches every score, also where the mask
is closed. The params themselves stay what they are, to the bit.

Supermasks of a network that was trained need nothing from here to be found:
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
