"""Early-bird tickets: the channels worth keeping are known early in training.

Trains the dense network with an L1 penalty on the scales of its normalizations
and looks after every epoch which channels a ticket would keep. At some epochs
the ticket is drawn, and trains on from there to the end at its own cost. The
paper's rule, that the last five masks agree, says when that should be; a ticket
drawn from the network trained to the end, and trained once more, is what it
would have cost to wait.

Paper: You et al., Drawing Early-Bird Tickets: Towards More Efficient Training
of Deep Networks, arXiv:1909.11957, figures 2 and 3, table 2.

  python experiments/early_bird.py                    # digits
  python experiments/early_bird.py --preset vgg16 --sparsities 0.5

  digits   A small convolutional network on digits, 3 seeds. A minute or so on 2
           CPU cores. Without half of the channels, drawn by epoch 8 of 20 as
           the rule has it, it is at most 3 points below the dense network, for
           less than 60 % of the multiply-adds of training.
  mnist    The same on MNIST, 10 epochs, 3 seeds. 20 minutes on 2 CPU cores.
           Without 30 % of the channels, drawn after the first epoch, it is
           within half a point of the dense network, for half of the
           multiply-adds of training.
  vgg16    VGG-16 on CIFAR-10, 1 seed, 160 epochs. For an accelerator.

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
import numpy as np
import optax

import lthjax as lth
from common import grid, running
from common import networks as small_networks
from common.classification import (
  TITLES,
  Classification,
  image_shape,
  make_optimizer,
  seed_keys,
  steps_down,
)
from lthjax import checkpoints, data, models, trees
from lthjax.training import TrainState, with_masks
from reports import early_bird as early_bird_report
from reports.early_bird import distances, settled


@dataclasses.dataclass(frozen=True)
class Config:
  """Draws tickets at several epochs."""

  preset: Literal['digits', 'mnist', 'vgg16'] = dataclasses.field(
    default='digits', compare=False
  )
  """One of those above; sets the defaults of all options below."""
  dataset: str = 'digits'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  validation: int | None = None
  """Examples held out for the curves; None: about a tenth."""
  model: Literal['small', 'vgg_11', 'vgg_16'] = 'small'
  """Network; small: four layers of 32 channels."""
  patch: int = 4
  """Side of the patches that the small network reads."""
  sparsities: tuple[float, ...] = (0.3, 0.5, 0.7)
  """Shares of the channels that go, in (0, 1)."""
  draws: tuple[int, ...] = (1, 2, 4, 6, 8, 12)
  """Epochs after which tickets are drawn and trained on."""
  epochs: int = 20
  """Length of the whole training."""
  seeds: int = 3
  """Runs side by side, with seeds 0, 1, and so on."""
  batch_size: int = 60
  """Examples a step."""
  learning_rate: float = 0.1
  """Of SGD with momentum 0.9; a tenth after half, and three quarters of it."""
  weight_decay: float = 1e-4
  """L2 penalty on kernels, added to the gradient."""
  l1: float = 1e-4
  """L1 penalty on scales, added to the gradient."""
  window: int = 5
  """How many masks have to agree."""
  threshold: float = 0.1
  """How far from the newest they may be."""
  augment: bool = False
  """Random crops and flips."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder in which the run gets its folder."""

  def __post_init__(self):
    """Refuses what cannot be trained."""
    running.at_least(
      self, epochs=1, seeds=1, batch_size=1, patch=1, validation=1
    )
    running.each_once(self, 'sparsities', 'draws')
    for name in ('sparsities', 'draws'):
      if list(values := getattr(self, name)) != sorted(values):
        raise ValueError(
          f'{name} were {" ".join(map(str, values))}, but must be in order.'
        )
    if wrong := [x for x in self.sparsities if not 0 < x < 1]:
      raise ValueError(
        f'sparsities had {wrong[0]}, but must be between 0 and 1: a share of'
        ' the channels.'
      )
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
  """A training of all seeds: the dense one, or that of a ticket.

  A ticket that is drawn after the last epoch trains for as many again; others
  train for the rest of them.

  Attributes:
    sparsity: share of the channels that went; `None` in the dense network.
    draw: the epoch after which they went.
    steps: how long it trains, in epochs.
  """

  sparsity: float | None
  draw: int
  steps: int

  @property
  def name(self) -> str:
    """Names its files."""
    return (
      self.label
      if self.sparsity is None
      else (f'{self.sparsity:g}-{self.draw:03d}')
    )

  @property
  def label(self) -> str:
    """Names it for people."""
    if self.sparsity is None:
      return 'dense'
    return f'without {100 * self.sparsity:g} %, drawn at {self.draw}'


