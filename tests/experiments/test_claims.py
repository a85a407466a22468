"""Claims and their verdicts: files, statistics, data, page and command."""

import csv
import dataclasses
import itertools
import math
import shutil
import types

import numpy as np
import pytest

import claims as script
from common import collect
from verdicts import data, page, statistics
from verdicts.claim import FOLDER, Claim, load, load_all

TEXT = """claim = "New is better"
source = "us"
setting = "here"
family = "f"
command = "python experiments/lottery_ticket.py"
page = "p"
column = "x"
unit = "points"
scale = 100.0
arms.new = { arm = "new", level = 3 }
arms.old = { arm = "old", level = 3 }
test = "superiority"
margin = 0.5
seeds = 6
minutes = 1
would_refute = "it is worse"
configuration = "abc"
"""
VALUES = data.values
EFFECTS = np.array([1.0, 2, 3, 4, 5, 7])


def write(folder, text=TEXT, name='C01_new.toml'):
  (folder / name).write_text(text)
  return folder / name


def write_data(folder, effects=EFFECTS, name='p', configuration='abc'):
  rows = ['arm,level,seed,x,y,configuration']
  for seed, effect in enumerate(effects):
    old = 0.9 + seed / 1000
    rows.append(f'old,3,{seed},{old},{seed},{configuration}')
    rows.append(f'new,3,{seed},{old + effect / 100},{-seed},{configuration}')
    rows.append(f'new,4,{seed},0,{seed},{configuration}')
  (folder / f'{name}.csv').write_text('\n'.join(rows) + '\n')


def claim(folder, **changes):
  return dataclasses.replace(load(write(folder)), **changes)


# Statistics.


def test_interval_and_deviation_by_hand():
  found = statistics.paired(EFFECTS, 'superiority', 0.5)
  # The sum of squares around 22 / 6 is 104 - 22 ** 2 / 6.
  deviation = math.sqrt((104 - 22**2 / 6) / 5)
  half = 2.5705818366147395 * deviation / math.sqrt(6)  # t, 5 degrees, 97.5 %
  np.testing.assert_allclose(found.effect, 22 / 6)
  np.testing.assert_allclose(found.deviation, deviation)
  np.testing.assert_allclose(
    [found.low, found.high], [22 / 6 - half, 22 / 6 + half]
  )
  assert found.low < found.bootstrap[0] < found.bootstrap[1] < found.high
  assert found.n == 6


@pytest.mark.parametrize('test', ['superiority', 'non-inferiority'])
@pytest.mark.parametrize('margin', [0.5, 2.0, 3.9])
def test_sign_flips_are_all_signs(test, margin):
  end = margin if test == 'superiority' else -margin
  moved = EFFECTS - end
  means = [
    np.mean(moved * signs) for signs in itertools.product([-1, 1], repeat=6)
  ]
  greater = np.mean(np.array(means) >= np.mean(moved) - 1e-12)
  less = np.mean(np.array(means) <= np.mean(moved) + 1e-12)
  expected = min(1, 2 * min(greater, less))
  assert statistics.paired(EFFECTS, test, margin).p == pytest.approx(expected)


def test_six_seeds_can_decide_and_five_cannot():
  for n in (5, 6):
    effects = np.linspace(1, 2, n)
    p = statistics.paired(effects, 'superiority', 0.5).p
    assert p == 2 / 2**n
    assert (p <= statistics.LEVEL) == (n == 6)


WORDS = [
  ('superiority', 0.6, 2.0, 'holds'),
  ('superiority', -2.0, 0.4, 'fails'),
  ('superiority', 0.4, 2.0, 'undecided'),
  ('superiority', 0.5, 2.0, 'undecided'),
  ('non-inferiority', -0.4, 2.0, 'holds'),
  ('non-inferiority', -2.0, -0.6, 'fails'),
  ('non-inferiority', -0.6, 2.0, 'undecided'),
  ('equivalence', -0.4, 0.4, 'equivalent'),
  ('equivalence', 0.6, 0.9, 'fails'),
  ('equivalence', -0.9, -0.6, 'fails'),
  ('equivalence', 0.4, 0.6, 'undecided'),
  ('equivalence', -0.6, 0.6, 'undecided'),
  ('correlation', 0.6, 0.9, 'holds'),
  ('correlation', -0.9, 0.4, 'fails'),
]


