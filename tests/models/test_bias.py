"""A bias of the attention of decoders: data, by sequence and by head."""

import re

import jax
import jax.numpy as jnp
import language_models
import numpy as np
import pytest

from lthjax import models, program

CONFIG = language_models.llama_config()
MODEL = models.llama(CONFIG)
PARAMS = language_models.random_params(CONFIG)
TOKENS, MASK = language_models.inputs(CONFIG)
TIME = TOKENS.shape[1]
BIAS = np.random.default_rng(0).normal(size=(2, 4, TIME, TIME))
BIAS = BIAS.astype(np.float32)


def maps(params, *args):
  """``[layers, batch, heads, time, time]``."""
  found = jnp.stack(program.attention_maps(MODEL.apply, params, *args))
  return found.reshape(2, 2, 4, TIME, TIME)


def test_a_bias_multiplies_the_weights_of_the_first_layer():
  """As softmax(s + b) is softmax(s) exp(b), normalized again."""
  find = jax.jit(maps)
  plain = find(PARAMS, TOKENS, MASK, np.zeros_like(BIAS))[0]
  expected = np.asarray(plain) * np.exp(BIAS)
  expected /= expected.sum(-1, keepdims=True)
  found = find(PARAMS, TOKENS, MASK, BIAS)
  np.testing.assert_allclose(found[0], expected, atol=1e-5)
  # Closed edges get nothing, in any layer.
  closed = np.tri(TIME, k=-1, dtype=bool) & (BIAS > 0)
  hard = np.where(closed, -np.inf, 0).astype(np.float32)
  assert (np.asarray(find(PARAMS, TOKENS, MASK, hard))[:, closed] == 0).all()


def test_biases_of_sequences_are_those_of_all_heads_and_compile_nothing():
  traced = []

  @jax.jit
  def apply(params, bias):
    traced.append(bias.shape)
    return MODEL.apply(params, TOKENS, MASK, bias)

  none = jax.jit(MODEL.apply)(PARAMS, TOKENS, MASK)
  zeros = np.zeros_like(BIAS[:, 0])
  np.testing.assert_allclose(apply(PARAMS, zeros), none, atol=1e-5)
  one = apply(PARAMS, BIAS[:, 0])
  hard = np.where(np.eye(TIME, dtype=bool), 0, -np.inf).astype(np.float32)
  apply(PARAMS, np.stack([hard] * 2))
  assert traced == [zeros.shape]
  four = apply(PARAMS, np.repeat(BIAS[:, :1], 4, 1))
  np.testing.assert_array_equal(one, four)
  hidden = jax.eval_shape(MODEL.hidden, PARAMS, TOKENS, MASK, zeros)
  assert hidden.shape == (2, TIME, CONFIG.width)


CLOSED = np.zeros((2, TIME, TIME), np.float32)
CLOSED[1, 3] = -np.inf
NAN = CLOSED.copy()
NAN[0, 0, 0] = np.nan
BAD = {
  'bools': (CLOSED > 0, 'and type bool, but needs floats of shape'),
  'one sequence': (
    CLOSED[0],
    f'bias of shape ({TIME}, {TIME}) and type float32, but needs floats of'
    f' shape (2, {TIME}, {TIME}) or (2, 4, {TIME}, {TIME})',
  ),
  'other heads': (np.repeat(BIAS, 2, 1), '(2, 8, '),
  'a closed row': (CLOSED, 'all edges of token 3 of sequence 1, but each'),
  'NaN': (NAN, 'a bias with NaN or inf, but every entry must be finite'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_biases(case):
  bias, text = BAD[case]
  with pytest.raises(ValueError, match=re.escape(text)):
    MODEL.apply(PARAMS, TOKENS, MASK, bias)


def test_rows_of_pads_may_be_closed():
  bias = np.zeros((2, TIME, TIME), np.float32)
  bias[1, 8] = -np.inf
  MODEL.apply(PARAMS, TOKENS, MASK, bias)
