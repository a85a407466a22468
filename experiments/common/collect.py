"""Copies what a finished run shows to experiments/results, under one name.

  python experiments/common/collect.py runs/init-digits-1a2b3c4d init_digits

The page becomes init_digits.md, its numbers init_digits.csv, the first figure
init_digits.png, and others init_digits_NAME.png. What was written by hand below
a marker in an earlier page is kept; check that it is still true.
"""

import csv
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import tables

RESULTS = Path(__file__).parents[1] / 'results'
INDEX = """# Results

Every page says which command, commit, machine, date and seeds its numbers come
from. The CSV of the same name has the numbers of each seed. Pages without one
were measured before CSVs were kept, and get theirs when they are run again;
until then, their deviations divide by the number of seeds, not by one less.

| Page | Command | Numbers of each seed |
|---|---|---|
"""
MARKER = '<!-- Written by hand: kept when the results are collected again. -->'


def collect(run: Path, name: str, results: Path = RESULTS) -> list[Path]:
  page = (run / 'results.md').read_text(encoding='utf-8')
  links = re.findall(r'\]\(([^)/]+\.(?:png|csv))\)', page)
  figures = [link for link in links if link.endswith('.png')]
  copied = []
  for link in links:
    stem, _, kind = link.partition('.')
    first = kind == 'csv' or link == figures[0]
    new = f'{name}.{kind}' if first else f'{name}_{stem}.{kind}'
    page = page.replace(f']({link})', f']({new})')
    copied.append(results / shutil.copy(run / link, results / new))
  path = results / f'{name}.md'
  known = path.read_text(encoding='utf-8') if path.exists() else ''
  _, _, by_hand = known.partition(MARKER)
  by_hand = by_hand.strip('\n')
  path.write_text(f'{page}\n{MARKER}\n\n{by_hand}\n', encoding='utf-8')
  (results / 'README.md').write_text(index(results), encoding='utf-8')
  return [path, *copied]


def append(run: Path, name: str, results: Path = RESULTS) -> None:
  """Adds the rows of another run, of fresh seeds, to collected numbers."""
  old, new = read(results / f'{name}.csv'), read(run / 'results.csv')
  whose = {row.get('configuration') for row in (*old, *new)}
  if len(whose) != 1 or None in whose:
    raise ValueError(
      f'{run} is of configuration {new[0].get("configuration")}, but'
      f' {results / name}.csv of {old[0].get("configuration")}: only runs that'
      ' differ in their seeds can be put together.'
    )
  if twice := {x['seed'] for x in old} & {x['seed'] for x in new}:
    raise ValueError(
      f'{results / name}.csv has the seeds {", ".join(sorted(twice))} already.'
    )
  tables.write_csv(results / f'{name}.csv', [*old, *new])


def next_seed(name: str, results: Path = RESULTS) -> int:
  """The first seed that collected numbers do not have."""
  return 1 + max(int(row['seed']) for row in read(results / f'{name}.csv'))


def configuration(name: str, results: Path = RESULTS) -> str:
  """The hash of the options that collected numbers come from."""
  return read(results / f'{name}.csv')[0]['configuration']


def read(path: Path) -> list[dict[str, str]]:
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def index(results: Path = RESULTS) -> str:
  lines = []
  for path in sorted(results.glob('*.md')):
    page = path.read_text(encoding='utf-8')
    command = re.search(r'\| commands? \| `python experiments/(.*?)`', page)
    if path.name != 'README.md' and command:
      title = page.partition('\n')[0].removeprefix('# ')
      numbers = f'[CSV]({path.stem}.csv)'
      if not path.with_suffix('.csv').exists():
        numbers = '–'
      lines.append(f'| [{title}]({path.name}) | `{command[1]}` | {numbers} |\n')
  return INDEX + ''.join(lines)


if __name__ == '__main__':
  if len(sys.argv) != 3:
    sys.exit(__doc__)
  print(*collect(Path(sys.argv[1]), sys.argv[2]), sep='\n')
