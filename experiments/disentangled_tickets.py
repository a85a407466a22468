"""Core and specialist tickets: what the tickets of parts of the data share.

Divides the data, by classes for instance, and finds a ticket on each part by
iterative magnitude pruning, all from one initialization. The core is what all
masks keep, a specialist what is left of a part's mask. Compares the core with
what random masks of the same size would share, layer by layer; then trains on
each part the core alone, with its own specialist (which is the ticket of the
part), with that of another part, with random weights in place of a specialist,
and with all of them; and tests each network on all parts. Beside them stand the
dense network and the ticket of COLT, whose parts agree on a mask at every
level. All networks have a head for all classes, so that parts can be swapped;
if parts are classes, a swapped specialist has its output weights at the wrong
ones.

Core and specialists were proposed in arXiv:2508.16915v2 (DiLT), without any
numbers; it also proposes to compare layers by Gromov-Wasserstein distances and
spectral clustering. COLT: Hossain et al., arXiv:2212.12770, algorithm 1.

  python experiments/disentangled_tickets.py                  # digits
  python experiments/disentangled_tickets.py --preset mnist
  python experiments/disentangled_tickets.py --preset mnist --by example

  digits         LeNet-300-100 on digits, classes 0 to 4 and 5 to 9, 3 seeds.
                 About a minute on 2 CPU cores. At 4 % of the weights, the
                 tickets of the parts share some 50 standard deviations more
                 than by chance, and no more than by chance if they start from
                 different weights. The specialist of a part is 3 points better
                 on it than that of the other part, at least.
  mnist          the same on MNIST. Ten minutes on 2 CPU cores. At 3.6 % they
                 share some 95 standard deviations more than by chance, and the
                 right specialist is 1 to 2 points better.
  fashion_mnist  the same on Fashion-MNIST.

All results go into one folder a configuration. Kill the command at any time
and start it again: it goes on where it was, and ends with the same bits.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import grid, running
from common.classification import TITLES, Classification, ModelName, seed_keys
from lthjax import checkpoints, data
from lthjax.tickets import Ticket
from lthjax.training import TrainState, with_masks
from methods import measures as disentangled_measures
from methods import representations
from methods.parts import Cell, cells
from reports import disentangled_tickets as disentangled_report

Load = Callable[[Cell], Any]
Report = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Config:
  """Takes the tickets of parts of the data apart, and trains the pieces."""

  preset: Literal['digits', 'mnist', 'fashion_mnist'] = dataclasses.field(
    default='digits', compare=False
  )
  """One of those above; sets the defaults of all options below."""
  dataset: str = 'digits'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  validation: int | None = None
  """Examples held out for the curves; None: about a tenth."""
  by: Literal['example', 'class', 'cluster'] = 'class'
  """What divides the data: chance, classes in a row, or k-means of pixels."""
  parts: int = 2
  """Number of parts."""
  reading: Literal['without_core', 'without_others'] = 'without_core'
  """A specialist is a part's mask without the core, or without all others."""
  model: ModelName = 'lenet_300_100'
  """Network."""
  seeds: int = 3
  """Runs side by side, with seeds 0, 1, and so on."""
  levels: int = 16
  """Trainings in a row on each part, that of the dense network included."""
  colt_levels: int = 10
  """The same for COLT, which prunes more at a level."""
  fraction: tuple[tuple[str, float], ...] = (('output/*', 0.1), ('*', 0.2))
  """Share of alive weights to prune a level, by the first glob that fits."""
  scope: Literal['layer', 'global'] = 'layer'
  """Whether each layer has a budget of its own."""
  rewind_step: int = 0
  """Step on all of the data to rewind to; 0 is initialization."""
  steps: int = 300
  """Training steps a level."""
  batch_size: int = 60
  """Examples a step."""
  learning_rate: float = 1.2e-3
  """Of Adam."""
  eval_every: int = 100
  """Steps between evaluations on the validation set."""
  examples: int = 100
  """Test examples by which layers are compared."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder in which the run gets its folder."""

  def __post_init__(self):
    """Refuses what cannot be trained."""
    running.at_least(
      self, seeds=1, steps=1, batch_size=1, eval_every=1, validation=1
    )
    running.at_least(self, levels=2, colt_levels=2, examples=2)
    running.rewindable(self, 'rewind_step')


