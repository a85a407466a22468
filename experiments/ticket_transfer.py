"""Tickets for other data: what in a ticket belongs to the data it comes from?

Finds a ticket on each of several data sets by iterative magnitude pruning, and
trains it on each of the others in two ways: its masks alone, on weights drawn
for the target (masks), and its masks with its initial weights (weights).
Compares each with a random ticket, which has as many weights in each layer, and
with the ticket found on the target itself.

Paper: Morcos et al., One ticket to win them all: generalizing lottery ticket
initializations across datasets and optimizers, arXiv:1906.02773, figures 3 to
6. There, convolutional networks share tickets, and tickets of larger data sets
are better.

  python experiments/ticket_transfer.py                   # digits
  python experiments/ticket_transfer.py --preset images
  python experiments/ticket_transfer.py --preset images --fresh 'output/*'

  digits  LeNet-300-100 between digits, digits mirrored along their diagonal,
          and digits with permuted pixels, 3 seeds. A minute on 2 CPU cores. On
          its own data, a ticket with its weights is at least 4 points above a
          random one. On the permuted pixels, the other tickets are no better
          than random.
  images  LeNet-300-100 between MNIST, Fashion-MNIST and the middle 28 x 28
          pixels of gray CIFAR-10; 3 seeds, tickets of 3.6 % of the weights. 10
          minutes on 2 CPU cores. On its own data, a ticket with its weights is
          4 to 7 points above a random one; elsewhere, at most 1.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import optax

import lthjax as lth
from common import checks, command, config, grid, levels, seeds
from common.classification import Classification, networks
from lthjax.tickets import Ticket
from lthjax.training import TrainState, with_masks
from methods import transfer
from reports import ticket_transfer as report


@dataclasses.dataclass(frozen=True)
class Config(config.BaseConfig):
  """Trains tickets on data that they were not found on."""

  datasets: tuple[str, ...] = ('digits', 'digits_transposed', 'digits_permuted')
  """Sources and targets: data sets of the presets, or TFDS names."""
  model: config.ModelName = 'lenet_300_100'
  """Network."""
  steps: int = 300
  """Training steps."""
  eval_every: int = 100
  """Steps between evaluations on the validation set."""
  fresh: Annotated[tuple[str, ...], config.NONE] = ()
  """Globs of layers that are not transferred, such as 'output/*'."""
  levels: int = 16
  """Trainings in a row to find a ticket, including the dense network's."""
  fraction: config.Fraction = (('output/*', 0.1), ('*', 0.2))
  """Share of alive weights to prune per level, by the first glob that fits."""
  rewind_step: int = 0
  """Step to rewind tickets to; 0 is initialization."""

  PREFIX: ClassVar[str] = 'transfer'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, steps=1, eval_every=1, levels=2)
    checks.each_once(self, 'datasets')
    checks.rewindable(self, 'rewind_step')


PRESETS = {
  'digits': Config(),
  'images': Config(
    datasets=('mnist', 'fashion_mnist', 'cifar10_grey'),
    steps=1500,
    eval_every=500,
  ),
}


class Cell(NamedTuple):
  """One training of all seeds: a level of pruning, or a ticket on a target."""

  kind: Literal['imp', 'random', 'masks', 'weights']
  source: str
  target: str
  level: int
  steps: int

  @property
  def name(self) -> str:
    last = f'{self.level:02d}' if self.kind == 'imp' else self.target
    parts = f'{self.kind}-{self.source}-{last}'
    return f'networks/{parts.replace("/", "-")}'

  @property
  def label(self) -> str:
    if self.kind == 'imp':
      return f'{self.source}  level {self.level}'
    return f'{self.kind} of {self.source} on {self.target}'


def cells(config: Config) -> list[Cell]:
  """All trainings: first the tickets, then each of them on every target."""
  last, steps = config.levels - 1, config.steps
  found = [
    Cell('imp', source, source, level, steps)
    for source in config.datasets
    for level in range(config.levels)
  ]
  for target in config.datasets:
    found.append(Cell('random', target, target, last, steps))
    found += [
      Cell(kind, source, target, last, steps)
      for kind in ('masks', 'weights')
      for source in config.datasets
    ]
  return found


