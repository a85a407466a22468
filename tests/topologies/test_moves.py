"""What holds of every topology that moves masks."""

import functools
import itertools
import math
import re
from fractions import Fraction

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import eager_step, slow_but
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth
from lthjax import trees
from lthjax.counts import ratio_of, share_of
from lthjax.topologies import _moves

SHAPES = {
  'fc': {'kernel': (12, 10), 'bias': (10,)},
  'output': {'kernel': (10, 6), 'bias': (6,)},
}
OPTIONS = {'update_every': 2, 'stop_step': 60, 'drop_fraction': 0.3}


def sparse_evolution(inner, masks, seed=0, **options):
  key = jax.random.key(seed)
  return lth.sparse_evolution(inner, masks, key=key, **options)


METHODS = {
  'set': sparse_evolution,
  'rigl': lth.rigl,
  'rigl_trains': functools.partial(lth.rigl, applies_gradient=True),
  'rigl_nm': functools.partial(lth.rigl, pattern=lth.patterns.NM(1, 2)),
  'snfs': lth.snfs,
  'srigl': functools.partial(lth.srigl, min_salient=None),
}
WANDERING = {
  'snfs_redistributed': functools.partial(lth.snfs, redistribute=True),
  'srigl_ablating': functools.partial(lth.srigl, min_salient=0.95),
}
INNERS = {
  'momentum': optax.sgd(0.1, momentum=0.9),
  'adam': optax.adam(0.01),
  'lion': optax.lion(0.01),
  'adamax': optax.adamax(0.01),
}

every_method = pytest.mark.parametrize('method', METHODS)
even_wandering = pytest.mark.parametrize('method', METHODS | WANDERING)


def make(method, inner=INNERS['momentum'], masks=None, **options):
  if masks is None:
    masks = lth.random_masks(jax.random.key(0), sparsity=0.5)
  return (METHODS | WANDERING)[method](inner, masks, **OPTIONS | options)


random_like = functools.partial(helpers.random_like, SHAPES)


PARAMS = random_like(0)


def start(tx, params=PARAMS):
  state = tx.init(params)
  return lth.masks.apply(lth.get_masks(state), params), state


def compiled(tx):
  return jax.jit(functools.partial(eager_step, tx))


@functools.cache
def compiled_once(method, inner='momentum'):
  """The method as `make` has it, for all tests together.

  What is in the state may be of another `make`: budgets and drop fractions are.
  """
  tx = make(method, INNERS[inner])
  return tx, compiled(tx)


def kernels(tree):
  return {n: np.asarray(x) for n, x in trees.by_name(tree).items() if '/k' in n}


def counts(state):
  return lth.masks.alive_by_name(lth.get_masks(state))


