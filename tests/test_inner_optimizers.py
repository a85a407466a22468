"""What a step that moves masks means for the optimizer inside."""

import functools
import itertools
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from helpers import bits, compile_donated, random_like, slow_but

import lthjax as lth
from lthjax.topologies import _batches

KEY = np.array([0, 1], np.uint32)  # Typed keys need JAX.
SHAPES = {'fc': (4, 3), 'out': (3, 2), 'bias': (2,)}
PARAMS = random_like(SHAPES, 0)
MASKS = {
  'fc': np.ones((4, 3), bool),
  'out': np.ones((3, 2), bool),
  'bias': None,
}


def loss(params, grads):
  """A loss with these gradients near the params, and with curvature."""
  pairs = zip(jax.tree.leaves(params), jax.tree.leaves(grads), strict=True)
  return sum(jnp.sum(p * g + 0.1 * p * p) for p, g in pairs)


def sam(**options):
  around = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
  return optax.contrib.sam(optax.adam(0.1), around, **options)


# What counts, collects, remembers or looks around besides taking steps.
OPTIMIZERS = {
  'accumulating': optax.MultiSteps(optax.adam(0.1), 2),
  'summing': optax.MultiSteps(optax.sgd(0.1), 3, use_grad_mean=False),
  'skipping': optax.MultiSteps(
    optax.adam(0.1), 1, should_skip_update_fn=optax.skip_not_finite
  ),
  'plateau': optax.chain(
    optax.adam(0.1),
    optax.contrib.reduce_on_plateau(0.5, patience=1, accumulation_size=2),
  ),
  'lookahead': optax.lookahead(optax.adam(0.1), 2, 0.5),
  'schedule_free': optax.contrib.schedule_free_adamw(0.1, warmup_steps=3),
  'sam': sam(),
  'opaque_sam': sam(opaque_mode=True),
  'finite': optax.apply_if_finite(optax.adam(0.1), 2),
  'injected': optax.inject_hyperparams(optax.adam)(
    optax.linear_schedule(0.1, 0.0, 9)
  ),
  'schedule': optax.adamw(optax.cosine_decay_schedule(0.1, 9)),
  'every_second': optax.conditionally_transform(
    optax.adam(0.1), lambda step: step % 2 == 0
  ),
  'noisy': optax.noisy_sgd(0.1, key=0),
  'mechanic': optax.contrib.mechanize(optax.adam(0.1)),
  'prodigy': optax.contrib.prodigy(),
  'distance': optax.contrib.dog(),  # with a Python bool in its state
  'betting': optax.contrib.cocob(),  # with a copy of the first params
}
FAST = ('accumulating', 'plateau', 'lookahead', 'opaque_sam', 'injected')


@functools.cache
def compiled_step(name, tx):
  """A step of training, compiled once for all tests."""

  @jax.jit
  def step(params, state, grads):
    value = loss(getattr(params, 'fast', params), grads)
    extra = {}
    if name == 'plateau':
      extra = {'value': value}
    if name == 'opaque_sam':
      extra = {'grad_fn': lambda p, _: jax.grad(loss)(p, grads)}
    slope = jax.grad(loss)(getattr(params, 'fast', params), grads)
    updates, state = tx.update(slope, state, params, **extra)
    return optax.apply_updates(params, updates), state

  return step


def train(name, tx, steps):
  """Trains on the gradients of these steps; one of them is not finite.

  Returns params and state after each step.
  """
  params, seen = PARAMS, []
  if name == 'lookahead':
    params = optax.LookaheadParams.init_synced(params)
  state = tx.init(params)
  for i in steps:
    grads = random_like(SHAPES, i)
    if i == 4 and name in ('skipping', 'finite'):
      grads = jax.tree.map(lambda g: g * np.nan, grads)
    params, state = compiled_step(name, tx)(params, state, grads)
    seen.append((params, state))
  return seen


def assert_close(found, expected):
  """Compares numbers, and the bits of random keys."""

  def plain(x):
    is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x

  found, expected = jax.tree.map(plain, (found, expected))
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


class Still(NamedTuple):
  masks: Any


def moving(inner, every, masks=MASKS, applies_gradient=False):
  """Masks that move now and then, to where they are."""
  topology = lth.Topology(
    lambda params: Still(masks),
    move=lambda state, params, grads, step: state,
    moves=lambda step: step % every == 0,
    applies_gradient=applies_gradient,
  )
  return lth.sparsify(inner, topology)


