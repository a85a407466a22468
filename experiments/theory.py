"""Theory of lottery tickets, and what is measured beside its formulas.

  draws       N random masks find a ticket with chance 1 - (1 - p)^N: masks of
              one network against those of fresh ones, which solve XOR.
  subsets     The best subset of n random weights misses a target by about 2^-n
              (Lueker 1998; Pensia et al., arXiv:2006.07990), the best single
              one by about 1 / n (Malach et al., arXiv:2002.00585).
  layer       The largest layer of a trained LeNet-300-100, rebuilt in both ways
              from random weights: test accuracy over n.
  moments     A ReLU network of 20 layers under masks of density d: its second
              moment is d^L (He et al., arXiv:1502.01852, with masks).
  chi         Growth of a perturbation in tanh networks: d s^2 E tanh'^2
              (Poole et al., arXiv:1606.05340; Schoenholz et al., 1611.01232).
  supermasks  The same growth under masks of edge-popup (Ramanujan et al.,
              arXiv:1911.13299) and under random ones of equal density.
  extremes    The best of N random masks of an untrained network: the normal
              law's expected maximum, and a fitted extreme value law.
  widths      Tickets of one number of weights, found by iterative pruning of
              wider and wider networks: more draws for them. No formula.

  python experiments/theory.py                    # digits
  python experiments/theory.py --preset mnist
  python experiments/theory.py --parts draws chi

  digits  All parts but widths, 8 seeds. About two minutes on 2 CPU cores. Masks
          of one network find a ticket less often than the formula says, those
          of fresh networks as often. Errors of subsets halve with each weight;
          16 reach 3e-5. Moments are d^L. The best of 1,000 masks is two points
          above the normal law.
  mnist   The same with LeNet-300-100 on MNIST. Three minutes on 2 CPU cores.
  widths  Tickets of 1,000 weights on digits, from LeNets of a quarter to twice
          the width, 10 seeds. Ten minutes on 2 CPU cores.

Intervals are Student's 95 % intervals of a mean over the seeds. Functions for
use elsewhere are in `theories/`.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
import optax

import lthjax as lth
from common import checks, command, grid, seeds
from common.classification import Classification
from common.config import RunConfig
from lthjax import data
from methods.supermask import METHODS, MethodName, hidden
from reports import theory as report
from theories import chaos, draws, extremes, slopes, sums, widths
from theories.intervals import Point

Part = Literal[
  'draws',
  'subsets',
  'layer',
  'moments',
  'chi',
  'supermasks',
  'extremes',
  'widths',
]
# By part: shares of the time that all of them take.
PARTS: dict[Part, int] = {
  'draws': 15,
  'subsets': 20,
  'layer': 20,
  'moments': 10,
  'chi': 20,
  'supermasks': 30,
  'extremes': 20,
  'widths': 100,
}
WIDTHS = (8, 16)  # hidden units that solve XOR
SUBSETS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)  # weights to choose from
SINGLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COVERED = ((10, 0.1), (16, 0.01))  # weights, and error for all of [-1, 1]
DENSITIES = (1.0, 0.5, 0.1)
GAINS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0)  # d s^2
NETWORKS = (0.25, 0.5, 1.0, 2.0)  # widths to prune to one number of weights
POPUP: tuple[MethodName, ...] = ('edge_popup_kaiming', 'edge_popup_constant')
POPUP_DENSITIES = (0.1, 0.5)


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
  """Measures what theory predicts."""

  seeds: int = 8
  parts: tuple[Part, ...] = tuple(part for part in PARTS if part != 'widths')
  """What to measure."""
  dataset: str = 'digits'
  """Images for the networks that train: digits, or a TFDS name."""
  steps: int = 300
  """Training steps, of weights or of scores."""
  weights: int = 1_000
  """Weights of the tickets that are found in networks of several widths."""
  pruned: float = 0.33
  """Largest share of the alive weights that a round to them may prune."""
  size: float = 1.0
  """Multiple of the numbers of networks, masks and draws, and of widths."""

  PREFIX: ClassVar[str] = 'theory'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, steps=1, weights=10)
    checks.between_0_and_1(self, 'pruned')
    checks.above_zero(self, 'size')
    checks.each_once(self, 'parts')

  def count(self, number: int, least: int = 1) -> int:
    """A number that `size` multiplies."""
    return max(least, round(self.size * number))

  @property
  def which(self) -> tuple[int, int]:
    """The first seed, and how many there are."""
    return self.first_seed, self.seeds


PRESETS = {
  'digits': Config(),
  'mnist': Config(dataset='mnist'),
  'widths': Config(parts=('widths',), seeds=10),
}


class Cell(NamedTuple):
  """One part, for all seeds."""

  part: Part

  @property
  def name(self) -> str:
    return f'parts/{self.part}'

  @property
  def label(self) -> str:
    return self.part

  @property
  def steps(self) -> int:
    return PARTS[self.part]


def cells(config: Config) -> list[Cell]:
  """The parts, in the order of the table above."""
  return [Cell(part) for part in PARTS if part in config.parts]


class Experiment(command.Experiment):
  """One method per part."""

  def __init__(self, config: Config):
    """Reads the data, if any part needs them."""
    self.config = config
    if {'layer', 'supermasks', 'extremes', 'widths'} & set(config.parts):
      self.dataset = data.load(config.dataset)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    points, notes = getattr(self, cell.part)()
    found = [point._asdict() for point in points]
    result = {'part': cell.part, 'points': found, 'notes': notes}
    return result, np.int32(len(points))

  def draws(self) -> tuple[list[Point], dict[str, Any]]:
    networks = self.config.count(100, 2)
    found = {
      (width, fresh): draws.measure(
        *self.config.which, width, networks, fresh=fresh
      )
      for width in WIDTHS
      for fresh in (False, True)
    }
    notes = {
      f'width {width}': {
        'p': float(np.mean(found[width, True].chance)),
        'dispersion': float(np.mean(found[width, False].dispersion)),
      }
      for width in WIDTHS
    }
    return [x for one in found.values() for x in one.points], notes

  def subsets(self) -> tuple[list[Point], dict[str, Any]]:
    first, count = self.config.which
    many = self.config.count(200, 2)
    points = [
      *sums.errors(first, count, many, SUBSETS, sums.best_subset),
      *sums.errors(first, count, 5 * many, SINGLES, sums.best_single),
    ]
    notes = {
      f'within {radius:g} with n = {n}': sums.covered(
        first, count, many, n, radius
      )
      for n, radius in COVERED
    }
    return points, notes

  @functools.cached_property
  def task(self) -> Classification:
    return Classification(self.dataset, 'lenet_300_100', batch_size=60)

  @property
  def images(self) -> jax.Array:
    """The first thousand images of the test set, normalized."""
    d = self.dataset
    return data.normalize(d.test.images[:1000], d.mean, d.std)

  def layer(self) -> tuple[list[Point], dict[str, Any]]:
    """Rebuilds the first layer of a network that was trained."""
    trainer = self.task.trainer(optax.adam(1.2e-3), every=self.config.steps)
    state = trainer.init(seeds.seed_keys(self.config))
    state = trainer.fit(state, self.dataset, until=self.config.steps)

    def accuracy(params):
      found = self.task.test_accuracy(params, state.model_state)
      return [100 * x for x in found]

    params: Any = state.params
    whole, kernels = accuracy(params), np.asarray(params['fc1']['kernel'])
    points = []
    for name, closest, lengths in (
      ('best subset', sums.best_subset, SUBSETS[:7]),
      ('best single weight', sums.best_single, SINGLES[:8]),
    ):
      for n in lengths:
        rebuilt = [
          sums.rebuild(np.random.default_rng([seed, n]), kernel, n, closest)
          for seed, kernel in enumerate(kernels, self.config.first_seed)
        ]
        fc1 = {**params['fc1'], 'kernel': np.stack(rebuilt)}
        found = accuracy({**params, 'fc1': fc1})
        points.append(Point(name, n, found, whole))
    return points, {'weights': int(kernels[0].size)}

  def moments(self) -> tuple[list[Point], dict[str, Any]]:
    width = self.config.count(1024, 8)
    return chaos.relu(*self.config.which, DENSITIES, width), {'width': width}

  def chi(self) -> tuple[list[Point], dict[str, Any]]:
    width = self.config.count(512, 8)
    points = chaos.tanh(*self.config.which, DENSITIES, GAINS, width)
    return points, {'width': width}

  def supermasks(self) -> tuple[list[Point], dict[str, Any]]:
    """chi of edge-popup and of random masks, over that of mean-field theory."""
    points, squares = [], {}
    keys = seeds.seed_keys(self.config)
    for name in POPUP:
      for density in POPUP_DENSITIES:
        method = METHODS[name]
        task = self.task.with_model(hidden(self.task.model, method, density))
        cosine = optax.cosine_decay_schedule(1.0, self.config.steps)
        tx = optax.sgd(cosine, momentum=0.9)
        trainer = task.trainer(tx, every=self.config.steps)
        state = trainer.fit(
          trainer.init(keys), self.dataset, until=self.config.steps
        )
        frozen: Any = state.model_state
        weights = frozen.weights
        masks = jax.vmap(
          functools.partial(
            lth.supermasks.edge_popup_masks, sparsity=1 - density
          )
        )(state.params)
        # Scaled Kaiming weights make up for the density, constants do not.
        theory = 1.0 if name == 'edge_popup_kaiming' else density
        for how, layers in slopes.compare(
          keys, weights, masks, self.images
        ).items():
          for layer, values in layers.items():
            short = 'normal' if name == 'edge_popup_kaiming' else 'constant'
            relative = [x / theory for x in values]
            points.append(
              Point(
                f'{how}, {short}, {layer}', density, relative, [1.0] * len(keys)
              )
            )
        if name == 'edge_popup_kaiming':
          kept = slopes.kept_squares(weights, masks)
          squares[f'{density:g}'] = {k: kept[k] for k in ('fc2', 'output')}
    return points, {'squares': squares}

  def extremes(self) -> tuple[list[Point], dict[str, Any]]:
    images, labels = self.images, np.asarray(self.dataset.test.labels[:1000])
    flat = np.asarray(images).reshape(len(images), -1)
    first, count = self.config.which
    masks = self.config.count(10_000, 2_000)
    samples = [
      extremes.mask_accuracies(
        np.random.default_rng([seed, 9]), flat, labels, masks
      )
      for seed in range(first, first + count)
    ]
    points, laws = extremes.points(samples)
    return points, {
      'moments': [extremes.moments(x) for x in samples],
      'laws': [list(law) for law in laws],
    }

  def widths(self) -> tuple[list[Point], dict[str, Any]]:
    config = self.config
    keys, new_keys = seeds.keys(config, 2)
    sizes, points = {}, []
    for width in NETWORKS:
      task = Classification(
        self.dataset, 'lenet_300_100', batch_size=60, width=width
      )
      sizes[f'{width:g}'], found = widths.measure(
        task,
        keys,
        new_keys,
        config.steps,
        config.pruned,
        config.weights,
      )
      points += [Point(arm, width, x, []) for arm, x in found.items()]
    return points, {'weights': config.weights, 'sizes': sizes}


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
