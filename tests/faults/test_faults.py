"""Experiments under faults: same bits, or a clear refusal and nothing lost."""

import os
import pathlib
import subprocess
import sys

import pytest
from faults.harness import FAULTS, TINY

HARNESS = pathlib.Path(__file__).parent / 'harness.py'
NUMBER = int(os.environ.get('LTHJAX_FAULTS', '5'))  # 50 in the weekly run


@pytest.mark.slow
@pytest.mark.parametrize('name', TINY)
def test_faults(name, tmp_path):
  done = subprocess.run(
    [sys.executable, HARNESS, name, str(NUMBER), tmp_path],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f'{NUMBER} faults, {NUMBER} bits, ')


def test_every_fault_is_met_by_some_experiment():
  """Of five for each of three experiments."""
  met = {(i * 5 + j) % len(FAULTS) for i in range(len(TINY)) for j in range(5)}
  assert met == {*range(len(FAULTS))}
