"""Budgets: published tables, and that nothing is lost in the spreading."""

import math
import re

import jax
import numpy as np
import pytest

import lthjax as lth
from lthjax import densities
from lthjax.axes import Axes

LENET = {
  'fc1/kernel': (784, 300),
  'fc2/kernel': (300, 100),
  'output/kernel': (100, 10),
}
SPARSITIES = [0.0, 0.3, 0.5, 0.8, 0.9, 0.95, 0.965, 0.99, 0.999]


def resnet_50():
  """Kernel and number of output positions of every layer (v1.5, 224 × 224)."""
  layers = {'conv1/kernel': ((7, 7, 3, 64), 112**2)}
  width, size = 64, 56
  for stage, blocks in enumerate((3, 4, 6, 3)):
    narrow = 64 * 2**stage
    for block in range(blocks):
      name = f'stage{stage + 1}/block{block + 1}'
      layers[f'{name}/conv1/kernel'] = (1, 1, width, narrow), size**2
      if block == 0 and stage > 0:  # the stride is in the 3 × 3 convolution
        size //= 2
      layers[f'{name}/conv2/kernel'] = (3, 3, narrow, narrow), size**2
      layers[f'{name}/conv3/kernel'] = (1, 1, narrow, 4 * narrow), size**2
      if block == 0:
        layers[f'{name}/shortcut/kernel'] = (1, 1, width, 4 * narrow), size**2
      width = 4 * narrow
  layers['output/kernel'] = (width, 1000), 1
  return layers


RESNET = {name: shape for name, (shape, _) in resnet_50().items()}
MACS = {name: math.prod(s) * n for name, (s, n) in resnet_50().items()}


def weights(shapes, spread=None):
  """Number of weights, or of those that stay alive."""
  return sum(
    math.prod(shape) * (1 if spread is None else spread[name])
    for name, shape in shapes.items()
  )


def cost(spread):
  """Multiplications of the sparse ResNet-50 per one of the dense."""
  return sum(MACS[n] * spread[n] for n in MACS) / sum(MACS.values())


def test_the_resnet_is_the_one_of_the_tables():
  assert len(RESNET) == 54
  assert weights(RESNET) == 25_502_912
  assert sum(MACS.values()) == 4_089_184_256


@pytest.mark.parametrize(
  ('sparsity', 'expected'),
  [
    (0.8, [0.8378, 0.5306, 0.0]),
    (0.9, [0.9204, 0.7698, 0.0]),
    (0.95, [0.9615, 0.8887, 0.0815]),
    (0.98, [0.9846, 0.9555, 0.6326]),
    (0.99, [0.9923, 0.9777, 0.8163]),
  ],
)
def test_erk_on_lenet(sparsity, expected):
  spread = densities.erk(LENET, sparsity)
  assert [round(1 - d, 4) for d in spread.values()] == expected
  assert list(spread) == list(LENET)


@pytest.mark.parametrize(
  ('sparsity', 'erk', 'erk_conv1', 'uniform_conv1', 'dense_layers'),
  [
    (0.8, 0.4138, 0.4178, 0.2231, 8),
    (0.9, 0.2418, 0.2581, 0.1260, 1),
    (0.95, 0.1217, 0.1438, 0.0774, 0),
    (0.965, 0.0852, 0.1091, 0.0628, 0),
    (0.99, 0.0243, 0.0512, 0.0386, 0),
  ],
)
def test_cost_of_resnet_50(
  sparsity, erk, erk_conv1, uniform_conv1, dense_layers
):
  spread = densities.erk(RESNET, sparsity)
  assert round(cost(spread), 4) == erk
  assert sum(d == 1 for d in spread.values()) == dense_layers
  # Uniform: conv1 is dense on top of the budget, as in the reference code.
  conv1_dense = densities.custom({'conv1/*': 1.0})
  assert round(cost(conv1_dense(RESNET, sparsity)), 4) == uniform_conv1
  # ERK: conv1 is dense within the budget of 1 - sparsity of all weights.
  conv1_dense = densities.custom(
    {'conv1/*': 1.0}, densities.erk, keep_total=True
  )
  spread = conv1_dense(RESNET, sparsity)
  assert spread['conv1/kernel'] == 1
  assert round(cost(spread), 4) == erk_conv1
  np.testing.assert_allclose(
    weights(RESNET, spread), (1 - sparsity) * weights(RESNET)
  )


