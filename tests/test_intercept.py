"""What a program computes can be seen and changed, wherever it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import program


def seen(f, primitives, *args):
  """Inputs of the primitives, and what the function returns."""
  found = []

  def visit(eqn, inputs, output):
    del eqn
    found.append(np.asarray(inputs[0]).tolist())
    return output

  return found, program.intercept(f, primitives, visit)(*args)


def test_values_inside_of_calls():
  @jax.checkpoint
  def inner(x):
    return jax.nn.relu(x) - 1

  def f(tree):
    return {'y': jax.jit(inner)(tree['x']), 'z': jnp.maximum(tree['x'], 0) * 2}

  x = jnp.array([-1.0, 3.0])
  found, out = seen(f, ['max'], {'x': x})
  assert found == [[-1.0, 3.0]] * 2
  assert jax.tree.map(lambda a: a.tolist(), out) == {
    'y': [-1.0, 2.0],
    'z': [0.0, 6.0],
  }


@pytest.mark.parametrize('reverse', [False, True])
def test_scans_are_unrolled(reverse):
  def f(start, xs):
    def step(carry, x):
      carry = jnp.sqrt(carry) * x
      return carry, (carry + 1, None)

    return jax.lax.scan(step, start, xs, reverse=reverse)

  start, xs = jnp.float32(4), jnp.array([1.0, 8.0, 0.5])
  found, out = seen(f, ['sqrt'], start, xs)
  assert found[0] == 4
  assert len(found) == 3
  jax.tree.map(np.testing.assert_array_equal, out, f(start, xs))
  found, out = seen(f, ['sqrt'], start, xs[:0])
  assert found == []
  assert out[0] == 4
  assert out[1][0].shape == (0,)


def test_what_is_computed_can_be_changed():
  def visit(eqn, inputs, output):
    assert eqn.primitive.name == 'dot_general'
    return output + inputs[0].sum()

  changed = program.intercept(jnp.dot, ['dot_general'], visit)
  x = jnp.array([1.0, 2.0])
  value, grads = jax.jit(jax.value_and_grad(changed))(x, 2 * x)
  assert value == 10 + 3
  assert grads.tolist() == [2 + 1, 4 + 1]


def test_derivatives_of_other_functions_stay_their_own():
  @jax.custom_jvp
  def identity(x):
    return x

  identity.defjvps(lambda tangent, *_: 7 * tangent)
  same = program.intercept(
    lambda x: identity(x) * jnp.exp(0 * x), ['exp'], lambda *args: args[-1]
  )
  assert jax.grad(same)(2.0) == 7


def test_branches_hide_what_they_compute():
  def f(x):
    return jax.lax.cond(x > 0, jnp.sqrt, jnp.square, x)

  with pytest.raises(ValueError, match='`cond` holds sqrt, where what is comp'):
    seen(f, ['sqrt'], 2.0)
  assert seen(f, ['exp'], 2.0) == ([], f(2.0))
