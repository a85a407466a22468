"""Strong tickets: networks inside random weights that nobody trains.

Finds one with edge-popup for each share of the weights to keep, and one with
learned Bernoulli masks, which choose the share themselves. Compares them with
the dense network, trained as usual, and with supermasks read off it: masks of
its large weights, over its initial weights.

Paper: Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?,
arXiv:1911.13299, figures 3 and 4; Zhou et al., Deconstructing Lottery Tickets:
Zeros, Signs, and the Supermask, arXiv:1905.01067, figure 5 and table 1.

  python experiments/supermasks.py                                # mnist
  python experiments/supermasks.py --preset conv6
  python experiments/supermasks.py --preset mnist_widths

  mnist         LeNet-300-100 on MNIST, 3 seeds. Half an hour on 2 CPU cores.
                Edge-popup has at least 97 % at half the weights, and drawn
                Bernoulli masks have 96 %. The best supermask of large weights
                that kept their sign has 80 % with a signed constant (86.3 % in
                the paper).
  mnist_widths  edge-popup in networks of a quarter to twice the width. 15
                minutes on 2 CPU cores. With half of the random weights, it is 2
                points below the trained network at a quarter of the width, and
                0.2 above it at twice the width.
  fashion_mnist like mnist, on Fashion-MNIST.
  conv2, conv4, conv6, conv8
                Conv-2 to Conv-8 on CIFAR-10, 100 epochs. For an accelerator. In
                figure 3 of the paper, edge-popup peaks at about 77.5, 86, 88
                and 88.5 %, with 30 to 70 % of the weights.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import optax

import lthjax as lth
from common import checks, command, grid, seeds
from common.classification import Classification, diverged
from common.config import TrainConfig
from lthjax import data
from methods.supermask import (
  CRITERIA,
  METHODS,
  WEIGHTS,
  MethodName,
  gain,
  hidden,
  large,
)
from reports import supermasks as report

EXAMPLES = 100  # that Jacobians are averaged over
EVERY_METHOD: tuple[MethodName, ...] = ('dense', *METHODS)


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
  """Finds networks inside random weights."""

  dataset: str = 'mnist'
  steps: int = 6_000
  batch_size: int = 100
  learning_rate: float = 1.2e-3
  """Step size of Adam for the weights of the dense network."""
  eval_every: int = 1_000
  methods: tuple[MethodName, ...] = EVERY_METHOD
  """Methods to compare; supermasks of large weights come with dense."""
  widths: tuple[float, ...] = (1.0,)
  """Multiples of the hidden units and filters of LeNet or a Conv network."""
  kept: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
  """Shares of the weights of a layer that edge-popup keeps, in (0, 1)."""
  read_kept: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
  """Shares that supermasks of large weights keep below the output layer."""
  score_rate: float = 1.0
  """Step size of SGD with momentum 0.9 for the scores of edge-popup; falls to
  0 by a cosine."""
  logit_rate: float = 0.1
  """Step size of Adam for the logits of Bernoulli masks; falls to 0 by a
  cosine."""
  weight_decay: float = 0.0
  """L2 penalty on the scores of edge-popup, added to the gradient."""

  PREFIX: ClassVar[str] = 'supermasks'

  def __post_init__(self):
    super().__post_init__()
    checks.above_zero(self, 'score_rate', 'logit_rate')
    checks.each_once(self, 'methods', 'widths', 'kept', 'read_kept')
    because = ': with all weights or none there is no mask to find'
    checks.between_0_and_1(self, 'kept', 'read_kept', because=because)
    if self.widths != (1,) and not self.model.startswith(('lenet', 'conv')):
      raise ValueError(
        f'widths were {" ".join(map(str, self.widths))}, but {self.model} has'
        ' one width only. Choose lenet_300_100, conv_2, conv_4, conv_6 or'
        ' conv_8.'
      )


CIFAR = Config(
  dataset='cifar10',
  model='conv_2',
  steps=39_000,
  batch_size=128,
  score_rate=0.1,
  weight_decay=1e-4,
  augment=True,
  eval_every=2_000,
)
PRESETS = {
  'mnist': Config(),
  'mnist_widths': Config(
    methods=('dense', 'edge_popup_constant'),
    widths=(0.25, 0.5, 1.0, 2.0),
    kept=(0.3, 0.5, 0.7),
    read_kept=(0.2,),
  ),
  'fashion_mnist': Config(dataset='fashion_mnist'),
  'conv2': CIFAR,
  'conv4': dataclasses.replace(CIFAR, model='conv_4'),
  'conv6': dataclasses.replace(CIFAR, model='conv_6'),
  'conv8': dataclasses.replace(CIFAR, model='conv_8'),
}


class Cell(NamedTuple):
  """One training of all seeds; ``kept`` is `None` if the method learns it."""

  method: MethodName
  kept: float | None
  width: float
  steps: int

  @property
  def name(self) -> str:
    name = self.method if self.kept is None else f'{self.method}-{self.kept:g}'
    width = '' if self.width == 1 else f'-width-{self.width:g}'
    return f'networks/{name}{width}'

  @property
  def label(self) -> str:
    label = report.LABELS[self.method]
    if self.kept is not None:
      label = f'{label}  {100 * self.kept:g} %'
    return label if self.width == 1 else f'{label}  width {self.width:g}'


def cells(config: Config) -> list[Cell]:
  """All trainings, with the dense network first."""
  methods = sorted(config.methods, key=lambda name: name != 'dense')
  return [
    Cell(method, kept, width, config.steps)
    for method in methods
    for width in sorted(config.widths)
    for kept in (config.kept if method.startswith('edge') else (None,))
  ]


class Experiment(command.Experiment):
  """The network, its data, and a training loop per cell."""

  def __init__(self, config: Config):
    """Reads the data; raises now on budgets that do not fit the network."""
    self.config = config
    dataset = data.load(config.dataset, validation=config.validation)
    given = dataclasses.replace(config, dataset=dataset)
    self.dense = {
      width: Classification.of(given, width=width) for width in config.widths
    }
    self.keys = seeds.seed_keys(config)
    for cell in cells(config):
      if cell.method != 'dense':
        masks = functools.partial(METHODS[cell.method].masks, kept=cell.kept)
        jax.eval_shape(masks, self.task(cell).params, jax.random.key(0))

  def task(self, cell: Cell) -> Classification:
    """What a cell trains: weights, or what chooses among random ones."""
    dense = self.dense[cell.width]
    if cell.method == 'dense':
      return dense
    method = METHODS[cell.method]
    return dense.with_model(hidden(dense.model, method, cell.kept))

  def tx(self, cell: Cell) -> optax.GradientTransformation:
    config = self.config
    if cell.method == 'dense':
      return optax.adam(config.learning_rate)
    cosine = functools.partial(
      optax.cosine_decay_schedule, decay_steps=cell.steps
    )
    if cell.method == 'bernoulli':
      return optax.adam(cosine(config.logit_rate))
    return optax.chain(
      optax.add_decayed_weights(config.weight_decay),
      optax.sgd(cosine(config.score_rate), momentum=0.9),
    )

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    task = self.task(cell)
    trainer = task.trainer(self.tx(cell), every=self.config.eval_every)
    start = trainer.init(self.keys)
    state = trainer.fit(start, task.dataset, until=cell.steps, report=evaluated)
    if cell.method == 'dense':
      (found, *more), networks = self.read(cell, start.params, state)
      before = start.params, start.model_state
    else:
      (found, *more), networks = self.choose(cell, state)
      before = self.chosen(cell, start, start.model_state.key)
    found['gain_before'] = self.gain(cell, *before)
    return {**found, **diverged(state), 'found': more}, networks

  def read(
    self, cell: Cell, initial: Any, state: Any
  ) -> tuple[list[grid.Result], Any]:
    """Tests the dense network, and its large weights at their old values."""
    model_state = state.model_state
    found = [self.test(cell, 'dense', 1.0, state.params, model_state)]
    for criterion, score in CRITERIA.items():
      scores = score(state.params, initial)
      for kept in self.config.read_kept:
        masks = jax.vmap(functools.partial(large, kept=kept))(scores)
        for weights, make in WEIGHTS.items():
          name = f'{criterion}_{weights}'
          params = lth.masks.apply(masks, jax.vmap(make)(initial))
          found.append(self.test(cell, name, kept, params, model_state))
    return found, {'initial': initial, 'params': state.params}

  def choose(self, cell: Cell, state: Any) -> tuple[list[grid.Result], Any]:
    """Tests the weights that a cell has chosen."""
    method, frozen = METHODS[cell.method], state.model_state
    masks_of = jax.vmap(functools.partial(method.masks, kept=cell.kept))
    # Without a key, Bernoulli masks are those of the likely weights.
    keys = {cell.method: frozen.key}
    if cell.method == 'bernoulli':
      keys['bernoulli_likely'] = None
    found, masks = [], {}
    for name, key in keys.items():
      masks[name] = masks_of(state.params, key)
      kept = cell.kept or lth.masks.density(masks[name])
      found.append(self.test(cell, name, kept, *self.chosen(cell, state, key)))
    return found, {
      'trained': state.params,
      'weights': frozen.weights,
      'masks': masks[cell.method],
    }

  def chosen(self, cell: Cell, state: Any, key: Any) -> tuple[Any, Any]:
    """Params and model state of the networks that a cell has chosen."""
    run = functools.partial(METHODS[cell.method].run, kept=cell.kept)
    frozen = state.model_state
    params = jax.vmap(run)(frozen.weights, state.params, key)
    return params, frozen.model_state

  def gain(self, cell: Cell, params: Any, model_state: Any) -> list[float]:
    """How much larger signals become in each network; see `gain`."""
    task = self.dense[cell.width]
    test, mean, std = (
      getattr(task.dataset, name) for name in ('test', 'mean', 'std')
    )
    images = data.normalize(test.images[:EXAMPLES], mean, std)
    of_seed = functools.partial(gain, task.model, images=images)
    return jax.jit(jax.vmap(of_seed))(params, model_state).tolist()

  def test(
    self, cell: Cell, method: str, kept: float, params: Any, model_state: Any
  ) -> grid.Result:
    accuracy = self.dense[cell.width].test_accuracy(params, model_state)
    found = {'method': method, 'kept': kept, 'width': cell.width}
    found['gain'] = self.gain(cell, params, model_state)
    return {**found, 'test_accuracy': accuracy}


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