@pytest.mark.parametrize('sparsity', SPARSITIES)
@pytest.mark.parametrize('shapes', [LENET, RESNET], ids=['lenet', 'resnet'])
@pytest.mark.parametrize('name', ['uniform', 'er', 'erk'])
def test_the_budget_is_spent(name, shapes, sparsity):
  spread = getattr(densities, name)(shapes, sparsity)
  assert list(spread) == list(shapes)
  assert all(0 < d <= 1 for d in spread.values())
  np.testing.assert_allclose(
    weights(shapes, spread), (1 - sparsity) * weights(shapes), rtol=1e-12
  )


@pytest.mark.parametrize('sparsity', SPARSITIES[1:])
def test_free_layers_are_in_proportion(sparsity):
  for function, raw in [
    (densities.er, lambda s: sum(s[-2:]) / math.prod(s[-2:])),
    (densities.erk, lambda s: sum(s) / math.prod(s)),
  ]:
    spread = function(RESNET, sparsity)
    scales = {d / raw(RESNET[n]) for n, d in spread.items() if d < 1}
    np.testing.assert_allclose(list(scales), max(scales), rtol=1e-12)
    # Those that are dense would have come out above 1.
    dense = [raw(RESNET[n]) for n, d in spread.items() if d == 1]
    assert all(max(scales) * r > 1 for r in dense)


def test_er_ignores_the_kernel_axes_and_erk_does_not():
  shapes = {'conv/kernel': (3, 3, 16, 32), 'fc/kernel': (16, 32)}
  er, erk = densities.er(shapes, 0.8), densities.erk(shapes, 0.8)
  assert er['conv/kernel'] == pytest.approx(er['fc/kernel'])
  # (3 + 3 + 16 + 32) / (9 * 512) against 48 / 512.
  ratio = erk['conv/kernel'] / erk['fc/kernel']
  assert ratio == pytest.approx(54 / 9 / 48)


@pytest.mark.parametrize(
  ('name', 'shape', 'axes'),
  [
    ('layers/kernel', (12, 64, 64), None),
    ('experts/w1', (12, 64, 64), None),
    ('attention/query/kernel', (64, 4, 16), None),
    ('attention/out/kernel', (4, 16, 64), None),
    ('blocks/q_proj/kernel', (12, 64, 4, 16), None),
    ('qkv/kernel', (64, 1, 4, 16), None),
    ('w', (64, 12, 64), Axes(stack=(1,), inputs=(0,), outputs=(2,))),
  ],
)
def test_kernels_of_any_layout(name, shape, axes):
  layers = math.prod(shape) // 64**2
  single = {f'w{i}': (64, 64) for i in range(layers)} | {'head': (64, 10)}
  given = None if axes is None else {name: axes}
  for function in (densities.er, densities.erk):
    spread = function({name: shape, 'head': (64, 10)}, 0.9, axes=given)
    expected = function(single, 0.9)
    assert spread['head'] == pytest.approx(expected['head'])
    assert spread[name] == pytest.approx(expected['w0'])


def test_stacked_layers_by_hand():
  shapes = {'layers/kernel': (12, 64, 64), 'out/kernel': (64, 10)}
  # 128 / 4096 and 74 / 640 share 4979.2 weights: 3.0927 of each.
  found = densities.erk(shapes, 0.9)
  assert [round(d, 3) for d in found.values()] == [0.097, 0.358]
  attention = {'q_proj/kernel': (64, 4, 16), 'fc/kernel': (64, 256)}
  flat = {'q_proj/kernel': (64, 64), 'fc/kernel': (64, 256)}
  assert densities.er(attention, 0.9) == densities.er(flat, 0.9)


def test_kernels_that_can_be_read_in_two_ways_are_refused():
  shapes = {'w': (4, 8, 8), 'fc': (8, 8)}
  for function in (densities.er, densities.erk):
    with pytest.raises(ValueError, match=r'layers in w \(4, 8, 8\)\. Ask'):
      function(shapes, 0.5)
  masks = {name: np.ones(shape, bool) for name, shape in shapes.items()}
  scores = {name: np.ones(shape) for name, shape in shapes.items()}
  with pytest.raises(ValueError, match=r'layers in w \(4, 8, 8\)\. Ask'):
    lth.prune(scores, masks, sparsity=0.5, densities=densities.erk)
  # A distribution that knows nothing of axes needs none.
  pruned = lth.prune(
    scores, masks, sparsity=0.5, densities=lambda s, _: dict.fromkeys(s, 0.5)
  )
  assert lth.masks.alive_by_name(pruned) == {'w': 128, 'fc': 32}
  message = 'a density of its own, but layers/w stacks several'
  with pytest.raises(ValueError, match=message):
    densities.smart_ratio()({'layers/w': (3, 4, 4), 'out/w': (4, 4)}, 0.5)


