"""Language models as the harnesses for benchmarks call them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks

_SHORTEST = 16  # Lengths are padded to powers of two, to compile few programs.


class Harness:
  """A decoder with the methods that lm-eval asks a model for.

  Nothing is imported: a class that inherits from this one first and then from
  ``lm_eval.api.model.LM`` is a model for ``lm_eval.simple_evaluate``. A request
  has texts in its attribute ``args``, or is a tuple of them. Compare a pruned
  model with its dense parent on the same tasks; no score is one of safety.

  Args:
    apply: ``apply(params, tokens, token_mask)`` returns logits ``[batch, time,
      vocabulary]``.
    params: of the decoder.
    tokenizer: has ``encode(text).ids`` and ``decode(ids)``.
    generate: ``generate(params, tokens, new_tokens, token_mask=…, stop=…)``
      returns new tokens ``[batch, new_tokens]``, as `lthjax.models.generate`
      with its model filled in does; needed by `generate_until` only.
    start: token in front of a text without context.
    stop: token that ends a text.
    max_length: most tokens that a prediction looks back at, and that a context
      has with what is written after it.
    new_tokens: most tokens to write, where a request does not say.

  Example:
    >>> import types
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> class Letters:
    ...   def encode(self, text):
    ...     return types.SimpleNamespace(ids=[*map(ord, text)])
    ...
    ...   def decode(self, ids):
    ...     return ''.join(map(chr, ids))
    >>> uniform = lambda params, tokens, mask: jnp.zeros((*tokens.shape, 128))
    >>> model = lth.evaluation.Harness(uniform, {}, Letters(), start=0)
    >>> [(score, greedy)] = model.loglikelihood([('a', 'bc')])
    >>> round(score / float(jnp.log(128)), 3), greedy
    (-2.0, False)
  """

  def __init__(
    self,
    apply: Callable[..., jax.Array],
    params: chex.ArrayTree,
    tokenizer: Any,
    *,
    generate: Callable[..., Any] | None = None,
    start: int | None = None,
    stop: int | None = None,
    max_length: int = 1024,
    new_tokens: int = 256,
  ):
    super().__init__()
    _checks.function('apply', apply, '(params, tokens, token_mask)')
    what = 'a tokenizer with `encode(text).ids` and `decode(ids)`'
    _checks.having('tokenizer', tokenizer, 'encode decode', what)
    if generate is not None:
      _checks.function('generate', generate, '(params, tokens, new_tokens)')
    for name, token in (('start', start), ('stop', stop)):
      if token is not None:
        _checks.at_least(name, token, 0)
    self._params, self._generate = params, generate
    self._tokenizer, self._start, self._stop = tokenizer, start, stop
    self._max_length = _checks.at_least('max_length', max_length, 1)
    self._new_tokens = _checks.at_least('new_tokens', new_tokens, 1)
    self._score = jax.jit(functools.partial(_score, apply))

  def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
    """Scores continuations of contexts.

    Args:
      requests: with ``(context, continuation)``.

    Returns:
      For each, the log-likelihood of the continuation, and whether it is the
      most likely one.
    """
    found = []
    for context, continuation in _arguments('requests', requests, 2):
      spaces = len(context) - len(context.rstrip())
      if spaces:  # A space belongs to the word behind it.
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
      before = self._encode(context)
      whole = self._encode(context + continuation)
      number = len(whole) - len(before)
      if number < 1:
        raise ValueError(
          f'The continuation {continuation!r} adds no token to its context.'
        )
      if number > self._max_length:
        raise ValueError(
          f'The continuation {continuation[:40]!r} has {number} tokens, but at'
          f' most {self._max_length} fit: `max_length`.'
        )
      found.append(self._sum(whole if before else self._begun(whole), number))
    return found

  def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
    """Scores whole texts; each token is predicted once.

    Args:
      requests: with ``(text,)``.

    Returns:
      The log-likelihood of each. Longer texts are read in windows.
    """
    found = []
    for (text,) in _arguments('requests', requests, 1):
      tokens = self._encode(text)
      ids, total = self._begun(tokens), 0.0
      for first in range(0, len(tokens), self._max_length):
        last = min(first + self._max_length, len(tokens))
        total += self._sum(ids[: last + 1], last - first)[0]
      found.append(total)
    return found

  def generate_until(self, requests: Sequence[Any]) -> list[str]:
    """Writes the most likely continuations.

    Args:
      requests: with ``(context, options)``: ``until``, texts that end it, and
        ``max_gen_toks``.

    Returns:
      What is written after each context, up to where it ends.
    """
    if self._generate is None:
      raise ValueError('The model was made without `generate`. Pass it.')
    return [
      self._continued(context, options)
      for context, options in _arguments('requests', requests, 2)
    ]

  def _continued(self, context: str, options: Any) -> str:
    _checks.mapping('options', options, 'names to values, such as "until"')
    if options.get('do_sample') and options.get('temperature', 1.0):
      raise ValueError(
        'A request has do_sample=True, but only the most likely text is'
        ' written. Choose a task without sampling.'
      )
    until = options.get('until') or []
    until = [until] if isinstance(until, str) else [*until]
    number = options.get('max_gen_toks', self._new_tokens)
    number = _checks.at_least('max_gen_toks', number, 1)
    ids = self._encode(context)
    room = max(self._max_length - number, 1)
    ids = (ids or self._begun(ids))[-room:]
    tokens, mask = _padded(ids, room, left=True)
    assert self._generate is not None
    new = self._generate(
      self._params, tokens, number, token_mask=mask, stop=self._stop
    )
    written = np.asarray(new)[0].tolist()
    if self._stop in written:
      written = written[: written.index(self._stop)]
    text = self._tokenizer.decode(written)
    ends = [place for x in until if x and (place := text.find(x)) >= 0]
    return text[: min(ends, default=len(text))]

  def _encode(self, text: str) -> list[int]:
    return [*self._tokenizer.encode(_checks.text('text', text)).ids]

  def _begun(self, ids: list[int]) -> list[int]:
    if self._start is None:
      raise ValueError(
        'A request has no context, and the model was made without a token for'
        ' the start of a text. Pass `start=`.'
      )
    return [self._start, *ids]

  def _sum(self, ids: list[int], number: int) -> tuple[float, bool]:
    """Scores the last tokens, looking back as far as the model may."""
    ids = ids[-self._max_length - 1 :]
    tokens, mask = _padded(ids[:-1], self._max_length, left=False)
    targets, _ = _padded(ids[1:], self._max_length, left=False)
    logs, greedy = self._score(self._params, tokens, targets, mask)
    places = slice(len(ids) - 1 - number, len(ids) - 1)
    return (
      float(np.asarray(logs, np.float64)[places].sum()),
      bool(np.asarray(greedy)[places].all()),
    )


def _score(apply, params, tokens, targets, mask) -> tuple[jax.Array, jax.Array]:
  """Log-likelihoods of next tokens, and whether they are the likeliest."""
  logits = apply(params, tokens, mask)[0].astype(jnp.float32)
  right = jnp.take_along_axis(logits, targets[0, :, None], -1)[:, 0]
  logs = right - jax.nn.logsumexp(logits, -1)
  return logs, logits.argmax(-1) == targets[0]


def _padded(
  ids: list[int], most: int, *, left: bool
) -> tuple[jax.Array, jax.Array]:
  """One sequence and its mask, as long as a power of two, or as may be."""
  size = max(_SHORTEST, 1 << (len(ids) - 1).bit_length())
  size = max(min(size, most), len(ids))
  places = slice(size - len(ids), None) if left else slice(len(ids))
  tokens, mask = np.zeros((1, size), np.int32), np.zeros((1, size), bool)
  tokens[0, places], mask[0, places] = ids, True
  return jnp.asarray(tokens), jnp.asarray(mask)


def _arguments(name: str, requests: Any, number: int) -> Iterator[Any]:
  if isinstance(requests, str | bytes) or not hasattr(requests, '__iter__'):
    raise _checks.wrong_type(name, requests, 'be a list of requests')
  for request in requests:
    found = getattr(request, 'args', request)
    if not isinstance(found, tuple) or len(found) != number:
      wanted = f'have tuples of {number} in `args`'
      raise _checks.wrong_type(f'a request of `{name}`', found, wanted)
    yield found
