"""What a program computes can be seen and changed, wherever it is."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import program
from lthjax.program import _interpreter


def keep(eqn, inputs):
  """Notes the first input."""
  return program.bind(eqn, inputs), inputs[0]


def noted(f, primitives, *args):
  """The first inputs of the primitives, and what the function returns."""
  out, notes = program.run(f, dict.fromkeys(primitives, keep), *args)
  return [np.asarray(note).tolist() for note in notes.values()], out


def test_values_inside_calls():
  @jax.checkpoint
  def inner(x):
    return jax.nn.relu(x) - 1

  def f(tree):
    return {'y': jax.jit(inner)(tree['x']), 'z': jnp.maximum(tree['x'], 0) * 2}

  x = jnp.array([-1.0, 3.0])
  found, out = noted(f, ['max'], {'x': x})
  assert found == [[-1.0, 3.0]] * 2
  assert jax.tree.map(lambda a: a.tolist(), out) == {
    'y': [-1.0, 2.0],
    'z': [0.0, 6.0],
  }


@pytest.mark.parametrize('reverse', [False, True])
def test_notes_of_scans_are_stacked(reverse):
  def f(start, xs):
    def step(carry, x):
      carry = jnp.sqrt(carry) * x
      return carry, (carry + 1, None)

    return jax.lax.scan(step, start, xs, reverse=reverse)

  start, xs = jnp.float32(4), jnp.array([1.0, 8.0, 0.5])
  (found,), out = noted(f, ['sqrt'], start, xs)
  assert found[2 if reverse else 0] == 4
  assert len(found) == 3
  jax.tree.map(np.testing.assert_array_equal, out, f(start, xs))
  (found,), out = noted(f, ['sqrt'], start, xs[:0])
  assert found == []
  assert out[0] == 4
  assert out[1][0].shape == (0,)


def test_what_is_computed_can_be_changed():
  def visit(eqn, inputs):
    assert eqn.primitive.name == 'dot_general'
    (output,) = program.bind(eqn, inputs)
    return [output + inputs[0].sum()], None

  def changed(x, y):
    return program.run(jnp.dot, {'dot_general': visit}, x, y)[0]

  x = jnp.array([1.0, 2.0])
  value, grads = jax.jit(jax.value_and_grad(changed))(x, 2 * x)
  assert value == 10 + 3
  assert grads.tolist() == [2 + 1, 4 + 1]


def custom(rule):
  """The identity, with a derivative of seven, around a square."""
  if rule is jax.custom_jvp:

    @jax.custom_jvp
    def f(x):
      return x**2

    f.defjvps(lambda tangent, *_: 7 * tangent)
  else:

    @jax.custom_vjp
    def f(x):
      return x**2

    f.defvjp(lambda x: (x**2, None), lambda _, g: (7 * g,))
  return f


@pytest.mark.parametrize('rule', [jax.custom_jvp, jax.custom_vjp])
def test_custom_derivatives_stay_where_nothing_is_visited(rule):
  def f(x):
    return custom(rule)(x) * jnp.exp(0 * x)

  def visited(primitive):
    return jax.grad(lambda x: program.run(f, {primitive: keep}, x)[0])(2.0)

  assert visited('exp') == 7
  assert visited('integer_pow') == 4  # The derivative of what is inside.


def test_checkpoints_stay_checkpoints():
  def f(x):
    return jax.checkpoint(lambda x: jnp.exp(jnp.sin(x)))(x)

  def loss(x):
    out, notes = program.run(f, {'sin': keep}, x)
    return out, notes

  opened = jax.make_jaxpr(loss)(1.0)
  names = [eqn.primitive.name for eqn in opened.jaxpr.eqns]
  assert names == [jax.make_jaxpr(f)(1.0).jaxpr.eqns[0].primitive.name]
  grad = jax.grad(lambda x: loss(x)[0])(1.0)
  assert float(grad) == pytest.approx(np.exp(np.sin(1)) * np.cos(1))


def test_branches_note_alike():
  def f(x):
    return jax.lax.cond(x > 0, jnp.sqrt, lambda x: jnp.sqrt(-x) + 1, x)

  for x in (4.0, -9.0):
    (found,), out = noted(f, ['sqrt'], x)
    assert found == abs(x)
    assert out == f(x)

  def g(x):
    return jax.lax.cond(x > 0, jnp.sqrt, jnp.square, x)

  with pytest.raises(ValueError, match=r'`cond` at \(2,\) must note alike'):
    noted(g, ['sqrt'], 2.0)
  assert noted(g, ['exp'], 2.0) == ([], g(2.0))


# Statistics, as of activations before each matmul.


def model(params, x, scanned=True):
  """Three blocks that share a kernel, with loops inside."""

  @jax.checkpoint
  def block(x, layer):
    def inner(x, half):
      return jnp.tanh(x @ half @ params['shared']), None

    x, _ = (jax.lax.scan if scanned else unrolled)(inner, x, layer['halves'])
    return x + jax.nn.relu(x @ layer['out'].T), None

  x, _ = (jax.lax.scan if scanned else unrolled)(block, x, params['layers'])
  return x @ params['head']


def unrolled(f, carry, xs):
  for i in range(len(jax.tree.leaves(xs)[0])):
    carry, _ = f(carry, jax.tree.map(lambda x, i=i: x[i], xs))
  return carry, None


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def model_params(depth=3):
  return {
    'layers': {
      'halves': draw(depth, 2, 4, 4),
      'out': draw(depth, 4, 4, seed=1),
    },
    'shared': draw(4, 4, seed=2),
    'head': draw(4, 2, seed=3),
  }


def squares(f, params, x):
  """Sums of squares of the inputs of each kernel, and the uses."""

  def visit(use):
    def note(eqn, inputs):
      x = inputs[1 - use.operand]
      return program.bind(eqn, inputs), jnp.sum(x**2, range(x.ndim - 1))

    return note

  uses = program.uses(f, params, x)
  visits = {use.path: visit(use) for use in uses}
  out, notes = program.run(f, visits, params, x)
  return out, [(use, notes[use.path]) for use in uses]


@pytest.mark.optimized
def test_scanned_and_unrolled_programs_note_the_same():
  params, x = model_params(), draw(5, 4, seed=4)
  expected, flat = squares(lambda p, x: model(p, x, False), params, x)
  out, nested = squares(model, params, x)
  np.testing.assert_allclose(out, expected, rtol=1e-6)
  np.testing.assert_array_equal(out, model(params, x))
  assert [(use.name, note.shape) for use, note in nested] == [
    ('layers/halves', (3, 2, 4)),
    ('shared', (3, 2, 4)),
    ('layers/out', (3, 4)),
    ('head', (4,)),
  ]
  for use, note in nested:
    assert tuple(loop.length for loop in use.loops) == note.shape[:-1]
    same = [each for other, each in flat if other.name == use.name]
    np.testing.assert_allclose(
      note.reshape(-1, 4), np.stack(same), rtol=1e-5, err_msg=use.name
    )


def test_programs_do_not_grow_with_the_number_of_turns():
  def size(depth):
    params = model_params(depth)
    jaxpr = jax.make_jaxpr(lambda p, x: squares(model, p, x)[1][0][1])
    program = jaxpr(params, draw(5, 4))
    return sum(1 for _ in _interpreter.equations(program))

  assert size(3) == size(300)


def test_kernels_can_change_while_the_program_runs():
  """Each kernel loses its smallest weights before it is multiplied with."""
  params, x = model_params(), draw(5, 4, seed=4)
  uses = [use for use in program.uses(model, params, x) if use.scans]
  limits = {
    use.path: use.view(np.abs(params['layers'][use.name[7:]])).mean((-1, -2))
    for use in uses
  }

  def prune(eqn, inputs, limit):
    x, kernel = inputs
    keep = jnp.abs(kernel) > limit
    return program.bind(eqn, [x, jnp.where(keep, kernel, 0)]), keep

  visits = {use.path: prune for use in uses}
  out, notes = jax.jit(
    lambda p, x: program.run(model, visits, p, x, feeds=limits)
  )(params, x)
  masks = {use.name[7:]: use.pull_back(notes[use.path]) for use in uses}
  for name, mask in masks.items():
    kernel = np.abs(params['layers'][name])
    means = kernel.mean((-1, -2), keepdims=True)
    np.testing.assert_array_equal(mask, kernel > means)
  pruned = params | {
    'layers': jax.tree.map(jnp.multiply, params['layers'], masks)
  }
  np.testing.assert_allclose(out, model(pruned, x), rtol=1e-6)


def test_feeds_reach_branches_and_take_gradients():
  def f(x):
    def step(x, up):
      return jax.lax.cond(up, lambda x: jnp.exp(x), lambda x: jnp.exp(-x), x), x

    return jax.lax.scan(step, x, np.array([True, False, True]))[0]

  def shifted(shifts):
    def visit(eqn, inputs, shift):
      return [program.bind(eqn, inputs)[0] + shift], None

    return program.run(f, {'exp': visit}, 0.5, feeds={path: shifts})[0]

  (path,) = program.run(f, {'exp': keep}, 0.5)[1]
  by_hand = np.exp(np.exp(-(np.exp(0.5) + 0.1)) - 0.2) + 0.3
  shifts = jnp.array([0.1, -0.2, 0.3])
  assert float(shifted(shifts)) == pytest.approx(by_hand, rel=1e-6)
  assert jax.grad(shifted)(shifts)[2] == 1


SHARDED = textwrap.dedent("""
  import jax, jax.numpy as jnp, numpy as np
  from lthjax import axes, program

  auto = (jax.sharding.AxisType.Auto,) * 2
  shape = (DATA, MODEL)
  mesh = jax.make_mesh(shape, ('data', 'model'), auto)

  def apply(params, x):
    def local(x, up, down):
      h = jax.nn.relu(x @ up)
      return jax.lax.psum(h @ down, 'model')

    def gathered(x, w):
      w = jax.lax.all_gather(w, 'data', axis=1, tiled=True)
      return x @ w

    P = jax.P
    x = jax.shard_map(
      local, mesh=mesh, out_specs=P('data'),
      in_specs=(P('data'), P(None, 'model'), P('model')),
    )(x, params['up'], params['down'])
    return jax.shard_map(
      gathered, mesh=mesh, out_specs=P('data'),
      in_specs=(P('data'), P(None, 'data')),
    )(x, params['last'])

  draw = np.random.default_rng(0).normal
  params = {'up': draw(size=(6, 8)), 'down': draw(size=(8, 6)),
            'last': draw(size=(6, 4))}
  params = jax.tree.map(np.float32, params)
  x = np.float32(draw(size=(8, 6)))
  uses = program.uses(apply, params, x)
  assert [use.name for use in uses] == ['up', 'down', 'last']
  # As many as without devices: what they repeat does not count.
  assert [use.multiply_adds for use in uses] == [8 * 48, 8 * 48, 8 * 24]
  dense = {'inputs': (0,), 'outputs': (1,)}
  found = axes.from_program(apply, params, x)
  assert found == dict.fromkeys(params, axes.Axes(**dense)), found
  for use in uses:
    w = params[use.name]
    mask = np.abs(w) > 0.5
    assert use.times * use.view(mask).sum() == 8 * mask.sum()
    ones = use.pull_back(jnp.ones(use.view(w).shape))
    np.testing.assert_array_equal(ones, 1)
    np.testing.assert_array_equal(use.pull_back(use.view(w)), w)

  def squares(eqn, inputs):
    return program.bind(eqn, inputs), jnp.sum(inputs[0] ** 2, 0)

  visits = {use.path: squares for use in uses}
  out, notes = jax.jit(lambda p, x: program.run(apply, visits, p, x))(params, x)
  h = np.maximum(x @ params['up'], 0)
  y = h @ params['down']
  np.testing.assert_allclose(out, y @ params['last'], rtol=1e-4)
  up, down, last = (notes[use.path] for use in uses)
  assert up.shape == (*shape, 6)
  np.testing.assert_allclose(up.sum(0)[0], (x**2).sum(0), rtol=1e-4)
  np.testing.assert_allclose(down.sum(0).ravel(), (h**2).sum(0), rtol=1e-4)
  np.testing.assert_allclose(last.sum(0)[0], (y**2).sum(0), rtol=1e-4)