def test_empty_leaves():
  shapes = {'lora': (4, 0), 'fc': (8, 8), 'out': (8, 4)}
  rest = {'fc': (8, 8), 'out': (8, 4)}
  for function in (densities.uniform, densities.er, densities.erk):
    found = function(shapes, 0.5)
    assert {n: found[n] for n in rest} == function(rest, 0.5)
    assert 0 <= found['lora'] <= 1
    assert function({'lora': (4, 0)}, 0.5).keys() == {'lora'}
    assert function({}, 0.5) == {}
  found = densities.smart_ratio()(shapes, 0.5)
  assert found['lora'] == 0


@pytest.mark.parametrize('sparsity', [90, 1, 1.0, -0.1, math.nan, 'high', None])
@pytest.mark.parametrize(
  'spread',
  [
    densities.uniform,
    densities.er,
    densities.erk,
    densities.smart_ratio(),
    densities.custom({'fc1/*': 1.0}),
  ],
)
def test_sparsities_out_of_range(spread, sparsity):
  with pytest.raises((TypeError, ValueError), match='`sparsity` was'):
    spread(LENET, sparsity)


@pytest.mark.parametrize('shapes', [None, 'w', 3, [(4, 4)], {'w': 4}, abs])
@pytest.mark.parametrize(
  'spread',
  [
    densities.uniform,
    densities.er,
    densities.erk,
    densities.smart_ratio(),
    densities.custom({}),
  ],
)
def test_shapes_of_a_wrong_type(spread, shapes):
  with pytest.raises(
    TypeError, match=r'`shapes` .*must map names of leaves to shapes'
  ):
    spread(shapes, 0.5)


@pytest.mark.parametrize('wrong', [3, 1.5, [1], abs])
def test_arguments_of_a_wrong_type(wrong):
  with pytest.raises(TypeError, match=r'`order` was .*, but must be a list of'):
    densities.smart_ratio(wrong)
  with pytest.raises(
    TypeError, match=r'`fixed` was .*, but must map globs to dens'
  ):
    densities.custom(wrong)
  with pytest.raises((TypeError, ValueError), match='`last` was'):
    densities.smart_ratio(last=[wrong])
  with pytest.raises((TypeError, ValueError), match='`decay` was'):
    densities.smart_ratio(decay=-1 if wrong == 3 else wrong)


def test_all_layers_alike():
  shapes = {'a': (64, 64), 'b': (64, 64)}
  for spread in (densities.er, densities.erk):
    assert spread(shapes, 0.25) == pytest.approx({'a': 0.75, 'b': 0.75})
    assert spread(shapes, 0.0) == {'a': 1.0, 'b': 1.0}


def test_custom():
  spread = densities.custom({'output/*': 0.5, 'o*': 0.1, 'fc2/*': 0.0})
  assert spread(LENET, 0.9) == pytest.approx(
    {'fc1/kernel': 0.1, 'fc2/kernel': 0.0, 'output/kernel': 0.5}
  )
  everything = densities.custom({'*': 0.3}, densities.erk)(LENET, 0.9)
  assert everything == dict.fromkeys(LENET, 0.3)
  rest = {n: s for n, s in LENET.items() if n != 'output/kernel'}
  spread = densities.custom({'output/*': 1.0}, densities.erk)(LENET, 0.9)
  assert spread == {**densities.erk(rest, 0.9), 'output/kernel': 1.0}


SHAPES = {'a': (2, 5), 'b': (2, 10), 'c': (2, 10)}


