"""Core and specialists as sets, and their overlap against chance."""

import itertools
import re
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import tickets

RNG = np.random.default_rng(0)


def draw(parts, density=0.4):
  """Masks of a small network for each part, one leaf never pruned."""
  shapes = {'fc': (13, 7), 'out': (7, 3)}
  return [
    {
      'b': None,
      **{n: jnp.asarray(RNG.random(s) < density) for n, s in shapes.items()},
    }
    for _ in range(parts)
  ]


def as_sets(masks):
  """The alive weights of a tree of masks as a set of (leaf, index)."""
  assert masks['b'] is None
  return {
    (name, int(i))
    for name in ('fc', 'out')
    for i in np.flatnonzero(masks[name])
  }


@pytest.mark.parametrize('parts', [2, 3, 5])
@pytest.mark.parametrize('density', [0.0, 0.4, 0.9, 1.0])
def test_identities_of_sets(parts, density):
  masks = draw(parts, density)
  sets = [as_sets(m) for m in masks]
  core, without_core = tickets.core_and_specialists(masks)
  same_core, without_others = tickets.core_and_specialists(
    masks, 'without_others'
  )
  chex.assert_trees_all_equal(core, same_core)
  core = as_sets(core)
  assert core == set.intersection(*sets)
  for i, mine in enumerate(sets):
    one, other = as_sets(without_core[i]), as_sets(without_others[i])
    assert one == mine - core
    assert one | core == mine
    assert not one & core
    assert other == mine.difference(*sets[:i], *sets[i + 1 :])
    assert other <= one
    if parts == 2:
      assert one == other
  others = [as_sets(m) for m in without_others]
  assert not any(a & b for a, b in itertools.combinations(others, 2))
  assert set.union(core, *map(as_sets, without_core)) == set.union(*sets)


def test_both_readings_by_hand():
  a, b, c = (
    {'w': jnp.array(bits, bool)}
    for bits in ([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 1, 1, 1])
  )
  core, rest = tickets.core_and_specialists([a, b, c])
  assert core['w'].tolist() == [1, 0, 0, 0, 0]
  assert [m['w'].tolist() for m in rest] == [
    [0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 1, 1],
  ]  # fmt: skip
  _, rest = tickets.core_and_specialists([a, b, c], 'without_others')
  assert [m['w'].tolist() for m in rest] == [
    [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1],
  ]  # fmt: skip


def test_replicates_are_taken_apart_on_their_own():
  a, b = ({'w': jnp.asarray(RNG.random((3, 8)) < 0.5)} for _ in range(2))
  core, rest = tickets.core_and_specialists([a, b])
  for i in range(3):
    one, other = ({'w': m['w'][i]} for m in (a, b))
    alone, rest_alone = tickets.core_and_specialists([one, other])
    assert (core['w'][i] == alone['w']).all()
    assert (rest[0]['w'][i] == rest_alone[0]['w']).all()


@pytest.mark.parametrize(
  ('size', 'alive'), [(5, (2, 3)), (6, (5, 4)), (5, (2, 3, 4)), (1, (1, 0))]
)
def test_chance_is_that_of_all_sets_of_the_size(size, alive):
  """Enumerates every combination of sets."""
  shared = [
    len(set.intersection(*map(set, sets)))
    for sets in itertools.product(
      *(itertools.combinations(range(size), k) for k in alive)
    )
  ]
  masks = [{'w': jnp.arange(size) < k} for k in alive]
  whole, layers = tickets.overlap_against_chance(masks)
  assert whole == layers['w']
  assert whole.observed == min(alive)
  assert whole.expected == pytest.approx(np.mean(shared), rel=1e-12)
  assert whole.deviation == pytest.approx(np.std(shared), rel=1e-12)


