import sys

import pytest

from common import running


@pytest.mark.parametrize('output', ['--output /a/path', '--output=/a/path'])
def test_provenance_holds_the_command_without_paths(output, monkeypatch):
  options = f'--kept 0.5 {output} --steps=9'
  monkeypatch.setattr(sys, 'argv', ['/somewhere/else.py', *options.split()])
  page = running.provenance(2)
  assert '| `python experiments/else.py --kept 0.5 --steps=9` |' in page
  assert '| seeds | 0, 1 |' in page
  assert '/a/path' not in page


def test_number_of_seeds():
  assert [running.seeds(n) for n in (1, 3)] == ['1 seed', '3 seeds']
