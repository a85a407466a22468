"""Searching a space of trained networks, with and without a proxy to begin."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Trained(NamedTuple):
  """What is known of a network once it is trained."""

  validation: float
  test: float


Space = Mapping[Any, Trained]  # By network, a NamedTuple of its choices.


def search(
  space: Space,
  budget: int,
  seed: int,
  *,
  first: Sequence[Any] = (),
  bayesian: bool = True,
) -> list[float]:
  """Trains one network after the other; returns the best's test accuracy.

  The best is that of the highest validation accuracy so far. Proposals come
  from a Tree-structured Parzen Estimator or at random, after the networks that
  were asked for first. Nothing is trained twice.
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
  """Trains networks in a given order; returns the best's test accuracy."""
  found = [space[network] for network in order[:budget]]
  return [max(found[: i + 1])[1] for i in range(len(found))]


def _propose(study, space, untrained, chance) -> optuna.Trial:
  """Asks for a network that is not trained yet; at last, for any of them."""
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
