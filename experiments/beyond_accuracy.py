"""Beyond accuracy: what gives way first when a ticket gets smaller.

Finds tickets by iterative magnitude pruning and measures, level by level, their
calibration, their worst class, how many predictions differ from the dense
network's (churn), and their accuracy on corrupted images, beside dense networks
of another seed, new weights under the same mask (reinit) and random tickets.
Two dense networks differ too: only what goes beyond that comes from pruning.

Papers: Hooker et al., What Do Compressed Deep Neural Networks Forget?,
arXiv:1911.05248; Guo et al., On Calibration of Modern Neural Networks,
arXiv:1706.04599; Hendrycks & Dietterich, arXiv:1903.12261, for the corruptions.

  python experiments/beyond_accuracy.py                    # digits
  python experiments/beyond_accuracy.py --seeds 30         # for the claims
  python experiments/beyond_accuracy.py --preset mnist

  digits         LeNet-300-100 on digits, 10 seeds. About a minute on 2 CPU
                 cores. At 13 % of the weights, all is within a point of the
                 dense network. At 7.8 %, accuracy is half a point lower and the
                 calibration error doubles, from .017 to .037; at 4.7 %, 1.2
                 points and .07, and 4 points in the worst class. Tickets are
                 too modest, and one fitted temperature mends it.
  digits_unit    The same with pixels from 0 to 1, not standardized. At 13 %,
                 the calibration error is three times that of the dense network,
                 with a third of a point less accuracy; at 4.7 %, accuracy is
                 3.6 points lower, and the worst class 9.
  mnist          LeNet-300-100 on MNIST, 5 seeds. 20 minutes on 2 CPU cores.
  fashion_mnist  The same on Fashion-MNIST.
  cifar10        Conv-2 on CIFAR-10, 5 seeds. For an accelerator.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

import lthjax as lth
from common import checks, command, grid, levels, seeds
from common.classification import Classification, networks, static_optimizer
from common.config import Fraction, TicketConfig
from lthjax import evaluation, files
from lthjax.training import TrainState, with_masks
from methods import controls
from methods.beside_accuracy import Judge
from reports import beyond_accuracy as report

Kind = Literal['dense', 'dense_again', 'ticket', 'reinit', 'random']


@dataclasses.dataclass(frozen=True)
class Config(TicketConfig):
  """Evaluates tickets beside accuracy."""

  seeds: int = 10
  levels: int = 7
  fraction: Fraction = (('*', 0.4),)
  """Share of alive weights to prune per level, by the first glob that fits."""
  steps: int = 400
  eval_every: int = 100
  control_levels: tuple[int, ...] = (4, 6)
  """Levels whose ticket is trained beside its controls."""
  shifted: int = 1000
  """Test examples that are corrupted, 12 times in 5 severities."""
  repeats: int = 50
  """Calls that latency is measured with."""
  standardize: bool = True
  """Whether pixels have zero mean and unit variance, or are from 0 to 1."""

  PREFIX: ClassVar[str] = 'beyond'

  @property
  def title(self) -> str:
    pixels = '' if self.standardize else ', pixels from 0 to 1'
    return f'{super().title}{pixels}'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, seeds=2, levels=2, shifted=1, repeats=1)
    checks.each_once(self, 'control_levels', none=True)
    last = self.levels - 1
    if wrong := [x for x in self.control_levels if not 0 < x <= last]:
      raise ValueError(
        f'control_levels had {wrong[0]}, but must be from 1 to {last}, the last'
        ' level.'
      )


MNIST = Config(
  dataset='mnist',
  seeds=5,
  levels=8,
  control_levels=(4, 7),
  steps=1500,
  eval_every=500,
)
PRESETS = {
  'digits': Config(),
  'digits_unit': Config(standardize=False),
  'mnist': MNIST,
  'fashion_mnist': dataclasses.replace(MNIST, dataset='fashion_mnist'),
  'cifar10': dataclasses.replace(
    MNIST,
    dataset='cifar10',
    model='conv_2',
    steps=20_000,
    learning_rate=2e-4,
  ),
}


class Cell(NamedTuple):
  """One training of all seeds."""

  kind: Kind
  level: int
  steps: int

  @property
  def name(self) -> str:
    return f'networks/{self.level:02d}-{self.kind}'

  @property
  def label(self) -> str:
    return f'level {self.level}  {self.kind}'


def cells(config: Config) -> list[Cell]:
  """All trainings: dense networks, and then level by level."""
  found = [Cell('dense', 0, config.steps), Cell('dense_again', 0, config.steps)]
  for level in range(1, config.levels):
    kinds: tuple[Kind, ...] = ('ticket',)
    if level in config.control_levels:
      kinds += ('reinit', 'random')
    found += [Cell(kind, level, config.steps) for kind in kinds]
  return found


class Experiment(command.Experiment):
  """A network, its data, and what judges it."""

  def __init__(self, config: Config):
    self.config = config
    self.task = Classification.of(config)
    if not config.standardize:
      given = self.task.dataset
      self.task.dataset = given._replace(mean=0 * given.mean, std=given.std**0)
    dense = lth.masks.full(self.task.params)
    levels.check_fraction(config, self.task, dense)
    self.tx = static_optimizer(config, dense)
    self.trainer = self.task.trainer(self.tx, every=config.eval_every)
    self.masks = seeds.repeat(dense, config.seeds)
    self.keys, self.other_keys = seeds.keys(config, 2)
    self.judge = Judge(self.task, config.shifted)

  @functools.cached_property
  def start(self) -> TrainState:
    return self.trainer.init(self.keys)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:

    def fit(state, masks):
      return self.trainer.fit(
        with_masks(state, masks),
        self.task.dataset,
        until=self.config.steps,
        report=evaluated,
      )

    if cell.kind in ('dense', 'ticket'):
      state = self.next_ticket(cell.level, store, fit)
    elif cell.kind == 'dense_again':
      state = fit(self.trainer.init(self.other_keys), self.masks)
    else:
      state = fit(*self.begin(cell, store))
    kept = networks(state)
    return self.evaluate(cell, state, kept, store), kept

  def next_ticket(self, level: int, store: grid.Store, fit: Any) -> TrainState:
    """Prunes the ticket of the level before, rewinds, and trains."""
    before = self.load(before_name(level), store) if level else None
    last = levels.ticket(level - 1, self.start, before)
    ticket = levels.next_ticket(
      lth.tickets.imp, fit, self.start, self.masks, last, self.config
    )
    return ticket.trained

  def begin(self, cell: Cell, store: grid.Store) -> tuple[TrainState, Any]:
    """Where a control starts, and its masks."""
    masks = self.load(Cell('ticket', cell.level, 0).name, store)['masks']
    fresh = self.trainer.init(self.other_keys)
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(
      self.other_keys, cell.level
    )
    name = 'shuffled' if cell.kind == 'random' else 'reinit'
    return controls.begin(name, keys, self.start, fresh, masks, self.tx)

  def load(self, name: str, store: grid.Store) -> dict[str, Any]:
    like = jax.eval_shape(lambda: networks(self.trainer.init(self.keys)))
    return store.load(name, like)

  def evaluate(
    self, cell: Cell, state: TrainState, kept: Any, store: grid.Store
  ) -> grid.Result:
    """Everything that is measured of a training, one number per seed."""
    dense, reference = None, None
    if cell.kind != 'dense':
      name = Cell('dense', 0, 0).name
      dense = self.predictions(name, store)
      reference = store.read(name)
    found = {
      'kind': cell.kind,
      'level': cell.level,
      'density': lth.masks.density(kept['masks']),
      **self.task.test(state),
      **self.judge.measure(state, dense, reference),
    }
    if (cell.kind, cell.level) == ('ticket', self.config.levels - 1):
      found['latency'] = self.latency(kept, store)
    return found

  def predictions(self, name: str, store: grid.Store) -> np.ndarray:
    kept = self.load(name, store)
    networks = kept['params'], kept['model_state']
    return self.judge.predict(networks, self.judge.test.images)

  def latency(self, ticket: Any, store: grid.Store) -> list[dict[str, Any]]:
    """Milliseconds of calls of one seed, dense and with a mask."""
    dense = self.load(Cell('dense', 0, 0).name, store)

    def network(kept):
      params, state = kept['params'], kept['model_state']
      params, state = seeds.one(params, 0), seeds.one(state, 0)
      apply = jax.jit(self.task.model.apply)
      return lambda x: apply(params, state, x)[0]

    images = self.judge.test.images[:256].astype(np.float32)
    models = {'dense': network(dense), 'ticket, masked': network(ticket)}
    times = evaluation.latency(models, images, repeats=self.config.repeats)
    return [
      {'network': name, 'batch': size, **x._asdict()}
      for name, sizes in times.items()
      for size, x in sizes.items()
    ]

  def finish(self, store: grid.Store, results: list[grid.Result]) -> Any:
    self.task.check_compiled()
    said = {
      (cell.kind, cell.level): self.predictions(cell.name, store)
      for cell in cells(self.config)
    }
    last = self.config.levels - 1
    dense, labels = said['dense', 0], self.judge.test.labels
    found = {
      key: evaluation.exemplars(p, dense, labels)
      for key, p in said.items()
      if key != ('dense', 0)
    }
    shown = {k: p for k, p in said.items() if k[1] in (0, last)}
    models = {
      report.NAMES[k]: (lambda x, p=p: p) for (k, _), p in shown.items()
    }
    whole = evaluation.evaluate(
      models,
      (self.judge.test.images, labels),
      dense=report.NAMES['dense'],
    )
    page = lth.report.html(whole, title=f'{self.config.title}: beside accuracy')
    files.write_text(store.folder / 'report.html', page)
    return report.Measured(found, self.judge.test)


def before_name(level: int) -> str:
  """Where the networks are that a level prunes."""
  return Cell('ticket' if level > 1 else 'dense', level - 1, 0).name


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
