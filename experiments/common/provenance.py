"""Pages of results, with where their numbers come from."""

import argparse
import datetime
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import timing
from common.tables import Table, markdown, wrapped
from lthjax import files


def write_page(
  path: Path, title: str, seeds: Iterable[int], *parts: str | Table
) -> None:
  """Writes a page of results; its numbers by seed are in a CSV of its name."""
  page = [
    f'# {title}',
    markdown(provenance(seeds)),
    *(markdown(x) if isinstance(x, Table) else wrapped(x) for x in parts),
    f'[The numbers of each seed]({path.stem}.csv)',
  ]
  files.write_text(path, '\n\n'.join(page) + '\n')


def provenance(seeds: Iterable[int]) -> Table:
  """The head of a page: where its numbers come from."""
  script, *options = sys.argv
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument('--output')  # A path of this machine.
  options = parser.parse_known_args(options)[1]
  command = shlex.join(['python', f'experiments/{Path(script).name}', *options])
  git = ['git', '-C', Path(__file__).parent, 'describe', '--always', '--dirty']
  describe = subprocess.run(git, capture_output=True, text=True, check=False)
  rows = {
    'command': f'`{command}`',
    'commit': describe.stdout.strip() or 'unknown',
    'machine': timing.machine(),
    'date': datetime.date.today().isoformat(),
    'seeds': ', '.join(map(str, seeds)),
  }
  return Table(['', ''], [list(row) for row in rows.items()])
