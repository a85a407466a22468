"""Any optax optimizer, any framework, any transformation of JAX."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import linen, nnx
from flax.core import freeze
from flax.training.train_state import TrainState
from helpers import eager_step, slow_but

import lthjax as lth
from lthjax import trees

# Kernels of one shape, so that op by op few programs are compiled.
SHAPES = {
  'fc': {'kernel': (4, 4), 'bias': (4,)},
  'out': {'kernel': (4, 4), 'scale': (4,)},
}
LABELS = {
  'fc': {'kernel': 'one', 'bias': 'two'},
  'out': {'kernel': 'two', 'scale': 'one'},
}
HALVES = {'one': optax.adam(0.01), 'two': optax.sgd(0.1, momentum=0.9)}


def label_by_rank(params):
  return jax.tree.map(lambda x: 'one' if x.ndim > 1 else 'two', params)


OPTIMIZERS = {
  'sgd': optax.sgd(0.1),
  'momentum': optax.sgd(0.1, momentum=0.9, nesterov=True),
  'adam': optax.adam(0.01),
  'adamw': optax.adamw(0.01, weight_decay=0.1),
  'rmsprop': optax.rmsprop(0.01, initial_scale=0.5, centered=True),
  'lion': optax.lion(0.01),
  'adafactor': optax.adafactor(0.01, min_dim_size_to_factor=2),
  'adafactor_momentum': optax.adafactor(
    0.01, min_dim_size_to_factor=2, momentum=0.9, weight_decay_rate=0.01
  ),
  'muon': optax.contrib.muon(0.01),
  'adagrad': optax.adagrad(0.1),
  'lamb': optax.lamb(0.01, weight_decay=0.1),
  'clipped': optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01)),
  'injected': optax.inject_hyperparams(
    optax.adamw, hyperparam_dtype=jnp.float32
  )(learning_rate=optax.linear_schedule(0.01, 0, 9), weight_decay=0.1),
  'accumulating': optax.MultiSteps(optax.adam(0.01), 2),
  'partition': optax.partition(HALVES, LABELS),
  'partition_function': optax.partition(HALVES, label_by_rank),
  'masked': optax.masked(
    optax.adam(0.01), lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
  ),
  'finite': optax.apply_if_finite(optax.adam(0.01), 3),
  'schedule': optax.sgd(optax.cosine_decay_schedule(0.1, 9), momentum=0.9),
}

# How many arrays each keeps for the kernel of `fc`.
SLOTS = {
  'sgd': 0,
  'momentum': 1,
  'adam': 2,
  'adamw': 2,
  'rmsprop': 2,
  'lion': 1,
  'adafactor': 0,  # factored
  'adafactor_momentum': 1,
  'muon': 1,
  'adagrad': 1,
  'lamb': 2,
  'clipped': 2,
  'injected': 2,
  'accumulating': 3,
  'partition': 2,
  'partition_function': 2,
  'masked': 2,
  'finite': 2,
  'schedule': 1,
}

DIVERSE = (
  'momentum',
  'adafactor_momentum',
  'muon',
  'injected',
  'accumulating',
  'partition',
)
every_optimizer = pytest.mark.parametrize('name', slow_but(OPTIMIZERS, DIVERSE))


def random_like(seed, dtype=np.float32):
  """NumPy arrays in the shapes above, far from zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: (
      rng.choice([-1, 1], shape) * rng.uniform(0.5, 1.5, shape)
    ).astype(dtype),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def on_device(tree):
  """JAX arrays; NumPy ones are constants of branches, and folded."""
  return jax.tree.map(jnp.asarray, tree)


