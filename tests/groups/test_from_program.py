"""Groups found in programs: what they are, and that units can go and move.

Every program takes its sizes from the params, so that it also runs without some
units. `PROGRAMS` lists ``(function, params, arguments, groups)``. Groups are
lines of size, pins and members, and ``query[2]*4`` is four places in an axis.
Of those marked with an exclamation mark, the program knows the size: it fails
without some of the units.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import random_like

import lthjax as lth
from lthjax import models


def norm(x, scale):
  x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
  return x * scale


def rotate(x):
  """Rotary embedding of the two halves of each head."""
  angles = _angles(x)
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x, 2, -1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def rotate_interleaved(x):
  """Rotary embedding of neighboring entries."""
  angles = _angles(x)
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = x[..., ::2], x[..., 1::2]
  pairs = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1)
  return pairs.reshape(x.shape)


def _angles(x):
  half = x.shape[-1] // 2
  frequencies = 1e4 ** (-jnp.arange(half) / half)
  return jnp.arange(x.shape[1])[:, None, None] * frequencies


def attend(q, k, v):
  """Causal attention of ``[batch, time, heads, features]``."""
  weights = jnp.einsum('bthd,bshd->bhts', q, k)
  time = jnp.arange(q.shape[1])
  weights = jnp.where(time[:, None] >= time, weights, -1e9)
  return jnp.einsum('bhts,bshd->bthd', jax.nn.softmax(weights), v)


def block(x, p, rotary=rotate):
  """Attention with grouped keys and values, then a gated layer."""
  h = norm(x, p['norm1'])
  q, k, v = (
    jnp.einsum('btd,dhk->bthk', h, p[name])
    for name in ('query', 'key', 'value')
  )
  q, k = rotary(q), rotary(k)
  heads, groups = q.shape[2], k.shape[2]
  k, v = (jnp.repeat(y, heads // groups, axis=2) for y in (k, v))
  x = x + jnp.einsum('bthk,hkd->btd', attend(q, k, v), p['out'])
  h = norm(x, p['norm2'])
  return x + (jax.nn.silu(h @ p['gate']) * (h @ p['up'])) @ p['down']


def decoder(params, tokens, block=block):
  """A decoder whose layers are scanned, with a tied embedding."""
  x, _ = jax.lax.scan(
    lambda x, p: (block(x, p), None), params['embed'][tokens], params['layers']
  )
  return norm(x, params['norm']) @ params['embed'].T


def unrolled(params, tokens):
  x = params['embed'][tokens]
  for i in range(len(params['layers'])):
    x = block(x, params['layers'][f'{i}'])
  return norm(x, params['norm']) @ params['embed'].T


BLOCK = {
  'norm1': (32,),
  'query': (32, 4, 8),
  'key': (32, 2, 8),
  'value': (32, 2, 8),
  'out': (4, 8, 32),
  'norm2': (32,),
  'gate': (32, 64),
  'up': (32, 64),
  'down': (64, 32),
}
DECODER = {
  'embed': (96, 32),
  'layers': {name: (3, *shape) for name, shape in BLOCK.items()},
  'norm': (32,),
}
TOKENS = np.array([[1, 5, 3, 95, 2], [4, 0, 0, 7, 11]])


def fused_qkv(params, x, order):
  """One two-dimensional kernel for queries, keys and values."""
  h = x @ params['qkv'] + params['bias']
  if order == 'split':
    parts = jnp.split(h, 3, -1)
    q, k, v = (y.reshape(*x.shape[:2], -1, 4) for y in parts)
  elif order == 'first':
    parts = h.reshape(*x.shape[:2], 3, -1, 4)
    q, k, v = (parts[:, :, i] for i in range(3))
  else:  # Within each head, as in GPT-NeoX.
    parts = h.reshape(*x.shape[:2], -1, 12)
    q, k, v = jnp.split(parts, 3, -1)
  return attend(q, k, v).reshape(*x.shape[:2], -1) @ params['out']


def fused_grouped(params, x):
  """Queries, and fewer keys and values, in one kernel."""
  h = x @ params['qkv']
  features = 4
  groups = (h.shape[-1] - params['out'].shape[0]) // (2 * features)
  q, k, v = jnp.split(
    h, [params['out'].shape[0], params['out'].shape[0] + groups * features], -1
  )
  q, k, v = (y.reshape(*x.shape[:2], -1, features) for y in (q, k, v))
  k, v = (jnp.repeat(y, q.shape[2] // groups, axis=2) for y in (k, v))
  return attend(q, k, v).reshape(*x.shape[:2], -1) @ params['out']


def fused_glu(params, x):
  gate, up = jnp.split(x @ params['in'] + params['bias'], 2, -1)
  return (jax.nn.silu(gate) * up) @ params['out']


def conv(x, kernel, **options):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    **options,
  )  # fmt: skip


def normalized(params, x):
  """BatchNorm with running statistics, pooling, and a flattened image."""
  h = conv(x, params['conv']) - params['mean']
  h = h * jax.lax.rsqrt(params['var'] ** 2 + 1) * params['scale']
  h = jax.nn.relu(h + params['bias'])
  h = jax.lax.reduce_window(
    h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
  )
  return h.reshape(len(h), -1) @ params['out']


def batch_normalized(params, x):
  """BatchNorm with the statistics of the batch."""
  h = conv(x, params['conv'])
  mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
  h = (h - mean) * jax.lax.rsqrt(var + 1) * params['scale'] + params['bias']
  return jax.nn.relu(h).mean((1, 2)) @ params['out']


def dense_net(params, x):
  h = jax.nn.relu(x @ params['first'])
  h = jnp.concatenate([h, jax.nn.relu(h @ params['second'])], -1)
  h = jnp.concatenate([h, jax.nn.relu(h @ params['third'])], -1)
  return h @ params['out']


def depthwise(params, x):
  h = conv(x, params['in'])
  h = conv(h, params['depthwise'], feature_group_count=h.shape[-1])
  return conv(jax.nn.relu(h), params['out']).mean((1, 2))


def grouped(params, x):
  """Two groups of channels, as in ResNeXt; within, the same are removed."""
  h = conv(x, params['in'])
  h = conv(h, params['grouped'], feature_group_count=2)
  return conv(jax.nn.relu(h), params['out']).mean((1, 2))


def padded_shortcut(params, x):
  """The shortcut of the first ResNets: new channels are zero."""
  h = jax.nn.relu(x @ params['in'])
  low = (params['wide'].shape[1] - h.shape[-1]) // 2
  h = jnp.pad(h, ((0, 0), (low, low))) + jax.nn.relu(h @ params['wide'])
  return h @ params['out']


def experts(params, x, combine):
  """The two best of several experts for each row."""
  logits = x @ params['router']
  gates, chosen = jax.lax.top_k(jax.nn.softmax(logits), 2)
  if combine == 'one-hot':
    one_hot = jax.nn.one_hot(chosen, logits.shape[-1])
    weights = jnp.einsum('bk,bke->be', gates, one_hot)
  elif combine == 'scatter':
    rows = jnp.arange(len(x))[:, None]
    weights = jnp.zeros_like(logits).at[rows, chosen].add(gates)
  else:
    hidden = jnp.einsum('bd,bkdf->bkf', x, params['in'][chosen])
    y = jnp.einsum('bkf,bkfd->bkd', jax.nn.relu(hidden), params['out'][chosen])
    return jnp.einsum('bk,bkd->bd', gates, y)
  hidden = jax.nn.relu(jnp.einsum('bd,edf->ebf', x, params['in']))
  y = jnp.einsum('ebf,efd->ebd', hidden, params['out'])
  return jnp.einsum('be,ebd->bd', weights, y)


def ragged(params, x):
  """Rows that are sorted by expert."""
  sizes = np.array([2, 3, 0, 3], np.int32)
  h = jax.lax.ragged_dot(x, params['in'], sizes)
  return jax.lax.ragged_dot(jax.nn.relu(h), params['out'], sizes)


def loops(params, x):
  """A recurrent layer in `while`, and branches that differ."""

  def body(state):
    i, h = state
    return i + 1, jnp.tanh(h @ params['again'] + params['bias'])

  _, h = jax.lax.while_loop(lambda s: s[0] < 3, body, (0, x @ params['in']))
  h = jax.lax.cond(
    x.sum() > 0, lambda h: h * params['scale'], lambda h: jax.nn.relu(h), h
  )
  return h @ params['out']


def nested(params, x):
  """A scan in a scan, recomputed when differentiated."""

  @jax.checkpoint
  def inner(x, p):
    return x + jax.nn.relu(x @ p['in']) @ p['out'], None

  def outer(x, p):
    return jax.lax.scan(inner, x, p)[0], None

  return jax.lax.scan(outer, x, params)[0]


def custom(params, x):
  """Functions with derivatives of their own, and a general reduction."""

  @jax.custom_vjp
  def f(x, w):
    return jnp.tanh(x @ w)

  f.defvjp(lambda x, w: (f(x, w), None), lambda *_: (None, None))

  h = jax.nn.relu(f(x, params['in']))
  top = jax.lax.reduce(h, 0.0, lambda a, b: jnp.maximum(a, b), (1,))
  return h @ params['out'] * top[:, None]


def transposed(params, x):
  """Kernels of another layout and dtype, applied in a jitted function."""
  kernel = params['in'].T.astype(jnp.bfloat16).astype(x.dtype)
  f = jax.jit(lambda x, w: jax.nn.gelu(x @ w))
  return jax.lax.dot_general(
    f(x, kernel), params['out'], (((1,), (1,)), ((), ()))
  )


# size, pins, members: with places where an index has several.
DECODER_GROUPS = """
  96 indexed,output embed[0]
  32 reduced embed[1] norm[0] layers/norm1[1] layers/query[1] layers/key[1]
    layers/value[1] layers/out[3] layers/norm2[1] layers/gate[1] layers/up[1]
    layers/down[2]
  3 loop layers/norm1[0] layers/query[0] layers/key[0] layers/value[0]
    layers/out[0] layers/norm2[0] layers/gate[0] layers/up[0] layers/down[0]
  64 -- layers/gate[2] layers/up[2] layers/down[1]
  2 -- layers/key[2] layers/value[2] layers/query[2]*2 layers/out[1]*2
  2 -- layers/query[2]*2 layers/out[1]*2
  8 -- layers/value[3] layers/out[2]
  4 iota layers/query[3] layers/query[3] layers/key[3] layers/key[3]