""")


def test_functions_of_the_blocks_on_one_device():
  exec(SHARDED.replace('DATA, MODEL', '1, 1'), {})


@pytest.mark.slow
def test_functions_of_the_blocks_on_eight_devices(run_python):
  run_python(SHARDED.replace('DATA, MODEL', '2, 4'), devices=8)


# Bad input.


def in_a_loop(x):
  return jax.lax.while_loop(lambda x: x < 9, lambda x: jnp.exp(x) * 2, x)


X = np.ones(2, np.float32)
BAD = {
  'a loop of unknown length': (
    lambda: program.run(in_a_loop, {'exp': keep}, 1.0),
    '`while` contains exp, which cannot be visited there: only calls,'
    ' `jax.lax.scan` and `jax.lax.cond` can be followed.',
  ),
  'paths of another program': (
    lambda: program.run(jnp.exp, {(7, 0): keep}, X),
    'The program has no equations at (7, 0). Visits are by name of a primitive',
  ),
  'feeds for nothing': (
    lambda: program.run(jnp.exp, {'sin': keep}, X, feeds={(0,): X}),
    'There are feeds for (0,), where nothing is visited.',
  ),
  'a visit without a note': (
    lambda: program.run(jnp.exp, {'exp': program.bind}, X),
    'The visit of `exp` at (0,) returned outputs',
  ),
  'a visit that changes shapes': (
    lambda: program.run(jnp.exp, {'exp': lambda e, x: ([x[0][:1]], None)}, X),
    "returned outputs [((1,), dtype('float32'))], but must return `(outputs,",
  ),
  'a visit that changes the number of outputs': (
    lambda: program.run(jnp.exp, {'exp': lambda e, x: ([*x, *x], None)}, X),
    'but must return `(outputs, note)`, where the outputs are',
  ),
  'names among the arguments': (
    lambda: program.uses(lambda p, x, how: x, {'w': X}, X, {'how': 'SAME'}),
    'but argument 2 has str at how. Bind everything else beforehand',
  ),
  'the model as its function': (
    lambda: program.kernels({'w': X}, X),
    "The function was {'w': array",
  ),
  'no kernels': (
    lambda: program.kernels(lambda p, x: x + p, X, X),
    'The program multiplies activations with none of the params, so there are',
  ),
  'leaves that are no leaves': (
    lambda: program.uses(lambda p, x: x @ p['w'], {'w': X}, X, where='v'),
    "`where` has patterns that match no leaf: 'v'",
  ),
  'a choice of nothing': (
    lambda: program.uses(lambda p, x: x, {}, X, where=lambda name, x: True),
    'No leaf of the params was selected. They are empty',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
  call, message = BAD[case]
  with pytest.raises((TypeError, ValueError), match=re.escape(message)):
    call()
