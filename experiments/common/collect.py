"""Copies what a finished run shows to experiments/results, under one name.

  python experiments/common/collect.py runs/init-mnist-1a2b3c4d init_mnist

The page becomes init_mnist.md, its numbers init_mnist.csv, the first figure
init_mnist.png, and others init_mnist_NAME.png. What was written by hand below a
marker in an earlier page is kept; check that it is still true.
"""

import re
import shutil
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / 'results'
INDEX = """# Results

Every page says which command, commit, machine, date and seeds its numbers come
from. The CSV of the same name has the numbers of each seed; pages without one
were measured before CSVs were kept, and get theirs when they are run again.

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
