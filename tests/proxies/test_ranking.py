"""The order of candidates, what it costs to find, and what it is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax import models, proxies

KEY = jax.random.key(0)
BATCH = np.sin(np.arange(24.0, dtype='f4')).reshape(6, 4), np.arange(6) % 3


def mlp(width, scale=1.0, gain=1.0):
  """A new pair of functions each time, as a search space builds them."""

  def init(key):
    phase = jax.random.key_data(key)[0] % 100  # Compiles faster than a draw.
    waves = jnp.sin(jnp.arange(7.0 * width) + phase) * gain
    fc, output = waves[: 4 * width], waves[4 * width :]
    return {
      'fc': {'kernel': fc.reshape(4, width)},
      'output': {'kernel': output.reshape(width, 3)},
    }, {}

  def apply(params, model_state, x, *, train=False):
    del train
    h = jax.nn.relu(x @ params['fc']['kernel']) * scale
    return h @ params['output']['kernel'], model_state

  return models.Model(init, apply)


@pytest.fixture
def compiled(monkeypatch):
  """Counts compilations."""
  count = []
  compile = jax.stages.Lowered.compile

  def counted(self, *args, **options):
    count.append(self)
    return compile(self, *args, **options)

  monkeypatch.setattr(jax.stages.Lowered, 'compile', counted)
  return count


@pytest.mark.slow
def test_order_and_one_compile_a_shape(compiled):
  candidates = {'a': mlp(5), 'b': mlp(7), 'c': mlp(5), 'd': mlp(7), 'e': mlp(9)}
  ranking = lth.rank(candidates, proxies.num_params, BATCH, KEY)
  assert ranking.scores == {'a': 35, 'b': 49, 'c': 35, 'd': 49, 'e': 63}
  assert ranking.order == ['e', 'b', 'd', 'a', 'c']
  assert len(compiled) == 3
  del compiled[:]
  ranking = lth.rank(candidates, proxies.snip, BATCH, KEY, samples=2)
  assert ranking.scores['a'] == ranking.scores['c'] != ranking.scores['b']
  assert len(compiled) == 3


def test_constants_tell_candidates_apart(compiled):
  scales = {'one': 1.0, 'two': 2.0, 'array': jnp.full(5, 2.0)}
  candidates = {name: mlp(5, scale) for name, scale in scales.items()}
  candidates['other'] = mlp(5, jnp.full(5, 3.0))
  scores = lth.rank(candidates, proxies.synflow, BATCH, KEY).scores
  expected = np.log([1, 2, 2, 3]) + scores['one']
  np.testing.assert_allclose([*scores.values()], expected, rtol=1e-6)
  assert len(compiled) == 4


def test_programs_that_read_nothing():
  """Two shapes with as many params, of which the program reads none."""
  shapes = {'a': (4, 6), 'b': (3, 8)}
  candidates = {
    name: models.Model(
      lambda key, shape=shape: ({'w': jnp.ones(shape)}, {}),
      lambda params, state, x, *, train=False: (x.sum() + params['w'], state),
    )
    for name, shape in shapes.items()
  }
  found = lth.rank(
    candidates, lth.proxies.num_params, BATCH, jax.random.key(0)
  ).scores
  assert found == {'a': 24, 'b': 24}


def test_initial_values_share_a_program(compiled):
  candidates = {'one': mlp(5), 'two': mlp(5, gain=2.0)}
  scores = lth.rank(candidates, proxies.synflow, BATCH, KEY).scores
  assert scores['two'] - scores['one'] == pytest.approx(np.log(4), rel=1e-5)
  assert len(compiled) == 1


def test_scores_are_those_of_the_proxy():
  candidates = {'a': mlp(5), 'b': mlp(7)}
  ranking = lth.rank(candidates, proxies.grad_norm, BATCH, KEY, samples=2)
  for name, model in candidates.items():

    @jax.jit
    def score(key, model=model):
      params, _ = model.init(jax.random.split(key)[0])
      return proxies.grad_norm(
        lambda params, x: model.apply(params, {}, x)[0], params, BATCH
      )

    found = [score(key) for key in jax.random.split(KEY, 2)]
    assert ranking.scores[name] == pytest.approx(np.mean(found), rel=1e-5)


def test_form_of_the_model():
  def apply(params, model_state, x, *, train=False):
    return x @ params['kernel'] * (2.0 if train else 1.0), model_state

  linear = models.Model(lambda key: ({'kernel': jnp.ones((4, 3))}, {}), apply)
  both = {'a': linear, 'b': linear}
  inference = lth.rank(both, proxies.synflow, BATCH, KEY).scores['a']
  training = lth.rank(both, proxies.synflow, BATCH, KEY, train=True).scores['a']
  assert training - inference == pytest.approx(np.log(2), rel=1e-5)


def test_correlations_by_hand():
  accuracies = {'a': 0.1, 'b': 0.2, 'c': 0.3, 'd': 0.4}
  swapped = {'d': 30.0, 'c': 40.0, 'b': 2.0, 'a': 1.0}
  assert proxies.spearman(swapped, accuracies) == pytest.approx(1 - 6 * 2 / 60)
  assert proxies.kendall(swapped, accuracies) == pytest.approx((5 - 1) / 6)
  ties = {'a': 1.0, 'b': 1.0, 'c': 2.0, 'd': -np.inf}
  # Ranks are 2.5, 2.5, 4, 1. Two pairs agree, three do not, one ties.
  expected = np.corrcoef([2.5, 2.5, 4, 1], [1, 2, 3, 4])[0, 1]
  assert proxies.spearman(ties, accuracies) == pytest.approx(expected)
  assert proxies.kendall(ties, accuracies) == pytest.approx(-1 / 30**0.5)


def test_bad_input():
  with pytest.raises(ValueError, match=r'`len\(candidates\)` was 1, but must'):
    lth.rank({'a': mlp(5)}, proxies.snip, BATCH, KEY)
  both = {'a': mlp(5), 'b': mlp(7)}
  with pytest.raises(ValueError, match='`samples` was 0, but must be from 1'):
    lth.rank(both, proxies.snip, BATCH, KEY, samples=0)
  text = 'The candidate a has no score: The batch has no labels'
  with pytest.raises(ValueError, match=text):
    lth.rank(both, proxies.snip, (BATCH[0], None), KEY)
  text = r'candidate a has no score: the proxy returned an array of shape \(6, '
  with pytest.raises(ValueError, match=text):
    lth.rank(both, lambda apply, p, b, key: apply(p, b[0]), BATCH, KEY)
  two = models.Model(both['a'].init, lambda p, s, x, *, train: ((x, x), s))
  text = 'candidate c has no score: `apply.* returned a tuple for x of shape'
  with pytest.raises(ValueError, match=text):
    lth.rank({**both, 'c': two}, proxies.snip, BATCH, KEY)


def test_nan_scores_name_the_candidates():
  candidates = {'a': mlp(5), 'b': mlp(5, jnp.nan), 'c': mlp(7, jnp.nan)}
  with pytest.raises(ValueError, match='The scores of b, c are NaN'):
    lth.rank(candidates, proxies.snip, BATCH, KEY)


def test_bad_correlations():
  with pytest.raises(
    ValueError, match='are of different candidates: b, c appear'
  ):
    proxies.spearman({'a': 1.0, 'b': 2.0}, {'a': 1.0, 'c': 2.0})
  with pytest.raises(ValueError, match=r'`len\(scores\)` was 1, but must'):
    proxies.kendall({'a': 1.0}, {'a': 1.0})
  with pytest.raises(ValueError, match=r'All scores are 1\.0, so there is'):
    proxies.spearman({'a': 1.0, 'b': 1.0}, {'a': 1.0, 'b': 2.0})
