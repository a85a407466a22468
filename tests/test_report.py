"""What reports count: dead neurons, inputs, overlaps, movement."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lthjax as lth
from lthjax import report
from lthjax.report import DistanceMoved, Layer

FC1 = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
FC2 = np.array([[0, 0], [1, 0], [1, 1]], bool)
MASKS = {
  'fc1': {'kernel': FC1, 'bias': None},
  'fc2': {'kernel': FC2, 'bias': None},
}
NAMES = ('fc1/kernel', 'fc2/kernel')
SHAPES = {'conv': (3, 3, 2, 5), 'fc': (6, 7), 'one': (1, 4)}


def random_masks(seed, density=0.3):
  rng = np.random.default_rng(seed)
  masks = {name: rng.random(x) < density for name, x in SHAPES.items()}
  return {**masks, 'bias': None}


# ---- Layers.


def test_layers_by_hand():
  assert report.layers(MASKS) == (
    Layer('fc1/bias'),
    Layer('fc1/kernel', (4, 3), 4, 12, 1, 4, 1, 3),
    Layer('fc2/bias'),
    Layer('fc2/kernel', (3, 2), 3, 6, 1, 3, 0, 2),
  )
  bias, kernel = report.layers(MASKS)[:2]
  assert (bias.density, kernel.density) == (1.0, 4 / 12)


@pytest.mark.parametrize('seed', range(3))
def test_layers_against_loops(seed):
  masks = random_masks(seed, 0.1)
  found = {layer.name: layer for layer in report.layers(masks)}
  assert list(found) == ['bias', 'conv', 'fc', 'one']
  for name, shape in SHAPES.items():
    mask, layer = masks[name], found[name]
    inputs, outputs = shape[-2:]
    dead_inputs = sum(not mask[..., i, :].any() for i in range(inputs))
    dead_outputs = sum(not mask[..., i].any() for i in range(outputs))
    dead = (dead_inputs, inputs, dead_outputs, outputs)
    assert layer == (name, shape, mask.sum(), mask.size, *dead)
    assert layer.density == mask.mean()


def test_layers_of_attention_and_of_scanned_layers():
  query = np.zeros((3, 2, 4), bool)
  query[1, 0, 3] = True
  stack = np.zeros((2, 3, 5), bool)
  stack[0, 1, 2] = stack[1, 1, 2] = True
  masks = {
    'query': {'kernel': query},
    'out': {'kernel': query},
    'stack': {'kernel': stack},
  }
  out, projection, scanned = report.layers(masks)
  assert projection[4:] == (2, 3, 7, 8)
  assert out[4:] == (5, 6, 3, 4)
  assert scanned[4:] == (4, 6, 8, 10)
  # In doubt, nothing is said; unless the caller does.
  masks = {'w': stack}
  (unsure,) = report.layers(masks)
  assert unsure[4:] == (None, None, None, None)
  axes = {'w': lth.axes.Axes(stack=(2,), inputs=(0,), outputs=(1,))}
  (layer,) = report.layers(masks, axes=axes)
  assert layer[4:] == (8, 10, 14, 15)


def test_vectors_have_no_inputs_and_leaves_may_have_no_name():
  (layer,) = report.layers(jnp.array([True, False]))
  assert layer == ('', (2,), 1, 2, None, None, None, None)
  assert 'the array' in report.text(report.capacity(jnp.array([True, False])))


def test_layers_of_nnx():
  state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
  masks = lth.masks.full(state)
  bias, kernel = report.layers(masks)
  assert (bias, kernel) == (
    Layer('bias'),
    Layer('kernel', (3, 2), 6, 6, 0, 3, 0, 2),
  )
  moved = report.distance_moved(
    state, jax.tree.map(lambda x: x + 1, state), masks
  )
  assert moved['kernel'].alive == pytest.approx(1)


@pytest.mark.parametrize(
  'look', [report.layers, lambda m: report.input_saliency(m, 'a')]
)
def test_masks_are_values_and_hold_weights(look):
  empty = {'a': np.ones((0, 3), bool), 'b': np.ones((2, 2), bool)}
  with pytest.raises(ValueError, match=r'hold no weights in a, so .* None'):
    look(empty)
  with pytest.raises(ValueError, match='hold no weights in the array, so'):
    look(empty['a'])
  with pytest.raises(ValueError, match=r'masks were traced, .* outside of'):
    jax.eval_shape(look, {'a': jnp.ones((2, 3), bool)})


# ---- Inputs.


def test_saliency_by_hand():
  counts = report.input_saliency(MASKS, 'fc1/kernel')
  assert counts.tolist() == [2, 1, 0, 1]
  # The only neurons with weights are 0, which nothing reads, and 1.
  paths = report.input_saliency(MASKS, NAMES, (2, 2))
  assert paths.tolist() == [[1, 1], [0, 0]]


def test_saliency_of_a_convolution_is_that_of_its_window():
  mask = random_masks(0)['conv']
  window = report.input_saliency({'conv': mask}, 'conv')
  np.testing.assert_array_equal(window, mask.sum(-1))
  assert window.shape == (3, 3, 2)


def test_paths_are_counted_one_by_one():
  rng = np.random.default_rng(0)
  sizes = (5, 4, 3, 2)
  masks = {
    str(i): rng.random(x) < 0.6 for i, x in enumerate(itertools.pairwise(sizes))
  }
  paths = np.zeros(5, int)
  for i, j, k, m in itertools.product(*map(range, sizes)):
    paths[i] += masks['0'][i, j] & masks['1'][j, k] & masks['2'][k, m]
  found = report.input_saliency(masks, ['0', '1', '2'])
  np.testing.assert_array_equal(found, paths)
  assert found.dtype == np.int64


def test_paths_beyond_all_integers_are_rounded():
  masks = {str(i): np.ones((512, 512), bool) for i in range(6)}
  exact = report.input_saliency(masks, list('01234'))
  assert (exact == 512**5).all()
  assert exact.dtype == np.int64
  counts = report.input_saliency(masks, list('012345'))
  assert (counts == 2.0**54).all()
  assert counts.dtype == np.float64
  masks['6'] = masks['7'] = masks['0']
  found = report.capacity(masks, input_layers=list('01234567'))
  assert (found.saliency == 2.0**72).all()
  assert '4.722e+21 to 4.722e+21, 4.722e+21 on' in report.text(found)


def test_chains_are_of_different_dense_kernels():
  masks = {
    'a': np.ones((3, 3, 2, 4), bool),
    'b': np.ones((1, 1, 4, 5), bool),
    'c': np.ones((5, 5), bool),
  }
  with pytest.raises(ValueError, match='do not form a chain of dense') as info:
    report.input_saliency(masks, ['a', 'b', 'c', 'c'])
  for fault in (
    "'a' has shape (3, 3, 2, 4); 'b' has shape (1, 1, 4, 5); 'c' is named 2",
    'through different kernels of shape (inputs, outputs)',
  ):
    assert fault in str(info.value)


@pytest.mark.parametrize('shape', [(-2, -2), 4, (2.0, 2), (4, 0)])
def test_shapes_of_inputs_are_positive_integers(shape):
  with pytest.raises(ValueError, match='must be positive integers') as info:
    report.capacity(MASKS, input_layers='fc1/kernel', input_shape=shape)
  assert f'was {shape!r}, but' in str(info.value)


def test_saliency_names_what_does_not_fit():
  for layers, shape, message in [
    (
      'fc3',
      None,
      "layers were 'fc3', but .* Choose from 'fc1/kernel', 'fc2/k",
    ),
    ('fc1/bias', None, "layers were 'fc1/bias', but must be kernels that have"),
    ([], None, 'layers were none, but must be kernels'),
    (NAMES[::-1], None, "'fc2/kernel' has 2 outputs, but 'fc1/kernel' has 4"),
    (
      'fc1/kernel',
      (28, 28, 1),
      r"was \(28, 28, 1\), which has 784 values, but 'fc1/kernel' \(4, 3\) has"
      ' 4 inputs. Give the shape of one example',
    ),
  ]:
    with pytest.raises(ValueError, match=message):
      report.input_saliency(MASKS, layers, shape)


# ---- Similarity.


def test_overlaps_by_hand():
  names, total, layers = report.similarity(
    {'a': MASKS, 'b': {**MASKS, 'fc2': {'kernel': ~FC2, 'bias': None}}}
  )
  assert names == ('a', 'b')
  assert total.tolist() == [[1.0, 0.4], [0.4, 1.0]]  # 4 of 4 + 6
  assert list(layers) == list(NAMES)
  assert layers['fc1/kernel'].tolist() == [[1.0, 1.0], [1.0, 1.0]]
  assert layers['fc2/kernel'].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_overlaps_against_the_algebra_of_masks():
  masks = {str(i): random_masks(i, 0.2 * i) for i in range(4)}
  found = report.similarity(masks)  # The first of them keeps nothing.
  for i, j in itertools.product(range(4), repeat=2):
    a, b = masks[str(i)], masks[str(j)]
    assert found.total[i, j] == lth.masks.jaccard(a, b)
    for name in SHAPES:
      alone = lth.masks.jaccard(a[name], b[name])
      assert found.layers[name][i, j] == alone


def test_overlaps_need_two_trees_alike():
  with pytest.raises(ValueError, match=r'`len\(masks\)` was 1, but must be'):
    report.similarity({'mine': MASKS})
  with pytest.raises(ValueError, match=r'`len\(masks\)` was 0, but must be'):
    report.similarity({})
  with pytest.raises(TypeError, match=r'`masks` was .*, but must map names'):
    report.similarity([MASKS, MASKS])
  other = {'fc1': {'kernel': FC1.T, 'bias': None}, 'fc3': FC2}
  with pytest.raises(ValueError, match="do not fit the masks 'b'") as info:
    report.similarity({'a': MASKS, 'b': other})
  for fault in ('fc1/kernel: mask of shape', 'fc2/kernel has a', 'fc3 has no'):
    assert fault in str(info.value)
  biased = MASKS | {'fc1': {'kernel': FC1, 'bias': np.ones(3, bool)}}
  with pytest.raises(ValueError, match="masks 'a': fc1/bias is None in"):
    report.similarity({'a': MASKS, 'b': biased})


# ---- DistanceMoved.


def test_movement_by_hand():
  initial = {'w': jnp.array([[1.0, 2.0], [3.0, -4.0]]), 'b': jnp.ones(2)}
  final = {'w': jnp.array([[2.0, -2.0], [3.5, -4.0]]), 'b': jnp.zeros(2)}
  masks = {'w': jnp.array([[True, True], [False, False]]), 'b': None}
  assert report.distance_moved(initial, final, masks) == {
    'w': DistanceMoved(2.5, 0.25)
  }
  everything = {'w': jnp.ones((2, 2), bool), 'b': None}
  alive, pruned = report.distance_moved(initial, final, everything)['w']
  assert alive == 1.375
  assert np.isnan(pruned)


def test_movement_of_half_precision_is_not_rounded():
  initial = {'w': jnp.full((1, 3), 256, jnp.bfloat16)}
  final = {'w': jnp.array([[255, 256, 257]], jnp.bfloat16)}  # 257 rounds to 256
  masks = {'w': jnp.ones((1, 3), bool)}
  assert report.distance_moved(initial, final, masks)['w'].alive == 1 / 3


def test_movement_needs_finite_params():
  initial = {'w': np.zeros((2, 2)), 'v': np.zeros((1, 2)), 'b': np.zeros(2)}
  masks = {'w': np.ones((2, 2), bool), 'v': np.ones((1, 2), bool), 'b': None}
  bad = jax.tree.map(lambda x: x + np.nan, initial)
  with pytest.raises(ValueError, match=r'final params .* v \(2\), w \(4\), so'):
    report.distance_moved(initial, bad, masks)
  bad = initial | {'v': np.array([[np.inf, 0]]), 'b': bad['b']}
  with pytest.raises(ValueError, match=r'initial params are .* in v \(1\), so'):
    report.distance_moved(bad, initial, masks)


def test_movement_names_every_misfit():
  params = {'fc1': {'kernel': np.ones((3, 4)), 'bias': np.ones(3)}}
  fits = jax.tree.map(lambda m: np.ones(m.shape), MASKS)
  for pair, what in [((params, fits), 'initial'), ((fits, params), 'final')]:
    with pytest.raises(ValueError, match=f'do not fit the {what}') as info:
      report.distance_moved(*pair, MASKS)
    for fault in ('fc1/kernel: mask of shape (4, 3)', 'fc2/kernel has a mask'):
      assert fault in str(info.value)
