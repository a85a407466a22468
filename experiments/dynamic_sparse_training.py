"""Sparse from scratch: accuracy over FLOPs for eleven methods.

Trains the same network dense; sparse with masks that stay (static), with masks
that move (SET, SNFS, RigL, SRigL), and with dense weights behind a sparse
forward pass (Top-KAST, straight-through, SR-STE); and from dense to sparse
(AC/DC, gradual pruning): at every sparsity and for every length of training.
Compares test accuracy with the cost of training and of inference.

Paper: Evci et al., Rigging the Lottery: Making All Tickets Winners,
arXiv:1911.11134, figure 2; Lasby et al., Dynamic Sparse Training with
Structured Sparsity, arXiv:2305.02299, table 1 (SRigL).

  python experiments/dynamic_sparse_training.py                   # mnist
  python experiments/dynamic_sparse_training.py --preset mnist_longer
  python experiments/dynamic_sparse_training.py --methods rigl --sparsities 0.99
  python experiments/dynamic_sparse_training.py --methods rigl --sparse-kernels

  mnist         LeNet-300-100 on MNIST, 11 methods at 3 sparsities, 3 seeds.
                Half an hour on 2 CPU cores. At 98 %, RigL is at least 1.2
                points above static and not below SET; at 90 %, SRigL is within
                half a point of RigL.
  equal_flops   LeNet-300-100 on MNIST, 9 methods that train for as many FLOPs
                as the dense network, up to 15 times its steps, each at the best
                of three learning rates, 10 seeds. Half an hour on 2 CPU cores.
                At 98 %, RigL is .4 points ahead of the dense network.
  mnist_longer  dense, static, SET and RigL at 98 %, for a quarter of the steps
                to five times as many. A quarter of an hour on 2 CPU cores. With
                the most steps, RigL is within 1.1 points of dense, and with
                `--update-every 200` within 0.9.
  fashion_mnist like mnist, on Fashion-MNIST.
  resnet20      ResNet-20 on CIFAR-10, 80 to 95 %. For an accelerator: 6
                million steps side by side, perhaps four hours.
  wrn22_2       WRN-22-2 on CIFAR-10, 80 and 90 %, for the 250 epochs of the
                paper. For an accelerator, perhaps ten hours. At 80 % with ERK,
                RigL has 93.1 % in a reproduction (arXiv:2103.15767).
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import checks, command, grid, seeds
from common.classification import Classification, decay_kernels, image_shape
from common.config import NONE, TrainConfig
from lthjax import accounting, trees
from lthjax.training import TrainState, with_masks
from methods import equal_cost
from methods.alive_only import AliveOnly
from methods.sparse import (
  HELD,
  METHODS,
  NM,
  USUAL,
  Cost,
  MethodName,
  Plan,
  n_of_group,
  sparsities_on_the_way,
)
from methods.sparse_cells import Cell, Trial, cells, plan_of
from reports import dynamic_sparse_training as report

# What these compute is not in the state alone: a program for each sparsity.
OWN_PROGRAM: tuple[MethodName, ...] = ('small_dense', *NM)


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
  """Compares methods of sparse training."""

  dataset: str = 'mnist'
  steps: int = 6_000
  batch_size: int = 100
  learning_rate: float = 0.1
  """Step size of SGD with Nesterov momentum 0.9; falls to 0 by a cosine."""
  eval_every: int = 500
  methods: tuple[MethodName, ...] = USUAL
  """Methods to compare; costs are shares of those of dense."""
  sparsities: tuple[float, ...] = (0.9, 0.95, 0.98)
  """Dead shares of the prunable weights, in (0, 1)."""
  densities: Literal['uniform', 'erk'] = 'erk'
  """How the budget spreads over layers."""
  lengths: tuple[float, ...] = (1.0,)
  """Multiples of the steps to train for."""
  weight_decay: float = 1e-4
  update_every: int = 100
  """Steps from one move of the masks to the next."""
  stop_share: float = 0.75
  """Share of training after which masks stay."""
  drop_fraction: float = 0.3
  """Share of the alive weights that a move replaces; falls by a cosine."""
  sparse_kernels: bool = False
  """Whether static, SET, RigL and SRigL train alive weights only, on a CPU."""
  equal_flops: bool = False
  """Whether each method trains for as many FLOPs as the dense network."""
  longest: float = 15.0
  """At equal FLOPs, the largest multiple of the dense network's steps."""
  rates: Annotated[tuple[float, ...], NONE] = ()
  """Learning rates to choose from by validation, for each network."""
  trial_seeds: int = 2
  """Seeds of their own that each of the rates is tried with."""

  PREFIX: ClassVar[str] = 'sparse'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, update_every=1, longest=1, trial_seeds=1)
    checks.each_once(self, 'rates', none=True)
    checks.above_zero(self, 'rates')
    checks.each_once(self, 'methods', 'sparsities', 'lengths')
    checks.between_0_and_1(self, 'sparsities', because=': dense is a method')
    if wrong := [x for x in self.lengths if round(x * self.steps) < 1]:
      raise ValueError(
        f'lengths had {wrong[0]}, but {wrong[0]} of {self.steps} steps leaves'
        ' nothing to train.'
      )
    if not 0 < self.stop_share <= 1:
      raise ValueError(
        f'stop_share was {self.stop_share}, but must be in (0, 1].'
      )
    for name in self.methods:
      if name in NM and not any(map(n_of_group, self.sparsities)):
        raise ValueError(
          f'methods had {name}, which keeps 1, 2 or 3 of 4 weights, but'
          f' sparsities were {" ".join(map(str, self.sparsities))}. Give 0.75,'
          ' 0.5 or 0.25 as well.'
        )
    if self.equal_flops and self.model != 'lenet_300_100':
      raise ValueError(
        f'model was {self.model}, but equal_flops needs a network whose FLOPs'
        ' are its weights. Take lenet_300_100.'
      )
    if self.equal_flops and self.sparse_kernels:
      raise ValueError(
        'sparse_kernels do not go with equal_flops, which notes at every step'
        ' which weights were ever alive. Leave out one of them.'
      )