def random_masks(seed):
  """NumPy masks with eight alive weights in each kernel."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: (
      rng.permutation(np.arange(16) < 8).reshape(shape)
      if len(shape) == 2
      else None
    ),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


PARAMS = random_like(0)
DENSE = jax.tree.map(
  lambda x: np.ones_like(x, bool) if x.ndim > 1 else None, PARAMS
)
MASKS = random_masks(1)


def same_bits(a, b):
  """Whether two trees have the same structure, dtypes and bits."""
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  return all(
    x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def assert_dead_are_zero(masks, tree):
  """Every entry under a false mask is +0.0; and some there are."""
  values = trees.by_name(tree)
  for name, mask in trees.by_name(masks).items():
    if mask is not None:
      dead = np.asarray(values[name])[~np.asarray(mask)]
      assert dead.size
      assert not any(dead.tobytes()), name


def types(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@functools.cache
def compiled_step(name):
  """An optimizer and its training step, compiled once for all tests.

  Arguments of other types are an error: nothing is compiled again.
  """
  tx = lth.static(OPTIMIZERS[name], MASKS)
  step = jax.jit(functools.partial(eager_step, tx))
  return tx, step.lower(PARAMS, tx.init(PARAMS), random_like(0)).compile()


@every_optimizer
def test_dead_weights_stay_zero_whatever_the_masks(name):
  tx, step = compiled_step(name)
  params, state = PARAMS, tx.init(PARAMS)  # The params are not masked yet.
  first = types(state)
  for i in range(6):
    if i % 2 == 0:
      masks = random_masks(i)
      state = lth.set_masks(state, masks)
    before = params
    params, state = step(params, state, random_like(i))
    assert_dead_are_zero(masks, params)
    chex.assert_tree_all_finite(params)
    assert types(state) == first
  moved = trees.map_alive(
    lambda _, m, x, y: bool(((x != y) == m).all()), masks, params, before
  )
  assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize('name', slow_but(OPTIMIZERS, DIVERSE[:2]))
def test_no_masks_change_no_bit(name):
  inner, tx = OPTIMIZERS[name], lth.static(OPTIMIZERS[name], DENSE)
  _, fused = compiled_step(name)
  plain = ours = on_device(PARAMS)
  plain_state, state = inner.init(plain), tx.init(plain)
  for i in range(3):
    grads = on_device(random_like(i))
    jitted, _ = fused(ours, state, grads)
    plain, plain_state = eager_step(inner, plain, plain_state, grads)
    ours, state = eager_step(tx, ours, state, grads)
    assert same_bits(ours, plain)
    assert same_bits(state.inner_state, plain_state)
    # XLA may contract a multiply and an add when it sees them together.
    chex.assert_trees_all_close(jitted, plain, rtol=1e-5)


def spy_on(inner, seen):
  """The same optimizer, which notes what it is called with."""
  inner = optax.with_extra_args_support(inner)

  def update(grads, state, params=None, **extra_args):
    seen.append((grads, state, params))
    return inner.update(grads, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(inner.init, update)


def slots_of(layer, state):
  """The slots of a kernel, found by their paths: ``{path: array}``."""
  return {
    path: leaf
    for path, leaf in by_path(state).items()
    if path.endswith(f'{layer}/kernel') and leaf.shape == (4, 4)
  }


def by_path(state):
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in leaves
  }


@every_optimizer
def test_slots_of_dead_and_revived_weights_are_empty(name):
  seen, other = [], random_masks(2)
  tx = lth.static(spy_on(OPTIMIZERS[name], seen), MASKS)
  params, state = PARAMS, tx.init(PARAMS)
  for i in range(3):
    params, state = eager_step(tx, params, state, random_like(i))
  params = lth.masks.apply(other, params)
  switched = lth.set_masks(state, other)
  _, after = eager_step(tx, params, switched, random_like(3))
  grads_seen, state_seen, params_seen = seen[-1]
  assert_dead_are_zero(other, grads_seen)
  assert_dead_are_zero(other, params_seen)
  for layer in SHAPES:
    old, new = (np.asarray(m[layer]['kernel']) for m in (MASKS, other))
    assert (new & ~old).any()
    assert (old & ~new).any()
    slots_before = slots_of(layer, state.inner_state)
    slots_after = slots_of(layer, after.inner_state)
    slots_seen = slots_of(layer, state_seen)
    for path, slot in slots_seen.items():
      assert slot[old & new].any(), path
      assert not slot[~(old & new)].any(), path
      np.testing.assert_array_equal(
        slot[old & new], slots_before[path][old & new]
      )
      assert not slots_after[path][~new].any(), path
    if layer == 'fc':
      assert len(slots_seen) == SLOTS[name]
  # What does not belong to single weights is as it was.
  before = by_path(state.inner_state)
  for path, leaf in by_path(state_seen).items():
    if leaf.shape != (4, 4):
      np.testing.assert_array_equal(leaf, before[path])


@every_optimizer
def test_map_params_passes_the_masks_over(name):
  def replace(slot, label):
    return slot if isinstance(slot, optax.MaskedNode) else label

  def skip(x):
    return x is None or isinstance(x, optax.MaskedNode)

  inner, tx = OPTIMIZERS[name], lth.static(OPTIMIZERS[name], MASKS)
  state = tx.init(PARAMS)
  mapped = optax.tree.map_params(tx, replace, state, LABELS, is_leaf=skip)
  expected = optax.tree.map_params(
    inner, replace, inner.init(PARAMS), LABELS, is_leaf=skip
  )
  chex.assert_trees_all_equal(mapped.inner_state, expected)
  assert mapped.topology_state is state.topology_state
  assert optax.tree.get(state, 'masks') is state.topology_state.masks


@every_optimizer
def test_dtypes_are_those_of_the_optimizer(name):
  inner, tx = OPTIMIZERS[name], lth.static(OPTIMIZERS[name], MASKS)
  single, half = np.float32, jnp.bfloat16
  for dtype, grads_dtype in ((half, half), (single, half), (half, single)):
    params, grads = random_like(0, dtype), random_like(1, grads_dtype)
    state, plain = jax.eval_shape(lambda p: (tx.init(p), inner.init(p)), params)
    assert types(state.inner_state) == types(plain)
    try:
      plain = jax.eval_shape(eager_inner(inner), params, plain, grads)
    except TypeError:  # `apply_if_finite` does not mix dtypes itself.
      assert name == 'finite'
      with pytest.raises(TypeError, match='branches must have equal'):
        jax.eval_shape(tx.update, grads, state, params)
      continue
    new, state = jax.eval_shape(
      functools.partial(eager_step, tx), params, state, grads
    )
    assert types((new, state.inner_state)) == types(plain)
    assert types(new) == types(params)


def eager_inner(inner):
  return functools.partial(eager_step, inner)


# Each keeps other things in its state.
@pytest.mark.parametrize('name', DIVERSE)
def test_dead_weights_land_on_zero_in_half_precision(name):
  tx = lth.static(OPTIMIZERS[name], MASKS)
  params = random_like(0, jnp.bfloat16)
  params, _ = eager_step(tx, params, tx.init(params), random_like(1))
  assert_dead_are_zero(MASKS, params)


def quadratic(params):
  """Has its minimum where every entry is 1."""
  return sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(params))


def test_extra_arguments_reach_the_optimizer():
  seen = []

  def update(updates, state, params=None, *, value, **extra_args):
    del params, extra_args
    seen.append(value)
    return updates, state

  inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
  tx = lth.static(optax.chain(optax.sgd(0.1), inner), MASKS)
  tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=3.0, unknown=4)
  assert seen == [3.0]


def test_a_plateau_is_seen():
  inner = optax.chain(
    optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
  )
  tx = lth.static(inner, MASKS)
  state, plain_state = tx.init(PARAMS), inner.init(PARAMS)
  for _ in range(3):
    updates, state = tx.update(PARAMS, state, PARAMS, value=1.0)
    plain, plain_state = inner.update(PARAMS, plain_state, PARAMS, value=1.0)
  assert plain_state[1].scale < 1
  chex.assert_trees_all_equal(state.inner_state, plain_state)
  chex.assert_trees_all_equal(
    lth.masks.apply(MASKS, updates), lth.masks.apply(MASKS, plain)
  )


WRAPPERS = {
  'accumulating': lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
  'chain': lambda tx: optax.chain(optax.zero_nans(), tx),
  'finite': lambda tx: optax.apply_if_finite(tx, 3),
  'injected': lambda tx: optax.inject_hyperparams(
    lambda rate: lth.static(optax.adam(rate), MASKS)
  )(rate=0.01),
}


@pytest.mark.parametrize('name', WRAPPERS)
def test_it_may_be_inside_of_other_transformations(name):
  tx = WRAPPERS[name](lth.static(optax.adam(0.01), MASKS))
  step = jax.jit(functools.partial(eager_step, tx))
  params, state = PARAMS, tx.init(PARAMS)
  for masks in (MASKS, random_masks(2)):
    state = lth.set_masks(state, masks)
    chex.assert_trees_all_equal(lth.get_masks(state), masks)
    for i in range(2):
      params, state = step(params, state, random_like(i))
    assert_dead_are_zero(masks, params)


def test_accumulation_inside_and_outside_agree():
  inside = lth.static(optax.MultiSteps(optax.adam(0.01), 2), MASKS)
  outside = optax.MultiSteps(lth.static(optax.adam(0.01), MASKS), 2)
  results = []
  for tx in (inside, outside):
    params, state = lth.masks.apply(MASKS, PARAMS), tx.init(PARAMS)
    step = jax.jit(functools.partial(eager_step, tx))
    for i in range(4):
      params, state = step(params, state, random_like(i))
    results.append(params)
  chex.assert_trees_all_close(*results, rtol=1e-5)


def test_scan_does_what_a_loop_does():
  tx, step = compiled_step('adam')
  grads = [random_like(i) for i in range(4)]
  params, state = PARAMS, tx.init(PARAMS)
  for g in grads:
    params, state = step(params, state, g)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
  (scanned, scanned_state), _ = jax.lax.scan(
    lambda carry, g: (eager_step(tx, *carry, g), None),
    (PARAMS, tx.init(PARAMS)),
    stacked,
  )
  assert_dead_are_zero(MASKS, scanned)
  chex.assert_trees_all_close(scanned, params, rtol=1e-5)
  assert types(scanned_state) == types(state)


def test_replicates_have_masks_of_their_own():
  tx, step = compiled_step('adam')
  masks = [random_masks(seed) for seed in range(3)]
  params = [random_like(seed) for seed in range(3)]
  grads = [random_like(seed + 3) for seed in range(3)]

  def stack(pytrees):
    return jax.tree.map(lambda *x: jnp.stack(x), *pytrees)

  side_by_side = stack(params)
  state = lth.set_masks(jax.vmap(tx.init)(side_by_side), stack(masks))
  chex.assert_trees_all_equal(lth.get_masks(state), stack(masks))
  vmapped = jax.jit(jax.vmap(functools.partial(eager_step, tx)))
  for _ in range(2):
    side_by_side, state = vmapped(side_by_side, state, stack(grads))
  assert_dead_are_zero(stack(masks), side_by_side)
  for i in range(3):
    alone, own = params[i], lth.set_masks(tx.init(params[i]), masks[i])
    for _ in range(2):
      alone, own = step(alone, own, grads[i])
    chex.assert_trees_all_close(
      jax.tree.map(lambda x, i=i: x[i], side_by_side), alone, rtol=1e-5
    )


def test_masks_survive_donation():
  masks, later = random_masks(5), random_masks(6)
  expected = jax.tree.map(np.array, (masks, later))
  tx = lth.static(optax.adam(0.01), masks)
  step = jax.jit(functools.partial(eager_step, tx), donate_argnums=(0, 1))
  params = jax.tree.map(jnp.array, PARAMS)
  state = tx.init(params)
  given = jax.tree.leaves((params, lth.get_masks(state)))
  params, state = step(params, state, PARAMS)
  assert all(x.is_deleted() for x in given)
  params, state = step(params, lth.set_masks(state, later), PARAMS)
  params, state = step(params, state, PARAMS)
  assert_dead_are_zero(later, params)
  chex.assert_trees_all_equal((masks, later), expected)
  chex.assert_trees_all_equal(lth.get_masks(tx.init(params)), masks)


def test_init_and_set_masks_can_be_compiled():
  tx, other = lth.static(optax.adam(0.01), MASKS), random_masks(2)
  state = tx.init(PARAMS)
  assert same_bits(jax.jit(tx.init)(PARAMS), state)
  assert types(jax.eval_shape(tx.init, PARAMS)) == types(state)
  assert same_bits(
    jax.jit(lth.set_masks)(state, other), lth.set_masks(state, other)
  )


@pytest.mark.parametrize('name', slow_but(OPTIMIZERS, DIVERSE[:3]))
def test_every_optimizer_trains_while_masks_move(name):
  tx = lth.rigl(
    OPTIMIZERS[name],
    lth.random_masks(jax.random.key(0), sparsity=0.5),
    update_every=2,
    stop_step=6,
    drop_fraction=optax.constant_schedule(0.3),
  )
  step = jax.jit(functools.partial(eager_step, tx))
  params, state = PARAMS, tx.init(PARAMS)
  for i in range(6):
    before = lth.get_masks(state)
    params, state = step(params, state, random_like(i + 1))
    masks = lth.get_masks(state)
    assert_dead_are_zero(masks, params)
    for layer in SHAPES:
      for path, slot in slots_of(layer, state.inner_state).items():
        assert not slot[~np.asarray(masks[layer]['kernel'])].any(), path
    assert lth.masks.alive_by_name(masks) == {'fc/kernel': 8, 'out/kernel': 8}
    assert i % 2 or same_bits(masks, before)
  assert not same_bits(masks, lth.get_masks(tx.init(PARAMS)))


DENSE_METHODS = {
  'straight_through': functools.partial(lth.straight_through, sparsity=0.5),
  'sr_ste': functools.partial(lth.sr_ste, pattern=lth.patterns.NM(2, 4)),
  'top_kast': functools.partial(
    lth.top_kast, sparsity=0.75, backward_sparsity=0.5, update_every=2
  ),
}
# These compile branches of their own at every step, op by op.
BRANCHING = ('accumulating', 'finite', 'muon')
every_dense_method = pytest.mark.parametrize('method', DENSE_METHODS)


@every_optimizer
def test_all_weights_forward_change_no_bit(name):
  inner = OPTIMIZERS[name]
  methods = [lth.top_kast(inner, sparsity=0.5, backward_sparsity=0, decay=0.0)]
  if name not in BRANCHING:
    methods.append(lth.straight_through(inner, sparsity=0))
    methods.append(lth.sr_ste(inner, sparsity=0))
  params = on_device(PARAMS)
  plain, plain_state = params, inner.init(params)
  ours = [(params, tx.init(params)) for tx in methods]
  for i in range(2):
    grads = on_device(random_like(i))
    plain, plain_state = eager_step(inner, plain, plain_state, grads)
    for j, tx in enumerate(methods):
      ours[j] = eager_step(tx, *ours[j], grads)
      assert same_bits(ours[j][0], plain)
      assert same_bits(ours[j][1].inner_state, plain_state)


@pytest.mark.parametrize('name', slow_but(OPTIMIZERS, DIVERSE[:3]))
def test_every_optimizer_trains_a_part_of_dense_weights(name):
  tx, traces = DENSE_METHODS['top_kast'](OPTIMIZERS[name]), []

  @jax.jit
  def step(params, state, grads):
    traces.append(1)
    return eager_step(tx, params, state, grads)

  params, state = PARAMS, tx.init(PARAMS)
  first = types(state)
  for i in range(4):
    before, trained = params, state.topology_state.backward
    params, state = step(params, state, random_like(i))
    assert types(state) == first
    masks, new = lth.get_masks(state), state.topology_state.backward
    assert lth.masks.alive_by_name(masks) == {'fc/kernel': 4, 'out/kernel': 4}
    assert lth.masks.alive_by_name(new) == {'fc/kernel': 8, 'out/kernel': 8}
    assert i % 2 or same_bits(new, trained)
    for layer in SHAPES:
      held = ~np.asarray(trained[layer]['kernel'])
      w, old = (np.asarray(p[layer]['kernel']) for p in (params, before))
      assert w[held].tobytes() == old[held].tobytes()
      assert old[held].all()
      # What has just left has its slots until the next update begins.
      for path, slot in slots_of(layer, state.inner_state).items():
        assert not slot[held].any(), path
  assert len(traces) == 1


@every_dense_method
@every_optimizer
def test_map_params_passes_dense_methods_over(name, method):
  tx = DENSE_METHODS[method](OPTIMIZERS[name])
  state = tx.init(PARAMS)
  mapped = optax.tree.map_params(tx, lambda slot: slot, state)
  chex.assert_trees_all_equal(mapped, state)
  assert mapped.topology_state is state.topology_state


@every_dense_method
def test_dtypes_are_those_of_the_optimizer_in_dense_methods(method):
  params = random_like(0, jnp.bfloat16)
  for name in ('adamw', 'injected', 'accumulating', 'schedule'):
    inner, tx = OPTIMIZERS[name], DENSE_METHODS[method](OPTIMIZERS[name])
    state = tx.init(params)
    for dtype in (jnp.bfloat16, jnp.float32):
      grads = random_like(1, dtype)
      plain = jax.eval_shape(inner.update, grads, inner.init(params), params)
      updates, new = jax.eval_shape(tx.update, grads, state, params)
      assert types(updates) == types(plain[0])
      assert types(new.inner_state) == types(plain[1])
      assert types(new.topology_state) == types(state.topology_state)


@every_dense_method
def test_extra_arguments_pass_through_dense_methods(method):
  inner = optax.chain(
    optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
  )
  tx = DENSE_METHODS[method](inner)
  state = tx.init(PARAMS)
  for _ in range(3):
    _, state = tx.update(PARAMS, state, PARAMS, value=1.0)
  assert state.inner_state[1].scale < 1


@pytest.mark.parametrize(
  ('method', 'name'),
  [
    ('top_kast', 'accumulating'),
    ('top_kast', 'chain'),
    ('top_kast', 'injected'),
    ('straight_through', 'accumulating'),
    ('sr_ste', 'accumulating'),
  ],
)
def test_dense_methods_may_be_inside_of_others(method, name):
  make = DENSE_METHODS[method]
  if name == 'injected':
    tx = optax.inject_hyperparams(lambda rate: make(optax.adam(rate)))(
      rate=0.01
    )
  else:
    tx = WRAPPERS[name](make(optax.adam(0.01)))
  step = jax.jit(functools.partial(eager_step, tx))
  params, state = PARAMS, tx.init(PARAMS)
  total = lth.masks.count(lth.get_masks(state))
  for i in range(4):
    params, state = step(params, state, random_like(i))
    masks = lth.get_masks(state)
    seen = lth.forward_params(state, params)
    assert same_bits(seen, lth.masks.apply(masks, params))
    assert lth.masks.count(masks) == total
  # The largest run forward once the last gradients have been applied.
  largest = lth.get_masks(make(optax.adam(0.01)).init(params))
  assert method == 'top_kast' or same_bits(masks, largest)


class Pair(NamedTuple):
  kernel: Any
  bias: Any


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['kernel', 'bias', 'activation'],
  meta_fields=[],
)
class Module:
  """A module as Equinox has it, with `None` where it filtered a leaf out."""

  def __init__(self, kernel, bias, activation=None):
    self.kernel, self.bias, self.activation = kernel, bias, activation


def nnx_module(kernel, bias):
  module = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
  module.kernel[...], module.bias[...] = kernel, bias
  return module


FORMS = {
  'dict': lambda kernel, bias: {'fc': {'kernel': kernel, 'bias': bias}},
  'list': lambda kernel, bias: [kernel, [bias]],
  'tuple': lambda kernel, bias: ((kernel,), bias),
  'named tuple': Pair,
  'with None': lambda kernel, bias: {'a': None, 'b': [kernel, None, bias]},
  'dataclass': Module,
  'frozen dict': lambda kernel, bias: freeze({'kernel': kernel, 'bias': bias}),
  'array': lambda kernel, bias: kernel,
  'masks': lambda kernel, bias: {'masks': {'masks': kernel}, 'bias': bias},
  'nnx state': lambda kernel, bias: nnx.state(
    nnx_module(kernel, bias), nnx.Param
  ),
  'nnx dict': lambda kernel, bias: nnx.to_pure_dict(
    nnx.state(nnx_module(kernel, bias), nnx.Param)
  ),
}


@pytest.mark.parametrize('form', FORMS)
def test_every_kind_of_tree_trains_alike(form):
  make, fc = FORMS[form], PARAMS['fc']
  params = make(fc['kernel'], fc['bias'])
  masks = lth.masks.full(params, where=lambda name, leaf: leaf.ndim == 2)
  masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
  assert lth.masks.count(masks) == 8
  tx = lth.static(optax.adam(0.01), masks)
  state = tx.init(params)
  for _ in range(2):
    params, state = eager_step(tx, params, state, jax.grad(quadratic)(params))
  other = jax.tree.map(jnp.logical_not, masks)
  state = lth.set_masks(state, other)
  params, state = eager_step(tx, params, state, jax.grad(quadratic)(params))
  chex.assert_trees_all_equal(lth.get_masks(state), other)
  assert jax.tree.structure(params) == jax.tree.structure(
    make(fc['kernel'], fc['bias'])
  )
  assert_dead_are_zero(other, params)
  expected = reference()
  for leaf in jax.tree.leaves(params):
    # Inside optax, the bias correction compiles all leaves into one program.
    np.testing.assert_allclose(leaf, expected[leaf.ndim], rtol=1e-5)


@functools.cache
def reference():
  """The kernel and bias that each form has to reach, by number of axes."""
  kernel, bias = PARAMS['fc']['kernel'], PARAMS['fc']['bias']
  alive = lth.keep_largest(jnp.abs(kernel), 8)
  params = kernel, bias
  inner = optax.adam(0.01)
  state = inner.init((kernel * alive, bias))
  for _ in range(2):
    grads = jax.grad(quadratic)(params)
    updates, state = inner.update((grads[0] * alive, grads[1]), state, params)
    kernel, bias = optax.apply_updates(params, updates)
    params = jnp.where(alive, kernel, 0), bias
  grads = jax.grad(quadratic)(params)
  slots = optax.tree.map_params(
    inner, lambda x: x * (x.ndim == 1), state
  )  # All alive ones are new.
  updates, _ = inner.update((grads[0] * ~alive, grads[1]), slots, params)
  kernel, bias = optax.apply_updates(params, updates)
  return {2: jnp.where(alive, 0, kernel), 1: bias}


class Net(nnx.Module):
  """Two layers; counts how often it is traced."""

  traces = 0

  def __init__(self, rngs):
    self.fc = nnx.Linear(4, 4, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.out = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, x):
    Net.traces += 1
    return self.out(nnx.relu(self.norm(self.fc(x))))


def nnx_loss(model, x):
  return jnp.mean((model(x) - 1) ** 2)


X = random_like(7)['fc']['kernel']


def test_nnx_optimizer_needs_no_change():
  @nnx.jit
  def step(model, optimizer, x):
    optimizer.update(model, nnx.grad(nnx_loss)(model, x))

  model = Net(nnx.Rngs(0))
  state = nnx.state(model, nnx.Param)
  masks = lth.prune(
    lth.scores.magnitude(state), lth.masks.full(state), sparsity=0.5
  )
  tx = lth.static(optax.chain(optax.clip(1.0), optax.adam(0.1)), masks)
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  traces = Net.traces
  first = nnx_loss(model, X)
  for _ in range(5):
    step(model, optimizer, X)
  assert_dead_are_zero(masks, nnx.state(model, nnx.Param))
  assert nnx_loss(model, X) < first
  found = lth.get_masks(optimizer.opt_state)
  assert same_bits(jax.tree.leaves(found), jax.tree.leaves(masks))

  swapped = jax.tree.map(jnp.logical_not, masks)
  optimizer.opt_state = lth.set_masks(optimizer.opt_state, swapped)
  step(model, optimizer, X)
  assert_dead_are_zero(swapped, nnx.state(model, nnx.Param))
  assert nnx.state(model, nnx.Param)['fc']['kernel'][...].any()
  assert Net.traces == traces + 3  # Two calls are this test's own.


def test_nnx_optimizer_with_dense_weights():
  model = Net(nnx.Rngs(0))
  tx = lth.straight_through(optax.adam(0.1), sparsity=0.5)
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

  def loss(params, graphdef, rest, x):
    return nnx_loss(nnx.merge(graphdef, params, rest, copy=True), x)

  @nnx.jit
  def step(model, optimizer, x):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    seen = lth.forward_params(optimizer.opt_state, params)
    value, grads = jax.value_and_grad(loss)(seen, graphdef, rest, x)
    optimizer.update(model, grads)
    return value

  losses = [step(model, optimizer, X) for _ in range(6)]
  assert losses[-1] < losses[0]
  params = nnx.state(model, nnx.Param)
  assert params['fc']['kernel'][...].all()
  seen = lth.forward_params(optimizer.opt_state, params)
  assert jnp.sum(seen['fc']['kernel'][...] != 0) == 8
  assert jnp.sum(seen['out']['kernel'][...] != 0) == 4
  assert same_bits(
    jax.tree.leaves(seen),
    jax.tree.leaves(lth.forward_params(tx.init(params), params)),
  )


@pytest.mark.parametrize('pure', [False, True])
def test_functional_nnx(pure):
  graphdef, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
  if pure:
    params = nnx.to_pure_dict(params)
  masks = lth.masks.full(params)
  masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
  assert lth.masks.alive_by_name(masks) == {'fc/kernel': 8, 'out/kernel': 4}
  tx = lth.static(optax.adam(0.1), masks)

  def loss(params, rest):
    model = nnx.merge(graphdef, params, rest, copy=True)
    return nnx_loss(model, X), nnx.state(model, nnx.BatchStat)

  @jax.jit
  def step(params, rest, state):
    grads, rest = jax.grad(loss, has_aux=True)(params, rest)
    return *eager_step(tx, params, state, grads), rest

  state = tx.init(params)
  first, _ = loss(params, rest)
  for _ in range(5):
    params, state, rest = step(params, rest, state)
  assert_dead_are_zero(masks, params)
  assert loss(params, rest)[0] < first
  # Masks may come from any tree with the same names.
  swapped = jax.tree.map(jnp.logical_not, masks)
  swapped = swapped if pure else nnx.to_pure_dict(swapped)
  state = lth.set_masks(state, swapped)
  params, state, rest = step(params, rest, state)
  assert_dead_are_zero(swapped, params)


def test_linen_train_state():
  class Mlp(linen.Module):
    @linen.compact
    def __call__(self, x):
      x = linen.LayerNorm()(linen.relu(linen.Dense(4)(x)))
      return linen.Dense(2)(x)

  model = Mlp()
  params = model.init(jax.random.key(0), X)['params']
  masks = lth.masks.full(params)
  masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
  state = TrainState.create(
    apply_fn=model.apply,
    params=lth.masks.apply(masks, params),
    tx=lth.static(optax.adamw(0.1), masks),
  )

  def loss(params):
    return jnp.mean((model.apply({'params': params}, X) - 1) ** 2)

  @jax.jit
  def step(state):
    return state.apply_gradients(grads=jax.grad(loss)(state.params))

  first = loss(state.params)
  for _ in range(5):
    state = step(state)
  assert_dead_are_zero(masks, state.params)
  assert loss(state.params) < first
  chex.assert_trees_all_equal(lth.get_masks(state.opt_state), masks)
