"""Options of the experiments: shared fields, and command lines."""

import argparse
import dataclasses
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from common import checks
from lthjax import runs

ModelName = Literal[
  'lenet_300_100',
  'conv_2',
  'conv_4',
  'conv_6',
  'conv_8',
  'resnet_20',
  'vgg_11',
  'vgg_16',
  'wide_resnet_22_2',
]
TITLES = {
  'lenet_300_100': 'LeNet-300-100',
  'conv_2': 'Conv-2',
  'conv_4': 'Conv-4',
  'conv_6': 'Conv-6',
  'conv_8': 'Conv-8',
  'resnet_20': 'ResNet-20',
  'vgg_11': 'VGG-11',
  'vgg_16': 'VGG-16',
  'wide_resnet_22_2': 'WRN-22-2',
  'small': 'A small network',
  'decoder': 'A small decoder',
  'python_manual': "Python's manual",
  'digits_transposed': 'transposed digits',
  'digits_permuted': 'permuted digits',
  'mnist': 'MNIST',
  'fashion_mnist': 'Fashion-MNIST',
  'cifar10': 'CIFAR-10',
  'cifar10_grey': 'gray CIFAR-10',
}
# Seeds of other kinds of random numbers begin at multiples of this.
KINDS_APART = 2**16
Fraction = tuple[tuple[str, float], ...]  # by globs of layers
# For options that are empty by default.
NONE = tyro.conf.arg(help_behavior_hint='(default: none)')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Options that all experiments share."""

  seeds: int = 3
  """Runs side by side, with consecutive seeds."""
  first_seed: int = 0
  """Seed of the first run."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder that holds the folders of all runs."""

  track: Literal['tensorboardX', 'wandb', 'mlflow', 'trackio'] | None = (
    dataclasses.field(default=None, compare=False)
  )
  """Tracker that gets the numbers as well."""

  PREFIX: ClassVar[str] = ''

  def __post_init__(self):
    checks.finite(self, *(x.name for x in dataclasses.fields(self)))
    checks.at_least(self, seeds=1, first_seed=0)
    if self.first_seed + self.seeds > KINDS_APART:
      raise ValueError(
        f'first_seed was {self.first_seed}, but seeds must stay below'
        f' {KINDS_APART}.'
      )

  @property
  def name(self) -> str:
    """Start of the name of the run's folder."""
    given = (getattr(self, name, '') for name in ('dataset', 'model'))
    parts = [self.PREFIX, *(part.replace('/', '-') for part in given)]
    return '-'.join(filter(None, parts))

  @property
  def configuration(self) -> str:
    """Hash of all options but the seeds."""
    usual = {'seeds': type(self)().seeds, 'first_seed': 0}
    return runs.config_hash(dataclasses.replace(self, **usual))

  @property
  def title(self) -> str:
    """What was trained, in words."""
    given = (getattr(self, name, '') for name in ('model', 'dataset'))
    return f'{" on ".join(map(titled, filter(None, given)))}, {seeds(self)}'


@dataclasses.dataclass(frozen=True)
class BaseConfig(RunConfig):
  """Options of experiments that train."""

  batch_size: int = 60
  """Examples per step."""
  learning_rate: float = 1.2e-3
  """Step size of the optimizer."""
  validation: int | None = None
  """Training examples held out for validation; None: about a tenth."""

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, batch_size=1, validation=1)
    checks.above_zero(self, 'learning_rate')


@dataclasses.dataclass(frozen=True)
class TrainConfig(BaseConfig):
  """Options of experiments that train one network on one data set."""

  dataset: str = 'digits'
  """digits, which comes with scikit-learn, a TFDS name such as mnist, or
  cifar10_grey, as MNIST has its images."""
  model: ModelName = 'lenet_300_100'
  """Network."""
  steps: int = 300
  """Training steps."""
  eval_every: int = 50
  """Steps between evaluations on the validation set."""
  augment: bool = False
  """Whether to crop and flip images at random."""
  weight_decay: float = 0.0
  """L2 penalty on kernels, added to the gradient."""

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, steps=1, eval_every=1, weight_decay=0)

  @property
  def budget(self) -> str:
    """How long the network trains, for the titles of figures."""
    return f'{self.steps:,} steps of {self.batch_size} examples'


