"""Calibrated masks, deltas, their training, merging and files."""

import functools
import json
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import bits, eager_step, keys, largest, random_like, random_masks

import lthjax as lth
from lthjax import lota

SHAPES = {'a': (6, 5), 'b': (5, 4)}
BASE = random_like(SHAPES, 0)
TUNED = random_like(SHAPES, 1)
MASKS = random_masks(SHAPES, 2, 0.4)
FULL = {name: np.ones(shape, bool) for name, shape in SHAPES.items()}
MOVED = [0.5, -0.5, 0.5, 0, 0, 0, 0.1, -0.9]


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def row(*numbers):
  return {'w': np.array([numbers], np.float32)}


def calibrate(moved, **changes):
  base = row(*[0.0] * len(moved))
  given = {'masks': {'w': np.ones((1, len(moved)), bool)}, 'sparsity': 0.75}
  return lota.calibrated(base, row(*moved), **given | changes)


def test_masks_by_hand():
  assert np.flatnonzero(calibrate(MOVED)['w']).tolist() == [0, 7]
  with pytest.warns(UserWarning, match='1 of those kept have not moved'):
    masks = calibrate([0.0] * 7 + [0.1])
  assert np.flatnonzero(masks['w']).tolist() == [0, 7]


def test_masks_of_a_network():
  masks = lota.calibrated(BASE, TUNED, FULL, sparsity=0.9)
  moved = {n: np.abs(TUNED[n] - BASE[n]) for n in SHAPES}
  np.testing.assert_array_equal(flat(masks), largest(flat(moved), 5))
  double = {n: BASE[n] + 4 * (TUNED[n] - BASE[n]) for n in SHAPES}
  again = lota.calibrated(BASE, double, FULL, sparsity=0.9)
  assert bits(again) == bits(masks)
  layers = lth.prune(moved, FULL, sparsity=0.9)
  assert flat(layers).sum() == 5
  assert (flat(layers) != flat(masks)).any()


def test_masks_are_compared_in_float32():
  base = {'w': jnp.full((1, 2), 256, jnp.bfloat16)}
  tuned = {'w': jnp.array([[256, 256.3]], jnp.float32)}
  masks = lota.calibrated(
    base, tuned, {'w': np.ones((1, 2), bool)}, sparsity=0.5
  )
  assert masks['w'].tolist() == [[False, True]]


def test_the_next_task_takes_others():
  first = lota.calibrated(BASE, TUNED, FULL, sparsity=0.9)
  second = lota.calibrated(BASE, TUNED, lota.complement(first), sparsity=0.9)
  assert lth.masks.count(second) == 5
  assert lth.masks.count(lth.masks.intersect(first, second)) == 0
  moved = np.abs(flat(TUNED) - flat(BASE))
  wanted = largest(moved, 5, ~flat(first))
  np.testing.assert_array_equal(flat(second), wanted)
  rest = lota.complement(lota.calibrated(BASE, TUNED, FULL, sparsity=0.4))
  with pytest.raises(ValueError, match=r'keeps 25 of 50 weights, .* only 20'):
    lota.calibrated(BASE, TUNED, rest, sparsity=0.5)


def test_controls_have_the_same_size():
  def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params['a']) @ params['b'])

  x = random_like((3, 6), 4)
  controls = {
    'random': lth.scores.noise(keys(0), BASE),
    'magnitude': lth.scores.magnitude(BASE),
    'gradient': lth.scores.gradient(loss, BASE, x),
  }
  found = {n: lota.largest(s, FULL, sparsity=0.8) for n, s in controls.items()}
  assert {lth.masks.count(m) for m in found.values()} == {10}
  grads = jax.grad(loss)(BASE, x)
  wanted = largest(np.abs(flat(grads)), 10)
  np.testing.assert_array_equal(flat(found['gradient']), wanted)


def test_bad_masks():
  nan = {n: x * np.nan for n, x in TUNED.items()}
  with pytest.raises(ValueError, match='Scores are NaN in a, b'):
    lota.calibrated(BASE, nan, FULL, sparsity=0.9)
  with pytest.raises(ValueError, match=r'0\.999 keeps none of 50 weights'):
    lota.largest(BASE, FULL, sparsity=0.999)
  with pytest.raises(ValueError, match='have no prunable leaf'):
    lota.largest(BASE, {'a': None, 'b': None}, sparsity=0.5)
  with pytest.raises(TypeError, match='was given no masks'):
    lota.complement()


