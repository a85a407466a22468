"""Trains a sparse network on one device, on one host, or on many hosts.

RigL on a stack of residual layers whose weights are spread over the devices
(FSDP). What a batch holds is a function of a key and the step, so there is
nothing to read, and a run goes on from its last checkpoint with the same bits.

  python experiments/launch/train.py
  python experiments/launch/train.py --fsdp 4
  srun python experiments/launch/train.py --distributed --fsdp 8

SIGTERM saves the step that all processes agree on, and exits with 0, or with
`--stopped-code`; the same command goes on there, also on other devices.
`docs/launch.md` has commands for Slurm, GKE and TPU slices.
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from jax.sharding import AxisType, PartitionSpec

import lthjax as lth
from lthjax import runs

SECONDS = 60  # until a coordinator that nobody reaches is given up


@dataclasses.dataclass(frozen=True)
class Config:
  """Trains a sparse network, on as many devices as there are."""

  width: int = 256
  """Size of the residual stream."""
  layers: int = 4
  """Layers, in one scan."""
  batch_size: int = 64
  """Examples per step, of all devices together."""
  steps: int = 400
  """Training steps."""
  sparsity: float = 0.9
  """Share of weights that are zero."""
  learning_rate: float = 1e-3
  """Of Adam."""
  check_every: int = 20
  """Steps between questions whether to stop; they must fit into the notice."""
  save_every: int = 100
  """Steps between checkpoints."""
  fsdp: int = dataclasses.field(default=1, compare=False)
  """Devices that share the weights; groups of so many share the batch."""
  distributed: bool = dataclasses.field(default=False, compare=False)
  """Whether there are several processes: one per host, or per GPU."""
  coordinator: str | None = dataclasses.field(default=None, compare=False)
  """Where process 0 listens, such as 10.0.0.2:1234; None: ask the scheduler."""
  processes: int | None = dataclasses.field(default=None, compare=False)
  """How many there are; None: ask the scheduler."""
  process: int | None = dataclasses.field(default=None, compare=False)
  """Which one this is; None: ask the scheduler."""
  stopped_code: int = dataclasses.field(default=0, compare=False)
  """Exit code after SIGTERM, for schedulers that take 0 for the end."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder that holds the folders of all runs, and that all hosts see."""

  def __post_init__(self):
    whole = ('width', 'layers', 'batch_size', 'steps', 'fsdp')
    for name in (*whole, 'check_every', 'save_every'):
      if (x := getattr(self, name)) < 1:
        option = name.replace('_', '-')
        raise ValueError(f'--{option} was {x}, but must be at least 1.')


def make_mesh(config: Config) -> jax.sharding.Mesh:
  """Groups of devices that share weights, beside each other."""
  devices = jax.device_count()
  if devices % config.fsdp or config.width % config.fsdp:
    raise ValueError(
      f'--fsdp was {config.fsdp}, but must divide the {devices} devices and the'
      f' width of {config.width}.'
    )
  if config.batch_size % devices:
    raise ValueError(
      f'--batch-size was {config.batch_size}, but must be a multiple of the'
      f' {devices} devices.'
    )
  shape = devices // config.fsdp, config.fsdp
  return jax.make_mesh(shape, ('data', 'fsdp'), (AxisType.Explicit,) * 2)


def make_optimizer(config: Config) -> optax.GradientTransformation:
  return lth.rigl(
    optax.adam(config.learning_rate),
    lth.random_masks(jax.random.key(1), sparsity=config.sparsity),
    update_every=10,
    stop_step=max(config.steps * 3 // 4, 10),
  )


def make_trainer(
  config: Config, tx: optax.GradientTransformation
) -> lth.Trainer:
  """A training loop whose arrays lie on the mesh that is set."""
  width, hidden = config.width, 4 * config.width
  examples = PartitionSpec(('data', 'fsdp'))

  def init(key):
    def draw(name, *shape):
      own, spec = lth.trees.fold_in_name(key, name), PartitionSpec(None, 'fsdp')
      w = jax.random.normal(own, shape, out_sharding=spec)
      return {'kernel': w * shape[1] ** -0.5}

    blocks = {
      'up': draw('up', config.layers, width, hidden),
      'down': draw('down', config.layers, hidden, width),
    }
    return {'blocks': blocks}, {}

  def layer(x, block):
    # Gathered for one layer at a time; gradients are scattered again.
    up, down = (
      jax.sharding.reshard(block[name]['kernel'], PartitionSpec())
      for name in ('up', 'down')
    )
    return x + jax.nn.gelu(x @ up) @ down / config.layers, None

  def batch(data, key, step):
    key = jax.random.fold_in(key, step)
    shape = config.batch_size, width
    x = jax.random.normal(key, shape, out_sharding=examples)
    return x, jnp.sin(3 * jnp.flip(x, 1))

  def loss(params, state, batch, key):
    x, y = batch
    found, _ = jax.lax.scan(layer, x, params['blocks'])
    return jnp.mean((found - y) ** 2), state

  return lth.trainer(init, loss, tx, batch, every=config.check_every)


def newest(folder: Path) -> Path | None:
  """The last checkpoint of a run."""
  found = sorted(folder.glob('steps-[0-9]*'))
  return found[-1] if found else None


def save(
  folder: Path, state: Any, data: Any = None, keep: Container[int] = ()
) -> None:
  """Writes a checkpoint; removes all but the last two and those to keep."""
  path = folder / f'steps-{int(state.step):08d}'
  lth.checkpoints.save(path, state, data=data)
  if jax.process_index() == 0:
    print(f'saved {path}', flush=True)
    for old in sorted(folder.glob('steps-[0-9]*'))[:-2]:
      if int(old.name.partition('-')[2]) not in keep:
        shutil.rmtree(old)


def train(config: Config) -> bool:
  """Trains from the last checkpoint on; returns whether all steps are done."""
  folder = runs.open_run(config.output, 'launch', config)
  with (
    runs.only_process(folder),
    runs.termination() as stop,
    jax.set_mesh(make_mesh(config)),
  ):
    trainer = make_trainer(config, make_optimizer(config))
    state: Any = trainer.init(jax.random.key(0))
    if path := newest(folder):
      state = lth.checkpoints.load(path, state)
    while (step := int(state.step)) < config.steps:
      until = (step // config.save_every + 1) * config.save_every
      until = min(until, config.steps)
      state = trainer.fit(state, None, until=until, stop=stop)
      save(folder, state)
      step = int(state.step)
      if step < until or (step < config.steps and stop(step)):
        return False  # `fit` does not ask at its last step.
    if jax.process_index() == 0:
      print(f'done: {folder}', flush=True)
    return True


def main() -> None:
  try:
    config = tyro.cli(Config)
    if config.distributed:
      place = config.coordinator, config.processes, config.process
      runs.connect(*place, timeout=SECONDS)
    done = train(config)
  except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
    print(f'error: {error}', file=sys.stderr, flush=True)
    os._exit(1)  # Without waiting for the other processes.
  sys.exit(0 if done else config.stopped_code)


if __name__ == '__main__':
  main()
