"""The README's Python runs as it stands."""

import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


def run(source, run_python):
  return run_python(source, '-W', 'error').splitlines()


def test_mask_in_a_loop(run_python):
  lines = run(BLOCKS[0], run_python)
  assert lines[-1].split() == ['total', '32', '8', '25.00', '%']


def test_nnx(run_python):
  source = (
    BLOCKS[1] + 'print(lth.masks.count(lth.get_masks(optimizer.opt_state)))'
  )
  assert run(source, run_python) == ['64']


def test_moving_masks(run_python):
  count, loss = run(BLOCKS[2], run_python)[-1].split()
  assert int(count) == 205
  # With static masks the loss is 55; the target has variance 64.
  assert float(loss) < 40


def test_pruning_at_initialization(run_python):
  (line,) = run(BLOCKS[3], run_python)
  snip, synflow = (
    [int(x) for x in re.findall(r': (\d+)', part)] for part in line.split('} {')
  )
  assert sum(snip) == sum(synflow) == 2510
  assert snip != synflow


def test_tickets_of_one_run_and_of_several(run_python):
  lines = run(BLOCKS[4] + BLOCKS[5], run_python)
  one, several = lines[:4], lines[4:]
  assert [line.split()[2] for line in one] == [
    '50200',
    '40260',
    '32298',
    '25919',
  ]
  densities = [float(line.split()[1]) for line in several]
  assert densities == pytest.approx([1, 0.8, 0.64, 0.512], abs=1e-4)


def test_report(run_python, tmp_path):
  source = BLOCKS[6].replace('runs/', f'{tmp_path}/')
  lines = run(source, run_python)
  assert lines[0] == '502 of 50,200 weights alive: 1.00 %.'
  # By chance 192 * 192 / 19,200, and so on.
  observed, *_, expected = lines[-1].split()
  assert int(observed) < 15
  assert float(expected) == pytest.approx(1.92 + 3 + 0.1)
  page = (tmp_path / 'capacity.html').read_text()
  assert '502 of 50,200 weights alive' in page


def test_every_block_is_tested():
  assert len(BLOCKS) == 7
