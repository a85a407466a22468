"""The matmuls and convolutions of a function, and the kernels in them."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.program._interpreter import trace
from lthjax.program._rules import RULES, unknown
from lthjax.program._walk import Part, Use, Walk, Weight


def uses(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
) -> list[Use]:
  """Lists the matmuls and convolutions of a function, with their kernels.

  As in the literature, zeros that pad the input of a convolution count, and
  zeros between its pixels (in transposed convolutions) do not. Nothing else
  counts: no elementwise work, no solvers, no kernels from outside of JAX.

  Args:
    apply: pure function ``apply(params, *args)``. Bind what is no array before:
      ``lambda params, x: model.apply(params, x, train=False)``.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    *args: trees of arrays or of `jax.ShapeDtypeStruct`.
    where: the leaves to follow, as in `lthjax.masks.full`.

  Returns:
    The uses in the order of the program. A leaf may have several, or none.

  Raises:
    ValueError: names every leaf that goes where it cannot be followed, such as
      into a sum with activations, and the primitives whose matmuls cannot be
      counted: `jax.lax.while_loop`, or `jax.lax.cond` where branches differ.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import program
    >>> params = {'w': jnp.ones((4, 3)), 'b': jnp.ones(3)}
    >>> def apply(params, x):
    ...   return jax.nn.relu(x @ params['w'].astype(x.dtype) + params['b'])
    >>> x = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)
    >>> found = program.uses(apply, params, x)
    >>> [(use.name, use.primitive, use.multiply_adds) for use in found]
    [('w', 'dot_general', 96)]
  """
  shapes = jax.eval_shape(lambda p: masks_lib.full(p, where), params)
  chosen = trees.by_name(shapes)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  parts = [Part(trees.path_name(path), jnp.shape(x)) for path, x in leaves]
  weights = [
    None if chosen[part.name] is None else Weight((part,)) for part in parts
  ]
  closed, _ = trace(apply, params, *args)
  walk = Walk(RULES, unknown, uses=[], faults=[])
  walk(closed, weights + [None] * (len(closed.in_avals) - len(weights)))
  if walk.faults:
    raise ValueError(
      'The multiply-adds of this function are not certain:'
      f' {"; ".join(dict.fromkeys(walk.faults))}. Leave out with `where=` what'
      ' is no kernel of a matmul or convolution, and do to kernels only what'
      ' casts, masks or rearranges them.'
    )
  return walk.uses
