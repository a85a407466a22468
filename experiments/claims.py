"""Claims with verdicts: what the literature says, and what came out here.

Each file of `experiments/claims` is a claim, written before its data. The
verdict follows from committed CSVs by rules fixed in `verdicts/statistics.py`.

  python experiments/claims.py list             # all claims and their verdicts
  python experiments/claims.py check            # recomputes all; seconds
  python experiments/claims.py power            # seeds that each claim needs
  python experiments/claims.py page             # writes docs/claims.md
  python experiments/claims.py run C01 C02      # trains again, replaces data
  python experiments/claims.py run C01 --append # fresh seeds, added to the data
  python experiments/claims.py run --tier cpu   # tickets; 90 minutes, two cores
  python experiments/claims.py run --tier hours   # the others; eight hours
  python experiments/claims.py run --tier digits  # main effects; 90 seconds
  python experiments/claims.py signs    # the same; four seeds, kept nowhere

Claims that are named replace their data. A tier never does: where there are
data, it adds fresh seeds. Either ends with an error if a verdict flips.
"""

import argparse
import dataclasses
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from verdicts import claim as claim_files
from verdicts import data, page, statistics
from verdicts.claim import Claim, Tier
from verdicts.statistics import Verdict

SIGN_SEEDS = 4  # enough for the sign of a main effect
FOLDER = 'Figures, tables and networks: '  # as commands print it


def estimates(
  claims: Sequence[Claim], results: Path = data.RESULTS
) -> dict[str, statistics.Estimate]:
  """The effect of each claim that has data."""
  found = {}
  for one in claims:
    if not one.configurations:
      continue  # It has not been run.
    values = data.values(one, results)
    if one.test == 'correlation':
      found[one.name] = statistics.correlation(values, one.margin)
    else:
      found[one.name] = statistics.paired(values, one.test, one.margin)
  return found


def decide(claims: list[Claim]) -> dict[str, Verdict]:
  return statistics.verdicts(claims, estimates(claims))


def check(claims: list[Claim]) -> None:
  """Recomputes all verdicts, and compares them with the page and with prose."""
  found = decide(claims)
  page.quoted(page.prose(), found)
  text = page.PAGE.read_text(encoding='utf-8') if page.PAGE.exists() else ''
  if text != page.render(claims, found):
    raise ValueError(
      f'{page.PAGE} is not what the data say now. Look at the change, explain a'
      ' verdict that flips, and run `python experiments/claims.py page`.'
    )
  decided = sum(x.word != 'no data' for x in found.values())
  print(f'{len(claims)} claims, {decided} with verdicts: all as on the page.')


def show(claims: list[Claim]) -> None:
  """Prints all claims and their verdicts."""
  found = decide(claims)
  for one in claims:
    verdict = found[one.name]
    unit = f' {one.unit}' if verdict.estimate else ''
    print(f'{one.name:5} {verdict.text + unit:42} {one.claim}')


def power(claims: list[Claim]) -> None:
  """Prints how many paired seeds see each margin, from the seeds there are."""
  for name, estimate in estimates(claims).items():
    one = next(x for x in claims if x.name == name)
    if one.test != 'correlation':
      needed = statistics.seeds_needed(estimate.deviation, one.margin)
      print(
        f'{name:5} margin {one.margin:g}, deviation {estimate.deviation:.3f}:'
        f' {needed} seeds for a power of 80 %; has {estimate.n}'
      )


def write_page(claims: list[Claim]) -> None:
  """Writes docs/claims.md and its figure."""
  from common import figures
  from lthjax import files

  found = decide(claims)
  files.write_text(page.PAGE, page.render(claims, found))
  print(page.PAGE)
  if any(x.estimate for x in found.values()):
    drawn, place = page.draw(claims, found), page.PAGE.with_name(page.FIGURE)
    figures.save(drawn, place.parent, place.stem, ['png'])


def run(claims: list[Claim], append: bool) -> None:
  """Runs each command once, and collects what it wrote.

  With ``append``, fresh seeds join the numbers there are, which stay.
  """
  from common import collect

  known = claim_files.load_all()
  before = decide(present(known))
  commands = {one.page: one.command for one in known}
  failed = []  # The other commands are run all the same.
  names = (name for one in claims for name in data.pages(one))
  for name in dict.fromkeys(names):
    results = data.RESULTS
    script, *options = shlex.split(commands[name])[1:]
    adds = append and (results / f'{name}.csv').exists()
    if adds:
      options += ['--first-seed', str(collect.next_seed(name, results))]
    try:
      folder = call(script, options)
    except ValueError as error:
      failed.append(str(error))
      continue
    (collect.append if adds else collect.collect)(folder, name, results)
    print(f'experiments/results/{name}.csv: configuration', end=' ')
    print(collect.configuration(name, results))
  compare(claims, before)
  if failed:
    raise ValueError(f'{"; ".join(failed)}. All others were run.')


