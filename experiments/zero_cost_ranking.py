"""Zero-cost proxies: do they know which networks will train well?

Scores every network of a small space by each proxy before training, trains them
all, and correlates both. Then it searches the space, training one network after
the other: at random, by a Bayesian method, and by the same method when a proxy
chooses the first networks.

Paper: Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS,
arXiv:2101.08134, tables 1 and 2, figure 3.

  python experiments/zero_cost_ranking.py                   # fashion_mnist
  python experiments/zero_cost_ranking.py --preset digits   # a minute
  python experiments/zero_cost_ranking.py --proxies naswot num_params

  fashion_mnist  64 networks of 1 or 4 layers, 4 or 16 channels, and so on, on
                 Fashion-MNIST, 2 seeds. 10 minutes on 2 CPU cores. Spearman
                 correlation with test accuracy: 0.95 for the number of params,
                 0.61 for naswot, 0.53 for SynFlow.
  digits         the same choices on the digits of scikit-learn.

Networks whose arrays have the same shapes train side by side. The table puts
the number of params and of multiply-adds beside the proxies: on the usual
benchmarks they correlate as well as most of these. On CIFAR-10 of NAS-Bench-201
that is about 0.75; the notebook of the paper's code gives 0.74 for SynFlow and
0.51 for GraSP.

All results go into one folder a configuration. Kill the command at any time
and start it again: it goes on where it was, and ends with the same bits.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import networks as small_networks
from common import running
from common.classification import Classification, image_shape, seed_keys
from common.networks import Network
from lthjax import checkpoints, data, proxies
from methods.proxy_search import Trained, in_order, search
from reports import zero_cost_ranking as ranking_report

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
  'num_params': proxies.num_params,
  'multiply_adds': proxies.multiply_adds,
  'grad_norm': proxies.grad_norm,
  'snip': proxies.snip,
  'grasp': proxies.grasp,
  'synflow': proxies.synflow,
  'fisher': proxies.fisher,
  'jacob_cov': proxies.jacob_cov,
  'naswot': proxies.naswot,
  'zen': proxies.zen,
}
INFERENCE = ('synflow',)  # The others see BatchNorm in training form.


@dataclasses.dataclass(frozen=True)
class Config:
  """Ranks networks before training, and compares."""

  preset: Literal['fashion_mnist', 'digits'] = dataclasses.field(
    default='fashion_mnist', compare=False
  )
  """One of those above; sets the defaults of all options below."""
  dataset: str = 'fashion_mnist'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  depths: tuple[int, ...] = (1, 4)
  """Layers."""
  widths: tuple[int, ...] = (4, 16)
  """Channels."""
  kernels: tuple[int, ...] = (1, 3)
  """Side of what a layer sees of its input."""
  patches: tuple[int, ...] = (4, 7)
  """Side of the patches that a network reads, divisors of the image's."""
  proxies: tuple[ProxyName, ...] = tuple(PROXIES)
  """What to rank by."""
  proxy_batch: int = 32
  """Examples that a proxy sees."""
  samples: int = 3
  """Initializations over which a proxy is averaged."""
  seeds: int = 2
  """Trainings of each network, with seeds 0, 1, and so on."""
  steps: int = 600
  """Training steps."""
  batch_size: int = 64
  """Examples a step."""
  learning_rate: float = 3e-3
  """Of Adam; falls to zero by a cosine."""
  warm: tuple[ProxyName, ...] = ('synflow', 'num_params')
  """What chooses the first networks of a search."""
  warm_trials: int = 5
  """How many networks it chooses."""
  budget: int = 24
  """Networks that a search may train."""
  repeats: int = 30
  """Searches of each kind, with other random numbers."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder in which the run gets its folder."""

  def __post_init__(self):
    """Refuses what cannot be done."""
    running.at_least(self, proxy_batch=2, samples=1, seeds=1, steps=1)
    running.at_least(self, batch_size=1, warm_trials=0, budget=1, repeats=1)
    running.each_once(self, 'depths', 'widths', 'kernels', 'patches')
    running.each_once(self, 'proxies', 'warm')
    if wrong := [x for x in self.kernels if x % 2 == 0]:
      raise ValueError(
        f'kernels were {wrong[0]}, but must be odd, to have a centre.'
      )
    if wrong := [x for x in self.warm if x not in self.proxies]:
      raise ValueError(f'warm were {wrong[0]}, which is none of the proxies.')


PRESETS = {
  'fashion_mnist': Config(),
  'digits': Config(dataset='digits', patches=(1, 2), steps=300),
}