def test_two_masks_share_a_hypergeometric_number():
  from scipy import stats

  size, a, b = 235_200, 8_275, 9_001
  masks = [{'w': jnp.arange(size) < a}, {'w': jnp.arange(size) < b}]
  whole, _ = tickets.overlap_against_chance(masks)
  chance = stats.hypergeom(size, a, b)
  assert whole.expected == pytest.approx(chance.mean(), rel=1e-12)
  assert whole.deviation == pytest.approx(chance.std(), rel=1e-12)
  z = (a - chance.mean()) / chance.std()
  assert whole.z == pytest.approx(z, rel=1e-12)


def test_layers_add_up():
  masks = draw(3)
  whole, layers = tickets.overlap_against_chance(masks)
  assert list(layers) == ['fc', 'out']
  core = as_sets(tickets.core_and_specialists(masks)[0])
  assert whole.observed == len(core)
  assert whole.observed == sum(x.observed for x in layers.values())
  assert whole.expected == pytest.approx(
    sum(x.expected for x in layers.values())
  )
  variance = sum(x.deviation**2 for x in layers.values())
  assert whole.deviation == pytest.approx(variance**0.5)
  assert all(abs(x.z) < 5 for x in layers.values())


def test_no_choice_is_no_surprise():
  """Masks that keep all or nothing share what they must."""
  masks = draw(2, 1.0)
  whole, _ = tickets.overlap_against_chance(masks)
  assert whole == (112, 112.0, 0.0)
  assert whole.z == 0.0


@pytest.mark.parametrize(
  'function', [tickets.core_and_specialists, tickets.overlap_against_chance]
)
@pytest.mark.parametrize(
  ('masks', 'message'),
  [
    ([], '`masks` was a list of 0, but core and specialists need the masks'),
    (draw(1), '`masks` was a list of 1, but core and specialists need'),
    (draw(1)[0], '`masks` was one tree, but'),
    (
      [*draw(2), {'fc': np.ones((13, 7), bool), 'out': None, 'b': None}],
      'Parts 0 and 2 do not have masks of the same network. The masks do not'
      ' fit the other masks: out is None in the other masks but has a mask.',
    ),
    (
      [*draw(1), {'fc': np.ones((13, 6), bool), 'b': None}],
      'fit the other masks: out has a mask only; fc: mask of shape (13, 7),'
      ' other masks of shape (13, 6).',
    ),
  ],
)
def test_masks_that_cannot_be_compared(function, masks, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    function(masks)


def test_no_such_reading():
  with pytest.raises(ValueError, match="`reading` was 'alone', but must be"):
    tickets.core_and_specialists(draw(2), 'alone')


@pytest.mark.parametrize(
  'function', [tickets.core_and_specialists, tickets.overlap_against_chance]
)
def test_nothing_to_overlap(function):
  with pytest.raises(
    ValueError, match='no prunable leaf: every one is None, so'
  ):
    function([{'w': None}, {'w': None}])


def test_any_iterable_but_no_mapping():
  masks = draw(2)
  chex.assert_trees_all_equal(
    tickets.core_and_specialists(iter(masks)),
    tickets.core_and_specialists(masks),
  )
  whole, _ = tickets.overlap_against_chance(mask for mask in masks)
  assert whole == tickets.overlap_against_chance(masks)[0]
  with pytest.raises(ValueError, match='`masks` was one tree, but'):
    tickets.core_and_specialists(types.MappingProxyType(masks[0]))


def test_masks_without_a_choice_by_chance():
  masks = {'a': jnp.ones(2, bool), 'b': jnp.ones((0, 3), bool)}
  with pytest.raises(ValueError, match='`masks` are empty in b, but chance'):
    tickets.overlap_against_chance([masks, masks])
  with pytest.raises(ValueError, match='`masks` were traced, but must be conc'):
    jax.eval_shape(
      lambda a: tickets.overlap_against_chance([a, a]), {'a': masks['a']}
    )


@pytest.mark.parametrize('masks', [None, 3, 'ab', [None, None], [1.0, 2.0]])
def test_masks_are_trees_of_bools(masks):
  for function in (
    tickets.core_and_specialists,
    tickets.overlap_against_chance,
  ):
    with pytest.raises(
      (TypeError, ValueError), match=r'`masks.* must be a tree|was one'
    ):
      function(masks)
