"""The largest weights of each matrix and neuron, chosen at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import bits, eager_step, largest, random_like

import lthjax as lth
from lthjax.topologies import _circuit

ROWS = lth.axes.Axes(inputs=(1,), outputs=(0,))
SHAPES = {
  'blocks': {'kernel': (3, 6, 5)},
  'out': {'kernel': (5, 4), 'bias': (4,)},
}
PARAMS = random_like(SHAPES, 0)


@pytest.mark.parametrize(
  ('at_least', 'wanted'),
  [
    (1, [[0, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0]]),
    (0, [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]),
  ],
)
def test_by_hand(at_least, wanted):
  x = jnp.array([[0.01, 0.02, 0.03, 0.04], [9, 8, 7, 6], [5, 4, 3, 2]])
  target = _circuit._Target(0.5, 0, 1, at_least)
  assert target.keep(x, 1, ROWS).astype(int).tolist() == wanted


def keep(x, count, at_least):
  """An independent choice for one kernel ``[inputs, outputs]``."""
  best = np.stack([largest(np.abs(column), at_least) for column in x.T], axis=1)
  rest = max(count - int(best.sum()), 0)
  return best | largest(np.abs(x), rest, ~best)


def test_the_number_falls_and_nothing_is_compiled_again():
  """Nothing but NumPy agrees with each step, and weights come back."""
  where = ['*/kernel', 'out/bias']
  tx = lth.circuit(
    optax.sgd(0.5), sparsity=0.7, start_step=2, stop_step=8, at_least=1,
    where=where, scales_updates=False,
  )  # fmt: skip
  traces = []

  @jax.jit
  def step(params, state, grads):
    traces.append(1)
    return eager_step(tx, params, state, grads)

  params, state, back = PARAMS, tx.init(PARAMS), 0
  before = lth.get_masks(state)
  for i in range(1, 11):
    grads = random_like(SHAPES, i)
    moved = jax.tree.map(lambda p, g: np.asarray(p) - g / 2, params, grads)
    params, state = step(params, state, grads)
    masks, past = lth.get_masks(state), min(max(i - 2, 0), 6)
    kernels = [*moved['blocks']['kernel'], moved['out']['kernel']]
    found = [*masks['blocks']['kernel'], masks['out']['kernel']]
    for x, mask in zip(kernels, found, strict=True):
      count = x.size - (round(x.size * 0.7) * past + 3) // 6
      np.testing.assert_array_equal(mask, keep(x, count, 1))
    assert masks['out']['bias'].sum() == 4 - (3 * past + 3) // 6
    zeros = jax.tree.map(lambda m: np.float32(0) * m, masks)
    held = jax.tree.map(
      lambda m, p, z: jnp.where(m, z, p), masks, params, zeros
    )
    assert bits(held) == bits(zeros)
    pairs = zip(*map(jax.tree.leaves, (masks, before)), strict=True)
    back += sum(int((a & ~b).sum()) for a, b in pairs)
    before = masks
  assert len(traces) == 1
  assert back > 0
  assert bits(lth.forward_params(state, params)) == bits(params)


def test_learning_rate_law():
  params = {'kernel': np.full((2, 2), 100, np.float32)}
  tx = lth.circuit(
    optax.sgd(1.0), sparsity=0.75, start_step=0, stop_step=2, at_least=0
  )
  state, sizes = tx.init(params), []
  grads = {'kernel': np.ones((2, 2), np.float32)}
  for _ in range(2):
    updates, state = tx.update(grads, state, params)
    sizes.append(float(-updates['kernel'][0, 0]))
  # At densities of 0.625 and 0.25.
  np.testing.assert_allclose(sizes, [(0.25 / 0.625) ** 0.5, 1.0], rtol=1e-6)


def test_gradients_are_divided_by_their_size():
  tx = lth.topologies.divide_by_rms()
  grads = random_like(SHAPES, 1, scale=1e-3)
  found = tx.update(grads, tx.init(grads))[0]
  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found)])
  assert np.mean(flat**2) == pytest.approx(1, rel=1e-5)
  zero = jax.tree.map(np.zeros_like, grads)
  assert bits(tx.update(zero, tx.init(grads))[0]) == bits(zero)


def test_bad_arguments():
  with pytest.raises(
    ValueError, match='`stop_step` was 5, but must be at leas'
  ):
    lth.circuit(optax.sgd(1.0), sparsity=0.5, start_step=5, stop_step=5)
  with pytest.raises(ValueError, match=r'`sparsity` was 1, but must be in'):
    lth.circuit(optax.sgd(1.0), sparsity=1, start_step=0, stop_step=5)
  tx = lth.circuit(optax.sgd(1.0), sparsity=0.5, start_step=0, stop_step=5)
  with pytest.raises(ValueError, match='`circuit` needs the current params'):
    tx.update(PARAMS, tx.init(PARAMS))
