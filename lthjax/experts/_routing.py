"""Where tokens are sent, and what they get there."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import _checks, structure, trees
from lthjax._errors import refuse
from lthjax.calibration import _tokens
from lthjax.calibration._calibrate import hashable
from lthjax.program._axis_types import atoms
from lthjax.program._interpreter import Path, bind, equations, trace
from lthjax.program._typed_axes import watch
from lthjax.program._values import run

Table = dict[str, jax.Array]


class Routing(NamedTuple):
  """Sums over tokens, for the experts of each layer.

  Those of several batches add up with ``+``, in any order. Names are those of
  the groups of experts, as `lthjax.structure.groups` gives them.

  Attributes:
    counts: ``{group: int32[loops.., experts]}``: tokens sent to each.
    contributions: ``{group: float32[loops.., experts]}``: sums of the gate
      times the norm of the output, where the gates of a token add up to one.
    tokens: ``{group: int32[loops..]}``: all tokens.
    widths: ``{group: int32[loops..]}``: the width of what an expert reads.
  """

  counts: Table
  contributions: Table
  tokens: Table
  widths: Table

  def __add__(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, other: 'Routing'
  ) -> 'Routing':
    """Adds the sums of another batch."""
    if not isinstance(other, Routing):
      return NotImplemented
    shapes = [jax.tree.map(jnp.shape, each) for each in (self, other)]
    if shapes[0] != shapes[1]:
      raise ValueError(
        f'Routings differ: {shapes[0].counts} and {shapes[1].counts}. Add those'
        ' of one program.'
      )
    found = jax.tree.map(jnp.add, self, other)
    return found._replace(widths=self.widths)


def routing(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  gate: str = 'gate',
  output: str = 'expert_output',
  token_mask: jax.Array | None = None,
) -> Routing:
  """Counts the tokens that are sent to each expert, and what they get.

  Compiled once for each function and shape; scans stay scans.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays.
    *args: trees of arrays: one batch.
    gate: the name of the gates, from `jax.ad_checkpoint.checkpoint_name`.
    output: the name of the outputs of the experts.
    token_mask: bool array of the shape of the tokens, true where one counts.

  Returns:
    The sums.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> def apply(params, x):
    ...   best, place = jax.lax.top_k(jax.nn.softmax(x @ params['router']), 1)
    ...   sent = place == jnp.arange(params['router'].shape[1])
    ...   gate = checkpoint_name(jnp.where(sent, best, 0.0), 'gate')
    ...   y = jnp.einsum('td,edf->tef', x, params['experts'])
    ...   y = checkpoint_name(y, 'expert_output')
    ...   return jnp.einsum('te,tef->tf', gate, y)
    >>> params = {'router': jnp.eye(2), 'experts': jnp.ones((2, 2, 3))}
    >>> x = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    >>> lth.experts.routing(apply, params, x).counts
    {'experts[0]': Array([2, 1], dtype=int32)}

  References:
    Lasby et al., arXiv:2510.13999, equation 9.
  """
  _checks.function('apply', apply, 'apply(params, *args)')
  _checks.arrays(params)
  _tokens.check(token_mask, args)
  names = _checks.text('gate', gate), _checks.text('output', output)
  closed, _ = trace(apply, params, *args)
  pairs = _pairs(closed, names)
  groups = _groups(apply, params, args, closed, [g for g, _ in pairs])
  notes = _sums(hashable(apply), names, params, args, token_mask)
  fields = zip(*notes, strict=True)
  found = Routing(*(dict(zip(groups, each, strict=True)) for each in fields))
  _check_sums(found)
  return found


def warn_few_tokens(routing: Routing) -> None:
  """Warns of experts with fewer tokens than inputs.

  Weights that a rule computes from so few tokens, as SparseGPT does, fit these
  and nothing else.

  Args:
    routing: of the calibration data.
  """
  check(routing)
  few = {
    name: int(jnp.sum(n < routing.widths[name][..., None]))
    for name, n in routing.counts.items()
  }
  if names := [f'{n} ({k} of them)' for n, k in few.items() if k]:
    warnings.warn(
      f'Some experts have fewer tokens than inputs: {", ".join(names)}. Give'
      ' more calibration data, or rules that only select, such as'
      ' `lthjax.rules.wanda`.',
      stacklevel=2,
    )


def check(routing: Any) -> None:
  """Raises unless this is a routing."""
  if not isinstance(routing, Routing):
    wanted = 'be a `Routing`, as `lthjax.experts.routing` returns'
    raise _checks.wrong_type('routing', routing, wanted)


def _check_sums(routing: Routing) -> None:
  """Raises if nothing was counted, or if what was added up is not finite."""
  none = {name: jnp.all(n == 0) for name, n in routing.tokens.items()}
  refuse(
    [name for name, x in (trees.concrete(none) or {}).items() if x],
    'No token counts for {}. Pass a `token_mask` that is true where one does.',
  )
  sums = routing.contributions.items()
  wrong = {name: ~jnp.all(jnp.isfinite(x)) for name, x in sums}
  refuse(
    [name for name, x in (trees.concrete(wrong) or {}).items() if x],
    'Gates or outputs of the experts {} are not finite. Look for NaN in the'
    ' params and in the calibration data.',
  )


def _pairs(
  closed: jex.ClosedJaxpr, names: tuple[str, str]
) -> list[tuple[Path, Path]]:
  """Pairs the gates and the outputs of each layer, in order."""
  named = [
    (eqn.params['name'], path)
    for path, eqn in equations(closed)
    if eqn.primitive.name == 'name'
  ]
  gates, outputs = ([p for n, p in named if n == name] for name in names)
  if not gates or len(gates) != len(outputs):
    there = sorted({n for n, _ in named})
    raise ValueError(
      f'The program names {len(gates)} values "{names[0]}" and {len(outputs)}'
      f' "{names[1]}", but must name as many, and one or more. It names'
      f' {", ".join(there) or "nothing"}; name yours with'
      ' `jax.ad_checkpoint.checkpoint_name`.'
    )
  return list(zip(gates, outputs, strict=True))


def _groups(
  apply: Any, params: Any, args: Any, closed: Any, gates: Sequence[Path]
) -> list[str]:
  """Names the group of experts of each layer, by the axis of its gates."""
  groups = structure.groups(apply, params, *args)
  of = {
    (member.leaf, member.axis): name
    for name, group in groups.items()
    for member in group.members
  }
  given, watched = watch(closed, len(closed.in_avals), gates)
  named = zip(trees.by_name(params), given, strict=False)
  found, leaves = [], dict(named)
  for path in gates:
    wanted = {id(atom) for atom in atoms(watched[path][0].axes[-1])}
    found.append(
      next(
        (
          of[name, axis]
          for name, value in leaves.items()
          for axis, t in enumerate(value.axes)
          if (name, axis) in of and wanted & {id(a) for a in atoms(t)}
        ),
        None,
      )
    )
  if None in found or len(set(found)) < len(found):
    refuse(
      [f'layer {i}' for i, name in enumerate(found) if name is None]
      or ['several layers share params'],
      'The last axis of the gates is no axis of the params: {}. Name the gates'
      ' `[tokens.., experts]`, zero where a token is not sent.',
    )
  return found


@functools.partial(jax.jit, static_argnames=('apply', 'names'))
def _sums(apply, names, params, args, token_mask) -> list[Any]:
  """Counts, contributions, tokens and widths of each layer."""
  pairs = _pairs(trace(apply, params, *args)[0], names)
  held: dict[int, jax.Array] = {}

  def visit(number, is_gate):
    def note(eqn, inputs):
      (x,) = inputs
      if number not in held:
        held[number] = x
        return bind(eqn, inputs), None
      other = held.pop(number)
      gate, out = (x, other) if is_gate else (other, x)
      return bind(eqn, inputs), _measure(gate, out, token_mask)

    return note

  visits = {
    path: visit(number, path == pair[0])
    for number, pair in enumerate(pairs)
    for path in pair
  }
  _, notes = run(apply, visits, params, *args)
  return [
    next(notes[p] for p in pair if notes[p] is not None) for pair in pairs
  ]


def _measure(gate: jax.Array, out: jax.Array, token_mask: Any) -> Any:
  """What is noted of one layer."""
  if gate.shape != out.shape[:-1]:
    raise ValueError(
      f'The gates have shape {gate.shape} and the outputs of the experts'
      f' {out.shape}, but they must be `[tokens.., experts]` and `[tokens..,'
      ' experts, width]`.'
    )
  width = out.shape[-1]
  gate = gate.reshape(-1, gate.shape[-1]).astype(jnp.float32)
  size = jnp.linalg.norm(
    out.reshape(*gate.shape, width).astype(jnp.float32), axis=-1
  )
  if token_mask is not None:
    if token_mask.size != len(gate):
      raise ValueError(
        f'`token_mask` has the shape {token_mask.shape}, but the gates are for'
        f' {len(gate)} tokens. Pass one entry per token.'
      )
    gate = jnp.where(token_mask.reshape(-1, 1), gate, 0.0)
  total = jnp.sum(gate, -1, keepdims=True)
  share = jnp.where(gate > 0, gate / jnp.where(total > 0, total, 1.0), 0.0)
  number = len(gate) if token_mask is None else jnp.sum(token_mask)
  return (
    jnp.sum(gate > 0, 0, jnp.int32),
    # An expert that a token is not sent to may return anything, NaN too.
    jnp.sum(jnp.where(gate > 0, share * size, 0.0), 0),
    jnp.asarray(number, jnp.int32),
    jnp.int32(width),
  )
