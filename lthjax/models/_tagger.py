"""A tagger of words: embeddings of words and their ends, and a GRU."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lthjax import _checks
from lthjax.models import _tokens
from lthjax.models._functional import functional

# Hashed: the word, its last four to one letters, its first two, its shape.
BUCKETS = (1 << 15, 1 << 13, 1 << 12, 1 << 10, 1 << 8, 1 << 10, 1 << 8)


class Tagger(NamedTuple):
  """A tagger as pure functions over a plain nested dict of params.

  Attributes:
    init: ``init(key)`` draws params.
    apply: ``apply(params, features, token_mask=None)`` returns logits
      ``[batch, time, tags]``. ``features`` are integers ``[batch, time, 7]``,
      as `word_features` returns them; where ``token_mask``, bool ``[batch,
      time]``, is false is a pad.
  """

  init: Any
  apply: Any


def word_features(forms: Sequence[str]) -> np.ndarray:
  """Hashes what a tagger sees of words.

  The word in small letters, its last four, three, two letters and its last one,
  its first two letters, and its shape: capitals, digits and other signs, each
  run of a kind written once, and whether the word is the first.

  Args:
    forms: words of a sentence.

  Returns:
    ``int32[words, 7]``.

  Example:
    >>> from lthjax import models
    >>> walked, talked, ran = models.word_features(['walked', 'talked', 'ran'])
    >>> (walked == talked).tolist()
    [False, True, True, True, True, False, False]
  """
  if isinstance(forms, str) or not all(isinstance(x, str) for x in forms):
    wanted = 'be the words of a sentence, each a string'
    raise _checks.wrong_type('forms', forms, wanted)
  return np.array(
    [_hashed(form, i) for i, form in enumerate(forms)], np.int32
  ).reshape(-1, len(BUCKETS))


def _hashed(form: str, place: int) -> list[int]:
  small = form.lower()
  shape = ''
  for letter in form:
    kind = 'd' if letter.isdigit() else '-'
    if letter.isalpha():
      kind = 'x' if letter == letter.lower() else 'X'
    shape += kind * (shape[-1:] != kind)
  first = 'first' if place == 0 else 'later'
  parts = [small, *(small[-n:] for n in (4, 3, 2, 1)), small[:2], shape + first]
  return [
    zlib.crc32(part.encode()) % size
    for part, size in zip(parts, BUCKETS, strict=True)
  ]


class _Inputs(NamedTuple):
  """What a tagger reads."""

  features: jax.Array
  token_mask: jax.Array


class _Tables(nnx.Module):
  """The sum of one vector per feature."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    # Words that training never shows have to add nothing: they start at zero.
    self.word = nnx.Param(jnp.zeros((BUCKETS[0], width)))
    scale = len(BUCKETS[1:]) ** -0.5
    self.parts = nnx.List(
      [
        nnx.Param(scale * jax.random.normal(rngs.params(), (size, width)))
        for size in BUCKETS[1:]
      ]
    )

  def __call__(self, features: jax.Array) -> jax.Array:
    x = self.word[...][features[..., 0]]
    for i, table in enumerate(self.parts):
      x = x + table[...][features[..., i + 1]]
    return x


class _GRU(nnx.Module):
  """A gated recurrent unit over time; pads leave its state as it is."""

  def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
    normal = jax.random.normal
    self.input = nnx.Param(
      width**-0.5 * normal(rngs.params(), (width, 3 * hidden))
    )
    self.state = nnx.Param(
      hidden**-0.5 * normal(rngs.params(), (hidden, 3 * hidden))
    )
    self.bias = nnx.Param(jnp.zeros(3 * hidden))

  def __call__(self, x: jax.Array, mask: jax.Array, reverse: bool) -> jax.Array:
    kernel = self.state[...]
    hidden = kernel.shape[0]
    inputs = x @ self.input[...] + self.bias[...]

    def step(state, now):
      given, valid = now
      r, z, n = jnp.split(given, 3, -1)
      from_r, from_z, from_n = jnp.split(state @ kernel, 3, -1)
      update = jax.nn.sigmoid(z + from_z)
      new = jnp.tanh(n + jax.nn.sigmoid(r + from_r) * from_n)
      new = update * state + (1 - update) * new
      state = jnp.where(valid[:, None], new, state)
      return state, state

    start = jnp.zeros((len(x), hidden), x.dtype)
    over_time = jnp.moveaxis(inputs, 1, 0), mask.T
    _, states = jax.lax.scan(step, start, over_time, reverse=reverse)
    return jnp.moveaxis(states, 0, 1)