@pytest.mark.parametrize(('test', 'low', 'high', 'word'), WORDS)
def test_where_the_interval_lies_decides(test, low, high, word):
  assert statistics.word(test, 0.5, low, high) == word


def test_holm_by_hand(tmp_path):
  p = [0.01, 0.04, 0.03]  # Holm: 3 x 0.01, max(2 x 0.03, 0.04) twice.
  members = [
    claim(tmp_path, path=tmp_path / f'C0{i}_a.toml') for i in range(len(p))
  ]
  other = claim(tmp_path, path=tmp_path / 'C09_b.toml', family='other')
  base = statistics.paired(EFFECTS, 'superiority', 0.5)
  estimates = {
    one.name: base._replace(p=value)
    for one, value in zip([*members, other], [*p, 0.04], strict=True)
  }
  found = statistics.verdicts([*members, other], estimates)
  np.testing.assert_allclose(
    [found[x.name].p for x in members], [0.03, 0.06, 0.06]
  )
  assert [found[x.name].word for x in (*members, other)] == [
    'holds',
    'undecided',
    'undecided',
    'holds',
  ]


def test_rank_correlation_and_what_a_third_column_explains():
  rng = np.random.default_rng(0)
  size = rng.normal(size=60)
  x, y = size + 0.1 * rng.normal(size=60), size + 0.1 * rng.normal(size=60)
  found = statistics.correlation(np.stack([x, y]), 0.5)
  ranks = [np.argsort(np.argsort(v)) for v in (x, y, size)]
  expected = np.corrcoef(ranks)
  np.testing.assert_allclose(found.effect, expected[0, 1])
  assert 0.5 < found.low < found.effect < found.high <= 1
  given = statistics.correlation(np.stack([x, y, size]), 0.5)
  (xy, xz, yz) = expected[0, 1], expected[0, 2], expected[1, 2]
  partial = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
  np.testing.assert_allclose(given.effect, partial)
  assert given.low < 0.5
  assert found.p < 0.05 < given.p or given.effect < 0.5


def test_power_of_known_cases():
  # Cohen: d = 0.5 takes 34 pairs, d = 1 takes 10.
  assert statistics.seeds_needed(1.0, 0.5) == 34
  assert statistics.seeds_needed(1.0, 1.0) == 10
  assert statistics.seeds_needed(0.0, 1.0) == 2
  for deviation, seeds in ((1e-16, 2), (0.04, 2), (0.06, 3), (0.11, 3)):
    assert statistics.seeds_needed(deviation, 0.5) == seeds


# Data.


def test_effects_are_paired_by_seed(tmp_path):
  write_data(tmp_path)
  found = data.values(claim(tmp_path), tmp_path)
  np.testing.assert_allclose(found, EFFECTS)
  lower = claim(tmp_path, lower_is_better=True)
  np.testing.assert_allclose(data.values(lower, tmp_path), -EFFECTS)
  alone = {'new': {'arm': 'new', 'level': 3}}
  fixed = claim(tmp_path, arms=alone, reference=90.0)
  np.testing.assert_allclose(
    data.values(fixed, tmp_path), EFFECTS + np.arange(6) / 10
  )


def test_an_arm_at_its_best_is_chosen_on_another_column(tmp_path):
  write_data(tmp_path)
  write_data(tmp_path, name='q')
  options = [
    {'arm': 'new', 'level': 3, 'select': 'y'},
    {'arm': 'old', 'level': 3, 'page': 'q', 'select': 'y'},
  ]
  arms = {'new': options, 'old': {'arm': 'old', 'level': 3}}
  best = claim(tmp_path, arms=arms, configuration={'p': 'abc', 'q': 'abc'})
  np.testing.assert_allclose(data.values(best, tmp_path), 0, atol=1e-9)
  assert data.pages(best) == ['p', 'q']


def test_correlations_have_columns(tmp_path):
  write_data(tmp_path)
  both = claim(
    tmp_path, test='correlation', arms={'new': {'level': 3}}, against='y'
  )
  found = data.values(both, tmp_path)
  assert found.shape == (2, 12)
  np.testing.assert_allclose(found[1][::2], np.arange(6))


