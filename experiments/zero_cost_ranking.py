"""Zero-cost proxies: do they predict which networks will train well?

Scores every network of a small space by each proxy before training, trains all
of them, and correlates the two. Then searches the space, training one network
after another: at random, by a Bayesian method, and by the same method when a
proxy chooses the first networks.

Paper: Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS,
arXiv:2101.08134, tables 1 and 2, figure 3.

  python experiments/zero_cost_ranking.py                   # fashion_mnist
  python experiments/zero_cost_ranking.py --preset digits   # a minute
  python experiments/zero_cost_ranking.py --proxies naswot num_params

  fashion_mnist  64 networks of 1 or 4 layers, 4 or 16 channels, and so on, on
                 Fashion-MNIST, 2 seeds. 10 minutes on 2 CPU cores. Spearman
                 correlation with test accuracy: 0.95 for the number of params,
                 0.61 for naswot, 0.53 for SynFlow.
  equal_size     64 networks of 1 to 6 layers with about 4,000 weights each. 15
                 minutes on 2 CPU cores. naswot ranks the wrong way around.
  digits         the same choices on the digits of scikit-learn.

Networks whose arrays have the same shapes train side by side. The table also
has the number of params and of multiply-adds, which on the usual benchmarks
correlate as well as most proxies: on CIFAR-10 of NAS-Bench-201 about 0.75,
where the notebook of the paper's code gives 0.74 for SynFlow and 0.51 for
GraSP.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import checks, command, config, grid, networks, seeds
from common.classification import Classification, image_shape
from common.networks import Network
from lthjax import data, proxies
from methods.proxy_search import search_all
from reports import zero_cost_ranking as report

ProxyName = Literal[
  'num_params',
  'multiply_adds',
  'grad_norm',
  'snip',
  'grasp',
  'synflow',
  'fisher',
  'jacob_cov',
  'naswot',
  'zen',
]
PROXIES: dict[ProxyName, Any] = {
  name: getattr(proxies, name) for name in get_args(ProxyName)
}
INFERENCE = ('synflow',)  # The others see BatchNorm in training form.


@dataclasses.dataclass(frozen=True)
class Config(config.BaseConfig):
  """Ranks networks before training, and compares."""

  seeds: int = 2
  batch_size: int = 64
  learning_rate: float = 3e-3
  """Step size of Adam; falls to 0 by a cosine."""
  dataset: str = 'fashion_mnist'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  steps: int = 600
  """Training steps."""
  depths: tuple[int, ...] = (1, 4)
  """Numbers of layers."""
  widths: tuple[int, ...] = (4, 16)
  """Numbers of channels."""
  size: int | None = None
  """Weights that each network has, about: it gets the width for that, whatever
  widths say."""
  kernels: tuple[int, ...] = (1, 3)
  """Sides of the neighborhood that a layer sees, odd."""
  patches: tuple[int, ...] = (4, 7)
  """Sides of the patches that a network reads, divisors of the image's."""
  proxies: tuple[ProxyName, ...] = tuple(PROXIES)
  """Proxies to rank by."""
  proxy_batch: int = 32
  """Examples that a proxy sees."""
  samples: int = 3
  """Initializations to average a proxy over."""
  warm: tuple[ProxyName, ...] = ('synflow', 'num_params')
  """Proxies that choose the first networks of a search."""
  warm_trials: int = 5
  """Networks that they choose."""
  budget: int = 24
  """Networks that a search may train."""
  repeats: int = 30
  """Searches of each kind, with different random numbers."""

  PREFIX: ClassVar[str] = 'ranking'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, steps=1, proxy_batch=2, samples=1)
    checks.at_least(self, warm_trials=0, budget=1, repeats=1)
    if self.size is not None:
      checks.at_least(self, size=1)
    checks.each_once(self, 'depths', 'widths', 'kernels', 'patches')
    checks.each_once(self, 'proxies', 'warm')
    if wrong := [x for x in self.kernels if x % 2 == 0]:
      raise ValueError(
        f'kernels had {wrong[0]}, but must be odd, to have a center.'
      )
    if wrong := [x for x in self.warm if x not in self.proxies]:
      raise ValueError(f'warm had {wrong[0]}, which is not among the proxies.')

  @property
  def title(self) -> str:
    return f'{len(space(self))} networks on {config.titled(self.dataset)}'


PRESETS = {
  'fashion_mnist': Config(),
  'digits': Config(dataset='digits', patches=(1, 2), steps=300),
  'equal_size': Config(depths=(1, 2, 4, 6), size=4_000),
}


