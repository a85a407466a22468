"""Core and specialist tickets: what the tickets of parts of the data share.

Divides the data, by classes for instance, and finds a ticket on each part by
iterative magnitude pruning, all from one initialization. The core is what all
masks keep, a specialist is what is left of a part's mask. Compares the core
with what random masks of the same size would share, layer by layer. Then trains
on each part the core alone, with its own specialist (which is the ticket of the
part), with that of another part, with random weights in place of a specialist,
and with all specialists; and tests each network on all parts, along with the
dense network and the ticket of COLT, whose parts agree on one mask per level.
With `--nulls`, the core is also compared with as many of the largest initial
weights, of random ones, and of the ticket's own largest, and its overlap with
that of a ticket of the same part in another order of the data; `--unseen` parts
have no ticket, and show what the core is worth elsewhere.
All networks have outputs for all classes, so that parts can be swapped; if
parts are classes, a swapped specialist has its output weights at the wrong
classes.

Core and specialists were proposed in arXiv:2508.16915v2 (DiLT) without any
numbers; it also proposes to compare layers by Gromov-Wasserstein distances and
spectral clustering. COLT: Hossain et al., arXiv:2212.12770, algorithm 1.

  python experiments/disentangled_tickets.py                  # digits
  python experiments/disentangled_tickets.py --preset mnist
  python experiments/disentangled_tickets.py --preset mnist --by example

  digits         LeNet-300-100 on digits, classes 0 to 4 and 5 to 9, 3 seeds.
                 About a minute on 2 CPU cores. At 4 % of the weights, the
                 tickets of the parts share some 50 standard deviations more
                 than by chance, and no more than by chance from different
                 initializations. The specialist of a part is at least 3 points
                 better on it than that of the other part.
  mnist          the same on MNIST. 10 minutes on 2 CPU cores. At 3.6 %, they
                 share some 95 standard deviations more than by chance, and the
                 right specialist is 1 to 2 points better.
  fashion_mnist  the same on Fashion-MNIST.
  claims         digits in two parts and one unseen, with all nulls, output
                 layers whole, 10 seeds. 10 minutes on 2 CPU cores.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Annotated, Any, ClassVar, Literal, get_args

import chex
import jax
import numpy as np

import lthjax as lth
from common import checks, command, grid, levels, seeds
from common.classification import Classification, diverged, static_optimizer
from common.config import NONE, TicketConfig
from lthjax import data
from lthjax.tickets import Ticket
from lthjax.training import TrainState, with_masks
from methods import parts, representations
from methods.controls import largest
from methods.parts import Cell, Null
from reports import disentangled_tickets as report


@dataclasses.dataclass(frozen=True)
class Config(TicketConfig):
  """Splits the tickets of parts of the data, and trains the pieces."""

  eval_every: int = 100
  by: Literal['example', 'class', 'cluster'] = 'class'
  """How to divide the data: at random, by class, or by k-means of pixels."""
  parts: int = 2
  """Number of parts."""
  reading: Literal['without_core', 'without_others'] = 'without_core'
  """A specialist is a part's mask without the core, or without all others."""
  colt_levels: int = 10
  """Levels of COLT, which prunes more per level."""
  rewind_step: int = 0
  """Step on all of the data to rewind to; 0 is initialization."""
  examples: int = 100
  """Test examples on which layers are compared."""
  unseen: int = 0
  """Parts more, on which no ticket is found but the core is trained."""
  nulls: Annotated[tuple[Null, ...], NONE] = ()
  """What the core is compared with."""

  PREFIX: ClassVar[str] = 'parts'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, levels=2, colt_levels=2, examples=2, unseen=0)
    checks.each_once(self, 'nulls', none=True)
    checks.rewindable(self, 'rewind_step')

  @property
  def title(self) -> str:
    network, rest = super().title.rsplit(', ', 1)
    return f'{network} in {self.parts} parts by {self.by}, {rest}'


MNIST = Config(dataset='mnist', steps=1500, eval_every=500, examples=200)
PRESETS = {
  'digits': Config(),
  'mnist': MNIST,
  'fashion_mnist': dataclasses.replace(MNIST, dataset='fashion_mnist'),
  'claims': Config(
    seeds=10,
    levels=9,
    colt_levels=2,
    fraction=(('output/*', 0.0), ('*', 0.33)),
    unseen=1,
    nulls=get_args(Null),
  ),
}


def cells(config: Config) -> list[Cell]:
  """All trainings, in an order in which they can be done."""
  return parts.cells(
    config.parts,
    config.levels,
    config.colt_levels,
    config.steps,
    config.unseen,
    config.nulls,
  )


