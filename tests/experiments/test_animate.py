"""The film of the README: what its maps count, and how it is written."""

import io
import itertools
import pathlib

import numpy as np
import pytest
from PIL import Image

import animate

DOCS = pathlib.Path(__file__).parents[2] / 'docs'


def row(count, seed):
  maps = np.random.default_rng(seed).uniform(0, 3, (count, 8, 8))
  return animate.Row('A title', [f'{n} %' for n in range(count)], list(maps))


@pytest.fixture(scope='module')
def film():
  return Image.open(io.BytesIO(animate.gif([row(5, 0), row(11, 1)], 'About.')))


def test_maps_by_hand():
  mask = np.array([[1, 1], [1, 0], [0, 0], [1, 0]], bool)  # four pixels
  found = animate.relative(mask, (2, 2, 1))
  np.testing.assert_array_equal(found, [[2, 1], [0, 1]])
  of_channels = animate.relative(mask, (2, 1, 2))
  np.testing.assert_array_equal(of_channels, [[1.5], [0.5]])


def test_the_film_begins_and_ends_with_the_whole_strip(film):
  assert film.format == 'GIF'
  assert film.info['loop'] == 0
  frames = []
  for n in range(film.n_frames):
    film.seek(n)
    frames.append(np.asarray(film.convert('RGB')))
  assert len(frames) == 1 + 11
  np.testing.assert_array_equal(frames[0], frames[-1])
  # Each frame shows at least as much as the one before.
  inked = [(frame != 255).any(-1).sum() for frame in frames[1:]]
  assert all(b > 0.98 * a for a, b in itertools.pairwise(inked))
  assert inked[0] < inked[-1] / 2


def test_the_last_map_of_a_strip_is_that_of_the_moment():
  rows = [row(animate.SLOTS, 2), row(4 * (animate.SLOTS - 1) + 1, 3)]
  half = np.asarray(animate.strip(rows, 0.5, ''))
  whole = np.asarray(animate.strip(rows, 1, ''))
  side = animate.SIDE
  left = animate.GAP + (animate.SLOTS // 2) * (side + animate.GAP)
  tile = np.s_[animate.HEAD : animate.HEAD + side, left : left + side]
  np.testing.assert_array_equal(half[tile], whole[tile])
  assert (half[: animate.HEAD + side, left + side :] == 255).all()


def test_the_film_of_the_readme_is_small():
  path = DOCS / 'moving_masks.gif'
  assert path.stat().st_size < 1_000_000
  assert 'docs/moving_masks.gif' in (DOCS.parent / 'README.md').read_text()
  with Image.open(path) as film:
    assert film.n_frames > 10