def broken(**changes):
  return pytest.param(changes, id=next(iter(changes)))


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    (
      {'page': 'q', 'configuration': {'p': 'abc'}},
      'names no configuration of q',
    ),
    ({'configuration': {'p': 'abc', 'q': 'x'}, 'page': 'q'}, 'q.csv, are not'),
    ({'configuration': 'xyz'}, 'about configuration xyz, but .* is of abc'),
    ({'seeds': 7}, 'have 6 seeds, but it is to be decided with 7'),
    ({'column': 'z'}, "column 'z' had None, but must be a finite number"),
    ({'column': 'arm'}, "column 'arm' had 'new', but must be a finite"),
    (
      {'arms': {'new': {'arm': 'none'}, 'old': {'arm': 'old'}}},
      "no rows of the arm 'new', {'arm': 'none'}",
    ),
    (
      {'arms': {'new': {'arm': 'new'}, 'old': {'arm': 'old'}}},
      "arm 'new' has several rows for seed 0. Narrow it down",
    ),
  ],
)
def test_data_that_do_not_fit_are_refused(tmp_path, changes, text):
  write_data(tmp_path)
  with pytest.raises(ValueError, match=rf'C01_new\.toml.*{text}'):
    data.values(claim(tmp_path, **changes), tmp_path)


def test_arms_of_different_seeds_are_refused(tmp_path):
  write_data(tmp_path)
  text = (tmp_path / 'p.csv').read_text()
  lines = [x for x in text.splitlines() if not x.startswith('old,3,5,')]
  (tmp_path / 'p.csv').write_text('\n'.join(lines) + '\n')
  with pytest.raises(ValueError, match='the arms have different seeds'):
    data.values(claim(tmp_path), tmp_path)


# Files.


@pytest.mark.parametrize(
  ('old', 'new', 'text'),
  [
    ('margin = 0.5\n', '', 'lacks margin'),
    ('seeds = 6\n', '', 'lacks seeds'),
    ('margin = 0.5', 'margin = 0', 'margin was 0, but must be above 0'),
    ('margin = 0.5', 'margin = "a"', "margin was 'a', but must be a number"),
    ('seeds = 6', 'seeds = 5', 'needs at least 6 to ever reach 5 %'),
    ('seeds = 6', 'seeds = 6\nseed = 1', 'has seed, which claims do not have'),
    ('"superiority"', '"better"', "test was 'better', but must be one of"),
    ('arms.old =', 'arms.older =', 'the arms were new, older, but must be'),
    ('"superiority"', '"correlation"', 'a correlation has `column` and'),
    ('margin = 0.5', 'margin 0.5', 'is not valid TOML'),
  ],
)
def test_files_that_could_never_be_decided(tmp_path, old, new, text):
  path = write(tmp_path, TEXT.replace(old, new))
  with pytest.raises(ValueError, match=r'C01_new\.toml') as caught:
    load(path)
  assert text in str(caught.value)


def test_names_are_unique(tmp_path):
  write(tmp_path)
  write(tmp_path, name='C01_again.toml')
  with pytest.raises(ValueError, match='several claims called C01'):
    load_all(tmp_path)


def test_claims_are_in_the_order_of_their_numbers(tmp_path):
  for name in ('C10_a', 'C100_b', 'C9_c'):
    write(tmp_path, name=f'{name}.toml')
  assert [x.name for x in load_all(tmp_path)] == ['C9', 'C10', 'C100']


# What is in the repository.


@pytest.mark.slow
def test_the_page_and_all_prose_say_what_the_data_say(capsys):
  script.main(['check'])
  assert 'all as on the page' in capsys.readouterr().out


def test_every_claim_has_a_command_that_exists():
  for one in load_all():
    name = one.command.split()[1]
    assert (page.ROOT / name).is_file(), one.path
    assert set(one.configurations) <= set(data.pages(one)), one.path


# The page and the command.