def test_packed_is_frozen():
  """Fifty steps of Adam: as with masks, with a state of the delta's size."""
  x, y = random_like((8, 6), 5), random_like((8, 4), 6)

  def loss(params):
    return jnp.mean((jnp.tanh(x @ params['a']) @ params['b'] - y) ** 2)

  def frozen_step(tx, params, state):
    return eager_step(tx, params, state, jax.grad(loss)(params))

  def packed_step(tx, delta, state):
    grads = jax.grad(loss)(lota.add(BASE, delta))
    return eager_step(tx, delta, state, grads)

  frozen, packed = (
    lth.frozen(optax.adam(1e-2), MASKS),
    lth.packed(optax.adam(1e-2)),
  )
  delta = lota.zeros(MASKS)
  state = packed.init(delta)
  k = lth.masks.count(MASKS)
  # Two moments of each number, and a count.
  assert sum(x.size for x in jax.tree.leaves(state)) == 2 * k + 1
  one, two = (BASE, frozen.init(BASE)), (delta, state)
  f = jax.jit(functools.partial(frozen_step, frozen))
  p = jax.jit(functools.partial(packed_step, packed))
  for _ in range(50):
    one, two = f(*one), p(*two)
  merged = lota.add(BASE, two[0])
  for name in SHAPES:
    np.testing.assert_allclose(merged[name], one[0][name], atol=1e-6)
    dead = ~MASKS[name]
    assert bits(np.asarray(merged[name])[dead]) == bits(BASE[name][dead])
  assert bits(two[0].indices) == bits(delta.indices)
  read = lota.difference(BASE, one[0], MASKS)
  np.testing.assert_allclose(read.values['a'], two[0].values['a'], atol=1e-6)


@pytest.mark.parametrize(
  'inner', [optax.contrib.muon(0.1), optax.adafactor(0.1), optax.sm3(0.1)]
)
def test_optimizers_of_matrices_are_refused(inner):
  with pytest.raises(ValueError, match='does not treat weights one by one'):
    lth.packed(inner)


def test_gradient_of_a_delta():
  delta = lota.zeros(MASKS)

  def loss(values):
    params = lota.add(BASE, delta._replace(values=values))
    return jnp.sum(params['a'] ** 2)

  grads = jax.grad(loss)(delta.values)
  np.testing.assert_allclose(grads['a'], 2 * BASE['a'][MASKS['a']], rtol=1e-6)
  assert not grads['b'].any()


def test_deltas_of_low_precision_are_added_in_float32():
  base = {'w': jnp.array([256.0, 1.0], jnp.bfloat16)}
  masks = {'w': np.array([True, True])}
  delta = lota.zeros(masks)
  tx = lth.packed(optax.sgd(1.0))
  state = tx.init(delta)
  for _ in range(10):  # 256 + 0.3 is 256 in bfloat16.
    grads = {'w': jnp.full(2, -0.3, jnp.float32)}
    delta, state = eager_step(tx, delta, state, grads)
  assert lota.add(base, delta)['w'].tolist() == [260.0, 4.0]


def deltas():
  """Three deltas, of which the first two are disjoint."""
  one = MASKS
  two = {n: ~m & random_masks(SHAPES, 3, 0.5)[n] for n, m in one.items()}
  three = random_masks(SHAPES, 4, 0.6)
  return [
    lota.difference(BASE, random_like(SHAPES, 10 + i), masks)
    for i, masks in enumerate((one, two, three))
  ]


@pytest.mark.slow
def test_disjoint_deltas_merge_to_the_bit():
  one, two, _ = deltas()
  merged = lota.merge_sum([one, two])
  in_turn = lota.add(lota.add(BASE, one), two)
  assert bits(lota.add(BASE, merged)) == bits(in_turn)
  assert bits(merged) == bits(lota.merge_sum([two, one]))
  assert bits(lota.merge_ties([one, two])) == bits(merged)  # Not halved.
  half = lota.merge_mean([one, two])
  np.testing.assert_array_equal(half.values['a'], merged.values['a'] / 2)
  both = lth.masks.union(lota.support(BASE, one), lota.support(BASE, two))
  assert bits(lota.support(BASE, merged)) == bits(both)


