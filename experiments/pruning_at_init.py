"""Pruning at initialization, and what is left of it after sanity checks.

Prunes at initialization by SNIP, GraSP, SynFlow and magnitude, or at random,
and after training by IMP, at several compression ratios. Trains each network,
and beside it the controls that destroy one thing each: the mask shuffled within
its layers (shuffled), or so that every input of the network, such as a pixel,
keeps how many weights look at it (shuffled_input); the same mask on new weights
(reinit); the mask of the lowest scores (inverted). Where a control does as
well, what it destroyed did not matter.

Paper: Frankle et al., Pruning Neural Networks at Initialization: Why Are We
Missing the Mark?, arXiv:2009.08576, figures 1 to 5; Su et al., Sanity-Checking
Pruning Methods, arXiv:2009.11094; ratios as in Tanaka et al., Pruning neural
networks without any data, arXiv:2006.05467, figure 6.

  python experiments/pruning_at_init.py                         # mnist
  python experiments/pruning_at_init.py --preset fashion_mnist
  python experiments/pruning_at_init.py --methods synflow imp --ratios 20 50

  mnist          LeNet-300-100 on MNIST, 7 ratios, 3 seeds, 3,000 steps of Adam.
                 Three quarters of an hour on 2 CPU cores. At 20 and 50 times
                 compression, SNIP and SynFlow are within 0.7 points of their
                 own shuffles and of new weights; IMP at 32 times is at least 2
                 points ahead of its shuffles.
  fashion_mnist  the same on Fashion-MNIST, where no pixel is always black.
  conv2_mnist, conv2_fashion_mnist
                 Conv-2. For an accelerator.
  vgg11, resnet20
                 on CIFAR-10. For an accelerator.

All results go into one folder a configuration. Kill the command at any time
and start it again: it goes on where it was, and ends with the same bits.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common import grid, running
from common.classification import (
  TITLES,
  Classification,
  ModelName,
  make_optimizer,
  seed_keys,
)
from lthjax import checkpoints
from lthjax.training import TrainState, with_masks
from methods.criteria import Criterion, criteria
from methods.init_masks import first_kernel, imp_ratios, shuffle_masks, stack
from reports import pruning_at_init as init_report

MethodName = Literal[
  'random', 'magnitude', 'snip', 'iterative_snip', 'grasp', 'synflow', 'imp'
]
CheckName = Literal['shuffled', 'shuffled_input', 'reinit', 'inverted']


@dataclasses.dataclass(frozen=True)
class Config:
  """Prunes at initialization and checks what the masks know."""

  preset: Literal[
    'mnist',
    'fashion_mnist',
    'conv2_mnist',
    'conv2_fashion_mnist',
    'vgg11',
    'resnet20',
  ] = dataclasses.field(default='mnist', compare=False)
  """One of those above; sets the defaults of all options below."""
  dataset: str = 'mnist'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  validation: int | None = None
  """Examples held out for the curves; None: about a tenth."""
  model: ModelName = 'lenet_300_100'
  """Network."""
  methods: tuple[MethodName, ...] = (
    'random',
    'magnitude',
    'snip',
    'grasp',
    'synflow',
    'imp',
  )
  """How to prune."""
  ratios: tuple[float, ...] = (3.16, 10.0, 20.0, 31.6, 50.0, 100.0, 316.0)
  """Compression: prunable weights for each one that is left."""
  checks: tuple[CheckName, ...] = (
    'shuffled',
    'shuffled_input',
    'reinit',
    'inverted',
  )
  """What to train beside each network."""
  seeds: int = 3
  """Runs side by side, with seeds 0, 1, and so on."""
  steps: int = 3_000
  """Training steps."""
  batch_size: int = 60
  """Examples a step."""
  optimizer: Literal['adam', 'sgd'] = 'adam'
  """Adam, or SGD with momentum 0.9."""
  learning_rate: float = 1.2e-3
  """Step size; that of SGD falls to zero by a cosine."""
  weight_decay: float = 0.0
  """L2 penalty on kernels, added to the gradient."""
  augment: bool = False
  """Random crops and flips."""
  score_batches: int = 10
  """Batches of a hundred training examples for SNIP and GraSP."""
  score_steps: int = 100
  """Steps of SynFlow and iterative SNIP."""
  imp_fraction: float = 0.5
  """Largest share of the alive weights that a round of IMP prunes."""
  eval_every: int = 500
  """Steps between evaluations on the validation set."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder in which the run gets its folder."""

  def __post_init__(self):
    """Refuses what cannot be trained."""
    running.at_least(self, seeds=1, steps=1, batch_size=1, score_batches=1)
    running.at_least(self, score_steps=1, eval_every=1, validation=1)
    running.each_once(self, 'methods', 'ratios')
    running.each_once(self, 'checks', none=True)
    if wrong := [ratio for ratio in self.ratios if not ratio > 1]:
      raise ValueError(
        f'ratios were {wrong[0]}, but must be above 1: ten is a tenth of the'
        ' weights. The dense network is always trained.'
      )
    if not 0 < self.imp_fraction < 1:
      raise ValueError(
        f'imp_fraction was {self.imp_fraction}, but must be in (0, 1).'
      )


