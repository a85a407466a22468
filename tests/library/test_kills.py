"""Fifty processes killed in the middle of their work."""

import pytest

KILLS = """
import itertools, os, pathlib, random, signal, sys, warnings
sys.path.insert(0, 'tests')
import jax
from helpers import random_like
from library_cases import identity, make_ticket
import lthjax as lth

folder = pathlib.Path(sys.argv[1])
library = lth.library.open(folder)
SHAPES = {'fc': {'kernel': (100, 200)}}
START = random_like(SHAPES, 0)
STEPS = {
  *('open', 'os.link', 'os.listdir', 'os.mkdir', 'os.remove', 'os.rename'),
  *('os.rmdir', 'fcntl.flock', 'shutil.rmtree', 'tempfile.mkdtemp'),
}


def work(seed):
  parent = None
  for i in itertools.count(seed):
    density = 1.0 if parent is None else 0.1
    ticket = make_ticket(i, start=START, shapes=SHAPES, density=density)
    key = library.add(ticket, params=identity, parent=parent)
    library.promote(key, 'live')
    parent = parent or key


def die_after(steps):
  left = [steps]

  def count(event, arguments):
    left[0] -= event in STEPS
    if left[0] < 0:
      left[0] = 10**9  # The kill is an event, too.
      os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(count)


def hidden():
  return [x for x in folder.rglob('.*') if '.tmp-' in x.name]


rng = random.Random(0)
for kill in range(50):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # No thread of JAX runs yet.
    child = os.fork()
  if child == 0:
    jax.devices()
    rng.seed(kill)
    if kill % 2:  # Between two steps on files, or at any time.
      die_after(rng.randrange(100))
    else:
      signal.setitimer(signal.ITIMER_PROF, rng.uniform(0.001, 0.03))
    work(1000 * kill)
  _, status = os.waitpid(child, 0)
  assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGPROF), status
  library.verify()
  library.aliases()
print(len(library.list()), len(library.history('live')), len(hidden()))
before = library.aliases()
library.gc()
library.verify()
assert library.aliases() == before
# Of what is left, nobody knows yet whether its process lives.
assert not [x for x in hidden() if list(x.glob('.alive-*'))]
"""


@pytest.mark.slow
def test_fifty_kills(run_python, tmp_path):
  source = f'import sys\nsys.argv = ["", {str(tmp_path)!r}]\n{KILLS}'
  tickets, promotions, leftovers = map(int, run_python(source).split())
  assert tickets > 20
  assert promotions > 20
  assert leftovers >= 3