@pytest.mark.parametrize('name', slow_but(OPTIMIZERS, FAST))
def test_where_masks_move_instead_the_optimizer_stands_still(name):
  inner = OPTIMIZERS[name]
  tx = moving(inner, 3)
  seen = train(name, tx, range(1, 9))
  params, state = seen[-1]
  *_, expected = train(name, inner, [1, 2, 4, 5, 7, 8])
  assert_close((params, state.inner_state), expected)
  # A move leaves every bit.
  (_, before), (_, after) = seen[4:6]
  assert int(after.step) == 6
  assert bits(after.inner_state) == bits(before.inner_state)


@pytest.mark.parametrize('name', slow_but(OPTIMIZERS, FAST))
def test_where_masks_move_as_well_the_optimizer_sees_every_step(name):
  inner = OPTIMIZERS[name]
  tx = moving(inner, 3, applies_gradient=True)
  *_, (params, state) = train(name, tx, range(1, 9))
  *_, expected = train(name, inner, range(1, 9))
  assert_close((params, state.inner_state), expected)


@pytest.mark.parametrize(
  ('update_every', 'mini_steps'), [(2, 4), (3, 2), (4, 4), (6, 4), (7, 2)]
)
def test_sums_of_mini_steps_are_complete(update_every, mini_steps):
  inner = optax.MultiSteps(optax.sgd(1.0), mini_steps, use_grad_mean=False)
  masks, ones = {'w': np.ones((2, 3), bool)}, {'w': np.ones((2, 3), np.float32)}
  tx = moving(inner.gradient_transformation(), update_every, masks)
  state, update, seen = tx.init(ones), jax.jit(tx.update), []
  for _ in range(17):
    updates, state = update(ones, state, ones)
    seen.append(float(updates['w'][0, 0]))
  trains = [i for i in range(1, 18) if i % update_every]
  assert [x for x in seen if x] == [-mini_steps] * (len(trains) // mini_steps)


def test_a_plateau_is_found_in_time():
  plateau = optax.contrib.reduce_on_plateau(
    factor=0.5, patience=2, accumulation_size=20
  )
  tx = lth.rigl(
    optax.chain(optax.sgd(1e-3), plateau),
    lth.random_masks(jax.random.key(0), sparsity=0.5),
    update_every=20,
    stop_step=200,
  )
  params = {'w': jnp.ones((4, 4))}

  def step(_, carry):
    params, state = carry
    updates, state = tx.update(params, state, params, value=1.0)
    return optax.apply_updates(params, updates), state

  loop = jax.jit(functools.partial(jax.lax.fori_loop, 0, 200, step))
  _, state = loop((params, tx.init(params)))
  assert optax.tree.get(state, 'scale') == 0.0625


@pytest.mark.slow
def test_lookahead_holds_zeros_in_slow_params_too():
  tx = lth.rigl(
    optax.lookahead(optax.adam(0.1), 2, 0.5),
    lth.random_masks(jax.random.key(0), sparsity=0.5),
    update_every=3,
    stop_step=20,
    drop_fraction=optax.constant_schedule(0.5),
  )
  params = optax.LookaheadParams.init_synced(jax.tree.map(jnp.asarray, PARAMS))
  state, update, seen = tx.init(params), jax.jit(tx.update), set()
  for i in range(9):
    grads = random_like(SHAPES, i)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    masks = lth.get_masks(state)
    assert bits(lth.forward_params(state, params)) == bits(params)
    assert bits(lth.masks.apply(masks, params.fast)) == bits(params.fast)
    seen.add(np.asarray(masks['fc']).tobytes())
  assert len(seen) == 4
  assert lth.masks.count(masks) == 9


# Their projections and factors have the shapes of these kernels.
CHANCE = {'square': (6, 6), 'tall': (12, 8)}


def preconditioned():
  """Shampoo in short: a square factor for each matrix, and a momentum."""

  def init(params):
    left = jax.tree.map(lambda p: jnp.eye(p.shape[0]), params)
    return {'left': left, 'momentum': optax.tree.zeros_like(params)}

  def update(grads, state, params=None):
    del params
    left = jax.tree.map(lambda x, g: x + g @ g.T, state['left'], grads)
    momentum = jax.tree.map(
      lambda m, x, g: 0.9 * m + x @ g, state['momentum'], left, grads
    )
    new = {'left': left, 'momentum': momentum}
    return jax.tree.map(lambda m: -0.01 * m, momentum), new

  return optax.GradientTransformation(init, update)


def unless_small(inner):
  """An optimizer that refuses the shapes that others are tried with."""

  def init(params):
    for x in jax.tree.leaves(params):
      assert min(x.shape) > 4
    return inner.init(params)

  return optax.GradientTransformation(init, inner.update)


@pytest.mark.parametrize(
  ('inner', 'per_weight'),
  [
    (optax.contrib.galore(0.1), []),
    pytest.param(optax.contrib.galore(0.1, rank=8), [], marks=pytest.mark.slow),
    (preconditioned(), ['momentum']),
    (optax.adafactor(0.1), ['v']),
    (
      optax.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9),
      ['ema'],
    ),
    (optax.contrib.muon(0.1), ['mu']),
    (optax.contrib.sophia(0.1), ['mu', 'nu']),
    (optax.contrib.acprop(0.1), ['mu', 'nu']),
    (optax.contrib.ademamix(0.1), ['m1', 'm2', 'nu']),
    (
      optax.contrib.cocob(),
      [
        'init_particles',
        'cumulative_gradients',
        'scale',
        'subgradients',
        'reward',
      ],
    ),
    (optax.MultiSteps(optax.adam(0.1), 2), ['acc_grads', 'mu', 'nu']),
    (unless_small(optax.adam(0.1)), ['mu', 'nu']),
  ],
)
def test_only_slots_of_single_weights_are_emptied(inner, per_weight):
  seen, inner = [], optax.with_extra_args_support(inner)

  def update(grads, state, params=None, **extra):
    seen.append(state)
    return inner.update(grads, state, params, **extra)

  masks = jax.tree.map(
    lambda shape: np.arange(np.prod(shape)).reshape(shape) % 3 > 0,
    CHANCE,
    is_leaf=lambda x: isinstance(x, tuple),
  )
  spied = optax.GradientTransformationExtraArgs(inner.init, update)
  tx = lth.static(spied, masks)
  params = random_like(CHANCE, 0)
  state = tx.init(params)

  def value(p, key=None):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

  for i in range(2):
    grads = random_like(CHANCE, i + 1)
    states = [state.inner_state]
    _, state = tx.update(grads, state, params, obj_fn=value)
    states.append(state.inner_state)
  # The second call saw the state that the first returned, but for the slots.
  leaves = jax.tree_util.tree_leaves_with_path(states[0])
  for (path, before), now in zip(
    leaves, jax.tree.leaves(seen[-1]), strict=True
  ):
    names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
    if set(per_weight) & set(names):
      mask = masks[names[-1]]
      np.testing.assert_array_equal(now, np.where(mask, before, 0))
    else:
      assert bits(now) == bits(before)


