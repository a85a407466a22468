"""Groups found in programs: what they are, and that units can go and move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from group_programs import (
  BLOCK,
  DECODER,
  PROGRAMS,
  ROWS,
  TOKENS,
  decoder,
  unrolled,
)
from helpers import random_like, slow_but

import lthjax as lth
from lthjax import models


@pytest.fixture(params=PROGRAMS)
def program(request):
  apply, shapes, x, groups = PROGRAMS[request.param]
  if isinstance(x, tuple):
    x = random_like({'x': x}, 1)['x']
  return apply, random_like(shapes, 0, scale=0.5), x, groups


FAST = (
  'decoder',
  'fused, grouped heads',
  'running statistics, flattened',
  'depthwise convolution',
  'experts, gather',
  'while and cond',
)
one_of_each_kind = pytest.mark.parametrize(
  'program', slow_but(PROGRAMS, FAST), indirect=True
)


def rows(text):
  """Reads groups: ``(size, pins, members)`` and whether they have a mark."""
  found = []
  for word in text.split():
    if word.strip('!').isdigit():
      found.append([word])
    else:
      found[-1].append(word)
  return [
    ((int(size.strip('!')), pins.strip('-'), ' '.join(sorted(members))), mark)
    for size, pins, *members in found
    for mark in ['!' in size]
  ]


def row(group):
  members = [
    f'{m.leaf}[{m.axis}]' + (f'*{k}' if (k := m.places.shape[1]) > 1 else '')
    for m in group.members
  ]
  return group.size, ','.join(sorted(group.pins)), ' '.join(sorted(members))


def test_the_groups(program):
  apply, params, x, expected = program
  groups = lth.structure.groups(apply, params, x)
  assert sorted(map(row, groups.values())) == sorted(
    r for r, _ in rows(expected)
  )
  for name, group in groups.items():
    leaves = [f'{m.leaf}[{m.axis}]' for m in group.members]
    assert name.split('.')[0] in leaves
    assert all(len(m.places) == group.size for m in group.members)


@one_of_each_kind
def test_units_are_removed_as_if_zeroed(program):
  apply, params, x, expected = program
  marks = dict(rows(expected))
  rng = np.random.default_rng(2)
  groups = lth.structure.groups(apply, params, x)
  free = {name: group for name, group in groups.items() if not group.pins}
  keeps = {name: rng.permutation(g.size) > 0 for name, g in free.items()}
  for name, group in free.items():
    one = {name: keeps[name]}
    if marks[row(group)]:
      with pytest.raises(ValueError, match='the program is another function'):
        lth.structure.compact(apply, params, one, x)
      del keeps[name]
    else:
      small, _ = lth.structure.compact(apply, params, one, x, tolerance=1e-4)
      assert sum(map(np.size, jax.tree.leaves(small))) < sum(
        map(np.size, jax.tree.leaves(params))
      )
  lth.structure.compact(apply, params, keeps, x, tolerance=1e-4)


def shuffles(groups):
  """Random permutations of all groups that may be permuted."""
  rng = np.random.default_rng(3)
  return {
    name: rng.permuted(
      np.broadcast_to(
        np.arange(g.size), (*(groups[loop].size for loop in g.varies), g.size)
      ),
      axis=-1,
    )
    for name, g in groups.items()
    if not g.pins - {'reduced'}
  }


@one_of_each_kind
def test_units_are_permuted_freely(program):
  apply, params, x, _ = program
  groups = lth.structure.groups(apply, params, x)
  moved = lth.structure.permute(params, groups, shuffles(groups))
  same = jax.tree.map(lambda a, b: (a == b).all(), params, moved)
  assert not all(jax.tree.leaves(same))
  f = jax.jit(apply)
  np.testing.assert_allclose(f(moved, x), f(params, x), rtol=1e-3, atol=1e-4)


def resnet_20():
  model = models.resnet_20((8, 8, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  shapes = jax.tree.map(lambda x: x.shape, shapes)
  return (
    lambda variables, x: model.apply(*variables, x)[0],
    tuple(random_like(tree, i) for i, tree in enumerate(shapes)),
    np.ones((1, 8, 8, 3), np.float32),
  )


def small_decoder():
  return decoder, random_like(DECODER, 0), TOKENS


@pytest.mark.parametrize(
  'make',
  slow_but([resnet_20, small_decoder], [small_decoder]),
  ids=['resnet_20', 'decoder'],
)
def test_alignment_undoes_permutations(make):
  """Of streams and within blocks; of heads and neurons in each layer."""
  apply, params, x = make()
  groups = lth.structure.groups(apply, params, x)
  moved = lth.structure.permute(params, groups, shuffles(groups))
  assert lth.landscape.cosine(params, moved) < 0.1
  found = lth.landscape.align(params, moved, groups)
  jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_scanned_and_unrolled_layers_have_the_same_groups():
  """One group per layer where it varies, and the same one where not."""
  scanned = lth.structure.groups(decoder, random_like(DECODER, 0), TOKENS)
  layers = {str(i): BLOCK for i in range(3)}
  params = random_like({**DECODER, 'layers': layers}, 0)
  found = lth.structure.groups(unrolled, params, TOKENS)
  loop = next(name for name, g in scanned.items() if g.pins == {'loop'})
  expected = []
  for group in scanned.values():
    if group.pins == {'loop'}:
      continue
    assert group.varies in ((), (loop,))
    copies = [
      [
        m._replace(
          leaf=m.leaf.replace('layers/', f'layers/{i}/'),
          axis=m.axis - m.leaf.startswith('layers/'),
        )
        for m in group.members
      ]
      for i in range(3)
    ]
    if not group.varies:
      assert (group.pins, group.size) in (
        ({'reduced'}, 32),
        ({'indexed', 'output'}, 96),
      )
      whole = [m for copy in copies for m in copy]
      whole = {(m.leaf, m.axis): m for m in whole}.values()
      copies = [list(whole)]
    expected += [row(group._replace(members=tuple(copy))) for copy in copies]
  assert sorted(map(row, found.values())) == sorted(expected)


def deeper(params, x):
  """Two stacks with the same hidden size, of which one is shared outside."""

  def layer(x, p):
    return x + jax.nn.relu(x @ p['in']) * params['scale'] @ p['out'], None

  return jax.lax.scan(layer, x, params['layers'])[0]


def test_what_all_layers_share_does_not_vary():
  shapes = {'layers': {'in': (2, 6, 4), 'out': (2, 4, 6)}, 'scale': (4,)}
  groups = lth.structure.groups(deeper, random_like(shapes, 0), np.ones(ROWS))
  (shared,) = (g for g in groups.values() if not g.pins)
  assert (shared.size, shared.varies, len(shared.members)) == (4, (), 3)


@pytest.mark.parametrize('axis', [0, 1])
def test_stacks_of_flax(axis):
  """Linen's scan along either axis."""

  class Layer(linen.Module):
    @linen.compact
    def __call__(self, x, _):
      h = linen.relu(linen.Dense(4, name='in')(x))
      return x + linen.Dense(6, name='out')(h), None

  model = linen.scan(
    Layer, variable_axes={'params': axis}, split_rngs={'params': True}, length=3
  )()
  x = np.ones((2, 6), np.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), x, None)['params']
  groups = lth.structure.groups(
    lambda p, x: model.apply({'params': p}, x, None)[0], params, x
  )
  hidden = groups['in/bias[1]' if axis == 0 else 'in/bias[0]']
  assert row(hidden) == (
    4,
    '',
    'in/bias[1] in/kernel[2] out/kernel[1]'
    if axis == 0
    else 'in/bias[0] in/kernel[2] out/kernel[0]',
  )
  (loop,) = (name for name, g in groups.items() if g.pins == {'loop'})
  assert hidden.varies == (loop,)
  assert len(groups[loop].members) == 4