def test_custom_within_the_total():
  spread = densities.custom({'a': 1.0, 'b': 0.0}, keep_total=True)
  assert spread(SHAPES, 0.5) == {'a': 1, 'b': 0, 'c': pytest.approx(0.75)}
  # As far as it goes: all of `c`, and nothing of it.
  assert spread(SHAPES, 0.4) == {'a': 1, 'b': 0, 'c': 1}
  assert spread(SHAPES, 0.8) == {'a': 1, 'b': 0, 'c': pytest.approx(0)}
  everything = densities.custom({'*': 0.5}, keep_total=True)
  assert everything(SHAPES, 0.5) == dict.fromkeys(SHAPES, 0.5)
  nothing = densities.custom({}, densities.erk, keep_total=True)
  assert nothing(LENET, 0.9) == pytest.approx(densities.erk(LENET, 0.9))


@pytest.mark.parametrize(
  ('fixed', 'sparsity', 'message'),
  [
    (
      {'a': 1.0},
      0.9,
      'A sparsity of 0.9 keeps 5 weights, but `fixed` takes 10 of them for a,'
      ' and there are 40 others. Change the sparsity or the fixed densities, or'
      ' leave the fixed layers out of the budget with `keep_total=False`.',
    ),
    (
      {'a': 0.0, 'b': 0.0},
      0.5,
      'keeps 25 weights, but `fixed` takes 0 of them',
    ),
    ({'*': 1.0}, 0.5, 'takes 50 of them for a, b, c, and there are 0 others'),
  ],
)
def test_totals_that_cannot_be_kept(fixed, sparsity, message):
  spread = densities.custom(fixed, keep_total=True)
  with pytest.raises(ValueError, match=re.escape(message)):
    spread(SHAPES, sparsity)


def test_custom_on_bad_input():
  with pytest.raises(ValueError, match=r'given as a: 1\.5; c: -0\.1'):
    densities.custom({'a': 1.5, 'b': 1.0, 'c': -0.1})
  with pytest.raises(ValueError, match='given as a: nan'):
    densities.custom({'a': math.nan})
  with pytest.raises(ValueError, match=r"match no prunable leaf: 'conv\*'"):
    densities.custom({'conv*': 1.0})(LENET, 0.9)


def test_prune_by_densities():
  masks = {n: np.ones(s, bool) for n, s in LENET.items()}
  scores = {n: np.ones(s, np.float32) for n, s in LENET.items()}
  spread = densities.erk(LENET, 0.9)
  pruned = lth.prune(scores, masks, sparsity=0.9, densities=densities.erk)
  assert lth.masks.alive_by_name(pruned) == {
    name: round(math.prod(shape) * spread[name])
    for name, shape in LENET.items()
  }
  assert lth.masks.count(pruned) == 26_620


def test_smart_ratio_by_hand():
  # 90 are left, of which 30 in the last. 12 * 100 and 6 * 200 share the rest.
  shapes = {'a': (10, 10), 'b': (10, 20), 'out': (10, 10)}
  found = densities.smart_ratio()(shapes, 0.775)
  assert found == pytest.approx({'a': 0.3, 'b': 0.15, 'out': 0.3})
  # The second is divided by four: 100 * 12 to 200 * 1.5.
  found = densities.smart_ratio(decay=2, last=0.0)(shapes, 0.7)
  assert found == pytest.approx({'a': 0.96, 'b': 0.12, 'out': 0.0})


def test_smart_ratio_spills():
  shapes = {'a': (10, 10), 'b': (10, 20), 'out': (10, 10)}
  # 240 - 30 for both; half of that, 105, is for the first, which holds 100.
  found = densities.smart_ratio()(shapes, 0.4)
  assert found == pytest.approx({'a': 1.0, 'b': 0.55, 'out': 0.3})
  found = densities.smart_ratio(last=1.0)(shapes, 0.0)
  assert found == pytest.approx({'a': 1.0, 'b': 1.0, 'out': 1.0})


def test_smart_ratio_goes_from_input_to_output():
  shapes = dict.fromkeys(
    ['blocks/1/w', 'blocks/10/w', 'blocks/2/w', 'output/w', 'stem/w'], (9, 9)
  )
  order = ['stem/*', 'blocks/*', 'output/*']
  found = densities.smart_ratio(order)(shapes, 0.8)
  names = ['stem/w', 'blocks/1/w', 'blocks/2/w', 'blocks/10/w']
  ratios = np.array([found[name] for name in names])
  np.testing.assert_allclose(ratios / ratios[3], [5, 20 / 6, 2, 1])
  assert found['output/w'] == pytest.approx(0.3)
  assert sum(found.values()) == pytest.approx(1.0)
  # By name, the stem would be the last.
  assert densities.smart_ratio()(shapes, 0.8)['stem/w'] == pytest.approx(0.3)