@pytest.mark.parametrize(
  'merge', [lota.merge_sum, lota.merge_mean, lota.merge_ties]
)
def test_merging_follows_no_order(merge):
  a, b, c = deltas()
  assert (
    len({str(bits(merge(x))) for x in ([a, b, c], [c, a, b], [b, c, a])}) == 1
  )
  dense = np.stack([flat(lota.add(zero(), d)) for d in (a, b, c)])
  wanted = dense.sum(0)
  if merge is lota.merge_mean:
    wanted = wanted / 3
  if merge is lota.merge_ties:
    agree = (np.sign(dense) == np.sign(wanted)) & (dense != 0)
    wanted = np.where(agree, dense, 0).sum(0) / np.maximum(agree.sum(0), 1)
  found = flat(lota.add(zero(), merge([a, b, c])))
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def zero():
  return {n: np.zeros(shape, np.float32) for n, shape in SHAPES.items()}


def test_ties_by_hand():
  def at(*numbers):
    places = np.arange(len(numbers), dtype=np.int32)
    return lota.Delta({'w': np.array(numbers, np.float32)}, {'w': places})

  given = [at(1, 2, 1, -0.0), at(3, -2, -5, 0), at(-1, 0, 1, 0)]
  found = lota.merge_ties(given).values['w']
  assert found.tolist() == [2, 0, -5, 0]
  trimmed = lota.merge_ties([at(1, 2, 3, 4)], density=0.5).values['w']
  assert trimmed.tolist() == [0, 0, 3, 4]


def test_one_program_serves_all_domains():
  """Deltas take turns; the base comes back to the bit."""
  served = jax.jit(lambda params, delta, x: x @ lota.add(params, delta)['a'])
  x = random_like((2, 6), 7)
  rest = served(BASE, lota.pad(BASE, [*deltas(), lota.zeros(MASKS)])[-1], x)
  domains = lota.pad(BASE, deltas())
  for own, delta in zip(deltas(), domains, strict=True):
    assert bits(lota.add(BASE, delta)) == bits(lota.add(BASE, own))
    wanted = x @ np.asarray(lota.add(BASE, own)['a'])
    np.testing.assert_allclose(served(BASE, delta, x), wanted, rtol=1e-5)
  assert served._cache_size() == 1
  back = lota.pad(BASE, [*deltas(), lota.zeros(MASKS)])[-1]
  assert bits(served(BASE, back, x)) == bits(rest)
  assert bits(lota.add(BASE, back)) == bits(BASE)


def test_domains_are_swapped_and_rolled_back(tmp_path):
  """From files, one program: an earlier domain comes back to the bit."""
  traces, x = [], random_like((2, 6), 7)

  @jax.jit
  def served(params, delta, masks, x):
    traces.append(1)
    params = lth.masks.apply(masks, lota.add(params, delta))
    return jnp.tanh(x @ params['a']) @ params['b']

  for i, delta in enumerate(deltas()):
    lota.save(tmp_path / f'{i}', delta, BASE)
  read = [lota.load(tmp_path / f'{i}', BASE) for i in range(3)]
  none = lota.zeros(jax.tree.map(np.zeros_like, MASKS))
  domains = [(d, FULL) for d in lota.pad(BASE, [none, *read])]
  domains += [(domains[0][0], m) for m in (MASKS, lota.complement(MASKS))]
  before = bits(BASE)
  answers = [bits(served(BASE, *domain, x)) for domain in domains]
  assert len(set(map(str, answers))) == len(domains)
  for i in (4, 1, 5, 1, 0, 2, 0):
    assert bits(served(BASE, *domains[i], x)) == answers[i]
  assert bits(BASE) == before
  assert len(traces) == 1


def test_one_step_trains_all_domains():
  """Masks of domains take turns in one optimizer, compiled once."""
  tx = lth.frozen(optax.adam(0.1), FULL)
  step = jax.jit(functools.partial(eager_step, tx))
  state = tx.init(BASE)
  for masks in (MASKS, lota.complement(MASKS)):
    state = lth.set_masks(state, masks)
    params, _ = step(BASE, state, TUNED)
    for name, mask in masks.items():
      same = np.asarray(params[name]) == BASE[name]
      np.testing.assert_array_equal(same, ~mask)
  assert step._cache_size() == 1


