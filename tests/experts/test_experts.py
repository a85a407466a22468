"""Routing, scores of experts, and experts removed for real."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from group_programs import experts as one_layer
from helpers import bits, random_like, slow_but
from jax.ad_checkpoint import checkpoint_name
from language_models import inputs, moe_config, network, random_params

import lthjax as lth
from lthjax import experts

CONFIG = moe_config(renormalize=False, shared_mlp=4)
PARAMS = random_params(CONFIG)
APPLY = network(CONFIG).apply
TOKENS, MASK = inputs(CONFIG)
GROUP = 'blocks/mlp/experts/down/kernel[1]'


def layer(gates, outputs, params, x):
  """The two best gates of a table, in place of a router."""
  best, place = jax.lax.top_k(gates * params['router'], 2)
  sent = place[..., None] == jnp.arange(gates.shape[-1])
  gate = jnp.sum(jnp.where(sent, best[..., None], 0.0), -2)
  gate = checkpoint_name(gate, 'gate')
  y = checkpoint_name(outputs * params['scale'][:, None], 'expert_output')
  return jnp.einsum('te,tef->tf', gate, y) * x


def test_scores_by_hand():
  gates = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], np.float32)
  norms = np.array([[2, 4, 7], [1, 5, 2]], np.float32)
  outputs = np.stack([norms, 0 * norms], -1)
  params = {'router': np.ones(3, np.float32), 'scale': np.ones(3, np.float32)}
  apply = functools.partial(layer, gates, outputs)
  found = experts.routing(apply, params, np.float32(1))
  (name,) = found.counts
  np.testing.assert_allclose(
    experts.reap(found)[name], [0.75, 1.5, 1.5], rtol=1e-6
  )
  assert found.counts[name].tolist() == [2, 1, 1]
  np.testing.assert_allclose(experts.frequency(found)[name], [1, 0.5, 0.5])
  twice = found + found
  assert bits(experts.reap(twice)) == bits(experts.reap(found))
  assert twice.tokens[name] == 4


def test_an_expert_without_tokens_scores_zero():
  gates = np.array([[0.5, 0.3, 0.2]], np.float32)
  outputs = np.full((1, 3, 2), np.nan, np.float32)
  outputs[:, :2] = 1
  params = {'router': np.ones(3, np.float32), 'scale': np.ones(3, np.float32)}
  found = experts.routing(
    functools.partial(layer, gates, outputs), params, np.float32(1)
  )
  (score,) = experts.reap(found).values()
  assert score[2] == 0
  assert (score[:2] > 0).all()


@functools.cache
def routed():
  return experts.routing(APPLY, PARAMS, TOKENS, MASK, token_mask=MASK)


def test_routing_of_a_decoder():
  found = routed()
  assert list(found.counts) == [GROUP]
  assert found.counts[GROUP].shape == (2, 5)
  # Every token is sent to two experts of each layer; pads are left out.
  assert found.counts[GROUP].sum(-1).tolist() == [2 * MASK.sum()] * 2
  assert found.tokens[GROUP].tolist() == [MASK.sum()] * 2
  with pytest.warns(UserWarning, match='fewer tokens than inputs: blocks/mlp'):
    experts.warn_few_tokens(found)


def test_experts_are_cut_for_real():
  """The three best stay; the program is that of a router that skips others."""
  keeps = experts.keep(experts.reap(routed()), 3)
  assert keeps[GROUP].sum(-1).tolist() == [3, 3]
  small = experts.cut(APPLY, PARAMS, keeps, TOKENS, MASK)
  mlp = small['blocks']['mlp']
  assert mlp['router']['kernel'].shape == (2, 32, 3)
  assert mlp['experts']['up']['kernel'].shape == (2, 3, 32, 24)
  for i, keep in enumerate(np.asarray(keeps[GROUP])):
    kept = PARAMS['blocks']['mlp']['experts']['up']['kernel'][i][keep]
    assert bits(np.asarray(mlp['experts']['up']['kernel'][i])) == bits(kept)


@pytest.mark.parametrize('combine', ['one-hot', 'scatter'])
def test_any_program_with_a_router(combine):
  shapes = {'router': (6, 4), 'in': (4, 6, 5), 'out': (4, 5, 6)}
  params, x = random_like(shapes, 0), random_like((8, 6), 1)
  apply = functools.partial(one_layer, combine=combine)
  keep = np.array([True, False, True, True])
  groups = lth.structure.groups(apply, params, x)
  (name,) = (n for n, g in groups.items() if 'sorted' in g.pins)
  small = experts.cut(apply, params, {name: keep}, x)
  assert [small[n].shape for n in shapes] == [(6, 3), (3, 6, 5), (3, 5, 6)]
  # A loop of one turn, such as one layer, has an axis that groups lack.
  again = experts.cut(apply, params, {name: keep[None]}, x)
  assert bits(again) == bits(small)
  with pytest.raises(ValueError, match='fewer left than a token is sent to'):
    experts.cut(apply, params, {name: np.arange(4) < 1}, x)


def test_parts_of_a_limited_router():
  scores = {'e': jnp.array([[5.0, 4, 3, 1, 2, 0]])}
  assert experts.keep(scores, 2)['e'][0].tolist() == [1, 1, 0, 0, 0, 0]
  found = experts.keep(scores, 2, parts=2)['e'][0]
  assert found.tolist() == [1, 0, 0, 0, 1, 0]
  with pytest.raises(
    ValueError, match=r'3 experts in 2 equal parts .*: e has 6'
  ):
    experts.keep(scores, 3, parts=2)


@pytest.mark.parametrize('rule', ['wanda', 'sparse_gpt'])
def test_experts_are_batch_axes(rule):
  """Each expert is pruned as if it were alone, by its own tokens."""
  make = getattr(lth.rules, rule)
  width, depth = 3, 4
  params = random_like({'router': (depth, 3), 'up': (3, depth, width)}, 5)
  x = random_like((60, depth), 6)

  def apply(params, x):
    best = jnp.argmax(x @ params['router'], -1)
    seen = jnp.where(
      best[:, None, None] == jnp.arange(3)[:, None], x[:, None], 0
    )
    return jnp.einsum('ted,edf->tef', seen, params['up'])

  found = lth.prune_program(apply, params, x, rule=make(0.5), where='up')
  best = np.argmax(x @ params['router'], -1)
  for i in range(3):
    alone = lth.prune_program(
      lambda p, x: x @ p['up'],
      {'up': params['up'][i]},
      x[best == i],
      rule=make(0.5),
    )
    np.testing.assert_array_equal(found.masks['up'][i], alone.masks['up'])
    np.testing.assert_allclose(
      found.params['up'][i], alone.params['up'], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('at_once', slow_but([False, True], [True]))
@pytest.mark.parametrize('rule', ['wanda', 'sparse_gpt'])
def test_an_expert_without_tokens_is_pruned_by_magnitude(rule, at_once):
  """The others are pruned as if it were not there."""
  rule = getattr(lth.rules, rule)(0.5)
  width, depth = 3, 4
  up, x = random_like((3, depth, width), 5), random_like((60, depth), 6)

  def apply(params, x):
    best = jnp.argmax(x @ jnp.eye(depth)[:, :2], -1)
    count = len(params['up'])
    sent = best[:, None, None] == jnp.arange(count)[:, None]
    seen = jnp.where(sent, x[:, None], 0)
    return jnp.einsum('ted,edf->tef', seen, params['up'])

  def prune(apply, params, x):
    how = {}
    if at_once:
      how['calibration'] = lth.calibrate(apply, params, x, stat=rule.needs)
    return lth.prune_program(apply, params, x, rule=rule, **how)

  with pytest.warns(UserWarning, match=r'stacked kernels: 1 of up\. They were'):
    found = prune(apply, {'up': up}, x)
  two = prune(apply, {'up': up[:2]}, x)
  assert bits(np.asarray(found.params['up'][:2])) == bits(
    np.asarray(two.params['up'])
  )
  # Inputs of equal size that are not correlated.
  equal = np.tile(np.eye(depth, dtype=np.float32), (2, 1))
  by_size = prune(lambda p, x: x @ p['up'], {'up': up[2]}, equal)
  mask = np.asarray(found.masks['up'][2])
  np.testing.assert_array_equal(mask, by_size.masks['up'])
  kept = np.where(mask, up[2], np.float32(0))
  assert bits(np.asarray(found.params['up'][2])) == bits(kept)


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['wanda', 'sparse_gpt'])
def test_experts_of_a_decoder_are_pruned(rule):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    found = lth.prune_program(
      APPLY,
      PARAMS,
      TOKENS,
      MASK,
      rule=getattr(lth.rules, rule)(0.5),
      where='blocks/mlp/experts/*',
      token_mask=MASK,
    )
  masks = lth.trees.by_name(found.masks)
  for name in ('gate', 'up', 'down'):
    mask = np.asarray(masks[f'blocks/mlp/experts/{name}/kernel'])
    per = mask.shape[2] * mask.shape[3] // 2
    assert mask.sum((2, 3)).tolist() == [[per] * 5] * 2


def test_bad_statistics():
  gates = np.array([[0.5, 0.3, 0.2]], np.float32)
  params = {'router': np.ones(3, np.float32), 'scale': np.ones(3, np.float32)}
  outputs = np.full((1, 3, 2), np.inf, np.float32)
  apply = functools.partial(layer, gates, outputs)
  with pytest.raises(ValueError, match=r'experts router\[0\] are not finite'):
    experts.routing(apply, params, np.float32(1))
  with pytest.raises(
    ValueError, match='No token counts for blocks/mlp/experts'
  ):
    experts.routing(APPLY, PARAMS, TOKENS, MASK, token_mask=MASK & False)
  with pytest.raises(ValueError, match='`token_mask` has the shape'):
    experts.routing(APPLY, PARAMS, TOKENS, MASK, token_mask=MASK[:, 1:])
  scores = {'e': np.array([[1.0, np.nan, 2.0]], np.float32)}
  with pytest.raises(ValueError, match='Scores are NaN in e, and any choice'):
    experts.keep(scores, 2)
  with pytest.raises(ValueError, match=r'4 experts in 1 equal .* e has 3'):
    experts.keep({'e': np.ones((1, 3), np.float32)}, 4)


def test_a_number_of_experts_in_the_program():
  """What is built into the program cannot be cut, and nothing is returned."""
  shapes = {'router': (6, 4), 'in': (4, 6, 5), 'out': (4, 5, 6)}
  params, x = random_like(shapes, 0), random_like((8, 6), 1)

  def apply(params, x):
    y = one_layer(params, x, combine='one-hot')
    return y * params['router'].shape[1]

  groups = lth.structure.groups(apply, params, x)
  (name,) = (n for n, g in groups.items() if 'sorted' in g.pins)
  with pytest.raises(ValueError, match='Is there a number of experts in the'):
    experts.cut(apply, params, {name: np.arange(4) < 3}, x)


def test_bad_arguments():
  with pytest.raises(ValueError, match=r'names 0 values "g" and 1 "expert_out'):
    experts.routing(APPLY, PARAMS, TOKENS, gate='g')
  groups = {'blocks/mlp/experts/down/kernel[2]': np.ones(24, bool)}
  with pytest.raises(
    ValueError, match=r'Not groups of experts: blocks/mlp/exp'
  ):
    experts.cut(APPLY, PARAMS, groups, TOKENS)
  one = {GROUP: np.array([[True] + [False] * 4] * 2)}
  with pytest.raises(ValueError, match='Each token is sent to 2 experts, but'):
    experts.cut(APPLY, PARAMS, one, TOKENS)
  uneven = {GROUP: np.array([[True] * 5, [True] * 4 + [False]])}
  with pytest.raises(ValueError, match=r'keeps \[5, 4\]'):
    experts.cut(APPLY, PARAMS, uneven, TOKENS)
  with pytest.raises(TypeError, match='must be a `Routing`'):
    experts.reap(PARAMS)
