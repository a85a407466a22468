"""Tickets go to other networks leaf by leaf."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax.tickets import Ticket, transfer

SHAPES = {
  'fc1': {'kernel': (4, 3), 'bias': (3,)},
  'output': {'kernel': (3, 2), 'bias': (2,)},
}


def draw(seed, shapes=SHAPES):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def head(classes, **others):
  return SHAPES | {
    'output': {'kernel': (3, classes), 'bias': (classes,)},
    **others,
  }


def ticket_of(params):
  masks = lth.masks.full(params)
  masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
  start = types.SimpleNamespace(params=params)
  return Ticket(1, 0.5, masks, start, None, None)


@functools.cache
def found():
  """A ticket of the network of seed 0."""
  return ticket_of(draw(0))


def test_masks_go_to_fresh_weights():
  onto = draw(1)
  params, masks = transfer(found(), onto)
  assert params is not onto
  chex.assert_trees_all_equal(params, onto)
  chex.assert_trees_all_equal(masks, found().masks)
  assert masks['fc1']['bias'] is None


def test_weights_come_along():
  onto = jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw(1))
  params, masks = transfer(found(), onto, weights=True)
  chex.assert_trees_all_equal(
    params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw(0))
  )
  chex.assert_trees_all_equal(masks, found().masks)


def test_the_state_can_be_anything():
  ticket = found()._replace(start={'net': draw(0)})
  params, _ = transfer(
    ticket, draw(1), weights=True, params=lambda state: state['net']
  )
  chex.assert_trees_all_equal(params, draw(0))


@pytest.mark.parametrize('weights', [False, True])
@pytest.mark.parametrize('classes', [2, 5])
def test_a_new_head_is_its_own_and_dense(weights, classes):
  onto = draw(1, head(classes))
  params, masks = transfer(found(), onto, weights=weights, fresh='output/*')
  chex.assert_trees_all_equal(params['output'], onto['output'])
  assert masks['output']['bias'] is None
  np.testing.assert_array_equal(
    masks['output']['kernel'], np.ones((3, classes), bool)
  )
  chex.assert_trees_all_equal(masks['fc1'], found().masks['fc1'])
  chex.assert_trees_all_equal(
    params['fc1'], draw(0 if weights else 1, head(classes))['fc1']
  )


def test_leaves_of_one_network_alone_can_be_left_out():
  onto = draw(1, SHAPES | {'adapter': {'kernel': (2, 2), 'bias': (2,)}})
  ticket = ticket_of(draw(0, SHAPES | {'fc3': {'kernel': (7, 7)}}))
  _, masks = transfer(ticket, onto, fresh=['adapter/*', 'fc3/*'])
  assert masks.keys() == onto.keys()
  # By the default of `masks.dense`, as the ticket has no such leaves.
  assert masks['adapter']['kernel'].all()
  assert masks['adapter']['bias'] is None


def test_a_leaf_that_the_ticket_never_prunes_stays_so():
  ticket = found()._replace(
    masks=found().masks | {'output': {'kernel': None, 'bias': None}}
  )
  _, masks = transfer(ticket, draw(1, head(5)), fresh='output/*')
  assert masks['output']['kernel'] is None
  # Without a mask, a leaf of another shape fits as long as weights stay.
  _, masks = transfer(ticket, draw(1, head(5)))
  assert masks['output']['kernel'] is None
  with pytest.raises(ValueError, match=r'output/kernel has shape \(3, 2\)'):
    transfer(ticket, draw(1, head(5)), weights=True)


def test_leaves_meet_by_name_in_the_structure_of_the_target():
  class Layer(dict):
    pass

  jax.tree_util.register_pytree_with_keys(
    Layer,
    lambda x: (
      [(jax.tree_util.DictKey(k), x[k]) for k in ('kernel', 'bias')],
      None,
    ),
    lambda _, leaves: Layer(kernel=leaves[0], bias=leaves[1]),
  )
  onto = {name: Layer(layer) for name, layer in draw(1).items()}
  params, masks = transfer(found(), onto, weights=True)
  assert isinstance(masks['fc1'], Layer)
  for name in SHAPES:
    chex.assert_trees_all_equal(dict(params[name]), draw(0)[name])
    chex.assert_trees_all_equal(dict(masks[name]), found().masks[name])


def test_what_does_not_fit_is_named():
  onto = draw(1, head(5, fc2={'kernel': (3, 3)}))
  del onto['fc1']
  with pytest.raises(
    ValueError,
    match=r'the ticket has no fc2/kernel; output/kernel has shape \(3, 2\) in'
    r" the ticket's masks and \(3, 5\) in `onto`; fc1/bias is in the ticket"
    r' only;'
    r' fc1/kernel is in the ticket only.*fresh="output/\*"',
  ):
    transfer(found(), onto)


def test_nothing_to_transfer():
  with pytest.raises(ValueError, match=r'Nothing .* fc1/kernel, output/kernel'):
    transfer(found(), draw(1), fresh='*')
  with pytest.raises(ValueError, match="match no leaf: 'head"):
    transfer(found(), draw(1), fresh='head/*')


def test_a_start_that_does_not_fit_is_named():
  start = draw(2)
  start['fc1'] = {'kernel': None, 'bias': jnp.ones((1, 3))}
  del start['output']['bias']
  ticket = found()._replace(start=types.SimpleNamespace(params=start))
  transfer(ticket, draw(1))  # The masks fit.
  with pytest.raises(
    ValueError,
    match=r"does not fit: fc1/bias has shape \(1, 3\) in the ticket's start and"
    r" \(3,\) in `onto`; fc1/kernel is None in the ticket's start; output/bias"
    r" is not in the ticket's start\. Networks",
  ):
    transfer(ticket, draw(1), weights=True)
  ticket = found()._replace(start=None)
  transfer(ticket, draw(1))
  with pytest.raises(ValueError, match='start` was None, but `weights=True'):
    transfer(ticket, draw(1), weights=True)


def test_a_leaf_that_is_none_in_the_target():
  onto = draw(1)
  onto['fc1'] = {'kernel': None, 'bias': None}
  message = "fit: fc1/kernel is in the ticket's masks but None in `onto`. Net"
  with pytest.raises(ValueError, match=message):
    transfer(found(), onto)
  message = "fit: fc1/bias is in the ticket's start but None in `onto`; fc1/ker"
  with pytest.raises(ValueError, match=message):
    transfer(found(), onto, weights=True)


def test_a_ticket_without_masks():
  ticket = found()._replace(masks=jax.tree.map(lambda m: None, draw(0)))
  with pytest.raises(ValueError, match='The ticket has no masks: every one is'):
    transfer(ticket, draw(1))


@pytest.mark.parametrize('ticket', [None, 'ticket', {'w': np.ones(3, bool)}])
def test_only_tickets_are_transferred(ticket):
  with pytest.raises(TypeError, match='must be a ticket of `lthjax'):
    lth.tickets.transfer(ticket, {'w': np.ones(3)})
