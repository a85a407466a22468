"""Distances between layers: what they do not see, and what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods import representations

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6))


def test_distances_by_hand():
  x = np.array([[0.0, 0.0], [3.0, 4.0]])
  # 0, 5, 5 and 0, of which the mean is 2.5.
  assert representations.distances(x).tolist() == [[0, 2], [2, 0]]
  assert representations.distances(np.ones((3, 2))).tolist() == [[0] * 3] * 3


def test_rotations_scales_and_shifts_are_not_seen():
  rotation, _ = np.linalg.qr(RNG.normal(size=(9, 6)))
  assert np.linalg.norm(rotation.T @ rotation - np.eye(6)) < 1e-12
  same = [X, X @ rotation.T, 7 * X + 3, -X]
  matrix = representations.gromov_wasserstein_matrix(same)
  assert (matrix == matrix.T).all()
  assert (np.diag(matrix) == 0).all()
  assert matrix.max() < 1e-6


def test_other_representations_are_apart():
  other = [X, np.maximum(X, 0), X[:, :2], RNG.normal(size=(40, 30))]
  matrix = representations.gromov_wasserstein_matrix(other)
  assert (matrix == matrix.T).all()
  apart = matrix[np.triu_indices(4, 1)]
  assert apart.min() > 0.02
  for i in range(4):
    for j in range(4):
      a, b = (representations.distances(other[k]) for k in (i, j))
      assert matrix[i, j] <= np.sqrt(np.mean((a - b) ** 2)) + 1e-9


def test_two_points_by_hand():
  """Distances 1 and 3: all matchings are the same, half of the pairs differ."""
  a, b = (np.array([[0, d], [d, 0]], float) for d in (1, 3))
  found = representations.gromov_wasserstein(a, b)
  assert found == pytest.approx(np.sqrt(0.5 * 2**2))


def test_clusters_are_what_is_near():
  group = np.array([0, 1, 0, 2, 1, 2])
  matrix = np.where(group[:, None] == group, 0.05, 1.0)
  np.fill_diagonal(matrix, 0)
  found = representations.spectral_clusters(matrix, 3)
  assert found == group.tolist()


def test_outputs_of_layers_are_those_of_numpy():
  params = {
    'conv': RNG.normal(size=(1, 1, 2, 3)).astype(np.float32),
    'head': RNG.normal(size=(12, 4)).astype(np.float32),
    'bias': np.ones(4, np.float32),
  }

  def apply(params, x, shift):
    x = jnp.maximum(conv(x, params['conv']), 0)
    return x.reshape(len(x), -1) @ params['head'] + params['bias'] + shift

  def conv(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  x = RNG.normal(size=(5, 2, 2, 2)).astype(np.float32)
  found = representations.layer_outputs(apply, params, jnp.asarray(x), 1.0)
  hidden = (x @ params['conv'][0, 0]).reshape(5, -1)
  assert list(found) == ['conv', 'head']
  np.testing.assert_allclose(found['conv'], hidden, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    found['head'], np.maximum(hidden, 0) @ params['head'], rtol=1e-5, atol=1e-5
  )
