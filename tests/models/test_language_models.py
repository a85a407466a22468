"""Decoders and encoders: recorded logits, caches, pads, text."""

import json
import pathlib
import re

import jax
import jax.export
import jax.numpy as jnp
import language_models
import numpy as np
import pytest
from flax import nnx

from lthjax import axes, models, structure, trees
from lthjax.models import _layers

# Logits of transformers 5.24 on PyTorch 2.14, float32, of the same params:
# `test_parity.py` computes them again.
RECORDED = json.loads(
  pathlib.Path(__file__).with_name('recorded_logits.json').read_text()
)
CASES = language_models.cases()
TOKENS = np.arange(10, dtype=np.int32)[None] * 5


def close(x, y):
  np.testing.assert_allclose(x, y, atol=1e-4, rtol=0)


@pytest.fixture(scope='module')
def llama():
  config = CASES['llama']
  return models.llama(config), language_models.random_params(config)


@pytest.mark.parametrize('name', CASES)
def test_logits_are_those_of_transformers(name):
  config = CASES[name]
  apply = jax.jit(language_models.network(config).apply)
  params = language_models.random_params(config)
  logits = apply(params, *language_models.inputs(config))
  assert logits.dtype == np.float32
  close(language_models.excerpt(logits), RECORDED[name])


def test_without_positions_one_layer_sees_a_set():
  tokens = np.array([[3, 7, 1, 9], [7, 3, 1, 9]])
  for rotary in (False, True):
    config = language_models.llama_config(layers=1, rotary=rotary)
    params = language_models.random_params(config)
    one, other = jax.jit(models.llama(config).apply)(params, tokens)[:, 2]
    assert np.allclose(one, other, atol=1e-5) == (not rotary)


def test_decoding_step_by_step_is_one_pass(llama):
  model, params = llama
  tokens, mask = language_models.inputs(CASES['llama'])
  expected = jax.jit(model.apply)(params, tokens, mask)
  decode = jax.jit(model.decode)
  cache = model.init_cache(params, 2, 12)
  logits, cache = decode(params, tokens[:, :5], cache, mask[:, :5])
  found = [logits]
  for i in range(5, 11):
    part = slice(i, i + 1)
    logits, cache = decode(params, tokens[:, part], cache, mask[:, part])
    found.append(logits)
  close(np.concatenate(found, 1)[mask], expected[mask])
  assert int(cache.used) == 11
  np.testing.assert_array_equal(cache.valid[:, :11], mask)
  with pytest.raises(ValueError, match='12 places, of which 11 are used'):
    model.decode(params, tokens[:, :2], cache)
  with pytest.raises(ValueError, match='for 2 sequences, but tokens of 1'):
    model.decode(params, tokens[:1, :1], cache)
  with pytest.raises(ValueError, match='`places` was 0'):
    model.init_cache(params, 2, 0)
  (batch,) = jax.export.symbolic_shape('b')

  def first(params, tokens):
    return model.decode(params, tokens, model.init_cache(params, batch, 8))[0]

  symbolic = jax.ShapeDtypeStruct((batch, 5), tokens.dtype)
  exported = jax.export.export(jax.jit(first))(params, symbolic)
  close(
    exported.call(params, tokens[:, :5]),
    jax.jit(model.apply)(params, tokens[:, :5]),
  )
  # Nothing can be raised under a trace: past the end there are no numbers.
  for _ in range(2):
    assert np.isfinite(logits).all()
    logits, cache = decode(params, tokens[:, :1], cache, mask[:, :1])
  assert np.isnan(logits).all()


def test_greedy_text_is_the_largest_logits_again_and_again(llama):
  model, params = llama
  tokens, mask = language_models.inputs(CASES['llama'])
  # Pads on the right, and the same sequence with pads on the left.
  tokens = np.concatenate([tokens, np.roll(tokens[1:], 4, 1)])
  mask = np.concatenate([mask, np.roll(mask[1:], 4, 1)])
  found = models.generate(model, params, tokens, 3, token_mask=mask)
  apply = jax.jit(model.apply)
  for row, valid in enumerate([tokens[0], tokens[1, :7]]):
    sequence = list(valid)
    for _ in range(3):
      padded = np.zeros((1, 16), np.int32)
      padded[0, : len(sequence)] = sequence
      logits = apply(params, padded)[0, len(sequence) - 1]
      sequence.append(int(np.argmax(logits)))
    assert found[row].tolist() == sequence[-3:]
  assert found[2].tolist() == found[1].tolist()


