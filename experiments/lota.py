"""Adaptation of a pretrained model to two tasks, one after the other.

Trains a small decoder and a small encoder on words, then on the words of
another text, then on tags of sentences: all weights (full fine-tuning); the
weights that full fine-tuning moves farthest, from where they were (lottery
ticket adaptation, LoTA), for the second task among those that the first left
alone; or products of thin matrices (LoRA). Controls choose as many weights by
chance, by initial magnitude, or by the gradient of one batch. Measures what the
second task costs the first, and what is left of both if the changes for each
were found alone and are added up, averaged, or merged by TIES. Or the changes
stay apart, and one compiled program serves both tasks as domains. Seeds are
paired: those of equal number share the order of the data and the heads, and all
share the pretrained weights.

Paper: Panda et al., Lottery Ticket Adaptation: Mitigating Destructive
Interference in LLMs, arXiv:2406.16797. There, LoTA forgets less than full
fine-tuning and LoRA, and its sparse changes merge well. TIES: Yadav et al.,
arXiv:2306.01708. LoRA: Hu et al., arXiv:2106.09685.

  python experiments/lota.py                  # tiny
  python experiments/lota.py --preset claims

  tiny         2 layers of width 48, pretrained on WikiText-2; tinyshakespeare,
               then the tags of UD English EWT; 5 seeds. Ten minutes on 2 CPU
               cores. LoTA forgets less than full fine-tuning in at least 4
               seeds; changes without common places merge to the bit.
  claims       The same with 10 seeds, which verdicts are made of.
  tuned        As tiny, without merges, but each training takes the best of 3
               step sizes by its validation loss: forgetting is compared where
               each arm learns best. 15 minutes.
  accelerator  8 layers of width 512, with more words and steps. For an
               accelerator.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

import lthjax as lth
from adaptation import arms, network, serving, tasks, tuning
from adaptation.arms import ARMS, ArmName, RuleName
from adaptation.network import Kind, Network, Sizes
from adaptation.options import Options
from adaptation.stages import Cell, Stage, cells
from adaptation.tasks import DomainName, Task
from common import checks, command, config, grid, seeds
from lthjax import adapters
from lthjax.training import TrainState, with_masks
from reports import lota as report


@dataclasses.dataclass(frozen=True)
class Config(Options):
  """Adapts pretrained models to two tasks in turn."""

  networks: tuple[Kind, ...] = ('decoder', 'encoder')
  """Models: a decoder predicts the next word, an encoder hidden words."""
  domain: DomainName = 'tinyshakespeare'
  """Text of the first task; the tags of the treebank are the second."""
  arms: tuple[ArmName, ...] = tuple(ARMS)
  """Ways to adapt; full fine-tuning calibrates LoTA."""
  merged: tuple[ArmName, ...] = ('full', 'lota_90', 'lota_99', 'lora')
  """Ways whose changes for both tasks are merged."""
  rules: tuple[RuleName, ...] = ('sum', 'mean', 'ties')
  """How to merge."""
  lora_rate: float = 1e-2
  """Largest step size of LoRA, whose matrices need larger ones."""
  rates: tuple[float, ...] = (1.0,)
  """Multiples of these step sizes: each training takes the best of them by
  its loss on the validation part, on average over the seeds."""

  PREFIX: ClassVar[str] = 'lota'

  def __post_init__(self):
    super().__post_init__()
    checks.each_once(self, 'networks', 'arms', 'rules', 'rates')
    checks.each_once(self, 'merged', none=True)
    checks.above_zero(self, 'lora_rate')
    if min(self.rates) <= 0:
      raise ValueError(f'rates had {min(self.rates)}, but must be above 0.')
    if len(self.rates) > 1 and self.eval_every > self.steps:
      raise ValueError(
        f'eval_every was {self.eval_every}, but there are {self.steps} steps:'
        ' rates are chosen by an evaluation.'
      )
    if 'full' not in self.arms:
      raise ValueError(
        f'arms were {" ".join(self.arms)}, but must have full, which calibrates'
        ' LoTA and is what others are compared with.'
      )
    if unknown := [x for x in self.merged if x not in self.arms]:
      raise ValueError(f'merged had {unknown[0]}, which is not among the arms.')

  @property
  def title(self) -> str:
    """What was trained, in words."""
    domain = {'tinyshakespeare': 'tinyshakespeare'}.get(
      self.domain, self.domain
    )
    return f'{domain}, then {self.treebank_name}, {config.seeds(self)}'


PRESETS = {
  'tiny': Config(),
  'claims': Config(seeds=10),
  'tuned': Config(rates=(0.3, 1.0, 3.0), merged=()),
  'accelerator': Config(
    batch_size=64,
    vocabulary=16_000,
    time=128,
    width=512,
    layers=8,
    heads=8,
    mlp=1_536,
    pretrain_steps=20_000,
    pretrain_batch=64,
    pretrain_rate=1e-3,
    learning_rate=3e-4,
    lora_rate=3e-3,
    steps=2_000,
    eval_every=250,
    test_rows=2_048,
  ),
}


class Experiment(command.Experiment):
  """Models and tasks, and ways from one task to the next."""

  def __init__(self, config: Config):
    """Reads texts and sentences; raises now on options that do not fit."""
    self.config = config
    text = tasks.read_text(config.text)
    domain = tasks.read_text(config.domain)
    treebank = tasks.read_treebank(config.treebank, config.time)
    tagged = [w for s in treebank['train'] for w in tasks.lowered(s)]
    sources = [text['train'], domain['train'], tagged]
    words = tasks.vocabulary(sources, config.vocabulary)
    time = config.time
    self.text = tasks.text_task('text', text, words, time)
    self.tasks: dict[str, Task] = {
      'domain': tasks.text_task('domain', domain, words, time),
      'tags': tasks.tagging_task('tags', treebank, words, time),
    }
    network.check_batches(config, self.text, *self.tasks.values())
    self.networks: dict[Kind, Network] = {
      kind: network.build(Sizes.of(kind, words.size, config), config)
      for kind in config.networks
    }
    self.keys, self.mask_keys, self.batch_keys = seeds.keys(config, 3)
    self.tx = tuning.scaled(
      network.optimizer(config.learning_rate, config.steps)
    )
    self.loop = functools.cache(self._loop)
    self.adapters = functools.cache(self._adapters)
    self.scores = functools.cache(self._scores)

  def train(self, cell: Cell, store: grid.Store, evaluated: Any) -> Any:
    net = self.networks[cell.network]
    if cell.stage == 'pretrained':
      return self.pretrained(net, evaluated)
    base = store.load(f'networks/{cell.network}', net.shapes)
    load = functools.partial(self.load, store, cell.network)
    if not cell.trains:
      return self.merged(cell, net, base, load)
    first = None
    model = seeds.repeat(base, self.config.seeds)
    if cell.stage == 'second':
      first = load(cell.arm, 'first')
      model = first['params']['model']
    task = self.tasks['domain' if cell.stage == 'first' else 'tags']
    if cell.arm == 'lora':
      kept = self.lora(net, task, model, evaluated)
    else:
      kept = self.masked(cell, net, task, model, load, evaluated)
    result = self.tested(net, kept['params'], task.name)
    counts = arms.counts(net, cell.arm, kept['masks'])
    if first is not None:
      old = store.read(f'networks/{cell.network}-{cell.arm}-first')
      result['forgotten'] = [
        new - old
        for new, old in zip(
          result['domain_loss'], old['domain_loss'], strict=True
        )
      ]
    named = {**self.named(cell), 'rate': kept.pop('rate')}
    return {**named, 'trained': counts, **result}, kept

  def named(self, cell: Cell) -> dict[str, str]:
    return {'network': cell.network, 'arm': cell.arm, 'stage': cell.stage}

  def load(self, store: grid.Store, kind: Kind, arm: str, stage: Stage) -> Any:
    """What a training left behind."""
    net = self.networks[kind]
    task = self.tasks['domain' if stage == 'first' else 'tags']
    one = jax.eval_shape(lambda key: net.init(task, key)[0], jax.random.key(0))
    params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((self.config.seeds, *x.shape), x.dtype),
      one,
    )
    masks = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, bool), params['model']
    )
    like = {'params': params, 'masks': masks}
    return store.load(f'networks/{kind}-{arm}-{stage}', like)

  # Trainings.

  def pretrained(self, net: Network, evaluated: Any) -> Any:
    """Trains the model that all others start from."""
    params = net.pretrain(self.text, evaluated)
    many = seeds.repeat({'model': params, 'head': {}}, self.config.seeds)
    result = self.tested(net, many, 'text')
    cell = Cell(net.kind, '', 'pretrained', 0)
    trained = [sum(x.size for x in jax.tree.leaves(params))]
    trained *= self.config.seeds
    return {**self.named(cell), 'trained': trained, **result}, params

  def _loop(self, kind: Kind, task: str) -> Any:
    """A training loop under masks of what trains."""
    net, it = self.networks[kind], self.tasks[task]
    shapes = jax.eval_shape(lambda key: net.init(it, key)[0], self.keys[0])
    full = jax.tree.map(lambda x: jnp.ones(x.shape, bool), shapes)
    tx = lth.frozen(self.tx, full)
    return net.trainer(it, tx), full

  def start(self, kind: Kind, task: str, model: Any) -> TrainState:
    """The state before a training: given models, and new heads."""
    trainer, _ = self.loop(kind, task)
    state = trainer.init(self.keys)
    return state._replace(params={**state.params, 'model': model})

  def fit(self, trainer: Any, state: Any, task: Task, evaluated: Any) -> Any:
    """Trains at the best of some step sizes; returns it too."""
    return tuning.fit(
      trainer,
      state,
      network.sets(task),
      rates=self.config.rates,
      until=self.config.steps,
      evaluated=evaluated,
    )

  def masked(self, cell, net, task, model, load, evaluated) -> Any:
    """Trains what an arm chooses; all other weights keep their bits."""
    arm = ARMS[cell.arm]
    trainer, full = self.loop(net.kind, task.name)
    state = self.start(net.kind, task.name, model)
    masks = seeds.repeat(full, self.config.seeds)
    if arm.masked:
      masks = self.chosen(cell, net, task, state, load)
    state, rate = self.fit(trainer, with_masks(state, masks), task, evaluated)
    return {'params': state.params, 'masks': masks['model'], 'rate': rate}

  def chosen(self, cell, net, task, state, load) -> Any:
    """Masks of what an arm trains, of all runs."""
    arm, taken = ARMS[cell.arm], None
    if cell.stage != 'first':
      taken = {**state.params, 'model': load(cell.arm, 'first')['masks']}
    tuned = state.params
    if arm.chosen_by == 'calibration':
      tuned = self.tuned(cell, net, task, state, load)
    found = []
    for i in range(self.config.seeds):
      params = seeds.one(state.params, i)
      masks = arms.choose(
        arm,
        params,
        None if taken is None else seeds.one(taken, i),
        key=self.mask_keys[i],
        tuned=seeds.one(tuned, i),
        gradient=lambda params=params, i=i: self.scores(net.kind)(
          params, network.draw(task, self.batch_keys[i], self.config.batch_size)
        ),
      )
      found.append(arms.everywhere(params, masks))
    return seeds.stack(found)

  def tuned(self, cell, net, task, state, load) -> Any:
    """What full fine-tuning makes of the same start."""
    if cell.stage != 'second':
      return load('full', cell.stage)['params']
    trainer, full = self.loop(net.kind, task.name)
    masks = seeds.repeat(full, self.config.seeds)
    return self.fit(trainer, with_masks(state, masks), task, None)[0].params

  def _scores(self, kind: Kind) -> Any:
    """Scores by the gradient of one batch; one function, compiled once."""
    loss = functools.partial(self.networks[kind].loss, key=jax.random.key(0))
    return functools.partial(lth.scores.gradient, loss)

  def _adapters(self, kind: Kind, task: str) -> Any:
    """A training loop of adapters; what they are added to is model state."""
    net, it = self.networks[kind], self.tasks[task]
    tx = tuning.scaled(
      network.optimizer(self.config.lora_rate, self.config.steps)
    )

    def init(key):
      whole, _ = net.init(it, key)
      adapter = arms.adapter(net, key)
      params = {'adapter': adapter, 'head': whole['head']}
      return params, {'core': whole['model']}

    def read(params, model_state):
      model = adapters.weights(model_state['core'], params['adapter'])
      return {'model': model, 'head': params['head']}

    return net.trainer(it, tx, init, read)

  def lora(self, net: Network, task: Task, model: Any, evaluated: Any) -> Any:
    """Trains adapters, and adds them to the models for good."""
    trainer = self.adapters(net.kind, task.name)
    state = trainer.init(self.keys)
    # Heads are those of the other arms.
    start: Any = self.start(net.kind, task.name, model)
    head = start.params['head']
    state = state._replace(
      params={**state.params, 'head': head}, model_state={'core': model}
    )
    state, rate = self.fit(trainer, state, task, evaluated)
    merged = jax.vmap(adapters.merge)(model, state.params['adapter'])
    full = jax.tree.map(lambda x: jnp.ones(x.shape, bool), merged)
    params = {'model': merged, 'head': state.params['head']}
    return {'params': params, 'masks': full, 'rate': rate}

  # Measurements.

  def tested(self, net: Network, params: Any, task: str) -> grid.Result:
    """Tests on all tasks; tags only where there is a head for them."""
    words = {**params, 'head': {}}
    text = net.test(words, self.text)
    domain = net.test(words, self.tasks['domain'])
    tags = dict.fromkeys(('loss', 'accuracy'), [None] * self.config.seeds)
    if task == 'tags':
      tags = net.test(params, self.tasks['tags'])
    own = {'text': text, 'domain': domain, 'tags': tags}[task]
    return {
      'text_loss': text['loss'],
      'domain_loss': domain['loss'],
      'tags_accuracy': tags['accuracy'],
      'test_loss': own['loss'],
      'test_accuracy': own['accuracy'],
    }

  def merged(self, cell: Cell, net: Network, base: Any, load: Any) -> Any:
    """Merges the changes for each task; heads are those of the second."""
    one, two = load(cell.arm, 'first'), load(cell.arm, 'alone')
    models, exact = [], []
    for i in range(self.config.seeds):
      a, b = seeds.one(one, i), seeds.one(two, i)
      found, arrived = arms.merge(
        cell.stage,  # pyright: ignore[reportArgumentType]
        base,
        a['params']['model'],
        b['params']['model'],
        (a['masks'], b['masks']),
      )
      models.append(found)
      exact.append(arrived)
    params = {'model': seeds.stack(models), 'head': two['params']['head']}
    result = self.tested(net, params, 'tags')
    return {**self.named(cell), 'exact': exact, **result}, params

  def finish(self, store: grid.Store, results: list[grid.Result]) -> Any:
    for net in self.networks.values():
      # Pretraining, and both tasks with masks and with adapters.
      if net.compilations > 5:
        raise RuntimeError('Training steps were compiled more than once.')
    return [
      self.served(kind, arm, store)
      for kind in self.networks
      for arm in self.config.merged
      if ARMS[arm].masked
    ]

  def served(self, kind: Kind, arm: str, store: grid.Store) -> serving.Served:
    """Both tasks of the first seed as domains of one program."""
    net = self.networks[kind]
    base = store.load(f'networks/{kind}', net.shapes)
    stages: tuple[Stage, ...] = ('first', 'alone')
    both = [seeds.one(self.load(store, kind, arm, x), 0) for x in stages]
    return serving.serve(net, arm, base, both, self.tasks['domain'])


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
