"""Trainings that SIGTERM stops, and that go on there."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import keys
from tiny_experiments import timeless

from common import command, grid, interruption
from common.config import BaseConfig

DATA = np.arange(6, dtype=np.float32).reshape(2, 3)
OTHER = DATA + 1
LIKE = jax.ShapeDtypeStruct((2, 3), np.float32)


class Cell(NamedTuple):
  number: int
  steps: int = 12

  @property
  def name(self):
    return f'networks/{self.number}'

  label = name


CELLS = [Cell(0), Cell(1)]


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  PREFIX = 'interrupted'


@pytest.fixture(scope='module')
def trainer():
  def loss(params, state, x, key):
    noise = jax.random.normal(key, x.shape)
    return jnp.mean((params['w'] - x + 0.1 * noise) ** 2), state

  def evaluate(params, state, data):
    loss = jnp.mean((params['w'] - data) ** 2)
    return {'loss': loss, 'accuracy': jnp.where(loss < 1, jnp.nan, loss)}

  return interruption.trainer(
    lambda key: ({'w': jax.random.normal(key, (3,))}, {}),
    loss,
    optax.adam(0.1),
    lambda data, key, step: data[step % 2],
    evaluate=evaluate,
    every=4,
    vmapped=True,
  )


@pytest.fixture
def run(trainer):
  """Trains two cells, each in two parts on other data from one start."""
  start = trainer.init(keys(0, 1))

  def train(cell, store, evaluated):
    ends = [
      trainer.fit(start, data, until=cell.steps, report=evaluated)
      for data in (DATA, OTHER)
    ]
    result = {'test_accuracy': [0.5, 0.5]}
    return result, sum(np.asarray(x.params['w']) for x in ends)

  def run(output, stops=()):
    """Stops at these calls; returns the folder."""
    calls = iter(range(100))
    with (
      command.open_store(Config(output=output, seeds=2)) as store,
      grid.Progress(CELLS, grid.by_seed, Config()) as progress,
    ):
      grid.run(store, train, progress, lambda step: next(calls) in stops)
      networks = [store.load(cell.name, LIKE) for cell in CELLS]
    return store.folder, np.stack(networks).tobytes()

  return run


@pytest.mark.slow
def test_what_was_interrupted_ends_with_the_same_bits(run, tmp_path):
  folder, expected = run(tmp_path / 'unbroken')
  other = tmp_path / 'other'
  # Before any cell; in either training of a cell; at the start of the next.
  for stops in ([0], [1], [2], [1], [4], [0]):
    with pytest.raises(interruption.Terminated):
      run(other, stops)
  found, bits = run(other)
  assert bits == expected
  assert not (found / interruption.FOLDER).exists()
  for name in ('results.csv', 'metrics.jsonl', 'config.json'):
    assert timeless(found / name) == timeless(folder / name)


def test_what_was_interrupted_is_not_trained_again(run, tmp_path, monkeypatch):
  steps = []
  evaluated = grid.Progress.evaluated

  def note(self, cell, evaluation):
    steps.append(evaluation['step'])
    evaluated(self, cell, evaluation)

  monkeypatch.setattr(grid.Progress, 'evaluated', note)
  with pytest.raises(interruption.Terminated):
    run(tmp_path, [3])
  assert steps == [4, 8]
  (folder,) = tmp_path.iterdir()
  (saved,) = (folder / interruption.FOLDER).iterdir()
  assert saved.name.endswith('-000000008')
  # Evaluations are told again: the first two come from the file.
  run(tmp_path, ())
  assert steps[2:] == [4, 8, 12] * 4
  assert not (folder / interruption.FOLDER).exists()


def test_a_damaged_state_is_named(run, tmp_path):
  with pytest.raises(interruption.Terminated):
    run(tmp_path, [1])
  (digests,) = tmp_path.rglob('SHA256SUMS')
  digests.write_text('')
  with pytest.raises(ValueError, match=f'{digests.parent} is damaged'):
    run(tmp_path)


def test_outside_of_cells_nothing_is_saved(trainer):
  start = trainer.init(keys(0, 1))
  assert int(trainer.fit(start, DATA, until=5).step) == 5
