"""Tickets are drawn once their masks have settled, and not before."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax import tickets


def masks_that(differ):
  """A mask over a hundred, false in the first so many."""
  return {'w': jnp.arange(100) >= differ, 'bias': None}


def draw(history, **options):
  """Draws from masks that are given; the state counts the epochs."""
  trained = []

  def train_epoch(epoch):
    trained.append(epoch)
    return epoch + 1

  birds = tickets.early_bird(
    train_epoch,
    0,
    lambda epoch: masks_that(history[epoch]),
    epochs=len(history) - 1,
    **options,
  )
  return list(birds), trained


def test_never_before_the_fifth_look():
  birds, trained = draw([7] * 9)
  assert [bird.epoch for bird in birds] == [0, 1, 2, 3, 4]
  assert [bird.drawn for bird in birds] == [False] * 4 + [True]
  assert birds[-1].distances == (0.0,) * 4
  assert birds[-1].state == 4
  assert trained == [0, 1, 2, 3]


def test_newest_has_to_agree_with_all_of_the_window():
  """Steps of 4 % are small, but the fourth before is 16 % away."""
  moving = [4 * i for i in range(12)]
  birds, _ = draw(moving)
  assert not any(bird.drawn for bird in birds)
  assert birds[6].distances == (0.04, 0.08, 0.12, 0.16)
  birds, _ = draw([2 * i for i in range(12)])
  assert birds[-1].distances == (0.02, 0.04, 0.06, 0.08)
  assert (birds[-1].epoch, birds[-1].drawn) == (4, True)


def test_the_threshold_itself_agrees():
  birds, _ = draw([10, 0, 0, 0, 0, 0])
  assert (birds[-1].epoch, birds[-1].distances[-1]) == (4, 0.1)
  birds, _ = draw([11, 0, 0, 0, 0, 0])
  assert (birds[-1].epoch, birds[-1].distances) == (5, (0.0,) * 4)


def test_window_and_threshold():
  history = [0, 30, 50, 60, 62]
  birds, _ = draw(history, window=2, threshold=0.2)
  assert (birds[-1].epoch, birds[-1].drawn) == (2, True)
  birds, _ = draw(history, window=3, threshold=0.02)
  assert (len(birds), birds[-1].drawn) == (5, False)


def test_against_numpy():
  rng = np.random.default_rng(0)
  history = np.cumsum(rng.integers(0, 6, 30))
  birds, _ = draw(history.tolist(), window=4, threshold=0.07)
  for epoch in range(30):
    window = history[max(0, epoch - 3) : epoch]
    apart = np.abs(window - history[epoch]) / 100
    assert birds[epoch].distances == pytest.approx(apart[::-1])
    assert birds[epoch].drawn == (len(window) == 3 and apart.max() <= 0.07)
    if birds[epoch].drawn:
      break
  assert epoch == len(birds) - 1 < 29


def test_single_weights():
  """The unstructured form: masks of the largest magnitudes anywhere."""
  params = {'fc': {'kernel': jnp.array([[3.0, -2.0], [1.0, 0.5]])}}
  dense = lth.masks.full(params)
  prune = functools.partial(lth.prune, sparsity=0.5, scope='global')
  birds = tickets.early_bird(
    lambda params: {'fc': {'kernel': params['fc']['kernel'] * 0.9}},
    params,
    lambda params: prune(lth.scores.magnitude(params), dense),
    epochs=9,
  )
  *_, bird = birds
  assert (bird.epoch, bird.drawn) == (4, True)
  assert bird.masks['fc']['kernel'].tolist() == [[True, True], [False, False]]


def test_nothing_is_trained_before_it_is_asked_for():
  birds = tickets.early_bird(
    lambda state: pytest.fail('trained'), 0, masks_that, epochs=3
  )
  assert next(birds).epoch == 0
  birds, trained = draw([3])
  assert (len(birds), trained) == (1, [])


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({'epochs': -1}, '`epochs` was -1, but must be at least 0'),
    ({'window': 1}, '`window` was 1, but must be at least 2'),
    ({'threshold': -0.1}, r'`threshold` was -0.1, but must be in \[0, 1\)'),
    ({'threshold': 1.0}, r'`threshold` was 1.0, but must be in \[0, 1\)'),
  ],
)
def test_bad_options_before_anything_is_done(options, text):
  with pytest.raises(ValueError, match=text):
    tickets.early_bird(
      lambda state: state, 0, masks_that, **{'epochs': 3, **options}
    )
  options.pop('epochs', None)
  if options:
    with pytest.raises(ValueError, match=text):
      tickets.settled([0.0] * 4, **options)


@pytest.mark.parametrize(
  'options', [{'epochs': 1.5}, {'window': 2.5}, {'epochs': None}]
)
def test_numbers_of_epochs_are_integers(options):
  with pytest.raises(TypeError, match=r'was .*, but must be an integer'):
    tickets.early_bird(
      lambda state: state, 0, masks_that, **{'epochs': 3, **options}
    )


def test_distances_that_are_nan_have_not_settled():
  for distances in ([0, math.nan, 0, 0], [math.nan, 0, 0, 0]):
    assert not tickets.settled(distances)


def test_masks_of_nothing():
  birds = tickets.early_bird(
    lambda state: state, 0, lambda state: {'bias': None}, epochs=3
  )
  next(birds)
  with pytest.raises(ValueError, match='no prunable leaf'):
    next(birds)
