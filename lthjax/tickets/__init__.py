"""Finding winning tickets, rewinding them, their controls, and other data."""

from lthjax.tickets._levels import Ticket
from lthjax.tickets.colt import colt
from lthjax.tickets.controls import reshuffle, sign_preserved, signed_constant
from lthjax.tickets.disentangled import (
  Overlap,
  core_and_specialists,
  overlap_against_chance,
)
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
  'Overlap',
  'Ticket',
  'colt',
  'core_and_specialists',
  'fine_tune',
  'fresh_slots',
  'hybrid',
  'imp',
  'inverted',
  'one_shot',
  'overlap_against_chance',
  'random_quotas',
  'reshuffle',
  'rewind_learning_rate',
  'rewind_weights',
  'sign_preserved',
  'signed_constant',
  'smart_ratio',
  'transfer',
]
