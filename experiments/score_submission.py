"""Scores ways to prune at initialization against what their masks know.

A submission is a file with a function `prune(params, loss, data, sparsity)`
that returns masks; see experiments/submissions/README.md. Its network is
trained at five ratios of compression, along with controls that destroy one
thing each: the mask shuffled within its layers (shuffled), the mask on new
weights (reinit), and the weights that the method prunes first (inverted). Each
is compared with random masks of ERK's layer sizes on the same seeds, as points
of test accuracy with 95 % intervals. What counts is not to be accurate but to
be above ERK-random, and above one's own controls.

Paper: Frankle et al., Pruning Neural Networks at Initialization: Why Are We
Missing the Mark?, arXiv:2009.08576, figures 3 to 5; Blalock et al., What is the
State of Neural Network Pruning?, arXiv:2003.03033, sections 5 and 6.

  python experiments/score_submission.py                         # digits
  python experiments/score_submission.py --submissions mine.py
  python experiments/score_submission.py --preset mnist --submissions mine.py

  digits       LeNet-300-100 on digits, 5 seeds, 100 steps. A minute or two for
               all files of experiments/submissions on 2 CPU cores, and a few
               seconds for one more.
  mnist        LeNet-300-100 on MNIST, 5 seeds, 1,500 steps. Half an hour for
               all, 5 minutes for one.
  grey_cifar10 LeNet-300-100 on gray CIFAR-10, 5 seeds, 3,000 steps. 15 minutes
               for one.
  transformer  a causal decoder of characters, 2 blocks of width 64, on
               tinyshakespeare, 5 seeds, 500 steps. A quarter of an hour for
               one.

A file that changes is scored again; what others have trained in the same folder
is used again.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common import checks, command, grid, seeds
from common.classification import networks
from common.config import BaseConfig
from lthjax import accounting, trees
from lthjax.training import TrainState, with_masks
from methods import controls, problems, submissions
from reports import score_submission as report

CheckName = Literal['shuffled', 'reinit', 'inverted']
BASELINE = 'erk_random'


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  """Scores ways to prune at initialization."""

  submissions: tuple[str, ...] = dataclasses.field(
    default=submissions.names(), compare=False
  )
  """Names in experiments/submissions, or paths of other files."""
  dataset: str = 'digits'
  """digits, a TFDS name such as mnist, or the text of a decoder."""
  model: Literal['lenet_300_100', 'conv_2', 'resnet_20', 'decoder'] = (
    'lenet_300_100'
  )
  """Network; a decoder reads characters."""
  seeds: int = 5
  steps: int = 100
  """Training steps."""
  eval_every: int = 100
  """Steps between evaluations on the validation set."""
  ratios: tuple[float, ...] = (5.0, 10.0, 20.0, 50.0, 100.0)
  """Compression ratios: prunable weights per weight that is left."""
  checks: tuple[CheckName, ...] = get_args(CheckName)
  """Controls to train beside each network."""
  learning_rate: float = 1.2e-3
  """Largest step size of Adam; falls to 0 by a cosine."""
  score_batches: int = 10
  """Batches of training examples that submissions get."""
  width: int = 64
  """Width of a decoder's residual stream."""
  layers: int = 2
  """Blocks of a decoder."""
  heads: int = 4
  """Heads of a decoder."""
  time: int = 64
  """Characters of a sequence."""
  eval_tokens: int = 16_384
  """The most characters of a part of the text to test on."""

  PREFIX: ClassVar[str] = 'score'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, seeds=2, steps=1, eval_every=1, score_batches=1)
    checks.at_least(self, width=8, layers=1, heads=1, time=2)
    checks.at_least(self, eval_tokens=self.time)
    checks.compressions(self)
    checks.each_once(self, 'submissions')
    checks.each_once(self, 'checks', none=True)
    stems = [submissions.find(name).stem for name in self.submissions]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
      raise ValueError(
        f'submissions had several files called {", ".join(twice)}. Rename one.'
      )
    checks.reads(self)


MNIST = Config(dataset='mnist', steps=1_500, eval_every=500)
PRESETS = {
  'digits': Config(),
  'mnist': MNIST,
  'grey_cifar10': dataclasses.replace(
    MNIST, dataset='cifar10_grey', steps=3_000, eval_every=1_000
  ),
  'transformer': dataclasses.replace(
    MNIST,
    dataset='tinyshakespeare',
    model='decoder',
    ratios=(2.0, 5.0, 10.0, 20.0, 50.0),
    steps=500,
    batch_size=16,
    learning_rate=4e-3,
    eval_every=250,
  ),
}


class Cell(NamedTuple):
  """One training, of all seeds; ``check`` is empty for the method itself."""

  method: str  # 'dense', 'baseline', or the name of a file
  file: str  # what the file says, as a hash
  ratio: float
  check: Literal[''] | CheckName
  steps: int

  @property
  def name(self) -> str:
    parts = (self.method, self.file, f'{self.ratio:g}', self.check)
    return f'networks/{"-".join(filter(None, parts))}'

  @property
  def label(self) -> str:
    return f'{self.method} at {self.ratio:g}  {self.check}'