@pytest.mark.parametrize(
  'inner',
  [
    optax.sm3(0.1),
    optax.lbfgs(0.1),
    optax.flatten(optax.adam(0.1)),
    optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(10)),
  ],
)
def test_what_does_not_say_whose_its_slots_are_is_refused(inner):
  message = (
    r'`optax.tree.map_params` finds none in the state of this optimizer .*'
    r'`optax.sm3`.*`optax.flatten`.*`optax.lbfgs`.*such as `optax.adamw`'
  )
  with pytest.raises(ValueError, match=message):
    lth.static(inner, MASKS).init(PARAMS)


@pytest.mark.parametrize(
  'inner', [None, 'adam', 0.1, MASKS, optax.adam, optax.MultiSteps]
)
def test_the_optimizer_has_to_be_one(inner):
  message = r'must be an optax transformation, such as `optax.sgd\(0.1\)`'
  for method in (
    lambda: lth.static(inner, MASKS),
    lambda: lth.rigl(inner, MASKS, update_every=2, stop_step=4),
    lambda: lth.straight_through(inner, sparsity=0.5),
  ):
    with pytest.raises(TypeError, match=message):
      method()


WRAPPED = {
  'monitor': optax.chain(
    optax.adam(0.1),
    optax.monitor(
      {
        'norm': optax.tree.norm,
        'all': lambda updates: updates,
        'mean': optax.measure_with_ema(optax.tree.norm, 0.9),
      }
    ),
  ),
  'snapshot': optax.chain(
    optax.snapshot('norm', optax.tree.norm),
    optax.adam(0.1),
    optax.snapshot('all', lambda updates: updates),
  ),
  'named': optax.named_chain(
    ('clip', optax.clip(9.0)), ('adam', optax.adam(0.1))
  ),
  'selective': optax.selective_transform(
    optax.adam(0.1), freeze_mask=dict.fromkeys(SHAPES, False)
  ),
  'conditional': optax.conditionally_mask(
    optax.adam(0.1), lambda step: step >= 0
  ),
}


