"""Attention maps of models: found in the program, equal to NumPy's."""

import jax
import jax.numpy as jnp
import language_models
import numpy as np
import pytest
from flax import nnx
from helpers import random_like

from lthjax import program

LAYERS, HEADS, WIDTH, TIME = 3, 2, 4, 5
SHAPES = dict.fromkeys(('query', 'key', 'value'), (LAYERS, WIDTH, HEADS, WIDTH))
PARAMS = random_like(SHAPES, 0, 0.5)
X = np.random.default_rng(1).normal(size=(2, TIME, WIDTH)).astype(np.float32)


def by_hand(scores):
  exp = jnp.exp(scores - scores.max(-1, keepdims=True))
  return exp / exp.sum(-1, keepdims=True)


def times_inverse(scores):
  exp = jnp.exp(scores)
  return exp * (1 / exp.sum(-1))[..., None]


def in_logs(scores):
  return jnp.exp(scores - jax.nn.logsumexp(scores, -1, keepdims=True))


def dropped(scores):
  weights = jax.nn.softmax(scores)
  keep = jnp.arange(TIME) != 1
  return jnp.where(keep, weights, 0.0).astype(jnp.bfloat16).astype(jnp.float32)


SOFTMAXES = {
  'jax.nn.softmax': jax.nn.softmax,
  'exp of log_softmax': lambda scores: jnp.exp(jax.nn.log_softmax(scores)),
  'exp over sum': by_hand,
  'exp times the inverse': times_inverse,
  'logsumexp': in_logs,
  'dropout and casts': dropped,
}


def layer(x, params, softmax):
  q, k, v = (
    jnp.einsum('btd,dhe->bthe', x, params[name])
    for name in ('query', 'key', 'value')
  )
  weights = softmax(jnp.einsum('bthe,bshe->bhts', q, k))
  return x + jnp.einsum('bhts,bshe->bte', weights, v)


def unrolled(softmax):
  def apply(params, x):
    for i in range(LAYERS):
      x = layer(x, jax.tree.map(lambda w, i=i: w[i], params), softmax)
    return x

  return apply


def scanned(softmax):
  def apply(params, x):
    def body(x, params):
      return layer(x, params, softmax), None

    return jax.lax.scan(jax.checkpoint(body), x, params)[0]

  return apply


def oracle(params, x):
  maps = []
  for i in range(LAYERS):
    q, k, v = (
      np.einsum('btd,dhe->bthe', x, params[name][i])
      for name in ('query', 'key', 'value')
    )
    weights = np.exp(np.einsum('bthe,bshe->bhts', q, k))
    weights /= weights.sum(-1, keepdims=True)
    maps.append(weights)
    x = x + np.einsum('bhts,bshe->bte', weights, v)
  return maps


@pytest.mark.parametrize('form', SOFTMAXES)
def test_softmaxes_of_all_forms_are_found(form):
  maps = program.attention_maps(unrolled(SOFTMAXES[form]), PARAMS, X)
  assert [m.shape for m in maps] == LAYERS * [(2, HEADS, TIME, TIME)]
  expected = oracle(PARAMS, X)
  if form == 'dropout and casts':  # What is kept is the softmax itself.
    maps, expected = maps[:1], expected[:1]
  np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_scanned_and_unrolled_layers_have_the_same_maps():
  maps = program.attention_maps(scanned(jax.nn.softmax), PARAMS, X)
  np.testing.assert_allclose(maps, oracle(PARAMS, X), atol=1e-5)


def test_keys_are_on_the_last_axis():
  """Wherever the program has them, and for many params at once."""

  def apply(params, x):
    scores = jnp.einsum('sd,td->st', x @ params, x)
    return jax.nn.softmax(scores, axis=0).T @ x

  find = jax.vmap(lambda params: program.attention_maps(apply, params, X[0])[0])
  params = np.stack([np.eye(WIDTH, dtype=np.float32)] * 2)
  expected = np.exp(X[0] @ X[0].T)
  expected /= expected.sum(-1, keepdims=True)
  np.testing.assert_allclose(find(params), [expected] * 2, atol=1e-5)


@pytest.mark.parametrize('name', ['qwen2', 'qwen2_moe', 'bert'])
def test_maps_of_language_models(name):
  """Rows sum to one, pads get nothing; gates of experts are not attention."""
  config = language_models.cases()[name]
  model = language_models.network(config)
  params = language_models.random_params(config)
  inputs = language_models.inputs(config)
  find = jax.jit(lambda p, *args: program.attention_maps(model.apply, p, *args))
  maps = np.stack(find(params, *inputs)).reshape(2, 2, 4, 11, 11)
  np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
  assert (maps[:, 1, :, :7, 7:] == 0).all()
  later = np.triu(np.ones((11, 11), bool), 1)
  assert (maps[:, 0][..., later] == 0).all() == (name != 'bert')


@pytest.mark.slow
def test_maps_of_other_libraries():
  """Flax's attention and that of JAX, in one program, in their order."""
  module = nnx.MultiHeadAttention(
    num_heads=HEADS, in_features=WIDTH, decode=False, rngs=nnx.Rngs(0)
  )
  graph, params = nnx.split(module)

  def apply(params, x):
    x = nnx.merge(graph, params)(x)
    x = x[:, :, None]
    return jax.nn.dot_product_attention(x, x, x, is_causal=True)

  first, second = program.attention_maps(apply, params, X)
  assert first.shape[-4:] == (2, HEADS, TIME, TIME)
  assert second.shape[-4:] == (2, 1, TIME, TIME)
  assert (np.triu(second.reshape(2, TIME, TIME), 1) == 0).all()
  np.testing.assert_allclose(first.sum(-1), 1, atol=1e-5)


NO_ATTENTION = {
  'no softmax': lambda p, x: x @ p,
  'a classifier': lambda p, x: jax.nn.softmax(x @ p),
  'gates': lambda p, x: jnp.einsum(
    'te,etd->td', jax.nn.softmax(x[0] @ p), jnp.stack([x[0]] * WIDTH)
  ),
  'along another axis': lambda p, x: jax.nn.softmax(x[0], axis=0) @ p,
}


@pytest.mark.parametrize('case', NO_ATTENTION)
def test_programs_without_attention(case):
  with pytest.raises(ValueError, match='The program has no attention'):
    program.attention_maps(NO_ATTENTION[case], np.eye(WIDTH), X)