class Experiment:
  """The data, and the space of networks."""

  def __init__(self, config: Config):
    """Reads the data; raises now on networks that do not fit the images."""
    self.config = config
    self.dataset = data.load(config.dataset)
    self.networks = small_networks.space(
      config.depths, config.widths, config.kernels, config.patches
    )
    self.models = {
      network: small_networks.build(
        network, image_shape(self.dataset), data.num_classes(self.dataset)
      )
      for network in self.networks
    }
    self.task(self.networks[0])  # Raises now on a batch that is too large.

  def task(self, network: Network) -> Classification:
    """A network with its training."""
    return Classification(
      self.dataset,
      self.models[network],
      batch_size=self.config.batch_size,
    )

  @property
  def groups(self) -> dict[str, list[Network]]:
    """Networks with arrays of the same shapes, by the name of the first."""
    groups: dict[Network, list[Network]] = {}
    for network in self.networks:
      groups.setdefault(network.shape, []).append(network)
    return {shape.name: group for shape, group in groups.items()}

  def score(self, name: ProxyName) -> dict[str, float]:
    """Scores all networks by a proxy."""
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

  def train(self, group: list[Network]) -> tuple[Any, dict[str, Any]]:
    """Trains networks of the same shapes, for all seeds, side by side."""
    config = self.config
    task = self.task(group[0])
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    trainer = task.trainer(optax.adam(schedule), every=config.steps)
    keys = jnp.concatenate([seed_keys(config.seeds)] * len(group))
    state = trainer.init(keys)
    skip = jnp.repeat(jnp.float32([n.skip for n in group]), config.seeds)
    model_state: Any = state.model_state
    state = state._replace(model_state={**model_state, 'skip': skip})
    metrics: dict[str, Any] = {}
    state = trainer.fit(
      state,
      self.dataset,
      until=config.steps,
      report=lambda step, found: metrics.update(found),
    )
    test = task.test_accuracy(state.params, state.model_state)
    by_network = (len(group), config.seeds)
    accuracies = zip(
      group,
      np.reshape(metrics['accuracy'], by_network).tolist(),
      np.reshape(test, by_network).tolist(),
      strict=True,
    )
    trained = {'params': state.params, 'model_state': state.model_state}
    return trained, {
      network.name: {'validation': validation, 'test': test}
      for network, validation, test in accuracies
    }


def run(config: Config, report: running.Progress) -> ranking_report.Results:
  """Computes what is still missing, and returns everything."""
  experiment = Experiment(config)
  dataset = config.dataset.replace('/', '-')
  folder = checkpoints.open_run(config.output, f'ranking-{dataset}', config)
  scores = {}
  for name in config.proxies:
    path = folder / 'scores' / f'{name}.json'
    if not path.exists():
      report.advance(0, f'scoring by {name}')
      checkpoints.write_text(path, json.dumps(experiment.score(name)))
    scores[name] = json.loads(path.read_text())
    report.done(config.steps)
  accuracies: dict[str, Any] = {}
  for name, group in experiment.groups.items():
    path = folder / 'networks' / name
    if not path.exists():
      report.advance(0, f'training {name}')
      checkpoints.save(path, *experiment.train(group))
    accuracies |= checkpoints.read_metadata(path)
    report.done(config.steps)
  searches = search_all(config, experiment.networks, scores, accuracies)
  results = ranking_report.Results(
    folder, experiment.networks, scores, accuracies, searches
  )
  ranking_report.write(results)
  return results


def search_all(
  config: Config,
  networks: list[Network],
  scores: Mapping[str, dict[str, float]],
  accuracies: dict[str, Any],
) -> dict[str, list[list[float]]]:
  """Test accuracy over networks trained: by kind of search, and repeat."""
  space = {
    network: Trained(
      *(float(np.mean(x)) for x in accuracies[network.name].values())
    )
    for network in networks
  }

  def repeat(**options):
    return [
      search(space, config.budget, seed, **options)
      for seed in range(config.repeats)
    ]

  found = {'random': repeat(bayesian=False), 'Bayesian': repeat()}
  for name in config.warm:
    order = sorted(networks, key=lambda n: -scores[name][n.name])
    first = order[: config.warm_trials]
    found[f'Bayesian after {name}'] = repeat(first=first)
    found[f'by {name} alone'] = [in_order(space, order, config.budget)]
  return found


def main() -> None:
  """Runs the experiment and shows what came out."""
  with running.friendly_exit('goes on with this network or proxy'):
    config = running.parse(sys.argv[1:], PRESETS, __doc__)
    both = functools.reduce(
      lambda n, x: n * len(x),
      (config.depths, config.widths, config.kernels, config.patches),
      2,
    )
    with running.Progress(
      config.steps * (both + len(config.proxies))
    ) as report:
      results = run(config, report)
    title = f'{len(results.networks)} networks on {config.dataset}'
    ranking_report.figures(results, title)
    ranking_report.markdown(results, title, config.seeds)
  report.console.print(ranking_report.table(results))
  report.console.print(
    f'Figures, tables and networks: {results.folder}', soft_wrap=True
  )


if __name__ == '__main__':
  main()