def test_small_integers_hold_all_new_tokens(llama):
  model, params = llama
  found = models.generate(model, params, TOKENS.astype(np.int8), 2)
  assert found.dtype == np.int32
  assert found.shape == (1, 2)
  assert models.generate(model, params, TOKENS[:0], 2).shape == (0, 2)
  with pytest.raises(ValueError, match=r'shape \(1, 0\), but continues'):
    models.generate(model, params, TOKENS[:, :0], 2)


def test_drawn_text_follows_the_key(llama):
  model, params = llama
  draw = [
    models.generate(
      model, params, TOKENS, 6, temperature=2.0, key=jax.random.key(seed)
    ).tolist()
    for seed in (0, 0, 1)
  ]
  assert draw[0] == draw[1] != draw[2]
  with pytest.raises(ValueError, match=r'temperature=1.0 and needs a key'):
    models.generate(model, params, TOKENS, 2, temperature=1.0)


def test_perplexity_is_that_of_numpy(llama):
  model, params = llama
  tokens, mask = language_models.inputs(CASES['llama'])
  logits = np.float64(jax.jit(model.apply)(params, tokens, mask))
  losses = (
    np.log(np.exp(logits).sum(-1))
    - logits[np.arange(2)[:, None], np.arange(11), np.roll(tokens, -1, 1)]
  )
  counted = mask[:, 1:]
  expected = np.exp(losses[:, :-1][counted].mean())
  found = models.perplexity(model.apply, params, tokens, token_mask=mask)
  assert found == pytest.approx(expected, rel=1e-5)
  with pytest.raises(ValueError, match='at least two that are not pads'):
    models.perplexity(model.apply, params, tokens[:, :1])


def test_the_program_says_what_its_axes_are():
  config = language_models.llama_config(
    vocabulary=96, head_dim=8, layers=3, mlp=64, tied=True
  )
  model = models.llama(config)
  params = jax.eval_shape(model.init, jax.random.key(0))
  found = axes.from_program(model.apply, params, TOKENS)
  by_name = axes.by_layout(params)
  kernels = [name for name in found if name.endswith('kernel')]
  assert len(kernels) == 7
  assert all(found[name] == by_name[name] for name in kernels)
  table = structure.groups(model.apply, params, TOKENS)
  pins = sorted((g.size, *sorted(g.pins)) for g in table.values())
  assert pins == [
    (2,), (2,), (3, 'loop'), (4, 'iota'), (8,), (32, 'reduced'), (64,),
    (96, 'indexed', 'output'),
  ]  # fmt: skip


def test_experts_are_layers_of_a_stack():
  config = CASES['qwen2_moe']
  model = models.llama_moe(config)
  params = jax.eval_shape(model.init, jax.random.key(0))
  found = axes.from_program(model.apply, params, TOKENS)
  assert found['blocks/mlp/experts/up/kernel'] == axes.Axes(
    stack=(0, 1), inputs=(2,), outputs=(3,)
  )
  program = str(jax.make_jaxpr(model.apply)(params, TOKENS))
  assert 'name=gate' in program
  assert 'name=expert_output' in program