def as_bytes(tree):
  def data(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

  return [data(x) for x in jax.tree.leaves(tree)]


def same_masks(a, b):
  return as_bytes(lth.get_masks(a)) == as_bytes(lth.get_masks(b))


SCALES = [1e-30, 1e-5, 1.0, 300.0, 1e10, 1e30, np.inf, np.nan, 0.0]


def check_counts(method, step, dtype):
  """Over thirty moves, of which the last ones drop nothing."""
  tx = make(method, drop_fraction=optax.linear_schedule(0.9, 0.0, 50))
  params, state = start(tx, random_like(0, dtype=dtype))
  first, slots = counts(state), state.inner_state
  assert first == {'fc/kernel': 60, 'output/kernel': 30}
  for i, scale in enumerate(3 * SCALES):
    state = state._replace(step=jnp.int32(2 * i + 1), inner_state=slots)
    _, state = step(params, state, random_like(i, scale, dtype))
    assert counts(state) == first, scale
    if method == 'srigl':
      for mask in kernels(lth.get_masks(state)).values():
        assert (mask.sum(0) == mask.sum() / mask.shape[1]).all()
    # Only finite weights can be set to zero.
    params = lth.masks.apply(lth.get_masks(state), random_like(i, 1.0, dtype))


@pytest.mark.parametrize('method', slow_but(METHODS, ['rigl', 'srigl']))
def test_counts_are_constant_whatever_the_gradients(method):
  check_counts(method, compiled_once(method)[1], jnp.float32)


@pytest.mark.parametrize('method', ['rigl', 'srigl'])
def test_counts_are_constant_in_short_floats(method):
  check_counts(method, compiled(make(method)), jnp.bfloat16)


@pytest.mark.parametrize('method', slow_but(METHODS, ['set', 'snfs']))
def test_counts_are_constant_whatever_the_weights(method):
  tx, step = compiled_once(method)
  for weight in (np.nan, np.inf):
    params, state = start(tx)
    params = jax.tree.map(lambda x, w=weight: jnp.where(x > 0.5, w, x), params)
    first = counts(state)
    for i in range(2):
      _, state = step(params, state, random_like(i))
      assert counts(state) == first


@pytest.mark.parametrize(
  'method', slow_but(METHODS | WANDERING, ['rigl', 'srigl_ablating'])
)
def test_dropping_nothing_is_the_identity(method):
  _, step = compiled_once(method)
  params, state = start(make(method, drop_fraction=0.0))
  first = state
  for i, scale in enumerate(SCALES):
    state = state._replace(step=jnp.int32(2 * i + 1))
    _, state = step(params, state, random_like(i, scale))
    assert same_masks(state, first)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('method', 'inner'),
  [
    *((method, 'momentum') for method in METHODS | WANDERING),
    *(('rigl', inner) for inner in INNERS if inner != 'momentum'),
  ],
)
def test_new_weights_and_dead_ones_have_nothing(method, inner):
  tx, step = compiled_once(method, inner)
  params, state = start(tx)
  moved = 0
  for i in range(8):
    old = kernels(lth.get_masks(state))
    before = params
    params, state = step(params, state, random_like(i))
    new = kernels(lth.get_masks(state))
    slots = [
      {jax.tree_util.keystr(path): np.asarray(x)}
      for path, x in jax.tree_util.tree_leaves_with_path(state.inner_state)
    ]
    for name in old:
      fresh, dead = new[name] & ~old[name], ~new[name]
      moved += fresh.sum()
      w = kernels(params)[name]
      assert not any(w[fresh | dead].tobytes())
      layer = f"['{name.split('/')[0]}']['kernel']"
      own = [x for s in slots for k, x in s.items() if k.endswith(layer)]
      assert own
      for slot in own:
        assert slot.shape == dead.shape
        assert not any(slot[fresh | dead].tobytes())
        assert slot[old[name] & new[name]].any()
      if method in ('rigl', 'rigl_nm') and i % 2:
        stay = old[name] & new[name]
        np.testing.assert_array_equal(w[stay], kernels(before)[name][stay])
  assert moved


@pytest.mark.parametrize(
  ('every', 'stop', 'expected'),
  [(1, 3, [1, 2, 3]), (3, 8, [3, 6]), (2, 8, [2, 4, 6, 8]), (2, 5, [2, 4])],
)
def test_when_moves_come(every, stop, expected):
  times = _moves.times(every, stop)
  assert [t for t in range(1, 13) if times.due(jnp.int32(t))] == expected
  assert times.table_steps().tolist() == expected
  assert [times.entry(t) for t in expected] == [*range(len(expected))]


@pytest.mark.parametrize(
  ('every', 'stop'),
  [(1, 20_000), (1, 100_000), (7, 1_000_000), (1, 2**31), (9, 2**40)],
)
def test_tables_of_many_moves_are_bounded(every, stop):
  times = _moves.times(every, stop)
  steps = times.table_steps()
  moves = min(stop, 2**31 - 1) // every
  assert len(steps) <= 2**15
  assert len(steps) == moves or moves > 2**15
  assert steps[-1] == moves * every
  # Every move has the entry of the next step in the table, or its own.
  rng = np.random.default_rng(0)
  for move in [1, 2, moves - 1, moves, *rng.integers(1, moves, 20)]:
    i = times.entry(int(move) * every)
    assert (steps[i - 1] if i else 0) < move * every <= steps[i]
  last = jnp.int32(steps[-1])
  assert times.due(last)
  assert times.entry(last) == len(steps) - 1


@pytest.mark.parametrize('stop', [20_000, 2**31])
@pytest.mark.parametrize('method', ['rigl', 'srigl', 'gradual'])
def test_schedules_are_called_once_for_all_moves(method, stop):
  calls = []

  def schedule(step):
    calls.append(step)
    return 0.5 + 0.3 * jnp.minimum(step / 20_000, 1)

  options = {'update_every': 1, 'stop_step': stop, 'sparsity': schedule}
  if method == 'gradual':
    tx = lth.gradual(INNERS['momentum'], **options)
  else:
    tx = make(method, applies_gradient=True, **options)
  state = tx.init(PARAMS)
  assert len(calls) == 2  # One value, to see that it is one, and all at once.
  for x in jax.tree.leaves(state.topology_state):
    assert x.size <= 2**16
  if stop == 20_000:
    counts = jax.tree.leaves(state.topology_state)[-1]
    sparsity = 0.5 + 0.3 * np.arange(1, 20_001) / 20_000
    assert counts.shape == (20_000,)
    # SRigL rounds down.
    exact = np.floor(60 * (1 - sparsity) + (0.5 if method != 'srigl' else 1e-6))
    assert np.abs(counts - exact).max() <= 1
    assert (counts == exact).mean() > 0.99