@pytest.mark.parametrize(
  ('make', 'sparsity', 'message'),
  [
    (
      lambda: densities.smart_ratio(last=1.5),
      0.5,
      '`last` was 1.5, but must be in',
    ),
    (
      lambda: densities.smart_ratio(['a']),
      0.5,
      '`order` does not place b, out. It must',
    ),
    (
      lambda: densities.smart_ratio(['a', 'x', '*']),
      0.5,
      "`order` has patterns that match no prunable leaf: 'x'",
    ),
    (
      densities.smart_ratio,
      0.93,
      'A sparsity of 0.93 leaves -2 weights to all layers but out, which keeps'
      ' 30; there must be more than 0 and at most 300. Choose',
    ),
    (densities.smart_ratio, 0.1, 'leaves 330 weights to all layers but out'),
  ],
)
def test_smart_ratio_out_of_range(make, sparsity, message):
  shapes = {'a': (10, 10), 'b': (10, 20), 'out': (10, 10)}
  with pytest.raises(ValueError, match=re.escape(message)):
    make()(shapes, sparsity)


@pytest.mark.parametrize('names', [[], ['out']])
def test_smart_ratio_needs_two_layers(names):
  found = ''.join(names) or 'none'
  message = f'two prunable layers or more, but there is {found}. Use'
  with pytest.raises(ValueError, match=re.escape(message)):
    densities.smart_ratio()(dict.fromkeys(names, (4, 4)), 0.5)


EQUAL = {'a': (10, 10), 'b': (10, 10), 'c': (10, 10)}


def test_owl_by_hand():
  spread = densities.owl({'a': 1, 'b': 2, 'c': 5}, lam=0.08)
  found = spread(EQUAL, 0.7)
  expected = {'a': 0.766667, 'b': 0.726667, 'c': 0.606667}
  assert {n: 1 - d for n, d in found.items()} == pytest.approx(
    expected, abs=1e-6
  )
  found = spread(EQUAL | {'c': (10, 20)}, 0.7)
  expected = {'a': 0.79, 'b': 0.75, 'c': 0.63}
  assert {n: 1 - d for n, d in found.items()} == pytest.approx(expected)
  assert densities.owl({'a': 1})({}, 0.7) == {}
  same = densities.owl(dict.fromkeys('abc', 3))(EQUAL, 0.7)
  assert same == pytest.approx(dict.fromkeys('abc', 0.3))


@pytest.mark.parametrize('sparsity', [0.02, 0.7, 0.99])
def test_owl_spends_the_budget_where_densities_are_clipped(sparsity):
  shares = {
    'a': np.array([[0, 1, 5], [2, 2, 9]]),
    'b': np.array([4.0]),
    'c': 0.5,
  }
  shapes = {'a': (2, 3, 7, 5), 'b': (1, 50, 10), 'c': (30, 20)}
  found = densities.owl(shares, lam=0.3)(shapes, sparsity)
  assert found['a'].shape == (2, 3)
  assert isinstance(found['c'], float)
  every = np.concatenate([np.ravel(found[n]) for n in 'abc'])
  assert ((every >= 0) & (every <= 1)).all()
  kept = sum(
    np.mean(found[n]) * math.prod(shape) for n, shape in shapes.items()
  )
  assert kept == pytest.approx((1 - sparsity) * 1310, abs=1e-6)