def cells(config: Config) -> list[Cell]:
  """All trainings, with the dense networks and the random masks first."""
  ratios, steps = sorted(config.ratios), config.steps
  found = [Cell('dense', '', 1.0, '', steps)]
  found += [Cell('baseline', '', ratio, '', steps) for ratio in ratios]
  every: tuple[Any, ...] = ('', *config.checks)
  for path in map(submissions.find, config.submissions):
    file = submissions.digest(path)
    found += [
      Cell(path.stem, file, ratio, check, steps)
      for ratio in ratios
      for check in every
    ]
  return found


class Experiment(command.Experiment):
  """A network, its data, its training, and what submissions make of them."""

  def __init__(self, config: Config):
    """Reads files and data; calls each submission once, to see it fail now."""
    self.config = config
    paths = [submissions.find(name) for name in config.submissions]
    self.prunes = {path.stem: submissions.load(path) for path in paths}
    self.prunes['baseline'] = submissions.load(submissions.find(BASELINE))
    decoder = config.model == 'decoder'
    make = problems.characters if decoder else problems.images
    self.problem = make(config)
    dense = lth.masks.full(self.problem.params)
    self.dense = jax.tree.map(jnp.asarray, dense)
    self.tx = lth.static(self.optimizer(), self.dense)
    self.trainer = self.problem.trainer(self.tx, every=config.eval_every)
    keys = seeds.keys(config, 5)
    self.keys, self.new_keys, self.noise_keys, *self.data_keys = keys
    params = seeds.one(self.start.params, 0)
    for ratio in config.ratios:
      with checks.blaming(f'--ratios {ratio:g}'):
        self.prune('baseline', ratio, params, 0)
    for name in self.prunes:
      self.prune(name, min(config.ratios), params, 0)

  def optimizer(self) -> optax.GradientTransformation:
    """Adam with a rise over a twentieth of the steps, and a cosine."""
    config = self.config
    rise = max(config.steps // 20, 1)
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, config.learning_rate, rise, max(config.steps, rise + 1)
    )
    return optax.adam(schedule)

  @functools.cached_property
  def start(self) -> TrainState:
    return self.trainer.init(self.keys)

  @functools.cached_property
  def like(self) -> dict[str, Any]:
    return networks(jax.eval_shape(self.trainer.init, self.keys))

  @functools.cached_property
  def cost(self) -> accounting.MultiplyAdds:
    """Multiply-adds of a forward pass on one example."""
    problem = self.problem
    example = jax.ShapeDtypeStruct((1, *problem.shape), 'float32')
    return accounting.multiply_adds(problem.apply, problem.params, example)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    state, masks = self.begin(cell, store)
    state = self.trainer.fit(
      with_masks(state, masks),
      self.problem.data,
      until=self.config.steps,
      report=evaluated,
    )
    kept = networks(state)
    alive = jax.vmap(lth.masks.alive_by_name)(kept['masks'])
    alive = {name: count.tolist() for name, count in alive.items()}
    return {
      **cell._asdict(),
      **self.problem.test(state),
      'alive': alive,
      **self.flops(alive),
    }, kept

  def begin(
    self, cell: Cell, store: grid.Store
  ) -> tuple[TrainState, chex.ArrayTree]:
    """Where a cell starts to train, and its masks."""
    if cell.method == 'dense':
      return self.start, seeds.repeat(self.dense, self.config.seeds)
    if cell.check in ('shuffled', 'reinit'):
      of = cell._replace(check='')
      masks = store.load(of.name, self.like)['masks']
      fresh = self.trainer.init(self.new_keys)
      return controls.begin(
        cell.check, self.noise_keys, self.start, fresh, masks, self.tx
      )
    return self.start, seeds.stack(
      self.prune(cell.method, cell.ratio, params, seed, cell.check)
      for seed, params in enumerate(seeds.unstack(self.start.params))
    )

  def prune(
    self,
    method: str,
    ratio: float,
    params: chex.ArrayTree,
    seed: int,
    check: str = '',
  ) -> chex.ArrayTree:
    """Masks of one seed, or with ``check`` those of what goes first."""
    problem, count = self.problem, self.config.score_batches
    # Keys of its own, so that ERK-random differs from what it is scored by.
    key = self.data_keys[method == 'baseline'][seed]
    data = submissions.Data(
      problem.draw(key, count), problem.apply, problem.shape, key
    )
    arguments = params, problem.loss, data, 1 - 1 / ratio
    if check == 'inverted':
      return submissions.inverted(self.prunes[method], *arguments)
    return self.prunes[method](*arguments)

  def flops(self, alive: dict[str, list[int]]) -> dict[str, list[float]]:
    """FLOPs of each seed: of inference on one example, and of training."""
    config = self.config
    leaves = trees.by_name(self.problem.params)
    forward = [
      2 * self.cost.at({n: x / leaves[n].size for n, x in of_seed.items()})
      for of_seed in (
        dict(zip(alive, counts, strict=True))
        for counts in zip(*alive.values(), strict=True)
      )
    ]
    examples = config.batch_size * config.steps
    train = [accounting.step_cost.static(x) * examples for x in forward]
    return {'inference_flops': forward, 'training_flops': train}

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    problems.check_compiled(self.problem)


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
