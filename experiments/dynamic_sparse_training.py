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
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common import checks, command, grid, seeds
from common.classification import Classification, decay_kernels, image_shape
from common.config import TrainConfig
from lthjax import accounting, trees
from lthjax.training import TrainState
from methods.alive_only import AliveOnly
from methods.sparse import HELD, METHODS, Cost, MethodName, Plan
from reports import dynamic_sparse_training as report

DENSITIES = {'uniform': lth.densities.uniform, 'erk': lth.densities.erk}
EVERY_METHOD: tuple[MethodName, ...] = tuple(METHODS)


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
  """Compares methods of sparse training."""

  dataset: str = 'mnist'
  steps: int = 6_000
  batch_size: int = 100
  learning_rate: float = 0.1
  """Step size of SGD with Nesterov momentum 0.9; falls to 0 by a cosine."""
  eval_every: int = 500
  methods: tuple[MethodName, ...] = EVERY_METHOD
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

  PREFIX: ClassVar[str] = 'sparse'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, update_every=1)
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


PRESETS = {
  'mnist': Config(validation=1_000),
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


class Cell(NamedTuple):
  method: MethodName
  sparsity: float
  steps: int

  @property
  def name(self) -> str:
    return f'networks/{self.method}-{self.sparsity:g}-{self.steps}'

  @property
  def label(self) -> str:
    label = METHODS[self.method].label
    return f'{label}  {100 * self.sparsity:g} % sparse  {self.steps:,} steps'


def cells(config: Config) -> list[Cell]:
  """All trainings, with the dense network first."""
  methods = sorted(config.methods, key=lambda name: name != 'dense')
  return [
    Cell(method, sparsity, round(length * config.steps))
    for length in config.lengths
    for method in methods
    for sparsity in ((0.0,) if method == 'dense' else config.sparsities)
  ]


class Experiment(command.Experiment):
  """The network, its data, and a training loop per method and length."""

  def __init__(self, config: Config):
    """Reads the data; raises now on budgets that do not fit the network."""
    self.config = config
    self.task = Classification.of(config)
    self.masks = lth.masks.full(self.task.params)
    self.keys = seeds.seed_keys(config)
    self._trainers: dict[tuple[str, int], lth.Trainer] = {}
    for cell in cells(config):
      jax.eval_shape(self.trainer(cell).init, self.keys)
    if config.sparse_kernels:  # Raises now if it cannot be.
      AliveOnly(
        self.task, config, seeds.repeat(self.masks, 1), optax.identity()
      )

  def plan(self, cell: Cell) -> Plan:
    config = self.config
    return Plan(
      sparsity=cell.sparsity,
      densities=DENSITIES[config.densities],
      steps=cell.steps,
      stop_step=round(config.stop_share * cell.steps),
      update_every=config.update_every,
      drop_fraction=config.drop_fraction,
      weight_decay=config.weight_decay,
    )

  def trainer(self, cell: Cell) -> lth.Trainer:
    """The training loop of a cell; every seed draws its own masks."""
    plan, method, inner = (
      self.plan(cell),
      METHODS[cell.method],
      self.inner(cell),
    )
    return self.task.trainer(
      lambda key: method.make(inner, plan, key), every=self.config.eval_every
    )

  def inner(self, cell: Cell) -> optax.GradientTransformation:
    """The optimizer of a cell, without masks."""
    config = self.config
    schedule = optax.cosine_decay_schedule(config.learning_rate, cell.steps)
    inner = optax.sgd(schedule, momentum=0.9, nesterov=True)
    if METHODS[cell.method].decays:
      return inner
    return decay_kernels(config.weight_decay, self.masks, inner)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    trainer = self.trainer(cell)
    # What a step does depends on the state, which has the budget: sparsities
    # share a program.
    shared = self._trainers.setdefault((cell.method, cell.steps), trainer)
    state = self.fit(cell, shared, trainer.init(self.keys), evaluated)
    masks = lth.get_masks(state.opt_state)
    params = lth.forward_params(state.opt_state, state.params)
    networks = {'params': params, 'masks': masks}
    return {
      **cell._asdict(),
      **self.task.test(state, params),
      **self.cost(cell, masks),
    }, {**networks, 'model_state': state.model_state}

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

  def forward_cost(self, masks: Any) -> accounting.MultiplyAdds:
    """Multiply-adds of a forward pass on one image, for one seed."""
    task, image = self.task, jnp.zeros((1, *image_shape(self.task.dataset)))
    return accounting.multiply_adds(
      task.model.apply, task.params, task.model_state, image, masks=masks
    )

  def cost(self, cell: Cell, masks: Any) -> dict[str, float]:
    """What inference and training cost, as shares of the dense network's."""
    costs = [self.forward_cost(of_seed) for of_seed in seeds.unstack(masks)]
    first, plan = costs[0], self.plan(cell)
    named = trees.by_name(self.masks)
    shapes = {name: m.shape for name, m in named.items() if m is not None}
    forward = Cost(
      dense=first.total_dense,
      sparse=sum(cost.total for cost in costs) / len(costs),
      at=lambda sparsity: first.at(plan.densities(shapes, sparsity)),
    )
    training = METHODS[cell.method].cost(forward, plan) * cell.steps
    dense = accounting.step_cost.dense(forward.dense) * self.config.steps
    return {
      'inference_cost': forward.sparse / forward.dense,
      'training_cost': training / dense,
    }


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
