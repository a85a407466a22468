"""A library of tickets: kept once, promoted, rolled back and served.

A ticket is a file that is named by the hash of what it holds, so that it cannot
change, and any flipped bit is found. Names such as "support/live" move from
ticket to ticket; each move is a line in a log. All tickets of one architecture
run in one compiled program: params and masks are its arguments.
"""

from lthjax.library._adding import Entry
from lthjax.library._aliases import Change, ConflictError, RefusedError
from lthjax.library._compare import Comparison
from lthjax.library._library import Library
from lthjax.library._opening import open

__all__ = [
  'Change',
  'Comparison',
  'ConflictError',
  'Entry',
  'Library',
  'RefusedError',
  'open',
]