def test_stacks_of_nnx():
  class Layer(nnx.Module):
    def __init__(self, rngs):
      self.first = nnx.Linear(6, 4, rngs=rngs)
      self.last = nnx.Linear(4, 6, rngs=rngs)

    def __call__(self, x):
      return x + self.last(nnx.relu(self.first(x)))

  @nnx.vmap(in_axes=0, out_axes=0)
  def make(key):
    return Layer(nnx.Rngs(key))

  layers = nnx.eval_shape(lambda: make(jax.random.split(jax.random.key(0), 3)))
  graph, params = nnx.split(layers)

  def apply(params, x):
    step = nnx.scan(
      lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
    )
    return step(x, nnx.merge(graph, params))

  groups = lth.structure.groups(apply, params, np.ones((2, 6), np.float32))
  hidden = groups['first/bias[1]']
  assert row(hidden)[2] == 'first/bias[1] first/kernel[2] last/kernel[1]'
  assert hidden.varies == ('first/bias[0]',)


IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)


@pytest.mark.parametrize(
  ('make', 'free', 'streams'),
  slow_but(
    [
      (models.resnet_20, 12, 3),
      (models.wide_resnet_22_2, 13, 3),
      (models.resnet_50, 37, 4),
    ],
    [models.resnet_20],
    several=True,
  ),
)
def test_residual_networks(make, free, streams):
  """Within the blocks, and the streams, running statistics included."""
  model = make()
  variables = jax.eval_shape(model.init, jax.random.key(0))
  groups = lth.structure.groups(
    lambda v, x: model.apply(*v, x)[0],
    variables,
    IMAGE if free < 37 else jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32),
  )
  found = [g for g in groups.values() if not g.pins]
  assert len(found) == free
  assert sorted(g.pins for g in groups.values() if g.pins) == [
    {'input'},
    {'output'},
  ]
  makers = [
    sum(m.leaf.endswith('kernel') and m.axis == 3 for m in g.members)
    for g in found
  ]
  assert sum(n > 1 for n in makers) == streams
  for group in found:
    leaves = [m.leaf for m in group.members]
    scales = [n for n in leaves if n.endswith('/scale')]
    for name in scales:
      layer = name.removeprefix('0/').removesuffix('/scale')
      assert f'0/{layer}/bias' in leaves
      assert f'1/{layer}/mean' in leaves
      assert f'1/{layer}/var' in leaves


