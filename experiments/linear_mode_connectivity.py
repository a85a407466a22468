"""Late rewinding explained: a ticket trains well where training is stable.

Two copies of a network start from the same weights and see the data in another
order. Where the error does not rise on the straight line between them, training
is stable to its noise. That is measured from every step that tickets may be
rewound to: for the dense network, its tickets by iterative magnitude pruning,
the tickets' masks shuffled within their layers (shuffled), and the tickets'
masks on new weights that were trained for as many steps (reinit). Beside it
stands how far the accuracy of each is from that of the dense network.

Paper: Frankle et al., Linear Mode Connectivity and the Lottery Ticket
Hypothesis, arXiv:1912.05671, figures 3 and 5. It calls a network stable if the
error rises by less than 2 points.

  python experiments/linear_mode_connectivity.py                    # digits
  python experiments/linear_mode_connectivity.py --preset mnist
  python experiments/linear_mode_connectivity.py --networks ticket --copies 4

  digits    LeNet-300-100 on digits, 3 seeds. A minute on 2 CPU cores.
  mnist     LeNet-300-100 on MNIST, 3 seeds, tickets of 3.6 % of the weights.
            A quarter of an hour on 2 CPU cores. Dense network and ticket are
            stable from initialization on: the error rises by less than a point.
  resnet20  ResNet-20 on CIFAR-10, 1 seed, tickets of 16.8 % of the weights. For
            an accelerator: 4 million steps, perhaps half a day. In the paper
            the dense network is stable from step 2,000 on and the ticket from
            step 500 on, and only then is it as good as the dense network.

On the line, batch statistics are computed anew from training examples. All
results go into one folder a configuration. Kill the command at any time and
start it again: it goes on where it was, and ends with the same bits.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import tyro

import lthjax as lth
from common import grid, running
from common.classification import (
  TITLES,
  Classification,
  ModelName,
  make_optimizer,
  seed_keys,
  steps_down,
)
from lthjax import checkpoints
from lthjax.tickets import Ticket
from lthjax.training import TrainState, with_masks
from methods.connectivity import Line
from reports import linear_mode_connectivity as connectivity_report

NetworkName = Literal['ticket', 'shuffled', 'reinit']


@dataclasses.dataclass(frozen=True)
class Config:
  """Asks from which step on training is stable to its noise."""

  preset: Literal['digits', 'mnist', 'resnet20'] = dataclasses.field(
    default='digits', compare=False
  )
  """One of those above; sets the defaults of all options below."""
  dataset: str = 'digits'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  validation: int | None = None
  """Examples held out for the curves; None: about a tenth."""
  model: ModelName = 'lenet_300_100'
  """Network."""
  networks: tuple[NetworkName, ...] = ('ticket', 'shuffled', 'reinit')
  """What to look at beside the dense network."""
  rewind_steps: tuple[int, ...] = (0, 20, 100)
  """Steps to start copies from, and to rewind tickets to."""
  seeds: int = 3
  """Runs side by side, with seeds 0, 1, and so on."""
  copies: int = 2
  """Trainings from each start, each with an order of the data of its own."""
  levels: int = 16
  """Trainings in a row to find a ticket, that of the dense network included."""
  fraction: tuple[tuple[str, float], ...] = (('output/*', 0.1), ('*', 0.2))
  """Share of alive weights to prune a level, by the first glob that fits."""
  scope: Literal['layer', 'global'] = 'layer'
  """Whether each layer has a budget of its own."""
  points: int = 31
  """Points on the line between two copies, the ends included."""
  train_examples: int = 10_000
  """Training examples for the training error, and for batch statistics."""
  steps: int = 300
  """Training steps, those before the start of a copy included."""
  batch_size: int = 60
  """Examples a step."""
  optimizer: Literal['adam', 'sgd'] = 'adam'
  """Adam, or SGD with momentum 0.9."""
  learning_rate: float = 1.2e-3
  """Step size."""
  decay_steps: Annotated[
    tuple[int, ...], tyro.conf.arg(help_behavior_hint='(default: none)')
  ] = ()
  """Steps at which the learning rate falls to a tenth."""
  weight_decay: float = 0.0
  """L2 penalty on kernels, added to the gradient."""
  augment: bool = False
  """Random crops and flips."""
  eval_every: int = 50
  """Steps between evaluations on the validation set."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder in which the run gets its folder."""

  def __post_init__(self):
    """Refuses what cannot be trained."""
    running.at_least(
      self, seeds=1, train_examples=1, steps=1, batch_size=1, eval_every=1
    )
    running.at_least(self, validation=1, copies=2, levels=2, points=2)
    running.each_once(self, 'networks', none=True)
    running.each_once(self, 'rewind_steps')
    running.rewindable(self, 'rewind_steps')


