"""A small decoder or encoder, its training and its tests."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from adaptation.options import Options
from adaptation.tasks import NOTHING, SPECIAL, Marks, Part, Task
from common import interruption
from lthjax import data, models

Kind = Literal['decoder', 'encoder']
KERNELS = 'model/blocks/*kernel'
MASKED = 0.3  # share of words to predict; Wettig et al., arXiv:2202.08005
ROWS = 64  # sequences that are tested at a time


class Sizes(NamedTuple):
  """What decides about the shapes of a network."""

  kind: Kind
  vocabulary: int
  width: int
  layers: int
  heads: int
  mlp: int
  time: int

  @classmethod
  def of(cls, kind: Kind, vocabulary: int, options: Options) -> 'Sizes':
    """What the options say."""
    return cls(
      kind,
      vocabulary,
      options.width,
      options.layers,
      options.heads,
      options.mlp,
      options.time,
    )


# From what trains and what the model carries beside it: params of the network.
Read = Callable[[Any, Any], Any]


def plain(params: Any, model_state: Any) -> Any:
  """All params train."""
  del model_state
  return params


class Network:
  """A language model with a head for each task that has classes.

  Params are ``{'model': ..., 'head': ...}``; a task of words needs no head.

  Attributes:
    kind: what it is.
    model: its functions.
    shapes: of the params of the model.
  """

  def __init__(
    self,
    kind: Kind,
    model: Any,
    options: Options,
    marks: Marks = Marks(),  # noqa: B008
  ):
    """Builds nothing yet but shapes."""
    self.kind: Kind = kind
    self.model, self.options, self.marks = model, options, marks
    self.shapes = jax.eval_shape(model.init, jax.random.key(0))
    self.compilations = 0  # of training steps
    self._test = {
      words: jax.jit(
        jax.vmap(
          functools.partial(self._measure, words=words), in_axes=(0, None)
        )
      )
      for words in (True, False)
    }
    example = jax.ShapeDtypeStruct((1, options.time), jnp.int32)
    hidden = jax.eval_shape(model.hidden, self.shapes, example)
    self.width = hidden.shape[-1]
    # Which axes of its kernels are inputs: shapes alone do not always tell.
    self.axes = lth.axes.from_program(model.hidden, self.shapes, example)

  def init(self, task: Task, key: chex.PRNGKey) -> tuple[Any, Any]:
    """Draws params."""
    own, other = jax.random.split(key)
    return {'model': self.model.init(own), 'head': self.head(task, other)}, {}

  def head(self, task: Task, key: chex.PRNGKey) -> Any:
    """Draws the head for a task; that of words is none."""
    if not task.classes:
      return {}
    kernel = jax.random.normal(key, (self.width, task.classes))
    return {
      'kernel': self.width**-0.5 * kernel,
      'bias': jnp.zeros(task.classes),
    }

  def pretrain(self, task: Task, evaluated: Any) -> Any:
    """Trains a model on words; returns its params."""
    options = self.options
    trainer = interruption.trainer(
      functools.partial(self.init, task),
      self._loss(plain),
      optimizer(options.pretrain_rate, options.pretrain_steps),
      self._batch(options.pretrain_batch),
      evaluate=self._validate(plain),
      every=min(options.eval_every * 2, options.pretrain_steps),
    )

    def report(step, metrics):
      count = options.seeds  # All of them start from it.
      evaluated(step, {n: jnp.repeat(x, count) for n, x in metrics.items()})

    state = trainer.init(jax.random.key(0))
    until = options.pretrain_steps
    found: Any = trainer.fit(state, sets(task), until=until, report=report)
    return found.params['model']

  def trainer(
    self,
    task: Task,
    tx: optax.GradientTransformation,
    init: Any = None,
    read: Read = plain,
  ) -> lth.Trainer:
    """A training loop for several seeds on one task."""
    return interruption.trainer(
      init or functools.partial(self.init, task),
      self._loss(read),
      tx,
      self._batch(self.options.batch_size),
      evaluate=self._validate(read),
      every=self.options.eval_every,
      vmapped=True,
    )

  def test(self, params: Any, task: Task) -> dict[str, list[float]]:
    """Loss and accuracy of each seed on the test part."""
    part = some(task.test, self.options.test_rows)
    loss, accuracy = self._test[not task.classes](params, part)
    return {'loss': loss.tolist(), 'accuracy': accuracy.tolist()}

  def loss(self, params: Any, batch: Part, key: chex.PRNGKey) -> jax.Array:
    """Mean cross-entropy of what is predicted in a batch."""
    losses, _, count = self._losses(params, batch, key)
    return losses / jnp.maximum(count, 1)

  def _losses(self, params: Any, batch: Part, key: chex.PRNGKey) -> Any:
    """Sums of losses and of hits, and the number of predictions."""
    model, head = params['model'], params['head']
    tokens, labels = batch
    if not head and self.kind == 'encoder':
      tokens, labels = hide(key, tokens, self.vocabulary, self.marks)
    if head:
      x = self.model.hidden(model, tokens, tokens != self.marks.pad)
      logits = x @ head['kernel'] + head['bias']
    else:
      logits = self.model.apply(model, tokens)
      if self.kind == 'decoder':
        logits, labels = logits[:, :-1], labels[:, 1:]
    known = labels != NOTHING
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.maximum(labels, 0)
    )
    hits = known & (jnp.argmax(logits, -1) == labels)
    return jnp.sum(losses, where=known), jnp.sum(hits), jnp.sum(known)

  @property
  def vocabulary(self) -> int:
    """Number of tokens."""
    embed = self.shapes['embed']
    return embed.get('token', embed)['embedding'].shape[0]

  def _loss(self, read: Read) -> Any:

    def loss(params, model_state, batch, key):
      self.compilations += 1  # Python runs only when JAX traces.
      return self.loss(read(params, model_state), batch, key), model_state

    return loss

  def _batch(self, size: int) -> Any:

    def batch(sets, key, step):
      count = len(sets['train'].tokens)
      rows = data.epoch_indices(key, step, batch_size=size, size=count)
      return jax.tree.map(lambda x: x[rows], sets['train'])

    return batch

  def _validate(self, read: Read) -> Any:

    def evaluate(params, model_state, sets):
      part = some(sets['validation'], self.options.validation or ROWS)
      whole = read(params, model_state)
      loss, accuracy = self._measure(whole, part, not whole['head'])
      return {'loss': loss, 'accuracy': accuracy}

    return evaluate

  def _measure(self, params: Any, part: Part, words: bool) -> Any:
    """Mean loss and accuracy over a part; always with the same hidden words."""
    params = {**params, 'head': {} if words else params['head']}

    def one(sequence):
      row, number = sequence
      batch = jax.tree.map(lambda x: x[None], row)
      key = jax.random.fold_in(jax.random.key(0), number)
      return self._losses(params, batch, key)

    numbers = jnp.arange(len(part.tokens))
    found = jax.lax.map(one, (part, numbers), batch_size=ROWS)
    loss, hits, count = (x.sum() for x in found)
    return loss / count, hits / count


def build(sizes: Sizes, options: Options) -> Network:
  """A network of these sizes, not yet trained."""
  given = sizes._asdict()
  kind, time = given.pop('kind'), given.pop('time')
  shared = {**given, 'head_dim': sizes.width // sizes.heads, 'context': time}
  if kind == 'encoder':
    return of(models.BertConfig(**shared), options)
  config = models.LlamaConfig(**shared, key_value_heads=sizes.heads, tied=True)
  return Network(kind, models.llama(config), options)


def of(
  config: models.BertConfig,
  options: Options,
  marks: Marks = Marks(),  # noqa: B008
) -> Network:
  """An encoder of these sizes."""
  return Network('encoder', models.bert(config), options, marks)


def hide(
  key: chex.PRNGKey,
  tokens: jax.Array,
  vocabulary: int,
  marks: Marks = Marks(),  # noqa: B008
) -> tuple[jax.Array, jax.Array]:
  """Hides words as BERT does: 80 % masks, 10 % other words, 10 % as they are.

  More of them, so that little text teaches more, and only those it knows.

  Returns:
    What the encoder reads, and what it predicts: the words that were chosen.
  """
  choice, how, other = jax.random.split(key, 3)
  chosen = jax.random.bernoulli(choice, MASKED, tokens.shape)
  chosen &= (tokens != marks.pad) & (tokens != marks.unknown)
  chance = jax.random.uniform(how, tokens.shape)
  words = jax.random.randint(other, tokens.shape, len(SPECIAL), vocabulary)
  shown = jnp.where(
    chance < 0.8, marks.mask, jnp.where(chance < 0.9, words, tokens)
  )
  return jnp.where(chosen, shown, tokens), jnp.where(chosen, tokens, NOTHING)


def optimizer(rate: float, steps: int) -> optax.GradientTransformation:
  """Adam with clipped gradients, a warm-up and a cosine to zero."""
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, rate, max(steps // 10, 1), max(steps, 2)
  )
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def sets(task: Task) -> dict[str, Part]:
  """What a training sees of a task."""
  return {
    name: jax.tree.map(jnp.asarray, getattr(task, name))
    for name in ('train', 'validation')
  }


def some(part: Part, rows: int) -> Part:
  return jax.tree.map(lambda x: jnp.asarray(x[:rows]), part)


def draw(task: Task, key: chex.PRNGKey, size: int) -> Part:
  """One batch of a task."""
  rows = jax.random.choice(key, len(task.train.tokens), (size,), replace=False)
  return jax.tree.map(lambda x: jnp.asarray(x)[rows], task.train)


def check_batches(options: Options, text: Task, *tasks: Task) -> None:
  """Raises if a batch has more sequences than there are."""
  for name, size, task in (
    ('pretrain_batch', options.pretrain_batch, text),
    *(('batch_size', options.batch_size, task) for task in tasks),
  ):
    if size > (count := len(task.train.tokens)):
      raise ValueError(
        f'{name} was {size}, but there are {count} sequences of {task.name} to'
        ' train on. Take smaller batches.'
      )