def test_groups_can_end_at_sums():
  """What each branch adds to a stream is then a group of its own."""

  def apply(params, x):
    h = x @ params['in']
    h = h + jax.nn.relu(h @ params['branch'] + params['bias'])
    return h @ params['out']

  params = random_like(
    {'in': (6, 4), 'branch': (4, 4), 'bias': (4,), 'out': (4, 2)}, 0
  )
  x = np.ones(ROWS)
  whole = lth.structure.groups(apply, params, x)
  assert [row(g)[2] for g in whole.values() if not g.pins] == [
    'bias[0] branch[0] branch[1] in[1] out[0]'
  ]
  parts = lth.structure.groups(apply, params, x, sums=False)
  assert sorted(row(g)[1:] for g in parts.values()) == [
    ('input', 'in[0]'),
    ('output', 'out[1]'),
    ('summed', 'bias[0] branch[1]'),
    ('summed', 'branch[0] in[1]'),
    ('summed', 'out[0]'),
  ]


def swap(h):
  return h.reshape(-1, 3, 4).swapaxes(1, 2).reshape(h.shape) + h


@pytest.mark.parametrize(
  ('f', 'hidden'),
  [
    (lambda h: jnp.fft.fft(h).real, ['fft in[1]', 'fft out[0]']),
    (lambda h: h[:, ::-1], ['ordered in[1] out[0]']),
    (lambda h: jnp.cumsum(h, 1), ['ordered in[1] out[0]']),
    (lambda h: h * np.arange(12.0), ['constant in[1] out[0]']),
    (lambda h: h + jnp.arange(12), ['iota in[1] out[0]']),
    (swap, ['tangled in[1]*3 out[0]*3', 'tangled in[1]*4 out[0]*4']),
    (lambda h: h + jnp.roll(h, 1, 1), []),  # Each position is a group.
    (
      lambda h: jax.lax.dynamic_slice(h, (0, 3), (3, 7)),
      ['indexed in[1]', 'indexed out[0]'],
    ),
    (lambda h: jnp.sort(h, 1), ['sorted in[1]', 'sorted out[0]']),
    (lambda h: jax.lax.top_k(h, 3)[0], ['sorted in[1]', 'sorted out[0]']),
    (lambda h: h[:, ::3], ['-- in[1]*3 out[0]', 'indexed in[1]*4']),
    (lambda h: h - h.mean(1, keepdims=True), ['reduced in[1] out[0]']),
    (lambda h: jnp.tile(h, (1, 2)), ['-- in[1] out[0]*2', '-- out[0]*12']),
    (
      lambda h: h.reshape(3, 4, 3)[:, 1],
      ['-- in[1]*3', '-- in[1]*4 out[0]'],
    ),
  ],
)
def test_what_fixes_an_axis(f, hidden):
  size = f(np.ones((3, 12), np.float32)).shape[1]

  def apply(params, x):
    return f(jax.nn.relu(x @ params['in'])) @ params['out']

  params = random_like({'in': (6, 12), 'out': (size, 2)}, 0)
  x = random_like({'x': ROWS}, 1)['x']
  groups = lth.structure.groups(apply, params, x)
  rows = [
    f'{pins or "--"} {members}'
    for _, pins, members in map(row, groups.values())
  ]
  assert sorted(rows) == sorted([*hidden, 'input in[0]', 'output out[1]'])
