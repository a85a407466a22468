"""Tickets of a pretrained encoder: does the one for masked words fit all tasks?

Finds tickets of an encoder by iterative magnitude pruning from its pretrained
weights: each round trains on a task, removes another 10 % of all weights in the
kernels of attention and MLP, the smallest of all layers together, and goes back
to the pretrained weights with an empty optimizer; the head of the task stays as
trained, as in the authors' code. Embeddings, norms, biases and heads are never
pruned. Compares, on every task, the ticket for masked words with the task's
own, a random one, the first shuffled within its layers, and one by pretrained
magnitudes. All of them start from pretrained weights with a new head. Seeds
are paired: those of equal number share the order of the data and the heads, and
all share the pretrained weights.

Paper: Chen et al., The Lottery Ticket Hypothesis for Pre-trained BERT Networks,
arXiv:2007.12223, sections 3 and 4. There, tickets of 40 to 90 % sparsity match
the whole model, and that for masked words at 70 % transfers to all tasks.

  python experiments/bert_tickets.py                         # tiny
  python experiments/bert_tickets.py --glue FOLDER
  python experiments/bert_tickets.py --pretrained FOLDER

  tiny         An encoder of 2 layers of width 48, pretrained on WikiText-2;
               masked words and the tags of UD English EWT; 5 seeds. Ten
               minutes on 2 CPU cores. The ticket for masked words is more than
               two standard deviations ahead of random ones on both tasks.
  claims       The same with 10 seeds, which verdicts are made of.
  accelerator  8 layers of width 512, with more words and steps. For an
               accelerator.

A folder for --glue has one folder for each task, with train.tsv and dev.tsv and
their columns named in the first line, such as those of GLUE. --pretrained takes
a folder of Hugging Face with a BERT and its vocab.txt, or the name of an
installed package that has one.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax

import lthjax as lth
from adaptation import glue, network, pretrained, tasks
from adaptation.network import Sizes
from adaptation.options import Options
from adaptation.tasks import Task
from common import checks, command, config, grid, levels, seeds
from lthjax import trees
from lthjax.training import TrainState, with_masks
from reports import bert_tickets as report
from reports.bert_tickets import KindName

ROUND = 0.1  # share of all weights that a round removes
WORDS, TAGS = 'words', 'tags'
NETWORK = 'networks/encoder'


def _in_tenths(sparsity: float) -> bool:
  return abs(sparsity - ROUND * rounds(sparsity)) < 1e-9


def rounds(sparsity: float) -> int:
  """After how many rounds there is a ticket."""
  return round(sparsity / ROUND)


@dataclasses.dataclass(frozen=True)
class Config(Options):
  """Finds tickets of a pretrained encoder, and trains them on all tasks."""

  batch_size: int = 16
  """Sequences per step of the tasks."""
  steps: int = 300
  """Steps of each training on a task."""
  eval_every: int = 100
  """Steps between evaluations on the validation part."""
  sparsities: tuple[float, ...] = (0.6, 0.7)
  """Sparsities of the tickets, in tenths."""
  kinds: tuple[KindName, ...] = tuple(report.KINDS)
  """Tickets to compare: for masked words, the task's own, and controls."""
  glue: str | None = None
  """Folder with more tasks, in folders with train.tsv and dev.tsv."""
  pretrained: str | None = None
  """Folder of Hugging Face or installed package with a BERT; None: a small
  encoder is pretrained on the text first."""

  PREFIX: ClassVar[str] = 'bert_tickets'

  def __post_init__(self):
    super().__post_init__()
    checks.each_once(self, 'sparsities', 'kinds')
    checks.between_0_and_1(self, 'sparsities')
    if wrong := [x for x in self.sparsities if not _in_tenths(x)]:
      raise ValueError(
        f'sparsities had {wrong[0]}, but must be in tenths: each round removes'
        ' 10 % of all weights.'
      )

  @property
  def title(self) -> str:
    """What was trained, in words."""
    model = self.pretrained or 'a small encoder'
    return f'{Path(model).name}, {config.seeds(self)}'

  @property
  def rounds(self) -> int:
    return max(map(rounds, self.sparsities))


PRESETS = {
  'tiny': Config(),
  'claims': Config(seeds=10),
  'accelerator': Config(
    batch_size=32,
    vocabulary=16_000,
    time=128,
    width=512,
    layers=8,
    heads=8,
    mlp=2_048,
    pretrain_steps=30_000,
    pretrain_batch=64,
    pretrain_rate=1e-3,
    learning_rate=2e-4,
    steps=3_000,
    eval_every=500,
    test_rows=2_048,
  ),
}


