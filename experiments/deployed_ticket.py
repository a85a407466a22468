"""A deployed ticket: what is smaller and faster, and what is not.

Finds a ticket by iterative magnitude pruning, and deploys it in several forms:
as a network with masks, which is as large and as slow as the dense one; with
sparse kernels, in floats and in 8 bits; and compacted, without the units that
pruning has left useless, alone and with sparse kernels. For each form, it
measures accuracy, the time of a call and the bytes on disk.

Paper: Frankle & Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, for
the ticket. Forms: `lthjax.deploy`.

  python experiments/deployed_ticket.py                    # digits
  python experiments/deployed_ticket.py --preset mnist

  digits  LeNet-300-100 on digits, 3 seeds. A minute on 2 CPU cores. All forms
          have the accuracy of the ticket, within 0.3 points in 8 bits. The
          ticket with 2 % of the weights takes less than a tenth of the dense
          network's bytes on disk.
  mnist   LeNet-300-100 on MNIST, 3 seeds. 3 minutes on 2 CPU cores. At 3.6 %,
          sparse kernels are several times as fast as the dense network at batch
          64, and the masked network is no faster.

Needs the extra `deploy`, and a C++ compiler for kernels that are fast.
"""

import common.stopping  # noqa: F401

import contextlib
import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lottery_ticket
import lthjax as lth
from common import checks, command, grid, seeds
from common.config import TicketConfig
from lthjax import data, deploy
from methods import deployment
from reports import deployed_ticket as report


@dataclasses.dataclass(frozen=True)
class Config(TicketConfig):
  """Deploys a lottery ticket in several forms."""

  levels: int = 19
  sparse_from: float | None = 0.25
  """Density from which on alive weights train alone, with sparse kernels."""
  repeats: int = 300
  """Calls of each form, in turns, of which the median counts."""

  PREFIX: ClassVar[str] = 'deployed'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, levels=2, repeats=1)
    search_of(self)


def search_of(config: Config) -> lottery_ticket.Config:
  """The options of the search for the ticket; raises on bad ones."""
  shared = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(lottery_ticket.Config)
    if hasattr(config, field.name)
  }
  return lottery_ticket.Config(**shared, controls=())


PRESETS = {
  'digits': Config(),
  'mnist': Config(dataset='mnist', levels=16, steps=1500, eval_every=150),
}


class Cell(NamedTuple):
  """A level of the search, or the deployment of its last ticket."""

  name: str
  label: str
  steps: int
  ticket: lottery_ticket.Cell | None


def cells(config: Config) -> list[Cell]:
  """All levels of the search, and the deployment."""
  found = [
    Cell(cell.name, f'level {cell.level}', cell.steps, cell)
    for cell in lottery_ticket.cells(search_of(config))
  ]
  return [*found, Cell('deployed', 'deployed', config.steps, None)]


class Experiment(command.Experiment):
  """A search for a ticket, and what is measured of it."""

  def __init__(self, config: Config):
    deploy.kernels()  # Raises now on a bad environment.
    self.config = config
    self.search = lottery_ticket.Experiment(search_of(config))

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    if cell.ticket is not None:
      return self.search.train(cell.ticket, store, evaluated)
    # It is right without them, and the page says so.
    with contextlib.suppress(deploy.CompileError):
      deploy.build_kernels()
    dense, last = (
      self.search.ticket(level, store) for level in (0, self.config.levels - 1)
    )
    found: dict[str, dict[str, Any]] = {}
    for seed in range(self.config.seeds):
      forms = self.forms(*(seeds.one(t, seed) for t in parts(dense, last)))
      for name, form in forms.items():
        mine = found.setdefault(name, {'test_accuracy': []})
        mine['test_accuracy'].append(self.accuracy(form))
      if seed == 0:
        times = deployment.latencies(forms, self.test, self.config.repeats)
        with tempfile.TemporaryDirectory() as folder:
          for name, form in forms.items():
            size = deployment.size_on_disk(form, Path(folder))
            found[name] |= {'bytes': size, **times[name]}
    kernels = deploy.kernels()
    isa = kernels.isa or f'none. {kernels.reason}'
    density = float(np.mean(lth.masks.density(last.masks)))
    result = {'forms': found, 'kernels': isa, 'density': density}
    return result, np.float32(density)

  @functools.cached_property
  def test(self) -> jax.Array:
    """The images of the test set, as networks take them."""
    dataset = self.search.task.dataset
    return data.normalize(dataset.test.images, dataset.mean, dataset.std)

  def forms(self, dense, trained, masks) -> dict[str, deployment.Form]:
    def apply(params, x):
      model = self.search.task.model
      return model.apply(params, self.search.task.model_state, x)[0]

    return deployment.forms(apply, dense, trained, masks, self.test[:8])

  def accuracy(self, form: deployment.Form) -> float:
    """Accuracy on the test set, a thousand examples at a time."""
    call, hits = jax.jit(form.apply), []
    for start in range(0, len(self.test), 1000):
      logits = call(form.params, self.test[start : start + 1000])
      labels = self.search.task.dataset.test.labels[start : start + 1000]
      hits.append(np.asarray(jnp.argmax(logits, -1) == labels))
    return float(np.concatenate(hits).mean())


def parts(dense, last) -> tuple[Any, Any, Any]:
  """Dense params, those of the ticket, and its masks, of all seeds."""
  return dense.trained.params, last.trained.params, last.masks


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
