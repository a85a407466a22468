"""Runs a function while something looks at, or changes, what it computes."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.extend.core as jex

from lthjax.program import _rules

Visit = Callable[[jex.JaxprEqn, Sequence[jax.Array], jax.Array], jax.Array]


def intercept(
  f: Callable[..., Any], primitives: Collection[str], visit: Visit
) -> Callable[..., Any]:
  """Passes what chosen primitives of a function compute through another one.

  Such a primitive is found wherever it is: also inside of `jax.jit`,
  `jax.checkpoint`, functions with derivatives of their own (whose derivatives
  are then those of what is inside) and `jax.lax.scan`, which is unrolled.

  Args:
    f: any function that JAX can trace.
    primitives: names of primitives with one output, such as ``'dot_general'``.
    visit: ``visit(equation, inputs, output) -> output``. It sees the primitives
      in the order of the program, may take arrays out (return them from inside
      of the same transformation), and gives what the program goes on with: an
      array of the same shape and dtype.

  Returns:
    A function that is called as ``f``.

  Raises:
    ValueError: from that function, if a primitive is where it cannot be
      visited, as in `jax.lax.while_loop` or `jax.lax.cond`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import program
    >>> def signs(f, x):
    ...   found = []
    ...
    ...   def visit(eqn, inputs, output):
    ...     found.append(jnp.sign(inputs[0]))
    ...     return output
    ...
    ...   program.intercept(f, ['max'], visit)(x)
    ...   return found
    >>> signs(lambda x: jax.nn.relu(3 - 2 * x), jnp.array([0.0, 1.0, 2.0]))
    [Array([ 1.,  1., -1.], dtype=float32)]
  """

  def run(*args):
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    outs = evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), outs)

  def evaluate(jaxpr, consts, args):
    env = dict(
      zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
    )

    def read(atom):
      return atom.val if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
      outs = step(eqn, [read(atom) for atom in eqn.invars])
      env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def step(eqn, values):
    name, inside = eqn.primitive.name, jex.jaxprs_in_params(eqn.params)
    if name in primitives:
      return [visit(eqn, values, *_bind(eqn, values))]
    runs = eqn.params.get('length', 1)  # Of a scan.
    if not runs or not any(_holds(jaxpr, primitives) for jaxpr in inside):
      return _bind(eqn, values)
    if _rules.RULES.get(name) is _rules.call:
      closed = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
      return evaluate(*_parts(closed), values)
    if name == 'scan':
      return unroll(eqn, values)
    raise ValueError(
      f'`{name}` holds {" or ".join(primitives)}, where what is computed cannot'
      ' be seen from outside. Write the model with `jax.lax.scan`, or with'
      ' Python loops and branches, instead.'
    )

  def unroll(eqn, values):
    params = eqn.params
    first = params['num_consts']
    last = first + params['num_carry']
    carry, stacks, outs = values[first:last], values[last:], {}
    steps = range(params['length'])
    for i in reversed(steps) if params['reverse'] else steps:
      args = [*values[:first], *carry, *(x[i] for x in stacks)]
      results = evaluate(*_parts(params['jaxpr']), args)
      carry, outs[i] = results[: len(carry)], results[len(carry) :]
    each = zip(*(outs[i] for i in steps), strict=True)
    return [*carry, *(jax.numpy.stack(xs) for xs in each)]

  return run


def _bind(eqn: jex.JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
  params = eqn.primitive.get_bind_params(eqn.params)
  outs = eqn.primitive.bind(*values, **params)
  return outs if eqn.primitive.multiple_results else [outs]


def _parts(jaxpr: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
  if isinstance(jaxpr, jex.ClosedJaxpr):
    return jaxpr.jaxpr, jaxpr.consts
  return jaxpr, ()


def _holds(jaxpr: jex.Jaxpr, primitives: Collection[str]) -> bool:
  """Tells whether a program has any of the primitives, at any depth."""
  return any(
    eqn.primitive.name in primitives
    or any(
      _holds(inner, primitives) for inner in jex.jaxprs_in_params(eqn.params)
    )
    for eqn in jaxpr.eqns
  )