class Cell(NamedTuple):
  """Pretraining, one round of pruning, or one ticket on one task."""

  task: str
  kind: KindName | Literal['pretrained', 'imp']
  level: int  # rounds of pruning behind it
  length: int

  @property
  def name(self) -> str:
    if self.kind == 'pretrained':
      return NETWORK
    return f'networks/{self.task}-{self.kind}-{self.level:02d}'

  @property
  def label(self) -> str:
    if self.kind == 'pretrained':
      return 'the encoder'
    return f'{self.task}  {self.kind}  {10 * self.level} %'

  @property
  def steps(self) -> int:
    return self.length


def names(config: Config) -> list[str]:
  """The tasks; masked words come first, because others take their ticket."""
  found = [WORDS, TAGS]
  if config.glue is not None:
    more = glue.names(Path(config.glue))
    if taken := sorted(set(found) & set(more)):
      raise ValueError(
        f'glue has a task called {taken[0]}, which is one of ours already.'
        ' Rename its folder.'
      )
    found += more
  return found


def cells(config: Config) -> list[Cell]:
  """All trainings: tickets of all tasks, then each of them on its targets."""
  steps = config.steps
  found = [Cell('', 'pretrained', 0, config.pretrain_steps)]
  all_tasks = names(config)
  for task in all_tasks:
    if task == WORDS or 'own' in config.kinds:
      found += [Cell(task, 'imp', i, steps) for i in range(config.rounds)]
    else:  # The whole network, to compare with.
      found.append(Cell(task, 'imp', 0, steps))
  for task in all_tasks:
    for sparsity in config.sparsities:
      found += [
        Cell(task, kind, rounds(sparsity), steps)
        for kind in config.kinds
        if (task, kind) != (WORDS, 'own')
      ]
  return found


class Loop(NamedTuple):
  """A task, its training, and masks that keep everything, of one seed."""

  task: Task
  trainer: lth.Trainer
  masks: Any


