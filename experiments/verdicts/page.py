"""The page of claims, and its forest figure."""

import functools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from verdicts import statistics
from verdicts.claim import Claim
from verdicts.statistics import Verdict

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'claims.md'
FIGURE = 'claims.png'
FEW = 30  # Claims that fit below each other; more take two columns.
TICKS = (-100, -10, -1, 0, 1, 10, 100)
# Colors that people with color blindness can tell apart, and shapes as well.
STYLES = {
  'holds': ('#009e73', 'o'),
  'equivalent': ('#56b4e9', 's'),
  'fails': ('#d55e00', 'X'),
  'undecided': ('#8a8a8a', 'D'),
}
HEAD = """# Claims

What the literature claims about lottery tickets and sparse training, and what
came out here. Each claim is a file in `experiments/claims`, written before its
data: what is compared, the smallest difference that matters (the *margin*),
the seeds, and what would refute it. Effects are paired by seed and have a 95 %
interval. A claim *holds* if all of the interval is beyond the margin, *fails*
if none of it is, and is *undecided* otherwise, or if the exact sign-flip test
does not reach 5 % after Holm's correction over its family. *Equivalent* means
that the interval lies within the margin on both sides. A verdict is about its
setting and no other.

```
python experiments/claims.py check    # recomputes all of this, in seconds
python experiments/claims.py run C01  # trains again, and replaces the data
```
"""
# A verdict in prose, such as [C05: holds](claims.md#c05_one_shot).
QUOTED = re.compile(r'\[(C\d+\w?): ([a-z ]+)\]')


def render(claims: list[Claim], found: Mapping[str, Verdict]) -> str:
  """The page, with one table per family."""
  counts = {
    word: sum(x.word == word for x in found.values())
    for word in (*STYLES, 'no data')
  }
  total = ', '.join(f'{n} {word}' for word, n in counts.items() if n)
  parts = [HEAD, f'Claims: {len(claims)} ({total}).\n']
  if any(x.estimate for x in found.values()):
    parts.append(
      '![Effects of all claims in units of their margins, with intervals; the'
      f' table has the same numbers]({FIGURE})\n'
    )
  for family in dict.fromkeys(claim.family for claim in claims):
    members = [claim for claim in claims if claim.family == family]
    parts.append(f'## {family[0].upper()}{family[1:]}\n')
    parts.append(
      '|  | claim and setting | effect, 95 % interval | margin | paper | p, n |'
      ' verdict |\n|---|---|---|---|---|---|---|\n'
      + '\n'.join(_row(claim, found[claim.name]) for claim in members)
      + '\n'
    )
    parts += [_details(claim, found[claim.name]) for claim in members]
  return '\n'.join(parts)


