"""Random numbers that need not be stored are those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import _chance

SHAPES = [(), (1,), (7,), (0, 3), (5, 9), (3, 4, 5), (2, 3, 2, 300)]


def same(found, expected):
  assert found.dtype == expected.dtype == jnp.float32
  assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg', 'raw'])
@pytest.mark.parametrize('jit', [False, True])
def test_bits_are_those_of_jax(shape, impl, jit):
  key = (
    jax.random.PRNGKey(2**31 + 5)
    if impl == 'raw'
    else jax.random.key(2**31 + 5, impl=impl)
  )
  key = jax.random.fold_in(key, 7)
  draw = jax.jit(_chance.uniform) if jit else _chance.uniform
  same(
    draw(key, jnp.zeros(shape, jnp.bfloat16)), jax.random.uniform(key, shape)
  )


def test_a_batch_of_keys_draws_as_each_of_them():
  keys = jax.random.split(jax.random.key(1), 6).reshape(2, 3)
  draw = jax.vmap(jax.vmap(_chance.uniform))
  found = jax.jit(draw)(keys, jnp.zeros((2, 3, 4, 5)))
  for i in np.ndindex(2, 3):
    same(found[i], jax.random.uniform(keys[i], (4, 5)))


@pytest.mark.optimized
def test_numbers_that_are_compared_are_not_stored():
  like = jax.ShapeDtypeStruct((512, 512), jnp.float32)

  @jax.jit
  def above(key, like):
    return _chance.uniform(key, like) > 0.5

  memory = above.lower(jax.random.key(0), like).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 512 * 512
