"""The sentences that checks share."""

import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import _checks, densities, patterns
from lthjax._errors import differences, refuse

NOT_NUMBERS = [
  True,
  np.True_,
  '0.5',
  None,
  1j,
  [0.5],
  np.ones(1),
  np.ones(2, np.float32),
  {},
  int,
  np.datetime64('2020'),
  jax.ShapeDtypeStruct((), np.float32),
]


@pytest.mark.parametrize(
  ('x', 'expected'),
  [
    (0.7, 0.7),
    (1 / 3, 1 / 3),
    (0.1 + 0.2, 0.1 + 0.2),
    (np.float32(0.7), 0.7),
    (np.float16(0.7), 0.7),
    (np.array(0.7, np.float32), 0.7),
    (Fraction(1, 4), 0.25),
    (np.int8(3), 3),
    (2**70, 2**70),
  ],
  ids=repr,
)
def test_numbers(x, expected):
  assert _checks.number('x', x) == expected


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_numbers_of_jax(dtype):
  assert _checks.number('x', jnp.asarray(0.7, dtype)) == 0.7
  assert _checks.integer('x', jnp.asarray(7)) == 7


@pytest.mark.parametrize('x', NOT_NUMBERS, ids=repr)
def test_what_is_no_number(x):
  with pytest.raises(TypeError, match=r'`x` was .*, but must be a number'):
    _checks.share('x', x)
  with pytest.raises(TypeError, match=r'`x` was .*, but must be an integer'):
    _checks.at_least('x', x, 1)


def test_a_traced_number():
  with pytest.raises(TypeError, match='`x` is traced, but must be a number'):
    jax.jit(lambda x: _checks.number('x', x))(1.0)


def test_a_key_is_no_number():
  with pytest.raises(TypeError, match='must be a number'):
    _checks.number('x', jax.random.key(0))


@pytest.mark.parametrize(
  ('check', 'x', 'message'),
  [
    (_checks.number, np.nan, '`x` was nan, but must be a finite number.'),
    (_checks.number, np.inf, '`x` was inf, but must be a finite number.'),
    (_checks.share, np.nan, '`x` was nan, but must be in [0, 1): at 1 no'),
    (_checks.share, 1.0, '`x` was 1.0, but must be in [0, 1): at 1 no weight'),
    (_checks.share, 90, '`x` was 90, but must be in [0, 1)'),
    (_checks.share, 90, 'Give 90 % as 0.9.'),
    (_checks.closed_share, -0.1, '`x` was -0.1, but must be in [0, 1].'),
    (_checks.closed_share, 1.5, '`x` was 1.5, but must be in [0, 1].'),
    (_checks.positive, 0, '`x` was 0, but must be positive.'),
    (_checks.not_negative, -1, '`x` was -1, but must not be negative.'),
  ],
)
def test_numbers_out_of_range(check, x, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    check('x', x)


@pytest.mark.parametrize(
  ('x', 'hint'), [(2.5, '2'), (2.0, '2'), (np.nan, '100'), (np.inf, '100')]
)
def test_integers(x, hint):
  message = f'`x` was {x}, but must be an integer, such as {hint}.'
  with pytest.raises(TypeError, match=re.escape(message)):
    _checks.integer('x', x)


def test_at_least():
  assert _checks.at_least('x', np.int32(3), 3) == 3
  with pytest.raises(ValueError, match='`x` was 2, but must be at least 3'):
    _checks.at_least('x', 2, 3)


def test_one_of():
  assert _checks.one_of('x', 'a', ('a', 'b')) == 'a'
  message = re.escape('`x` was \'c\', but must be "a" or "b".')
  with pytest.raises(ValueError, match=message):
    _checks.one_of('x', 'c', ('a', 'b'))
  with pytest.raises(ValueError, match=r'must be "a" \(first\)\.'):
    _checks.one_of('x', None, {'a': 'first'})


def test_needs_params():
  _checks.needs_params('rigl', {})
  with pytest.raises(ValueError, match='`rigl` needs the current params'):
    _checks.needs_params('rigl', None)


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    (None, 'it was None'),
    ({}, 'it has no array'),
    ({'a': None}, 'it has no array'),
    ({'a': 1.0, 'b': 'x'}, 'a is a float; b is a str'),
    (
      {'a': jax.ShapeDtypeStruct((2,), np.float32)},
      'a is an abstract float32[2]. Pass the arrays themselves.',
    ),
  ],
)
def test_trees_of_arrays(tree, message):
  message = f'`params` must be a tree of arrays, but {message}'
  with pytest.raises(TypeError, match=re.escape(message)):
    _checks.arrays(tree)