class Experiment(command.Experiment):
  """A network, the parts of its data, and the training on each of them."""

  def __init__(self, config: Config):
    self.config = config
    dataset = data.load(config.dataset, validation=config.validation)
    divided = data.partition(
      dataset, config.by, parts=config.parts + config.unseen
    )
    sizes = [len(part.train.labels) for part in divided]
    if config.batch_size > min(sizes):
      raise ValueError(
        f'batch_size was {config.batch_size}, but part'
        f' {sizes.index(min(sizes))} has {min(sizes)} training examples. Take'
        ' smaller batches, or fewer parts.'
      )
    given = dataclasses.replace(config, dataset=dataset)
    self.whole, *self.parts = (
      Classification.of(dataclasses.replace(given, dataset=part))
      for part in (dataset, *divided)
    )
    self.dense = lth.masks.full(self.whole.params)
    levels.check_fraction(config, self.whole, self.dense)
    tx = static_optimizer(config, self.dense)
    self.trainer, *self.trainers = (
      task.trainer(tx, every=config.eval_every)
      for task in (self.whole, *self.parts)
    )
    self.draw = jax.jit(jax.vmap(lth.tickets.random_quotas))
    self.shuffle = jax.jit(jax.vmap(lth.masks.shuffle))
    self.keys, self.noise_keys = seeds.keys(config, 2)

  @functools.cached_property
  def start(self) -> TrainState:
    """Dense networks at the step to rewind to."""
    state = self.trainer.init(self.keys)
    until = self.config.rewind_step
    return self.trainer.fit(state, self.whole.dataset, until=until)

  @functools.cached_property
  def all_masks(self) -> chex.ArrayTree:
    """Masks that keep everything, for every seed."""
    return seeds.repeat(self.dense, self.config.seeds)

  def load(self, store: grid.Store, cell: Cell) -> Any:
    """The masks of a cell, and its networks, one per part that it trains."""
    count = self.config.parts if cell.kind == 'colt' else 1
    state = jax.eval_shape(self.trainer.init, self.keys)
    network = {'params': state.params, 'model_state': state.model_state}
    like = {'masks': self.all_masks, 'networks': [network] * count}
    return store.load(cell.name, like)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    load = functools.partial(self.load, store)
    masks, states = self.states(cell, load, evaluated)
    alive = jax.vmap(lth.masks.alive_by_name)(masks)
    tests = self.test(states)
    own = [
      x['test_accuracy'] for x in tests if x['trained_on'] == x['tested_on']
    ]
    return {
      'masks': cell.masks,
      'level': cell.level,
      'alive': {name: count.tolist() for name, count in alive.items()},
      'density': lth.masks.density(masks),
      'shared': self.shared(cell, masks, load),
      'test_accuracy': np.mean(own, 0).tolist(),
      **diverged(*states.values()),
      'tests': tests,
    }, {
      'masks': masks,
      'networks': [
        {'params': state.params, 'model_state': state.model_state}
        for state in states.values()
      ],
    }

  def states(
    self, cell: Cell, load: Any, report: Any
  ) -> tuple[chex.ArrayTree, dict[int, TrainState]]:
    """Trains a cell; returns its masks, and a state for each of its parts."""
    if cell.kind == 'colt':
      ticket = self.colt(cell, load, report)
      return ticket.masks, dict(enumerate(ticket.trained))
    assert cell.part is not None
    fit = functools.partial(self.fit, cell.part, report=report)
    if cell.kind in parts.SEARCHES:
      ticket = self.imp(cell, load, fit)
      return ticket.masks, {cell.part: ticket.trained}
    masks = self.compose(cell, load)
    return masks, {cell.part: fit(self.start, masks)}

  def fit(
    self, part: int, state: TrainState, masks: chex.ArrayTree, report: Any
  ) -> TrainState:
    fit, dataset = self.trainers[part].fit, self.parts[part].dataset
    state = with_masks(state, masks)
    return fit(state, dataset, until=self.config.steps, report=report)

  def imp(self, cell: Cell, load: Any, train: Any) -> Ticket:
    last, kept = cell.level - 1, None
    if cell.level:
      before = load(cell._replace(level=last))
      kept = {'masks': before['masks'], **before['networks'][0]}
    start = self.start
    if cell.kind == 'twin':  # The same weights, and another order of the data.
      keys = jax.vmap(jax.random.fold_in, (0, None))(start.key, 1)
      start = start._replace(key=keys)
    resume = levels.ticket(last, start, kept)
    return self.search(lth.tickets.imp, train, resume, start)

  def colt(self, cell: Cell, load: Any, report: Any) -> Ticket:
    """The next ticket of COLT; its dense networks are those of the parts."""
    config, last = self.config, cell.level - 1
    if last:
      kept = load(cell._replace(level=last))
    else:
      dense = [
        load(Cell('imp', 0, part, None, config.steps))
        for part in range(config.parts)
      ]
      networks = [one['networks'][0] for one in dense]
      kept = {'masks': self.all_masks, 'networks': networks}
    trained = tuple(self.start._replace(**x) for x in kept['networks'])

    def train(part, state, masks):
      done = part * config.steps

      def shifted(step, metrics):
        report(done + step, metrics)

      return self.fit(part, state, masks, shifted)

    trains = [functools.partial(train, part) for part in range(config.parts)]
    resume = Ticket(last, 0.0, kept['masks'], None, trained, None)
    return self.search(lth.tickets.colt, trains, resume)

  def search(
    self,
    search: Any,
    train: Any,
    last: Ticket | None,
    start: TrainState | None = None,
  ) -> Ticket:
    start, masks = start or self.start, self.all_masks
    return levels.next_ticket(search, train, start, masks, last, self.config)

  def compose(self, cell: Cell, load: Any) -> chex.ArrayTree:
    tickets = [
      load(Cell('imp', cell.level, part, None, cell.steps))['masks']
      for part in range(self.config.parts)
    ]
    core, specialists = lth.tickets.core_and_specialists(
      tickets, self.config.reading
    )
    if cell.kind == 'core':
      return core
    if cell.kind == 'initial':
      return largest(self.start.params, core)
    if cell.kind == 'noise':
      return self.shuffle(self.noise_keys, core)
    if cell.kind == 'pruned':
      ticket = load(Cell('imp', cell.level, cell.part, None, cell.steps))
      return largest(ticket['networks'][0]['params'], core)
    if cell.kind == 'union':
      return functools.reduce(lth.masks.union, [core, *specialists])
    if cell.kind == 'specialist':
      assert cell.specialist is not None
      return lth.masks.union(core, specialists[cell.specialist])
    assert cell.part is not None
    others = lth.masks.difference(self.all_masks, core)
    counts = jax.vmap(lth.masks.alive_by_name)(specialists[cell.part])
    drawn = self.draw(self.noise_keys, others, counts)
    return lth.masks.union(core, drawn)

  def shared(self, cell: Cell, masks: Any, load: Any) -> list[float] | None:
    """What the hidden layers of a ticket share, of each seed.

    A ticket with as many of the largest initial weights, a twin with the ticket
    of the same part, and a ticket with the core.
    """
    if cell.kind in parts.SEARCHES and not cell.level:
      return None
    if cell.kind == 'imp':
      return parts.shared(masks, largest(self.start.params, masks))
    if cell.kind == 'twin' or (
      cell.kind == 'core' and cell.part in range(self.config.parts)
    ):
      ticket = load(cell._replace(kind='imp'))['masks']
      return parts.shared(ticket, masks)
    return None

  def test(self, states: dict[int, TrainState]) -> list[grid.Result]:
    return [
      {
        'trained_on': trained_on,
        'tested_on': tested_on,
        'test_accuracy': task.test_accuracy(state.params, state.model_state),
      }
      for trained_on, state in states.items()
      for tested_on, task in enumerate(self.parts)
    ]

  def common_images(self) -> jax.Array:
    """Test images of all parts, on which layers are compared."""
    mean, std = self.whole.dataset.mean, self.whole.dataset.std
    images, count = self.whole.dataset.test.images, self.config.examples
    apart = max(1, len(images) // count)
    return data.normalize(images[::apart][:count], mean, std)

  def finish(
    self, store: grid.Store, results: list[grid.Result]
  ) -> report.Measured:
    config = self.config
    for task in self.parts:
      task.check_compiled()
    tickets = {
      level: [
        self.load(store, Cell('imp', level, part, None, 0))
        for part in range(config.parts)
      ]
      for level in range(1, config.levels)
    }
    overlaps = parts.overlaps(
      {
        level: [seeds.unstack(ticket['masks']) for ticket in of_parts]
        for level, of_parts in tickets.items()
      }
    )
    overlaps += self.nulls(store)
    last = tickets[config.levels - 1]
    rows, matrix = parts.compare_layers(
      self.whole.model.apply,
      [seeds.unstack(ticket['networks'][0]) for ticket in last],
      self.common_images(),
    )
    count = len({layer for _, layer in rows})
    clusters = representations.spectral_clusters(matrix, count)
    found = report.Measured(overlaps, rows, matrix, clusters)
    report.write(found, store.folder)
    return found

  def nulls(self, store: grid.Store) -> list[grid.Result]:
    """What the first part's ticket shares with others at the last level."""
    config, last = self.config, self.config.levels - 1
    if not config.nulls:
      return []

    def load(kind, level, part):
      return self.load(store, Cell(kind, level, part, None, 0))

    tickets = [load('imp', last, part)['masks'] for part in range(2)]
    dense = [load('imp', 0, part)['networks'][0] for part in range(2)]
    others = {'largest': largest(self.start.params, tickets[0])}
    if 'twin' in config.nulls:
      others['twin'] = load('twin', last, 0)['masks']
    image = self.common_images()[:1]
    return parts.null_overlaps(
      self.whole.model, image, last, dense, tickets, others
    )


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
