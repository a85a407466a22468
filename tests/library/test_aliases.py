"""Aliases: an append-only log, required checks, and one of two writers."""

import threading

import numpy as np
import pytest
from helpers import contents, names
from library_cases import add

import lthjax as lth
from lthjax.library import ConflictError, RefusedError


@pytest.fixture
def library(tmp_path):
  return lth.library.open(tmp_path)


def test_promote_and_roll_back(library):
  a, b, c = (add(library, seed) for seed in range(3))
  for key in a, b, c:
    library.promote(key, 'live', why='better', who='ann')
  assert library.rollback('live').key == b
  assert library.rollback('live').key == a
  with pytest.raises(LookupError, match='live points at its first ticket'):
    library.rollback('live')
  for _ in range(2):  # Twice the same is one to roll back.
    library.promote(c, 'live')
  assert library.aliases() == {'live': c}
  assert library.rollback('live').key == a
  changes = library.history('live')
  assert [x.number for x in changes] == [*range(1, 9)]
  assert [x.action[0] for x in changes] == [*'ppprrppr']
  assert [x.source for x in changes] == [None, a, b, c, b, a, c, c]
  assert changes[0][4::2] == ('ann', 'better')
  assert ' on ' in changes[-1].who


def test_refusals_are_logged_and_change_nothing(library):
  a, b = add(library, 0), add(library, 1)
  library.promote(a, 'live')

  def crash(report):
    return report['ece'] < 0.1

  checks = {
    'accurate': lambda report: report['accuracy'] > np.float32(0.9),
    'calibrated': crash,
    'number': lambda report: report['accuracy'],
    'worst group': lambda report: np.bool(False),
  }
  with pytest.raises(
    RefusedError, match=r"calibrated: KeyError: 'ece'"
  ) as info:
    library.promote(b, 'live', checks=checks)
  assert 'worst group: failed' in str(info.value)
  assert 'accurate' not in str(info.value)
  assert library.key('live') == a
  last = library.history('live')[-1]
  assert (last.action, last.key, last.source) == ('refused', b, a)
  assert last.checks == {
    'accurate': 'passed',
    'calibrated': "KeyError: 'ece'",
    'number': 'returned a float, not True or False',
    'worst group': 'failed',
  }
  good = [crash]  # A report of any kind, instead of the metrics.
  change = library.promote(b, 'live', checks=good, report={'ece': 0.01})
  assert change.checks == {'crash': 'passed'}
  assert library.rollback('live').key == a


def test_a_refused_first_promotion_makes_no_alias(library):
  key = add(library)
  with pytest.raises(RefusedError):
    library.promote(key, 'live', checks={'never': lambda report: False})
  with pytest.raises(LookupError, match='no alias'):
    library.key('live')
  assert library.aliases() == {}
  assert len(library.history('live')) == 1
  library.verify()


def test_of_two_writers_one_gets_an_error(library, tmp_path):
  a, b = add(library, 0), add(library, 1)
  other = lth.library.open(tmp_path)

  def meanwhile(report):
    other.promote(b, 'live', who='bob')
    return True

  with pytest.raises(ConflictError, match='bob changed live at the same time'):
    library.promote(a, 'live', checks=[meanwhile])
  assert [x.key for x in library.history('live')] == [b]
  library.promote(a, 'live')
  assert library.key('live') == a


def test_many_writers_leave_a_log_without_gaps(library, tmp_path):
  keys = [add(library, seed) for seed in range(4)]
  outcomes = []

  def write(key):
    own = lth.library.open(tmp_path)
    for _ in range(5):
      try:
        own.promote(key, 'live')
        outcomes.append('done')
      except ConflictError:
        outcomes.append('conflict')

  threads = [threading.Thread(target=write, args=[key]) for key in keys]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(outcomes) == 20
  assert len(library.history('live')) == outcomes.count('done') >= 5
  library.verify()


@pytest.mark.parametrize(
  'alias',
  [
    '../live',
    '/etc/live',
    'a/../b',
    'a//b',
    '',
    '.hidden',
    'a/.b',
    'a+b',
    'a b',
    'x' * 201,
    'deadbeef',
    'live\n',
  ],
)
def test_names_that_are_no_alias(library, alias, tmp_path):
  key = add(library)
  before = contents(tmp_path)
  for call in library.history, library.rollback:
    with pytest.raises(ValueError, match='`alias` was'):
      call(alias)
  with pytest.raises(ValueError, match='`alias` was'):
    library.promote(key, alias)
  assert contents(tmp_path) == before


@pytest.mark.parametrize('call', ['load', 'rollback', 'history', 'verify'])
def test_aliases_that_do_not_exist(library, call):
  library.promote(add(library), 'a/b')
  with pytest.raises(LookupError, match=r"no alias 'a' in .* there are: a/b"):
    getattr(library, call)('a')


@pytest.mark.parametrize('checks', [3, 'x', {'a': 3}, {1: min}, [None]])
def test_checks_must_be_functions(library, checks):
  with pytest.raises(TypeError, match='`checks` was'):
    library.promote(add(library), 'live', checks=checks)
  assert library.aliases() == {}


def test_logs_that_were_changed(library, tmp_path):
  keys = [add(library, seed) for seed in range(3)]
  for key in keys:
    library.promote(key, 'live', who='ann')
  folder = tmp_path / 'aliases' / 'live'
  assert names(folder) == [f'{n:08d}.json' for n in (1, 2, 3)]
  second = folder / '00000002.json'
  good = second.read_bytes()
  for bad in [
    good.replace(b'ann', b'bob'),
    good.replace(keys[1].encode(), keys[2].encode()),
    good[:-1],
    good + b' ',
    b'[]',
    b'',
  ]:
    second.write_bytes(bad)
    for call in [library.verify, lambda: library.load('live')]:
      with pytest.raises(ValueError, match='is damaged'):
        call()
  second.unlink()
  with pytest.raises(ValueError, match=r'has 00000003\.json where 00000002'):
    library.history('live')
  second.write_bytes(good)
  library.verify()
  path = tmp_path / 'tickets' / f'{keys[0]}.safetensors'
  path.unlink()  # One that the alias could be rolled back to.
  with pytest.raises(ValueError, match=f'live needs {keys[0]}'):
    library.verify()


def test_checks_of_an_evaluation(library):
  """As a gate: no group within a point of dense, and well calibrated."""
  inputs, labels = np.eye(4), np.arange(4)
  worse = 0.1 + 0.6 * np.roll(inputs, 1, axis=1) * (labels[:, None] == 3)
  report = lth.evaluation.evaluate(
    {
      'dense': lambda x: 0.1 + 0.6 * x,
      'ticket': lambda x: (
        (0.1 + 0.6 * x) * (labels[:, None] < 3) + worse * (labels[:, None] == 3)
      ),
    },
    (inputs, labels),
  )

  def worst_class(report):
    a, b = (report.models[x].groups.accuracy for x in ('ticket', 'dense'))
    return np.min(a - b) >= -0.01

  def dense_calibration(report):
    return report.models['dense'].ece <= 0.5

  checks = [worst_class, dense_calibration]
  key = add(library)
  with pytest.raises(RefusedError, match='worst_class: failed'):
    library.promote(key, 'live', checks=checks, report=report)
  assert library.history('live')[-1].checks == {
    'worst_class': 'failed',
    'dense_calibration': 'passed',
  }