@pytest.mark.parametrize('density', [0.001, 0.01, 0.1, 0.5, 1.0])
def test_files(tmp_path, density):
  size = 20_000
  rng = np.random.default_rng(0)
  base = {'w': rng.normal(size=(100, 200)).astype(np.float32)}
  masks = {'w': rng.random((100, 200)) < density}
  delta = lota.difference(base, {'w': base['w'] * 1.1}, masks)
  path = tmp_path / 'task.safetensors'
  lota.save(path, delta, base)
  assert bits(lota.load(path, base)) == bits(delta)
  k = int(masks['w'].sum())
  with open(path, 'rb') as file:
    manifest = 8 + int.from_bytes(file.read(8), 'little')
  # Of both codings, bits or 32-bit indices, the better one.
  assert path.stat().st_size <= manifest + 4 * k + min(size // 8, 4 * k)
  assert os.listdir(tmp_path) == ['task.safetensors']


def test_padding_is_not_saved(tmp_path):
  one = lota.pad(BASE, deltas())[0]
  lota.save(tmp_path / 'f', one, BASE)
  assert bits(lota.load(tmp_path / 'f', BASE)) == bits(deltas()[0])


def test_places_far_apart(tmp_path):
  base = {'w': np.zeros(3_000_000, np.int8)}
  places = np.array([0, 127, 128, 129, 16_513, 2_999_999], np.int32)
  delta = lota.Delta({'w': np.ones(6, np.float32)}, {'w': places})
  lota.save(tmp_path / 'f', delta, base)
  assert lota.load(tmp_path / 'f', base).indices['w'].tolist() == list(places)


def test_a_file_knows_its_base(tmp_path):
  path = tmp_path / 'f'
  lota.save(path, deltas()[0], BASE)
  other = {**BASE, 'b': np.nextafter(BASE['b'], np.float32(np.inf))}
  with pytest.raises(ValueError, match='is for params of the fingerprint'):
    lota.load(path, other)
  for wrong in ({'c': BASE['a'], 'b': BASE['b']}, {'a': BASE['a']}):
    with pytest.raises(ValueError, match='fingerprint'):
      lota.load(path, wrong)
  assert lota.fingerprint(BASE) == lota.fingerprint(
    {'b': jnp.asarray(BASE['b']), 'a': np.asfortranarray(BASE['a'])}
  )
  kinds = [{'a': np.zeros(4, t)} for t in (np.float32, np.int32, jnp.bfloat16)]
  assert len({lota.fingerprint(x) for x in kinds}) == 3


def test_damaged_files(tmp_path):
  path = tmp_path / 'f'
  lota.save(path, deltas()[0], BASE)
  data = path.read_bytes()
  with pytest.raises(FileNotFoundError):
    lota.load(tmp_path / 'g', BASE)
  for end in (0, 7, 100, len(data) - 1):
    path.write_bytes(data[:end])
    with pytest.raises(ValueError, match='is damaged, or was not written by'):
      lota.load(path, BASE)
  length = int.from_bytes(data[:8], 'little')
  head = json.loads(data[8 : 8 + length])
  head['__metadata__']['format'] = 'other'
  text = json.dumps(head).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + data[8 + length :])
  with pytest.raises(ValueError, match='it has another format'):
    lota.load(path, BASE)


def test_a_failed_save_keeps_the_file(tmp_path, monkeypatch):
  path = tmp_path / 'f'
  lota.save(path, deltas()[0], BASE)
  before = path.read_bytes()

  def fail(*args):
    raise OSError('no room')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='no room'):
    lota.save(path, deltas()[1], BASE)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ['f']


def test_bad_deltas():
  delta = deltas()[0]
  with pytest.raises(TypeError, match=r'must be a `lthjax.lota.Delta`'):
    lota.add(BASE, MASKS)
  with pytest.raises(ValueError, match=r'not for these params: b \(unknown\)'):
    lota.add({'a': BASE['a']}, delta)
  with pytest.raises(ValueError, match=r'not for these params: a \(of 2 w'):
    lota.add({**BASE, 'a': np.zeros(2, np.float32)}, delta)
  long = {n: np.append(x, 0).astype(np.int32) for n, x in delta.indices.items()}
  with pytest.raises(ValueError, match=r'a: \(\d+,\) values and \(\d+,\) ind'):
    lota.add(BASE, delta._replace(indices=long))
  with pytest.raises(ValueError, match='one delta or more'):
    lota.merge_sum([])
  with pytest.raises(TypeError, match='be a list of deltas'):
    lota.merge_sum(delta)
  with pytest.raises(TypeError, match='`masks` are traced'):
    jax.jit(lota.zeros)(MASKS)
  back = {n: x[::-1].copy() for n, x in delta.indices.items()}
  with pytest.raises(ValueError, match='The indices of a do not ascend'):
    lota.save('/nowhere/f', delta._replace(indices=back), BASE)


def test_nothing_is_said_where_all_is_well():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    lota.calibrated(BASE, TUNED, FULL, sparsity=0.5)
