"""What other libraries log about errors that they raise as well."""

import contextlib
import logging
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Holds back logs; after an error, also those of threads that are left."""
  before, known = logging.root.manager.disable, set(threading.enumerate())
  logging.disable(logging.CRITICAL)
  try:
    yield
  except BaseException:
    for thread in set(threading.enumerate()) - known:
      thread.join(1)  # An idle thread of a pool does not end.
    raise
  finally:
    logging.disable(before)
