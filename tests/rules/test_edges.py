"""Rules at the edges: nothing goes, all goes, inputs that are always zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_like

import lthjax as lth

NM = lth.patterns.NM
DEAD = np.isin(np.arange(10), [3, 7])
KERNEL = random_like({'w': (10, 5)}, 0)['w']
X = random_like({'x': (100, 10)}, 1)['x'] * ~DEAD
GRAM = X.T @ X
ALIVE = np.ones(KERNEL.shape, bool)


@functools.partial(jax.jit, static_argnums=0)
def prune(rule, kernel, statistic, alive, ratio):
  return rule('w', kernel, statistic, alive, ratio)


def statistic_of(rule, gram=GRAM):
  if rule.needs is None:
    return None
  return gram if rule.needs is lth.stats.gram else np.diag(gram)


RULES = {
  'wanda': lth.rules.wanda(0.5),
  'variant': lth.rules.wanda(0.5, variant=True),
  'ria': lth.rules.ria(0.5),
  'obs': lth.rules.obs(0.5),
  'sparse_gpt': lth.rules.sparse_gpt(0.5, block=4),  # does not divide 10
  'int4': lth.rules.sparse_gpt(0.5, block=8, bits=4, group=3),
  'admm': lth.rules.admm(0.5),
  'alps': lth.rules.alps(0.5),
  'refit': lth.rules.refit(lth.rules.wanda(0.5)),
  'swaps': lth.rules.swaps(lth.rules.wanda(0.5)),
}


@pytest.mark.parametrize(
  'name',
  [
    name if name in ('wanda', 'variant') else pytest.param(
      name, marks=pytest.mark.slow
    )
    for name in RULES
  ],
)  # fmt: skip
def test_nothing_all_and_some_of_it(name):
  """Two inputs are always zero: what they meet goes first, or is zero."""
  rule = RULES[name]
  for top, bottom, kept in [(0, 1, 50), (1, 2, 25), (1, 1, 0)]:
    ratio = np.int32(top), np.int32(bottom)
    found = prune(rule, KERNEL, statistic_of(rule), ALIVE, ratio)
    assert not found.failed
    assert int(found.keep.sum()) == kept
    if found.kernel is None:
      assert top != 1 or not found.keep[DEAD].any()
      continue
    weights = np.asarray(found.kernel)
    assert np.isfinite(weights).all()
    assert not weights[DEAD].any()
    assert not weights[~np.asarray(found.keep)].any()
    if not top and name != 'int4':
      np.testing.assert_allclose(weights[~DEAD], KERNEL[~DEAD], atol=1e-4)


def test_the_variant_of_wanda_goes_beyond_its_bracket():
  """Equal scores: shares above 0.8 need an alpha above 0.8."""
  rule = RULES['variant']
  squares = np.ones(10, np.float32)
  for dead in (8, 9):
    ratio = np.int32(dead), np.int32(10)
    found = prune(rule, np.ones_like(KERNEL), squares, ALIVE, ratio)
    assert found.keep.sum(0).tolist() == [10 - dead] * 5


@pytest.mark.slow
def test_other_inputs_do_not_notice_a_dead_one():
  """SparseGPT without damping: as if the dead inputs were not there."""
  rule = lth.rules.sparse_gpt(0.5, damping=0)
  whole = prune(rule, KERNEL, GRAM, ALIVE, (np.int32(25), np.int32(50)))
  alone = prune(
    rule,
    KERNEL[~DEAD],
    GRAM[np.ix_(~DEAD, ~DEAD)],
    ALIVE[~DEAD],
    (np.int32(15), np.int32(40)),
  )
  np.testing.assert_array_equal(whole.keep[~DEAD], alone.keep)
  np.testing.assert_allclose(whole.kernel[~DEAD], alone.kernel, atol=1e-5)


@pytest.mark.slow
def test_groups_choose_by_updated_weights_whatever_the_block():
  rule = lth.rules.sparse_gpt(pattern=NM(1, 2), block=4, damping=0)
  gram = (2 * np.eye(4) + np.eye(4, k=1) + np.eye(4, k=-1)).astype('f')
  kernel = np.array([[1], [-2], [0.9], [-0.6]], np.float32)
  found = prune(rule, kernel, gram, ALIVE[:4, :1], None).kernel
  np.testing.assert_allclose(found[:, 0], [0, -1.25, 0, -0.15], atol=2e-6)


@pytest.mark.slow
def test_rows_and_columns_of_zeros_have_scores():
  """RIA divides by sums of rows and columns that may be zero."""
  kernel = KERNEL.copy()
  kernel[2], kernel[:, 1] = 0, 0
  rule = RULES['ria']
  half = np.int32(1), np.int32(2)
  keep = prune(rule, kernel, statistic_of(rule), ALIVE, half).keep
  assert keep.sum(0).tolist() == [5] * 5
  others = np.arange(5) != 1
  assert not keep[2, others].any()


@pytest.mark.slow
def test_a_refit_to_a_singular_gram_matrix():
  """Three tokens for five weights: many solutions, of which one is found."""
  gram, seen = X[:3].T @ X[:3], X[:3]
  keep = ALIVE & (np.arange(10) % 2 == 0)[:, None]
  refit = functools.partial(lth.rules.refit_kernel, damping=0.0)
  found = np.asarray(jax.jit(refit)(KERNEL, keep, gram))
  assert np.isfinite(found).all()
  before, after = (
    np.square(seen @ (weights - KERNEL)).sum(0)
    for weights in (KERNEL * keep, found)
  )
  assert (after < 0.01 * before).all()


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('name', ['kernel', 'gram', 'start'])
def test_matrices_must_be_finite(name, value):
  given = {'kernel': KERNEL, 'keep': ALIVE, 'gram': GRAM}
  given[name] = np.where(np.eye(len(KERNEL), 5), value, KERNEL)
  if name == 'gram':
    given[name] = np.where(np.eye(len(GRAM)), value, GRAM)
  for f in (lth.rules.refit_kernel, lth.rules.swap):
    if name != 'start' or f is lth.rules.refit_kernel:
      with pytest.raises(ValueError, match=f'NaN or infinity in `{name}`'):
        f(**given)


MAGNITUDE = lth.rules.magnitude(0.5)
NARROW = lth.rules.wanda(pattern=NM(2, 4))


@pytest.mark.parametrize(
  ('call', 'error', 'text'),
  [
    (
      lambda: NARROW('up', KERNEL, np.diag(GRAM), ALIVE),
      ValueError,
      'up has 10 inputs, not a multiple of 4',
    ),
    (
      lambda: lth.rules.sparse_gpt(pattern=NM(2, 4))('', KERNEL, GRAM, ALIVE),
      ValueError,
      'the kernel has 10 inputs, not a multiple of 4',
    ),
    (
      lambda: RULES['wanda']('up', KERNEL, GRAM, ALIVE),
      ValueError,
      r'`statistic` \(10, 10\) instead of `squares` \(10,\)',
    ),
    (
      lambda: RULES['sparse_gpt']('up', KERNEL, None, ALIVE),
      ValueError,
      r'`statistic` \(\) instead of `gram` \(10, 10\)',
    ),
    (
      lambda: MAGNITUDE('up', KERNEL, None, ALIVE[:3]),
      ValueError,
      r'`alive` \(3, 5\) instead of \(10, 5\)',
    ),
    (
      lambda: MAGNITUDE('up', KERNEL[0], None, ALIVE[0]),
      ValueError,
      r'up has the shape \(5,\), but must be \[batch.., inputs, outputs\]',
    ),
    (
      lambda: MAGNITUDE('up', None, None, ALIVE),
      TypeError,
      '`up` was None, but must be an array',
    ),
    (
      lambda: lth.rules.refit_kernel(KERNEL, ALIVE, GRAM, start=KERNEL[:2]),
      ValueError,
      r'`start` \(2, 5\) instead of \(10, 5\)',
    ),
    (
      lambda: lth.rules.refit_kernel(KERNEL, ALIVE, GRAM, damping=-1),
      ValueError,
      '`damping` was -1',
    ),
    (lambda: lth.rules.ria(0.5, power=-1), ValueError, '`power` was -1'),
  ],
)
def test_calls_that_do_not_fit(call, error, text):
  with pytest.raises(error, match=text):
    call()


def test_groups_with_fewer_alive_weights_than_they_may_keep():
  alive = jnp.asarray(np.arange(8)[:, None] == np.zeros(5))
  rule = lth.rules.magnitude(pattern=NM(2, 4))
  keep = rule('w', KERNEL[:8], None, alive).keep
  np.testing.assert_array_equal(keep, alive)
