"""Leaves that cannot be followed to their matmuls are named."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from programs import counts, key, shaped

from lthjax import program

W = {'w': shaped(4, 4), 'v': shaped(4, 4)}
LOST = {
  'a sum with activations': (
    lambda p, x: (x[:4] + p['w']) @ p['v'],
    'w meets `add`, which makes something of dead weights',
  ),
  'a nonzero value': (lambda p, x: x @ jnp.exp(p['w']), 'w meets `exp`'),
  'a shifted kernel': (
    lambda p, x: x @ (p['w'] - p['w'].mean()),
    'w meets `sub`, which makes something of dead weights',
  ),
  'two kernels': (
    lambda p, x: x @ (p['w'] @ p['v']),
    'w and v meet in `dot_general`',
  ),
  'low-rank updates': (
    lambda p, x: x @ (p['w'] + p['v']),
    'w meets `add` beside another kernel',
  ),
  'averages of kernels': (
    lambda p, x: x @ p['w'].reshape(2, 2, 4).mean(1).T,
    'rows or sums of w, as kernels, meet in `dot_general`',
  ),
  'experts chosen by data': (
    lambda p, x: x @ p['w'].reshape(1, 4, 4)[jnp.int32(x[0])][0],
    'rows or sums of w, as kernels, meet in `dot_general`',
  ),
  'a computed place': (
    lambda p, x: jax.lax.fori_loop(
      0, 4, lambda i, x: x * (x @ p['w'][i])[:, None], x
    ),
    'w meets `dynamic_slice` at a computed place',
  ),
  'a matmul written out': (
    lambda p, x: (x[:, :, None] * p['w'][None]).sum(1),
    'w meets `mul` after being repeated',
  ),
  'a matmul written out with repeats': (
    lambda p, x: (x[:, :, None] * jnp.tile(p['w'][None], (5, 1, 1))).sum(1),
    'w meets `mul` after being repeated',
  ),
  'sums of its columns': (
    lambda p, x: x @ (p['w'][:, :1] * x[0]),
    'w meets `mul` after being repeated',
  ),
  'a product written out': (
    lambda p, x: (x[0, :, None] * p['w']).sum(0),
    'w meets `reduce_sum` after a product',
  ),
  'a divisor': (
    lambda p, x: x @ (x[:4] / p['w']),
    'w meets `div` as the diviso',
  ),
  'activations beside it': (
    lambda p, x: x @ jnp.concatenate([p['w'], x[:4]], 1),
    'w meets `concatenate` with something else',
  ),
  'a solver': (
    lambda p, x: jnp.linalg.solve(p['w'], x[:4]),
    'w meets `lu`',
  ),
  'an image': (
    lambda p, x: jnp.convolve(p['w'][0], x[0]),
    'w meets `conv_general_dilated` as its image',
  ),
  'a loop of unknown length': (
    lambda p, x: jax.lax.while_loop(
      lambda x: x.sum() < 9, lambda x: x @ p['w'], x
    ),
    '`while` has matmuls that cannot be counted: write the loop with'
    ' `jax.lax.scan`; w meets `while`',
  ),
  'a loop of unknown length over activations': (
    lambda p, x: jax.lax.while_loop(
      lambda x: x.sum() < 9, lambda x: x @ x[:4], x @ p['w']
    ),
    '`while` has matmuls that cannot be counted: write the loop with'
    ' `jax.lax.scan`. Kernels',
  ),
  'branches that differ': (
    lambda p, x: jax.lax.cond(
      x[0, 0] > 0, lambda x: x @ p['w'], lambda x: x, x
    ),
    'w is used by some branches of `cond` only',
  ),
  'branches of different activations': (
    lambda p, x: jax.lax.cond(
      x[0, 0] > 0, lambda x: x @ x.T @ x, lambda x: x, x @ p['w']
    ),
    'a matmul of activations is used by some branches of `cond` only',
  ),
  'branches of different parts': (
    lambda p, x: jax.lax.cond(
      x[0, 0] > 0, lambda x: x @ p['w'][:, :2], lambda x: x @ p['w'][:, 2:], x
    ),
    'w is used by some branches of `cond` only',
  ),
  'a choice of kernels': (
    lambda p, x: x @ jax.lax.cond(x[0, 0] > 0, lambda: p['w'], lambda: p['v']),
    'v meets `cond` in some branches only; w meets `cond` in some',
  ),
  'a kernel that changes in a loop': (
    lambda p, x: jax.lax.scan(lambda w, row: (w.T, row @ w), p['w'], x)[1],
    'w meets `scan` as a carry that changes',
  ),
  'a kernel that comes out of a loop': (
    lambda p, x: (
      x @ jax.lax.scan(lambda c, _: (p['w'], None), x[:4], None, length=2)[0]
    ),
    'w meets `scan` as a carry that changes',
  ),
  'copies of a kernel': (
    lambda p, x: (
      x @ jax.lax.scan(lambda c, _: (c, p['w']), 0, None, length=2)[1]
    ),
    'w meets `scan`, which stacks copies of it',
  ),
}


@pytest.mark.parametrize('case', LOST)
def test_lost_leaves_are_errors(case):
  apply, message = LOST[case]
  with pytest.raises(ValueError, match=re.escape(message)):
    program.uses(apply, W, shaped(5, 4), where='?')


def test_all_lost_leaves_are_named_at_once():
  message = (
    'The matmuls of this function and their kernels are not certain: w meets'
    ' `exp`; v meets `cumsum`. Kernels may only be cast, masked or rearranged'
    ' before their matmuls; exclude other leaves with `where=`.'
  )

  def apply(params, x):
    return x @ jnp.exp(params['w']) + x @ jnp.cumsum(params['v'], 0)

  with pytest.raises(ValueError, match=re.escape(message)):
    program.uses(apply, W, shaped(5, 4))


class Classified(nn.Module):
  """Attention with a class token, a parameter of three dimensions."""

  @nn.compact
  def __call__(self, x):
    cls = self.param('cls', nn.initializers.zeros, (1, 1, 8))
    x = jnp.concatenate([jnp.tile(cls, (2, 1, 1)), x], axis=1)
    return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


def test_the_error_says_what_to_leave_out():
  module = Classified()
  params = jax.eval_shape(module.init, key(), shaped(2, 5, 8))
  message = 'params/cls meets `concatenate` with something else'
  with pytest.raises(ValueError, match=message):
    program.uses(
      module.apply, params, shaped(2, 5, 8), where=lambda n, x: x.ndim > 1
    )
  assert counts(module.apply, params, shaped(2, 5, 8)) == {
    'params/Dense_0/kernel': 2 * 8 * 3
  }


def test_unused_and_printed_leaves_are_no_error():
  def apply(params, x):
    jax.debug.print('{}', params['v'])
    return x @ params['w'], jnp.linalg.norm(params['v'])

  assert counts(apply, W, shaped(5, 4)) == {'w': 80}