def test_trees_are_returned_by_name():
  tree = {'a': {'b': np.ones(2, bool)}, 'c': None}
  assert list(_checks.arrays(tree)) == ['a/b', 'c']
  assert list(_checks.bool_masks(tree)) == ['a/b', 'c']
  shapes = {'a': jax.ShapeDtypeStruct((2,), bool)}
  assert _checks.arrays(shapes, shapes=True) == shapes
  assert _checks.bool_masks(shapes, shapes=True) == shapes


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    (None, 'it was None'),
    ({}, 'it has no array'),
    ({'a': np.ones((2, 3), np.float32)}, 'a is float32[2, 3]'),
    ({'a': True}, 'a is a bool'),
    ([np.ones(1, bool), 1], '1 is an int'),
    ({'a': jax.ShapeDtypeStruct((), bool)}, 'a is an abstract bool[]'),
  ],
)
def test_trees_of_masks(tree, message):
  message = f'`masks` must be a tree of bool arrays and None, but {message}.'
  with pytest.raises(TypeError, match=re.escape(message)):
    _checks.bool_masks(tree)


@pytest.mark.parametrize(
  ('check', 'x', 'message'),
  [
    (_checks.densities, 'erk', 'pass `lthjax.densities.erk`.'),
    (_checks.densities, {'a': 0.5}, 'pass `lthjax.densities.custom('),
    (_checks.densities, 0.5, 'pass `lthjax.densities.erk`.'),
    (_checks.pattern, '2:4', 'pass `lthjax.patterns.NM(2, 4)`.'),
    (_checks.pattern, None, 'pass `lthjax.patterns.NM(2, 4)`.'),
    (_checks.pattern, patterns.NM, 'pass an instance, such as `lthjax.patt'),
    (_checks.key, 7, 'such as `jax.random.key(7)`.'),
    (_checks.key, None, 'such as `jax.random.key(0)`.'),
    (_checks.predicate, 3, '"*/kernel", or a list of globs.'),
    (_checks.predicate, [], 'or a list of globs.'),
    (_checks.predicate, [3], 'or a list of globs.'),
    (_checks.predicate, lambda name: True, r'`(name, leaf) -> bool`, a glob'),
    (_checks.predicate, lambda *, name, leaf: True, 'or a list of globs.'),
  ],
)
def test_arguments_of_the_wrong_kind(check, x, message):
  with pytest.raises(TypeError, match=re.escape(message)):
    check('x', x)


def test_arguments_of_the_right_kind():
  key = jax.random.key(0)
  assert _checks.key('key', key) is key
  _checks.key('key', jax.random.PRNGKey(0))
  jax.jit(lambda k: _checks.key('key', k))(key)
  with pytest.raises(TypeError, match='a single random key'):
    _checks.key('key', jax.random.split(key))
  assert _checks.densities('x', None) is None
  assert _checks.densities('x', densities.erk) is densities.erk
  assert _checks.pattern('x', patterns.NM(2, 4)) == patterns.NM(2, 4)
  for where in ('*/kernel', ['a', 'b'], lambda name, leaf: True):
    assert _checks.predicate('where', where) is where
  with pytest.raises(TypeError, match=re.escape('a function `f(x)`')):
    _checks.function('f', 3, 'f(x)')


@pytest.mark.parametrize(
  ('faults', 'listed'),
  [
    (['a/b'], 'a/b'),
    (['a', ''], 'a, the array'),
    (['a (2)', 'b (zero at 1, 2)'], 'a (2), b (zero at 1, 2)'),
    (iter(['a is None', 'b']), 'a is None; b'),
  ],
)
def test_faults_are_listed_at_once(faults, listed):
  message = f'These are wrong: {listed}. Give {{"*": 1}}, not {{}}.'
  with pytest.raises(KeyError) as caught:
    refuse(faults, 'These are wrong: {}. Give {"*": 1}, not {}.', KeyError)
  assert caught.value.args == (message,)


def test_nothing_to_refuse():
  refuse([], 'These are wrong: {}.')
  refuse((x for x in ()), 'These are wrong: {}.')


def test_differences_of_tables():
  there, here = {'b': 1, 'a': 2, '': 3}, {'a': 2, 'b': 4, 'c': 5}
  assert differences(there, there) == []
  assert differences(there, here, 'in `like`') == [
    'the array: 3 there, nothing in `like`',
    'b: 1 there, 4 in `like`',
    'c: nothing there, 5 in `like`',
  ]
