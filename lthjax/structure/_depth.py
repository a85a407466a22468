"""What whole layers are worth."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.calibration import _tokens
from lthjax.calibration._calibrate import hashable
from lthjax.program._interpreter import (
  Path,
  bind,
  equations,
  interpret,
  loop_parts,
  scan,
  trace,
)
from lthjax.program._typed_axes import watch
from lthjax.program._uses import uses_of
from lthjax.program._values import run
from lthjax.structure import _from_program, _readers
from lthjax.structure._groups import Groups, check_fit


def depth(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  groups: Groups | None = None,
  token_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Scores the layers of a loop by how much they turn the residual stream.

  One minus the cosine between what a layer takes and what it returns, averaged
  over tokens: layers that hardly change their input go first.

  Args:
    apply: pure function ``apply(params, *args)``, whose layers are stacked and
      run by `jax.lax.scan`.
    params: tree of arrays.
    *args: trees of arrays: one batch.
    groups: which axes move together; by default those that
      `lthjax.structure.groups` finds.
    token_mask: bool array of the shape of the first axes of the first argument,
      true where a token counts.

  Returns:
    ``{group: scores [layers]}`` in float32, for each loop over layers.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[[0.0, 1.0], [0.0, 0.0]]] * 2)}
    >>> def apply(params, x):
    ...   return jax.lax.scan(lambda x, w: (x + x @ w, None), x, params['w'])[0]
    >>> lth.structure.depth(apply, params, jnp.array([[1.0, 0.0]]))
    {'w[0]': Array([0.29289323, 0.05131674], dtype=float32)}

  References:
    Men et al., ShortGPT: Layers in Large Language Models are More Redundant
    Than You Expect, arXiv:2403.03853, equation 1.
  """
  _checks.function('apply', apply, 'apply(params, *args)')
  _checks.arrays(params)
  _tokens.check(token_mask, args)
  if groups is None:
    groups = _from_program.groups(apply, params, *args)
  check_fit(groups, params)
  closed, _ = trace(apply, params, *args)
  loops = _loops(closed, params, groups)
  if not loops:
    raise ValueError(
      'No `jax.lax.scan` of the program walks over layers in the params, so'
      ' there is no depth to score. Stack the params of the layers, and run'
      ' them with `jax.lax.scan`; without that, remove layers by hand.'
    )
  eqns = dict(equations(closed))
  streams = {path: _stream(eqns[path]) for path in loops}
  refuse(
    [
      f'{loops[path]} ({number} of them)'
      for path, (_, number) in streams.items()
      if number != 1
    ],
    'It is not certain which carry is the residual stream in the loops of {}:'
    ' there should be one floating-point array with at least two axes.',
  )
  chosen = tuple((path, axis) for path, (axis, _) in streams.items())
  notes = _turns(hashable(apply), chosen, params, args, token_mask)
  return {loops[path]: notes[path] for path in loops}


def _loops(closed, params: Any, groups: Groups) -> dict[Path, str]:
  """Returns the outermost scans over stacked kernels, and their groups."""
  uses = uses_of(closed, params, _readers.multiplied(closed, params))
  found: dict[Path, str] = {}
  for use in uses:
    for loop in use.scans[:1]:
      if loop.axis is not None or loop.path in found:
        continue
      for name, group in groups.items():
        axes = [m.axis for m in group.members if m.leaf == use.name]
        if 'loop' in group.pins and any(
          _readers.loop_of(use, axis) == use.loops.index(loop) for axis in axes
        ):
          found[loop.path] = name
  return found


def _stream(eqn: Any) -> tuple[int, int]:
  """Returns which carry is the residual stream, and how many may be."""
  _, carry, _ = loop_parts(eqn, [x.aval for x in eqn.invars])
  places = [
    i
    for i, x in enumerate(carry)
    if jnp.issubdtype(x.dtype, jnp.floating) and len(x.shape) > 1
  ]
  return (places or [0])[0], len(places)


@functools.partial(jax.jit, static_argnames=('apply', 'chosen'))
def _turns(apply, chosen, params, args, token_mask) -> dict[Path, jax.Array]:
  """Runs the program, and notes how far each turn of some loops turns."""
  closed, _ = trace(apply, params, *args)
  tokens = _alive(closed, args, dict(chosen), token_mask)

  def visit(path, place):
    def note(eqn, inputs):
      def body(values, fed):
        del fed
        program = eqn.params['jaxpr']
        outs = interpret(program, values, lambda e, x, _: bind(e, x))
        before = values[eqn.params['num_consts'] + place]
        return outs, _turn(before, outs[place], tokens[path])

      return scan(eqn, inputs, body)

    return note

  visits = {path: visit(path, place) for path, place in chosen}
  return run(apply, visits, params, *args)[1]


def _turn(before: jax.Array, after: jax.Array, alive: Any) -> jax.Array:
  """One minus the mean cosine of two streams."""
  a, b = (x.astype(jnp.float32) for x in (before, after))
  size = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
  cosine = jnp.sum(a * b, -1) / jnp.where(size > 0, size, 1.0)
  turn = (1.0 - cosine).ravel()
  if alive is None:
    return turn.mean()
  return jnp.sum(jnp.where(alive, turn, 0.0)) / jnp.maximum(alive.sum(), 1)


def _alive(closed, args, places: dict[Path, int], token_mask: Any):
  """Returns which positions of each stream hold tokens that count."""
  if token_mask is None:
    return dict.fromkeys(places)
  given, watched = watch(closed, len(jax.tree.leaves(args)), places)
  wanted = given[0].axes[: token_mask.ndim]
  eqns = dict(equations(closed))
  found = {}
  for path, place in places.items():
    value = watched[path][eqns[path].params['num_consts'] + place]
    found[path] = _tokens.spread(token_mask, wanted, value.axes[:-1])
    if found[path] is None:
      raise ValueError(
        'It is not certain which entries of the residual stream belong to which'
        ' tokens, so `token_mask` cannot be applied. Score without padding.'
      )
  return found
