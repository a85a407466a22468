"""Finding winning tickets, rewinding them, their controls, and other data."""

from lthjax.tickets._levels import Ticket
from lthjax.tickets.channels import (
  add_l1,
  channel_masks,
  mask_channels,
  scales,
)
from lthjax.tickets.colt import colt
from lthjax.tickets.controls import (
  random_signs,
  reshuffle,
  sign_preserved,
  signed_constant,
)
from lthjax.tickets.disentangled import (
  Overlap,
  core_and_specialists,
  overlap_against_chance,
)
from lthjax.tickets.early_bird import EarlyBird, early_bird, settled
from lthjax.tickets.imp import imp, one_shot
from lthjax.tickets.rewind import (
  fine_tune,
  fresh_slots,
  rewind_learning_rate,
  rewind_weights,
)
from lthjax.tickets.sanity import hybrid, inverted, random_quotas, smart_ratio
from lthjax.tickets.transfer import transfer

__all__ = [
  'EarlyBird',
  'Overlap',
  'Ticket',
  'add_l1',
  'channel_masks',
  'colt',
  'core_and_specialists',
  'early_bird',
  'fine_tune',
  'fresh_slots',
  'hybrid',
  'imp',
  'inverted',
  'mask_channels',
  'one_shot',
  'overlap_against_chance',
  'random_quotas',
  'random_signs',
  'reshuffle',
  'rewind_learning_rate',
  'rewind_weights',
  'scales',
  'settled',
  'sign_preserved',
  'signed_constant',
  'smart_ratio',
  'transfer',
]