PRESETS = {
  'digits': Config(),
  'mnist': Config(
    dataset='mnist',
    rewind_steps=(0, 50, 200, 800),
    steps=1500,
    eval_every=500,
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
  """One training, of all seeds.

  The ``number`` is that of a copy, or of a level of pruning for ``imp``.
  """

  network: Literal['imp', 'dense'] | NetworkName
  rewind_step: int
  number: int
  steps: int

  @property
  def name(self) -> str:
    """Names its files."""
    return f'{self.network}-{self.rewind_step}-{self.number:02d}'

  @property
  def label(self) -> str:
    """Names it for people."""
    what = 'level' if self.network == 'imp' else 'copy'
    return f'{self.network} from {self.rewind_step}  {what} {self.number}'


def cells(config: Config) -> list[Cell]:
  """All that is to be trained; level 0 is the same for all tickets."""
  found = [Cell('imp', 0, 0, config.steps)] if config.networks else []
  for k in sorted(config.rewind_steps):
    levels = range(1, config.levels) if config.networks else ()
    found += [Cell('imp', k, level, config.steps) for level in levels]
    found += [
      Cell(network, k, copy, config.steps)
      for network in ('dense', *config.networks)
      for copy in range(config.copies)
    ]
  return found


class Experiment:
  """A network, its data, its training, and what lies between two copies."""

  def __init__(self, config: Config):
    """Reads the data and builds the training loop, which is compiled once."""
    self.config = config
    self.task = Classification(
      config.dataset,
      config.model,
      validation=config.validation,
      batch_size=config.batch_size,
      augment=config.augment,
    )
    dense = lth.masks.full(self.task.params)
    learning_rate = steps_down(config.learning_rate, config.decay_steps)
    tx = make_optimizer(
      config.optimizer, learning_rate, config.weight_decay, dense
    )
    self.trainer = self.task.trainer(
      lth.static(tx, dense), every=config.eval_every
    )
    self.dense = jax.tree.map(
      lambda m: jnp.ones((config.seeds, *m.shape), bool), dense
    )
    # Raises on a bad fraction now, before anything is trained or written.
    prune = functools.partial(
      lth.prune, fraction=dict(config.fraction), scope=config.scope
    )
    jax.eval_shape(prune, self.task.params, dense)
    self.keys, self.new_keys, self.shuffle_keys, self.copy_keys = (
      seed_keys(config.seeds, i * 2**16) for i in range(4)
    )
    self.start = functools.cache(self._start)
    self.line = Line(
      self.task,
      points=config.points,
      train_examples=config.train_examples,
      batch_size=config.batch_size,
      augment=config.augment,
    )

  def train(
    self, state: TrainState, report=None, *, until: int | None = None
  ) -> TrainState:
    """Trains up to a step, by default to the end."""
    until = self.config.steps if until is None else until
    return self.trainer.fit(
      state, self.task.dataset, until=until, report=report
    )

  def _start(self, step: int, new: bool = False) -> TrainState:
    """Dense networks after so many steps, or those of other weights."""
    keys = self.new_keys if new else self.keys
    return self.train(self.trainer.init(keys), until=step)

  def level(self, cell: Cell, before: Any, report) -> TrainState:
    """Prunes what the level before has trained, rewinds, and trains."""
    start, last = self.start(cell.rewind_step), None
    if before is not None:
      trained = start._replace(params=before['params'])
      masks = before['masks']
      last = Ticket(cell.number - 1, 1.0, masks, start, trained, None)
    tickets = lth.tickets.imp(
      lambda state, masks: self.train(with_masks(state, masks), report),
      start,
      self.dense,
      levels=cell.number + 1,
      prune=functools.partial(
        lth.prune, fraction=dict(self.config.fraction), scope=self.config.scope
      ),
      vmapped=True,
      resume=last,
    )
    return next(tickets).trained

  def copy(self, cell: Cell, masks: chex.ArrayTree, report) -> TrainState:
    """Trains a copy of a network, with noise of its own."""
    state = self.start(cell.rewind_step, new=cell.network == 'reinit')
    if cell.network == 'shuffled':
      masks = jax.vmap(lth.masks.shuffle)(self.shuffle_keys, masks)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    state = state._replace(key=fold_in(self.copy_keys, cell.number))
    return self.train(with_masks(state, masks), report)


def run(config: Config, report: grid.Progress) -> Path:
  """Trains what is still missing, and returns the folder with everything."""
  experiment = Experiment(config)
  dataset = config.dataset.replace('/', '-')
  folder = checkpoints.open_run(
    config.output, f'connectivity-{dataset}-{config.model}', config
  )
  start = jax.eval_shape(experiment.trainer.init, experiment.keys)
  like = {'params': start.params, 'masks': experiment.dense}

  def load(network, step, number):
    cell = Cell(network, step, number, config.steps)
    return checkpoints.load(grid.network_folder(folder, cell), like)

  def train(cell, evaluated):
    network, k, number, _ = cell
    others = {}
    if network == 'imp':
      before = None
      if number:
        before = load('imp', k if number > 1 else 0, number - 1)
      state = experiment.level(cell, before, evaluated)
    else:
      masks = experiment.dense
      if network != 'dense':
        masks = load('imp', k, config.levels - 1)['masks']
      state = experiment.copy(cell, masks, evaluated)
      others = {i: load(network, k, i)['params'] for i in range(number)}
    masks = lth.get_masks(state.opt_state)
    return {
      **cell._asdict(),
      'density': lth.masks.density(masks),
      'test_accuracy': experiment.task.test_accuracy(
        state.params, state.model_state
      ),
      'pairs': [
        {'other': i, **experiment.line.between(params, state.params)}
        for i, params in others.items()
      ],
    }, {'params': state.params, 'masks': masks}

  grid.run(folder, train, report)
  experiment.task.check_compiled_once()
  return folder


def main() -> None:
  """Runs the experiment and shows what came out."""
  with running.friendly_exit('trains this network again'):
    config = running.parse(sys.argv[1:], PRESETS, __doc__)
    title = (
      f'{TITLES[config.model]} on {config.dataset},'
      f' {running.seeds(config.seeds)}'
    )
    with grid.Progress(cells(config), connectivity_report.rows) as report:
      folder = run(config, report)
    found = connectivity_report.summarize(report.finished())
    connectivity_report.barriers(found, title, folder)
    connectivity_report.paths(found, title, folder)
    connectivity_report.markdown(found, title, folder, config.seeds)
  report.console.print(connectivity_report.table(found))
  report.console.print(
    f'Figures, tables and networks: {folder}', soft_wrap=True
  )


if __name__ == '__main__':
  main()