CIFAR = Config(
  dataset='cifar10',
  model='resnet_20',
  ratios=(3.16, 10.0, 31.6, 100.0, 316.0),
  steps=63_000,
  batch_size=128,
  optimizer='sgd',
  learning_rate=0.1,
  weight_decay=1e-4,
  augment=True,
  eval_every=2_000,
)
PRESETS = {
  'mnist': Config(),
  'fashion_mnist': Config(dataset='fashion_mnist'),
  'conv2_mnist': Config(model='conv_2'),
  'conv2_fashion_mnist': Config(dataset='fashion_mnist', model='conv_2'),
  'vgg11': dataclasses.replace(CIFAR, model='vgg_11', steps=60_000),
  'resnet20': CIFAR,
}


class Cell(NamedTuple):
  """One training, of all seeds; ``check`` is empty for the method itself."""

  method: Literal['dense'] | MethodName
  ratio: float
  check: Literal[''] | CheckName
  steps: int

  @property
  def name(self) -> str:
    """Names its files."""
    return f'{self.method}-{self.ratio:g}' + (self.check and f'-{self.check}')

  @property
  def label(self) -> str:
    """Names it for people."""
    return f'{self.method} at {self.ratio:g}  {self.check}'


def cells(config: Config) -> list[Cell]:
  """All that is to be trained; the dense network first."""
  found = [Cell('dense', 1.0, '', config.steps)]
  for method in config.methods:
    ratios = sorted(config.ratios)
    if method == 'imp':
      ratios = imp_ratios(ratios, config.imp_fraction)
    for ratio in ratios:
      checks: list[Any] = ['', *checks_of(method, config)]
      if ratio not in config.ratios:
        checks = ['']  # On the way to the next ratio.
      found += [Cell(method, ratio, check, config.steps) for check in checks]
  return found


def checks_of(method: MethodName, config: Config) -> list[CheckName]:
  """What can be checked: random masks know nothing, and IMP has no scores."""
  if method == 'random':
    return []
  return [c for c in config.checks if method != 'imp' or c != 'inverted']