@dataclasses.dataclass(frozen=True)
class TicketConfig(TrainConfig):
  """Options of experiments that find tickets level by level."""

  levels: int = 16
  """Trainings in a row to find a ticket, including the dense network's."""
  fraction: Fraction = (('output/*', 0.1), ('*', 0.2))
  """Share of alive weights to prune per level, by the first glob that fits."""
  scope: Literal['layer', 'global'] = 'layer'
  """Whether each layer has a budget of its own."""
  optimizer: Literal['adam', 'sgd'] = 'adam'
  """Adam, or SGD with momentum 0.9."""
  decay_steps: Annotated[tuple[int, ...], NONE] = ()
  """Steps at which the learning rate falls to a tenth."""
  schedule: Literal['steps', 'cosine'] = 'steps'
  """Learning rate: constant but for `decay_steps`, or a cosine to zero."""

  def __post_init__(self):
    super().__post_init__()
    if self.schedule == 'cosine' and self.decay_steps:
      raise ValueError(
        f'decay_steps was {" ".join(map(str, self.decay_steps))}, but the'
        ' schedule is cosine. Give one of the two.'
      )

  @property
  def budget(self) -> str:
    how = ', constant'
    if self.schedule == 'cosine':
      how = ' to 0 along a cosine'
    elif self.decay_steps:
      steps = ' and '.join(f'{step:,}' for step in self.decay_steps)
      how = f', a tenth from {steps} on'
    name = 'Adam' if self.optimizer == 'adam' else 'SGD'
    return f'{super().budget}, {name}, {self.learning_rate:g}{how}'


RESUME = """
Each configuration has its folder below --output. Kill the command at any time,
and start it again: it goes on where it was, with the same bits.
--help-verbose says more, and explains each option.
"""
GLUE = '\0'  # A space at which no line breaks.
# Options of programs that run in several processes at once.
TOGETHER = {'--distributed', '--coordinator', '--processes', '--process'}
VERBOSE = {'-H', '--help-verbose'}
HELP = {'-h', '--help', *VERBOSE}
Config = TypeVar('Config', bound=RunConfig)


def titled(name: str) -> str:
  """A network or data set as it is written in text."""
  return TITLES.get(name, name)


def seeds(config: RunConfig) -> str:
  """The number of seeds, in words."""
  return '1 seed' if config.seeds == 1 else f'{config.seeds} seeds'


def brief(doc: str) -> str:
  """The title of a command, its examples and its presets: one screen."""
  title, *others = doc.split('\n\n')
  first = next((i for i, x in enumerate(others) if x.startswith('  ')), 0)
  return '\n\n'.join([title, *others[first:]])


def options_of(preset: str, config: RunConfig) -> str:
  """All options with the defaults of a preset, as one paragraph."""
  names = [x.name for x in dataclasses.fields(config)]
  values = {'preset': preset} | {x: getattr(config, x) for x in names}
  parts = [
    f'--{name.replace("_", "-")} ({shown(x)})' for name, x in values.items()
  ]
  # Short ones stay on a line; of long ones, the name and what comes first.
  parts = [x.replace(' ', GLUE, -1 if len(x) < 40 else 1) for x in parts]
  text = textwrap.fill(
    '  '.join(parts),
    80,
    initial_indent='  ',
    subsequent_indent='  ',
    break_on_hyphens=False,
    break_long_words=False,
  )
  return f'\nOptions (and their defaults):\n{text.replace(GLUE, " ")}'


def shown(value: Any) -> str:
  """A default as it is typed."""
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, tuple):
    return ' '.join(map(shown, value)) or 'none'
  return 'none' if value is None else shlex.quote(str(value))


def check_alone(arguments: Sequence[str], kind: Any) -> None:
  """Refuses several processes where one has the whole grid to itself."""
  given = TOGETHER & {x.partition('=')[0] for x in arguments}
  if given and 'distributed' not in {x.name for x in dataclasses.fields(kind)}:
    raise ValueError(
      f'{min(given)} was given, but this experiment is a grid of trainings of'
      ' small networks, with all seeds side by side in one process: several'
      ' processes would have nothing to tell each other. Start a command for'
      ' each seed instead, with `--seeds 1 --first-seed N`, as'
      ' experiments/launch/slurm_seeds.sh does. One training on many hosts is'
      ' experiments/imagenet.py or experiments/launch/train.py.'
    )


def parse(
  arguments: Sequence[str], presets: Mapping[str, Config], doc: str | None
) -> Config:
  """Reads a command line: a preset, the first one by default, and changes."""
  first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  first.add_argument('--preset')
  name = first.parse_known_args(arguments)[0].preset
  if name not in presets:  # Tyro complains, unless there is none.
    name = next(iter(presets))
  if asked := HELP & set(arguments):
    if not asked & VERBOSE:
      print(f'{brief(doc or "")}{RESUME}{options_of(name, presets[name])}')
      sys.exit(0)
    print(f'{doc}{RESUME}')  # Tyro would break lines elsewhere.
  usage = tyro.conf.arg(help='Sets the defaults of all other options.')
  kind: Any = type(presets[name])
  check_alone(arguments, kind)
  choices: Any = Annotated[Literal[tuple(presets)], usage]
  options = dataclasses.make_dataclass(
    'Options',
    [
      ('preset', choices, dataclasses.field(default=name)),
      ('experiment', tyro.conf.OmitArgPrefixes[kind], presets[name]),
    ],
  )
  return tyro.cli(
    options, description='', args=arguments, compact_help=True
  ).experiment
