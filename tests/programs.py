"""What tests of programs share: shapes, small models, and counts by leaf."""

import collections

import jax
import jax.numpy as jnp
from flax import nnx

from lthjax import program


def mesh():
  return jax.make_mesh((1,), ('x',), (jax.sharding.AxisType.Auto,))


def constrained(w):
  sharding = jax.sharding.NamedSharding(mesh(), jax.P())
  return jax.lax.with_sharding_constraint(w, sharding)


def key():
  return jax.eval_shape(jax.random.key, 0)


def shaped(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def counts(apply, params, *args, **kwargs):
  """Multiply-adds by leaf; `None` for those without one."""
  tally = collections.Counter()
  for use in program.uses(apply, params, *args, **kwargs):
    tally[use.name] += use.multiply_adds
  return dict(tally)


def linen(module, *args):
  """Multiply-adds of a Linen module."""
  variables = jax.eval_shape(module.init, key(), *args)
  assert list(variables) == ['params']

  def apply(params, *args):
    return module.apply({'params': params}, *args)

  return counts(apply, variables['params'], *args)


def of_nnx(make, *args):
  """Multiply-adds of an NNX module."""
  module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graphdef, params, rest = nnx.split(module, nnx.Param, ...)

  def apply(params, rest, *args):
    return nnx.merge(graphdef, params, rest, copy=True)(*args)

  return counts(apply, params, rest, *args)
