"""Winning tickets: a sparse network, rewound to its own start, trains.

Finds tickets by iterative magnitude pruning and trains beside each of them the
controls that it has to beat: the same mask on new weights (reinit), the same
weights under a mask shuffled within its layers (shuffled), and others that keep
of sign, magnitude and mask what the table in `ticket_controls.py` says.

Paper: Frankle & Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635,
figures 3 to 5; with `--rewind-step` Frankle et al., Linear Mode Connectivity
and the Lottery Ticket Hypothesis, arXiv:1912.05671. Signs: Zhou et al.,
Deconstructing Lottery Tickets, arXiv:1905.01067, figure 5.

  python experiments/lottery_ticket.py                    # digits
  python experiments/lottery_ticket.py --preset mnist
  python experiments/lottery_ticket.py --preset mnist --seeds 8

  digits    LeNet-300-100 on digits, 5 seeds. Under a minute on 2 CPU cores.
            At 2 % of the weights the ticket is at least 2 points above reinit
            and 10 above shuffled.
  mnist     LeNet-300-100 on MNIST, 3 seeds. 6 minutes on 2 CPU cores.
            At 3.6 % it is at least 1.5 points above reinit and 3.5 above
            shuffled.
  signs     What of sign, magnitude and mask carries the ticket: all controls
            at 21.1 and 3.6 %, on MNIST. 5 minutes on 2 CPU cores. With its mask
            and its signs alone, a ticket is as good to within half a point.
  conv2     Conv-2 on CIFAR-10, 3 seeds. For an accelerator: a million steps,
            perhaps an hour. In the paper it is up to 3.4 points above the dense
            network, at 4.6 %.
  resnet20  ResNet-20 on CIFAR-10, 1 seed, rewound to step 2,000. For an
            accelerator: 1.5 million steps, perhaps four hours. In the paper it
            matches the dense network down to about 13 %; reinit does not.

All results go into one folder a configuration. Kill the command at any time
and start it again: it goes on where it was, and ends with the same bits.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import chex
import jax
import jax.numpy as jnp
import tyro

import lthjax as lth
from common import running
from common.classification import (
  TITLES,
  Classification,
  ModelName,
  image_shape,
  make_optimizer,
  seed_keys,
  steps_down,
)
from lthjax import checkpoints
from lthjax.tickets import Ticket
from lthjax.training import Trainer, TrainState, with_masks
from methods import controls as ticket_controls
from methods.controls import Control
from reports import lottery_ticket as ticket_report

REWINDS = {
  'weights': lth.tickets.rewind_weights,
  'learning_rate': lth.tickets.rewind_learning_rate,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Finds lottery tickets and trains their controls."""

  preset: Literal['digits', 'mnist', 'signs', 'conv2', 'resnet20'] = (
    dataclasses.field(default='digits', compare=False)
  )
  """One of those above; sets the defaults of all options below."""
  dataset: str = 'digits'
  """digits, which comes with scikit-learn, or a TFDS name such as mnist."""
  validation: int | None = None
  """Examples held out to choose the best step; None: about a tenth."""
  model: ModelName = 'lenet_300_100'
  """Network."""
  seeds: int = 5
  """Runs side by side, with seeds 0, 1, and so on."""
  levels: int = 19
  """Trainings in a row, that of the dense network included."""
  fraction: tuple[tuple[str, float], ...] = (('output/*', 0.1), ('*', 0.2))
  """Share of alive weights to prune a level, by the first glob that fits."""
  scope: Literal['layer', 'global'] = 'layer'
  """Whether each layer has a budget of its own."""
  controls: tuple[Control, ...] = (
    'reinit',
    'shuffled',
    'sign_preserved',
    'signed_constant',
  )
  """What to train beside each ticket."""
  control_every: int = 2
  """Train controls at the last level and every so many levels before it."""
  rewind: Literal['weights', 'learning_rate'] = 'weights'
  """What goes back after pruning: everything, or all but the weights."""
  rewind_step: int = 0
  """Step to rewind to; 0 is initialization."""
  steps: int = 300
  """Training steps a level."""
  batch_size: int = 60
  """Examples a step."""
  optimizer: Literal['adam', 'sgd'] = 'adam'
  """Adam, or SGD with momentum 0.9."""
  learning_rate: float = 1.2e-3
  """Step size."""
  decay_steps: Annotated[
    tuple[int, ...], tyro.conf.arg(help_behavior_hint='(default: none)')
  ] = ()
  """Steps at which the learning rate falls to a tenth."""
  weight_decay: float = 0.0
  """L2 penalty on kernels, added to the gradient."""
  augment: bool = False
  """Random crops and flips."""
  eval_every: int = 50
  """Steps between evaluations on the validation set."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder in which the run gets its folder."""

  def __post_init__(self):
    """Refuses what cannot be trained."""
    running.at_least(self, seeds=1, levels=1, control_every=1, steps=1)
    running.at_least(self, batch_size=1, eval_every=1, validation=1)
    running.each_once(self, 'controls', none=True)
    running.rewindable(self, 'rewind_step')
    if self.rewind_step // self.eval_every == self.steps // self.eval_every:
      raise ValueError(
        f'There is no evaluation from step {self.rewind_step} to step'
        f' {self.steps} when eval_every is {self.eval_every}, and so no best'
        ' step. Evaluate more often, or train longer.'
      )


