"""Cards for the gallery: picture, claim and command of each results page."""

import pathlib
import re
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENTS = ROOT / 'experiments'
HEAD = """# Gallery

One card for each results page that has a picture and the command that draws
it. The claim is that of the [list of experiments](/experiments/README.md).

"""


LISTED = """
```{toctree}
:glob:
:hidden:

/experiments/results/README
/experiments/results/*
```
"""


class Card(NamedTuple):
  """What a card shows of a results page."""

  page: str
  title: str
  picture: str
  command: str
  claim: str
  verdicts: str


def claims() -> dict[str, str]:
  """Returns the claim of each results page, from the list of experiments."""
  found, claim = {}, ''
  for row in (EXPERIMENTS / 'README.md').read_text().splitlines():
    cells = [cell.strip() for cell in row.strip('| ').split(' | ')]
    pages = re.findall(r'\(results/(\w+)\.md\)', row)
    if row.startswith('| ') and not row.startswith('| | '):
      claim = re.sub(r' \([^()]*\)$', '', cells[0])
    found |= dict.fromkeys(pages, claim)
  return found


def verdicts() -> dict[str, str]:
  """Returns the verdicts of the claims that each results page decides."""
  text = (ROOT / 'docs' / 'claims.md').read_text()
  said = dict(re.findall(r'</a>(\w+) \|.*\| \*\*(.+?)\*\* \|$', text, re.M))
  found = {}
  for path in sorted((EXPERIMENTS / 'claims').glob('*.toml')):
    page = tomllib.loads(path.read_text())['page']
    name = path.stem.partition('_')[0]
    if said.get(name, 'no data') != 'no data':
      link = f'[{name}](/docs/claims.md)'
      found.setdefault(page, []).append(f'{link} {said[name]}')
  return {page: ', '.join(lines) for page, lines in found.items()}


def cards() -> list[Card]:
  """Returns the cards; pages without a picture or a command have none."""
  found, claim, verdict = [], claims(), verdicts()
  for path in sorted((EXPERIMENTS / 'results').glob('*.md')):
    text = path.read_text()
    picture = re.search(r'!\[[^]]*\]\(([\w.]+)\)', text)
    command = re.search(r'^\| commands? \| `([^`]+)`', text, re.M)
    if picture and command:
      name, title = path.stem, text.partition('\n')[0].lstrip('# ')
      found.append(
        Card(
          *(name, title, picture[1], command[1]),
          *(claim.get(name, ''), verdict.get(name, '')),
        )
      )
  return found


def page() -> str:
  """Returns the Markdown of the gallery."""
  parts = [HEAD, '::::{grid} 1 2 2 3\n:gutter: 3\n\n']
  for card in cards():
    verdict = f'\n\nClaims: {card.verdicts}.' if card.verdicts else ''
    parts.append(
      f':::{{grid-item-card}} {card.title}\n'
      f':img-top: /experiments/results/{card.picture}\n'
      f':img-alt: {card.title}\n\n'
      f'{card.claim}{verdict}\n\n`{card.command}`\n\n'
      f'[Results](/experiments/results/{card.page}.md)\n:::\n\n'
    )
  return ''.join([*parts, '::::\n', LISTED])
