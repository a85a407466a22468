"""Lottery-ticket adaptation: pretrained weights, of which a few train.

Fine-tune all weights once, keep those that moved farthest, go back to the start
and train only these::

  masks = lota.calibrated(base, tuned, lth.masks.full(base), sparsity=0.9)
  tx = lth.frozen(optax.adam(1e-5), masks)

What that changes is a `Delta`: a few values and their places. `lthjax.packed`
trains one with an optimizer state of its size; `save` and `load` put it into a
file that knows its base; `merge_sum`, `merge_mean` and `merge_ties` make one of
several. A later task is kept from the weights of earlier ones with
`complement`.

| masks of equal size, as controls | scores for `largest` |
|---|---|
| random | ``lth.scores.noise(key, base)`` |
| initial magnitude | ``lth.scores.magnitude(base)`` |
| gradient of one batch | ``lth.scores.gradient(loss, base, batch)`` |

References:
  Panda et al., Lottery Ticket Adaptation: Mitigating Destructive Interference
  in LLMs, arXiv:2406.16797.
"""

from lthjax.lota._delta import Delta, add, difference, pad, support, zeros
from lthjax.lota._files import fingerprint, load, save
from lthjax.lota._masks import calibrated, complement, largest
from lthjax.lota._merge import merge_mean, merge_sum, merge_ties
from lthjax.lota._packed import packed

__all__ = [
  'Delta',
  'add',
  'calibrated',
  'complement',
  'difference',
  'fingerprint',
  'largest',
  'load',
  'merge_mean',
  'merge_sum',
  'merge_ties',
  'packed',
  'pad',
  'save',
  'support',
  'zeros',
]