@pytest.mark.parametrize('method', ['rigl', 'set', 'srigl'])
def test_masks_move_then_and_only_then(method):
  _, step = compiled_once(method)
  tx = make(method, drop_fraction=optax.constant_schedule(0.5))
  for first, expected in [(1, [2, 4]), (57, [58, 60])]:
    params, state = start(tx)
    state, moved = state._replace(step=jnp.int32(first - 1)), []
    for i in range(first, first + 8 if first > 1 else 5):
      before = state
      params, state = step(params, state, random_like(i))
      if not same_masks(before, state):
        moved.append(i)
    assert moved == expected


@pytest.mark.parametrize(
  'method', slow_but(['set', 'rigl', 'srigl_ablating'], ['set'])
)
def test_same_masks_eager_jitted_scanned_and_vmapped(method):
  tx, step = compiled_once(method)
  grads = [random_like(i) for i in range(1, 4)]
  params, state = start(tx)
  before = state
  for g in grads:
    params, state = step(params, state, g)
  assert not same_masks(state, before)
  if method == 'rigl':
    again, same = start(tx)
    for g in grads[:2]:
      again, same = eager_step(tx, again, same, g)
    assert same_masks(state, same)

  # Side by side with itself upside down, in one scan.
  def both(x):
    return jax.tree.map(lambda x: jnp.stack([x, -x]), x)

  def body(carry, g):
    return jax.vmap(functools.partial(eager_step, tx))(*carry, g), None

  together = jax.vmap(tx.init)(both(PARAMS))
  masked = jax.vmap(lth.masks.apply)(lth.get_masks(together), both(PARAMS))
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(both, grads))
  (again, same), _ = jax.lax.scan(body, (masked, together), stacked)
  for i in range(2):
    assert same_masks(jax.tree.map(lambda x, i=i: x[i], same), state)
    mine = jax.tree.map(lambda x, i=i: (-1) ** i * x[i], again)
    chex.assert_trees_all_close(mine, params, rtol=1e-5)


@pytest.mark.parametrize('method', ['rigl', 'rigl_nm', 'snfs', 'srigl'])
def test_init_under_jit_is_init(method):
  tx, _ = compiled_once(method)
  state = tx.init(PARAMS)
  assert as_bytes(jax.jit(tx.init)(PARAMS)) == as_bytes(state)
  masks = lth.random_masks(jax.random.key(1), sparsity=0.5)
  other = make(method, masks=masks).init(PARAMS)
  assert not same_masks(state, other)


@even_wandering
def test_resumable_to_the_bit(method):
  tx, step = compiled_once(method)

  def go_on(params, state, steps):
    for i in steps:
      params, state = step(params, state, random_like(i))
    return params, state

  straight = as_bytes(go_on(*start(tx), range(1, 7)))
  for stop in (3, 4, 5):  # Just before a move, on it, and just after.
    saved = go_on(*start(tx), range(1, stop + 1))
    leaves, treedef = jax.tree.flatten(saved)
    saved = jax.tree.unflatten(treedef, [jnp.array(x) for x in leaves])
    assert as_bytes(go_on(*saved, range(stop + 1, 7))) == straight


def test_one_compilation_and_donating_takes_nothing_from_the_user():
  key, traces = jax.random.key(0), []
  masks = lth.random_masks(key, sparsity=0.5)
  tx = lth.sparse_evolution(INNERS['momentum'], masks, key=key, **OPTIONS)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, g):
    traces.append(None)
    return eager_step(tx, params, state, g)

  for _ in range(2):
    params, state = start(tx, random_like(0))
    for i in range(3):
      params, state = step(params, state, random_like(i))
  assert not key.is_deleted()
  assert len(traces) == 1


@every_method
def test_every_state_is_made_anew(method):
  tx, _ = compiled_once(method)
  expected = as_bytes(tx.init(PARAMS))
  for x in jax.tree.leaves(tx.init(PARAMS)):
    x.delete()
  assert as_bytes(tx.init(PARAMS)) == expected