def draw(claims: list[Claim], found: Mapping[str, Verdict]):
  """One line per claim with data: effect over margin, and its interval."""
  from common import figures

  shown = [claim for claim in claims if found[claim.name].estimate]
  across = 1 if len(shown) <= FEW else 2
  down = -(-len(shown) // across)
  size = (9.2 * across, 1.3 + 0.34 * down)
  fig, axes = figures.panels(1, across, size, sharex=True)
  for column, ax in enumerate(axes[0]):
    some = shown[column * down : (column + 1) * down]
    for place, claim in enumerate(some):
      _line(ax, place, claim, found[claim.name])
    ax.set_xscale('symlog', linthresh=2)
    ax.set_xticks(TICKS, [f'{tick:g}' for tick in TICKS])
    for edge in (-1, 0, 1):
      ax.axvline(edge, color='0.75', lw=0.8, ls='-' if edge else ':', zorder=0)
    ax.set_yticks(
      range(len(some)),
      [f'{_short(claim.claim)}  {claim.name}' for claim in some],
      fontsize=7.5,
    )
    ax.set_ylim(down - 0.3, -0.7)  # The first is on top.
    ax.set_xlabel('effect / smallest effect that matters')
    figures.decorate(ax)
  ax = axes[0, 0]
  for word, (color, marker) in STYLES.items():
    ax.plot([], [], marker, color=color, label=word)
  ax.plot([], [], '|', color='k', ms=11, mew=1.6, label="the paper's value")
  figures.title_all(fig, 'Claims and their 95 % intervals, paired by seed')
  figures.legend(fig, axes, ncols=5)
  return fig


def _line(ax: Any, place: int, claim: Claim, verdict: Verdict) -> None:
  """Draws the interval of one claim, and the value of its paper."""
  estimate, unit = verdict.estimate, claim.margin
  assert estimate is not None
  color, marker = STYLES[verdict.word]
  ends = [estimate.low / unit, estimate.high / unit]
  ax.plot(ends, [place, place], color=color, lw=2)
  ax.plot(estimate.effect / unit, place, marker, color=color, ms=6)
  if claim.paper is not None:
    ax.plot(claim.paper / unit, place, '|', color='k', ms=11, mew=1.6)


def quoted(paths: Iterable[Path], found: Mapping[str, Verdict]) -> None:
  """Raises where prose gives a verdict that the data do not carry."""
  for path in paths:
    for name, word in QUOTED.findall(path.read_text(encoding='utf-8')):
      if name not in found:
        raise ValueError(f'{path} quotes {name}, but there is no such claim.')
      if (now := found[name].word) != word:
        raise ValueError(
          f'{path} says that {name} {word!r}, but its verdict is {now!r}.'
        )


def prose() -> list[Path]:
  """The pages that may quote verdicts."""
  folders = [
    ROOT,
    ROOT / 'docs',
    ROOT / 'experiments',
    ROOT / 'experiments/results',
  ]
  pages = [path for folder in folders for path in sorted(folder.glob('*.md'))]
  return [path for path in pages if path != PAGE]


def _row(claim: Claim, verdict: Verdict) -> str:
  cells = [
    f'<a id="{claim.anchor}"></a>{claim.name}',
    f'{claim.claim}. *{claim.setting}* ({claim.source})',
  ]
  if estimate := verdict.estimate:
    number = functools.partial(_number, claim)
    effect, low, high = map(number, estimate[:3])
    cells.append(f'{effect} [{low}, {high}] {claim.unit}')
  else:
    cells.append('–')
  bound = '±' if claim.test == 'equivalence' else ''
  sign = '-' if claim.test == 'non-inferiority' else bound
  cells.append(f'{sign}{claim.margin:g}')
  cells.append('–' if claim.paper is None else f'{claim.paper:+g}')
  p = f'{verdict.p:.3f}, {verdict.estimate.n}' if verdict.estimate else '–'
  cells += [p, f'**{verdict.word}**']
  return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'


def _details(claim: Claim, verdict: Verdict) -> str:
  lines = [
    f'- **{claim.name}**: `{claim.command}`, about {claim.minutes:g} minutes.'
  ]
  compared = {
    'superiority': 'is above the margin',
    'non-inferiority': 'is at most the margin worse',
    'equivalence': 'is within the margin',
    'correlation': 'has a rank correlation above the margin',
  }[claim.test]
  lines.append(
    f'  Test: {claim.test} ({claim.column} {compared}), {claim.seeds} seeds or'
    f' rows. Refuted if {claim.would_refute}.'
  )
  if estimate := verdict.estimate:
    low, high = (_number(claim, x) for x in estimate.bootstrap)
    deviation = _number(claim, estimate.deviation, '')
    needed = statistics.seeds_needed(estimate.deviation, claim.margin)
    extra = f'  Bootstrap (BCa): [{low}, {high}].'
    if claim.test != 'correlation':
      extra += (
        f' Standard deviation over seeds {deviation}: {needed}'
        ' seeds see the margin with a power of 80 %.'
      )
    pages = [f'../experiments/results/{x}' for x in claim.configurations]
    links = ', '.join(f'[page]({x}.md), [data]({x}.csv)' for x in pages)
    lines.append(f'{extra} From {links}.')
  return '\n'.join(lines) + '\n'


def _number(claim: Claim, value: float, sign: str = '+') -> str:
  """A number with one more decimal than the margin, and at least two."""
  after = 1 - math.floor(math.log10(claim.margin)) if claim.margin else 2
  return f'{value:{sign}.{max(after, 2)}f}'


def _short(text: str, most: int = 60) -> str:
  """The text in at most two lines."""
  lines = textwrap.wrap(text, most, break_on_hyphens=False)
  return '\n'.join(lines[:2]) + (' …' if len(lines) > 2 else '')
