"""The matmuls and convolutions of a function, and their kernels."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import trees
from lthjax._errors import refuse
from lthjax.program._interpreter import trace
from lthjax.program._kernels import Where, classify, select
from lthjax.program._nested import unknown
from lthjax.program._rules import RULES
from lthjax.program._use import Use
from lthjax.program._walk import Part, Walk, Weight


def uses(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  where: Where | None = None,
) -> list[Use]:
  """Lists the matmuls and convolutions of a function, with their kernels.

  As in the literature, zeros that pad the input of a convolution count, and
  zeros between its pixels (in transposed convolutions) do not. Elementwise
  operations and solvers do not count.

  Args:
    apply: pure function ``apply(params, *args)``. Bind other arguments than
      arrays: ``lambda params, x: model.apply(params, x, train=False)``.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    *args: trees of arrays or of `jax.ShapeDtypeStruct`.
    where: the leaves to follow: ``where(name, leaf)``, a glob or a list of
      globs. By default, those of `kernels`.

  Returns:
    The uses in the order of the program. A leaf may have several, or none.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import program
    >>> params = {'w': jnp.ones((4, 3)), 'b': jnp.ones(3)}
    >>> def apply(params, x):
    ...   return jax.nn.relu(x @ params['w'].astype(x.dtype) + params['b'])
    >>> x = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)
    >>> (use,) = program.uses(apply, params, x)
    >>> use.name, use.primitive, use.multiply_adds
    ('w', 'dot_general', 96)
    >>> use.operand, use.contracted, use.free
    (1, (0,), (1,))
  """
  closed, _ = trace(apply, params, *args)
  return uses_of(closed, params, choose(closed, params, where))


def uses_of(closed: Any, params: chex.ArrayTree, chosen: set[str]) -> list[Use]:
  """Lists the uses in a program that has the params as its first arguments."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  parts = [Part(trees.path_name(path), jnp.shape(x)) for path, x in leaves]
  weights = [Weight((part,)) if part.name in chosen else None for part in parts]
  walk = Walk(RULES, unknown, uses=[], faults=[])
  walk(closed, weights + [None] * (len(closed.in_avals) - len(weights)))
  refuse(
    dict.fromkeys(walk.faults),
    'The matmuls of this function and their kernels are not certain: {}.'
    ' Kernels may only be cast, masked or rearranged before their matmuls;'
    ' exclude other leaves with `where=`.',
  )
  return walk.uses


def choose(
  closed: Any, params: chex.ArrayTree, where: Where | None
) -> set[str]:
  """Returns the names of the leaves to follow."""
  chosen = select(params, where)
  if where is not None:
    return chosen
  found = classify(closed, params, chosen)
  return found.multiplied - found.looked_up | found.lost
