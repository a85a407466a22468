"""Do linguistic masks of attention predict lottery tickets? With fair controls.

Trains small decoders with masks that open the edges between compatible tags
(ASA), measures how much attention lies on such edges, and finds tickets of
attention and feed-forward kernels. Every claim has its control: random edges
matched row by row, tags permuted within the sentence, a matrix that means
nothing on the same tags, and the tag as an input. Seeds are paired: those of
equal number share initial weights and the order of the data. A verdict needs
several trained models; one is not enough.

Source of the claims: a proposal, without a paper, of Aspectual-Syntactic
Attention masks as predictors of tickets (73.9 % overlap against 47 %, training
21 % faster). Tickets: Frankle & Carbin, arXiv:1803.03635; Frankle et al.,
arXiv:1912.05671.

  python experiments/linguistic_masks.py                    # UD English EWT
  python experiments/linguistic_masks.py --preset tagger
  python experiments/linguistic_masks.py --experiments 1 2 4

  ewt          2 layers of width 64 on UD English EWT, all eleven experiments, 5
               seeds. Half an hour on 2 CPU cores. Excess over row-matched edges
               0.00 ± 0.01; masks from gold tags end 0.02 nats lower, and a
               relabelled matrix on the same tags 0.03.
  tagger       The causal and the bidirectional tagger alone: 92 % and 94 % on
               EWT dev, a minute on 2 CPU cores.
  wikitext2    4 layers of width 128 on WikiText-2, tags from the causal tagger;
               tickets with 20 % fewer weights of attention per level, down to
               7 %. Not measured; perhaps an hour on 2 CPU cores for each of 73
               trainings and measurements, so choose some by --experiments.
  accelerator  12 layers of width 768 on WikiText-2, and the same levels. For
               an accelerator.
  toy          Sentences of a small grammar, to try things out.
"""

import common.stopping  # noqa: F401

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

from common import checks, command, config, grid
from linguistics import arms, texts
from linguistics.arms import Arm
from linguistics.measurements import Measurements
from reports import linguistic_masks as report

Source = Literal['gold', 'causal', 'type']


@dataclasses.dataclass(frozen=True)
class Config(config.BaseConfig):
  """Trains decoders with and without masks, and measures their attention."""

  seeds: int = 5
  """Runs side by side, with consecutive seeds; a verdict needs several."""
  batch_size: int = 24
  """Sentences per step, on average: several of them share a row."""
  learning_rate: float = 3e-3
  """Largest step size of AdamW, after a warm-up, before a cosine decay."""
  dataset: Literal['ewt', 'wikitext2', 'toy'] = 'ewt'
  """UD English EWT, WikiText-2, or sentences of a small grammar."""
  experiments: tuple[int, ...] = tuple(range(1, 12))
  """Which of the eleven experiments to run; 0 is the taggers alone."""
  sources: tuple[Source, ...] = ('gold', 'causal', 'type')
  """Where tags come from; the first is that of the measurements."""
  vocabulary: int = 3000
  """Number of words; others are unknown."""
  time: int = 40
  """Words per row, <bos> included; a multiple of 8."""
  width: int = 64
  layers: int = 2
  heads: int = 4
  steps: int = 400
  """Training steps."""
  eval_every: int = 40
  """Steps between evaluations on the validation set."""
  rewind_step: int = 80
  """Step of the dense training from which tickets start."""
  levels: int = 4
  """Tickets of the attention kernels, each of them pruned from the last."""
  fraction: float = 0.5
  """Share of the alive weights that each of these tickets removes."""
  kept: tuple[float, ...] = arms.FFN
  """Shares of the feed-forward kernels that tickets under masks keep."""
  luck: int = 30
  """Seeds of the experiment on linguistic luck."""
  short: float = 0.25
  """Length of the trainings for luck, groups of sentences and languages."""
  measured: int = 512
  """Validation sentences in which attention is measured."""
  draws: int = 999
  """Draws of each null."""
  tagger_epochs: float = 3.0
  """Passes over the training sentences of the taggers."""

  PREFIX: ClassVar[str] = 'linguistic_masks'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, seeds=2, steps=1, eval_every=1, layers=1, heads=1)
    checks.at_least(self, levels=1, luck=4, measured=2, draws=1, vocabulary=3)
    checks.each_once(self, 'experiments', 'sources')
    checks.each_once(self, 'kept', none=True)
    checks.between_0_and_1(self, 'kept', 'fraction')
    checks.above_zero(self, 'short', 'tagger_epochs')
    checks.rewindable(self, 'rewind_step')
    if wrong := [x for x in self.experiments if not 0 <= x <= 11]:
      raise ValueError(
        f'experiments had {wrong[0]}, but must be from 1 to 11, or 0 for the'
        ' taggers alone.'
      )
    if self.time % 8 or self.time < 8:
      raise ValueError(f'time was {self.time}, but must be a multiple of 8.')
    if self.width % self.heads or self.width // self.heads % 2:
      raise ValueError(
        f'width was {self.width}, but must be {self.heads} heads of an even'
        ' size.'
      )
    if self.dataset == 'wikitext2' and 'gold' in self.sources:
      raise ValueError(
        'sources had gold, but WikiText-2 has no gold tags: take causal and'
        ' type.'
      )

  @property
  def densities(self) -> tuple[float, ...]:
    """Shares of the attention kernels that tickets keep, level by level."""
    return arms.densities(self.levels, self.fraction)

  @property
  def title(self) -> str:
    """What was trained, in words."""
    names = {'ewt': 'UD English EWT', 'wikitext2': 'WikiText-2'}
    return f'{names.get(self.dataset, self.dataset)}, {config.seeds(self)}'


