"""Rules on small kernels: worked out on paper, and against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest, random_like

import lthjax as lth

NM = lth.patterns.NM
refit_kernel = lth.rules.refit_kernel
PAPER = np.array(
  [[4, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]], np.float32
)  # [out, in]
TRIDIAGONAL = (2 * np.eye(4) + np.eye(4, k=1) + np.eye(4, k=-1)).astype('f')


@functools.partial(jax.jit, static_argnums=0)
def apply_rule(rule, kernel, statistic, alive, ratio=None):
  return rule('w', kernel, statistic, alive, ratio)


def prune(rule, weights, statistic=None, alive=None, ratio=None):
  """Applies a rule to weights ``[out, in]``, as papers write them."""
  kernel = jnp.asarray(np.asarray(weights, np.float32).T)
  alive = np.ones(kernel.shape, bool) if alive is None else alive.T
  statistic = None if statistic is None else jnp.asarray(statistic, 'f')
  found = apply_rule(rule, kernel, statistic, alive, ratio)
  assert not np.any(found.failed)
  new = kernel if found.kernel is None else found.kernel
  assert found.keep.dtype == bool
  return np.array(found.keep).T, np.array(jnp.where(found.keep, new, 0)).T


def gram_of(seed, depth, tokens=200):
  x = random_like({'x': (tokens, depth)}, seed)['x']
  x[:, 1:] += 0.7 * x[:, :-1]
  return x, (x.T @ x).astype(np.float32)


def kernel_of(seed, *shape):
  return random_like({'w': shape}, seed)['w']


def test_magnitude_within_outputs_and_layers():
  keep, _ = prune(lth.rules.magnitude(0.5, within='output'), PAPER)
  assert keep.tolist() == [[1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
  keep, weights = prune(lth.rules.magnitude(0.5), PAPER)
  assert keep.tolist() == [[1, 0, 0, 0], [1, 1, 0, 1], [1, 0, 0, 1]]
  np.testing.assert_array_equal(weights, PAPER * keep)


def test_wanda_keeps_exact_counts_whatever_the_scales():
  kernel, squares = kernel_of(0, 5, 10), np.arange(1, 11) ** 1.5
  rule = lth.rules.wanda(0.5)
  for share, kept in [(25, 7), (29, 7), (50, 5), (0, 10), (100, 0)]:
    keep, _ = prune(rule, kernel, squares, ratio=(share, 100))
    assert keep.sum(1).tolist() == [kept] * 5
    expected = [
      largest(row, kept) for row in abs(kernel) * np.sqrt(squares.astype('f'))
    ]
    assert keep.tolist() == np.array(expected).tolist()
  keep, _ = prune(rule, kernel, squares)
  scaled = kernel * np.array([4, 1, 1, 0.5, 2])[:, None]
  assert (prune(rule, scaled, 16 * squares)[0] == keep).all()
  order = np.random.default_rng(0).permutation(10)
  again, _ = prune(rule, kernel[:, order], squares[order])
  assert (again == keep[:, order]).all()


def test_variant_of_wanda():
  scores = [[1, 2, 3, 4], [0.1, 0.2, 0.3, 9.4]]
  keep, _ = prune(lth.rules.wanda(0.5, variant=True), scores, np.ones(4))
  assert keep.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
  rule = lth.rules.wanda(0.5, variant=True)
  assert prune(rule, scores, np.ones(4), ratio=(0, 1))[0].all()


@pytest.mark.slow
def test_ria():
  kernel, squares = kernel_of(0, 5, 8), np.arange(1.0, 9.0)
  size = abs(kernel)
  scores = size / size.sum(0) + size / size.sum(1, keepdims=True)
  scores = scores * squares**0.25
  keep, _ = prune(lth.rules.ria(pattern=NM(2, 4)), kernel, squares)
  expected = [largest(g, 2) for g in scores.reshape(-1, 4)]
  assert keep.tolist() == np.reshape(expected, (5, 8)).tolist()


def sparse_gpt(**options):
  options = {'damping': 0} | options
  return lth.rules.sparse_gpt(**options)


def test_sparse_gpt_on_two_inputs():
  gram = [[1, 0.8], [0.8, 1]]
  rule = sparse_gpt(pattern=NM(1, 2))
  np.testing.assert_allclose(prune(rule, [[0.3, 2]], gram)[1], [[0, 2.24]])
  np.testing.assert_array_equal(prune(rule, [[2, 0.3]], gram)[1], [[2, 0]])


def test_sparse_gpt_on_four_inputs():
  kernel = [[1, -2, 3, 0.5], [-1, 0.4, 0.6, 2]]
  rule = sparse_gpt(pattern=NM(2, 4))
  expected = [[0, -1.25, 2.5, 0], [-1, 0, 0, 2.3]]
  close = functools.partial(np.testing.assert_allclose, atol=2e-6)
  close(prune(rule, kernel, TRIDIAGONAL)[1], expected)
  damped = [[0, -1.26699169, 2.51932321, 0], [-1, 0, 0, 2.2970297]]
  rule = sparse_gpt(pattern=NM(2, 4), damping=0.01)
  close(prune(rule, kernel, TRIDIAGONAL)[1], damped)
  rule = sparse_gpt(pattern=NM(1, 2), block=2)
  found = prune(rule, [[1, -2, 0.9, -0.6]], TRIDIAGONAL)[1]
  close(found, [[0, -1.25, 0, -0.15]])


def test_diagonal_of_the_factor():
  from lthjax.rules import _hessian

  upper, found = _hessian.upper_factor(jnp.array([[1, 0.8], [0.8, 1]]), 0)
  np.testing.assert_allclose(jnp.diag(upper) ** 2, [2.777778, 1], rtol=1e-6)
  upper, found = _hessian.upper_factor(jnp.asarray(TRIDIAGONAL), 0)
  expected = [0.8, 0.75, 2 / 3, 0.5]
  np.testing.assert_allclose(jnp.diag(upper) ** 2, expected, rtol=1e-6)
  assert found


def naive_sparse_gpt(kernel, gram, block, select, damping=0.01):
  """One input after the other, by the inverse of what is left."""
  w, h = kernel.T.astype(np.float64), gram.astype(np.float64)
  h = h + damping * np.mean(np.diag(h)) * np.eye(len(h))
  keep = np.zeros(w.shape, bool)
  inverses = [np.linalg.inv(h[i:, i:]) for i in range(len(h))]
  first = np.array([inverse[0, 0] for inverse in inverses])
  for i, inverse in enumerate(inverses):
    if i % block == 0:
      rows = slice(i, i + block)
      keep[rows] = select(w[rows] ** 2 / first[rows, None])
    gone = np.where(keep[i], 0, w[i])
    w[i:] -= np.outer(inverse[:, 0] / first[i], gone)
    w[i, ~keep[i]] = 0
  return keep.T, w.T


@pytest.mark.parametrize(
  'block', [8, *(pytest.param(b, marks=pytest.mark.slow) for b in (5, 100))]
)
def test_sparse_gpt_is_the_naive_loop(block):
  kernel, (_, gram) = kernel_of(0, 7, 20), gram_of(1, 20)
  keep, weights = prune(
    sparse_gpt(sparsity=0.6, block=block, damping=0.01), kernel, gram
  )
  removed = lambda scores: scores.size - round(scores.size * 0.6)  # noqa: E731
  expected = naive_sparse_gpt(
    kernel, gram, block, lambda s: largest(s, removed(s))
  )
  assert (keep == expected[0]).all()
  np.testing.assert_allclose(weights, expected[1], atol=2e-4)


@pytest.mark.slow
def test_sparse_gpt_with_groups_is_the_naive_loop():
  kernel, (_, gram) = kernel_of(0, 7, 20), gram_of(1, 20)

  def select(scores):
    return np.stack([largest(s, 2) for s in scores.T], 1)

  expected = naive_sparse_gpt(kernel, gram, 4, select)
  for block in (9, 128):
    rule = sparse_gpt(pattern=NM(2, 4), block=block, damping=0.01)
    keep, weights = prune(rule, kernel, gram)
    assert (keep == expected[0]).all()
    np.testing.assert_allclose(weights, expected[1], atol=2e-4)
  two = [prune(rule, kernel[i : i + 1], gram)[0] for i in range(2)]
  assert (np.concatenate(two) == keep[:2]).all()


def test_sparse_gpt_counts_are_exact():
  kernel, (_, gram) = kernel_of(0, 24, 16), gram_of(1, 16)
  rule = sparse_gpt(sparsity=0.5, block=16, damping=0.01)
  assert (~prune(rule, kernel, gram)[0]).sum() == 192
  for share, dead in [(50, 192), (0, 0), (100, 384), (29, 111)]:
    keep, weights = prune(rule, kernel, gram, ratio=(share, 100))
    assert (~keep).sum() == dead
    if not dead:
      np.testing.assert_array_equal(weights, kernel)


@pytest.mark.slow
def test_sparse_gpt_does_not_depend_on_the_scale_of_the_gram_matrix():
  kernel, (_, gram) = kernel_of(0, 6, 16), gram_of(1, 16)
  rule = sparse_gpt(sparsity=0.5, damping=0.01)
  one = prune(rule, kernel, gram)
  for scale in (8, 10):
    more = prune(rule, kernel, scale * gram)
    assert (one[0] == more[0]).all()
    np.testing.assert_allclose(one[1], more[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_sparse_gpt_with_a_multiple_of_the_identity_is_magnitude():
  kernel = kernel_of(0, 6, 16)
  rule = sparse_gpt(sparsity=0.5, block=8)
  keep, weights = prune(rule, kernel, 3 * np.eye(16))
  expected = [largest(b, 24) for b in (abs(kernel[:, :8]), abs(kernel[:, 8:]))]
  assert (keep == np.concatenate(expected, 1)).all()
  np.testing.assert_allclose(weights, kernel * keep, rtol=1e-6)
  rule = sparse_gpt(pattern=NM(2, 4))
  magnitude = lth.rules.magnitude(pattern=NM(2, 4))
  keep, _ = prune(rule, kernel, 3 * np.eye(16))
  assert (keep == prune(magnitude, kernel)[0]).all()


@pytest.mark.slow
def test_dead_inputs_and_singular_grams():
  kernel, (_, gram) = kernel_of(0, 3, 8), gram_of(1, 8)
  gram[2] = gram[:, 2] = 0
  rule = sparse_gpt(sparsity=0.5, damping=0.01)
  _, weights = prune(rule, kernel, gram)
  assert np.isfinite(weights).all()
  assert not weights[:, 2].any()
  _, singular = gram_of(1, 8, tokens=3)
  assert np.isfinite(prune(rule, kernel, singular)[1]).all()
  assert rule('w', kernel.T, np.full((8, 8), np.nan, 'f'), kernel.T > -9).failed
  rule = sparse_gpt(sparsity=0.5, damping=0)
  assert rule('w', kernel.T, -np.eye(8, dtype='f'), kernel.T > -9).failed


@pytest.mark.parametrize(
  'rule', ['obs', pytest.param('sparse_gpt', marks=pytest.mark.slow)]
)
def test_only_one_input_pruned_is_least_squares(rule):
  kernel, (x, gram) = kernel_of(0, 1, 6), gram_of(1, 6)
  kernel[0, 0] = 1e-3
  rule = getattr(lth.rules, rule)(sparsity=1 / 6, damping=0)
  keep, weights = prune(rule, kernel, gram)
  assert keep.tolist() == [[0, 1, 1, 1, 1, 1]]
  best, *_ = np.linalg.lstsq(x[:, 1:], x @ kernel[0], rcond=None)
  np.testing.assert_allclose(weights[0, 1:], best, rtol=1e-4)


@pytest.mark.slow
def test_experts_are_pruned_one_by_one():
  kernels = jnp.asarray(kernel_of(0, 3, 8, 5))
  grams = jnp.stack([gram_of(i, 8)[1] for i in range(3)])
  alive = np.ones((3, 8, 5), bool)
  rule = sparse_gpt(sparsity=0.5)
  found = rule('w', kernels, grams, alive)
  for i in range(3):
    one = rule('w', kernels[i], grams[i], alive[i])
    assert (found.keep[i] == one.keep).all()
    np.testing.assert_allclose(found.kernel[i], one.kernel, atol=1e-5)


@pytest.mark.parametrize('bits', [8, pytest.param(4, marks=pytest.mark.slow)])
def test_joint_integers(bits):
  kernel, (_, gram) = kernel_of(0, 5, 16), gram_of(1, 16)
  rule = sparse_gpt(sparsity=0.5, damping=0.01, bits=bits, group=8)
  keep, weights = prune(rule, kernel, gram)
  assert keep.sum() == 40
  assert not weights[~keep].any()
  groups = abs(kernel).reshape(5, 1 if bits == 8 else 2, -1)
  scales = groups.max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
  steps = weights.reshape(groups.shape) / scales
  np.testing.assert_allclose(steps, steps.round(), atol=1e-4)
  assert abs(steps).max() < 2 ** (bits - 1)


def naive_obs(row, gram, number):
  w, inverse = row.astype(np.float64), np.linalg.inv(gram.astype(np.float64))
  left = list(range(len(w)))
  for _ in range(number):
    inverse = np.linalg.inv(gram[np.ix_(left, left)].astype(np.float64))
    at = np.argmin(w[left] ** 2 / np.diag(inverse))
    w[left] -= inverse[:, at] * w[left[at]] / inverse[at, at]
    w[left[at]] = 0
    left.pop(at)
  return w


@pytest.mark.slow
def test_obs_is_the_naive_loop():
  kernel, (_, gram) = kernel_of(0, 4, 9), gram_of(1, 9)
  keep, weights = prune(lth.rules.obs(2 / 3, damping=0), kernel, gram)
  expected = np.array([naive_obs(row, gram, 6) for row in kernel])
  assert (keep == (expected != 0)).all()
  np.testing.assert_allclose(weights, expected, atol=1e-4)


def test_obd():
  kernel, squares = kernel_of(0, 4, 9), np.arange(9.0)
  keep, _ = prune(lth.rules.obd(0.5), kernel, squares)
  assert (keep == largest(kernel**2 * squares.astype('f') / 2, 18)).all()


def loss(weights, kernel, gram):
  difference = np.asarray(weights - kernel, np.float64)
  return np.einsum(
    'oi,ij,oj->', difference, gram.astype(np.float64), difference
  )


@pytest.mark.slow
def test_each_method_beats_the_one_before():
  kernel, (_, gram) = kernel_of(0, 8, 16), gram_of(1, 16)
  scales = np.exp(np.linspace(-2, 2, 16)).astype('f')
  gram = gram * np.outer(scales, scales)
  wanda = lth.rules.wanda(0.5)
  rules = {
    'magnitude': lth.rules.magnitude(0.5),
    'wanda': lth.rules.refit(wanda, steps=1),
    'swaps': lth.rules.swaps(wanda),
    'refit': lth.rules.refit(wanda),
    'admm': lth.rules.admm(0.5),
    'obs': lth.rules.obs(0.5),
    'both': lth.rules.refit(lth.rules.swaps(wanda)),
  }
  losses = {}
  for name, rule in rules.items():
    keep, weights = prune(rule, kernel, gram)
    assert keep.sum() == 64
    losses[name] = loss(weights, kernel, gram)
  plain = loss(prune(wanda, kernel, np.diag(gram))[1], kernel, gram)
  assert losses['swaps'] < plain < losses['magnitude']
  assert losses['both'] < losses['refit'] <= losses['wanda'] <= plain
  assert max(losses['admm'], losses['obs']) < plain


@pytest.mark.slow
def test_admm_is_the_loop_of_the_paper():
  kernel, (_, gram) = kernel_of(0, 5, 8), gram_of(1, 8)
  w, h = kernel.T.astype(np.float64), gram.astype(np.float64)
  norms = np.sqrt(np.diag(h)) + 1e-8
  first, h = w * norms[:, None], h / np.outer(norms, norms)
  h = h + 0.1 * np.mean(np.diag(h)) * np.eye(8)
  inverse = np.linalg.inv(h + np.eye(8))
  new, dual = first, 0 * first
  for step in range(20):
    share = 0.5 * (1 - (1 - min((step + 1) / 15, 1)) ** 3)
    kept = 8 - round(8 * share)
    scores = abs(new + dual)
    keep = np.stack([largest(s, kept) for s in scores.T], 1)
    sparse = (new + dual) * keep
    dual = dual + new - sparse
    new = inverse @ (h @ first + sparse - dual)
  found, weights = prune(lth.rules.admm(0.5), kernel, gram)
  assert (found == keep.T).all()
  np.testing.assert_allclose(weights, (sparse / norms[:, None]).T, atol=1e-4)
  # A sparsity that varies between layers rises as smoothly.
  again, same = prune(lth.rules.admm(0.2), kernel, gram, ratio=(1, 2))
  np.testing.assert_array_equal(again, found)
  np.testing.assert_allclose(same, weights, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('pattern', [None, NM(2, 4)])
def test_alps_is_the_loop_of_the_paper(pattern):
  kernel, (_, gram) = kernel_of(0, 5, 8), gram_of(1, 8)
  w, h = kernel.T.astype(np.float64), gram.astype(np.float64)
  norms = np.sqrt(np.diag(h)) + 1e-8
  first, h = w * norms[:, None], h / np.outer(norms, norms)
  h = h + 0.01 * np.mean(np.diag(h)) * np.eye(8)
  sparse, dual, rho, last = first, 0 * first, 0.1, np.zeros(w.shape, bool)
  for step in range(300):
    new = np.linalg.solve(
      h + rho * np.eye(8), h @ first + rho * (sparse - dual)
    )
    scores = abs(new + dual)
    if pattern:
      groups = scores.T.reshape(-1, 4)
      keep = np.stack([largest(g, 2) for g in groups]).reshape(5, 8).T
    else:
      keep = largest(scores, 20)
    sparse = (new + dual) * keep
    dual = dual + new - sparse
    if step % 3 == 2:
      moved = (keep != last).sum() / 20
      if not moved:
        break
      growth = 1.3 if moved > 0.1 else 1.2 if moved > 0.005 else 1.1
      rho, dual, last = rho * growth, dual / growth, keep
  else:
    raise AssertionError('The mask never stayed.')
  share = None if pattern else 0.5
  found, weights = prune(lth.rules.alps(share, pattern=pattern), kernel, gram)
  assert (found == keep.T).all()
  best = [
    np.linalg.lstsq(
      gram[np.ix_(k, k)].astype(np.float64), (gram @ row)[k], rcond=None
    )[0]
    for k, row in zip(found, kernel, strict=True)
  ]
  # Damped as the refit is.
  for row, k, each in zip(weights, found, best, strict=True):
    np.testing.assert_allclose(row[k], each, atol=0.1)
  wanda = lth.rules.refit(lth.rules.wanda(0.5))
  if not pattern:
    less = loss(prune(wanda, kernel, gram)[1], kernel, gram)
    assert loss(weights, kernel, gram) < less


def test_alps_on_unrelated_inputs_is_magnitude():
  keep, weights = prune(lth.rules.alps(0.5), PAPER, 3 * np.eye(4))
  assert keep.tolist() == [[1, 0, 0, 0], [1, 1, 0, 1], [1, 0, 0, 1]]
  np.testing.assert_allclose(weights, PAPER * keep, rtol=1e-5)


def test_refit_on_paper():
  kernel, gram = np.array([[1], [-2], [3.0]], 'f'), TRIDIAGONAL[:3, :3]
  for kept, best, expected in [([0, 2], [0, 0, 2], 4), ([1], [0, 0, 0], 12)]:
    keep = np.isin(np.arange(3), kept)[:, None]
    found = lth.rules.refit_kernel(kernel, keep, gram, damping=0)
    np.testing.assert_allclose(found[:, 0], best, atol=1e-5)
    np.testing.assert_allclose(loss(found.T, kernel.T, gram), expected, 1e-5)
    assert not np.signbit(np.asarray(found)[~keep]).any()


def test_refit_forgets_inputs_that_are_always_zero():
  kernel, (_, gram) = kernel_of(0, 5, 8), gram_of(1, 8)
  gram = gram * (np.arange(8) != 3) * (np.arange(8) != 3)[:, None]
  keep, weights = prune(lth.rules.refit(lth.rules.magnitude(0.5)), kernel, gram)
  assert not weights[:, 3].any()
  assert keep.sum() == 20


def test_swap_on_paper():
  """Kept 1 makes way for 2: the loss falls by 1.29 from 1.81, to the least."""
  gram = np.array([[1, -0.8, 0], [-0.8, 1, 0], [0, 0, 1]], np.float32)
  kernel = np.array([[1], [1.2], [0.9]], np.float32)
  keep = np.arange(3)[:, None] == 1
  losses = [loss((kernel * m).T, kernel.T, gram) for m in np.eye(3)[:, :, None]]
  np.testing.assert_allclose(losses, [2.25, 1.81, 0.52], rtol=1e-5)
  assert (lth.rules.swap(kernel, keep, gram) == np.eye(3)[:, 2:]).all()
  assert (lth.rules.swap(kernel, keep, gram, most=0) == keep).all()
  with pytest.raises(ValueError, match='must divide the 3 inputs'):
    lth.rules.swap(kernel, keep, gram, m=2)


def naive_swaps(kernel, keep, gram, alive, m, most):
  """Tries all pairs of an output; numbers of its losses, and its mask."""
  w, h, keep = kernel.astype('f8'), gram.astype('f8'), keep.copy()

  def of(kept):
    gone = np.where(kept, 0, w)
    return gone @ h @ gone

  losses = [of(keep)]
  for _ in range(most):
    found = []
    for u, p in np.ndindex(len(w), len(w)):
      if keep[u] and alive[p] and not keep[p] and u // m == p // m:
        new = keep.copy()
        new[[u, p]] = False, True
        found.append((of(new), new.tolist()))
    if not found or min(found)[0] >= losses[-1]:
      break
    losses.append(min(found)[0])
    keep = np.array(min(found)[1])
  return losses, keep


@pytest.mark.parametrize('m', [12, 4, 1])
def test_swaps_are_those_of_all_pairs_tried_in_turn(m):
  """With few kept, many kept, and weights that may not come back."""
  kernel, (_, gram) = kernel_of(0, 12, 9), gram_of(1, 12)
  rng = np.random.default_rng(2)
  keep = rng.random((12, 9)) < np.linspace(0, 1, 9)
  alive = rng.random((12, 9)) < [1, 1, 1, 1, 1, 1, 0.7, 0.7, 0.7]
  swap = jax.jit(lth.rules.swap, static_argnames='m')
  new = np.asarray(swap(kernel, keep, gram, m=m, alive=alive))
  expected = [
    naive_swaps(kernel[:, i], keep[:, i], gram, alive[:, i], m, 50)
    for i in range(9)
  ]
  masks = np.array([mask for _, mask in expected])
  assert np.array_equal(new.T, masks)
  assert (new.sum(0) == keep.sum(0)).all()
  assert (new.any() and (new != keep).any()) or m == 1
  assert max(len(losses) for losses, _ in expected) > 2 or m < 12


def test_a_cap_on_swaps_is_kept_and_every_swap_lowers_the_loss():
  kernel, (_, gram) = kernel_of(0, 12, 3), gram_of(1, 12)
  keep = np.arange(12)[:, None] % 2 == np.arange(3) % 2
  swap = jax.jit(lth.rules.swap, static_argnames='most')
  for most in (1, 3):
    new = np.asarray(swap(kernel, keep, gram, most=most))
    for i in range(3):
      losses, mask = naive_swaps(
        kernel[:, i], keep[:, i], gram, np.ones(12, bool), 12, most
      )
      assert (new[:, i] == mask).all()
      assert (np.diff(losses) < 0).all()
      assert 0 < (new != keep)[:, i].sum() <= 2 * most


def test_shares_are_rounded_and_not_truncated():
  keep, _ = prune(lth.rules.wanda(0.29), kernel_of(0, 1, 100), np.ones(100))
  assert (~keep).sum() == 29


@pytest.mark.slow
def test_swaps_stay_within_groups_and_among_the_alive():
  kernel, (_, gram) = kernel_of(0, 6, 16), gram_of(1, 16)
  wanda = lth.rules.wanda(pattern=NM(2, 4))
  before, _ = prune(wanda, kernel, np.diag(gram))
  after, weights = prune(lth.rules.swaps(wanda), kernel, gram)
  assert (after.reshape(6, 4, 4).sum(-1) == 2).all()
  assert (before != after).any()
  assert loss(weights, kernel, gram) < loss(kernel * before, kernel, gram)
  alive = kernel_of(3, 6, 16) > 0
  for rule in (lth.rules.wanda(0.8), lth.rules.sparse_gpt(0.8)):
    keep, _ = prune(lth.rules.swaps(rule), kernel, gram, alive)
    assert not (keep & ~alive).any()


@pytest.mark.slow
@pytest.mark.parametrize(
  'make',
  ['magnitude', 'wanda', 'ria', 'obd', 'obs', 'sparse_gpt', 'admm', 'alps'],
)
def test_dead_weights_never_return(make):
  kernel, (_, gram) = kernel_of(0, 6, 16), gram_of(1, 16)
  rule = getattr(lth.rules, make)(0.5)
  statistic = gram if rule.needs is lth.stats.gram else np.diag(gram)
  alive = kernel_of(3, 6, 16) > 0
  keep, weights = prune(rule, kernel, statistic, alive)
  assert not (keep & ~alive).any()
  assert 0 < keep.sum() <= 48
  assert np.isfinite(weights).all()


@pytest.mark.parametrize(
  ('wrong', 'error', 'text'),
  [
    ({'kernel': None}, TypeError, '`kernel` was None, but must be an array'),
    ({'kernel': np.ones(4, 'f')}, ValueError, r'must be \[inputs, outputs\]'),
    ({'gram': np.eye(3)}, ValueError, r'`gram` \(3, 3\) instead of \(4, 4\)'),
    ({'keep': np.ones((4, 2))}, TypeError, 'keep is'),
    ({'keep': np.ones((2, 4), bool)}, ValueError, r'`keep` \(2, 4\) instead'),
    ({'alive': np.ones(4, bool)}, ValueError, r'`alive` \(4,\) instead of'),
    ({'most': -1}, ValueError, '`most` was -1, but must be at least 0'),
    ({'m': 0}, ValueError, '`m` was 0, but must be at least 1'),
    ({'m': '4'}, TypeError, '`m` was'),
    ({'steps': 0}, ValueError, '`steps` was 0, but must be at least 1'),
  ],
)
def test_matrices_must_fit(wrong, error, text):
  given = {'kernel': np.ones((4, 2), 'f'), 'gram': np.eye(4, dtype='f')}
  given |= {'keep': np.ones((4, 2), bool), **wrong}
  swaps, refits = {'m', 'most', 'alive'}, {'steps'}
  for f, foreign in ((lth.rules.swap, refits), (refit_kernel, swaps)):
    if not foreign & set(wrong):
      with pytest.raises(error, match=text):
        f(**given)


@pytest.mark.parametrize(
  ('call', 'text'),
  [
    (lambda: lth.rules.wanda(), 'either `sparsity=0.5` or'),
    (lambda: lth.rules.wanda(0.5, pattern=NM(2, 4)), 'either'),
    (lambda: lth.rules.wanda(50), 'Give 50 % as 0.5'),
    (lambda: lth.rules.sparse_gpt(pattern=NM(4, 2)), '1 <= n <= m'),
    (lambda: lth.rules.sparse_gpt(0.5, bits=3), 'must be 8, 4 or None'),
    (lambda: lth.rules.sparse_gpt(0.5, damping=-1), 'must not be negative'),
    (lambda: lth.rules.wanda(0.5, within='row'), '"output"'),
    (lambda: lth.rules.wanda(pattern=NM(2, 4), variant=True), 'N:M fixes'),
  ],
)
def test_bad_options(call, text):
  with pytest.raises(ValueError, match=text):
    call()
