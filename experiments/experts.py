"""Fewer experts, and sparse ones, in a mixture without training it again.

Trains decoders in which each token is sent to a few experts of each layer, one
decoder for each seed. Then removes shares of the experts for real, with their
columns of the router: those that matter least by the gate times the norm of
what they add (REAP), by how many tokens they get (frequency), by the norm of
their weights, or by chance. And prunes the kernels of all experts instead, each
by the tokens that it sees: by magnitude, by Wanda, by SparseGPT, and by Wanda
with a refit. An expert that no token reaches is pruned by magnitude. A penalty
on uneven gates keeps some balance in training; the page says how evenly experts
are used.

Paper: Lasby et al., REAP the Experts: Why Pruning Prevails for One-Shot MoE
Compression, arXiv:2510.13999. There, REAP is ahead of frequency, in large
models and at 25 and 50 %. Wanda: Sun et al., arXiv:2306.11695. SparseGPT:
Frantar & Alistarh, arXiv:2301.00774.

  python experiments/experts.py                  # tiny
  python experiments/experts.py --preset claims

  tiny         2 layers of width 48 with 16 experts of 24 neurons, 2 for each
               token, on the characters of tinyshakespeare; 5 seeds. Five
               minutes on 2 CPU cores. Perplexity: by chance above by frequency,
               and REAP not ahead of frequency.
  claims       The same with 10 seeds, which verdicts are made of.
  accelerator  8 layers of width 512 with 32 experts, on the words of
               WikiText-2. For an accelerator.
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import numpy as np

from common import checks, command, config, grid
from common.language import LanguageConfig
from methods import mixture
from methods.mixture import Mixture, RuleName, ScoreName
from reports import experts as report

DECODERS = 'networks/decoders'


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
  """Removes experts of trained mixtures, or weights of their experts."""

  seeds: int = 5
  """Decoders, each with a draw of calibration data of its own."""
  width: int = 48
  """Width of the residual stream."""
  layers: int = 2
  """Blocks."""
  mlp: int = 24
  """Hidden neurons of an expert."""
  experts: int = 16
  """Experts of a block."""
  experts_per_token: int = 2
  """Experts that a token is sent to."""
  balance: float = 0.01
  """Weight of the sum of squared mean gates in the loss of training."""
  time: int = 64
  """Tokens of a sequence."""
  steps: int = 800
  """Training steps of the decoders."""
  eval_every: int = 200
  """Steps between evaluations on the validation part."""
  eval_tokens: int = 16_384
  """The most tokens of a part of the text to test on."""
  scores: tuple[ScoreName, ...] = ('random', 'norm', 'frequency', 'reap')
  """How to choose the experts that go."""
  shares: tuple[float, ...] = (0.25, 0.5, 0.75)
  """Shares of the experts that go."""
  rules: Annotated[tuple[RuleName, ...], config.NONE] = tuple(mixture.RULES)
  """How to prune the kernels of all experts instead."""
  sparsities: tuple[float, ...] = (0.5, 0.75)
  """Shares of the weights of each expert that go."""

  PREFIX: ClassVar[str] = 'experts'

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, experts=2, experts_per_token=1)
    checks.between_0_and_1(self, 'shares', 'sparsities')
    checks.each_once(self, 'scores', 'shares', 'sparsities')
    checks.each_once(self, 'rules', none=True)
    if self.balance < 0:
      raise ValueError(f'balance was {self.balance}, but must be at least 0.')
    if self.pretrained:
      raise ValueError('pretrained was True, but SmolLM2 has no experts.')
    for share in self.shares:
      if not self.experts_per_token <= kept(self, share) < self.experts:
        raise ValueError(
          f'shares had {share}, which leaves {kept(self, share)} of'
          f' {self.experts} experts, but must leave at least the'
          f' {self.experts_per_token} that a token is sent to, and not all.'
        )

  @property
  def title(self) -> str:
    text = super().title.removeprefix('a small decoder on ').partition(',')[0]
    return (
      f'{self.experts} experts, {self.experts_per_token} for each token, on'
      f' {text}, {config.seeds(self)}'
    )


def kept(options: Config, share: float) -> int:
  """How many experts a layer keeps."""
  return options.experts - round(share * options.experts)


PRESETS = {
  'tiny': Config(),
  'claims': Config(seeds=10),
  'accelerator': Config(
    text='wikitext2',
    tokens='words',
    seeds=3,
    width=512,
    layers=8,
    heads=8,
    key_value_heads=4,
    mlp=192,
    experts=32,
    experts_per_token=4,
    time=256,
    steps=8_000,
    eval_every=500,
    batch_size=32,
    learning_rate=1e-3,
    eval_tokens=245_569,
    calibration_tokens=32_768,
  ),
}


class Cell(NamedTuple):
  """The decoders, one way to remove experts, or one to prune their kernels."""

  kind: str
  method: ScoreName | RuleName | None
  share: float
  steps: int

  @property
  def name(self) -> str:
    if self.method is None:
      return DECODERS
    return f'{self.kind}/{self.method}-{self.share:g}'

  @property
  def label(self) -> str:
    if self.method is None:
      return 'whole'
    what = 'experts' if self.kind == 'cut' else 'weights of experts'
    name = mixture.LABELS[self.method]
    return f'{100 * self.share:g} % of the {what}  {name}'


def cells(config: Config) -> list[Cell]:
  """The decoders, and all that is made of them."""
  few = config.steps // 100 + 1
  return [
    Cell('whole', None, 0.0, config.steps),
    *(Cell('cut', x, s, few) for x in config.scores for s in config.shares),
    *(
      Cell('pruned', x, s, few) for x in config.rules for s in config.sparsities
    ),
  ]


class Experiment(command.Experiment):
  """Decoders with experts."""

  def __init__(self, config: Config):
    """Reads the text; raises now on sizes that do not fit."""
    self.config = config
    self.task = Mixture(config)
    self._experts: list[mixture.Experts] = []

  def experts(self, params: Any) -> list[mixture.Experts]:
    """The decoders of all seeds, with what their routers do."""
    if not self._experts:
      seeds = range(self.config.seeds)
      self._experts = [self.task.experts(params, i) for i in seeds]
    return self._experts

  def train(self, cell: Cell, store: grid.Store, evaluated: Any) -> Any:
    if cell.method is None:
      params = kept = self.task.fit_all(evaluated)
      small = [one.params for one in self.experts(params)]
    else:
      params = store.load(DECODERS, self.task.stacked)
      small = self.smaller(cell, self.experts(params))
      kept = np.float32(0)
    result = {
      'kind': cell.kind,
      'method': cell.method or '',
      'share': cell.share,
      **self.tested(small),
    }
    if cell.method is None:
      result['busiest'] = [x.busiest for x in self.experts(params)]
      result['unused'] = [x.unused for x in self.experts(params)]
    return result, kept

  def smaller(self, cell: Cell, experts: list[mixture.Experts]) -> list[Any]:
    """Decoders without some experts or weights, of all seeds."""
    how: Any = cell.method
    if cell.kind == 'cut':
      count = kept(self.config, cell.share)
      make = functools.partial(mixture.cut, self.task, how=how, kept=count)
      return [make(one, seed=i) for i, one in enumerate(experts)]
    prune = functools.partial(mixture.prune, self.task, how=how)
    return [prune(one, sparsity=cell.share) for one in experts]

  def tested(self, params: list[Any]) -> grid.Result:
    """Perplexity and accuracy on the test part, and numbers of weights."""
    found: dict[str, list[Any]] = {
      'weights': [sum(x.size for x in jax.tree.leaves(x)) for x in params]
    }
    for one in params:
      for name, value in self.task.test(one).items():
        found.setdefault(name, []).append(value)
    return found

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    if self.task.compilations > 1:
      raise RuntimeError('Training steps were compiled more than once.')


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