@pytest.mark.parametrize('method', ['rigl', 'rigl_trains'])
def test_accumulation_outside_moves_with_the_mean_gradient(method):
  tx, one = compiled_once(method)
  outside = optax.MultiSteps(tx, 3)
  step = compiled(outside)
  params, state = start(outside)
  expected, plain = start(tx)
  for i in range(4):
    grads = [random_like(10 * i + j, 10.0**j) for j in range(3)]
    before = state
    for j, g in enumerate(grads):
      params, state = step(params, state, g)
      assert j == 2 or same_masks(state, before)
    mean = jax.tree.map(lambda *x: sum(x) / 3, *grads)
    expected, plain = one(expected, plain, mean)
    assert same_masks(state, plain)
    assert same_masks(state, before) == (i % 2 == 0)
    chex.assert_trees_all_close(params, expected, rtol=1e-4, atol=1e-5)


def test_it_may_stand_inside_of_other_transformations():
  injected = optax.inject_hyperparams(
    lambda rate: make('rigl', optax.sgd(rate))
  )(rate=0.1)
  tx = optax.chain(optax.zero_nans(), optax.apply_if_finite(injected, 3))
  params, state = start(tx)
  step, first, masks = compiled(tx), counts(state), [lth.get_masks(state)]
  for i in range(4):
    params, state = step(params, state, random_like(i))
    masks.append(lth.get_masks(state))
    assert counts(state) == first
  pairs = itertools.pairwise(masks)
  moved = [lth.masks.hamming(a, b) > 0 for a, b in pairs]
  assert moved == [False, True, False, True]


def test_clipping_sees_alive_gradients_only():
  inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
  tx = make('rigl', inner)
  params, state = start(tx)
  masks = lth.get_masks(state)
  grads = jax.tree.map(
    lambda m, x: x if m is None else jnp.where(m, x, 1e6),
    masks,
    random_like(1),
    is_leaf=trees.is_none,
  )
  with jax.disable_jit():
    updates, _ = tx.update(grads, state, params)
  norm = optax.tree.norm(lth.masks.apply(masks, updates))
  np.testing.assert_allclose(norm, 1, rtol=1e-5)


def drop_counts(ratios, alive, step, times):
  """The counts of single layers, and the same as those of a stack."""
  alive = np.asarray(alive, np.int32)
  layers = {str(i): jnp.asarray(n) for i, n in enumerate(alive)}
  layers['stack'] = jnp.asarray(alive)[:, None]
  ratio = jnp.asarray(ratios)[times.entry(jnp.int32(step))]
  found = jax.jit(_moves.drop_counts)(ratio, layers)
  assert found['stack'].shape == (len(alive), 1)
  single = [int(found[str(i)]) for i in range(len(alive))]
  assert found['stack'].ravel().tolist() == single
  return single


@pytest.mark.parametrize('share', [0.0, 0.29, 0.3, 1 / 3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize('kind', [float, jnp.float32])
def test_drop_counts_are_exact_at_any_size(share, kind):
  times = _moves.times(2, 6)
  ratios = _moves.drop_ratios(lambda step: kind(share), times)
  assert ratios.shape == (3, 2)
  exact = Fraction(share).limit_denominator(1000)
  alive = [0, 1, 3, 100, 2**24 - 1, 2**24 + 1, 3 * 10**8, 2**31 - 1]
  if kind is not float and share == 1 / 3:
    alive = alive[:4]
  found = drop_counts(ratios, alive, 4, times)
  assert found == [math.floor(n * exact) for n in alive]


def test_drop_counts_of_the_cosine_are_those_of_double_precision():
  times = _moves.times(100, 7500)
  ratios = _moves.drop_ratios(0.3, times)
  for step in range(100, 7501, 700):
    share = 0.15 * (1 + math.cos(math.pi * step / 7500))
    found = drop_counts(ratios, [23_520, 100], step, times)
    assert found == [int(round(n * share, 6)) for n in (23_520, 100)]
  assert ratios[-1].tolist() == [0, 1]


def test_ratios_survive_being_traced():
  ratio = ratio_of(0.123457)
  numbers = jnp.array([0, 7, 2**24 + 1, 2**31 - 1], jnp.int32)
  found = jax.jit(share_of, static_argnums=3)(
    numbers, ratio.numerator, ratio.denominator, 'floor'
  )
  assert found.tolist() == [math.floor(int(n) * ratio) for n in numbers]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'drop_fraction': 1.1}, '`drop_fraction` was 1.1, but must be in [0, 1]'),
    ({'drop_fraction': -0.1}, '`drop_fraction` was -0.1, but must be in'),
    ({'drop_fraction': float('nan')}, '`drop_fraction` was nan, but must'),
    (
      {'drop_fraction': lambda step: step / 4},
      '`drop_fraction` gave 1.5 at step 6, but must be in [0, 1].',
    ),
    (
      {'drop_fraction': optax.linear_schedule(0.3, -0.3, 8)},
      '`drop_fraction` gave -0.15 at step 6, but must be in [0, 1]',
    ),
    ({'update_every': 0}, '`update_every` was 0, but must be at least 1.'),
    (
      {'update_every': 2**31, 'stop_step': 2**31},
      '`update_every` was 2147483648, but must be below 2^31: steps are',
    ),
    (
      {'update_every': 61},
      '`stop_step` was 60, before the first move at step 61. Give a later step,'
      ' or move masks more often.',
    ),
  ],
)
@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs', 'srigl'])
def test_out_of_range(method, options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(method, **options)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'update_every': 100.0},
      '`update_every` was 100.0, but must be an integer, such as 100.',
    ),
    ({'update_every': float('nan')}, '`update_every` was nan, but must be an'),
    ({'update_every': '2'}, "`update_every` was '2', but must be an integer."),
    ({'update_every': None}, '`update_every` was None, but must be an integer'),
    ({'stop_step': 1e4}, '`stop_step` was 10000.0, but must be an integer'),
    ({'stop_step': True}, '`stop_step` was True, but must be an integer'),
    ({'drop_fraction': '0.3'}, "`drop_fraction` was '0.3', but must be a numb"),
    ({'drop_fraction': None}, '`drop_fraction` was None, but must be a number'),
    ({'drop_fraction': np.ones(2)}, '`drop_fraction` was float64[2], but must'),
  ],
)
@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs', 'srigl'])
def test_wrong_types(method, options, message):
  with pytest.raises(TypeError, match=re.escape(message)):
    make(method, **options)


