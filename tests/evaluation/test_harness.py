"""Language models as lm-eval calls them."""

import itertools
import types

import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import evaluation as ev

TABLE = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
LOGS = TABLE - np.log(np.exp(TABLE.astype(float)).sum(-1, keepdims=True))
TEXT = 'the quick brown fox jumps over the lazy dog'


class Letters:
  def encode(self, text):
    return types.SimpleNamespace(ids=[*map(ord, text)])

  def decode(self, ids):
    return ''.join(map(chr, ids))


def apply(params, tokens, mask):
  """A model that only knows the letter before."""
  return jnp.where(mask[..., None], params[tokens], jnp.nan)


def count(params, tokens, mask):
  """Likes the token whose number says how many it can look back at."""
  seen = jnp.cumsum(mask, -1)
  return 50.0 * (jnp.arange(128) == seen[..., None])


def model(f=apply, **options):
  options = {'start': 0, **options}
  return ev.Harness(f, jnp.asarray(TABLE), Letters(), **options)


def request(*args):
  return types.SimpleNamespace(args=args)


def score(text, before=0):
  ids = [before, *map(ord, text)]
  return sum(LOGS[a, b] for a, b in itertools.pairwise(ids))


def test_continuations_by_hand():
  found = model().loglikelihood(
    [request('ab', 'c'), ('', 'cd'), request('a ', 'word')]
  )
  expected = score('c', ord('b')), score('cd'), score(' word', ord('a'))
  np.testing.assert_allclose([x for x, _ in found], expected, rtol=1e-5)
  best = int(TABLE[ord('b')].argmax())
  (_, greedy), (_, other) = model().loglikelihood(
    [('b', chr(best)), ('b', chr((best + 1) % 128))]
  )
  assert (greedy, other) == (True, False)


@pytest.mark.parametrize('length', [4, 16, 1024])
def test_windows_predict_each_letter_once(length):
  found = model(max_length=length).loglikelihood_rolling([(TEXT,), ('',)])
  np.testing.assert_allclose(found, [score(TEXT), 0], rtol=1e-5)


def test_no_call_is_longer_than_the_model_may_look_back():
  lengths = []

  def noted(params, tokens, mask):
    lengths.append(tokens.shape[1])
    return apply(params, tokens, mask)

  scorer = model(noted, max_length=40)
  scorer.loglikelihood_rolling([('a' * 100,)])
  scorer.loglikelihood([('a' * 50, 'bc')])
  assert max(lengths) == 40
  with pytest.raises(ValueError, match='has 41 tokens, but at most 40 fit'):
    scorer.loglikelihood([('a', 'b' * 41)])


def test_windows_look_back_as_far_as_they_may():
  """Those of lm-eval: BOS 0 1 2, 3 4 5 6, and 5 6 7 8 for the last two."""
  text = ''.join(map(chr, [1, 2, 3, 4, 1, 2, 3, 4, 3, 4]))
  (found,) = model(count, max_length=4).loglikelihood_rolling([(text,)])
  assert abs(found) < 1e-6
  (wrong,) = model(count, max_length=4).loglikelihood_rolling([(text[:-1],)])
  assert wrong < -40  # The ninth letter is then seen by four.


def test_writing():
  seen = []

  def generate(params, tokens, number, *, token_mask, stop):
    seen.append(Letters().decode(np.asarray(tokens)[token_mask].tolist()))
    said = [*map(ord, 'yes.\nQ: no'), stop, ord('x')]
    return jnp.asarray([said[:number]])

  # 256 are written, if nothing else is said.
  writer = model(generate=generate, stop=3, max_length=5 + 256)
  found = writer.generate_until(
    [
      request('A long question', {'until': ['\n', 'Q']}),
      ('', {'until': '.', 'max_gen_toks': 8}),
      ('b', {'max_gen_toks': 2}),
      ('c', {'do_sample': True, 'temperature': 0.0}),
    ]
  )
  assert found == ['yes.', 'yes', 'ye', 'yes.\nQ: no']
  assert seen == ['stion', '\0', 'b', 'c']


def test_a_model_of_lm_eval():
  """As their class of models, which has an initializer of its own."""

  class LM:
    def __init__(self):
      self.rank = 0

  class Mine(ev.Harness, LM):
    pass

  found = Mine(apply, jnp.asarray(TABLE), Letters())
  assert found.rank == 0
  assert found.loglikelihood([('a', 'b')])[0][0] < 0


def test_bad_input():
  with pytest.raises(ValueError, match='without a token for the start'):
    model(start=None).loglikelihood([('', 'a')])
  with pytest.raises(ValueError, match='adds no token'):
    model().loglikelihood([('a', '')])
  with pytest.raises(ValueError, match='made without `generate`'):
    model().generate_until([('a', {})])
  writer = model(generate=lambda *a, **k: 0)
  with pytest.raises(ValueError, match='do_sample=True'):
    writer.generate_until([('a', {'do_sample': True})])
  for bad in (None, 'ab', [('a',)], [request('a')], [3]):
    with pytest.raises(TypeError, match='request'):
      model().loglikelihood(bad)
  with pytest.raises(TypeError, match='`tokenizer` was'):
    ev.Harness(apply, {}, None)
  with pytest.raises(ValueError, match='`max_length` was 0'):
    model(max_length=0)