MNIST = Config(dataset='mnist', steps=1500, eval_every=500, examples=200)
PRESETS = {
  'digits': Config(),
  'mnist': MNIST,
  'fashion_mnist': dataclasses.replace(MNIST, dataset='fashion_mnist'),
}


class Experiment:
  """A network, the parts of its data, and the training on each of them."""

  def __init__(self, config: Config):
    """Divides the data and builds the training loops."""
    self.config = config
    dataset = data.load(config.dataset, validation=config.validation)
    parts = data.partition(dataset, config.by, parts=config.parts)
    sizes = [len(part.train.labels) for part in parts]
    if config.batch_size > min(sizes):
      raise ValueError(
        f'batch_size was {config.batch_size}, but part'
        f' {sizes.index(min(sizes))} has {min(sizes)} training examples. Take'
        ' smaller batches, or fewer parts.'
      )
    self.whole = Classification(
      dataset, config.model, batch_size=config.batch_size
    )
    self.parts = [
      Classification(part, self.whole.model, batch_size=config.batch_size)
      for part in parts
    ]
    self.dense = lth.masks.full(self.whole.params)
    # Raises on a bad fraction now, before anything is trained or written.
    budget = functools.partial(
      lth.prune, fraction=dict(config.fraction), scope=config.scope
    )
    jax.eval_shape(budget, self.whole.params, self.dense)
    tx = lth.static(optax.adam(config.learning_rate), self.dense)
    self.trainer, *self.trainers = (
      task.trainer(tx, every=config.eval_every)
      for task in (self.whole, *self.parts)
    )
    self.draw = jax.jit(jax.vmap(lth.tickets.random_quotas))
    self.keys, self.noise_keys = (
      seed_keys(config.seeds, offset) for offset in (0, 2**16)
    )

  @functools.cached_property
  def start(self) -> TrainState:
    """Dense networks at the step to rewind to."""
    state = self.trainer.init(self.keys)
    until = self.config.rewind_step
    return self.trainer.fit(state, self.whole.dataset, until=until)

  @functools.cached_property
  def all_masks(self) -> chex.ArrayTree:
    """Masks that keep everything, for every seed."""
    return jax.tree.map(
      lambda m: jnp.ones((self.config.seeds, *m.shape), bool), self.dense
    )

  @property
  def like(self) -> dict[str, Any]:
    """Shapes of the trained networks of a part."""
    state = jax.eval_shape(self.trainer.init, self.keys)
    return {'params': state.params, 'model_state': state.model_state}

  def train(
    self, part: int, state: TrainState, masks: chex.ArrayTree, report: Report
  ) -> TrainState:
    """Trains on a part of the data."""
    fit, dataset = self.trainers[part].fit, self.parts[part].dataset
    state = with_masks(state, masks)
    return fit(state, dataset, until=self.config.steps, report=report)

  def run(
    self, cell: Cell, load: Load, report: Report
  ) -> tuple[chex.ArrayTree, dict[int, TrainState]]:
    """Trains a cell; returns its masks, and a state for each of its parts."""
    if cell.kind == 'colt':
      ticket = self.colt(cell, load, report)
      return ticket.masks, dict(enumerate(ticket.trained))
    assert cell.part is not None
    train = functools.partial(self.train, cell.part, report=report)
    if cell.kind == 'imp':
      ticket = self.imp(cell, load, train)
      return ticket.masks, {cell.part: ticket.trained}
    masks = self.compose(cell, load)
    return masks, {cell.part: train(self.start, masks)}

  def imp(self, cell: Cell, load: Load, train: Any) -> Ticket:
    """The next ticket of a part."""
    last = cell.level - 1
    resume = None
    if cell.level:
      kept = load(cell._replace(level=last))
      trained = self.state(kept['networks'][0])
      resume = Ticket(last, 0.0, kept['masks'], None, trained, None)
    return next(lth.tickets.imp(train, resume=resume, **self.search(cell)))

  def colt(self, cell: Cell, load: Load, report: Report) -> Ticket:
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
    trained = tuple(self.state(network) for network in kept['networks'])

    def train(part, state, masks):
      done = part * config.steps

      def shifted(step, metrics):
        report(done + step, metrics)

      return self.train(part, state, masks, shifted)

    trains = [functools.partial(train, part) for part in range(config.parts)]
    resume = Ticket(last, 0.0, kept['masks'], None, trained, None)
    return next(lth.tickets.colt(trains, resume=resume, **self.search(cell)))

  def search(self, cell: Cell) -> dict[str, Any]:
    """What the searches for tickets have in common, up to a level."""
    return {
      'state': self.start,
      'masks': self.all_masks,
      'levels': cell.level + 1,
      'prune': functools.partial(
        lth.prune,
        fraction=dict(self.config.fraction),
        scope=self.config.scope,
      ),
      'vmapped': True,
    }

  def state(self, network: dict[str, Any]) -> TrainState:
    """A trained network as the state from which masks are read."""
    return self.start._replace(**network)

  def compose(self, cell: Cell, load: Load) -> chex.ArrayTree:
    """Puts masks together from the core and specialists."""
    tickets = [
      load(Cell('imp', cell.level, part, None, cell.steps))['masks']
      for part in range(self.config.parts)
    ]
    core, specialists = lth.tickets.core_and_specialists(
      tickets, self.config.reading
    )
    if cell.kind == 'core':
      return core
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

  def test(self, states: dict[int, TrainState]) -> list[grid.Result]:
    """Tests networks on every part."""
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
    """Test images of all parts, by which layers are compared."""
    mean, std = self.whole.dataset.mean, self.whole.dataset.std
    images, count = self.whole.dataset.test.images, self.config.examples
    apart = max(1, len(images) // count)
    return data.normalize(images[::apart][:count], mean, std)

  def unstack(self, tree: Any) -> list[Any]:
    """The trees of the seeds."""
    return [
      jax.tree.map(lambda x, i=i: x[i], tree) for i in range(self.config.seeds)
    ]


def run(config: Config, report: grid.Progress) -> disentangled_report.Found:
  """Trains what is still missing, and measures what came out."""
  experiment = Experiment(config)
  dataset = config.dataset.replace('/', '-')
  folder = checkpoints.open_run(
    config.output, f'parts-{dataset}-{config.model}', config
  )

  def load(cell):
    parts = config.parts if cell.kind == 'colt' else 1
    like = {
      'masks': experiment.all_masks,
      'networks': [experiment.like] * parts,
    }
    return checkpoints.load(grid.network_folder(folder, cell), like)

  def train(cell, evaluated):
    masks, states = experiment.run(cell, load, evaluated)
    alive = jax.vmap(lth.masks.alive_by_name)(masks)
    tests = experiment.test(states)
    own = [
      x['test_accuracy'] for x in tests if x['trained_on'] == x['tested_on']
    ]
    return {
      'masks': cell.masks,
      'level': cell.level,
      'alive': {name: count.tolist() for name, count in alive.items()},
      'density': lth.masks.density(masks),
      'test_accuracy': np.mean(own, 0).tolist(),
      'tests': tests,
    }, {
      'masks': masks,
      'networks': [
        {'params': state.params, 'model_state': state.model_state}
        for state in states.values()
      ],
    }

  grid.run(folder, train, report)
  for task in experiment.parts:
    task.check_compiled_once()
  tickets = [
    [load(Cell('imp', level, part, None, 0)) for part in range(config.parts)]
    for level in range(1, config.levels)
  ]
  overlaps = disentangled_measures.overlaps(
    {
      level: [experiment.unstack(ticket['masks']) for ticket in of_parts]
      for level, of_parts in enumerate(tickets, 1)
    }
  )
  rows, matrix = disentangled_measures.compare_layers(
    experiment.whole.model.apply,
    [experiment.unstack(ticket['networks'][0]) for ticket in tickets[-1]],
    experiment.common_images(),
  )
  clusters = representations.spectral_clusters(
    matrix, len({layer for _, layer in rows})
  )
  return disentangled_report.Found(
    folder, report.finished(), overlaps, rows, matrix, clusters
  )


def main() -> None:
  """Runs the experiment and shows what came out."""
  with running.friendly_exit('trains this network again'):
    config = running.parse(sys.argv[1:], PRESETS, __doc__)
    title = (
      f'{TITLES[config.model]} on {config.dataset} in {config.parts} parts by'
      f' {config.by}, {running.seeds(config.seeds)}'
    )
    todo = cells(config.parts, config.levels, config.colt_levels, config.steps)
    with grid.Progress(todo, disentangled_report.rows) as report:
      found = run(config, report)
    disentangled_report.write(found, title, config.seeds)
  report.console.print(disentangled_report.table(found.results))
  report.console.print(disentangled_report.overlap_table(found.overlaps))
  report.console.print(
    f'Figures, tables and networks: {found.folder}', soft_wrap=True
  )


if __name__ == '__main__':
  main()