class Experiment:
  """A network, its data, its training, and the ways to prune it."""

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
    self.dense = jax.tree.map(jnp.asarray, lth.masks.full(self.task.params))
    learning_rate = config.learning_rate
    if config.optimizer == 'sgd':
      learning_rate = optax.cosine_decay_schedule(learning_rate, config.steps)
    tx = make_optimizer(
      config.optimizer, learning_rate, config.weight_decay, self.dense
    )
    self.trainer = self.task.trainer(
      lth.static(tx, self.dense), every=config.eval_every
    )
    self.keys, self.new_keys, self.noise_keys = (
      seed_keys(config.seeds, offset) for offset in (0, 2**16, 2**17)
    )
    self.first = first_kernel(self.task)
    # Raises on a ratio that leaves too little before anything is trained.
    for ratio in config.ratios:
      with running.blaming(f'--ratios {ratio:g}'):
        self.prune(lth.scores.noise(jax.random.key(0), self.dense), ratio)

  @functools.cached_property
  def start(self) -> TrainState:
    """Dense networks at initialization."""
    return self.trainer.init(self.keys)

  def train(self, state: TrainState, masks: Any, report) -> TrainState:
    """Trains networks under their masks."""
    return self.trainer.fit(
      with_masks(state, masks),
      self.task.dataset,
      until=self.config.steps,
      report=report,
    )

  def prune(
    self, scores: chex.ArrayTree, ratio: float, masks: Any = None
  ) -> chex.ArrayTree:
    """Keeps the highest scores of the whole network."""
    masks = self.dense if masks is None else masks
    return lth.prune(scores, masks, sparsity=1 - 1 / ratio, scope='global')

  def masks(self, cell: Cell, earlier: Callable[[Cell], Any]) -> chex.ArrayTree:
    """The masks of a cell, for every seed; IMP looks at earlier networks."""
    if cell.method == 'dense':
      return stack([self.dense] * self.config.seeds)
    if cell.method == 'imp':
      config = self.config
      ratios = [1.0, *imp_ratios(config.ratios, config.imp_fraction)]
      before = ratios[ratios.index(cell.ratio) - 1]
      name: Any = 'imp' if before > 1 else 'dense'
      networks = earlier(Cell(name, before, '', cell.steps))
      prune = functools.partial(self.prune, ratio=cell.ratio)
      return stack(
        prune(lth.scores.magnitude(params), masks=masks)
        for params, masks in zip(
          self.unstack(networks['params']),
          self.unstack(networks['masks']),
          strict=True,
        )
      )
    return stack(
      self.masks_at_init(cell, params, seed)
      for seed, params in enumerate(self.unstack(self.start.params))
    )

  def masks_at_init(self, cell: Cell, params: Any, seed: int) -> chex.ArrayTree:
    """Masks of one seed, from its params at initialization alone."""
    criterion = self.criteria[cell.method][seed]
    if cell.check == 'inverted':  # In one step: the first would empty a layer.
      scores = jax.tree.map(jnp.negative, criterion(params))
      return self.prune(scores, cell.ratio)
    if cell.method in ('iterative_snip', 'synflow'):
      return lth.prune_iteratively(
        criterion,
        params,
        sparsity=1 - 1 / cell.ratio,
        steps=self.config.score_steps,
      )
    return self.prune(criterion(params), cell.ratio)

  @functools.cached_property
  def criteria(self) -> dict[str, list[Criterion]]:
    """The criteria, one for every seed."""
    model_state = self.unstack(self.start.model_state)[0]  # As of any seed.
    return criteria(
      self.task, model_state, list(self.noise_keys), self.config.score_batches
    )

  def control(
    self, cell: Cell, masks: chex.ArrayTree
  ) -> tuple[TrainState, chex.ArrayTree]:
    """Where a cell starts to train, and its masks."""
    if cell.check == 'reinit':
      return self.trainer.init(self.new_keys), masks
    if cell.check in ('shuffled', 'shuffled_input'):
      fixed = self.first if cell.check == 'shuffled_input' else None
      shuffle = functools.partial(shuffle_masks, keep_inputs_of=fixed)
      masks = jax.vmap(shuffle)(self.noise_keys, masks)
    return self.start, masks

  def unstack(self, tree: Any) -> list[Any]:
    """The trees of the seeds."""
    return [
      jax.tree.map(lambda x, i=i: x[i], tree) for i in range(self.config.seeds)
    ]


def run(config: Config, report: grid.Progress) -> Path:
  """Trains what is still missing, and returns the folder with everything."""
  experiment = Experiment(config)
  dataset = config.dataset.replace('/', '-')
  folder = checkpoints.open_run(
    config.output, f'init-{dataset}-{config.model}', config
  )
  start = jax.eval_shape(experiment.trainer.init, experiment.keys)
  like = {
    'params': start.params,
    'masks': jax.eval_shape(lth.get_masks, start.opt_state),
    'model_state': start.model_state,
  }

  def load(cell):
    return checkpoints.load(grid.network_folder(folder, cell), like)

  def masks_of(cell):
    if cell.check in ('', 'inverted'):
      return experiment.masks(cell, load)
    return load(cell._replace(check=''))['masks']

  def train(cell, evaluated):
    masks = masks_of(cell)
    state = experiment.train(*experiment.control(cell, masks), evaluated)
    networks = {
      'params': state.params,
      'masks': lth.get_masks(state.opt_state),
      'model_state': state.model_state,
    }
    alive = jax.vmap(lth.masks.alive_by_name)(networks['masks'])
    return {
      **cell._asdict(),
      'test_accuracy': experiment.task.test_accuracy(
        state.params, state.model_state
      ),
      'alive': {name: count.tolist() for name, count in alive.items()},
    }, networks

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
    with grid.Progress(cells(config), init_report.rows) as report:
      folder = run(config, report)
    results = report.finished()
    init_report.figure(results, title, folder)
    init_report.markdown(results, title, folder, config.seeds)
  report.console.print(init_report.table(results))
  report.console.print(f'Figure, tables and networks: {folder}', soft_wrap=True)


if __name__ == '__main__':
  main()
