"""Why late rewinding works: tickets train well where training is stable.

Two copies of a network start from the same weights and see the data in
different orders. Where the error does not rise on the straight line between
them, training is stable to its own noise. This is measured from every step that
tickets may be rewound to: for the dense network, for its tickets by iterative
magnitude pruning, for the tickets' masks shuffled within their layers
(shuffled), and for the tickets' masks on new weights that were trained for as
many steps (reinit); and compared with the accuracy of each, relative to the
dense network.

Paper: Frankle et al., Linear Mode Connectivity and the Lottery Ticket
Hypothesis, arXiv:1912.05671, figures 3 and 5. It calls a network stable if the
error rises by less than 2 points.

  python experiments/linear_mode_connectivity.py                    # digits
  python experiments/linear_mode_connectivity.py --preset mnist
  python experiments/linear_mode_connectivity.py --networks ticket --copies 4

  digits    LeNet-300-100 on digits, 3 seeds. A minute on 2 CPU cores.
  mnist     LeNet-300-100 on MNIST, 3 seeds, tickets of 3.6 % of the weights.
            15 minutes on 2 CPU cores. The dense network and the ticket are
            stable from initialization on: the error rises by less than a point.
  grey_cifar10
            LeNet-300-100 on gray CIFAR-10, SGD, 10 seeds, tickets of 5 % of the
            weights. 40 minutes on 2 CPU cores. Unlike on MNIST, the dense
            network is unstable at first.
  decoder   A causal decoder of characters, 2 blocks of width 48, on
            tinyshakespeare, 10 seeds, tickets of 13 % of the weights. 45
            minutes on 2 CPU cores.
  resnet20  ResNet-20 on CIFAR-10, 1 seed, tickets of 16.8 % of the weights. For
            an accelerator: 4 million steps, perhaps half a day. In the paper,
            the dense network is stable from step 2,000 on and the ticket from
            step 500 on, and only then is it as good as the dense network.

On the line, batch statistics are recomputed from training examples.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import chex
import jax

import lthjax as lth
from common import checks, command, grid, levels, seeds, tables
from common.classification import Classification, networks, static_optimizer
from common.config import ModelName, TicketConfig
from lthjax.training import TrainState, with_masks
from methods import problems
from methods.connectivity import Line, TextLine
from reports import linear_mode_connectivity as report

Model = ModelName | Literal['decoder']
NetworkName = Literal['ticket', 'shuffled', 'reinit']


@dataclasses.dataclass(frozen=True)
class Config(TicketConfig):
  """Finds the step from which training is stable to its own noise."""

  networks: tuple[NetworkName, ...] = ('ticket', 'shuffled', 'reinit')
  """Networks to compare with the dense network."""
  rewind_steps: tuple[int, ...] = (0, 20, 100)
  """Steps to start copies from, and to rewind tickets to."""
  copies: int = 2
  """Trainings from each start, each with its own order of the data."""
  points: int = 31
  """Points on the line between two copies, the ends included."""
  train_examples: int = 10_000
  """Training examples for the training error, and for batch statistics."""

  model: Model = 'lenet_300_100'  # pyright: ignore[reportIncompatibleVariableOverride]
  """Network; a decoder reads the characters of a text."""
  width: int = 48
  """Width of a decoder's residual stream."""
  layers: int = 2
  """Blocks of a decoder."""
  heads: int = 4
  """Heads of a decoder."""
  time: int = 48
  """Characters of a sequence."""
  eval_tokens: int = 16_384
  """The most characters of a part of the text to test on."""

  PREFIX: ClassVar[str] = 'connectivity'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, train_examples=1, copies=2, levels=2, points=2)
    checks.each_once(self, 'networks', none=True)
    checks.each_once(self, 'rewind_steps')
    checks.rewindable(self, 'rewind_steps')
    checks.at_least(self, width=8, layers=1, heads=1, time=2)
    checks.at_least(self, eval_tokens=self.time)
    checks.reads(self)


PRESETS = {
  'digits': Config(),
  'mnist': Config(
    dataset='mnist', rewind_steps=(0, 50, 200, 800), steps=1500, eval_every=500
  ),
  'grey_cifar10': Config(
    dataset='cifar10_grey',
    rewind_steps=(0, 100, 400),
    seeds=10,
    points=11,
    levels=6,
    fraction=(('*', 0.45),),
    steps=3_000,
    eval_every=1_000,
    optimizer='sgd',
    learning_rate=0.05,
  ),
  'decoder': Config(
    dataset='tinyshakespeare',
    model='decoder',
    rewind_steps=(0, 50, 200),
    seeds=10,
    points=11,
    levels=5,
    fraction=(('*', 0.4),),
    steps=400,
    eval_every=200,
    batch_size=12,
    learning_rate=4e-3,
    schedule='cosine',
  ),
  'resnet20': Config(
    dataset='cifar10',
    model='resnet_20',
    networks=('ticket', 'shuffled'),
    rewind_steps=(0, 100, 500, 2_000),
    seeds=1,
    copies=3,
    levels=9,
    fraction=(('*', 0.2),),
    scope='global',
    steps=63_000,
    batch_size=128,
    optimizer='sgd',
    learning_rate=0.1,
    decay_steps=(32_000, 48_000),
    weight_decay=1e-4,
    augment=True,
    eval_every=3_000,
  ),
}