PRESETS = {
  'ewt': Config(),
  'tagger': Config(experiments=(0,)),
  'wikitext2': Config(
    dataset='wikitext2',
    sources=('causal', 'type'),
    experiments=(1, 2, 3, 4, 5, 6, 7, 11),
    vocabulary=8192,
    time=128,
    width=128,
    layers=4,
    steps=1500,
    batch_size=8,
    eval_every=100,
    rewind_step=200,
    levels=12,
    fraction=0.2,
    measured=128,
  ),
  'accelerator': Config(
    dataset='wikitext2',
    sources=('causal', 'type'),
    experiments=(1, 2, 3, 4, 5, 6, 11),
    vocabulary=32_000,
    time=256,
    width=768,
    layers=12,
    heads=12,
    steps=20_000,
    batch_size=32,
    learning_rate=6e-4,
    eval_every=500,
    rewind_step=1000,
    levels=12,
    fraction=0.2,
    measured=64,
  ),
  'toy': Config(
    dataset='toy',
    vocabulary=64,
    time=16,
    width=16,
    heads=2,
    steps=100,
    eval_every=20,
    rewind_step=20,
  ),
}


class Cell(NamedTuple):
  """One training of all seeds, or a measurement of what has been trained."""

  kind: str
  arm: Arm
  length: int

  @property
  def name(self) -> str:
    """Where it is kept, below the folder of the run."""
    folder = 'networks' if self.kind == 'train' else 'measures'
    return f'{folder}/{self.arm.name}'

  @property
  def label(self) -> str:
    """What people call it."""
    return f'{self.kind}: {self.arm.name.replace("_", " ")}'

  @property
  def steps(self) -> int:
    """How long it trains."""
    return self.length


# What is measured, and the experiments that need it.
MEASURES = {
  'untrained': (1, 2, 7),
  'nulls': (1, 2, 10),
  'overlaps': (1,),
  'movement': (6,),
  'axes': (8,),
  'circuits': (9,),
  'axis_tickets': (8,),
  'treebanks': (10,),
  'languages': (10,),
  'blocks': (11,),
}


def cells(config: Config) -> list[Cell]:
  """All trainings and measurements, in an order in which they can be done."""
  wanted = set(config.experiments)

  def train(given):
    return [Cell('train', x, round(config.steps * x.steps)) for x in given]

  def measure(*names):
    return [
      Cell('measure', Arm(name), 1)
      for name in names
      if wanted & set(MEASURES[name])
    ]

  source = config.sources[0]
  gold = source == 'gold'
  found = []
  if 'causal' in config.sources or 0 in wanted:
    found.append(Cell('taggers', Arm('taggers'), 1))
  if wanted <= {0}:
    return found
  masked = arms.masked(config.sources)
  needed = {'none', *(arms.MASKS if wanted & {3, 11} else ())}
  found += train(masked[:1]) + measure('untrained', 'nulls')
  found += measure('treebanks', 'blocks')
  masked = [x for x in masked[1:] if 4 in wanted or x.name in needed]
  found += train(masked[:4])
  if wanted & {1, 9}:
    found += train(arms.tickets(config.densities))
  found += train(masked[4:])
  found += measure('overlaps', 'movement')
  if gold and wanted & {8, 9}:
    found += measure('axes', 'circuits')
  if 5 in wanted:
    found += train(arms.guided(config.densities, source))
  if 11 in wanted:
    found += train(arms.patterned(source))
  if 3 in wanted:
    found += train(arms.hybrid(config.kept, source))
  if 7 in wanted:
    found += train([Arm('luck', steps=config.short)])
  if gold and 8 in wanted:
    found += train(arms.by_axis()) + train(arms.groups(config.short))
    found += measure('axis_tickets')
  if gold and 10 in wanted and config.dataset == 'ewt':
    names = texts.languages()
    found += train(arms.languages(names, config.short)) + measure('languages')
  return found


class Experiment(command.Experiment):
  """The text, the network, and what is measured of it."""

  def __init__(self, config: Config):
    """Reads the text; raises now where it is not."""
    self.laboratory = Measurements(config)

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    if cell.kind == 'train':
      return self.laboratory.train(cell.arm, store, evaluated)
    measure = getattr(self.laboratory, cell.arm.name)
    found, kept = measure(store)
    return {'measure': cell.arm.name, 'found': found}, kept

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    self.laboratory.check_compiled()


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