@pytest.mark.parametrize(
  ('method', 'name'),
  [
    ('rigl', 'monitor'),
    *slow_but(
      [
        *(('rigl', name) for name in WRAPPED if name != 'monitor'),
        *itertools.product(['static', 'gradual'], ['monitor', 'snapshot']),
      ],
      [],
      several=True,
    ),
  ],
)
def test_what_only_measures_or_wraps_changes_nothing(method, name):
  masks = {
    n: None if m is None else m & (m.cumsum() % 2 > 0).reshape(m.shape)
    for n, m in MASKS.items()
  }
  make = {
    'static': lambda tx: lth.static(tx, masks),
    'rigl': lambda tx: lth.rigl(tx, masks, update_every=2, stop_step=9),
    'gradual': lambda tx: lth.gradual(
      tx, sparsity=0.5, update_every=2, stop_step=4
    ),
  }[method]
  *_, (params, state) = train(name, make(WRAPPED[name]), range(5))
  *_, (expected, known) = train(method, make(optax.adam(0.1)), range(5))
  chex.assert_trees_all_close(params, expected, rtol=1e-5)
  found = lth.get_masks(state)
  assert bits(found) == bits(lth.get_masks(known))
  assert bits(lth.masks.apply(found, params)) == bits(params)
  if name in ('monitor', 'snapshot'):
    assert optax.tree.get(state, 'norm') > 0
    chex.assert_trees_all_equal_shapes(optax.tree.get(state, 'all'), PARAMS)


def test_leaves_that_are_no_arrays_are_named():
  # As in modules of Equinox.
  params = {**PARAMS, 'activation': jnp.tanh}
  masks = {**MASKS, 'activation': None}
  for tx in (
    lth.static(optax.adam(0.1), masks),
    lth.gradual(optax.sgd(0.1), sparsity=0.5, stop_step=100),
  ):
    with pytest.raises(TypeError, match=r'activation is .*`equinox.filter\('):
      tx.init(params)
  with pytest.raises(TypeError, match=r'activation is .*`equinox.filter\('):
    lth.scores.magnitude(params)


@pytest.mark.parametrize(
  'inner',
  [
    pytest.param(optax.adafactor(0.01), marks=pytest.mark.slow),
    pytest.param(optax.lamb(0.01), marks=pytest.mark.slow),
    optax.chain(optax.rmsprop(0.01), optax.clip_by_global_norm(0.01)),
  ],
)
@pytest.mark.parametrize(
  'method', ['rigl', pytest.param('top_kast', marks=pytest.mark.slow)]
)
def test_norms_of_updates_leave_out_what_does_not_train(method, inner):
  """A divisor of a dead weight is zero only once updates have been computed."""
  masks = lth.random_masks(KEY, sparsity=0.5)
  tx = {
    'rigl': lth.rigl(inner, masks, update_every=9, stop_step=20),
    'top_kast': lth.top_kast(
      inner, sparsity=0.5, backward_sparsity=0.3, decay=0.0, update_every=9
    ),
  }[method]
  state = tx.init(PARAMS)
  trains = state.trained if method == 'rigl' else state.trained[1]
  params = lth.masks.apply(trains, PARAMS)
  expected, fixed = params, lth.static(inner, trains)
  known, update = fixed.init(params), jax.jit(tx.update)
  for i in range(3):
    grads = random_like(SHAPES, i)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    updates, known = fixed.update(grads, known, expected)
    expected = optax.apply_updates(expected, updates)
    chex.assert_trees_all_close(params, expected, rtol=1e-4)


