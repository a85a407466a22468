"""Which units are kept: exact counts, budgets, and what is refused."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from group_programs import DECODER, TOKENS, decoder
from helpers import random_like

import lthjax as lth
from lthjax import structure

PARAMS = {
  'a': np.ones((3, 4), np.float32),
  'b': np.ones((4, 12), np.float32),
  'c': np.ones((12, 2), np.float32),
}
GROUPS = structure.by_axes(
  PARAMS, {'a': (None, 'few'), 'b': ('few', 'many'), 'c': ('many', None)}
)


def counts(kept):
  return {name: np.asarray(x).sum(-1).tolist() for name, x in kept.items()}


def scores(seed=0):
  rng = np.random.default_rng(seed)
  return {'few': rng.random(4), 'many': rng.random(12)}


def test_entries_are_counted():
  assert (GROUPS['few'].entries, GROUPS['many'].entries) == (3 + 12, 4 + 2)


@pytest.mark.parametrize(
  ('sparsity', 'multiple_of', 'minimum', 'expected'),
  [
    (0.0, 1, 1, (4, 12)),
    (0.5, 1, 1, (2, 6)),
    (0.29, 1, 1, (3, 9)),
    (0.99, 1, 1, (1, 1)),
    (0.99, 1, 3, (3, 3)),
    (0.25, 8, 1, (3, 8)),  # The few are fewer than eight: any number.
    (0.1, 8, 1, (4, 12)),
    (0.99, 8, 1, (1, 8)),
    (0.5, 4, 5, (4, 8)),
  ],
)
def test_counts(sparsity, multiple_of, minimum, expected):
  kept = structure.keep(
    GROUPS, scores(), sparsity, multiple_of=multiple_of, minimum=minimum
  )
  assert counts(kept) == {'few': expected[0], 'many': expected[1]}
  for name, x in kept.items():
    values = scores()[name]
    if not x.all():
      assert values[~x].max() < values[x].min()


def test_ties_keep_the_lowest_index():
  found = structure.keep(GROUPS, {'few': np.ones(4)}, 0.5)
  assert found['few'].tolist() == [True, True, False, False]


@pytest.mark.parametrize('sparsity', [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_budget_for_all_groups(sparsity):
  """The worst units by standardized scores, as a sorted list has them."""
  given = scores(1)
  kept = structure.keep(GROUPS, given, sparsity, scope='global', multiple_of=1)
  order = []
  for name, x in given.items():
    z = (x - x.mean()) / x.std()
    best = z.argmax()
    order += [
      (value, name, i, GROUPS[name].entries)
      for i, value in enumerate(z)
      if i != best  # One of each stays.
    ]
  order.sort()
  total = sum(GROUPS[n].size * GROUPS[n].entries for n in GROUPS)
  removed = np.array([0, *itertools.accumulate(w for *_, w in order)])
  cut = np.abs(removed - sparsity * total).argmin()
  dead = {(name, i) for _, name, i, _ in order[:cut]}
  for name, x in kept.items():
    assert {i for i in range(len(x)) if not x[i]} == {
      i for n, i in dead if n == name
    }


@pytest.mark.slow
def test_layers_of_a_stack_keep_equally_many():
  params = random_like(DECODER, 0, scale=0.3)
  groups = structure.groups(decoder, params, TOKENS)
  norms = structure.norm(params, groups)
  free = {n for n, g in groups.items() if not g.pins}
  kept = structure.keep(groups, norms, 0.4, scope='global', multiple_of=4)
  assert set(kept) == free
  for number in counts(kept).values():
    assert len(set(number)) == 1
  small, masks = structure.compact(decoder, params, kept, TOKENS, groups=groups)
  assert small['layers']['gate'].shape[2] < 64
  assert masks['layers']['gate'].shape == small['layers']['gate'].shape
  assert masks['layers']['gate'].all()
  assert masks['embed'] is None
  # As masks, for training before the cut: the same units are zero.
  masks = structure.masks(kept, params, groups)
  alive = masks['layers']['gate'].any(1)
  assert alive.sum(-1).tolist() == [small['layers']['gate'].shape[2]] * 3


def residual(params, x):
  def layer(x, p):
    return x + jax.nn.relu(x @ p['in']) @ p['out'], None

  return jax.lax.scan(layer, x, params)[0]


def test_layers_are_cut():
  """Layers around a residual stream: without them as with zeros."""
  params = random_like({'in': (3, 4, 6), 'out': (3, 6, 4)}, 0, scale=0.3)
  x = random_like({'x': (5, 4)}, 1)['x']
  groups = structure.groups(residual, params, x)
  found = structure.depth(residual, params, x, groups=groups)
  (name,) = found
  kept = structure.keep(groups, found, 0.34, where=name)
  assert counts(kept) == {name: 2}
  assert not kept[name][int(found[name].argmin())]
  small, _ = structure.compact(residual, params, kept, x, groups=groups)
  chosen = np.flatnonzero(kept[name])
  np.testing.assert_array_equal(small['in'], params['in'][chosen])


def test_each_layer_of_a_stack_keeps_its_own_units():
  params = random_like({'in': (3, 4, 6), 'out': (3, 6, 4)}, 0)
  x = random_like({'x': (5, 4)}, 1)['x']
  groups = structure.groups(residual, params, x)
  norms = structure.norm(params, groups)
  kept = structure.keep(groups, norms, 0.5, scope='global', multiple_of=1)
  ((name, mask),) = kept.items()
  assert mask.sum(-1).tolist() == [3, 3, 3]
  small, masks = structure.compact(residual, params, kept, x, groups=groups)
  for i in range(3):
    best = np.sort(np.argsort(-np.asarray(norms[name][i]))[:3])
    np.testing.assert_array_equal(small['in'][i], params['in'][i][:, best])
  assert masks['in'].shape == (3, 4, 3)
  # As masks, for training before the cut: the same units are zero.
  alive = structure.masks(kept, params, groups)['in'].any(1)
  np.testing.assert_array_equal(alive, mask)


def test_layers_that_are_not_residual_are_not_cut():
  params = random_like({'w': (3, 4, 4), 'b': (3, 4)}, 0)

  def apply(params, x):
    def layer(x, p):
      return jnp.tanh(x @ p['w'] + p['b']), None

    return jax.lax.scan(layer, x, params)[0]

  x = np.ones((2, 4), np.float32)
  with pytest.raises(
    ValueError, match=r'b\[0\]: the output differs .*`lthjax\.structure\.cut`'
  ):
    structure.compact(apply, params, {'b[0]': np.arange(3) > 0}, x)


def test_masks_are_cut_with_the_params():
  params = random_like({'in': (6, 8), 'out': (8, 3)}, 0)
  masks = lth.masks.full(params, lambda name, leaf: name == 'in')
  masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
  params = lth.masks.apply(masks, params)
  keeps = {'in[1]': np.arange(8) % 2 > 0}
  small, found = structure.compact(
    lambda p, x: jax.nn.relu(x @ p['in']) @ p['out'],
    params,
    {'out[0]': keeps['in[1]']},  # By another place of the same group.
    np.ones((2, 6), np.float32),
    masks=masks,
  )
  np.testing.assert_array_equal(found['in'], masks['in'][:, 1::2])
  assert found['out'] is None
  np.testing.assert_array_equal(small['out'], params['out'][1::2])


@pytest.mark.slow
def test_units_are_trained_away_before_they_are_cut():
  """Masks of units through `static`: dead units stay zero, then go."""
  params = random_like({'in': (4, 8), 'out': (8, 3)}, 0)
  x = random_like({'x': (5, 4)}, 1)['x']

  def apply(params, x):
    return jnp.tanh(x @ params['in']) @ params['out']

  groups = structure.groups(apply, params, x)
  keeps = structure.keep(groups, structure.norm(params, groups), 0.5)
  masks = structure.masks(keeps, params, groups)
  tx = lth.static(optax.adam(0.1), masks)
  state = tx.init(params)
  params = lth.masks.apply(masks, params)
  grads = jax.grad(lambda p: jnp.sum(apply(p, x) ** 2))(params)
  for _ in range(2):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  small, left = structure.compact(
    apply, params, keeps, x, groups=groups, masks=masks
  )
  assert small['in'].shape == (4, 4)
  assert all(m.all() for m in left.values())
  np.testing.assert_array_equal(
    small['out'], np.asarray(params['out'])[keeps['in[1]']]
  )


PINNED = {
  n: g._replace(pins=frozenset({'sorted', 'iota'})) if n == 'few' else g
  for n, g in GROUPS.items()
}


@pytest.mark.parametrize(
  ('groups', 'given', 'options', 'text'),
  [
    (
      PINNED,
      scores(),
      {'where': ['few']},
      'Units of few (iota, sorted) cannot be removed, because what is in'
      ' parentheses fixes them. Groups without pins are many.',
    ),
    (PINNED, {'few': np.ones(4)}, {}, 'No group has scores and no pins'),
    (GROUPS, scores(), {'where': 'heads*'}, "no group: 'heads*'. The groups"),
    (GROUPS, {'few': np.ones(4)}, {'where': '*'}, 'no scores for many'),
    (GROUPS, {'fe': np.ones(4)}, {}, 'fe is not a group (few, many)'),
    (GROUPS, {'few': np.ones(3)}, {}, 'few has scores of shape (3,), not (4,)'),
    (GROUPS, {'few': np.ones(4) * np.nan}, {}, 'that are not finite'),
    (GROUPS, scores(), {'sparsity': 1.0}, 'at 1 no unit would be left'),
    (GROUPS, scores(), {'scope': 'layer'}, '"group" or "global"'),
    (GROUPS, scores(), {'multiple_of': 0}, '`multiple_of` was 0'),
    (GROUPS, scores(), {'minimum': 0}, '`minimum` was 0'),
    (GROUPS, [1.0], {}, '`scores` was'),
    (None, scores(), {}, '`groups` was None'),
  ],
)
def test_what_cannot_be_kept(groups, given, options, text):
  options = {'sparsity': 0.5, **options}
  with pytest.raises((TypeError, ValueError), match=re.escape(text)):
    structure.keep(groups, given, **options)


def test_scores_are_known():
  with pytest.raises(ValueError, match='`scores` were traced'):
    jax.jit(lambda x: structure.keep(GROUPS, {'few': x}, 0.5))(np.ones(4))
