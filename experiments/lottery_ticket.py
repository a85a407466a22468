"""Winning tickets: a sparse network, rewound to its initialization, trains.

Finds tickets by iterative magnitude pruning, and trains next to each of them
the controls that it has to beat: the same mask on new weights (reinit), the
same weights under a mask shuffled within its layers (shuffled), and others,
which keep some of sign, magnitude and mask (see the table in
`methods/controls.py`).

Paper: Frankle & Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635,
figures 3 to 5; with `--rewind-step` Frankle et al., Linear Mode Connectivity
and the Lottery Ticket Hypothesis, arXiv:1912.05671. Signs: Zhou et al.,
Deconstructing Lottery Tickets, arXiv:1905.01067, figure 5.

  python experiments/lottery_ticket.py                    # digits
  python experiments/lottery_ticket.py --preset mnist
  python experiments/lottery_ticket.py --preset mnist --seeds 8
  python experiments/lottery_ticket.py --preset mnist --sparse-from 0.25

  digits    LeNet-300-100 on digits, 5 seeds. Under a minute on 2 CPU cores.
            At 2 % of the weights, the ticket is at least 2 points above reinit
            and 10 above shuffled.
  mnist     LeNet-300-100 on MNIST, 3 seeds. 6 minutes on 2 CPU cores.
            At 3.6 %, it is at least 1.5 points above reinit and 3.5 above
            shuffled.
  signs     Which of sign, magnitude and mask carries the ticket: all controls
            at 21.1 and 3.6 %, on MNIST. 5 minutes on 2 CPU cores. With its mask
            and its signs alone, a network is within half a point of the ticket.
  claims    LeNet-300-100 on MNIST, 10 seeds, evaluated every 50 steps: what the
            claims are decided with, beside networks that are pruned at once.
            20 minutes on 2 CPU cores.
  claims_cosine
            The same with a learning rate that falls to zero along a cosine.
  conv2     Conv-2 on CIFAR-10, 3 seeds. For an accelerator: a million steps,
            perhaps an hour. In the paper, the ticket is up to 3.4 points above
            the dense network, at 4.6 %.
  resnet20  ResNet-20 on CIFAR-10, 1 seed, rewound to step 2,000. For an
            accelerator: 1.5 million steps, perhaps four hours. In the paper,
            the ticket matches the dense network down to about 13 %; reinit does
            not.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import chex
import jax
import numpy as np

import lthjax as lth
from common import checks, command, grid, levels, seeds
from common.classification import Classification, image_shape, static_optimizer
from common.config import TicketConfig
from lthjax import files
from lthjax.tickets import Ticket
from lthjax.training import Trainer, TrainState, with_masks
from methods import controls
from methods.alive_only import AliveOnly, milliseconds
from methods.controls import Control
from reports import lottery_ticket as report

REWINDS = {
  'weights': lth.tickets.rewind_weights,
  'learning_rate': lth.tickets.rewind_learning_rate,
}


@dataclasses.dataclass(frozen=True)
class Config(TicketConfig):
  """Finds lottery tickets and trains their controls."""

  seeds: int = 5
  levels: int = 19
  controls: tuple[Control, ...] = (
    'reinit',
    'shuffled',
    'sign_preserved',
    'signed_constant',
  )
  """Controls to train beside each ticket."""
  control_every: int = 2
  """Levels from one with controls to the next; the last level has them."""
  rewind: Literal['weights', 'learning_rate'] = 'weights'
  """What to rewind after pruning: everything, or all but the weights."""
  rewind_step: int = 0
  """Step to rewind to; 0 is initialization."""
  sparse_from: float | None = None
  """Density from which on alive weights train alone, with sparse kernels."""

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, levels=1, control_every=1)
    checks.each_once(self, 'controls', none=True)
    checks.rewindable(self, 'rewind_step')
    if self.sparse_from is not None:
      checks.between_0_and_1(
        self, 'sparse_from', because=': a share of weights'
      )
    if self.rewind_step // self.eval_every == self.steps // self.eval_every:
      raise ValueError(
        f'There is no evaluation from step {self.rewind_step} to step'
        f' {self.steps} when eval_every is {self.eval_every}, and so no best'
        ' step. Evaluate more often, or train longer.'
      )


MNIST = Config(dataset='mnist', seeds=3, levels=16, steps=1500, eval_every=150)
CLAIMS = dataclasses.replace(
  MNIST,
  seeds=10,
  eval_every=50,
  controls=(
    'reinit',
    'sign_preserved',
    'shuffled',
    'shuffled_input',
    'one_shot',
    'one_shot_matched',
  ),
  control_every=5,
)
PRESETS = {
  'digits': Config(),
  'mnist': MNIST,
  'signs': dataclasses.replace(MNIST, controls=controls.PARTS, control_every=8),
  'claims': CLAIMS,
  'claims_cosine': dataclasses.replace(CLAIMS, schedule='cosine'),
  'conv2': Config(
    dataset='cifar10',
    model='conv_2',
    seeds=3,
    levels=16,
    fraction=(('output/*', 0.1), ('conv*', 0.1), ('*', 0.2)),
    steps=20_000,
    learning_rate=2e-4,
    eval_every=500,
  ),
  'resnet20': Config(
    dataset='cifar10',
    model='resnet_20',
    seeds=1,
    levels=16,
    fraction=(('*', 0.2),),
    scope='global',
    controls=('reinit', 'shuffled'),
    rewind_step=2_000,
    steps=63_000,
    batch_size=128,
    optimizer='sgd',
    learning_rate=0.1,
    decay_steps=(32_000, 48_000),
    weight_decay=1e-4,
    augment=True,
    eval_every=1_000,
  ),
}


class Cell(NamedTuple):
  """One training of all seeds: a ticket, or a control beside it."""

  level: int
  control: Literal['ticket'] | Control
  steps: int

  @property
  def name(self) -> str:
    if self.control == 'ticket':
      return f'tickets/{self.level:02d}'
    return f'controls/{self.level:02d}-{self.control}'

  @property
  def label(self) -> str:
    return f'level {self.level}  {self.control}'


def cells(config: Config) -> list[Cell]:
  """All trainings: level by level, first the ticket and then its controls."""
  return [
    Cell(level, control, config.steps)
    for level in range(config.levels)
    for control in ('ticket', *controls_at(config, level))
  ]


def controls_at(config: Config, level: int) -> tuple[Control, ...]:
  """The controls to train at a level; the dense network has none."""
  left = config.levels - 1 - level
  wanted = level > 0 and left % config.control_every == 0
  return tuple(
    control
    for control in (config.controls if wanted else ())
    if control != 'one_shot_matched' or not left  # as long as all levels
  )


class Experiment(command.Experiment):
  """Everything that is compiled once: a network, its data and its training."""

  def __init__(self, config: Config):
    self.config = config
    self.task = Classification.of(config)
    dense = lth.masks.full(self.task.params)
    levels.check_fraction(config, self.task, dense)
    self.tx = static_optimizer(config, dense)
    self.trainer = self.task.trainer(self.tx, every=config.eval_every)
    self.masks = seeds.repeat(dense, config.seeds)
    self.keys, self.control_keys = seeds.keys(config, 2)
    self._last: Ticket | None = None
    self._alive: AliveOnly | None = None
    if config.sparse_from is not None:
      AliveOnly(self.task, config, self.masks)  # Raises now if it cannot be.

  @functools.cached_property
  def frozen(self) -> tuple[Classification, Trainer]:
    """The network whose dead weights are not zero, and its training."""
    model = controls.beside_frozen(self.task.model)
    task = self.task.with_model(model)
    return task, task.trainer(self.tx, every=self.config.eval_every)

  @functools.cached_property
  def start(self) -> TrainState:
    """Dense networks at the step to rewind to."""
    state = self.trainer.init(self.keys)
    return self.fit(state, until=self.config.rewind_step)

  def fit(
    self, state: TrainState, *, until: int, report=None, control='ticket'
  ) -> TrainState:
    trainer = self.frozen[1] if control == 'frozen' else self.trainer
    return trainer.fit(state, self.task.dataset, until=until, report=report)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:

    def train(state, masks):
      state, until = with_masks(state, masks), self.config.steps
      if self.is_sparse(cell, masks):
        alive = self.alive_only(cell, masks, store)
        return alive.fit(state, masks, until=until, report=evaluated)
      return self.fit(
        state, until=until, report=evaluated, control=cell.control
      )

    if cell.control == 'ticket':
      ticket = self.next_ticket(cell.level, store, train)
      result = self.test(cell, ticket.trained, ticket.masks)
      if self._alive and cell.level == self.config.levels - 1:
        times = self.time_steps(self._alive, ticket.masks)
        result['milliseconds'] = times
      return result, self._keep(ticket)
    ticket = self.ticket(cell.level, store)
    state, masks = self.begin(cell.control, ticket, store)
    result = self.test(cell, train(state, masks), masks)
    return result, np.float32(result['test_accuracy'])

  def is_sparse(self, cell: Cell, masks: chex.ArrayTree) -> bool:
    """Returns whether a cell trains alive weights only."""
    share = self.config.sparse_from
    if share is None or cell.control == 'frozen':
      return False
    return float(np.max(lth.masks.density(masks))) <= share

  def alive_only(
    self, cell: Cell, masks: chex.ArrayTree, store: grid.Store
  ) -> AliveOnly:
    """Training of alive weights, with room for those of its first level."""
    if self._alive is None:
      for level in range(cell.level):
        known = store.has(name := f'tickets/{level:02d}') and store.read(name)
        if known and known['density'] <= (self.config.sparse_from or 0):
          masks = self.ticket(level, store).masks
          break
      self._alive = AliveOnly(self.task, self.config, masks)
    return self._alive

  def time_steps(
    self, alive: AliveOnly, masks: chex.ArrayTree
  ) -> dict[str, float]:
    """Milliseconds of a training step of all seeds, both ways."""
    first, every = self.config.rewind_step, self.config.eval_every
    until = min(self.config.steps, first + every)
    start = with_masks(self.start, masks)
    return milliseconds(
      {
        'masked': lambda: self.fit(start, until=until).params,
        'alive only': lambda: alive.fit(start, masks, until=until).params,
      },
      until - first,
    )

  def next_ticket(self, level: int, store: grid.Store, train: Any) -> Ticket:
    """Prunes the ticket of the level before, rewinds, and trains."""
    later = range(level + 1, self.config.levels)
    if left := [f'{n:02d}' for n in later if store.has(f'tickets/{n:02d}')]:
      raise ValueError(
        f'{store.folder}/tickets/{level:02d} is missing, but later levels are'
        f' there: {", ".join(left)}. Move them away as well, and they will be'
        ' trained again.'
      )
    return levels.next_ticket(
      lth.tickets.imp,
      train,
      self.start,
      self.masks,
      self.ticket(level - 1, store) if level else None,
      self.config,
      rewind=REWINDS[self.config.rewind],
    )

  def ticket(self, level: int, store: grid.Store) -> Ticket:
    """A ticket that was trained before, by this process or by another."""
    if self._last is not None and self._last.level == level:
      return self._last
    state = jax.eval_shape(self.trainer.init, self.keys)
    like = Ticket(0, 0.0, self.masks, state.params, slim(state), None)
    return store.load(f'tickets/{level:02d}', like)

  def begin(
    self, name: Control, ticket: Ticket, store: grid.Store
  ) -> tuple[TrainState, chex.ArrayTree]:
    """Where a control starts, and its masks."""
    if name in ('one_shot', 'one_shot_matched'):
      dense = self.ticket(0, store).trained
      if name == 'one_shot_matched':
        dense = self.trained_longer(ticket.level)
      return self.start, controls.largest(dense.params, ticket.masks)
    fresh = self.trainer.init(self.control_keys)
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(
      self.control_keys, ticket.level
    )
    return controls.begin(name, keys, self.start, fresh, ticket.masks, self.tx)

  def trained_longer(self, level: int) -> TrainState:
    """Dense networks, trained for as many steps as the search for a ticket."""
    config = self.config
    steps = config.rewind_step + level * (config.steps - config.rewind_step)
    task = self.task.with_model(self.task.model)
    dense = lth.masks.full(self.task.params)
    tx = static_optimizer(dataclasses.replace(config, steps=steps), dense)
    trainer = task.trainer(tx, every=steps)
    return trainer.fit(trainer.init(self.keys), task.dataset, until=steps)

  def test(self, cell: Cell, state: TrainState, masks: Any) -> grid.Result:
    """Accuracy on the test set, at the end and at the best validation step."""
    task = self.frozen[0] if cell.control == 'frozen' else self.task
    best = state.best
    at_best = task.test_accuracy(best.params, best.model_state)
    return {
      'level': cell.level,
      'density': lth.masks.density(masks),
      'control': cell.control,
      **task.test(state),
      'best_step': best.step.tolist(),
      'test_accuracy_at_best': at_best,
    }

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    self.task.check_compiled()
    if self._alive:
      self._alive.task.check_compiled()
    dense, last = (
      self.ticket(level, store) for level in (0, self.config.levels - 1)
    )
    pixels = image_shape(self.task.dataset)
    if self.config.model != 'lenet_300_100':
      pixels = None  # Convolutions look at all pixels alike.
    text = report.capacity(dense, last, pixels)
    files.write_text(store.folder / 'report.html', text)

  def _keep(self, ticket: Ticket) -> Ticket:
    """What is kept of a ticket, on disk and for the next level."""
    start, trained = ticket.start.params, slim(ticket.trained)
    self._last = ticket._replace(start=start, trained=trained)
    return self._last


def slim(state: TrainState) -> TrainState:
  return state._replace(opt_state=None, key=None, best=None)


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
