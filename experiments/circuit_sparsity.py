"""Circuits of a weight-sparse decoder, and of its dense twin.

Trains decoders on lines of a tiny language, in which a string ends with the
quote that it began with, and a list with as many brackets. One keeps the
largest weights of each matrix after every step, fewer and fewer of them, and
the largest activations of each token. Its dense twin is taken at the first
evaluation at which its loss is as low. Then takes away nodes of both, which
are channels of queries, keys, values and neurons and of what layers read and
write: they get their mean over all lines. What is left, as long as the loss of
a task is below a target, loses edges in the same way, which are weights between
its nodes. The tasks are to close a quote, and to count brackets. What goes
first is what changes the loss least to first order; masks are not trained.

Paper: Gao et al., Weight-sparse transformers have interpretable circuits,
arXiv:2511.13653. There, at equal loss, circuits of weight-sparse models have 16
times fewer edges. Embeddings are dense here.

  python experiments/circuit_sparsity.py                  # tiny
  python experiments/circuit_sparsity.py --preset claims

  tiny         2 layers of width 64 with 95 % of the weights zero; 5 seeds.
               Three minutes on 2 CPU cores. Circuits of the weight-sparse
               decoder have at least 4 times fewer edges.
  claims       The same with 10 seeds, which verdicts are made of.
  accelerator  4 layers of width 256, 99 % zero. For an accelerator.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import checks, command, config, grid, interruption, seeds
from lthjax import data
from methods import circuits, code_lines
from methods.code_lines import TaskName
from reports import circuit_sparsity as report

ModelName = Literal['sparse', 'dense']


@dataclasses.dataclass(frozen=True)
class Config(config.BaseConfig):
  """Trains sparse and dense decoders, and finds circuits in them."""

  seeds: int = 5
  """Decoders of each kind, trained side by side."""
  batch_size: int = 32
  """Lines per step."""
  learning_rate: float = 1e-2
  """Largest step size of AdamW, after a warm-up, before a decay to zero."""
  width: int = 64
  """Width of the residual stream."""
  layers: int = 2
  """Blocks."""
  heads: int = 4
  """Heads, each of the size width / heads."""
  mlp: int = 128
  """Neurons of a block."""
  sparsity: float = 0.95
  """Share of zeros in each matrix of the sparse decoder."""
  at_least: int = 2
  """Weights that each neuron keeps in any case."""
  active: float = 0.25
  """Share of the activations that a token keeps in the sparse decoder."""
  steps: int = 1_500
  """Training steps."""
  eval_every: int = 50
  """Steps between evaluations."""
  lines: int = 4_096
  """Lines to train on; a sixteenth as many to validate and to test on."""
  tasks: tuple[TaskName, ...] = ('quotes', 'brackets')
  """What circuits have to do."""
  prompts: int = 64
  """Beginnings of lines that circuits are found by, and as many for tests."""
  target: float = 0.15
  """The largest loss of a circuit: of the choice between two tokens."""

  PREFIX: ClassVar[str] = 'circuits'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, width=8, layers=1, heads=1, mlp=1, at_least=0)
    checks.at_least(self, steps=1, eval_every=1, lines=16, prompts=2)
    checks.between_0_and_1(self, 'sparsity', 'active')
    checks.above_zero(self, 'target')
    checks.each_once(self, 'tasks')
    if self.width % self.heads:
      raise ValueError(
        f'width was {self.width}, but must be a multiple of the {self.heads}'
        ' heads.'
      )
    if self.eval_every > self.steps:
      raise ValueError(
        f'eval_every was {self.eval_every}, but there are {self.steps} steps:'
        ' the dense twin is taken at an evaluation.'
      )

  @property
  def title(self) -> str:
    return (
      f'{self.layers} layers of width {self.width}, {100 * self.sparsity:g} %'
      f' zero or dense, {config.seeds(self)}'
    )

  def sizes(self, model: ModelName) -> circuits.Sizes:
    active = self.active if model == 'sparse' else 1.0
    time = code_lines.time_of_longest()
    return circuits.Sizes(
      self.width, self.layers, self.heads, self.mlp, time, active
    )


PRESETS = {
  'tiny': Config(),
  'claims': Config(seeds=10),
  'accelerator': Config(
    width=256,
    layers=4,
    heads=8,
    mlp=1_024,
    sparsity=0.99,
    steps=20_000,
    eval_every=250,
    batch_size=256,
    lines=65_536,
    learning_rate=3e-3,
    prompts=512,
  ),
}


class Cell(NamedTuple):
  """The training of a kind of decoder, or the circuits for a task."""

  model: ModelName
  task: TaskName | None
  steps: int

  @property
  def name(self) -> str:
    if self.task is None:
      return f'networks/{self.model}'
    return f'circuits/{self.model}-{self.task}'

  @property
  def label(self) -> str:
    return self.model if self.task is None else f'{self.model}  {self.task}'


def cells(config: Config) -> list[Cell]:
  """Both trainings, the sparse one first, and all circuits."""
  models: tuple[ModelName, ...] = ('sparse', 'dense')
  few = config.steps // 10 + 1
  return [
    *(Cell(model, None, config.steps) for model in models),
    *(Cell(model, task, few) for task in config.tasks for model in models),
  ]


class Experiment(command.Experiment):
  """Lines, decoders for them, and tasks."""

  def __init__(self, config: Config):
    """Draws all lines."""
    self.config = config
    time = code_lines.time_of_longest()
    part = max(config.lines // 16, 1)
    if config.batch_size > config.lines:
      raise ValueError(
        f'batch_size was {config.batch_size}, but there are {config.lines}'
        ' lines to train on. Take smaller batches.'
      )
    self.sets = {
      name: jnp.asarray(code_lines.lines(seed, count, time))
      for seed, (name, count) in enumerate(
        {'train': config.lines, 'validation': part, 'test': part}.items()
      )
    }
    self.keys = seeds.seed_keys(config)
    self.compilations = 0

  def train(self, cell: Cell, store: grid.Store, evaluated: Any) -> Any:
    if cell.task is not None:
      return self.circuits(cell, store)
    if cell.model == 'sparse':
      params = self.fit('sparse', evaluated)
    else:
      goal = store.read('networks/sparse')['curve'][-1]['loss']
      params = self.fit('dense', evaluated, np.asarray(goal))
    loss, accuracy = self.tested(cell.model, params)
    found = {
      'test_loss': loss.tolist(),
      'test_accuracy': accuracy.tolist(),
      'edges': [
        circuits.count(
          circuits.everything(self.sizes(cell.model), one)['edges']
        )
        for one in seeds.unstack(params)
      ],
    }
    return {'model': cell.model, 'task': '', **found}, params

  def sizes(self, model: ModelName) -> circuits.Sizes:
    return self.config.sizes(model)

  # Training.

  def optimizer(self, model: ModelName) -> optax.GradientTransformation:
    """The optimizer of the paper; the sparse decoder keeps few weights."""
    options = self.config
    steps = options.steps
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, options.learning_rate, max(steps // 100, 1), max(steps, 2)
    )
    inner = optax.chain(
      lth.topologies.divide_by_rms(),
      optax.adamw(schedule, b2=0.95, eps=0.1, weight_decay=0.1),
    )
    if model == 'dense':
      return inner
    return lth.circuit(
      inner,
      sparsity=options.sparsity,
      start_step=max(steps // 100, 1),
      stop_step=max(steps // 2, 2),
      at_least=options.at_least,
      where='blocks/*',
    )

  def trainer(self, model: ModelName) -> lth.Trainer:
    sizes, size = self.sizes(model), self.config.batch_size

    def loss(params, model_state, tokens, key):
      del key
      self.compilations += 1  # Python runs only when JAX traces.
      return circuits.losses(circuits.apply(sizes, params, tokens)[0], tokens)[
        0
      ], model_state

    def batch(sets, key, step):
      rows = data.epoch_indices(
        key, step, batch_size=size, size=len(sets['train'])
      )
      return sets['train'][rows]

    def validate(params, model_state, sets):
      del model_state
      tokens = sets['validation']
      logits, _ = circuits.apply(sizes, params, tokens)
      loss, accuracy = circuits.losses(logits, tokens)
      return {'loss': loss, 'accuracy': accuracy}

    return interruption.trainer(
      lambda key: (circuits.init(sizes, key), {}),
      loss,
      self.optimizer(model),
      batch,
      evaluate=validate,
      every=self.config.eval_every,
      vmapped=True,
    )

  def fit(
    self, model: ModelName, evaluated: Any, goal: np.ndarray | None = None
  ) -> Any:
    """Trains all seeds; with a goal, takes each where it first reaches it."""
    trainer, every = self.trainer(model), self.config.eval_every
    state: Any = trainer.init(self.keys)
    if goal is None:
      return trainer.fit(
        state, self.sets, until=self.config.steps, report=evaluated
      ).params
    taken, reached, losses = None, np.zeros(goal.shape, bool), []

    def report(step, metrics):
      losses.append(np.asarray(metrics['loss']))
      evaluated(step, metrics)

    for until in range(every, self.config.steps + 1, every):
      state = trainer.fit(state, self.sets, until=until, report=report)
      taken = state.params if taken is None else choose(reached, taken, state)
      reached = reached | (losses[-1] <= goal)
    return taken

  def tested(self, model: ModelName, params: Any) -> tuple[Any, Any]:
    """Loss and accuracy of each seed on the test lines."""
    sizes, tokens = self.sizes(model), self.sets['test']

    @jax.jit
    def test(params):
      return jax.vmap(
        lambda one: circuits.losses(
          circuits.apply(sizes, one, tokens)[0], tokens
        )
      )(params)

    return test(params)

  # Circuits.

  def load(self, model: ModelName, store: grid.Store) -> list[Any]:
    """The decoders of all seeds."""
    like = jax.eval_shape(
      jax.vmap(functools.partial(circuits.init, self.sizes(model))), self.keys
    )
    return seeds.unstack(store.load(f'networks/{model}', like))

  def circuits(self, cell: Cell, store: grid.Store) -> Any:
    """Finds the circuit of each seed, and tests it on other prompts."""
    assert cell.task is not None
    sizes, options = self.sizes(cell.model), self.config
    draw = functools.partial(
      code_lines.prompts, cell.task, count=options.prompts, time=sizes.time
    )
    seen, new = draw(seed=0), draw(seed=1)
    lines = self.sets['validation']
    average = jax.jit(functools.partial(circuits.means, sizes))
    found: dict[str, list[Any]] = {}
    kept = []
    for params in self.load(cell.model, store):
      means = average(params, lines)
      whole = circuits.everything(sizes, params)
      (before, _), _ = circuits.measure(sizes, whole, params, means, seen)
      circuit = circuits.find(sizes, params, means, seen, options.target)
      (loss, accuracy), _ = circuits.measure(
        sizes, circuit.masks, params, means, new
      )
      numbers = {
        'nodes': sum(int(x.sum()) for x in circuit.nodes.values()),
        'edges': circuit.edges,
        'log2_edges': float(np.log2(max(circuit.edges, 1))),
        'whole_loss': float(before),
        'circuit_loss': circuit.loss,
        'test_loss': float(loss),
        'test_accuracy': float(accuracy),
      }
      for name, value in numbers.items():
        found.setdefault(name, []).append(value)
      kept.append(circuit.masks)
    return {'model': cell.model, 'task': cell.task, **found}, seeds.stack(kept)

  def finish(self, store: grid.Store, results: list[grid.Result]) -> Any:
    if self.compilations > 2:
      raise RuntimeError('Training steps were compiled more than once.')
    return {
      (cell.model, cell.task): self.first(cell, store)
      for cell in cells(self.config)
      if cell.task is not None
    }

  def first(self, cell: Cell, store: grid.Store) -> report.Graph:
    """The circuit of the first seed, to be drawn."""
    params = self.load(cell.model, store)
    whole = circuits.everything(self.sizes(cell.model), params[0])
    count = len(params)
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), whole
    )
    masks = seeds.one(store.load(cell.name, like), 0)
    masks = jax.tree.map(np.asarray, masks)
    weights = jax.tree.map(np.asarray, params[0]['blocks'])
    return report.Graph(circuits.Circuit(masks, 0.0, 0.0), weights)


def choose(reached: np.ndarray, taken: Any, state: Any) -> Any:
  """Params of before for seeds that had reached their goal."""
  return jax.tree.map(
    lambda old, new: jnp.where(
      reached.reshape(-1, *(1,) * (new.ndim - 1)), old, new
    ),
    taken,
    state.params,
  )


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
