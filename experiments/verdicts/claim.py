"""A claim is a file, written before its data: what would be true, and when."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

FOLDER = Path(__file__).parents[1] / 'claims'
# An exact sign-flip test of n differences has no p below 2 / 2**n.
FEWEST = 6

Test = Literal['superiority', 'non-inferiority', 'equivalence', 'correlation']
Tier = Literal['digits', 'cpu', 'hours', 'accelerator']


@dataclasses.dataclass(frozen=True)
class Claim:
  """One file of `experiments/claims`."""

  claim: str
  """A sentence that is true or false."""
  source: str
  """Paper, with the section, figure or table that says so."""
  setting: str
  """Network, data and training that the verdict is about."""
  family: str
  """Claims that are corrected together for being many."""
  command: str
  """What makes the data, from the root of the repository."""
  page: str
  """The page of `experiments/results` with the data, without suffix."""
  column: str
  """The column to compare."""
  unit: str
  """What effect and margin are measured in."""
  margin: float
  """The smallest effect that matters."""
  test: Test
  seeds: int
  """Seeds to decide with: `claims.py power` says how many are needed."""
  minutes: float
  """Budget of the command on two CPU cores, or on one accelerator."""
  would_refute: str
  """The outcome that contradicts the claim."""
  arms: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Rows of the data: `new` and `old`, or `new` alone and a `reference`."""
  configuration: str | Mapping[str, str] = ''
  """Hash of the options that the data must come from; empty: no data yet.

  If arms name pages of their own, a hash for each page.
  """
  scale: float = 1.0
  """Factor from the column to the unit."""
  lower_is_better: bool = False
  """Whether the effect is how much lower `new` is."""
  reference: float | None = None
  """What `new` is compared with if there is no `old`, in the unit."""
  against: str = ''
  """Column that `column` is correlated with."""
  given: str = ''
  """Column whose influence on both is removed first."""
  paper: float | None = None
  """The effect that the source reports, in the unit."""
  tier: Tier = 'cpu'
  """Which of `claims.py run` trains it: `cpu` stays within 90 minutes."""
  path: Path = dataclasses.field(default=Path(), compare=False)

  @property
  def name(self) -> str:
    """What the claim is called in text and on command lines."""
    return self.path.stem.partition('_')[0]

  @property
  def configurations(self) -> Mapping[str, str]:
    """The hash of each page that has data."""
    if isinstance(self.configuration, str):
      return {self.page: self.configuration} if self.configuration else {}
    return self.configuration

  @property
  def anchor(self) -> str:
    return self.path.stem


def load(path: Path) -> Claim:
  """Reads a claim and refuses one that could never be decided."""
  try:
    found = tomllib.loads(path.read_text(encoding='utf-8'))
  except tomllib.TOMLDecodeError as error:
    raise ValueError(f'{path} is not valid TOML: {error}') from error
  fields = {x.name: x for x in dataclasses.fields(Claim) if x.name != 'path'}
  if unknown := sorted(found.keys() - fields.keys()):
    raise ValueError(
      f'{path} has {", ".join(unknown)}, which claims do not have. They have'
      f' {", ".join(fields)}.'
    )
  needed = [n for n, x in fields.items() if x.default is dataclasses.MISSING]
  needed = [n for n in needed if n != 'arms']
  if missing := [name for name in needed if name not in found]:
    raise ValueError(f'{path} lacks {", ".join(missing)}.')
  claim = Claim(**found, path=path)
  _check(claim)
  return claim


def load_all(folder: Path = FOLDER) -> list[Claim]:
  """All claims, by number."""

  def place(path: Path) -> tuple[int, str]:
    number = re.match(r'C(\d+)', path.stem)
    return (int(number[1]) if number else 0), path.stem

  paths = sorted(folder.glob('*.toml'), key=place)
  claims = [load(path) for path in paths]
  names = [claim.name for claim in claims]
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise ValueError(
      f'{folder} has several claims called {", ".join(twice)}: what comes'
      ' before the first underscore of a file must be unique.'
    )
  return claims


def _check(claim: Claim) -> None:
  where = claim.path
  for name, options in (('test', get_args(Test)), ('tier', get_args(Tier))):
    if getattr(claim, name) not in options:
      raise ValueError(
        f'{where}: {name} was {getattr(claim, name)!r}, but must be one of'
        f' {", ".join(options)}.'
      )
  for name in ('margin', 'scale', 'minutes', 'seeds'):
    value = getattr(claim, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise ValueError(f'{where}: {name} was {value!r}, but must be a number.')
  if claim.margin <= 0:
    raise ValueError(
      f'{where}: margin was {claim.margin}, but must be above 0: the smallest'
      ' effect that matters.'
    )
  if claim.seeds < FEWEST:
    raise ValueError(
      f'{where}: seeds was {claim.seeds}, but the sign-flip test needs at least'
      f' {FEWEST} to ever reach 5 %.'
    )
  if claim.test == 'correlation':
    if claim.arms.keys() - {'new'} or not claim.against:
      raise ValueError(
        f'{where}: a correlation has `column` and `against`, and at most the'
        ' arm `new`.'
      )
  elif not (
    claim.arms.keys() == {'new', 'old'}
    or (claim.arms.keys() == {'new'} and claim.reference is not None)
  ):
    raise ValueError(
      f'{where}: the arms were {", ".join(claim.arms) or "none"}, but must be'
      ' `new` and `old`, or `new` with a `reference`.'
    )
