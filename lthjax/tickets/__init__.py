"""Winning tickets: searches, rewinding, controls and transfer."""

from lthjax.tickets._colt import colt
from lthjax.tickets._controls import (
  random_quotas,
  random_signs,
  reshuffle,
  sign_preserved,
  signed_constant,
  with_frozen_dead,
  zero_shrunk,
)
from lthjax.tickets._early_bird import EarlyBird, early_bird, settled
from lthjax.tickets._parts import (
  ChanceOverlap,
  core_and_specialists,
  overlap_against_chance,
)
from lthjax.tickets._rewind import (
  fine_tune,
  fresh_slots,
  rewind_learning_rate,
  rewind_weights,
)
from lthjax.tickets._search import Ticket, imp, one_shot
from lthjax.tickets._transfer import transfer

__all__ = [
  'ChanceOverlap',
  'EarlyBird',
  'Ticket',
  'colt',
  'core_and_specialists',
  'early_bird',
  'fine_tune',
  'fresh_slots',
  'imp',
  'one_shot',
  'overlap_against_chance',
  'random_quotas',
  'random_signs',
  'reshuffle',
  'rewind_learning_rate',
  'rewind_weights',
  'settled',
  'sign_preserved',
  'signed_constant',
  'transfer',
  'with_frozen_dead',
  'zero_shrunk',
]
