"""Runs of a function that show, or change, what it computes inside."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.program._interpreter import (
  CALLS,
  Path,
  bind,
  branch,
  equations,
  inside,
  interpret,
  scan,
  trace,
)

Visit = Callable[..., tuple[list[jax.Array], Any]]


def run(
  f: Callable[..., Any],
  visits: Mapping[Any, Visit],
  *args: Any,
  feeds: Mapping[Path, chex.ArrayTree] | None = None,
) -> tuple[Any, dict[Path, Any]]:
  """Calls a function, and visits chosen equations of its program on the way.

  Equations are also visited inside `jax.jit`, `jax.checkpoint`, functions with
  custom derivatives (which then have the derivatives of their body),
  `jax.lax.scan`, `jax.lax.cond` and `jax.shard_map`. Everything else runs as it
  was written. A scan stays a scan, so neither the program nor its compile time
  grows with the number of iterations.

  Args:
    f: any function that JAX can trace.
    visits: ``{path: visit}`` for single equations, as `lthjax.program.uses`
      gives their paths, or ``{primitive: visit}`` for all equations of a
      primitive, such as ``'dot_general'``. A visit is ``visit(eqn, inputs) ->
      (outputs, note)``, where `bind` computes the outputs, from these or other
      inputs, and the note is any tree of arrays, or `None`.
    *args: arguments of ``f``.
    feeds: ``{path: tree}`` for visits that take a third argument: arrays with a
      leading axis for each loop around the equation, which slices them.

  Returns:
    The result of ``f``, and ``{path: note}`` in the order of the program. A
    note has a leading axis for each loop around its equation: for each scan,
    and for each mesh axis of a `jax.shard_map`. The branches of a
    `jax.lax.cond` must have notes of the same shapes; those of the branch that
    is taken are under the paths of the first one.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import program
    >>> def visit(eqn, inputs):
    ...   return program.bind(eqn, inputs), jnp.sign(inputs[0])
    >>> f = lambda x: jax.nn.relu(3 - 2 * x)
    >>> y, notes = program.run(f, {'max': visit}, jnp.array([0.0, 1.0, 2.0]))
    >>> y
    Array([3., 1., 0.], dtype=float32)
    >>> list(notes.values())
    [Array([ 1.,  1., -1.], dtype=float32)]
  """
  _checks.mapping('visits', visits, 'primitives or paths to visits')
  closed, tree = trace(f, *args)
  found = _resolve(closed, visits)
  refuse(
    [str(path) for path in feeds or () if path not in found],
    'There are feeds for {}, where nothing is visited. Feed paths that are'
    ' visited, by path or by name.',
  )
  # Only equations on the way to a visit are opened; all others just run.
  leads = frozenset(path[:n] for path in found for n in range(len(path)))
  inputs = jax.tree.leaves(args)
  outs, notes = _Run(found, leads)(closed, inputs, (), dict(feeds or {}))
  return jax.tree.unflatten(tree, outs), notes


def _resolve(
  closed: jex.ClosedJaxpr, visits: Mapping[Any, Visit]
) -> dict[Path, Visit]:
  """Turns names of primitives into paths."""
  known = dict(equations(closed))
  refuse(
    [str(x) for x in visits if not isinstance(x, str) and x not in known],
    'The program has no equations at {}. Visits are by name of a primitive, or'
    ' by path: take the paths from `lthjax.program.uses` of the same function'
    ' and shapes.',
  )
  pairs = {
    path: visits.get(path, visits.get(eqn.primitive.name))
    for path, eqn in known.items()
  }
  return {path: visit for path, visit in pairs.items() if visit is not None}


def _checked(eqn: jex.JaxprEqn, path: Path, result: Any) -> tuple[Any, Any]:
  """Checks what a visit returns."""
  avals: list[Any] = [x.aval for x in eqn.outvars]
  wanted = [(x.shape, x.dtype) for x in avals]
  given = None
  if isinstance(result, tuple) and len(result) == 2:
    outs = result[0] if isinstance(result[0], list | tuple) else ()
    given = [(jnp.shape(x), jnp.result_type(x)) for x in outs]
  if given != wanted:
    raise ValueError(
      f'The visit of `{eqn.primitive.name}` at {path} returned outputs'
      f' {given}, but must return `(outputs, note)`, where the outputs are'
      f' {wanted}, as from `lthjax.program.bind(eqn, inputs)`.'
    )
  return result


class _Run(NamedTuple):
  """What to visit, and the paths of all equations that lead there."""

  visits: Mapping[Path, Visit]
  leads: frozenset[Path]

  def __call__(self, program, inputs, path, feeds):
    """Returns the outputs of a program, and the notes taken inside it."""
    notes = {}

    def step(eqn, inputs, here):
      if here in self.visits:
        fed = [feeds[here]] if here in feeds else []
        result = self.visits[here](eqn, inputs, *fed)
        outs, notes[here] = _checked(eqn, here, result)
        return outs
      if here not in self.leads:
        return bind(eqn, inputs)
      mine = {p: fed for p, fed in feeds.items() if p[: len(here)] == here}
      rule = _RULES.get(eqn.primitive.name, _refuse)
      outs, found = rule(self, eqn, inputs, here, mine)
      notes.update(found)
      return outs

    return interpret(program, inputs, step, path=path), notes


def _call(run, eqn, inputs, path, feeds):
  ((path, program),) = inside(eqn, path)
  return run(program, inputs, path, feeds)


def _checkpoint(run, eqn, inputs, path, feeds):
  @functools.partial(
    jax.checkpoint,
    prevent_cse=eqn.params['prevent_cse'],
    policy=eqn.params['policy'],
  )
  def body(inputs, feeds):
    return run(eqn.params['jaxpr'], inputs, path, feeds)

  return body(inputs, feeds)


def _scan(run, eqn, inputs, path, feeds):
  def body(inputs, feeds):
    return run(eqn.params['jaxpr'], inputs, path, feeds)

  return scan(eqn, inputs, body, feeds)


def _shard(run, eqn, inputs, path, feeds):
  """Notes and feeds have an axis for each mesh axis, of length 1 locally."""
  params = eqn.params
  mesh, manual = params['mesh'], params['newly_manual_axes']
  spread = [name for name in mesh.axis_names if name in manual]
  one = (1,) * len(spread)

  def body(inputs, feeds):
    feeds = jax.tree.map(lambda x: x.reshape(x.shape[len(one) :]), feeds)
    outs, notes = run(params['jaxpr'], inputs, path, feeds)
    return outs, jax.tree.map(lambda x: x.reshape(one + x.shape), notes)

  return jax.shard_map(
    body,
    mesh=mesh,
    in_specs=([*params['in_specs']], jax.P(*spread)),
    out_specs=([*params['out_specs']], jax.P(*spread)),
    axis_names=manual,
    check_vma=params['check_vma'],
  )(inputs, feeds)


def _cond(run, eqn, inputs, path, feeds):
  places = [
    [p for p in run.visits if p[: len(here)] == here]
    for here, _ in inside(eqn, path)
  ]
  kinds = []

  def body(number, program, inputs):
    mine = zip(places[number], places[0], strict=False)
    fed = {p: feeds[first] for p, first in mine if first in feeds}
    outs, notes = run(program, inputs, (*path, number), fed)
    kinds.append([jax.tree.map(jax.typeof, notes[p]) for p in places[number]])
    if kinds[-1] != kinds[0]:
      raise ValueError(
        f'The branches of the `cond` at {path} must note alike, but branch 0'
        f' notes {kinds[0]} and branch {number} {kinds[-1]}. Visit equations'
        ' that correspond in all of them and return notes of the same shapes,'
        ' or compute all branches and choose with `jnp.where`.'
      )
    return outs, [notes[p] for p in places[number]]

  outs, notes = branch(eqn, inputs, body)
  return outs, dict(zip(places[0], notes, strict=True))


def _refuse(run, eqn, inputs, path, feeds):
  del inputs, feeds
  names = {
    inner.primitive.name
    for here, program in inside(eqn, path)
    for place, inner in equations(program, here)
    if place in run.visits
  }
  raise ValueError(
    f'`{eqn.primitive.name}` contains {", ".join(sorted(names))}, which cannot'
    ' be visited there: only calls, `jax.lax.scan` and `jax.lax.cond` can be'
    ' followed. Write the loop with `jax.lax.scan`, or with a fixed number of'
    ' iterations, or do not visit these equations.'
  )


_RULES = {
  **dict.fromkeys(CALLS, _call),
  **dict.fromkeys(('checkpoint', 'remat2'), _checkpoint),
  'cond': _cond,
  'scan': _scan,
  'shard_map': _shard,
}
