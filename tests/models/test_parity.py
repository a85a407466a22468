"""Logits beside those of transformers on PyTorch, with the extra `parity`."""

import jax
import language_models
import numpy as np
import pytest

from lthjax import models

CASES = language_models.cases()


@pytest.mark.slow
@pytest.mark.parametrize('attention', ['eager', 'sdpa'])
@pytest.mark.parametrize('name', CASES)
def test_logits_are_those_of_transformers(tmp_path, name, attention):
  reason = 'needs PyTorch and transformers: `pip install lthjax[parity]`'
  torch = pytest.importorskip('torch', reason=reason)
  transformers = pytest.importorskip('transformers', reason=reason)
  config = CASES[name]
  params = language_models.random_params(config)
  models.save_hf(tmp_path / name, config, params)
  kind = 'AutoModelForCausalLM'
  inputs = dict(
    zip(
      ('input_ids', 'attention_mask', 'token_type_ids'),
      language_models.inputs(config),
      strict=False,
    )
  )
  if name == 'bert':
    kind = 'AutoModelForMaskedLM'
  model = getattr(transformers, kind).from_pretrained(
    tmp_path / name, attn_implementation=attention, dtype=torch.float32
  )
  with torch.no_grad():
    theirs = model.eval()(
      **{key: torch.tensor(x, dtype=torch.long) for key, x in inputs.items()}
    ).logits.numpy()
  apply = jax.jit(language_models.network(config).apply)
  ours = np.asarray(apply(params, *inputs.values()))
  mask = inputs['attention_mask']
  np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4, rtol=0)
