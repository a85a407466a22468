"""Pruning at initialization, and what is left of it after sanity checks.

Prunes at initialization by SNIP, GraSP, SynFlow and magnitude, or at random
(uniformly, or with the layer sizes of ERK or SmartRatio), and after training by
IMP, at several compression ratios. Trains each network
along with controls that destroy one thing each: the mask shuffled within its
layers (shuffled), or shuffled so that every input of the network, such as a
pixel, keeps its number of weights (shuffled_input); the same mask on new
weights (reinit); the mask of the lowest scores (inverted). Where a control does
as well, what it destroyed did not matter.

With `--measure collapse` nothing is trained: at which compression does a method
first empty a layer, which cuts the network in two?

Paper: Frankle et al., Pruning Neural Networks at Initialization: Why Are We
Missing the Mark?, arXiv:2009.08576, figures 1 to 5; Su et al., Sanity-Checking
Pruning Methods, arXiv:2009.11094; ratios as in Tanaka et al., Pruning neural
networks without any data, arXiv:2006.05467, figure 6; layer collapse as in its
figure 1.

  python experiments/pruning_at_init.py                         # mnist
  python experiments/pruning_at_init.py --preset fashion_mnist
  python experiments/pruning_at_init.py --methods synflow imp --ratios 20 50

  mnist          LeNet-300-100 on MNIST, 7 ratios, 3 seeds, 3,000 steps of Adam.
                 45 minutes on 2 CPU cores. At compression ratios of 20 and 50,
                 SNIP and SynFlow are within 0.7 points of their own shuffles
                 and of new weights; at 32, IMP is at least 2 points ahead of
                 its shuffles.
  digits         LeNet-300-100 on digits, two ratios, 10 seeds, 300 steps, with
                 random masks of ERK and SmartRatio. 5 minutes on 2 CPU cores.
  fashion_mnist  the same on Fashion-MNIST, where no pixel is always black.
  conv2_mnist, conv2_fashion_mnist
                 Conv-2. For an accelerator.
  vgg11, resnet20
                 on CIFAR-10. For an accelerator.
  collapse_resnet20, collapse_vgg16
                 Layer collapse up to 10,000, from the scores of untrained
                 networks on CIFAR-10. 3 and 20 minutes on 2 CPU cores.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import checks, command, grid, seeds
from common.classification import Classification, make_optimizer, networks
from common.config import TrainConfig
from lthjax.training import TrainState, with_masks
from methods import collapse
from methods.criteria import (
  Criterion,
  criteria,
  forward_cost,
  imp_ratios,
  kernels,
  passes,
  shares,
  shuffle_masks,
)
from reports import pruning_at_init as report

MethodName = Literal[
  'random',
  'erk',
  'smart_ratio',
  'magnitude',
  'snip',
  'iterative_snip',
  'grasp',
  'synflow',
  'imp',
]
CheckName = Literal['shuffled', 'shuffled_input', 'reinit', 'inverted']
STEPWISE = ('iterative_snip', 'synflow')  # score again what is left
RANDOM = ('random', 'erk', 'smart_ratio')


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
  """Prunes at initialization, and checks what the masks know."""

  dataset: str = 'mnist'
  steps: int = 3_000
  learning_rate: float = 1.2e-3
  """Step size; for SGD it falls to 0 by a cosine."""
  eval_every: int = 500
  methods: tuple[MethodName, ...] = (
    'random',
    'magnitude',
    'snip',
    'grasp',
    'synflow',
    'imp',
  )
  """Methods of pruning."""
  ratios: tuple[float, ...] = (3.16, 10.0, 20.0, 31.6, 50.0, 100.0, 316.0)
  """Compression ratios: prunable weights per weight that is left."""
  checks: tuple[CheckName, ...] = get_args(CheckName)
  """Controls to train beside each network."""
  optimizer: Literal['adam', 'sgd'] = 'adam'
  """Adam, or SGD with momentum 0.9."""
  score_batches: int = 10
  """Batches of 100 training examples for SNIP and GraSP."""
  score_steps: int = 100
  """Steps of SynFlow and iterative SNIP."""
  imp_fraction: float = 0.5
  """Largest share of the alive weights that a round of IMP may prune."""
  measure: Literal['accuracy', 'collapse'] = 'accuracy'
  """Accuracy of networks that are trained or, without any training, the
  compression at which a layer is first emptied."""

  PREFIX: ClassVar[str] = 'init'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, score_batches=1, score_steps=1)
    checks.each_once(self, 'methods')
    checks.compressions(self)
    checks.each_once(self, 'checks', none=True)
    checks.between_0_and_1(self, 'imp_fraction')
    for name in ('imp', 'smart_ratio') if self.measure == 'collapse' else ():
      if name in self.methods:
        raise ValueError(
          f'methods had {name}, which empties no layer by what it knows before'
          ' any training. Leave it out where collapse is measured.'
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
COLLAPSE = Config(
  measure='collapse',
  dataset='cifar10',
  model='resnet_20',
  seeds=10,
  methods=('random', 'erk', 'magnitude', 'snip', 'grasp', 'synflow'),
  ratios=(3.16, 10.0, 31.6, 100.0, 316.0, 1_000.0, 3_160.0, 10_000.0),
  score_batches=1,
)
DIGITS = Config(
  dataset='digits',
  seeds=10,
  steps=300,
  eval_every=100,
  methods=(*RANDOM, 'snip', 'grasp', 'synflow', 'imp'),
  ratios=(20.0, 50.0),
  checks=('shuffled', 'reinit'),
  imp_fraction=0.75,
)
PRESETS = {
  'mnist': Config(),
  'digits': DIGITS,
  'fashion_mnist': Config(dataset='fashion_mnist'),
  'conv2_mnist': Config(model='conv_2'),
  'conv2_fashion_mnist': Config(dataset='fashion_mnist', model='conv_2'),
  'vgg11': dataclasses.replace(CIFAR, model='vgg_11', steps=60_000),
  'resnet20': CIFAR,
  'collapse_resnet20': COLLAPSE,
  'collapse_vgg16': dataclasses.replace(COLLAPSE, model='vgg_16'),
}


class Cell(NamedTuple):
  """One training, of all seeds; ``check`` is empty for the method itself."""

  method: Literal['dense'] | MethodName
  ratio: float
  check: Literal[''] | CheckName
  steps: int

  @property
  def name(self) -> str:
    check = self.check and f'-{self.check}'
    return f'networks/{self.method}-{self.ratio:g}{check}'

  @property
  def label(self) -> str:
    return f'{self.method} at {self.ratio:g}  {self.check}'


def cells(config: Config) -> list[Any]:
  """All trainings, with the dense network first; or all methods."""
  if config.measure == 'collapse':
    return [collapse.Cell(method) for method in config.methods]
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
  """The checks that apply: random masks know nothing, IMP has no scores."""
  if method in RANDOM:
    return []
  return [c for c in config.checks if method != 'imp' or c != 'inverted']


class Experiment(command.Experiment):
  """A network, its data, its training, and the ways to prune it."""

  def __init__(self, config: Config):
    self.config = config
    self.task = Classification.of(config)
    self.dense = jax.tree.map(jnp.asarray, lth.masks.full(self.task.params))
    learning_rate = config.learning_rate
    if config.optimizer == 'sgd':
      learning_rate = optax.cosine_decay_schedule(learning_rate, config.steps)
    tx = make_optimizer(
      config.optimizer, learning_rate, config.weight_decay, self.dense
    )
    tx = lth.static(tx, self.dense)
    self.trainer = self.task.trainer(tx, every=config.eval_every)
    self.keys, self.new_keys, self.noise_keys = seeds.keys(config, 3)
    order = kernels(self.task)
    self.first, self.cost = order[0], forward_cost(self.task)
    self.densities = {
      'erk': lth.densities.erk,
      'smart_ratio': lth.densities.smart_ratio(order),
    }
    self.init = jax.jit(self.task.model.init)
    # Raises on a ratio that leaves too little before anything is trained.
    for ratio in config.ratios:
      blaming = checks.blaming(f'--ratios {ratio:g}')
      with blaming, collapse.empty_layers_are_fine():
        self.prune(lth.scores.noise(jax.random.key(0), self.dense), ratio)
        if 'smart_ratio' in config.methods:
          self.draw('smart_ratio', ratio, self.keys[0])

  @functools.cached_property
  def start(self) -> TrainState:
    return self.trainer.init(self.keys)

  @functools.cached_property
  def like(self) -> dict[str, Any]:
    return networks(jax.eval_shape(self.trainer.init, self.keys))

  def train(self, cell: Any, store: grid.Store, evaluated) -> Any:
    if isinstance(cell, collapse.Cell):
      return self.collapse(cell.method), np.int32(0)
    if cell.check in ('', 'inverted'):
      masks = self.masks(cell, store)
    else:
      pruned = cell._replace(check='')
      masks = store.load(pruned.name, self.like)['masks']
    state, masks = self.control(cell, masks)
    state, steps = with_masks(state, masks), self.config.steps
    data = self.task.dataset
    state = self.trainer.fit(state, data, until=steps, report=evaluated)
    kept = networks(state)
    alive = jax.vmap(lth.masks.alive_by_name)(kept['masks'])
    alive = {name: count.tolist() for name, count in alive.items()}
    return {
      **cell._asdict(),
      **self.task.test(state),
      'alive': alive,
      'compute': self.compute(cell, alive, store),
    }, kept

  def compute(
    self, cell: Cell, alive: dict[str, list[int]], store: grid.Store
  ) -> list[float]:
    """Multiply-adds of all that led to a network; those of dense are 1."""
    config = self.config
    if cell.method == 'imp':
      found = store.read(self.before(cell).name)['compute']
    else:
      scored = passes(cell.method, config.score_batches, config.score_steps)
      found = [scored / (config.steps * config.batch_size)] * config.seeds
    own = shares(self.cost, self.dense, alive)
    return [a + b for a, b in zip(found, own, strict=True)]

  def before(self, cell: Cell) -> Cell:
    """The network that a round of IMP prunes."""
    config = self.config
    ratios = [1.0, *imp_ratios(config.ratios, config.imp_fraction)]
    ratio = ratios[ratios.index(cell.ratio) - 1]
    name: Any = 'imp' if ratio > 1 else 'dense'
    return Cell(name, ratio, '', cell.steps)

  def prune(
    self, scores: chex.ArrayTree, ratio: float, masks: Any = None
  ) -> chex.ArrayTree:
    masks = self.dense if masks is None else masks
    return lth.prune(scores, masks, sparsity=1 - 1 / ratio, scope='global')

  def draw(self, method: str, ratio: float, key: Any) -> chex.ArrayTree:
    """Random masks with the layer sizes that a method names."""
    draw = lth.random_masks(
      key, sparsity=1 - 1 / ratio, densities=self.densities[method]
    )
    return draw(self.task.params)

  def masks(self, cell: Cell, store: grid.Store) -> chex.ArrayTree:
    """The masks of a cell, for every seed; IMP prunes earlier networks."""
    if cell.method == 'dense':
      return seeds.repeat(self.dense, self.config.seeds)
    if cell.method == 'imp':
      kept = store.load(self.before(cell).name, self.like)
      return seeds.stack(
        self.prune(
          lth.scores.magnitude(one['params']), cell.ratio, one['masks']
        )
        for one in seeds.unstack(kept)
      )
    with collapse.empty_layers_are_fine():  # See `alive`.
      return seeds.stack(
        self.masks_at_init(cell, params, seed)
        for seed, params in enumerate(seeds.unstack(self.start.params))
      )

  def collapse(self, method: str) -> grid.Result:
    """Where the networks of all seeds lose a layer, without training."""
    ratios, steps = sorted(self.config.ratios), self.config.score_steps
    found = []
    for seed, key in enumerate(self.keys):
      params, _ = self.init(key)
      if method in self.densities:
        spread = self.densities[method]
        one = collapse.by_densities(spread, params, ratios, steps)
      elif method in STEPWISE:
        score = self.criteria[method][seed]
        one = collapse.step_by_step(score, params, self.dense, ratios, steps)
      else:
        scores = self.criteria[method][seed](params)
        one = collapse.at_once(scores, self.dense, ratios)
      found.append(one._asdict())
    return {'method': method, 'ratios': ratios, 'collapse': found}

  def masks_at_init(self, cell: Cell, params: Any, seed: int) -> chex.ArrayTree:
    """Masks of one seed, from its params at initialization alone."""
    if cell.method in self.densities:
      return self.draw(cell.method, cell.ratio, self.noise_keys[seed])
    criterion = self.criteria[cell.method][seed]
    if cell.check == 'inverted':  # In one step: the first would empty a layer.
      scores = jax.tree.map(jnp.negative, criterion(params))
      return self.prune(scores, cell.ratio)
    if cell.method in STEPWISE:
      return lth.prune_iteratively(
        criterion,
        params,
        sparsity=1 - 1 / cell.ratio,
        steps=self.config.score_steps,
      )
    return self.prune(criterion(params), cell.ratio)

  @functools.cached_property
  def criteria(self) -> dict[str, list[Criterion]]:
    _, model_state = self.init(self.keys[0])  # As for any seed.
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

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    self.task.check_compiled()


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