MNIST = Config(dataset='mnist', seeds=3, levels=16, steps=1500, eval_every=150)
PRESETS = {
  'digits': Config(),
  'mnist': MNIST,
  'signs': dataclasses.replace(
    MNIST, controls=get_args(Control), control_every=8
  ),
  'conv2': Config(
    dataset='cifar10',
    model='conv_2',
    seeds=3,
    levels=16,
    fraction=(('output/*', 0.1), ('conv*', 0.1), ('*', 0.2)),
    steps=20_000,
    learning_rate=2e-4,
    eval_every=500,
  ),
  'resnet20': Config(
    dataset='cifar10',
    model='resnet_20',
    seeds=1,
    levels=16,
    fraction=(('*', 0.2),),
    scope='global',
    controls=('reinit', 'shuffled'),
    rewind_step=2_000,
    steps=63_000,
    batch_size=128,
    optimizer='sgd',
    learning_rate=0.1,
    decay_steps=(32_000, 48_000),
    weight_decay=1e-4,
    augment=True,
    eval_every=1_000,
  ),
}


class Experiment:
  """Everything that is compiled once: a network, its data and its training."""

  def __init__(self, config: Config):
    """Reads the data and builds the training loop."""
    self.config = config
    self.task = Classification(
      config.dataset,
      config.model,
      validation=config.validation,
      batch_size=config.batch_size,
      augment=config.augment,
    )
    params = self.task.params
    self.dense = lth.masks.full(params)
    # Raises on a bad fraction now, before anything is trained or written.
    budget = functools.partial(
      lth.prune, fraction=dict(config.fraction), scope=config.scope
    )
    jax.eval_shape(budget, params, self.dense)
    learning_rate = steps_down(config.learning_rate, config.decay_steps)
    tx = make_optimizer(
      config.optimizer, learning_rate, config.weight_decay, self.dense
    )
    self.tx = lth.static(tx, self.dense)
    self.trainer = self.task.trainer(self.tx, every=config.eval_every)
    self.keys, self.control_keys = (
      seed_keys(config.seeds, offset) for offset in (0, 2**16)
    )

  @functools.cached_property
  def frozen(self) -> tuple[Classification, Trainer]:
    """The network with dead weights that are not zero, and its training."""
    model = ticket_controls.beside_frozen(self.task.model)
    task = self.task.with_model(model)
    return task, task.trainer(self.tx, every=self.config.eval_every)

  def start(self) -> TrainState:
    """Dense networks at the step to rewind to."""
    state = self.trainer.init(self.keys)
    return self.train(state, until=self.config.rewind_step)

  def masks(self) -> chex.ArrayTree:
    """Masks that keep everything, for every seed."""
    replicates = (self.config.seeds,)
    return jax.tree.map(
      lambda m: jnp.ones(replicates + m.shape, bool), self.dense
    )

  def train(
    self, state: TrainState, *, until: int, report=None, control='ticket'
  ) -> TrainState:
    """Trains up to a step."""
    trainer = self.frozen[1] if control == 'frozen' else self.trainer
    return trainer.fit(state, self.task.dataset, until=until, report=report)

  def control(
    self, name: Control, start: TrainState, ticket: Ticket
  ) -> tuple[TrainState, chex.ArrayTree]:
    """Where a control starts, and its masks."""
    fresh = self.trainer.init(self.control_keys)
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(
      self.control_keys, ticket.level
    )
    return ticket_controls.begin(
      name, keys, start, fresh, ticket.masks, self.tx
    )

  def test(self, state: TrainState, control: str) -> dict[str, Any]:
    """Accuracy on the test set at the end and at the best validation step."""
    task = self.frozen[0] if control == 'frozen' else self.task
    test, best = task.test_accuracy, state.best
    return {
      'test_accuracy': test(state.params, state.model_state),
      'best_step': best.step.tolist(),
      'test_accuracy_at_best': test(best.params, best.model_state),
    }