def call(script: str, options: Sequence[str]) -> Path:
  """Runs a command of the claims; returns the folder that it has written."""
  command = f'python {shlex.join([script, *options])}'
  print(f'$ {command}', flush=True)
  done = subprocess.run(
    [sys.executable, page.ROOT / script, *options],
    cwd=page.ROOT,
    stdout=subprocess.PIPE,
    text=True,
    check=False,
  )
  if done.returncode:
    raise ValueError(f'`{command}` ended with {done.returncode}')
  found = re.search(f'^{FOLDER}(.+)$', done.stdout, re.MULTILINE)
  if found is None:
    raise ValueError(f'`{command}` did not say where its results are')
  return page.ROOT / found[1]


def signs(claims: list[Claim]) -> None:
  """Trains the digits tier on fresh seeds and compares signs; keeps no data."""
  from common import collect

  tier = [one for one in claims if one.tier == 'digits' and one.configurations]
  few = [dataclasses.replace(one, seeds=SIGN_SEEDS) for one in tier]
  known = effects(few, data.RESULTS)
  commands = {one.page: one.command for one in tier}
  with tempfile.TemporaryDirectory() as folder:
    for name, command in commands.items():
      script, *options = shlex.split(command)[1:]
      first = collect.next_seed(name, data.RESULTS)
      options += ['--seeds', str(SIGN_SEEDS), '--first-seed', str(first)]
      options += ['--output', folder]
      made = call(script, options)
      shutil.copy(made / 'results.csv', Path(folder) / f'{name}.csv')
    fresh = effects(few, Path(folder))
  wrong = []
  for name, new in fresh.items():
    text = f'{new:+.2f} instead of {known[name]:+.2f}'
    print(f'{name:5} {text}')
    if new * known[name] <= 0:
      wrong.append(f'{name} is {text}')
  if wrong:
    raise ValueError(
      f'Effects have another sign on fresh seeds: {", ".join(wrong)}. Find the'
      ' change to the library that did it.'
    )


def effects(claims: Sequence[Claim], results: Path) -> dict[str, float]:
  """The mean effect of each claim."""
  return {x.name: float(data.values(x, results).mean()) for x in claims}


def present(claims: list[Claim]) -> list[Claim]:
  """The claims that miss none of their data."""
  return [
    one
    for one in claims
    if all((data.RESULTS / f'{x}.csv').exists() for x in one.configurations)
  ]


def compare(claims: list[Claim], before: Mapping[str, Verdict]) -> None:
  """Prints the verdicts of new data, and raises if one has flipped."""
  now, flipped = decide(present(claim_files.load_all())), []
  for one in claims:
    if (new := now.get(one.name)) is None:
      continue
    print(f'{one.name:5} {new.text}')
    old = before.get(one.name, new).word
    if old not in ('no data', new.word):
      flipped.append(f'{one.name} from {old!r} to {new.word!r}')
  if flipped:
    raise ValueError(
      f'Verdicts have flipped: {", ".join(flipped)}. Look at the data, explain'
      ' the change, and run `python experiments/claims.py page`.'
    )


def chosen(
  claims: list[Claim], names: Sequence[str], tier: str | None
) -> list[Claim]:
  """The claims with these names, or of a tier."""
  known = {one.name for one in claims}
  if unknown := sorted(set(names) - known):
    raise ValueError(
      f'There is no claim {", ".join(unknown)}. There are'
      f' {", ".join(sorted(known))}.'
    )
  if not names and tier is None:
    raise ValueError('Name the claims to run, or their --tier.')
  return [one for one in claims if one.name in names or one.tier == tier]


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = parser.add_subparsers(dest='command', required=True)
  actions = {
    'list': show,
    'check': check,
    'power': power,
    'page': write_page,
    'signs': signs,
  }
  for name, action in actions.items():
    does = inspect.getdoc(action) or ''
    commands.add_parser(name, help=does.partition('\n')[0], description=does)
  does = 'Trains again what claims are about; replaces their data.'
  train = commands.add_parser('run', help=does, description=does)
  train.add_argument('claims', nargs='*', metavar='CLAIM', help='such as C01')
  train.add_argument(
    '--tier',
    choices=get_args(Tier),
    help='all claims of this budget; adds fresh seeds',
  )
  train.add_argument(
    '--append', action='store_true', help='adds fresh seeds to the data'
  )
  options = parser.parse_args(arguments)
  try:
    claims = claim_files.load_all()
    if options.command == 'run':
      adds = options.append or options.tier is not None
      run(chosen(claims, options.claims, options.tier), append=adds)
    else:
      actions[options.command](claims)
  except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()
