"""Exact integer budgets."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import keys

import lthjax as lth
from lthjax import counts, densities
from lthjax.counts import _MAX_DENOMINATOR, ROUNDINGS
from lthjax.topologies import _moves


@pytest.mark.parametrize('rounding', ROUNDINGS)
def test_share_is_exact_in_int32(rounding):
  def share(n, ratio):
    return counts.share_of(n, *ratio.as_integer_ratio(), rounding)

  rng = np.random.default_rng(0)
  numbers = [0, 1, 2, 255, 256, 65_535, 10**7, 2**30, 2**31 - 1]
  numbers += rng.integers(0, 2**31, 20).tolist()
  shares = [0.0, 0.2, 0.29, 1 / 3, 0.5, 0.999999, 1e-6, *rng.random(10)]
  ratios = [counts.exact(x).limit_denominator(_MAX_DENOMINATOR) for x in shares]
  ratios += [
    Fraction(_MAX_DENOMINATOR - 2, _MAX_DENOMINATOR - 1),
    Fraction(_MAX_DENOMINATOR - 1, _MAX_DENOMINATOR),
    Fraction(1, _MAX_DENOMINATOR),
  ]
  traced = jax.jit(lambda n: [share(n, r) for r in ratios])
  whole = {
    'nearest': lambda x: (x + Fraction(1, 2)).__floor__(),
    'floor': lambda x: x.__floor__(),
    'ceil': lambda x: x.__ceil__(),
  }[rounding]
  found = traced(jnp.array(numbers, jnp.int32))
  for ratio, column in zip(ratios, found, strict=True):
    assert column.dtype == np.int32
    expected = [whole(n * ratio) for n in numbers]
    assert column.tolist() == expected
    assert [share(n, ratio) for n in numbers] == expected


def test_shares_are_close_to_what_was_given():
  for share in np.random.default_rng(1).random(1000):
    assert abs(counts.exact(share) - Fraction(share)) < Fraction(1, 10**14)
    limited = counts.exact(share).limit_denominator(_MAX_DENOMINATOR)
    assert abs(limited - Fraction(share)) < Fraction(1, 10**10)


def test_shares_of_counts_above_int32():
  count = 2**31 + 2**16
  assert counts.share_of(count, 1, 3, 'floor') == count // 3
  assert counts.share_of(2**40, 999_999, 10**6, 'nearest') == round(
    Fraction(999_999, 10**6) * 2**40
  )


@pytest.mark.parametrize(
  'share', [np.float32(0.7), np.float16(0.7), jnp.float32(0.7)], ids=str
)
def test_low_precision_means_its_shortest_decimal(share):
  assert counts.ratio_of(share) == Fraction(7, 10)
  assert counts.layer_counts({'w': (10,)}, share) == {'w': 3}


def test_layer_counts_above_int32():
  shapes = {'w': (2**16, 2**15 + 1), 'v': (2**20, 2**20)}
  assert counts.layer_counts(shapes, 0.5) == {
    'w': 2**15 * (2**15 + 1),
    'v': 2**39,
  }


def test_alive_counts_every_axis(monkeypatch):
  monkeypatch.setattr(counts, '_INT32', 10)
  rng = np.random.default_rng(0)
  for shape in [(), (7,), (3, 4), (2, 3, 5), (0, 3), (5, 0, 2), (2, 9)]:
    mask = rng.random(shape) < 0.5
    assert counts.alive({'w': mask}) == {'w': int(mask.sum())}


def test_alive_under_a_trace(monkeypatch):
  mask = np.ones((3, 4), bool)
  found = jax.jit(lambda m: counts.alive({'w': m}))(mask)
  assert found['w'].dtype == np.int32
  assert found['w'] == 12
  monkeypatch.setattr(counts, '_INT32', 10)
  with pytest.raises(ValueError, match='In w, 2\\^31 weights or more'):
    jax.jit(lambda m: counts.alive({'w': m}))(np.ones((2, 9), bool))


def test_budgets_above_int32_are_refused():
  tx = optax.sgd(0.1)
  times = {'update_every': 2, 'stop_step': 100}
  draw = lth.random_masks(keys(0), sparsity=0.1)
  rising = lth.schedules.polynomial_sparsity(0.9, 0, 100)
  leaf = jax.ShapeDtypeStruct((2**16, 2**16), jnp.bfloat16)
  for method in (
    lth.gradual(tx, sparsity=0.9, **times),
    lth.straight_through(tx, sparsity=0.1),
    lth.top_kast(tx, sparsity=0.6, backward_sparsity=0.1),
    lth.ac_dc(tx, sparsity=0.1, sparse_steps=[1], dense_steps=[2]),
    lth.rigl(tx, draw, sparsity=rising, **times),
    lth.srigl(tx, draw, sparsity=rising, **times),
  ):
    with pytest.raises(ValueError, match=r'fc has .* Raise the sparsity'):
      jax.eval_shape(method.init, {'fc': leaf})


def test_masks_above_int32_are_refused(monkeypatch):
  monkeypatch.setattr(_moves, '_LAST', 20)
  monkeypatch.setattr(counts, '_INT32', 20)
  masks = {'fc': np.arange(30).reshape(5, 6) < 21}
  times = {'update_every': 2, 'stop_step': 100}
  tx = lth.rigl(optax.sgd(0.1), masks, **times)
  with pytest.raises(ValueError, match='fc has 21'):
    tx.init({'fc': np.ones((5, 6), np.float32)})


def test_totals_above_int32(monkeypatch):
  masks = {'a': np.ones((3, 4), bool), 'b': np.arange(12).reshape(3, 4) < 5}
  monkeypatch.setattr(counts, '_INT32', 20)
  assert lth.masks.count(masks) == 17
  assert lth.masks.count(lth.masks.shuffle(keys(0), masks, 'global')) == 17
  for f in (
    lth.masks.count,
    lth.masks.density,
    lambda m: lth.masks.hamming(m, m),
    lambda m: lth.masks.shuffle(keys(0), m, 'global'),
  ):
    with pytest.raises(ValueError, match='cannot be counted together in int32'):
      jax.eval_shape(f, masks)


@pytest.mark.slow
def test_alive_of_a_leaf_above_int32():
  mask = np.broadcast_to(True, (2**16, 2**15 + 1))
  assert counts.alive({'w': mask}) == {'w': 2**16 * (2**15 + 1)}


@pytest.mark.slow
def test_multiply_adds_of_a_leaf_above_int32():
  shape = (2**16, 2**15 + 1)
  found = lth.accounting.multiply_adds(
    lambda p, x: x @ p['w'],
    {'w': jax.ShapeDtypeStruct(shape, jnp.float32)},
    jax.ShapeDtypeStruct((1, shape[0]), jnp.float32),
    masks={'w': np.broadcast_to(True, shape)},
  )
  assert found.alive == found.dense == {'w': 2**16 * (2**15 + 1)}


def test_layers_of_a_summary_above_int32(monkeypatch):
  monkeypatch.setattr(counts, '_INT32', 10)
  masks = {
    'a': np.arange(64).reshape(8, 8) < 9,
    'blocks/w': np.ones((2, 8, 8), bool),
  }
  masks['blocks/w'][1] = False
  lines = lth.masks.summary(masks).splitlines()
  assert lines[1].split() == ['a', '(8,', '8)', '9', '14.06', '%']
  assert lines[2].endswith('64  50.00 % (0.00 to 100.00)')
  assert lines[-1] == 'empty: blocks/w (1 of 2 layers)'


def test_schedules_are_evaluated_at_once():
  schedule = optax.cosine_decay_schedule(0.3, 100)
  steps = range(0, 101, 10)
  with jax.enable_x64(True):
    each = [round(float(schedule(step)), 9) for step in steps]
  np.testing.assert_allclose(counts.at_steps(schedule, steps), each, atol=2e-9)
  many = counts.at_steps(schedule, range(100_000))
  assert many[0] == 0.3
  assert many[-1] == 0


@pytest.mark.parametrize(
  ('schedule', 'expected'),
  [
    (lambda step: 0.5 if step < 2 else 0.75, [0.5, 0.5, 0.75]),
    (lambda step: np.float32(0.29), [0.29] * 3),
    (lambda step: jnp.float32(0.7) + 0 * step, [0.7] * 3),
    (lambda step: 1 / 3, [0.333333333] * 3),
    (lambda step: step / 4, [0, 0.25, 0.5]),
  ],
)
def test_schedules_of_all_kinds(schedule, expected):
  assert counts.at_steps(schedule, range(3)).tolist() == expected


def test_no_steps():
  assert counts.at_steps(lambda step: 1.0, []).tolist() == []


def test_a_schedule_returns_numbers():
  with pytest.raises(TypeError, match='must return one number per step'):
    counts.at_steps(lambda step: jnp.ones(2), range(3))
  with pytest.raises(TypeError, match='but it returned a NoneType'):
    counts.at_steps(lambda step: None, range(3))


def test_tables_repeat_layer_counts():
  shapes = {'a': (40, 30), 'b': (30, 10)}
  wanted = [0.5, 0.8, 0.8, 0.5]
  table = counts.tables(shapes, wanted, densities.erk)
  for i, sparsity in enumerate(wanted):
    each = counts.layer_counts(shapes, sparsity, densities.erk)
    assert {name: column[i] for name, column in table.items()} == each
  assert all(column.dtype == np.int32 for column in table.values())


def test_ratios_are_the_nearest_fractions():
  rng = np.random.default_rng(0)
  shares = [0, 1, 0.3, 0.29, 1 / 3, 2 / 3, 1e-9, 1 - 1e-9, 0.123457]
  shares = np.round([*shares, *rng.random(300), *rng.random(100) * 1e-6], 9)
  expected = [
    Fraction(round(x * 10**9), 10**9).limit_denominator(_MAX_DENOMINATOR)
    for x in shares
  ]
  found = [Fraction(*map(int, pair)) for pair in counts.ratios(shares)]
  assert found == expected
  assert counts.ratios([]).shape == (0, 2)


@pytest.mark.parametrize('rounding', ROUNDINGS)
def test_long_tables_are_exact(rounding):
  shapes = {'a': (784, 300), 'c': (100, 11), 'd': (2**16, 2**15 - 1)}
  wanted = np.round(np.random.default_rng(0).random(20_000), 9)
  table = counts.tables(shapes, wanted, None, rounding)
  for i in range(0, 20_000, 997):
    exact = counts.layer_counts(shapes, wanted[i], None, rounding)
    assert {name: x[i] for name, x in table.items()} == exact


def test_long_tables_of_a_distribution_call_it_at_most_so_often():
  calls = []

  def spread(shapes, sparsity):
    calls.append(sparsity)
    return densities.erk(shapes, sparsity)

  shapes = {'a': (784, 300), 'c': (300, 100), 'd': (100, 10)}
  wanted = np.round(0.9 * np.linspace(0, 1, 20_000) ** 3, 9)
  table = counts.tables(shapes, wanted, spread)
  assert len(calls) <= 1024
  for i in [*range(0, 20_000, 997), 19_999]:
    exact = counts.layer_counts(shapes, wanted[i], densities.erk)
    for name, n in exact.items():
      assert abs(table[name][i] - n) <= (i not in (0, 19_999))


@pytest.mark.parametrize('maker', [densities.smart_ratio, lambda shapes: {}])
def test_what_makes_a_distribution_is_none(maker):
  with pytest.raises(TypeError, match=r'takes other arguments: .* first'):
    counts.layer_counts({'a': (4, 4), 'c': (4, 2)}, 0.5, maker)


def test_a_distribution_may_need_axes():
  found = counts.layer_counts(
    {'a': (4, 4)}, 0.5, lambda shapes, sparsity, *, axes: {'a': 0.25}
  )
  assert found == {'a': 4}


def test_what_makes_a_schedule_is_none():
  message = r'failed at step 2, with TypeError: .*`optax.linear_schedule\('
  with pytest.raises(ValueError, match=message):
    counts.at_steps(optax.cosine_decay_schedule, [2, 4])
