"""Experiments under faults: same bits, or a clear refusal and nothing lost.

The weekly run gives `LTHJAX_FAULTS=50`: so many for each experiment. Otherwise
one experiment meets each kind once.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from faults.harness import FAULTS, TINY

HARNESS = pathlib.Path(__file__).parent / 'harness.py'
MANY = os.environ.get('LTHJAX_FAULTS')
NUMBER = int(MANY or len(FAULTS))


@pytest.mark.slow
@pytest.mark.parametrize('name', [*TINY][: None if MANY else 1])
def test_faults(name, tmp_path):
  done = subprocess.run(
    [sys.executable, HARNESS, name, str(NUMBER), tmp_path],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f'{NUMBER} faults, {NUMBER} bits, ')