def cells(config: Config) -> list[Cell]:
  """All that is to be trained; the dense network first."""
  epochs = config.epochs
  return [Cell(None, 0, epochs)] + [
    Cell(sparsity, draw, epochs if draw == epochs else epochs - draw)
    for sparsity in config.sparsities
    for draw in (*config.draws, epochs)
  ]


class Experiment:
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
      with running.blaming(f'--sparsities {sparsity:g}'):
        return jax.eval_shape(functools.partial(masks_of, sparsity), params)

    shapes, *_ = map(shapes_of, config.sparsities)
    self.dense = jax.tree.map(lambda m: jnp.ones(m.shape, bool), shapes)
    self.epoch = len(dataset.train.labels) // config.batch_size
    self.trainer = self.task.trainer(self.tx(), every=self.epoch)
    self.keys = seed_keys(config.seeds)
    image = jax.ShapeDtypeStruct((1, *image_shape(dataset)), jnp.float32)
    self.cost = lth.accounting.multiply_adds(
      self.task.model.apply, params, self.task.model_state, image
    )

  def tx(self) -> optax.GradientTransformation:
    """The optimizer of the paper, with masks in its state."""
    config = self.config
    falls = [config.epochs * self.epoch * i // 4 for i in (2, 3)]
    learning_rate = steps_down(config.learning_rate, falls)
    kernels = lth.masks.full(self.task.params)
    tx = make_optimizer('sgd', learning_rate, config.weight_decay, kernels)
    tx = optax.chain(lth.structured.add_l1(config.l1), tx)
    return lth.static(tx, self.dense)

  def train(
    self, folder: Path, cell: Cell, report
  ) -> tuple[grid.Result, dict[str, Any]]:
    """Trains a cell; returns what came out, and the networks."""
    if cell.sparsity is None:
      return self.train_dense(folder, cell, report)
    start, epochs = self.trainer.init(self.keys), self.config.epochs
    drawn = self.drawn(folder, cell.draw)
    masks = per_seed(masks_of, cell.sparsity)(drawn.params)
    state = drawn._replace(best=start.best)
    if cell.draw == epochs:
      state = lth.tickets.rewind_learning_rate(start, state)
    state = self.fit(with_masks(state, masks), epochs, report)
    forward = [self.forward(masks, i) for i in range(self.config.seeds)]
    share = cell.draw / epochs
    rest = 1 if share == 1 else 1 - share
    cost = [share + rest * f for f in forward]
    networks = {'params': state.params, 'masks': masks}
    return {
      **self.test(cell, state),
      'forward': forward,
      'cost': cost,
    }, networks

  def train_dense(
    self, folder: Path, cell: Cell, report
  ) -> tuple[grid.Result, dict[str, Any]]:
    """Trains the dense network; keeps it wherever tickets are drawn."""
    config = self.config
    state = self.trainer.init(self.keys)
    find = {s: per_seed(channels_of, s) for s in config.sparsities}
    seen: dict[float, list[np.ndarray]] = {s: [] for s in find}
    for epoch in range(config.epochs + 1):
      state = self.fit(state, epoch, report, start=0)
      for sparsity, masks in seen.items():
        leaves = jax.tree.leaves(find[sparsity](state.params))
        masks.append(np.concatenate(leaves, axis=1))
      path = drawn_folder(folder, epoch)
      # What an earlier run has left there is the same to the bit.
      if epoch in (*config.draws, config.epochs) and not path.exists():
        checkpoints.save(path, slim(state))
    apart = {s: distances(np.stack(x, axis=1)) for s, x in seen.items()}
    return {
      **self.test(cell, state),
      'forward': [1.0] * config.seeds,
      'cost': [1.0] * config.seeds,
      'distances': {f'{s:g}': x.round(6).tolist() for s, x in apart.items()},
      'settled': {
        f'{s:g}': [settled(one, config.window, config.threshold) for one in x]
        for s, x in apart.items()
      },
    }, {'params': state.params}

  def drawn(self, folder: Path, epoch: int) -> TrainState:
    """The dense network after an epoch, as it was kept."""
    like = slim(jax.eval_shape(self.trainer.init, self.keys))
    return checkpoints.load(drawn_folder(folder, epoch), like)

  def fit(
    self, state: TrainState, epoch: int, report, start: int | None = None
  ) -> TrainState:
    """Trains up to an epoch; reports how many it has been."""
    first = int(state.step) if start is None else start
    return self.trainer.fit(
      state,
      self.task.dataset,
      until=epoch * self.epoch,
      report=lambda step, found: report((step - first) // self.epoch, found),
    )

  def forward(self, masks: chex.ArrayTree, seed: int) -> float:
    """Cost of a forward pass with the masks of a seed; the dense one is 1."""
    alive = lth.masks.alive_by_name(jax.tree.map(lambda m: m[seed], masks))
    sizes = {n: x.size for n, x in trees.by_name(self.task.params).items()}
    kernels = alive.keys() & self.cost.dense.keys()
    densities = {name: alive[name] / sizes[name] for name in kernels}
    return self.cost.at(densities) / self.cost.total_dense

  def test(self, cell: Cell, state: TrainState) -> grid.Result:
    """Tests networks of all seeds."""
    accuracy = self.task.test_accuracy(state.params, state.model_state)
    return {
      'sparsity': cell.sparsity,
      'draw': cell.draw,
      'test_accuracy': accuracy,
    }


def small(config: Config, dataset: data.Dataset) -> models.Model:
  """A network with normalization, without shortcuts."""
  network = small_networks.Network(
    depth=3, width=32, kernel=3, patch=config.patch, norm=True, skip=False
  )
  return small_networks.build(
    network, image_shape(dataset), data.num_classes(dataset)
  )


def drawn_folder(folder: Path, epoch: int) -> Path:
  """Where the dense network from which tickets are drawn is kept."""
  return folder / 'drawn' / f'{epoch:03d}'


def slim(state: TrainState) -> Any:
  """What is worth keeping of a state to go on from."""
  return state._replace(best=None)


def per_seed(f, sparsity: float) -> Callable[[Any], Any]:
  """Compiles a function of the params of one run for those of all seeds."""
  return jax.jit(jax.vmap(functools.partial(f, sparsity)))


def channels_of(sparsity: float, params: Any) -> chex.ArrayTree:
  """The channels that a ticket would keep."""
  return lth.structured.channel_masks(params, sparsity)


def masks_of(sparsity: float, params: Any) -> chex.ArrayTree:
  """Masks of a ticket's channels, and of what the next layer reads of them."""
  return lth.structured.mask_channels(
    params,
    channels_of(sparsity, params),
    lth.groups.chain(params, layers(params)),
  )


def layers(params: Any) -> list[str]:
  """The layers in their order: a normalization follows its convolution."""

  def place(name):
    number = name.removeprefix('conv').removeprefix('norm')
    return name == 'output', name != 'stem', number, name

  return sorted(params, key=place)


def run(config: Config, report: grid.Progress) -> Path:
  """Trains what is still missing, and returns the folder with everything."""
  experiment = Experiment(config)
  dataset = config.dataset.replace('/', '-')
  folder = checkpoints.open_run(
    config.output, f'early_bird-{dataset}-{config.model}', config
  )
  grid.run(folder, functools.partial(experiment.train, folder), report)
  return folder


def main() -> None:
  """Runs the experiment and shows what came out."""
  with running.friendly_exit('trains this network again'):
    config = running.parse(sys.argv[1:], PRESETS, __doc__)
    name = TITLES.get(config.model, 'A small network')
    title = f'{name} on {config.dataset}, {running.seeds(config.seeds)}'
    with grid.Progress(cells(config), early_bird_report.rows) as report:
      folder = run(config, report)
    results = report.finished()
    early_bird_report.figure(results, title, config.threshold, folder)
    early_bird_report.markdown(results, title, folder, config.seeds)
  report.console.print(early_bird_report.table(results))
  report.console.print(
    f'Figures, tables and networks: {folder}', soft_wrap=True
  )


if __name__ == '__main__':
  main()
