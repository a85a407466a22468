"""Searches of a space of trained networks, with and without proxies."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Trained(NamedTuple):
  """Accuracies of a trained network."""

  validation: float
  test: float


Space = Mapping[Any, Trained]  # By network, a NamedTuple of its choices.


def search_all(
  networks: Sequence[Any],
  accuracies: Mapping[str, Mapping[str, Sequence[float]]],
  warm: Mapping[str, Mapping[str, float]],
  *,
  warm_trials: int,
  budget: int,
  repeats: int,
) -> dict[str, list[list[float]]]:
  """Test accuracy by kind of search, repeat, and networks trained.

  Accuracies are by name, split and seed, and scores by proxy (``warm``), which
  chooses the first networks of a search, and name.
  """

  def mean(network, split):
    return float(np.mean(accuracies[network.name][split]))

  space = {n: Trained(mean(n, 'validation'), mean(n, 'test')) for n in networks}

  def repeat(**options):
    return [search(space, budget, seed, **options) for seed in range(repeats)]

  found = {'random': repeat(bayesian=False), 'Bayesian': repeat()}
  for proxy, scores in warm.items():
    order = sorted(networks, key=lambda n: -scores[n.name])
    found[f'Bayesian after {proxy}'] = repeat(first=order[:warm_trials])
    found[f'by {proxy} alone'] = [in_order(space, order, budget)]
  return found


def search(
  space: Space,
  budget: int,
  seed: int,
  *,
  first: Sequence[Any] = (),
  bayesian: bool = True,
) -> list[float]:
  """Trains one network after the other; returns test accuracy of the best.

  The best network has the highest validation accuracy so far. Proposals come
  from a tree-structured Parzen estimator or at random, after the networks given
  as ``first``. Nothing is trained twice.
  """
  samplers = optuna.samplers
  sampler = (
    samplers.TPESampler(seed=seed, n_startup_trials=5)
    if bayesian
    else samplers.RandomSampler(seed=seed)
  )
  study = optuna.create_study(direction='maximize', sampler=sampler)
  for network in first:
    study.enqueue_trial(network._asdict())
  untrained, chance = list(space), random.Random(seed)
  found: list[Trained] = []
  while len(found) < min(budget, len(space)):
    trial = _propose(study, space, untrained, chance)
    network = _network(trial, space)
    untrained.remove(network)
    found.append(space[network])
    study.tell(trial, space[network].validation)
  best = np.maximum.accumulate([x.validation for x in found])
  tests = {x.validation: x.test for x in reversed(found)}
  return [tests[x] for x in best]


def in_order(space: Space, order: Sequence[Any], budget: int) -> list[float]:
  """Trains networks in a given order; returns test accuracy of the best."""
  found = [space[network] for network in order[:budget]]
  return [max(found[: i + 1])[1] for i in range(len(found))]


def _propose(study, space, untrained, chance) -> optuna.Trial:
  """Asks for an untrained network; after many tries, takes any of them."""
  for _ in range(50):
    trial = study.ask()
    if _network(trial, space) in untrained:
      return trial
    study.tell(trial, state=optuna.trial.TrialState.FAIL)  # Samplers skip it.
  study.enqueue_trial(chance.choice(untrained)._asdict())
  return study.ask()


def _network(trial: optuna.Trial, space: Space) -> Any:
  """The network of a proposal."""
  networks = list(space)
  chosen = {
    field: trial.suggest_categorical(field, sorted(set(values)))
    for field, values in zip(
      networks[0]._fields, zip(*networks, strict=True), strict=True
    )
  }
  return type(networks[0])(**chosen)