@pytest.fixture
def site(tmp_path, monkeypatch):
  """A folder with one claim, its data, and room for its page."""
  for name in ('docs', 'claims', 'results'):
    (tmp_path / name).mkdir()
  monkeypatch.setattr(page, 'PAGE', tmp_path / 'docs' / 'claims.md')
  monkeypatch.setattr(page, 'prose', lambda: [tmp_path / 'prose.md'])
  write(tmp_path / 'claims')
  write_data(tmp_path / 'results')
  (tmp_path / 'prose.md').write_text('[C01: holds](claims.md#C01_new)')
  claims = load_all(tmp_path / 'claims')
  monkeypatch.setattr(script.claim_files, 'load_all', lambda: claims)
  read = data.values
  monkeypatch.setattr(
    data, 'values', lambda one, _: read(one, tmp_path / 'results')
  )
  return tmp_path


@pytest.mark.slow
def test_page_and_figure(site, capsys):
  script.main(['page'])
  text = (site / 'docs' / 'claims.md').read_text()
  assert 'Claims: 1 (1 holds).' in text
  row = '| +3.67 [+1.40, +5.93] points | 0.5 | – | 0.031, 6 | **holds** |'
  assert row in text
  assert (site / 'docs' / 'claims.png').read_bytes().startswith(b'\x89PNG')
  script.main(['check'])
  script.main(['list'])
  script.main(['power'])
  printed = capsys.readouterr().out
  assert 'C01   holds: +3.67 [+1.40, +5.93] points' in printed
  assert 'C01   margin 0.5, deviation 2.160:' in printed


@pytest.mark.slow
def test_a_verdict_that_flips_is_an_error(site):
  script.main(['page'])
  write_data(site / 'results', -EFFECTS)
  with pytest.raises(SystemExit, match=r"prose.md says that C01 'holds', but"):
    script.main(['check'])
  (site / 'prose.md').write_text('')
  with pytest.raises(SystemExit, match=r'claims\.md is not what the data say'):
    script.main(['check'])
  (site / 'prose.md').write_text('[C77: holds](claims.md)')
  with pytest.raises(SystemExit, match='quotes C77, but there is no such'):
    script.main(['check'])


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    (['run'], 'Name the claims to run, or their --tier'),
    (['run', 'C99'], 'There is no claim C99. There are C01'),
  ],
)
def test_claims_to_run(site, options, text):
  with pytest.raises(SystemExit, match=text):
    script.main(options)


def test_fresh_seeds_are_added_to_collected_numbers(tmp_path):
  write_data(tmp_path)
  run = tmp_path / 'run'
  run.mkdir()
  shutil.copy(tmp_path / 'p.csv', run / 'results.csv')
  with pytest.raises(
    ValueError, match='has the seeds 0, 1, 2, 3, 4, 5 already'
  ):
    collect.append(run, 'p', tmp_path)
  with (run / 'results.csv').open() as file:
    rows = list(csv.DictReader(file))
  fresh = [x | {'seed': int(x['seed']) + 6} for x in rows]
  collect.tables.write_csv(run / 'results.csv', fresh)
  assert collect.next_seed('p', tmp_path) == 6
  collect.append(run, 'p', tmp_path)
  assert collect.next_seed('p', tmp_path) == 12
  assert len(data.values(claim(tmp_path, seeds=12), tmp_path)) == 12
  others = [x | {'configuration': 'xyz'} for x in fresh]
  collect.tables.write_csv(run / 'results.csv', others)
  with pytest.raises(ValueError, match='only runs that differ in their seeds'):
    collect.append(run, 'p', tmp_path)


def test_claims_are_frozen_data():
  assert FOLDER.is_dir()
  assert {x.name for x in dataclasses.fields(Claim)} >= {'margin', 'seeds'}


@pytest.fixture
def fake_run(site, monkeypatch):
  """Lets `run` find data of the seeds that it asks for; returns commands."""
  commands = []

  def run(command, **_):
    commands.append(command)
    folder = site / f'run{len(commands)}'
    folder.mkdir()
    first = 0
    if '--first-seed' in command:
      first = int(command[command.index('--first-seed') + 1])
    write_data(folder, EFFECTS + len(commands) / 10, 'results')
    with (folder / 'results.csv').open() as file:
      rows = [
        x | {'seed': first + int(x['seed'])} for x in csv.DictReader(file)
      ]
    collect.tables.write_csv(folder / 'results.csv', rows)
    (folder / 'results.md').write_text('# P\n\n![a](a.png) [n](results.csv)\n')
    (folder / 'a.png').write_bytes(b'')
    printed = f'A: b\nFigures, tables and networks: {folder}\n\nOpen:\n  a: b\n'
    return types.SimpleNamespace(returncode=0, stdout=printed)

  monkeypatch.setattr(script.subprocess, 'run', run)
  monkeypatch.setattr(data, 'RESULTS', site / 'results')
  return commands


