"""Decoders, pruned block by block."""

import jax
import numpy as np
import optax
import pytest
from helpers import bits
from language_models import (
  inputs,
  llama_config,
  moe_config,
  network,
  random_params,
)

import lthjax as lth
from lthjax import models

CONFIG = llama_config(tied=True)
TX = optax.adam(1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
  'config',
  [CONFIG, pytest.param(moe_config(shared_mlp=20), marks=pytest.mark.slow)],
)
def test_blocks_make_up_the_decoder(config):
  model, params = network(config), random_params(config)
  tokens, mask = inputs(config)
  x = model.embed(params, tokens)
  for i in range(config.layers):
    x = model.block(
      jax.tree.map(lambda x, i=i: x[i], params['blocks']), x, mask
    )
  whole = model.apply(params, tokens, mask)
  np.testing.assert_allclose(
    np.asarray(model.unembed(params, x))[mask],
    np.asarray(whole)[mask],
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.slow
def test_a_pruned_decoder():
  model, params = network(CONFIG), random_params(CONFIG)
  tokens, mask = inputs(CONFIG)
  name = 'blocks/mlp/up/kernel'
  options = {
    'rule': lth.rules.wanda(0.5),
    'token_mask': mask,
    'sparsity': {name: np.array([0.25, 0.75])},
  }
  plain = models.prune_decoder(model, params, tokens, **options)
  whole = lth.prune_program(
    model.apply, params, tokens, mask, where='blocks/*', **options
  )
  assert bits(plain.masks) == bits(whole.masks)
  assert bits(plain.params) == bits(whole.params)
  assert plain.errors is None
  found = models.prune_decoder(
    model, params, tokens, tx=TX, steps=10, batch_size=2, **options
  )
  assert (found.errors[:, 1] < found.errors[:, 0]).all()
  up = found.masks['blocks']['mlp']['up']['kernel']
  assert up.sum((1, 2)).tolist() == [3 * 32 * 48 // 4, 32 * 48 // 4]
  assert found.masks['embed']['embedding'] is None
  again = models.prune_decoder(
    model, params, tokens, rule=lth.rules.magnitude(0.9), masks=found.masks
  )
  nested = jax.tree.map(lambda a, b: (a & ~b).any(), again.masks, found.masks)
  assert not any(jax.tree.leaves(nested))


def test_bad_arguments():
  model, params = network(CONFIG), random_params(CONFIG)
  tokens, _ = inputs(CONFIG)

  def prune(model=model, **options):
    rule = lth.rules.wanda(0.5)
    return models.prune_decoder(model, params, tokens, rule=rule, **options)

  with pytest.raises(TypeError, match='must be a `Decoder`'):
    prune(model=model.apply)
  with pytest.raises(ValueError, match=r'Only blocks are pruned.*embed'):
    prune(sparsity={'embed/embedding': 0.5})
  masks = lth.masks.full(params, where='embed/embedding')
  with pytest.raises(ValueError, match=r'Only blocks are pruned.*embed'):
    prune(masks=masks)
