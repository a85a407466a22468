import sys

import running


def test_provenance_holds_the_command_without_paths(monkeypatch):
  monkeypatch.setattr(
    sys,
    'argv',
    ['/somewhere/else.py', '--kept', '0.5', '--output', '/a/path', '--steps=9'],
  )
  page = running.provenance(2)
  assert '| `python experiments/else.py --kept 0.5 --steps=9` |' in page
  assert '| seeds | 0, 1 |' in page
  assert '/a/path' not in page