class Cell(NamedTuple):
  """The scores of a proxy, or the training of a group of networks."""

  kind: Literal['scores', 'networks']
  of: str
  steps: int

  @property
  def name(self) -> str:
    return f'{self.kind}/{self.of}'

  @property
  def label(self) -> str:
    return f'{"scores by" if self.kind == "scores" else "training"} {self.of}'


def space(config: Config) -> list[Network]:
  found = networks.space(
    config.depths, config.widths, config.kernels, config.patches
  )
  if config.size is None:
    return found
  shape, classes = ends(config.dataset, config.validation)
  sized = (networks.fitted(n, config.size, shape, classes) for n in found)
  return list(dict.fromkeys(sized))


@functools.cache
def ends(
  dataset: str, validation: int | None
) -> tuple[tuple[int, int, int], int]:
  """The shape of images, and the number of classes."""
  loaded = data.load(dataset, validation=validation)
  return image_shape(loaded), data.num_classes(loaded)


def groups(config: Config) -> dict[str, list[Network]]:
  """Networks whose arrays have the same shapes, by the name of the first."""
  found: dict[Network, list[Network]] = {}
  for network in space(config):
    found.setdefault(network.shape, []).append(network)
  return {shape.name: group for shape, group in found.items()}


def cells(config: Config) -> list[Cell]:
  """Scores first, and then all trainings."""
  found = [Cell('scores', proxy, config.steps) for proxy in config.proxies]
  return found + [Cell('networks', x, config.steps) for x in groups(config)]


class Experiment(command.Experiment):
  """The data, and the space of networks."""

  def __init__(self, config: Config):
    """Reads the data; raises now on networks that do not fit the images."""
    self.config = config
    self.dataset = data.load(config.dataset, validation=config.validation)
    self.networks, self.groups = space(config), groups(config)
    self.models = {
      network: networks.build(
        network, image_shape(self.dataset), data.num_classes(self.dataset)
      )
      for network in self.networks
    }
    self.task(self.networks[0])  # Raises now on a batch that is too large.

  def task(self, network: Network) -> Classification:
    size = self.config.batch_size
    return Classification(self.dataset, self.models[network], batch_size=size)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    if cell.kind == 'networks':
      return self.train_group(self.groups[cell.of], evaluated)
    # Scores are kept as text, which is exact; a checkpoint needs an array.
    result = {'proxy': cell.of, 'scores': self.score(cell.of)}
    return result, np.zeros(1, np.float32)

  def score(self, name: Any) -> dict[str, float]:
    config, dataset = self.config, self.dataset
    images, labels = data.batch(
      dataset.train, jax.random.key(0), 0, batch_size=config.proxy_batch
    )
    batch = data.normalize(images, dataset.mean, dataset.std), labels
    return lth.rank(
      {network.name: self.models[network] for network in self.networks},
      PROXIES[name],
      batch,
      jax.random.key(1),
      train=name not in INFERENCE,
      samples=config.samples,
    ).scores

  def train_group(self, group: list[Network], evaluated) -> Any:
    """Trains networks of the same shapes, for all seeds, side by side."""
    config = self.config
    task = self.task(group[0])
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    trainer = task.trainer(optax.adam(schedule), every=config.steps)
    keys = jnp.concatenate([seeds.seed_keys(config)] * len(group))
    state = trainer.init(keys)
    skip = jnp.repeat(jnp.float32([n.skip for n in group]), config.seeds)
    model_state: Any = state.model_state
    state = state._replace(model_state={**model_state, 'skip': skip})
    metrics: dict[str, Any] = {}

    def last(step, found):
      metrics.update(found)
      evaluated(step, found)

    state = trainer.fit(state, self.dataset, until=config.steps, report=last)
    found = task.test(state)
    by_network = (len(group), config.seeds)
    validation, tests = (
      np.reshape(x, by_network).tolist()
      for x in (metrics['accuracy'], found['test_accuracy'])
    )
    names = [network.name for network in group]
    return {
      'networks': [network._asdict() for network in group],
      **found,
      'accuracies': {
        name: {'validation': x, 'test': y}
        for name, x, y in zip(names, validation, tests, strict=True)
      },
    }, {'params': state.params, 'model_state': state.model_state}

  def finish(
    self, store: grid.Store, results: list[grid.Result]
  ) -> report.Measured:
    config = self.config
    scores, accuracies = {}, {}
    for result in results:
      if 'proxy' in result:
        scores[result['proxy']] = result['scores']
      accuracies |= result.get('accuracies', {})
    searches = search_all(
      self.networks,
      accuracies,
      {name: scores[name] for name in config.warm},
      warm_trials=config.warm_trials,
      budget=config.budget,
      repeats=config.repeats,
    )
    found = report.Measured(self.networks, scores, accuracies, searches)
    report.write(found, results, store.folder, config)
    return found


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
