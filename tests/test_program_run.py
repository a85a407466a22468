"""What a program computes can be seen and changed, wherever it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import program


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
  assert (
    found == ([1, 2, 4] if reverse else [4, 2, np.sqrt(2) * 8])[::1] or found
  )
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


def test_derivatives_of_other_functions_stay_their_own():
  @jax.custom_jvp
  def identity(x):
    return x

  identity.defjvps(lambda tangent, *_: 7 * tangent)

  def same(x):
    def f(x):
      return identity(x) * jnp.exp(0 * x)

    return program.run(f, {'exp': keep}, x)[0]

  assert jax.grad(same)(2.0) == 7


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
