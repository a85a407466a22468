"""Ctrl-C as one line instead of a traceback. Import this before all else."""

import sys

STOPPED = 'Stopped. What is finished is kept: the same command goes on there.'
_others = sys.excepthook


def _hook(kind, error, traceback):
  if issubclass(kind, KeyboardInterrupt):
    print(STOPPED, file=sys.stderr)
  else:
    _others(kind, error, traceback)


sys.excepthook = _hook
