"""Ctrl-C as one line instead of a traceback. Import this before all else."""

import sys

_others = sys.excepthook


def _hook(kind, error, traceback):
  if issubclass(kind, KeyboardInterrupt):
    print(
      'Stopped. What is finished is kept: the same command goes on there.',
      file=sys.stderr,
    )
  else:
    _others(kind, error, traceback)


sys.excepthook = _hook
