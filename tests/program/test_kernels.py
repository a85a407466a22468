"""Which leaves are kernels, by what a program does with them."""

import jax
import jax.numpy as jnp
import pytest
from programs import shaped

import lthjax as lth
from lthjax import axes, program, trees

X = shaped(5, 4)


def convolve(numbers, **options):
  def layer(w, x):
    return jax.lax.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=numbers, **options
    )

  return layer


def layer_norm(x, scale, bias):
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True)) * scale + bias


def vision(params, image):
  """A vision transformer whose names mislead."""
  x = convolve(('NHWC', 'HWIO', 'NHWC'))(params['patch_embed/norm'], image)
  x = x.reshape(len(x), -1, 4)
  token = jnp.broadcast_to(params['kernel_token'], (len(x), 1, 4))
  x = jnp.concatenate([token, x], 1) + params['weight_pos']
  x = layer_norm(x, params['kernel'], params['proj/kernel'])
  q, k = x @ params['bias'] + params['q_kernel'], x @ params['gamma']
  x = x + jax.nn.softmax(q @ k.swapaxes(1, 2)) @ x * params['scale_kernel']
  decay = -jnp.exp(params['A_kernel'])  # As in state-space models.
  x = x * jnp.exp(jnp.einsum('btd,dn->btdn', x, decay)).sum(-1)
  return x.mean(1) @ params['norm_scale'].T


VISION = {
  'patch_embed/norm': shaped(3, 3, 6, 4),
  'kernel_token': shaped(1, 1, 4),
  'weight_pos': shaped(1, 65, 4),
  'kernel': shaped(1, 4),
  'proj/kernel': shaped(1, 4),
  'bias': shaped(4, 4),
  'q_kernel': shaped(1, 1, 4),
  'gamma': shaped(4, 4),
  'scale_kernel': shaped(4),
  'A_kernel': shaped(4, 3),
  'norm_scale': shaped(3, 4),
}


@pytest.mark.parametrize('batch', [1, 2])
def test_names_do_not_matter(batch):
  where = program.kernels(vision, VISION, shaped(batch, 8, 8, 6))
  masks = jax.eval_shape(lambda p: lth.masks.full(p, where=where), VISION)
  chosen = {n for n, m in trees.by_name(masks).items() if m is not None}
  assert chosen == {'patch_embed/norm', 'bias', 'gamma', 'norm_scale'}


def rms(x):
  return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True))


CHOICES = {
  'a weight norm': (
    lambda p, x: x @ (p['w'] / jnp.linalg.norm(p['w'], axis=0) * p['g']),
    {'w': shaped(4, 3), 'g': shaped(1, 3)},
    {'w'},
  ),
  'masks from elsewhere': (
    lambda p, x: (x @ (p['w'] * (x[:4] > 0))) @ jnp.where(x[:4], p['v'], 0),
    {'w': shaped(4, 4), 'v': shaped(4, 4)},
    {'w', 'v'},
  ),
  'inputs that are constant': (
    lambda p, _: jnp.ones((5, 4)) @ p['w'] + p['b'],
    {'w': shaped(4, 4), 'b': shaped(1, 4)},
    {'w'},
  ),
  'positions resized by a matmul': (
    lambda p, x: (x + jax.image.resize(p['pos'], x.shape, 'linear')) @ p['w'],
    {'w': shaped(4, 4), 'pos': shaped(2, 4)},
    {'w'},
  ),
  'adapters': (
    lambda p, x: x @ p['w'] + x @ p['a'] @ p['b'],
    {'w': shaped(4, 4), 'a': shaped(4, 2), 'b': shaped(2, 4)},
    {'w', 'a', 'b'},
  ),
  'an initial state': (
    lambda p, x: jax.lax.scan(
      lambda h, x: (jnp.tanh(h @ p['w'] + x), None),
      jnp.tile(p['h'], (5, 1)),
      x[None],
    ),
    {'w': shaped(4, 4), 'h': shaped(1, 4)},
    {'w'},
  ),
  'scales of scanned norms, and gradients': (
    lambda p, x: jax.grad(
      lambda p: jax.lax.scan(
        lambda x, p: (rms(rms(x) * p['g']) @ p['w'], None), x, p
      )[0].sum()
    )(p),
    {'w': shaped(3, 4, 4), 'g': shaped(3, 4)},
    {'w'},
  ),
  'a loop of unknown length': (
    lambda p, x: jax.lax.while_loop(
      lambda x: x.sum() < 9, lambda x: jnp.tanh(x @ p['w']) * p['g'], x
    ),
    {'w': shaped(4, 4), 'g': shaped(1, 4)},
    {'w'},
  ),
  'positions written into a buffer': (
    lambda p, x: x.at[:3].add(p['pos']) @ p['w'],
    {'w': shaped(4, 4), 'pos': shaped(3, 4)},
    {'w'},
  ),
  'experts that the inputs pick': (
    lambda p, x: jnp.einsum('bd,bdo->bo', x, p['w'][jnp.int32(x[:, 0])]),
    {'w': shaped(7, 4, 3)},
    {'w'},
  ),
  'a state of the loop in a buffer of ones': (
    lambda p, x: jax.lax.fori_loop(
      0, 3, lambda i, h: jnp.tanh(h @ p['w'] + x), jnp.ones((5, 4))
    ),
    {'w': shaped(4, 4)},
    {'w'},
  ),
  'not used': (
    lambda p, x: x @ p['w'],
    {'w': shaped(4, 4), 'kernel': shaped(4, 4)},
    {'w'},
  ),
}


@pytest.mark.parametrize('case', CHOICES)
def test_kernels(case):
  apply, params, expected = CHOICES[case]
  args = () if case == 'inputs that are constant' else (X,)
  apply = apply if args else (lambda p, f=apply: f(p, None))
  where = program.kernels(apply, params, *args)
  assert {name for name, x in params.items() if where(name, x)} == expected
  if case not in ('a loop of unknown length', 'experts that the inputs pick'):
    uses = program.uses(apply, params, *args)
    assert {use.name for use in uses} - {None} == expected


def test_what_may_be_a_matmul_is_not_passed_over():
  params = {'w': shaped(4, 4), 'v': shaped(4, 4)}
  for written, lost in (
    (lambda p, x: (x[:, :, None] * p['v'][None]).sum(1), 'v meets `mul`'),
    (lambda p, x: (x[0, :, None] * p['v']).sum(0), 'v meets `reduce_sum`'),
    (lambda p, x: jnp.linalg.solve(p['v'], x[:4]), 'v meets `lu`'),
  ):
    with pytest.raises(ValueError, match=lost):
      program.uses(lambda p, x, f=written: f(p, x @ p['w']), params, X)


def test_leaves_that_are_multiplied_with_each_other():
  def apply(params, x):
    queries = params['queries'] @ params['w']
    return jax.nn.softmax(queries @ (x @ params['v']).T) @ x

  params = {'queries': shaped(3, 4), 'w': shaped(4, 4), 'v': shaped(4, 4)}
  message = 'queries, w are multiplied with each other, so it is not certain'
  with pytest.raises(ValueError, match=message):
    program.kernels(apply, params, X)
  with pytest.raises(ValueError, match='queries and w meet in `dot_general`'):
    program.uses(apply, params, X)
  where = program.kernels(apply, params, X, where=['v', 'w'])
  assert [name for name, x in params.items() if where(name, x)] == ['w', 'v']
  assert len(program.uses(apply, params, X, where=where)) == 4
  assert list(axes.from_program(apply, params, X, where=where)) == ['w', 'v']
