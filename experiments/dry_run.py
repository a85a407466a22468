"""Sparse training of billions of weights, compiled without the hardware.

Compiles one optimizer step on a mesh of devices that are not there, and says
what it would take: memory of a device, messages between devices, time to
compile; each beside plain AdamW. Nothing is executed.

  python experiments/dry_run.py --preset llama_1b --topology cpu:8
  python experiments/dry_run.py --preset llama_70b --topology cpu:256
  python experiments/dry_run.py --topology v5e:16x16

A step on cpu:8 compiles in less than a minute, on 256 devices in a few. Slices
of TPUs need `pip install 'jax[tpu]'`, and no TPU.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth
from common import command, tables
from lthjax import files
from methods import collectives

Method = Literal['static', 'rigl', 'srigl', 'prune', 'nm']


class Sizes(NamedTuple):
  """Sizes of a decoder whose layers are scanned; experts if there are any."""

  width: int
  layers: int
  hidden: int
  values: int  # width of keys and values, of all their heads
  vocabulary: int = 32_000
  experts: int | None = None


PRESETS = {
  'tiny': Sizes(64, 2, 128, 64, 256),
  'llama_1b': Sizes(2048, 24, 5504, 2048),
  'llama_7b': Sizes(4096, 32, 11008, 4096),
  'llama_70b': Sizes(8192, 80, 28672, 1024),
  'moe': Sizes(4096, 32, 14336, 1024, experts=8),
}
TIMES: Any = {'update_every': 100, 'stop_step': 10_000}


def draw() -> Any:
  return lth.random_masks(jax.random.key(0), sparsity=0.9)


METHODS: dict[str, Callable[[Any], Any]] = {
  'static': lambda tx: lth.static(tx, draw()),
  'rigl': lambda tx: lth.rigl(tx, draw(), **TIMES),
  'srigl': lambda tx: lth.srigl(tx, draw(), **TIMES),
  'prune': lambda tx: lth.gradual(tx, sparsity=0.9, **TIMES),
  'nm': lambda tx: lth.gradual(tx, pattern=lth.patterns.NM(2, 4), **TIMES),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Compiles an optimizer step on devices that are not there."""

  preset: Literal['tiny', 'llama_1b', 'llama_7b', 'llama_70b', 'moe'] = (
    'llama_1b'
  )
  """Sizes of the network."""
  topology: str = 'cpu:8'
  """cpu:N, or a slice of TPUs such as v5e:16x16."""
  methods: tuple[Method, ...] = ('rigl',)
  """What to compile beside plain AdamW."""
  output: Path | None = None
  """Page to write the table to, as well."""


def devices(topology: str) -> Sequence[Any]:
  """Devices of a topology; must be called before JAX looks for any."""
  platform, _, shape = topology.partition(':')
  if platform == 'cpu' and shape.isdecimal() and int(shape):
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', int(shape))
    return jax.devices()
  try:
    from jax.experimental import topologies

    found = topologies.get_topology_desc(topology_name=topology, platform='tpu')
  except Exception as error:
    raise ValueError(
      f'--topology {topology} is neither cpu:N nor a TPU slice such as'
      f" v5e:16x16, for which `pip install 'jax[tpu]'` is needed: {error}"
    ) from error
  return found.devices


def make_mesh(found: Sequence[Any]) -> Mesh:
  """A mesh of two axes that is as square as it can be."""
  rows = max(
    n for n in range(1, math.isqrt(len(found)) + 1) if not len(found) % n
  )
  grid = np.array(found).reshape(-1, rows)
  return Mesh(grid, ('fsdp', 'tp'), axis_types=(AxisType.Explicit,) * 2)


def params(sizes: Sizes, mesh: Mesh) -> Any:
  """Shapes and places of all weights of a decoder."""

  def leaf(*shape, spec=()):
    place = NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)

  def kernel(inputs, outputs, spec, *stack):
    spec = (*(None for _ in (sizes.layers, *stack)), *spec)
    return {'kernel': leaf(sizes.layers, *stack, inputs, outputs, spec=spec)}

  width, hidden = sizes.width, sizes.hidden
  into, out = ('fsdp', 'tp'), ('tp', 'fsdp')
  experts = () if sizes.experts is None else (sizes.experts,)
  attention = {
    'q_proj': kernel(width, width, into),
    'k_proj': kernel(width, sizes.values, into),
    'v_proj': kernel(width, sizes.values, into),
    'o_proj': kernel(width, width, out),
  }
  mlp = {
    'gate_proj': kernel(width, hidden, into, *experts),
    'up_proj': kernel(width, hidden, into, *experts),
    'down_proj': kernel(hidden, width, out, *experts),
  }
  return {
    'embedding': leaf(sizes.vocabulary, width, spec=out),
    'layers': {
      'attention': attention,
      'mlp': mlp,
      'norm': {'scale': leaf(sizes.layers, 2, width)},
    },
    'final_norm': {'scale': leaf(width)},
    'head': leaf(width, sizes.vocabulary, spec=into),
  }


class Measured(NamedTuple):
  """What a compiled step takes, on each device."""

  arguments: int  # bytes
  temporaries: int  # bytes
  flops: float
  messages: dict[str, collectives.Sum]
  seconds: float  # to compile

  @property
  def peak(self) -> int:
    return self.arguments + self.temporaries


def measure(tx: Any, params: Any) -> Measured:
  """Compiles one step of an optimizer, with donated buffers."""

  def step(state, params, grads):
    updates, state = tx.update(grads, state, params)
    return state, optax.apply_updates(params, updates)

  state = jax.eval_shape(tx.init, params)
  lowered = jax.jit(step, donate_argnums=(0, 1)).lower(state, params, params)
  started = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - started
  memory: Any = compiled.memory_analysis()
  costs: Any = compiled.cost_analysis() or {}
  return Measured(
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes,
    costs.get('flops', math.nan),
    collectives.count(compiled.as_text() or ''),
    seconds,
  )


def table(config: Config) -> tables.Table:
  """One line for each method, plain AdamW first."""
  mesh = make_mesh(devices(config.topology))
  with jax.set_mesh(mesh):
    weights = params(PRESETS[config.preset], mesh)
    plain = optax.adamw(1e-3)
    made = {'AdamW': plain}
    made |= {name: METHODS[name](plain) for name in config.methods}
    found = {name: measure(tx, weights) for name, tx in made.items()}
  size = sum(math.prod(x.shape) for x in jax.tree.leaves(weights))
  first = found['AdamW']
  rows = [
    [
      config.preset,
      f'{size / 1e9:.1f} B',
      config.topology,
      name,
      f'{x.arguments / 2**20:,.0f}',
      f'{x.temporaries / 2**20:,.0f}',
      f'{x.peak / first.peak:.2f}',
      ', '.join(f'{n.number} {kind}' for kind, n in x.messages.items()) or '-',
      f'{sum(n.bytes for n in x.messages.values()) / (4 * size):.0e}',
      f'{x.seconds / first.seconds:.1f}',
    ]
    for name, x in found.items()
  ]
  head = ['network', 'weights', 'devices', 'optimizer', 'arguments, MiB']
  head += ['temporaries, MiB', 'peak / AdamW', 'messages in the program']
  return tables.Table([*head, 'bytes / params', 'compiles / AdamW'], rows)


def main() -> None:
  with command.friendly_exit():
    config = tyro.cli(Config)
    found = table(config)
    text = tables.markdown(found)
    print(text)
    if config.output is not None:
      files.write_text(config.output, text + '\n')


if __name__ == '__main__':
  main()