def test_outliers_of_blocks():
  """Scores of a block are compared with the mean of the block."""
  first = np.array([[1, 1], [1, 1], [1, 10]], np.float32)
  params = {
    'blocks': {
      '0': {'up': first, 'down': np.full((2, 2), 4, np.float32)},
      '1': {'up': np.ones((3, 2), np.float32)},
    },
    'output': np.array([[1.0], [-9.0]], np.float32),
  }
  squares = {
    'blocks/0/up': np.ones(3, np.float32),
    'blocks/0/down': np.array([1, 0.25], np.float32),
    'blocks/1/up': np.ones(3, np.float32),
    'output': np.diag(np.array([4, 1], np.float32)),  # A Gram matrix.
  }
  counts = dict.fromkeys(squares, np.int32(1))
  found = densities.outliers(
    lth.Calibration(squares, counts), params, m=3, axes={
      '*': Axes(inputs=(0,), outputs=(1,))
    }
  )  # fmt: skip
  # (5 * 1 + 10 + 2 * 4 + 2 * 2) / 10 = 2.7: only 10 is above 8.1.
  assert found == {
    'blocks/0/up': 0.1, 'blocks/0/down': 0.1, 'blocks/1/up': 0, 'output': 0
  }  # fmt: skip
  assert densities.outliers(
    lth.Calibration({'w': np.ones(5, np.float32)}, {'w': np.int32(1)}),
    {'w': np.array([[1], [1], [1], [1], [10]], np.float32)},
    m=3,
  ) == {'w': 0.2}
  alone = densities.outliers(
    lth.Calibration(squares, counts), params, m=1.5, block=lambda name: name,
    axes={'*': Axes(inputs=(0,), outputs=(1,))},
  )  # fmt: skip
  assert alone == {
    'blocks/0/up': 1 / 6, 'blocks/0/down': 0, 'blocks/1/up': 0, 'output': 0.5
  }  # fmt: skip


@pytest.mark.slow
def test_owl_on_a_scanned_stack_is_that_of_its_layers():
  rng = np.random.default_rng(0)
  w = rng.standard_normal((3, 6, 6)).astype(np.float32)
  w[1, 2, 3] = 50
  v = rng.standard_normal((3, 6, 6)).astype(np.float32)
  x = rng.standard_normal((20, 6)).astype(np.float32)
  params = {'layers': {'a': {'kernel': w}, 'b': {'kernel': v}}}

  def apply(params, x):
    def layer(x, p):
      return np.tanh(1) * (x @ p['a']['kernel'] @ p['b']['kernel']), None

    return jax.lax.scan(layer, x, params['layers'])[0]

  found = lth.calibrate(apply, params, x)
  shares = densities.outliers(found, params)
  parts = {
    f'layers/{i}/{n}/kernel': params['layers'][n]['kernel'][i]
    for i in range(3)
    for n in 'ab'
  }
  sums = {n: found.sums[f'layers/{n[9]}/kernel'][int(n[7])] for n in parts}
  alone = densities.outliers(
    lth.Calibration(sums, dict.fromkeys(parts, np.int32(20))), parts
  )
  assert [*shares['layers/a/kernel']] == [
    alone[f'layers/{i}/b/kernel'] for i in range(3)
  ]
  shapes = {f'layers/{n}/kernel': (3, 6, 6) for n in 'ab'}
  spread = densities.owl(shares)(shapes, 0.5)
  pruned = lth.prune_program(
    apply, params, x, rule=lth.rules.magnitude(0.5),
    sparsity={n: 1 - d for n, d in spread.items()},
  )  # fmt: skip
  kept = pruned.masks['layers']['a']['kernel'].sum((1, 2))
  assert kept[1] > kept[0]
  assert lth.masks.density(pruned.masks) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
  ('call', 'error', 'text'),
  [
    (lambda: densities.owl({'a': -1.0}), ValueError, 'not negative.* of a'),
    (lambda: densities.owl({'a': np.nan}), ValueError, 'finite.* of a'),
    (lambda: densities.owl([1.0]), TypeError, 'shares'),
    (lambda: densities.owl({'a': []}), ValueError, 'No shares for a'),
    (
      lambda: densities.owl({'a': 1.0})({'b': (2, 2)}, 0.5),
      ValueError,
      'no share for b',
    ),
    (lambda: densities.outliers({'w': 1}, {'w': 1}), TypeError, 'calibrate'),
    (
      lambda: densities.outliers(
        lth.Calibration({'w[0]': np.ones(2)}, {'w[0]': np.int32(1)}),
        {'w': np.ones((2, 2))},
      ),
      ValueError,
      r'no leaves w\[0\]',
    ),
    (
      lambda: densities.outliers(
        lth.Calibration({'w': np.ones(3)}, {'w': np.int32(1)}),
        {'w': np.ones((2, 2))},
      ),
      ValueError,
      r'statistic of w has the shape \(3,\)',
    ),
  ],
)
def test_owl_on_bad_input(call, error, text):
  with pytest.raises(error, match=text):
    call()