@pytest.mark.parametrize('number', [np.float32, np.float16, jnp.float32])
def test_numbers_of_low_precision_mean_their_decimals(number):
  def bits(drop_fraction, sparsity):
    masks = lth.random_masks(jax.random.key(0), sparsity=sparsity)
    tx = make('rigl', masks=masks, drop_fraction=drop_fraction)
    return as_bytes(tx.init(PARAMS).topology_state)

  assert bits(number(0.3), number(0.7)) == bits(0.3, 0.7)


@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs', 'srigl'])
def test_some_steps_have_to_train(method):
  message = (
    '`update_every` was 1 and `applies_gradient` False: no step would train'
    ' until step 60. Raise `update_every`, or give `applies_gradient=True`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    make(method, update_every=1, applies_gradient=False)


def check_sharded():
  """Same masks on 1, 2, 4 and 8 devices, and no score leaves its device."""
  sharded = {
    'fc': {'kernel': P('d', None), 'bias': P()},
    'output': {'kernel': P(None, 'd'), 'bias': P()},
  }
  shapes = {
    'fc': {'kernel': (64, 48), 'bias': (48,)},
    'output': {'kernel': (48, 32), 'bias': (32,)},
  }

  def draw(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
      lambda shape: rng.normal(size=shape).astype(np.float32),
      shapes,
      is_leaf=lambda x: isinstance(x, tuple),
    )

  numbers = {
    'rigl': (1, 2, 4, 8),
    'srigl_ablating': (1, 4),
  }
  for method, devices_of_method in numbers.items():
    expected = None
    for devices in devices_of_method:
      mesh = jax.make_mesh(
        (devices,),
        ('d',),
        (jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
      )
      places = jax.tree.map(
        lambda spec, mesh=mesh: NamedSharding(mesh, spec),
        sharded,
        is_leaf=lambda x: isinstance(x, P),
      )
      tx = make(method, update_every=1, applies_gradient=True)
      params = jax.device_put(draw(0), places)
      state = jax.jit(tx.init)(params)
      params = lth.masks.apply(lth.get_masks(state), params)
      step = jax.jit(functools.partial(eager_step, tx))
      step = step.lower(
        params, state, jax.device_put(draw(1), places)
      ).compile()
      text = step.as_text()
      assert not re.search('all-gather|all-to-all|collective-permute', text)
      masks = [lth.get_masks(state)]
      for i in range(2):
        params, state = step(params, state, jax.device_put(draw(i), places))
        masks.append(lth.get_masks(state))
        for m, p in zip(
          jax.tree.leaves(masks[-1]),
          [params['fc']['kernel'], params['output']['kernel']],
          strict=True,
        ):
          assert m.sharding.is_equivalent_to(p.sharding, m.ndim)
      expected = expected or as_bytes(masks)
      assert as_bytes(masks) == expected, (method, devices)
  print('done')


@pytest.mark.slow
def test_same_masks_on_any_number_of_devices(run_python):
  source = 'from tests.topologies.test_moves import *; check_sharded()'
  assert run_python(source, devices=8).split() == ['done']
