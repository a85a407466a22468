"""Names of leaves, globs over them, and whether masks fit."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from lthjax import trees

SHAPES = jax.ShapeDtypeStruct((2, 3), jnp.float32)


class Attention(nnx.Module):
  def __init__(self, rngs):
    self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs)


def test_names_are_the_same_in_nnx_and_linen():
  attention = nnx.eval_shape(lambda: Attention(nnx.Rngs(0)))
  state = nnx.state(attention, nnx.Param)
  linen = nn.MultiHeadDotProductAttention(2)
  x = jnp.ones((1, 3, 4))
  params = jax.eval_shape(linen.init, jax.random.key(0), x)['params']
  expected = [
    f'attention/{layer}/{leaf}'
    for layer in ('key', 'out', 'query', 'value')
    for leaf in ('bias', 'kernel')
  ]
  assert list(trees.by_name(state)) == expected
  assert list(trees.by_name({'attention': params})) == expected
  assert list(trees.by_name(nnx.to_pure_dict(state))) == expected


def test_names_of_other_trees():
  box = nn.Partitioned(1.0, names=('model',))
  layer = chex.dataclass(type('Layer', (), {'__annotations__': {'w': float}}))
  tree = {'list': [1.0, (2.0, None)], 'box': box, 'layer': layer(w=1.0)}
  names = ['box', 'layer/w', 'list/0', 'list/1/0', 'list/1/1']
  assert list(trees.by_name(tree)) == names
  assert trees.by_name(1.0) == {'': 1.0}
  assert trees.by_name(None) == {'': None}


def test_a_key_called_value_is_kept():
  # Only the attribute of an NNX variable is left out, not a user's own key.
  tree = {'attention': {'key': 1, 'query': 2, 'value': 3}}
  expected = ['attention/key', 'attention/query', 'attention/value']
  assert list(trees.by_name(tree)) == expected


def test_two_leaves_of_one_name():
  with pytest.raises(
    ValueError, match='Several leaves have the same name: a/b'
  ):
    trees.by_name({'a': {'b': 1}, 'a/b': 2})


def test_flatten_and_back():
  tree = {'b': [1, None], 'a': {'c': 2}}
  leaves, structure = trees.flatten(tree)
  assert leaves == {'a/c': 2, 'b/0': 1, 'b/1': None}
  assert structure.unflatten(leaves.values()) == tree
  assert trees.prunable(tree) == {'a/c': 2, 'b/0': 1}


def test_concrete_values_are_on_the_host():
  values = {'a': jnp.arange(3), 'b': np.ones(2), 'c': 1.5}
  found = trees.concrete(values)
  assert found is not None
  assert isinstance(found['a'], np.ndarray)
  assert (found['a'].tolist(), found['c']) == ([0, 1, 2], 1.5)
  assert trees.concrete({}) == {}
  seen = []
  jax.jit(lambda x: seen.append(trees.concrete({'x': x, 'y': 1})))(1.0)
  assert seen == [None]


def test_first_match():
  names = ['conv1/kernel', 'conv2/kernel', 'output/kernel']
  matches = trees.first_match(['*2*', 'conv*'], names, 'where')
  assert matches == {'conv1/kernel': 'conv*', 'conv2/kernel': '*2*'}
  assert list(matches) == names[:2]
  with pytest.raises(
    ValueError,
    match=re.escape(
      "`where` has patterns that match no prunable leaf: 'fc*', 'Conv1/*'. The"
      ' prunable leaves are conv1/kernel, conv2/kernel, output/kernel;'
    ),
  ):
    trees.first_match(['fc*', 'conv*', 'Conv1/*'], names, 'where')


def test_per_leaf():
  names = ['fc1', 'fc2', 'output']
  assert trees.per_leaf(0.2, names, 'x') == dict.fromkeys(names, ('*', 0.2))
  spread = trees.per_leaf({'out*': 0.1, 'fc1': 0.5}, names, 'x')
  assert spread == {'fc1': ('fc1', 0.5), 'output': ('out*', 0.1)}


def test_map_alive_skips_dense_leaves():
  masks = {'a': {'w': np.ones(2, bool)}, 'b': None}
  tree = {'a': {'w': 3}, 'b': 4}
  mapped = trees.map_alive(lambda *args: args, masks, tree)
  assert mapped['b'] is None
  name, mask, leaf = mapped['a']['w']
  assert (name, mask is masks['a']['w'], leaf) == ('a/w', True, 3)


def test_copy_into_another_structure():
  state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
  masks = {'kernel': jnp.ones((2, 3), bool), 'bias': None}
  copied = trees.copy_into(state, masks)
  assert isinstance(copied, nnx.State)
  assert trees.by_name(copied)['bias'] is None
  # The copy lives on when the original is donated.
  jax.jit(lambda m: ~m, donate_argnums=0)(masks['kernel'])
  assert trees.by_name(copied)['kernel'].all()


def test_keys_of_leaves():
  key = jax.random.key(0)
  by_name = [
    jax.random.key_data(trees.fold_in_name(key, name)).tolist()
    for name in ('fc1/kernel', 'fc2/kernel', '')
  ]
  assert len(set(map(tuple, by_name))) == 3
  # CRC-32 of the name, which no process salts as it does Python's `hash`.
  expected = jax.random.fold_in(key, 0xCBF43926)
  assert (trees.fold_in_name(key, '123456789') == expected).all()


def test_is_traced():
  seen = []
  jax.jit(lambda x: seen.append(trees.is_traced(1, x)))(1.0)
  jax.vmap(lambda x: seen.append(trees.is_traced(x)) or x)(jnp.ones(2))
  assert seen == [True, True]
  assert not trees.is_traced(jnp.ones(2), np.ones(2), 1, None)


def test_masks_fit_arrays_shapes_and_dense_leaves():
  masks = {'w': np.ones((2, 3), bool), 'b': None}
  for leaf in (np.ones((2, 3)), jnp.ones((2, 3), jnp.bfloat16), SHAPES):
    trees.check_like(masks, {'w': leaf, 'b': leaf}, 'params')


def test_every_misfit_is_named_at_once():
  good = np.ones((2, 3), bool)
  masks = {'extra': good, 'fits': good, 'gone': good, 'dense': None}
  masks |= {'dtype': good.astype(float), 'shape': good.T, 'scalar': True}
  tree = dict.fromkeys(masks, SHAPES) | {'gone': None, 'unknown': SHAPES}
  del tree['extra']
  with pytest.raises(
    ValueError, match='The masks do not fit the grads'
  ) as info:
    trees.check_like(masks, tree, 'grads')
  message = str(info.value)
  for fault in (
    'extra has a mask only',
    'unknown has no mask',
    'dtype: mask of dtype float64, not bool',
    'gone is None in the grads but has a mask',
    'shape: mask of shape (3, 2), grads of shape (2, 3)',
    'scalar: mask is a bool, not an array',
    '`lthjax.masks.full(params)` makes one',
  ):
    assert fault in message
  assert 'fits' not in message
  assert 'dense ' not in message
