"""Convolutions as matmuls of patches, against NumPy's."""

import itertools

import jax
import numpy as np
import pytest
from helpers import keys, largest, random_like

import lthjax as lth
from lthjax import models
from lthjax.calibration import _patches

CASES = {
  'strides': (
    'NHWC',
    'HWIO',
    (3, 6, 5, 4),
    (3, 2, 4, 6),
    {'window_strides': (2, 1)},
  ),
  'layout, pads and dilation': (
    'NCHW',
    'OIHW',
    (2, 4, 7, 6),
    (6, 4, 2, 3),
    {
      'window_strides': (1, 2),
      'padding': ((1, 0), (2, -1)),
      'rhs_dilation': (2, 1),
    },
  ),
  'groups': (
    'NWC',
    'WIO',
    (2, 9, 4),
    (3, 2, 6),
    {'feature_group_count': 2, 'padding': ((2, 1),)},
  ),
  'one channel per group, transposed': (
    'NWC',
    'WIO',
    (2, 5, 3),
    (2, 1, 3),
    {'feature_group_count': 3, 'lhs_dilation': (2,)},
  ),
}
WANDA = lth.rules.wanda(0.5)


def case(name):
  image, filters, x_shape, shape, options = CASES[name]
  spatial = len(x_shape) - 2
  options = {
    'window_strides': (1,) * spatial,
    'padding': ((0, 0),) * spatial,
  } | options
  tree = random_like({'x': x_shape, 'w': shape}, 0)
  specs = (image, filters, image)

  def apply(params, x):
    return jax.lax.conv_general_dilated(
      x, params['w'], dimension_numbers=specs, **options
    )

  return apply, {'w': tree['w']}, tree['x'], specs, options


