"""ViT-B/16: sizes of the paper, an oracle in NumPy, and masks on it."""

import math
import re

import jax
import numpy as np
import pytest
from scipy import special

import lthjax as lth
from lthjax import models


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0))[0]


def test_sizes():
  params = shapes(models.vit_b_16())
  assert sum(x.size for x in jax.tree.leaves(params)) == 86_567_656
  kernels = {
    n: x.shape for n, x in lth.trees.by_name(params).items() if 'kernel' in n
  }
  assert kernels == {
    'conv1/kernel': (16, 16, 3, 768),
    **{
      f'blocks/attention/{name}/kernel': (12, 768, 12, 64)
      for name in ('query', 'key', 'value')
    },
    'blocks/attention/out/kernel': (12, 12, 64, 768),
    'blocks/mlp/up/kernel': (12, 768, 3072),
    'blocks/mlp/down/kernel': (12, 3072, 768),
    'output/kernel': (768, 1000),
  }
  masks = jax.eval_shape(lth.masks.full, params)
  assert set(lth.trees.prunable(masks)) == set(kernels)


def norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
  return x * p['scale'] + p['bias']


def oracle(p, x):
  """Image by image, layer by layer, head by head."""
  found = []
  for image in x:
    rows, columns = (n // 16 for n in image.shape[:2])
    patches = [
      image[16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
      for i in range(rows)
      for j in range(columns)
    ]
    kernel = p['conv1']['kernel']
    h = np.stack([np.tensordot(patch, kernel, 3) for patch in patches])
    h = np.concatenate([p['class_token'][0], h + p['conv1']['bias']])
    h = h + p['position_embedding'][0]
    for i in range(12):
      block = jax.tree.map(lambda w, i=i: w[i], p['blocks'])
      a, y = block['attention'], norm(h, block['attention_norm'])
      for head in range(12):
        q, k, v = (
          y @ a[n]['kernel'][:, head] + a[n]['bias'][head]
          for n in ('query', 'key', 'value')
        )
        weights = special.softmax(q @ k.T / math.sqrt(q.shape[1]), axis=-1)
        h = h + weights @ v @ a['out']['kernel'][head]
      h = h + a['out']['bias']
      y, m = norm(h, block['mlp_norm']), block['mlp']
      y = y @ m['up']['kernel'] + m['up']['bias']
      y = y * special.ndtr(y)  # the exact GELU
      h = h + y @ m['down']['kernel'] + m['down']['bias']
    y = norm(h, p['norm'])[0]
    found.append(y @ p['output']['kernel'] + p['output']['bias'])
  return np.stack(found)


def test_the_formula():
  model = models.vit_b_16((40, 32, 1), 3, width=1 / 32)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), shapes(model)
  )
  x = rng.normal(size=(2, 40, 32, 1)).astype(np.float32)
  logits, state = jax.jit(model.apply)(params, {}, x)
  assert state == {}
  expected = oracle(jax.tree.map(np.float64, params), np.float64(x))
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_axes():
  """Heads apart, layers stacked: what fan-in and budgets need to know."""
  axes = lth.axes.by_layout(shapes(models.vit_b_16()))
  query = axes['blocks/attention/query/kernel']
  assert (query.stack, query.inputs, query.outputs) == ((0,), (1,), (2, 3))
  out = axes['blocks/attention/out/kernel']
  assert (out.stack, out.inputs, out.outputs) == ((0,), (1, 2), (3,))
  up = axes['blocks/mlp/up/kernel']
  assert (up.stack, up.inputs, up.outputs) == ((0,), (1,), (2,))
  assert axes['conv1/kernel'].summed == (0, 1, 2)


def test_bad_arguments():
  message = (
    '`vit_b_16` was given input_shape=(15, 16, 3), but with its poolings it'
    ' needs at least 16 x 16 pixels'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    models.vit_b_16((15, 16, 3))
  with pytest.raises(ValueError, match=r'width=0\.001, but it multi'):
    models.vit_b_16(width=0.001)
