"""The Python of the README and of the guide runs as it stands."""

import pathlib
import re

import pytest

from lthjax.deploy import _compile

ROOT = pathlib.Path(__file__).parents[1]


def blocks(page):
  return re.findall(
    r'```python\n(.*?)```', (ROOT / page).read_text(), re.DOTALL
  )


MASKS, SPARSE, TICKET, FASTER = blocks('README.md')
NNX, AT_INIT, SEVERAL, REPORT, ADAPT = blocks('docs/guide.md')
NNX_MODEL = """
import optax
from flax import nnx
import lthjax as lth
model = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
"""


def run(source, run_python):
  return run_python(source, '-W', 'error').splitlines()


def test_mask_in_a_loop(run_python):
  lines = run(MASKS, run_python)
  assert lines[-1].split() == ['total', '32', '8', '25.00', '%']


def test_nnx(run_python):
  printed = 'print(lth.masks.count(lth.get_masks(optimizer.opt_state)))'
  assert run(NNX_MODEL + NNX + printed, run_python) == ['64']


def test_moving_masks(run_python):
  count, loss = run(SPARSE, run_python)[-1].split()
  assert int(count) == 205
  # With static masks the loss is 55; the target has variance 64.
  assert float(loss) < 40


def test_pruning_at_initialization(run_python):
  (line,) = run(AT_INIT, run_python)
  snip, synflow = (
    [int(x) for x in re.findall(r': (\d+)', part)] for part in line.split('} {')
  )
  assert sum(snip) == sum(synflow) == 2510
  assert snip != synflow


def test_ticket(run_python):
  counts = [line.split()[2] for line in run(TICKET, run_python)]
  assert counts == ['50200', '40160', '32128', '25702']


def test_tickets_of_several_seeds(run_python):
  densities = [float(line.split()[1]) for line in run(SEVERAL, run_python)]
  assert densities == pytest.approx([1, 0.8, 0.64, 0.512], abs=1e-4)


def test_faster(run_python):
  if reason := _compile.supported():
    pytest.skip(reason)
  lines = run(FASTER, run_python)
  assert lines[0].startswith('on disk: 2,097,152 bytes dense')
  assert lines[-1].startswith('one call: ')


def test_report(run_python, tmp_path):
  lines = run(REPORT.replace('runs/', f'{tmp_path}/'), run_python)
  assert lines[0] == '502 of 50,200 weights alive: 1.00 %.'
  # By chance 192 * 192 / 19,200, and so on.
  observed, *_, expected = lines[-1].split()
  assert int(observed) < 15
  assert float(expected) == pytest.approx(1.92 + 3 + 0.1)
  page = (tmp_path / 'capacity.html').read_text()
  assert '502 of 50,200 weights alive' in page


def test_adaptation(run_python, tmp_path):
  source = ADAPT.replace('task.safetensors', f'{tmp_path}/task.safetensors')
  assert run(source, run_python) == ['128 True']