def im2col(x, kernel_shape, specs, options):
  """Patches ``[groups, tokens, window x channels]``, one entry at a time."""
  image, filters, _ = specs
  names = [c for c in image if c not in 'NC']
  x = x.transpose([image.index(c) for c in ('N', 'C', *names)])
  window = [kernel_shape[filters.index(c)] for c in names]
  ones = (1,) * len(names)
  spread, gaps = (
    options.get(n, ones) for n in ('lhs_dilation', 'rhs_dilation')
  )
  groups = options.get('feature_group_count', 1)
  sizes, low = [], []
  for i, n in enumerate(x.shape[2:]):
    (before, after), d = options['padding'][i], spread[i]
    padded = (n - 1) * d + 1 + before + after
    low.append(before)
    reach = (window[i] - 1) * gaps[i] + 1
    sizes.append((padded - reach) // options['window_strides'][i] + 1)
  depth = x.shape[1] // groups
  out = np.zeros((groups, len(x), *sizes, *window, depth))
  for place in itertools.product(*map(range, sizes)):
    for offset in itertools.product(*map(range, window)):
      at = [
        p * s + o * gap - before
        for p, s, o, gap, before in zip(
          place, options['window_strides'], offset, gaps, low, strict=True
        )
      ]
      inside = all(
        a >= 0 and a % d == 0 and a // d < n
        for a, d, n in zip(at, spread, x.shape[2:], strict=True)
      )
      if inside:
        where = tuple(a // d for a, d in zip(at, spread, strict=True))
        values = x[(slice(None), slice(None), *where)]
        values = values.reshape(len(x), groups, depth)
        out[(slice(None), slice(None), *place, *offset)] = values.swapaxes(0, 1)
  return out.reshape(groups, len(x) * np.prod(sizes), -1)


def columns(kernel, filters, groups):
  """The kernel as ``[groups, window x channels, filters of the group]``."""
  window = [c for c in filters if c not in 'IO']
  kernel = kernel.transpose([filters.index(c) for c in (*window, 'I', 'O')])
  kernel = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
  return kernel.swapaxes(0, 1)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name != 'groups'))
    for name in CASES
  ],
)
def test_patches_times_columns_are_the_convolution(name):
  apply, params, x, specs, options = case(name)
  seen = im2col(x, params['w'].shape, specs, options)
  groups = len(seen)
  y = np.asarray(apply(params, x))
  image = specs[0]
  y = y.transpose(
    [image.index(c) for c in image if c != 'C'] + [image.index('C')]
  )
  y = y.reshape(-1, groups, y.shape[-1] // groups).swapaxes(0, 1)
  kernels = columns(params['w'], specs[1], groups)
  np.testing.assert_allclose(y, seen @ kernels, atol=1e-4)
  found = lth.calibrate(apply, params, x, stat=lth.stats.gram)
  grams = np.einsum('gti,gtj->gij', seen, seen)
  np.testing.assert_allclose(
    found.sums['w'], grams if groups > 1 else grams[0], atol=1e-3
  )
  assert found.counts['w'] == seen.shape[1]
  pruned = lth.prune_program(apply, params, x, rule=WANDA)
  scores = (
    abs(kernels) * np.sqrt(np.einsum('gti,gti->gi', seen, seen))[..., None]
  )
  kept = scores.shape[1] - round(scores.shape[1] / 2 + 1e-9)
  mask = columns(np.asarray(pruned.masks['w']), specs[1], groups)
  for group, its in zip(scores, mask, strict=True):
    expected = np.stack([largest(s, kept) for s in group.T], 1)
    assert (its == expected).all()
  np.testing.assert_allclose(pruned.output, apply(pruned.params, x), atol=1e-5)


@pytest.mark.slow
def test_padding_and_parts_of_a_batch(monkeypatch):
  apply, params, x, *_ = case('strides')
  valid = np.array([True, False, True])
  found = lth.calibrate(apply, params, x, token_mask=valid)
  alone = lth.calibrate(apply, params, x[valid])
  np.testing.assert_allclose(found.sums['w'], alone.sums['w'], rtol=1e-6)
  assert found.counts['w'] == alone.counts['w']
  monkeypatch.setattr(_patches, '_LARGEST', 1000)  # Two images at a time.
  jax.clear_caches()
  parts = lth.calibrate(apply, params, x, token_mask=valid)
  np.testing.assert_allclose(parts.sums['w'], found.sums['w'], rtol=1e-6)
  with pytest.raises(ValueError, match=r'not certain.* at w'):
    lth.calibrate(apply, params, x, token_mask=np.ones((3, 6), bool))


@pytest.mark.slow
def test_groups_of_m_do_not_span_places():
  apply, params, x, *_ = case('strides')
  rule = lth.rules.wanda(pattern=lth.patterns.NM(1, 2))
  mask = np.asarray(lth.prune_program(apply, params, x, rule=rule).masks['w'])
  assert (mask.reshape(3, 2, 2, 2, 6).sum(3) == 1).all()
  rule = lth.rules.wanda(pattern=lth.patterns.NM(2, 8))
  with pytest.raises(ValueError, match='w has 4 inputs, not a multiple of 8'):
    lth.prune_program(apply, params, x, rule=rule)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:There are fewer than 2 tokens')
@pytest.mark.parametrize('name', ['resnet_20', 'conv_6'])
def test_vision_models_by_the_same_call(name):
  options = {'width': 0.25} if name == 'conv_6' else {}
  model = getattr(models, name)(input_shape=(8, 8, 3), classes=4, **options)
  params, state = model.init(keys(0))
  x = random_like({'x': (32, 8, 8, 3)}, 0)['x']

  def apply(params, x):
    return model.apply(params, state, x)[0]

  where = '*conv*/kernel'
  rules = [lth.rules.magnitude(0.5), WANDA]
  if name == 'conv_6':
    rules.append(lth.rules.sparse_gpt(0.5))
  losses, dense = [], apply(params, x)
  for rule in rules:
    found = lth.prune_program(apply, params, x, rule=rule, where=where)
    assert lth.masks.density(found.masks) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(
      found.output, apply(found.params, x), rtol=1e-3, atol=1e-3
    )
    losses.append(float(((found.output - dense) ** 2).mean()))
  assert len(losses) < 3 or losses[2] < losses[0]