@pytest.mark.slow
def test_a_tier_adds_seeds_and_replaces_nothing(site, fake_run, capsys):
  table = site / 'results' / 'p.csv'
  before = table.read_text()
  for times in (1, 2):
    script.main(['run', '--tier', 'cpu'])
    assert table.read_text().startswith(before)
    before = table.read_text()
    assert collect.next_seed('p', site / 'results') == 6 * (1 + times)
  assert [x[-2:] for x in fake_run] == [
    ['--first-seed', '6'],
    ['--first-seed', '12'],
  ]
  assert 'C01   holds: +3.77' in capsys.readouterr().out
  # By name, the data are those of a new run of the first seeds.
  script.main(['run', 'C01'])
  assert '--first-seed' not in fake_run[-1]
  assert collect.next_seed('p', site / 'results') == 6


@pytest.mark.slow
def test_a_tier_without_data_collects_them(site, fake_run):
  (site / 'results' / 'p.csv').unlink()
  script.main(['run', '--tier', 'cpu'])
  assert '--first-seed' not in fake_run[0]
  assert collect.next_seed('p', site / 'results') == 6


@pytest.mark.slow
def test_a_command_that_fails_stops_no_other(site, fake_run, monkeypatch):
  monkeypatch.setattr(
    script.subprocess,
    'run',
    lambda *_, **__: types.SimpleNamespace(returncode=3),
  )
  before = (site / 'results' / 'p.csv').read_text()
  with pytest.raises(SystemExit, match=r'--first-seed 6` ended with 3\. All'):
    script.main(['run', '--tier', 'cpu'])
  assert (site / 'results' / 'p.csv').read_text() == before
  assert not fake_run


@pytest.mark.slow
def test_a_verdict_that_flips_in_a_run_is_an_error(site, fake_run):
  write_data(site / 'results', -EFFECTS)
  with pytest.raises(SystemExit, match="flipped: C01 from 'fails' to 'holds'"):
    script.main(['run', 'C01'])


def test_signs_of_effects_on_fresh_seeds(site, fake_run, monkeypatch, capsys):
  monkeypatch.setattr(data, 'values', VALUES)
  for tier, runs in (('cpu', 0), ('digits', 1)):
    claims = [
      dataclasses.replace(one, tier=tier) for one in load_all(site / 'claims')
    ]
    monkeypatch.setattr(script.claim_files, 'load_all', lambda x=claims: x)
    before = (site / 'results' / 'p.csv').read_text()
    script.main(['signs'])
    assert len(fake_run) == runs
    assert (site / 'results' / 'p.csv').read_text() == before
  assert fake_run[0][-6:-1] == [
    *('--seeds', '4', '--first-seed', '6', '--output'),
  ]
  assert 'C01   +3.77 instead of +3.67' in capsys.readouterr().out
  write_data(site / 'results', -EFFECTS)
  with pytest.raises(SystemExit, match=r'C01 is \+3\.87 instead of -3\.67'):
    script.main(['signs'])


def test_claims_on_digits_are_a_tier():
  digits = [one for one in load_all() if one.tier == 'digits']
  assert [one.name for one in digits] == [f'C{n}' for n in range(90, 97)]
  # Each command is run once, and all together take about 90 seconds.
  assert len({one.command for one in digits}) == 3
  assert all('digits' in one.command + one.page for one in digits)


def test_the_tier_of_two_cores_takes_90_minutes():
  claims = load_all()
  minutes = {o.command: o.minutes for o in claims if o.tier == 'cpu'}
  assert 60 < sum(minutes.values()) <= 90
  for one in claims:
    assert one.minutes == minutes.get(one.command, one.minutes), one.name