PRESETS = {
  'mnist': Config(validation=1_000),
  'equal_flops': Config(
    validation=1_000,
    seeds=10,
    steps=400,
    eval_every=200,
    update_every=50,
    sparsities=(0.5, 0.75, 0.98),
    methods=(
      'dense',
      'static',
      'rigl',
      'gradual',
      'sr_ste',
      'small_dense',
      'imp',
      'rigl_nm',
      'sr_ste_nm',
    ),
    rates=(0.05, 0.1, 0.2),
    equal_flops=True,
  ),
  'mnist_longer': Config(
    validation=1_000,
    methods=('dense', 'static', 'set', 'rigl'),
    sparsities=(0.98,),
    lengths=(0.25, 0.5, 1.0, 2.0, 5.0),
  ),
  'fashion_mnist': Config(dataset='fashion_mnist', validation=1_000),
  'resnet20': Config(
    dataset='cifar10',
    model='resnet_20',
    sparsities=(0.8, 0.9, 0.95),
    steps=64_000,
    batch_size=128,
    augment=True,
    eval_every=2_000,
  ),
  'wrn22_2': Config(
    dataset='cifar10',
    model='wide_resnet_22_2',
    sparsities=(0.8, 0.9),
    steps=97_656,
    batch_size=128,
    weight_decay=5e-4,
    augment=True,
    eval_every=2_000,
  ),
}