class Experiment(command.Experiment):
  """An encoder and its tasks."""

  def __init__(self, config: Config):
    """Reads texts, tasks and perhaps an encoder; raises on what is amiss."""
    self.config = config
    text = tasks.read_text(config.text)
    treebank = tasks.read_treebank(config.treebank, config.time)
    self.given = None
    if config.pretrained is not None:
      self.given = pretrained.load(config.pretrained, config.time)
      words = self.given.words
      self.net = network.of(self.given.config, config, words.marks)
    else:
      tagged = [w for s in treebank['train'] for w in tasks.lowered(s)]
      words = tasks.vocabulary([text['train'], tagged], config.vocabulary)
      sizes = Sizes.of('encoder', words.size, config)
      self.net = network.build(sizes, config)
    found = [
      tasks.text_task(WORDS, text, words, config.time),
      tasks.tagging_task(TAGS, treebank, words, config.time),
    ]
    if config.glue is not None:
      found += glue.read(Path(config.glue), words, config.time)
    self.tasks = {task.name: task for task in found}
    network.check_batches(config, *found)
    self.tx = network.optimizer(config.learning_rate, config.steps)
    self.keys, self.noise_keys, self.shuffle_keys = seeds.keys(config, 3)
    self.loop = functools.cache(self._loop)
    self.start = functools.cache(self._start)
    self.ticket = functools.cache(self._ticket)

  def _loop(self, name: str) -> Loop:
    task = self.tasks[name]
    shapes = jax.eval_shape(lambda key: self.net.init(task, key)[0], self.key)
    masks = lth.masks.full(shapes, where=network.KERNELS)
    return Loop(task, self.net.trainer(task, lth.static(self.tx, masks)), masks)

  @property
  def key(self) -> Any:
    return jax.random.key(0)

  def train(self, cell: Cell, store: grid.Store, evaluated: Any) -> Any:
    if cell.kind == 'pretrained':
      return self.pretrained(evaluated)
    loop = self.loop(cell.task)
    start = self.start(cell.task, store)
    if cell.kind == 'imp':
      ticket = self.round(cell, start, store, evaluated)
      state, masks = ticket.trained, ticket.masks
    else:
      masks = self.masks(cell, start, store)
      state = self.fit(cell.task, start, masks, evaluated)
    kept = {'params': state.params, 'masks': masks}
    found = self.net.test(state.params, loop.task)
    result = {f'test_{name}': x for name, x in found.items()}
    density = lth.masks.density(seeds.one(masks, 0))
    return {**self.named(cell), 'density': density, **result}, kept

  def named(self, cell: Cell) -> dict[str, Any]:
    return {'task': cell.task, 'kind': cell.kind, 'level': cell.level}

  def pretrained(self, evaluated: Any) -> Any:
    """The params that all start from: given, or trained on masked words."""
    task = self.tasks[WORDS]
    if self.given is not None:
      params = self.given.params
    else:
      params = self.net.pretrain(task, evaluated)
    many = seeds.repeat({'model': params, 'head': {}}, self.config.seeds)
    found = self.net.test(many, task)
    result = {f'test_{name}': x for name, x in found.items()}
    named = self.named(Cell(WORDS, 'pretrained', 0, 0))
    return {**named, 'density': 1.0, **result}, params

  def _start(self, name: str, store: grid.Store) -> TrainState:
    """Pretrained weights with a new head for each seed."""
    base = store.load(NETWORK, self.net.shapes)
    state: Any = self.loop(name).trainer.init(self.keys)
    model = seeds.repeat(base, self.config.seeds)
    return state._replace(params={**state.params, 'model': model})

  def full(self, name: str) -> Any:
    """Masks that keep everything, of all seeds."""
    return seeds.repeat(self.loop(name).masks, self.config.seeds)

  def fit(self, name: str, state: Any, masks: Any, report: Any) -> TrainState:
    loop = self.loop(name)
    return loop.trainer.fit(
      with_masks(state, masks),
      network.sets(loop.task),
      until=self.config.steps,
      report=report,
    )

  def round(
    self, cell: Cell, start: Any, store: grid.Store, report: Any
  ) -> Any:
    """Prunes what the round before has trained, and trains again."""
    last = None
    if cell.level:
      kept = self.load(cell.task, cell.level - 1, start, store)
      last = levels.ticket(cell.level - 1, start, kept)
    tickets = lth.tickets.imp(
      lambda state, masks: self.fit(cell.task, state, masks, report),
      start,
      self.full(cell.task),
      levels=cell.level + 1,
      prune=pruning(max(cell.level, 1)),
      rewind=with_trained_head,
      vmapped=True,
      resume=last,
    )
    return next(tickets)

  def load(self, name: str, level: int, start: Any, store: grid.Store) -> Any:
    """What a round has left behind."""
    like = {'params': start.params, 'masks': self.full(name)}
    cell = Cell(name, 'imp', level, 0)
    return store.load(cell.name, jax.eval_shape(lambda: like))

  # Masks.

  def masks(self, cell: Cell, start: Any, store: grid.Store) -> Any:
    """The masks of a ticket, or of a control of its size."""
    if cell.kind in ('random', 'magnitude'):
      score: Callable[..., Any] = lth.scores.magnitude
      if cell.kind == 'random':
        noise = jax.vmap(lth.scores.noise)
        score = functools.partial(noise, self.noise_keys)
      cut = jax.vmap(pruning(cell.level))
      return cut(score(start.params), self.full(cell.task))
    source = cell.task if cell.kind == 'own' else WORDS
    masks = self.ticket(source, cell.level, store)
    if cell.kind == 'shuffled':
      shuffle = functools.partial(lth.masks.shuffle, axes=self.pruned_axes)
      masks = jax.vmap(shuffle)(self.shuffle_keys, masks)
    return self.onto(cell.task, masks, start)

  def _ticket(self, source: str, level: int, store: grid.Store) -> Any:
    """Masks of the model after so many rounds on a task."""
    start = self.start(source, store)
    kept = self.load(source, level - 1, start, store)
    scores = lth.scores.magnitude(kept['params'])
    return jax.vmap(pruning(level))(scores, kept['masks'])['model']

  @property
  def pruned_axes(self) -> Any:
    masks = self.loop(WORDS).masks['model']
    return {name: self.net.axes[name] for name in trees.prunable(masks)}

  def onto(self, name: str, masks: Any, start: Any) -> Any:
    """A ticket of the model for a task with a head of its own."""
    ticket = lth.tickets.Ticket(0, 1.0, masks, None, None, None)
    _, found = lth.tickets.transfer(ticket, start.params['model'])
    return {**self.full(name), 'model': found}

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    if self.net.compilations > 1 + len(self.tasks):
      raise RuntimeError('Training steps were compiled more than once.')


def pruning(level: int) -> Callable[..., Any]:
  """Removes the smallest of all weights, up to 10 % of them for each round."""
  return functools.partial(lth.prune, sparsity=ROUND * level, scope='global')


def with_trained_head(start: Any, trained: Any) -> Any:
  """Pretrained weights and an empty optimizer; the head stays as trained."""
  head = trained.params['head']
  return start._replace(params={**start.params, 'head': head})


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