class Loop(NamedTuple):
  """A data set, with the network for it and its training."""

  task: Classification
  masks: Any  # Keep everything; of one seed.
  tx: optax.GradientTransformation
  trainer: lth.Trainer


class Experiment(command.Experiment):
  """Data sets, and networks of one architecture that train on them."""

  def __init__(self, config: Config):
    self.config = config
    sets = transfer.load_alike(config.datasets, config.validation)
    self.loops = {name: self._loop(dataset) for name, dataset in sets.items()}
    self.keys, self.new_keys, self.shuffle_keys = seeds.keys(config, 3)
    self.start = functools.cache(self._start)
    # Raises now on what does not fit, before anything is trained or written.
    for source in self.loops.values():
      levels.check_fraction(config, source.task, source.masks)
      ticket = Ticket(0, 1.0, source.masks, None, None, None)
      onto = functools.partial(self.transfer, ticket)
      for target in self.loops.values():
        jax.eval_shape(onto, target.task.params)

  def _loop(self, dataset: Any) -> Loop:
    config = self.config
    task = Classification(dataset, config.model, batch_size=config.batch_size)
    masks = lth.masks.full(task.params)
    tx = lth.static(optax.adam(config.learning_rate), masks)
    return Loop(task, masks, tx, task.trainer(tx, every=config.eval_every))

  def _start(self, name: str, new: bool = False) -> TrainState:
    """Dense networks at the step to rewind to, perhaps from new weights."""
    keys = self.new_keys if new else self.keys
    state = self.loops[name].trainer.init(keys)
    return self.fit(name, state, until=self.config.rewind_step)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:

    def load(level):
      init = self.loops[cell.source].trainer.init
      like = networks(jax.eval_shape(init, self.keys))
      known = Cell('imp', cell.source, cell.source, level, cell.steps)
      return store.load(known.name, like)

    if cell.kind == 'imp':
      before = load(cell.level - 1) if cell.level else None
      state = self.level(cell, before, evaluated)
    else:
      state = self.ticket(cell, load(cell.level)['masks'], evaluated)
    kept = networks(state)
    return {
      **cell._asdict(),
      'density': lth.masks.density(kept['masks']),
      **self.loops[cell.target].task.test(state),
    }, kept

  def fit(self, name: str, state: TrainState, report=None, until=None) -> Any:
    until = self.config.steps if until is None else until
    task, _, _, trainer = self.loops[name]
    return trainer.fit(state, task.dataset, until=until, report=report)

  def level(self, cell: Cell, before: Any, report) -> TrainState:
    """Prunes the trained level before, rewinds, and trains."""
    start = self.start(cell.source)

    def train(state, masks):
      return self.fit(cell.source, with_masks(state, masks), report)

    last = levels.ticket(cell.level - 1, start, before)
    masks = lth.get_masks(start.opt_state)
    ticket = levels.next_ticket(
      lth.tickets.imp, train, start, masks, last, self.config
    )
    return ticket.trained

  def ticket(self, cell: Cell, masks: Any, report) -> TrainState:
    """Trains a ticket of the source, or a random one, on the target."""
    onto = self.start(cell.target, new=True)
    if cell.kind == 'random':
      masks = jax.vmap(lth.masks.shuffle)(self.shuffle_keys, masks)
    found = self.start(cell.source)
    ticket = Ticket(cell.level, 1.0, masks, found, None, None)
    weights = cell.kind == 'weights'
    params, masks = self.transfer(ticket, onto.params, weights=weights)
    state = onto._replace(params=params)
    if weights:  # The slots of the optimizer belong to other weights.
      tx = self.loops[cell.target].tx
      slots = lth.tickets.fresh_slots(tx, onto.opt_state)
      state = state._replace(opt_state=slots)
    return self.fit(cell.target, with_masks(state, masks), report)

  def transfer(self, ticket: Ticket, onto: Any, weights: bool = False) -> Any:
    fresh = self.config.fresh
    return lth.tickets.transfer(ticket, onto, weights=weights, fresh=fresh)

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    for loop in self.loops.values():
      loop.task.check_compiled()


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
