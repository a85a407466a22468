"""Early-bird tickets: the channels worth keeping are known early in training.

Trains the dense network with an L1 penalty on the scales of its normalization
layers, and finds after every epoch the channels that a ticket would keep. At
some epochs a ticket is drawn and trained to the end, which costs less than the
dense network. The paper's rule draws it once the last five masks agree. For
comparison, a ticket is drawn from the fully trained network and trained once
more. Two arms ask what the choice of channels is worth: random channels, as
many per layer, drawn and trained on in the same way (random); and such channels
of the untrained network, trained from scratch for as many multiply-adds as the
ticket has cost in total (slim).

Paper: You et al., Drawing Early-Bird Tickets: Towards More Efficient Training
of Deep Networks, arXiv:1909.11957, figures 2 and 3, table 2.

  python experiments/early_bird.py                    # digits
  python experiments/early_bird.py --preset vgg16 --sparsities 0.5
  python experiments/early_bird.py --preset mnist --smaller

  digits   A small convolutional network on digits, 3 seeds. About a minute on 2
           CPU cores. Without half of the channels, drawn by the rule by epoch 8
           of 20, it is at most 3 points below the dense network, for less than
           60 % of the multiply-adds of training.
  mnist    The same on MNIST, 10 epochs, 3 seeds. 20 minutes on 2 CPU cores.
           Without 30 % of the channels, drawn after the first epoch, it is
           within half a point of the dense network, for half of the
           multiply-adds of training.
  claims   The same on digits, 10 seeds, two sparsities and draws, with both
           arms. 10 minutes on 2 CPU cores.
  vgg16    VGG-16 on CIFAR-10, 1 seed, 160 epochs. For an accelerator.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import checks, command, config, grid, networks, seeds
from common.classification import (
  Classification,
  image_shape,
  make_optimizer,
  steps_down,
)
from lthjax import data, models, trees
from lthjax.training import TrainState, with_masks
from methods.smaller import Smaller
from reports import early_bird as report

Arm = Literal['random', 'slim']


@dataclasses.dataclass(frozen=True)
class Config(config.BaseConfig):
  """Draws tickets at several epochs."""

  learning_rate: float = 0.1
  """Step size of SGD with momentum 0.9; falls to a tenth after half and after
  three quarters of training."""
  dataset: str = 'digits'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  model: Literal['small', 'vgg_11', 'vgg_16'] = 'small'
  """Network; small: four layers of 32 channels."""
  patch: int = 4
  """Side of the patches that the small network reads."""
  sparsities: tuple[float, ...] = (0.3, 0.5, 0.7)
  """Shares of the channels to remove, in (0, 1)."""
  draws: tuple[int, ...] = (1, 2, 4, 6, 8, 12)
  """Epochs after which tickets are drawn and trained on."""
  epochs: int = 20
  weight_decay: float = 1e-4
  """L2 penalty on kernels, added to the gradient."""
  l1: float = 1e-4
  """L1 penalty on scales, added to the gradient."""
  window: int = 5
  """Number of masks in a row that must agree."""
  threshold: float = 0.1
  """Largest distance of these masks from the newest, as a share."""
  augment: bool = False
  """Whether to crop and flip images at random."""
  arms: Annotated[tuple[Arm, ...], config.NONE] = ()
  """What tickets are compared with, at each of the draws."""
  smaller: bool = False
  """Whether to train on without the channels, not under masks, and time it."""

  PREFIX: ClassVar[str] = 'early_bird'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, epochs=1, patch=1, weight_decay=0, l1=0)
    checks.each_once(self, 'sparsities', 'draws')
    checks.each_once(self, 'arms', none=True)
    for name in ('sparsities', 'draws'):
      if list(values := getattr(self, name)) != sorted(values):
        raise ValueError(
          f'{name} were {" ".join(map(str, values))}, but must be in order.'
        )
    because = ': a share of the channels'
    checks.between_0_and_1(self, 'sparsities', because=because)
    if wrong := [x for x in self.draws if not 0 < x < self.epochs]:
      raise ValueError(
        f'draws had {wrong[0]}, but must be between 0 and the number of'
        f' epochs, {self.epochs}: the ticket trains before and after.'
      )
    lth.tickets.settled((), window=self.window, threshold=self.threshold)


PRESETS = {
  'digits': Config(),
  'mnist': Config(
    dataset='mnist',
    patch=7,
    draws=(1, 2, 3, 4, 5, 6, 8),
    epochs=10,
    batch_size=100,
  ),
  'claims': Config(
    seeds=10, sparsities=(0.5, 0.7), draws=(1, 4), arms=get_args(Arm)
  ),
  'vgg16': Config(
    dataset='cifar10',
    model='vgg_16',
    draws=(5, 10, 15, 20, 30, 40, 60, 80, 120),
    epochs=160,
    seeds=1,
    batch_size=256,
    augment=True,
  ),
}


class Cell(NamedTuple):
  """A training of all seeds: of the dense network, or of a ticket.

  A ticket drawn after the last epoch trains for all epochs again; the others
  train for the remaining epochs.
  """

  sparsity: float | None  # share of the channels removed
  draw: int  # the epoch after which they were removed
  steps: int  # how long it trains, in epochs; slim networks about so long
  arm: Literal[''] | Arm = ''

  @property
  def name(self) -> str:
    if self.sparsity is None:
      return 'networks/dense'
    arm = self.arm and f'-{self.arm}'
    return f'networks/{self.sparsity:g}-{self.draw:03d}{arm}'

  @property
  def label(self) -> str:
    if self.sparsity is None:
      return 'dense'
    drawn = f'without {100 * self.sparsity:g} %, drawn at {self.draw}'
    return f'{drawn}  {self.arm}'.rstrip()


def cells(config: Config) -> list[Cell]:
  """All trainings, with the dense network first."""
  epochs = config.epochs
  found = [Cell(None, 0, epochs)]
  for sparsity in config.sparsities:
    for draw in (*config.draws, epochs):
      left = epochs if draw == epochs else epochs - draw
      found.append(Cell(sparsity, draw, left))
      if draw < epochs:
        found += [Cell(sparsity, draw, left, arm) for arm in config.arms]
  return found


class Experiment(command.Experiment):
  """The network, its data, and a training loop that is compiled once."""

  def __init__(self, config: Config):
    """Reads the data; raises now on sparsities that leave too little."""
    self.config = config
    dataset = data.load(config.dataset, validation=config.validation)
    self.task = Classification(
      dataset,
      small(config, dataset) if config.model == 'small' else config.model,
      batch_size=config.batch_size,
      augment=config.augment,
    )
    params = self.task.params

    def shapes_of(sparsity):
      with checks.blaming(f'--sparsities {sparsity:g}'):
        return jax.eval_shape(functools.partial(masks_of, sparsity), params)

    shapes, *_ = map(shapes_of, config.sparsities)
    self.dense = jax.tree.map(lambda m: jnp.ones(m.shape, bool), shapes)
    self.epoch = len(dataset.train.labels) // config.batch_size
    self.trainer_of = functools.cache(self._trainer_of)
    self.trainer = self.trainer_of(config.epochs)
    self.keys, self.noise_keys = seeds.keys(config, 2)
    image = jax.ShapeDtypeStruct((1, *image_shape(dataset)), jnp.float32)
    self.cost = lth.accounting.multiply_adds(
      self.task.model.apply, params, self.task.model_state, image
    )

  def _trainer_of(self, epochs: int) -> lth.Trainer:
    """Training whose learning rate falls after a half and three quarters."""
    return self.task.trainer(self.tx(epochs), every=self.epoch)

  def tx(self, epochs: int) -> optax.GradientTransformation:
    """The optimizer of the paper, with masks in its state."""
    return lth.static(self.plain_tx(epochs), self.dense)

  def plain_tx(self, epochs: int) -> optax.GradientTransformation:
    """The optimizer of the paper."""
    config = self.config
    falls = [epochs * self.epoch * i // 4 for i in (2, 3)]
    learning_rate = steps_down(config.learning_rate, falls)
    kernels = lth.masks.full(self.task.params)
    tx = make_optimizer('sgd', learning_rate, config.weight_decay, kernels)
    return optax.chain(lth.structure.add_l1(config.l1), tx)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    if cell.sparsity is None:
      return self.train_dense(cell, store, evaluated)
    start, epochs = self.trainer.init(self.keys), self.config.epochs
    # The dense network after an epoch, as it was kept.
    drawn = store.load(drawn_at(cell.draw), jax.eval_shape(lambda: slim(start)))
    channels = self.channels(cell, drawn.params)
    masks = jax.vmap(masks_from)(drawn.params, channels)
    forward = list(map(self.forward, seeds.unstack(masks)))
    # Shares of training: dense until the draw, and as the ticket from then on.
    before, after, last = cell.draw / epochs, 1 - cell.draw / epochs, epochs
    if cell.draw == epochs:
      after = 1
    if cell.arm == 'slim':
      # As many epochs as have the multiply-adds of the tickets.
      cost = before + after * np.mean(forward)
      last = max(1, round(epochs * float(cost / np.mean(forward))))
      before, after = 0, last / epochs
      state = self.trainer_of(last).init(self.keys)
    else:
      state = drawn._replace(best=start.best)
      if cell.draw == epochs:
        state = lth.tickets.rewind_learning_rate(start, state)
    state = with_masks(state, masks)
    result = {'forward': forward, 'cost': [before + after * f for f in forward]}
    if self.config.smaller:
      ends, params, step = self.train_smaller(state, channels, last, evaluated)
      result |= {'step_time': step, 'training_time': before + after * step}
    else:
      state = self.fit(state, last, evaluated, trainer=self.trainer_of(last))
      ends, params = self.task.test(state), state.params
    result |= {'sparsity': cell.sparsity, 'draw': cell.draw, 'arm': cell.arm}
    return {**result, **ends}, {'params': params, 'masks': masks}

  def train_smaller(
    self, state: TrainState, channels: chex.ArrayTree, last: int, evaluated: Any
  ) -> tuple[grid.Result, list[Any], float]:
    """Finds what tests do, params, and a step's time as a share of dense."""
    first, every = int(state.step), self.epoch
    names, tx = layers(self.task.params), self.plain_tx(last)
    small = Smaller(self.task, tx, state, channels, names, every)
    small.fit(
      last * every,
      every,
      lambda step, found: evaluated((step - first) // every, found),
    )
    times = small.milliseconds((last - 1) * every)
    params = [run.params for _, _, run in small.runs]
    return small.test(), params, times['smaller'] / times['dense']

  def masks(self, cell: Cell, params: chex.ArrayTree) -> chex.ArrayTree:
    """Masks of the ticket of each seed, or of as many random channels."""
    return jax.vmap(masks_from)(params, self.channels(cell, params))

  def channels(self, cell: Cell, params: chex.ArrayTree) -> chex.ArrayTree:
    """Channels of the ticket of each seed, or as many random ones."""

    def draw(params, key):
      assert cell.sparsity is not None
      channels = channels_of(cell.sparsity, params)
      return lth.masks.shuffle(key, channels) if cell.arm else channels

    return jax.jit(jax.vmap(draw))(params, self.noise_keys)

  def train_dense(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    """Trains the dense network; keeps it wherever tickets are drawn."""
    config = self.config
    state = self.trainer.init(self.keys)
    find = {s: per_seed(channels_of, s) for s in config.sparsities}
    seen: dict[float, list[np.ndarray]] = {s: [] for s in find}
    for epoch in range(config.epochs + 1):
      state = self.fit(state, epoch, evaluated, start=0)
      for sparsity, masks in seen.items():
        leaves = jax.tree.leaves(find[sparsity](state.params))
        masks.append(np.concatenate(leaves, axis=1))
      # What an earlier run has left there is the same to the bit.
      needed = epoch in (*config.draws, config.epochs)
      if needed and not store.has(drawn_at(epoch)):
        store.save(drawn_at(epoch), slim(state))
    apart = {s: report.distances(np.stack(x, 1)) for s, x in seen.items()}
    rule = functools.partial(
      report.settled, window=config.window, threshold=config.threshold
    )
    return {
      **self.test(cell, state),
      'forward': [1.0] * config.seeds,
      'cost': [1.0] * config.seeds,
      'distances': {f'{s:g}': x.round(6).tolist() for s, x in apart.items()},
      'settled': {f'{s:g}': list(map(rule, x)) for s, x in apart.items()},
    }, {'params': state.params}

  def fit(
    self,
    state: TrainState,
    epoch: int,
    report: Any,
    start: int | None = None,
    trainer: lth.Trainer | None = None,
  ) -> TrainState:
    """Trains up to an epoch; reports the number of epochs done."""
    first = int(state.step) if start is None else start
    return (trainer or self.trainer).fit(
      state,
      self.task.dataset,
      until=epoch * self.epoch,
      report=lambda step, found: report((step - first) // self.epoch, found),
    )

  def forward(self, masks: chex.ArrayTree) -> float:
    """Cost of a forward pass under the masks of a seed; the dense one is 1."""
    alive = lth.masks.alive_by_name(masks)
    sizes = {n: x.size for n, x in trees.by_name(self.task.params).items()}
    kernels = alive.keys() & self.cost.dense.keys()
    densities = {name: alive[name] / sizes[name] for name in kernels}
    return self.cost.at(densities) / self.cost.total_dense

  def test(self, cell: Cell, state: TrainState) -> grid.Result:
    what = {'sparsity': cell.sparsity, 'draw': cell.draw, 'arm': cell.arm}
    return {**what, **self.task.test(state)}

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    self.task.check_compiled(self.trainer_of.cache_info().currsize)


def small(config: Config, dataset: data.Dataset) -> models.Model:
  """A network with normalization and without shortcuts."""
  network = networks.Network(
    depth=3, width=32, kernel=3, patch=config.patch, norm=True, skip=False
  )
  return networks.build(
    network, image_shape(dataset), data.num_classes(dataset)
  )


def drawn_at(epoch: int) -> str:
  """Where the dense network from which tickets are drawn is kept."""
  return f'drawn/{epoch:03d}'


def slim(state: TrainState) -> TrainState:
  return state._replace(best=None)


def per_seed(f, sparsity: float) -> Callable[[Any], Any]:
  return jax.jit(jax.vmap(functools.partial(f, sparsity)))


def channels_of(sparsity: float, params: Any) -> chex.ArrayTree:
  return lth.structure.channel_masks(params, sparsity)


def masks_of(sparsity: float, params: Any) -> chex.ArrayTree:
  """Masks of a ticket's channels, and of the next layer's inputs from them."""
  return masks_from(params, channels_of(sparsity, params))


def masks_from(params: Any, channels: chex.ArrayTree) -> chex.ArrayTree:
  chain = lth.structure.chain(params, layers(params))
  return lth.structure.mask_channels(params, channels, chain)


def layers(params: Any) -> list[str]:
  """The layers in their order: a normalization follows its convolution."""

  def place(name):
    number = name.removeprefix('conv').removeprefix('norm')
    return name == 'output', name != 'stem', number, name

  return sorted(params, key=place)


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
