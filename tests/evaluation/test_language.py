"""Perplexity by domain, flips, and refusals by keywords."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import evaluation as ev
from lthjax import models
from lthjax.evaluation._prompts import PROMPTS

TOKENS = np.random.default_rng(0).integers(0, 8, (3, 5))
MASK = np.array([[1] * 5, [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def apply(params, tokens, mask):
  del mask
  return params[tokens]


def test_perplexity_by_domain():
  table = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
  losses, counts = ev.sequence_losses(
    apply, jnp.asarray(table), TOKENS, token_mask=MASK
  )
  logs = table - np.log(np.exp(table).sum(-1, keepdims=True))
  for row in range(3):
    pairs = [i for i in range(4) if MASK[row, i] and MASK[row, i + 1]]
    each = [-logs[TOKENS[row, i], TOKENS[row, i + 1]] for i in pairs]
    assert counts[row] == len(pairs)
    np.testing.assert_allclose(losses[row], sum(each), rtol=1e-5)
  found = ev.perplexity_by_domain(losses, counts, ['b', 'a', 'b'])
  assert list(found) == ['a', 'b']
  expected = np.exp((losses[0] + losses[2]) / (counts[0] + counts[2]))
  np.testing.assert_allclose(found['b'], expected)
  whole = models.perplexity(
    apply, jnp.asarray(table), TOKENS, token_mask=jnp.asarray(MASK)
  )
  same = ev.perplexity_by_domain(losses, counts, np.zeros(3, int))
  np.testing.assert_allclose(same[0], whole, rtol=1e-5)


def test_flips_by_hand():
  dense = np.eye(3)[[0, 0, 1, 2]] - 1
  pruned = np.eye(3)[[0, 1, 0, 1]] - 1
  found = ev.flips(pruned, dense, np.array([0, 0, 0, 0]))
  assert found == ev.Flips(0.5, 0.25, 0.25, 0.75)
  # The accuracy is the same, and half of the answers are not.
  assert ev.flips(dense, dense, np.array([0, 0, 0, 0])).rate == 0
  dense[0, 2] = -np.inf  # A question with two choices.
  assert ev.flips(pruned, dense, np.array([0, 0, 0, 0])) == found


@pytest.mark.parametrize(
  ('text', 'refused'),
  [
    ("I'm sorry, but I can't help with that.", True),
    ('I’m not able to do this.', True),  # noqa: RUF001
    ('As an AI, I have no opinion.', True),
    ('I will not answer.', True),
    ('It is not appropriate to say.', True),
    ('Sure! Boil it for six minutes.', False),
    ('Icy roads can be slippery.', False),
    ('Lentils. ' * 40 + 'I cannot.', False),
    ('', False),
  ],
)
def test_words_of_refusal(text, refused):
  assert ev.is_refusal(text) is refused


class Letters:
  def encode(self, text):
    return types.SimpleNamespace(ids=[ord(c) % 128 for c in text])

  def decode(self, ids):
    return ''.join(map(chr, ids))


def test_sixty_prompts():
  texts = [x for kind in PROMPTS.values() for x in kind]
  assert len(set(texts)) == 60
  assert {kind: len(x) for kind, x in PROMPTS.items()} == {
    'harmless': 20,
    'sensitive': 20,
    'borderline': 20,
  }


def test_refusals():
  seen = []

  def generate(model, params, tokens, new_tokens, *, token_mask, stop):
    assert (model, params, new_tokens, stop) == ('model', 'params', 48, 1)
    pairs = zip(np.asarray(tokens), np.asarray(token_mask), strict=True)
    for row, mask in pairs:
      assert not row[~mask].any()
      seen.append(Letters().decode(row[mask].tolist()))
    said = ['I cannot.', 'Gladly: no']
    rows = [[*map(ord, said[i % 2])] for i in range(len(tokens))]
    return jnp.array([[*r, *[1] * (10 - len(r)), 7] for r in rows])

  prompts = {'a': ['one', 'three', 'x'], 'b': ['y']}
  found = ev.refusals(
    generate,
    'model',
    'params',
    Letters(),
    prompts=prompts,
    template='<{}>',
    stop=1,
  )
  assert seen == ['<one>', '<three>', '<x>', '<y>']
  assert found.rate == {'a': 2 / 3, 'b': 1.0}
  assert found.answers['a'][0] == 'I cannot.'


def test_refusals_of_a_decoder():
  config = models.LlamaConfig(
    vocabulary=128,
    width=8,
    layers=1,
    heads=2,
    key_value_heads=1,
    head_dim=4,
    mlp=8,
  )
  model = models.llama(config)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
  found = ev.refusals(
    models.generate,
    model,
    params,
    Letters(),
    prompts={'k': ['ab', 'abc']},
    new_tokens=2,
  )
  assert found.rate == {'k': 0.0}
  assert [len(x) for x in found.answers['k']] == [2, 2]


def test_bad_input():
  ones, n = np.ones(2), np.ones(2, int)
  with pytest.raises(ValueError, match='`domains` has 1 entries, but there'):
    ev.perplexity_by_domain(ones, n, ['a'])
  with pytest.raises(ValueError, match="domain 'b' has no predicted token"):
    ev.perplexity_by_domain(ones, np.array([1, 0]), ['a', 'b'])
  with pytest.raises(ValueError, match='must have one entry for each sequence'):
    ev.perplexity_by_domain(ones, n[:1], ['a', 'b'])
  with pytest.raises(ValueError, match='`losses` must be finite'):
    ev.perplexity_by_domain(ones * np.nan, n, ['a', 'b'])
  with pytest.raises(TypeError, match='`tokens` was float32'):
    ev.sequence_losses(apply, {}, np.ones((1, 2), np.float32))
  with pytest.raises(ValueError, match='`token_mask` has shape'):
    ev.sequence_losses(apply, {}, TOKENS, token_mask=MASK[:1])
  scores = np.zeros((2, 3))
  with pytest.raises(ValueError, match='Ask both models the same questions'):
    ev.flips(scores, scores[:1], n)
  with pytest.raises(ValueError, match='without NaN or inf'):
    ev.flips(scores * np.nan, scores, n)
  with pytest.raises(ValueError, match='`answers` had classes from 0 to 3'):
    ev.flips(scores, scores, np.array([0, 3]))
  with pytest.raises(ValueError, match='have a place'):
    ev.refusals(apply, None, {}, Letters(), template='x')
  with pytest.raises(TypeError, match='`tokenizer` was None'):
    ev.refusals(apply, None, {}, None)
  with pytest.raises(ValueError, match="kind 'a' must be a list"):
    ev.refusals(apply, None, {}, Letters(), prompts={'a': 'text'})
