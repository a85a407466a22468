"""Programs in plain JAX, with their groups.

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
