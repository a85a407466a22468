"""Fifty processes killed in the middle of their work."""

import pytest

KILLS = """
import itertools, os, random, signal, sys, time, warnings
sys.path.insert(0, 'tests')
import numpy as np
from library_cases import START, add, identity, make_ticket
import lthjax as lth
from lthjax import files

folder = sys.argv[1]
library = lth.library.open(folder)


def work(ready):
  # Large enough to be killed while it is written.
  start = {'fc': {'kernel': np.zeros((500, 1000), np.float32)}}
  seed, parent = os.getpid(), None
  for i in itertools.count():
    ticket = make_ticket(
      seed + i,
      start=start,
      shapes={'fc': {'kernel': (500, 1000)}},
      density=1.0 if parent is None else 0.1,
    )
    key = library.add(ticket, params=identity, parent=parent)
    library.promote(key, 'live')
    parent = parent or key
    if i == 0:
      os.write(ready, b'.')


rng = random.Random(0)
for kill in range(50):
  readable, writable = os.pipe()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # No thread of JAX runs yet.
    child = os.fork()
  if child == 0:
    work(writable)
  os.read(readable, 1)
  time.sleep(rng.uniform(0, 0.1))
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  os.close(readable), os.close(writable)
  library.verify()
  if kill % 10 == 9:  # Only what the alias needs; and the disk stays small.
    assert library.key('live') == library.history('live')[-1].key
    hidden = [x for x in os.listdir(f'{folder}/tickets') if x[0] == '.']
    print('leftovers', len(hidden))
    for path in (f'{folder}/tickets', f'{folder}/aliases/live'):
      files.remove_dead(__import__('pathlib').Path(path), '.')
      assert not [x for x in os.listdir(path) if x[0] == '.']
print(len(library.history('live')))
"""


@pytest.mark.slow
def test_fifty_kills(run_python, tmp_path):
  source = f'import sys\nsys.argv = ["", {str(tmp_path)!r}]\n{KILLS}'
  *leftovers, promotions = run_python(source).splitlines()
  assert int(promotions) >= 50
  assert sum(int(line.split()[1]) for line in leftovers) > 0
