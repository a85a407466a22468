"""Options of experiments with pretrained models and tasks for them."""

import dataclasses

from adaptation.tasks import TreebankName
from common import checks, config, texts


@dataclasses.dataclass(frozen=True)
class Options(config.BaseConfig):
  """Options that these experiments share."""

  seeds: int = 5
  """Runs side by side from the same pretrained weights, with consecutive seeds
  of heads, masks and the order of the data."""
  batch_size: int = 8
  """Sequences per step of the tasks."""
  learning_rate: float = 2e-3
  """Largest step size of Adam in the tasks, after a warm-up, before a cosine
  decay."""
  text: texts.TextName = 'wikitext2'
  """Text that models are pretrained on."""
  treebank: TreebankName = 'ewt'
  """Tagged sentences: UD English EWT, or those of a small grammar."""
  vocabulary: int = 1_000
  """Number of words; all others are unknown."""
  time: int = 32
  """Words of a sequence."""
  width: int = 48
  """Width of the residual stream."""
  layers: int = 2
  """Blocks."""
  heads: int = 4
  """Heads, each of the size width / heads."""
  mlp: int = 128
  """Hidden neurons of a block."""
  pretrain_steps: int = 3_000
  """Steps on the text."""
  pretrain_batch: int = 64
  """Sequences per step on the text."""
  pretrain_rate: float = 2e-3
  """Largest step size of Adam on the text."""
  steps: int = 100
  """Steps of each training on a task."""
  eval_every: int = 50
  """Steps between evaluations on the validation part."""
  test_rows: int = 256
  """The most sequences to test on."""

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, width=8, layers=1, heads=1, mlp=1, time=8)
    checks.at_least(self, vocabulary=8, steps=1, eval_every=1, test_rows=1)
    checks.at_least(self, pretrain_steps=1, pretrain_batch=1)
    checks.above_zero(self, 'pretrain_rate')
    if self.width % self.heads or self.width // self.heads % 2:
      raise ValueError(
        f'width was {self.width}, but must be {self.heads} heads of an even'
        ' size.'
      )

  @property
  def text_name(self) -> str:
    names = {'wikitext2': 'WikiText-2', 'tinyshakespeare': 'tinyshakespeare'}
    return names.get(self.text, self.text)

  @property
  def treebank_name(self) -> str:
    return 'UD English EWT' if self.treebank == 'ewt' else 'a small grammar'
