"""Attention maps of any model: softmaxes that meet a matmul."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lthjax.program._interpreter import (
  CALLS,
  Path,
  bind,
  inside,
  interpret,
  trace,
)
from lthjax.program._rules import SAME
from lthjax.program._values import run


def attention_maps(
  apply: Callable[..., Any], params: chex.ArrayTree, *args: Any
) -> list[jax.Array]:
  """Computes the attention of every layer of a model.

  Attention is a softmax whose result is contracted, along the axis that it
  normalizes, in a matmul that keeps another of its axes: that of the queries.
  It is found in the program, so that neither the framework nor the names of
  layers matter. The softmax may be `jax.nn.softmax`, the exponential of
  `jax.nn.log_softmax`, or written by hand with ``exp`` and ``sum``.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays.
    *args: trees of arrays, such as tokens, a token mask and a bias.

  Returns:
    One array per layer, ``[..., keys]``, in the order of the program, whether
    layers are unrolled or scanned. Other axes are those of the program: mostly
    ``[batch, heads, queries, keys]``, and ``[batch, key_value_heads, repeats,
    queries, keys]`` for the decoders of `lthjax.models`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import program
    >>> def apply(params, x):
    ...   scores = (x @ params['query']) @ (x @ params['key']).T
    ...   return jax.nn.softmax(scores) @ x
    >>> params = {'query': jnp.eye(2), 'key': jnp.zeros((2, 2))}
    >>> program.attention_maps(apply, params, jnp.eye(2))
    [Array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)]
  """
  closed, _ = trace(apply, params, *args)
  sites: dict[Path, _Site] = {}
  _find(closed, [None] * len(closed.jaxpr.invars), (), (), sites)
  if not sites:
    raise ValueError(
      'The program has no attention: none of its softmaxes is contracted in a'
      ' matmul along its own axis. Pass the function that applies the model;'
      ' fused kernels do not show their attention, so turn them off.'
    )

  def visit(axis):
    def see(eqn, inputs):
      outs = bind(eqn, inputs)
      return outs, jnp.moveaxis(outs[0], axis, -1)

    return see

  visits = {path: visit(site.axis) for path, site in sites.items()}
  _, notes = run(apply, visits, params, *args)
  found = []
  for path, site in sites.items():
    note, loops = notes[path], len(site.loops)
    shape = note.shape[:loops]
    flat = note.reshape(-1, *note.shape[loops:])
    first = site.loops[0] if loops else path
    for turn in range(len(flat)):
      index = tuple(map(int, np.unravel_index(turn, shape))) if shape else ()
      found.append(((first, index, path), flat[turn]))
  return [x for _, x in sorted(found, key=lambda entry: entry[0])]


class _Site(NamedTuple):
  """A softmax that is attention: its axis, and the loops around it."""

  axis: int
  loops: tuple[Path, ...]


class _Fact(NamedTuple):
  """What a value is on the way from scores to weights.

  Attributes:
    kind: 'exp'; 'sum' of that or its 'inverse'; 'log' of the sum; 'shifted' by
      that; or 'weights'.
    origin: path of the exponential; for weights, of the softmax's result.
    axis: that is normalized; of a value that moves, where it is now.
    start: that axis where the weights were computed.
  """

  kind: str
  origin: Path
  axis: int = -1
  start: int = -1


def _find(
  program: Any,
  facts: Sequence[Any],
  path: Path,
  loops: tuple[Path, ...],
  sites: dict[Path, _Site],
) -> list[Any]:
  """Follows softmaxes through a program, and notes those that are attention."""

  def step(eqn, facts, here):
    name = eqn.primitive.name
    if name in CALLS or name == 'shard_map':
      ((inner, body),) = inside(eqn, here)
      around = loops
      if name == 'shard_map':  # Notes have an axis for each mesh axis.
        around += (here,) * len(eqn.params['newly_manual_axes'])
      return _find(body, facts, inner, around, sites)
    if name in ('scan', 'cond'):
      around = (*loops, here) if name == 'scan' else loops
      for inner, body in inside(eqn, here):
        jaxpr = body.jaxpr if isinstance(body, jex.ClosedJaxpr) else body
        _find(body, [None] * len(jaxpr.invars), inner, around, sites)
      return [None] * len(eqn.outvars)
    if name == 'dot_general':
      for side in range(2):
        _meet(eqn, facts[side], side, loops, sites)
      return [None]
    rule = _RULES.get(name)
    out = rule(eqn, facts, here) if rule and any(facts) else None
    if name == 'exp' and out is None:
      out = _Fact('exp', here)
    return [out] * len(eqn.outvars)

  return interpret(program, facts, step, lambda constant: None, path)


def _meet(eqn, fact, side, loops, sites):
  """Notes a softmax that a matmul contracts, and that keeps another axis."""
  contracted, batched = eqn.params['dimension_numbers']
  if fact is None or fact.kind != 'weights':
    return
  rank = len(eqn.invars[side].aval.shape)
  free = rank - len(contracted[side]) - len(batched[side])
  if fact.axis in contracted[side] and free:
    sites[fact.origin] = _Site(fact.start, loops)


def _sum(eqn, facts, path):
  (fact,), axes = facts, eqn.params['axes']
  if fact.kind == 'exp' and len(axes) == 1:
    return fact._replace(kind='sum', axis=axes[0])
  return None


def _divide(eqn, facts, path):
  top, bottom = facts
  if bottom is None or bottom.kind != 'sum':
    return _product(eqn, facts, path)
  if top is not None and top.kind == 'exp' and top.origin == bottom.origin:
    return _weights(path, bottom.axis)
  return bottom._replace(kind='inverse')


def _product(eqn, facts, path):
  kinds = {fact.kind: fact for fact in facts if fact}
  if kinds.keys() == {'exp', 'inverse'}:
    return _weights(path, kinds['inverse'].axis)
  return kinds.get('weights') if len(kinds) == 1 else None  # Dropout.


def _exp(eqn, facts, path):
  fact = facts[0]
  return _weights(path, fact.axis) if fact.kind == 'shifted' else None


def _weights(path, axis):
  return _Fact('weights', path, axis, axis)


def _log(eqn, facts, path):
  return facts[0]._replace(kind='log') if facts[0].kind == 'sum' else None


def _add(eqn, facts, path):
  logs = [fact for fact in facts if fact and fact.kind == 'log']
  return logs[0] if len(logs) == 1 else None


def _subtract(eqn, facts, path):
  fact = facts[1]
  return fact._replace(kind='shifted') if fact and fact.kind == 'log' else None


def _absolute(eqn, facts, path):
  return facts[0] if facts[0].kind == 'sum' else None  # It is positive.


def _power(eqn, facts, path):
  inverse = facts[0].kind == 'sum' and eqn.params['y'] == -1
  return facts[0]._replace(kind='inverse') if inverse else None


def _choose(eqn, facts, path):
  known = {fact for fact in facts if fact}
  return known.pop() if len(known) == 1 else None


def _move(eqn, facts, path):
  """Follows the axis of weights; sums keep that of their exponential."""
  fact, name = facts[0], eqn.primitive.name
  if fact is None or fact.kind in ('sum', 'inverse', 'log'):
    return fact
  if name == 'transpose':
    places = eqn.params['permutation']
    return fact._replace(axis=places.index(fact.axis))
  if name == 'broadcast_in_dim':
    places = eqn.params['broadcast_dimensions']
    return fact._replace(axis=places[fact.axis])
  # Reshapes that leave the axis whole, and what stands behind it.
  old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
  tail = old[fact.axis :]
  axis = len(new) - len(tail)
  return fact._replace(axis=axis) if new[axis:] == tail else None


_RULES = {
  'abs': _absolute,
  **dict.fromkeys(SAME, lambda eqn, facts, path: facts[0]),
  **dict.fromkeys(
    ('broadcast_in_dim', 'reshape', 'squeeze', 'transpose'), _move
  ),
  'add': _add,
  'div': _divide,
  'exp': _exp,
  'integer_pow': _power,
  'log': _log,
  'mul': _product,
  'reduce_sum': _sum,
  'select_n': _choose,
  'sub': _subtract,
}