"""
MORE = (  # At interleaved positions, the two of a pair are not told apart.
  DECODER_GROUPS.replace(
    '4 iota layers/query[3] layers/query[3] layers/key[3] layers/key[3]',
    '4 iota layers/query[3]*2 layers/key[3]*2\n  2 indexed layers/query[3]*4'
    '\n  2 indexed layers/key[3]*4',
  )
)
QKV = {'qkv': (6, 36), 'bias': (36,), 'out': (12, 6)}
ENDS = '6 input qkv[0]\n 6 output out[1]\n'
NORMALIZED = {
  'conv': (3, 3, 3, 4),
  'mean': (4,),
  'var': (4,),
  'scale': (4,),
  'bias': (4,),
  'out': (36, 3),
}
EXPERTS = {'router': (6, 4), 'in': (4, 6, 5), 'out': (4, 5, 6)}
EXPERT_GROUPS = """
  5 -- in[2] out[1]
  6 input router[0] in[1]
  6 output out[2]
  4 """
X, ROWS, IMAGES = (2, 5, 6), (3, 6), (2, 6, 6, 3)

PROGRAMS = {
  'decoder': (decoder, DECODER, TOKENS, DECODER_GROUPS),
  'decoder, interleaved': (
    functools.partial(
      decoder, block=functools.partial(block, rotary=rotate_interleaved)
    ),
    DECODER,
    TOKENS,
    MORE,
  ),
  'decoder, recomputed': (
    functools.partial(decoder, block=jax.checkpoint(block)),
    DECODER,
    TOKENS,
    DECODER_GROUPS,
  ),
  'fused, split first': (
    functools.partial(fused_qkv, order='split'),
    QKV,
    X,
    f"""{ENDS}
    3 -- qkv[1]*4 qkv[1]*4 qkv[1]*4 bias[0]*4 bias[0]*4 bias[0]*4 out[0]*4
    !4 -- qkv[1]*3 qkv[1]*3 bias[0]*3 bias[0]*3
    !4 -- qkv[1]*3 bias[0]*3 out[0]*3
    """,
  ),
  'fused, three in front': (
    functools.partial(fused_qkv, order='first'),
    QKV,
    X,
    f'{ENDS} 3 -- qkv[1]*12 bias[0]*12 out[0]*4\n'
    ' !4 -- qkv[1]*9 bias[0]*9 out[0]*3',
  ),
  'fused within heads': (
    functools.partial(fused_qkv, order='within'),
    QKV,
    X,
    f"""{ENDS}
    3 -- qkv[1]*12 bias[0]*12 out[0]*4
    !4 -- qkv[1]*3 qkv[1]*3 bias[0]*3 bias[0]*3
    !4 -- qkv[1]*3 bias[0]*3 out[0]*3
    """,
  ),
  'fused, grouped heads': (
    fused_grouped,
    {'qkv': (6, 32), 'out': (16, 6)},
    X,
    f"""{ENDS}
    2 -- qkv[1]*8 qkv[1]*4 qkv[1]*4 out[0]*8
    2 -- qkv[1]*8 out[0]*8
    !4 -- qkv[1]*4 qkv[1]*2
    !4 -- qkv[1]*2 out[0]*4
    """,
  ),
  'fused gated layer': (
    fused_glu,
    {'in': (6, 16), 'bias': (16,), 'out': (8, 3)},
    X,
    '8 -- in[1] in[1] bias[0] bias[0] out[0]\n 6 input in[0]\n 3 output out[1]',
  ),
  'running statistics, flattened': (
    normalized,
    NORMALIZED,
    IMAGES,
    """
    4 -- conv[3] mean[0] var[0] scale[0] bias[0] out[0]*9
    3 input conv[2]
    3 output out[1]
    """,
  ),
  'statistics of the batch': (
    batch_normalized,
    {'conv': (3, 3, 3, 4), 'scale': (4,), 'bias': (4,), 'out': (4, 3)},
    IMAGES,
    '4 -- conv[3] scale[0] bias[0] out[0]\n 3 input conv[2]\n 3 output out[1]',
  ),
  'concatenated features': (
    dense_net,
    {'first': (6, 5), 'second': (5, 4), 'third': (9, 3), 'out': (12, 2)},
    ROWS,
    """
    6 input first[0]
    5 -- first[1] second[0] third[0] out[0]
    4 -- second[1] third[0] out[0]
    3 -- third[1] out[0]
    2 output out[1]
    """,
  ),
  'depthwise convolution': (
    depthwise,
    {'in': (1, 1, 3, 4), 'depthwise': (3, 3, 1, 8), 'out': (1, 1, 8, 3)},
    IMAGES,
    """
    4 -- in[3] depthwise[3]*2 out[2]*2
    2 -- depthwise[3]*4 out[2]*4
    3 input in[2]
    3 output out[3]
    """,
  ),
  'grouped convolution': (
    grouped,
    {'in': (1, 1, 3, 4), 'grouped': (3, 3, 2, 6), 'out': (1, 1, 6, 3)},
    IMAGES,
    """
    !2 -- in[3]*2 grouped[3]*3 out[2]*3
    2 -- in[3]*2 grouped[2]
    3 -- grouped[3]*2 out[2]*2
    3 input in[2]
    3 output out[3]
    """,
  ),
  'padded shortcut': (
    padded_shortcut,
    {'in': (6, 4), 'wide': (4, 8), 'out': (8, 3)},
    ROWS,
    """
    6 input in[0]
    4 -- in[1] wide[0] wide[1] out[0]
    2 padded wide[1] out[0]
    2 padded wide[1] out[0]
    3 output out[1]
    """,
  ),
  'experts, one-hot': (
    functools.partial(experts, combine='one-hot'),
    EXPERTS,
    ROWS,
    f'{EXPERT_GROUPS} iota,reduced,sorted router[1] in[0] out[0]',
  ),
  'experts, scatter': (
    functools.partial(experts, combine='scatter'),
    EXPERTS,
    ROWS,
    f'{EXPERT_GROUPS} indexed,reduced,sorted router[1] in[0] out[0]',
  ),
  'experts, gather': (
    functools.partial(experts, combine='gather'),
    EXPERTS,
    ROWS,
    f'{EXPERT_GROUPS} indexed,reduced,sorted router[1] in[0] out[0]',
  ),
  'experts, ragged': (
    ragged,
    {'in': (4, 6, 5), 'out': (4, 5, 6)},
    (8, 6),
    '5 -- in[2] out[1]\n 6 input in[1]\n 6 output out[2]\n'
    ' 4 constant,ragged in[0] out[0]',
  ),
  'while and cond': (
    loops,
    {'in': (6, 4), 'again': (4, 4), 'bias': (4,), 'scale': (4,), 'out': (4, 3)},
    ROWS,
    """
    4 -- in[1] again[0] again[1] bias[0] scale[0] out[0]
    6 input,reduced in[0]
    3 output out[1]
    """,
  ),
  'scan in a scan': (
    nested,
    {'in': (2, 3, 6, 4), 'out': (2, 3, 4, 6)},
    ROWS,
    """
    2 loop in[0] out[0]
    3 loop in[1] out[1]
    4 -- in[3] out[2]
    6 input,output in[2] out[3]
    """,
  ),
  'derivatives of their own': (
    custom,
    {'in': (6, 4), 'out': (4, 3)},
    ROWS,
    '4 reduced in[1] out[0]\n 6 input in[0]\n 3 output out[1]',
  ),
  'transposed, cast, jitted': (
    transposed,
    {'in': (4, 6), 'out': (3, 4)},
    ROWS,
    '4 -- in[0] out[1]\n 6 input in[1]\n 3 output out[0]',
  ),
}


@pytest.fixture(params=PROGRAMS.values(), ids=PROGRAMS)
def program(request):
  apply, shapes, x, groups = request.param
  if isinstance(x, tuple):
    x = random_like({'x': x}, 1)['x']
  return apply, random_like(shapes, 0, scale=0.5), x, groups


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
  groups = lth.groups.from_program(apply, params, x)
  assert sorted(map(row, groups.values())) == sorted(
    r for r, _ in rows(expected)
  )
  for name, group in groups.items():
    leaves = [f'{m.leaf}[{m.axis}]' for m in group.members]
    assert name.split('.')[0] in leaves
    assert all(len(m.places) == group.size for m in group.members)


def test_units_are_removed_as_if_zeroed(program):
  apply, params, x, expected = program
  marks = dict(rows(expected))
  rng = np.random.default_rng(2)
  groups = lth.groups.from_program(apply, params, x)
  free = {name: group for name, group in groups.items() if not group.pins}
  keeps = {name: rng.permutation(g.size) > 0 for name, g in free.items()}
  for name, group in free.items():
    one = {name: keeps[name]}
    if marks[row(group)]:
      with pytest.raises(ValueError, match='the program is another function'):
        lth.structured.compact(apply, params, one, x)
      del keeps[name]
    else:
      small = lth.structured.compact(apply, params, one, x, tolerance=1e-4)
      assert sum(map(np.size, jax.tree.leaves(small))) < sum(
        map(np.size, jax.tree.leaves(params))
      )
  lth.structured.compact(apply, params, keeps, x, tolerance=1e-4)


def test_units_are_permuted_freely(program):
  apply, params, x, _ = program
  rng = np.random.default_rng(3)
  groups = lth.groups.from_program(apply, params, x)
  orders = {
    name: rng.permuted(
      np.broadcast_to(
        np.arange(g.size), (*(groups[loop].size for loop in g.varies), g.size)
      ),
      axis=-1,
    )
    for name, g in groups.items()
    if not g.pins - {'reduced'}
  }
  moved = lth.groups.permute(params, groups, orders)
  same = jax.tree.map(lambda a, b: (a == b).all(), params, moved)
  assert not all(jax.tree.leaves(same))
  f = jax.jit(apply)
  np.testing.assert_allclose(f(moved, x), f(params, x), rtol=1e-3, atol=1e-4)


def test_scanned_and_unrolled_layers_have_the_same_groups():
  """One group per layer where it varies, and the same one where not."""
  scanned = lth.groups.from_program(decoder, random_like(DECODER, 0), TOKENS)
  layers = {str(i): BLOCK for i in range(3)}
  params = random_like({**DECODER, 'layers': layers}, 0)
  found = lth.groups.from_program(unrolled, params, TOKENS)
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
  groups = lth.groups.from_program(
    deeper, random_like(shapes, 0), np.ones(ROWS)
  )
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
  groups = lth.groups.from_program(
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

  groups = lth.groups.from_program(apply, params, np.ones((2, 6), np.float32))
  hidden = groups['first/bias[1]']
  assert row(hidden)[2] == 'first/bias[1] first/kernel[2] last/kernel[1]'
  assert hidden.varies == ('first/bias[0]',)


IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)


@pytest.mark.parametrize(
  ('model', 'free', 'streams'),
  [
    (models.resnet_20(), 12, 3),
    (models.wide_resnet_22_2(), 13, 3),
    (models.resnet_50(), 37, 4),
  ],
  ids=['resnet_20', 'wide_resnet_22_2', 'resnet_50'],
)
def test_residual_networks(model, free, streams):
  """Within the blocks, and the streams, running statistics included."""
  variables = jax.eval_shape(model.init, jax.random.key(0))
  groups = lth.groups.from_program(
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
  whole = lth.groups.from_program(apply, params, x)
  assert [row(g)[2] for g in whole.values() if not g.pins] == [
    'bias[0] branch[0] branch[1] in[1] out[0]'
  ]
  parts = lth.groups.from_program(apply, params, x, sums=False)
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
  groups = lth.groups.from_program(apply, params, x)
  rows = [
    f'{pins or "--"} {members}'
    for _, pins, members in map(row, groups.values())
  ]
  assert sorted(rows) == sorted([*hidden, 'input in[0]', 'output out[1]'])