class Experiment(command.Experiment):
  """The network, its data, and a training loop per method and length."""

  def __init__(self, config: Config):
    """Reads the data; raises now on budgets that do not fit the network."""
    self.config = config
    self.task = Classification.of(config)
    self.masks = lth.masks.full(self.task.params)
    self.keys = seeds.seed_keys(config)
    self._trainers: dict[Any, lth.Trainer] = {}
    self._tasks: dict[float, Classification] = {}
    for cell in cells(config):
      if isinstance(cell, Cell):
        jax.eval_shape(self.trainer(cell).init, self.keys)
    if config.sparse_kernels:  # Raises now if it cannot be.
      AliveOnly(
        self.task, config, seeds.repeat(self.masks, 1), optax.identity()
      )

  def plan(self, cell: Cell) -> Plan:
    return plan_of(self.config, *cell)

  def task_of(self, cell: Cell) -> Classification:
    """The network of a cell, and its data."""
    if cell.method != 'small_dense':
      return self.task
    if cell.sparsity not in self._tasks:
      self._tasks[cell.sparsity] = equal_cost.small_dense(
        self.task, self.config.model, cell.sparsity
      )
    return self._tasks[cell.sparsity]

  def trainer(self, cell: Cell) -> lth.Trainer:
    """The training loop of a cell; every seed draws its own masks."""
    plan, method, inner = (
      self.plan(cell),
      METHODS[cell.method],
      self.inner(cell),
    )

    def optimizer(key):
      tx = method.make(inner, plan, key)
      return equal_cost.exploring(tx) if self.config.equal_flops else tx

    return self.task_of(cell).trainer(optimizer, every=self.config.eval_every)

  def inner(self, cell: Cell) -> optax.GradientTransformation:
    """The optimizer of a cell, without masks."""
    config = self.config
    rate = 1.0 if config.rates else config.learning_rate
    schedule = optax.cosine_decay_schedule(rate, self.plan(cell).steps)
    inner = optax.sgd(schedule, momentum=0.9, nesterov=True)
    if config.rates:  # In the state, so that all of them share a program.
      inner = optax.chain(inner, equal_cost.rated())
    if METHODS[cell.method].decays:
      return inner
    return decay_kernels(config.weight_decay, self.masks, inner)

  def train(self, cell: Any, store: grid.Store, evaluated) -> Any:
    if isinstance(cell, Trial):
      return self.try_rates(cell.cell, evaluated), np.int32(0)
    config, found = self.config, {}
    if config.rates:
      found['learning_rate'] = best_rate(store.read(Trial(cell).name))
      rates = jnp.full(config.seeds, found['learning_rate'])
      state = self.run(cell, self.keys, evaluated, rates)
    else:
      state = self.run(cell, self.keys, evaluated)
    task = self.task_of(cell)
    if config.equal_flops:
      found['explored'] = equal_cost.shares_explored(
        state.opt_state, self.task.params
      )
    masks = lth.get_masks(state.opt_state)
    params = lth.forward_params(state.opt_state, state.params)
    networks = {'params': params, 'masks': masks}
    return {
      **cell._asdict(),
      **task.test(state, params),
      **self.cost(cell, masks),
      **found,
    }, {**networks, 'model_state': state.model_state}

  def try_rates(self, cell: Cell, evaluated: Any) -> grid.Result:
    """Trains a cell with each rate and some seeds, side by side."""
    rates, count = self.config.rates, self.config.trial_seeds
    first = self.config.first_seed + self.config.seeds
    keys = jax.vmap(jax.random.key)(first + jnp.arange(count))
    repeated = jnp.repeat(jnp.asarray(rates, jnp.float32), count)
    self.run(cell, jnp.concatenate([keys] * len(rates)), evaluated, repeated)
    # A rate that diverges is not chosen, and no reason to warn.
    return {'trial': cell._asdict(), 'rates': list(rates), 'diverged': []}

  def run(
    self, cell: Cell, keys: Any, evaluated: Any, rates: Any = None
  ) -> TrainState:
    """Trains networks from the beginning, one per key, and evaluates them."""
    trainer = self.trainer(cell)
    start = trainer.init(keys)
    # What a step does depends on the state, which has the budget: sparsities
    # share a program.
    own = cell.sparsity if cell.method in OWN_PROGRAM else None
    program = cell.method, self.plan(cell).steps, len(keys), own
    trainer = self._trainers.setdefault(program, trainer)
    if rates is not None:
      start = start._replace(
        opt_state=optax.tree.set(start.opt_state, rate=rates)
      )
    train = self.iterate if cell.method == 'imp' else self.fit
    state = train(cell, trainer, start, evaluated)
    if cell.method == 'imp' or cell.steps % self.config.eval_every:
      evaluated(cell.steps, self.task_of(cell).validate(state))
    return state

  def iterate(
    self, cell: Cell, trainer: lth.Trainer, start: TrainState, evaluated: Any
  ) -> TrainState:
    """Trains, prunes by magnitude and rewinds to the beginning, repeatedly."""
    plan, state = self.plan(cell), start
    masks = lth.get_masks(start.opt_state)
    for level, sparsity in enumerate(sparsities_on_the_way(cell.sparsity)):
      if level:
        evaluated(level * plan.steps, self.task.validate(state))
        prune = functools.partial(
          lth.prune, sparsity=sparsity, densities=plan.densities
        )
        masks = jax.vmap(prune)(lth.scores.magnitude(state.params), masks)
      state = trainer.fit(
        with_masks(start, masks), self.task.dataset, until=plan.steps
      )
    return state

  def fit(
    self, cell: Cell, trainer: lth.Trainer, start: TrainState, evaluated: Any
  ) -> TrainState:
    """Trains all seeds under masks, or alive weights only between moves."""

    def fit(state, *, until, report):
      return trainer.fit(state, self.task.dataset, until=until, report=report)

    if not self.config.sparse_kernels or cell.method not in HELD:
      return fit(start, until=cell.steps, report=evaluated)
    masks, plan = lth.get_masks(start.opt_state), self.plan(cell)
    alive = AliveOnly(self.task, self.config, masks, self.inner(cell))
    moves = range(plan.update_every, plan.stop_step + 1, plan.update_every)
    if cell.method == 'static':
      moves = ()
    return alive.fit_moving(
      fit, start, moves, until=cell.steps, report=evaluated
    )

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    self.task.check_compiled(len(self._trainers))

  def forward_cost(
    self, task: Classification, masks: Any
  ) -> accounting.MultiplyAdds:
    """Multiply-adds of a forward pass on one image, for one seed."""
    image = jnp.zeros((1, *image_shape(task.dataset)))
    return accounting.multiply_adds(
      task.model.apply, task.params, task.model_state, image, masks=masks
    )

  def cost(self, cell: Cell, masks: Any) -> dict[str, float]:
    """What inference and training cost, as shares of the dense network's."""
    task, plan = self.task_of(cell), self.plan(cell)
    costs = [self.forward_cost(task, one) for one in seeds.unstack(masks)]
    whole = costs[0]
    if task is not self.task:
      whole = self.forward_cost(self.task, self.masks)
    named = trees.by_name(self.masks)
    shapes = {name: m.shape for name, m in named.items() if m is not None}
    forward = Cost(
      dense=whole.total_dense,
      sparse=sum(cost.total for cost in costs) / len(costs),
      at=lambda sparsity: whole.at(plan.densities(shapes, sparsity)),
    )
    training = METHODS[cell.method].cost(forward, plan) * cell.steps
    dense = accounting.step_cost.dense(forward.dense) * self.config.steps
    return {
      'inference_cost': forward.sparse / forward.dense,
      'training_cost': training / dense,
    }


def best_rate(trial: grid.Result) -> float:
  """The rate with the best accuracy on validation data, on average."""
  accuracy = np.array(trial['curve'][-1]['accuracy'])
  means = accuracy.reshape(len(trial['rates']), -1).mean(1)
  return trial['rates'][int(means.argmax())]


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