KERNELS = {'in': (384, 256), 'out': (256, 384)}
TIMES = {'update_every': 100, 'stop_step': 1000}
DRAW = lth.random_masks(KEY, sparsity=0.9)
MOVING = {
  'static': lambda tx: lth.static(tx, DRAW),
  'rigl': lambda tx: lth.rigl(tx, DRAW, **TIMES),
  'rigl_trains': lambda tx: lth.rigl(tx, DRAW, **TIMES, applies_gradient=True),
  'set': lambda tx: lth.sparse_evolution(tx, DRAW, key=KEY, **TIMES),
  'snfs': lambda tx: lth.snfs(tx, DRAW, **TIMES),
  'srigl': lambda tx: lth.srigl(tx, DRAW, **TIMES),
  'gradual': lambda tx: lth.gradual(tx, sparsity=0.9, **TIMES),
  'ac_dc': lambda tx: lth.ac_dc(
    tx, sparsity=0.9, sparse_steps=[100], dense_steps=[200]
  ),
  'straight_through': lambda tx: lth.straight_through(
    tx, sparsity=0.9, **TIMES
  ),
  'sr_ste': lambda tx: lth.sr_ste(tx, sparsity=0.9, **TIMES),
  'top_kast': lambda tx: lth.top_kast(
    tx, sparsity=0.9, backward_sparsity=0.8, **TIMES
  ),
}


INNERS = {
  'adamw': optax.adamw(0.1),
  'sgd': optax.sgd(0.1),
  'momentum': optax.sgd(0.1, momentum=0.9, nesterov=True),
  'injected': optax.inject_hyperparams(
    optax.adam, hyperparam_dtype=jnp.float32
  )(0.1),
}

PAIR = 'straight_through', 'momentum'


# Each method with one optimizer, and each optimizer with one method.
@pytest.mark.parametrize(
  ('method', 'inner'),
  [
    pytest.param(
      method,
      inner,
      marks=[]
      if inner == 'adamw' and method in ('rigl', 'srigl')
      else pytest.mark.slow,
    )
    for method in MOVING
    for inner in INNERS
    if inner == 'adamw' or method == 'rigl' or (method, inner) == PAIR
  ],
)
def test_donated_buffers_are_updated_in_place(method, inner, monkeypatch):
  if inner != 'adamw':
    monkeypatch.setattr(_batches, '_LARGE', 2**16)
  tx = MOVING[method](INNERS[inner])
  params = jax.eval_shape(lambda: random_like(KERNELS, 0))
  text = compile_donated(tx, params).as_text()
  *_, entry = text.partition('ENTRY ')
  assert 'parameter(0)' in entry
  kept = [
    branch.group(0)
    for name in re.findall(r'branch_computations=\{%([\w.]+),', entry)
    for branch in re.finditer(rf'^%{name} \(.*?^}}', text, re.M | re.S)
  ]
  assert len(kept) == (0 if method == 'static' else 1 + (method in TWO_TREES))
  for where in (entry, *kept):
    # Neither of weights nor of masks, at a step that leaves the masks.
    assert not re.findall(r'= \w+\[\d{3},\d{3}\]\S* copy\(.*', where)


# Masks that move, and those of what trains: each has a branch.
TWO_TREES = (
  'rigl', 'rigl_trains', 'set', 'snfs', 'srigl', 'ac_dc', 'sr_ste', 'top_kast'
)  # fmt: skip


def temporaries(method, inner, dtype):
  """Memory of a step beside its arguments and results, in sizes of params."""
  tx = MOVING[method](inner)
  params = {str(i): jax.ShapeDtypeStruct((256, 512), dtype) for i in range(8)}
  memory = compile_donated(tx, params).memory_analysis()
  size = sum(x.size * x.dtype.itemsize for x in params.values())
  return memory.temp_size_in_bytes / size


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(
  ('method', 'inner', 'dtype', 'most'),
  [
    ('rigl', 'adam', 'float32', 1 / 4),
    ('static', 'adam', 'bfloat16', 1 / 64),
    ('rigl', 'adam', 'bfloat16', 1 / 2),
    ('set', 'momentum', 'float32', 1 / 4),
    ('gradual', 'momentum', 'bfloat16', 1 / 2),
    ('set', 'momentum', 'bfloat16', 1 / 2),
    ('rigl', 'momentum', 'bfloat16', 1 / 2),
    ('gradual', 'adam', 'float32', 1 / 4),
    ('srigl', 'adam', 'float32', 1 / 8),
    ('top_kast', 'momentum', 'bfloat16', 1 / 2),
  ],
)
def test_a_move_needs_little_memory(method, inner, dtype, most, monkeypatch):
  # Masks take a quarter of the memory of float32 weights.
  monkeypatch.setattr(_batches, '_SIZE', 2**17)  # a part for every leaf,
  monkeypatch.setattr(_batches, '_LARGE', 2**17)  # as if it were a large one
  tx = {'adam': optax.adam(0.1), 'momentum': optax.sgd(0.1, momentum=0.9)}
  assert temporaries(method, tx[inner], dtype) < most