class Cell(NamedTuple):
  """One training of all seeds.

  The ``number`` is a level of pruning for ``imp``, otherwise that of a copy.
  """

  network: Literal['imp', 'dense'] | NetworkName
  rewind_step: int
  number: int
  steps: int

  @property
  def name(self) -> str:
    return f'networks/{self.network}-{self.rewind_step}-{self.number:02d}'

  @property
  def label(self) -> str:
    what = 'level' if self.network == 'imp' else 'copy'
    return f'{self.network} from {self.rewind_step}  {what} {self.number}'


def cells(config: Config) -> list[Cell]:
  """All trainings; level 0 is the same for all tickets."""
  found = [Cell('imp', 0, 0, config.steps)] if config.networks else []
  for k in sorted(config.rewind_steps):
    later = range(1, config.levels) if config.networks else ()
    found += [Cell('imp', k, level, config.steps) for level in later]
    found += [
      Cell(network, k, copy, config.steps)
      for network in ('dense', *config.networks)
      for copy in range(config.copies)
    ]
  return found


class Experiment(command.Experiment):
  """A network, its data, its training, and what lies between two copies."""

  def __init__(self, config: Config):
    self.config = config
    if config.model == 'decoder':
      text = problems.language(config)
      self.task = problems.of_text(text)
      self.line: Line = TextLine(text, points=config.points)
    else:
      images = Classification.of(config)
      self.task = problems.of_images(images)
      self.line = Line(
        images,
        points=config.points,
        train_examples=config.train_examples,
        batch_size=config.batch_size,
        augment=config.augment,
      )
    dense = lth.masks.full(self.task.params)
    tx = static_optimizer(config, dense)
    self.trainer = self.task.trainer(tx, every=config.eval_every)
    levels.check_fraction(config, self.task, dense)
    self.dense = seeds.repeat(dense, config.seeds)
    self.keys, self.new_keys, self.shuffle_keys, self.copy_keys = seeds.keys(
      config, 4
    )
    self.start = functools.cache(self._start)

  @functools.cached_property
  def like(self) -> dict[str, Any]:
    return networks(jax.eval_shape(self.trainer.init, self.keys))

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:

    def load(network, number, step=cell.rewind_step):
      known = cell._replace(network=network, number=number, rewind_step=step)
      return store.load(known.name, self.like)

    others = {}
    if cell.network == 'imp':
      before = None
      if last := cell.number:  # Level 0 is kept as that of step 0.
        step = cell.rewind_step if last > 1 else 0
        before = load('imp', last - 1, step)
      state = self.level(cell, before, evaluated)
    else:
      masks = self.dense
      if cell.network != 'dense':
        masks = load('imp', self.config.levels - 1)['masks']
      state = self.copy(cell, masks, evaluated)
      others = {i: load(cell.network, i)['params'] for i in range(cell.number)}
    kept = networks(state)
    return {
      **cell._asdict(),
      'density': lth.masks.density(kept['masks']),
      **self.task.test(state),
      'pairs': [
        {'other': i, **tables.finite(self.line.between(params, state.params))}
        for i, params in others.items()
      ],
    }, kept

  def fit(self, state: TrainState, report=None, until=None) -> TrainState:
    until = self.config.steps if until is None else until
    data = self.task.data
    return self.trainer.fit(state, data, until=until, report=report)

  def _start(self, step: int, new: bool = False) -> TrainState:
    """Dense networks after so many steps, perhaps from new weights."""
    keys = self.new_keys if new else self.keys
    return self.fit(self.trainer.init(keys), until=step)

  def level(self, cell: Cell, before: Any, report) -> TrainState:
    """Prunes the trained level before, rewinds, and trains."""
    start = self.start(cell.rewind_step)
    ticket = levels.next_ticket(
      lth.tickets.imp,
      lambda state, masks: self.fit(with_masks(state, masks), report),
      start,
      self.dense,
      levels.ticket(cell.number - 1, start, before),
      self.config,
    )
    return ticket.trained

  def copy(self, cell: Cell, masks: chex.ArrayTree, report) -> TrainState:
    state = self.start(cell.rewind_step, new=cell.network == 'reinit')
    if cell.network == 'shuffled':
      masks = jax.vmap(lth.masks.shuffle)(self.shuffle_keys, masks)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    state = state._replace(key=fold_in(self.copy_keys, cell.number))
    return self.fit(with_masks(state, masks), report)

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    problems.check_compiled(self.task)


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
