"""The tagger: what it sees of words, and of the sentence."""

import re

import jax
import numpy as np
import pytest

from lthjax import models, trees

FORMS = ['The', 'dogs', 'walked', 'home', ',', 'slowly', '.']
FEATURES = models.word_features(FORMS)


@pytest.fixture(scope='module', params=[False, True])
def net(request):
  """A model with random params, and its logits."""
  model = models.tagger(width=4, hidden=3, bidirectional=request.param)
  shapes, structure = trees.flatten(
    jax.eval_shape(model.init, jax.random.key(0))
  )
  rng = np.random.default_rng(0)
  params = structure.unflatten(
    rng.normal(size=x.shape).astype(np.float32) for x in shapes.values()
  )
  return request.param, params, jax.jit(model.apply)


def test_features_are_the_ends_of_words():
  walked, talked = models.word_features(['x', 'walked', 'talked'])[1:]
  assert (walked == talked).tolist() == [
    *(False, True, True, True, True, False, True)
  ]
  upper, lower = models.word_features(['x', 'Walked', 'walked'])[1:]
  assert (upper == lower).tolist() == [*(6 * [True]), False]
  # The first word may have a capital letter for no other reason.
  assert (FEATURES[0] != models.word_features(['a', 'The'])[1]).sum() == 1
  assert models.word_features([]).shape == (0, 7)


def gru(params, x, order):
  """By equations 5 to 8, one word at a time."""
  kernel, state, bias = (params[k] for k in ('input', 'state', 'bias'))
  h, out = np.zeros(len(state)), {}
  for i in order:
    r, z, n = np.split(x[i] @ kernel + bias, 3)
    hr, hz, hn = np.split(h @ state, 3)
    r, z = (1 / (1 + np.exp(-v)) for v in (r + hr, z + hz))
    h = z * h + (1 - z) * np.tanh(n + r * hn)
    out[i] = h
  return np.stack([out[i] for i in sorted(out)])


def test_logits_are_those_of_numpy(net):
  bidirectional, params, apply = net
  tables = [params['embed']['word'], *params['embed']['parts'].values()]
  x = sum(table[ids] for table, ids in zip(tables, FEATURES.T, strict=True))
  parts = [x, gru(params['forward'], x, range(7))]
  if bidirectional:
    parts.append(gru(params['backward'], x, range(6, -1, -1)))
  expected = np.concatenate(parts, 1) @ params['output'] + params['bias']
  found = apply(params, FEATURES[None], np.ones((1, 7), bool))
  np.testing.assert_allclose(found[0], expected, atol=1e-4, rtol=1e-4)


def test_a_causal_tagger_does_not_see_what_follows(net):
  bidirectional, params, apply = net
  other = FEATURES.copy()
  other[5:] = models.word_features(['and', 'then'])
  both = np.stack([FEATURES, other])
  first, second = np.asarray(apply(params, both, np.ones((2, 7), bool)))
  assert (first[:5] == second[:5]).all() == (not bidirectional)
  assert (first[5:] != second[5:]).any()


def test_pads_say_nothing(net):
  _, params, apply = net
  mask = np.arange(7)[None] < 5
  other = FEATURES.copy()
  other[5:] = 0
  one, two = (apply(params, x[None], mask)[0, :5] for x in (FEATURES, other))
  np.testing.assert_array_equal(one, two)


BAD = {
  'features of one sentence': (
    lambda model, params: model.apply(params, FEATURES),
    'needs integers of shape (batch, time, 7). Take them from',
  ),
  'a mask of another shape': (
    lambda model, params: model.apply(params, FEATURES[None], np.ones(7)),
    '`token_mask` has shape (7,), but the tokens have shape (1, 7)',
  ),
  'no tags': (
    lambda model, params: models.tagger(tags=1),
    '`tags` was 1, but must be at least 2',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
  call, text = BAD[case]
  model = models.tagger(width=4, hidden=3)
  params = jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(ValueError, match=re.escape(text)):
    call(model, params)


@pytest.mark.parametrize('forms', ['one word', [1, 2]])
def test_words_are_strings(forms):
  with pytest.raises(TypeError, match='`forms`'):
    models.word_features(forms)