def run(config: Config, report: ticket_report.Progress) -> Path:
  """Trains what is still missing, and returns the folder with everything."""
  experiment = Experiment(config)
  folder = checkpoints.open_run(
    config.output, f'{config.dataset.replace("/", "-")}-{config.model}', config
  )
  last, levels = read_levels(folder, experiment)
  report.begin(folder, levels)
  if len(levels) == config.levels:
    return folder
  start = experiment.start()

  def train(state, masks, control='ticket'):
    curve, density = [], lth.masks.density(masks)

    def evaluated(step, metrics):
      values = {name: x.tolist() for name, x in metrics.items()}
      curve.append({'step': step, **values})
      report.evaluated(control, density, curve[-1])

    state = with_masks(state, masks)
    state = experiment.train(
      state, until=config.steps, report=evaluated, control=control
    )
    found = experiment.test(state, control)
    results.append({'control': control, **found, 'curve': curve})
    report.training_done()
    return state

  results: list[dict[str, Any]] = []
  for ticket in lth.tickets.imp(
    train,
    start,
    experiment.masks(),
    levels=config.levels,
    prune=functools.partial(
      lth.prune, fraction=dict(config.fraction), scope=config.scope
    ),
    rewind=REWINDS[config.rewind],
    vmapped=True,
    resume=last,
  ):
    for control in controls_at(config, ticket.level):
      train(*experiment.control(control, start, ticket), control)
    ticket = ticket._replace(
      start=ticket.start.params, trained=slim(ticket.trained), metrics=results
    )
    if ticket.level == config.levels - 1:
      first = level_folder(folder, 0)
      dense = checkpoints.load_ticket(first, ticket) if ticket.level else ticket
      pixels = image_shape(experiment.task.dataset)
      if config.model != 'lenet_300_100':
        pixels = None  # Convolutions look at all pixels alike.
      ticket_report.page(dense, ticket, pixels, folder / 'report.html')
    checkpoints.save_ticket(level_folder(folder, ticket.level), ticket)
    levels.append(summary(ticket))
    results = []
    report.level_done(levels)
  experiment.task.check_compiled_once()
  return folder


def controls_at(config: Config, level: int) -> tuple[Control, ...]:
  """Which controls to train: none beside the dense network."""
  wanted = level > 0 and (config.levels - 1 - level) % config.control_every == 0
  return config.controls if wanted else ()


def level_folder(folder: Path, level: int) -> Path:
  """Where a ticket is kept."""
  return folder / 'tickets' / f'{level:02d}'


def slim(state: TrainState) -> TrainState:
  """What is worth keeping of a trained state."""
  return state._replace(opt_state=None, key=None, best=None)


def summary(ticket: Ticket) -> ticket_report.Level:
  """What the report needs of a level."""
  return {
    'level': ticket.level,
    'density': ticket.density,
    'results': ticket.metrics,
  }


def read_levels(
  folder: Path, experiment: Experiment
) -> tuple[Ticket | None, list[ticket_report.Level]]:
  """Reads the last ticket of an earlier run, and the results of all."""
  state = jax.eval_shape(experiment.trainer.init, experiment.keys)
  like = Ticket(0, 0.0, experiment.masks(), state.params, slim(state), None)
  last, levels = None, []
  left = sorted(x.name for x in folder.glob('tickets/[0-9]*'))
  while (path := level_folder(folder, len(levels))).exists():
    last = checkpoints.load_ticket(path, like)
    levels.append(summary(last))
    left.remove(path.name)
  if left:
    raise ValueError(
      f'{path} is missing, but later levels are there: {", ".join(left)}.'
      ' Move them away as well, and they will be trained again.'
    )
  return last, levels


def parse(arguments: list[str]) -> Config:
  """Reads the command line: a preset, and what to change about it."""
  return running.parse(arguments, PRESETS, __doc__)


def main() -> None:
  """Runs the experiment and shows what came out."""
  with running.friendly_exit('trains this level again'):
    config = parse(sys.argv[1:])
    trainings = {
      level: 1 + len(controls_at(config, level))
      for level in range(config.levels)
    }
    title = (
      f'{TITLES[config.model]} on {config.dataset},'
      f' {running.seeds(config.seeds)}'
    )
    with ticket_report.Progress(trainings, config.steps) as report:
      folder = run(config, report)
    levels = report.levels
    ticket_report.figure(levels, title, folder)
    ticket_report.markdown(levels, title, folder, config.seeds)
  report.console.print(ticket_report.table(levels))
  report.console.print(ticket_report.verdict(levels))
  report.console.print(f'Figure, tables and tickets: {folder}', soft_wrap=True)


if __name__ == '__main__':
  main()