class _Net(nnx.Module):
  """Tables, one or two GRUs, and logits."""

  def __init__(self, tags, width, hidden, bidirectional, *, rngs: nnx.Rngs):
    self.embed = _Tables(width, rngs=rngs)
    self.forward = _GRU(width, hidden, rngs=rngs)
    self.backward = _GRU(width, hidden, rngs=rngs) if bidirectional else None
    total = width + hidden * (1 + bidirectional)
    kernel = total**-0.5 * jax.random.normal(rngs.params(), (total, tags))
    self.output = nnx.Param(kernel)
    self.bias = nnx.Param(jnp.zeros(tags))

  def __call__(self, inputs: _Inputs, *, train: bool = False) -> jax.Array:
    del train
    features, mask = inputs
    x = self.embed(features)
    parts = [x, self.forward(x, mask, False)]
    if self.backward is not None:
      parts.append(self.backward(x, mask, True))
    return jnp.concatenate(parts, -1) @ self.output[...] + self.bias[...]


def tagger(
  *,
  tags: int = 17,
  width: int = 64,
  hidden: int = 64,
  bidirectional: bool = False,
) -> Tagger:
  """Builds a tagger: embeddings of words and their ends, a GRU, logits.

  A causal tagger sees a word and those before it, so that its tags say nothing
  about what follows; a bidirectional one reads the whole sentence.

  Args:
    tags: number of classes.
    width: size of the embeddings.
    hidden: units of each GRU.
    bidirectional: whether a second GRU reads from the end.

  Returns:
    The network as a `Tagger`.

  Example:
    >>> import jax
    >>> from lthjax import models
    >>> model = models.tagger(width=8, hidden=8)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> features = models.word_features(['She', 'walked', 'home'])[None]
    >>> jax.eval_shape(model.apply, params, features).shape
    (1, 3, 17)

  References:
    Cho et al., Learning Phrase Representations using RNN Encoder-Decoder,
    arXiv:1406.1078, equations 5 to 8, with the reset gate behind the matmul.
    Plank et al., Multilingual Part-of-Speech Tagging with Bidirectional Long
    Short-Term Memory Models and Auxiliary Loss, arXiv:1604.05529.
  """
  sizes = {'tags': tags, 'width': width, 'hidden': hidden}
  for name, x in sizes.items():
    _checks.at_least(name, x, 2 if name == 'tags' else 1)
  _checks.flag('bidirectional', bidirectional)
  net = functional(
    lambda rngs: _Net(tags, width, hidden, bidirectional, rngs=rngs)
  )

  def init(key: chex.PRNGKey) -> chex.ArrayTree:
    return net.init(key)[0]

  def apply(params, features, token_mask=None):
    features = jnp.asarray(features)
    shape = features.shape
    if (
      len(shape) != 3
      or shape[-1] != len(BUCKETS)
      or not jnp.issubdtype(features.dtype, jnp.integer)
    ):
      raise ValueError(
        f'`tagger` was given features of shape {shape} and type'
        f' {features.dtype}, but needs integers of shape (batch, time,'
        f' {len(BUCKETS)}). Take them from `lthjax.models.word_features`.'
      )
    mask = _tokens.check_mask(features[..., 0], token_mask)
    mask = jnp.ones(shape[:2], bool) if mask is None else mask
    return net.apply(params, {}, _Inputs(features, mask))[0]

  return Tagger(init, apply)
