"""Finding winning tickets, rewinding them, their controls, and other data."""

from lthjax.tickets.controls import reshuffle, sign_preserved, signed_constant
from lthjax.tickets.imp import Ticket, imp, one_shot
from lthjax.tickets.rewind import (
  fine_tune,
  fresh_slots,
  rewind_learning_rate,
  rewind_weights,
)
from lthjax.tickets.transfer import transfer

__all__ = [
  'Ticket',
  'fine_tune',
  'fresh_slots',
  'imp',
  'one_shot',
  'reshuffle',
  'rewind_learning_rate',
  'rewind_weights',
  'sign_preserved',
  'signed_constant',
  'transfer',
]