def test_a_cut_network_runs_with_its_old_config(llama):
  model, params = llama
  kernels = params['blocks']
  cut = dict(params, blocks=jax.tree.map(lambda x: x[:1], kernels))
  mlp = cut['blocks']['mlp']
  mlp['gate']['kernel'] = mlp['gate']['kernel'][..., :40]
  mlp['up']['kernel'] = mlp['up']['kernel'][..., :40]
  mlp['down']['kernel'] = mlp['down']['kernel'][:, :40]
  logits = jax.eval_shape(model.apply, cut, TOKENS)
  assert logits.shape == (1, 10, 64)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'head_dim': 7}, 'head_dim=7 must be even'),
    ({'key_value_heads': 3}, 'key_value_heads=3 must divide heads=4'),
    ({'width': 0, 'tied': 1}, r'width=0 .* at least 1; tied=1 must be True'),
    ({'rope_theta': '1'}, "rope_theta='1' must be a positive number"),
    ({'rope_scaling': (('type', 'yarn'),)}, "type 'yarn' must be one of"),
    ({'rope_scaling': (('type', 'linear'),)}, 'positive numbers for factor'),
  ],
)
def test_configs_are_checked(changes, message):
  with pytest.raises(ValueError, match=f'`LlamaConfig`: .*{message}'):
    language_models.llama_config(**changes)


def test_more_experts_than_there_are():
  with pytest.raises(ValueError, match='experts_per_token=6 is more than'):
    language_models.moe_config(experts_per_token=6)
  model = models.llama_moe(CASES['mixtral'])
  params = language_models.random_params(CASES['mixtral'])
  mlp = params['blocks']['mlp']
  mlp['router']['kernel'] = mlp['router']['kernel'][..., :1]
  with pytest.raises(
    ValueError, match='sent to 2 experts, but the params have 1'
  ):
    jax.eval_shape(model.apply, params, TOKENS)


@pytest.mark.parametrize(
  ('tokens', 'mask', 'message'),
  [
    (TOKENS[0], None, 'shape (10,) and type int32'),
    (TOKENS * 0.5, None, 'type float'),
    (TOKENS, TOKENS[:, :3], '`token_mask` has shape (1, 3)'),
    (TOKENS + 60, None, 'tokens from 60 to 105, but its embedding has the 64'),
    (TOKENS - 1, None, 'tokens from -1 to 44'),
  ],
)
def test_tokens_are_checked(llama, tokens, mask, message):
  model, params = llama
  with pytest.raises(ValueError, match=re.escape(message)):
    model.apply(params, tokens, mask)


def test_tokens_are_checked_while_others_are_traced(llama):
  model, params = llama
  good, bad = jnp.asarray(TOKENS), jnp.asarray(TOKENS + 60)
  found = jax.eval_shape(lambda p: model.apply(p, good), params)
  assert found.shape == (1, 10, 64)
  with pytest.raises(ValueError, match='tokens from 60 to 105'):
    jax.eval_shape(lambda p: model.apply(p, bad), params)


def test_other_arguments_are_checked():
  config = CASES['bert']
  with pytest.raises(TypeError, match='`llama` needs a `LlamaConfig`'):
    models.llama(config)
  with pytest.raises(TypeError, match='use `llama_moe`'):
    models.llama(CASES['mixtral'])
  with pytest.raises(TypeError, match='needs a `LlamaMoEConfig`'):
    models.llama_moe(CASES['llama'])
  with pytest.raises(TypeError, match='needs a `BertConfig`'):
    models.bert(CASES['llama'])
  model = models.bert(config)
  params = jax.eval_shape(model.init, jax.random.key(0))
  long = jnp.zeros((1, 33), int)
  with pytest.raises(ValueError, match='33 tokens, but its params have 32'):
    jax.eval_shape(model.apply, params, long)
  with pytest.raises(ValueError, match='`token_types` has shape'):
    model.apply(params, TOKENS, None, long)


def test_pads_are_not_attended_to():
  config = CASES['bert']
  tokens, mask, _ = language_models.inputs(config)
  hidden = jax.jit(models.bert(config).hidden)
  params = language_models.random_params(config)
  found = [
    hidden(params, np.where(mask, tokens, junk), mask) for junk in (3, 40)
  ]
  np.testing.assert_array_equal(found[0][mask], found[1][mask])


def test_sizes_and_draws():
  config = CASES['llama']
  params = jax.eval_shape(models.llama(config).init, jax.random.key(0))
  names = trees.by_name(params)
  assert sum(x.size for x in names.values()) == 64 * 32 + 32 + 2 * (
    2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
  )
  project = _layers.Project('btd,df->btf', (64, 32), rngs=nnx.Rngs(0))
  assert float(project.kernel.std()) == pytest.approx(1 / 8, rel=0.1)
