"""Corruptions of raw images."""

import jax.numpy as jnp
import numpy as np
import pytest

from lthjax.evaluation import corruptions

ALL = corruptions.ALL
DRAWS = np.random.default_rng(0)
IMAGES = DRAWS.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
# A smooth blob, and in color.
Y, X = np.mgrid[:12, :12]
BLOB = 255 * np.exp(-((Y - 5) ** 2 + (X - 6) ** 2) / 8)
COLOR = np.stack([BLOB, BLOB / 2, 255 - BLOB], -1)[None].astype(np.uint8)
RANDOM = ['gaussian_noise', 'shot_noise', 'impulse_noise', 'fog', 'shift']


def apart(a, b):
  return np.abs(a.astype(float) - b).mean()


@pytest.mark.parametrize('name', ALL)
def test_shape_seed_and_severity(name):
  corrupt = ALL[name]
  before = IMAGES.copy()
  for images in (IMAGES, np.repeat(COLOR, 3, 0), IMAGES[:, :6]):
    found = [corrupt(images, severity, seed=3) for severity in range(1, 6)]
    assert {x.dtype for x in found} == {np.dtype(np.uint8)}
    assert {x.shape for x in found} == {images.shape}
    assert apart(found[4], images) > apart(found[0], images) >= 0
    assert apart(found[4], images) > 0
  again = corrupt(jnp.asarray(IMAGES), 4, seed=3)
  np.testing.assert_array_equal(again, corrupt(IMAGES, 4, seed=3))
  if name in RANDOM:
    assert (again != corrupt(IMAGES, 4, seed=4)).any()
  np.testing.assert_array_equal(IMAGES, before)
  assert corrupt.__name__ == name


def test_by_hand():
  image = np.zeros((1, 2, 2, 1), np.uint8)
  image[0, 0] = 200
  light = corruptions.brightness(image, 5)[0, :, 0, 0]
  assert light.tolist() == [255, 82]  # .32 of 255 is 81.6
  flat = corruptions.contrast(image, 5)[0, :, 0, 0]
  assert flat.tolist() == [110, 90]
  white = np.full((400, 8, 8, 1), 255, np.uint8)
  for severity, share in zip(
    range(1, 6), (0.03, 0.07, 0.12, 0.18, 0.25), strict=True
  ):
    black = (corruptions.impulse_noise(white, severity) == 0).mean()
    np.testing.assert_allclose(black, share / 2, atol=0.005)
  gray = np.full((400, 8, 8, 1), 127, np.uint8)
  noise = corruptions.gaussian_noise(gray, 1).std()
  np.testing.assert_allclose(noise, 25.5, rtol=0.02)
  photons = corruptions.shot_noise(gray, 2)
  np.testing.assert_allclose(photons.mean(), 127, rtol=0.05)
  assert set(np.unique(photons)) <= {
    min(255, round(n * 255 / 6)) for n in range(30)
  }


def test_blurs_keep_light_and_flat_images():
  blob = np.zeros((9, 15, 15, 1), np.uint8)
  blob[:, 7, 7] = 255
  flat = np.full((3, 9, 9, 3), 77, np.uint8)
  for blur in (corruptions.defocus_blur, corruptions.motion_blur):
    np.testing.assert_array_equal(blur(flat, 5), flat)
    found = blur(blob, 2).astype(float)
    np.testing.assert_allclose(found.sum((1, 2, 3)), 255, rtol=0.05)
  # A disk is the same in all four directions.
  disk = corruptions.defocus_blur(blob, 5)[0, ..., 0]
  np.testing.assert_array_equal(disk, np.rot90(disk))


def test_moves_put_the_middle_of_light_where_they_say():
  image = np.zeros((40, 21, 21, 1), np.uint8)
  image[:, 8:13, 8:13] = 200

  def middle(x):
    weights = x[..., 0].astype(float)
    rows = (weights.sum(2) * np.arange(21)).sum(1)
    columns = (weights.sum(1) * np.arange(21)).sum(1)
    return np.stack([rows, columns], 1) / weights.sum((1, 2))[:, None] - 10

  moved = middle(corruptions.shift(image, 5, seed=1))
  np.testing.assert_allclose(np.hypot(*moved.T), 0.09 * 21, rtol=0.02)
  assert len(np.unique(moved.round(3), axis=0)) == 40
  for corrupt in (corruptions.rotate, corruptions.shear):
    np.testing.assert_allclose(middle(corrupt(image, 5)), 0, atol=0.02)
  image[:], image[:, 10, 18] = 0, 255  # To the right of the middle.
  turned = middle(corruptions.rotate(image, 5, seed=2))
  degrees = np.rad2deg(np.arctan2(turned[:, 0], turned[:, 1]))
  np.testing.assert_allclose(np.abs(degrees), 20, atol=3)
  assert len(np.unique(np.sign(degrees))) == 2


def test_bad_images():
  for bad in (
    IMAGES / 255,
    IMAGES.astype(np.float32),
    IMAGES.astype(np.int32),
    IMAGES[..., 0],
    IMAGES.tolist(),
    None,
  ):
    for corrupt in ALL.values():
      with pytest.raises(
        TypeError, match=r'be raw images, uint8.* before they'
      ):
        corrupt(bad, 1)
  for corrupt in ALL.values():
    for severity in (0, 6):
      with pytest.raises(ValueError, match=f'`severity` was {severity}, but'):
        corrupt(IMAGES, severity)
    with pytest.raises(ValueError, match='have pixels'):
      corrupt(IMAGES[:0], 1)
  with pytest.raises(ValueError, match='have 2 channels, but JPEG needs 1'):
    corruptions.jpeg(np.repeat(IMAGES, 2, -1), 1)
