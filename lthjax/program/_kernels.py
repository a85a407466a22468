"""The leaves that a program multiplies with, whatever their names."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.program._interpreter import (
  CALLS,
  Path,
  inside,
  interpret,
  loop_parts,
  trace,
)
from lthjax.program._matmuls import MATMULS
from lthjax.program._rules import BESIDE, MOVES, SAME
from lthjax.program._walk import shape

Where = Callable[[str, Any], bool] | str | list[str]


class Made(NamedTuple):
  """The leaves that a value is made of, if it is not an activation.

  Attributes:
    leaves: names of the leaves; none for a constant.
    repeated: whether entries were repeated, like those of a bias or scale.
    mixed: whether it was multiplied by another array, such as a mask.
    product: whether it is the product of an activation with repeated leaves:
      an activation, but its sum would be a matmul.
    flat: whether it was a vector, like a bias or scale, so that it is no kernel
      unless a matmul says so.
  """

  leaves: frozenset[str] = frozenset()
  repeated: bool = False
  mixed: bool = False
  product: bool = False
  flat: bool = False


class Found(NamedTuple):
  """Names of leaves, by what a program does with them.

  Attributes:
    multiplied: operands of matmuls and convolutions.
    looked_up: tables, from which rows are taken.
    lost: operands of what may be a matmul in other primitives.
    together: leaves that are multiplied with each other.
    inputs: whether the program has arguments besides the leaves.
  """

  multiplied: set[str]
  looked_up: set[str]
  lost: set[str]
  together: set[str]
  inputs: bool

  @classmethod
  def nothing(cls, inputs: bool) -> 'Found':
    """Returns empty sets."""
    return cls(set(), set(), set(), set(), inputs)

  def update(self, other: 'Found') -> None:
    """Adds what another has found."""
    for names, more in zip(self[:4], other[:4], strict=True):
      names.update(more)


Fact = Made | None
Facts = Sequence[Fact]
_CONSTANT = Made()


def kernels(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  where: Where | None = None,
) -> Callable[[str, Any], bool]:
  """Chooses the leaves that a model multiplies activations with.

  These are the kernels of its matmuls and convolutions, whatever their names.
  Biases, the scales of normalizations, position embeddings and class tokens are
  not among them. Neither are tables from which rows are looked up, even if they
  are multiplied with as well, like tied embeddings: name these to prune them.
  Nothing is computed.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    *args: trees of arrays or of `jax.ShapeDtypeStruct`.
    where: the leaves to choose from: ``where(name, leaf)``, a glob or a list of
      globs. All others are treated as inputs, such as learned queries.

  Returns:
    A function ``where(name, leaf)`` for `lthjax.masks.full` and everything else
    that takes ``where=``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'bias': jnp.ones((4, 3)), 'kernel': jnp.ones((1, 3))}
    >>> def apply(params, x):  # the names mislead
    ...   return x @ params['bias'] * params['kernel']
    >>> x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> where = lth.program.kernels(apply, params, x)
    >>> masks = lth.masks.full(params, where=where)
    >>> [name for name, mask in masks.items() if mask is not None]
    ['bias']
  """
  closed, _ = trace(apply, params, *args)
  found = classify(closed, params, select(params, where))
  chosen = frozenset(found.multiplied - found.looked_up)
  if not chosen:
    raise ValueError(
      'The program multiplies activations with none of the params, so there are'
      ' no kernels. Pass the function that applies the model, its params, and'
      ' then inputs.'
    )
  refuse(
    sorted(chosen & found.together),
    '{} are multiplied with each other, so it is not certain which of them are'
    ' kernels. Exclude the others with `where=`, so that they are treated as'
    ' inputs.',
  )
  return lambda name, leaf: name in chosen


def select(params: chex.ArrayTree, where: Where | None) -> set[str]:
  """Returns the names of the leaves that ``where`` selects."""
  leaves = {n: x for n, x in trees.by_name(params).items() if x is not None}
  if where is None:
    return set(leaves)
  _checks.predicate('where', where)
  if callable(where):
    chosen = {name for name, leaf in leaves.items() if where(name, leaf)}
  else:
    globs = [where] if isinstance(where, str) else list(where)
    chosen = set(trees.first_match(globs, leaves, 'where', 'leaf'))
  if not chosen:
    raise ValueError(
      'No leaf of the params was selected. They are'
      f' {", ".join(leaves) or "empty"}; choose some with'
      ' `where=lambda name, leaf: ...` or a glob such as `where="*/kernel"`.'
    )
  return chosen


def classify(
  closed: jex.ClosedJaxpr, params: chex.ArrayTree, names: set[str]
) -> Found:
  """Finds the roles of leaves in a program that has the params first."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  others = len(closed.in_avals) - len(leaves)
  found = Found.nothing(others > 0)
  facts: list[Fact] = [
    Made(frozenset([name])) if name in names else None
    for name in (trees.path_name(path) for path, _ in leaves)
  ]
  facts += [None] * others
  _follow(closed, facts, (), found)
  return found


def _follow(program: Any, facts: Facts, path: Path, found: Found) -> list[Fact]:
  def step(eqn, facts, path):
    name = eqn.primitive.name
    rule = _RULES.get(name, _elsewhere)
    facts = [*map(_flatten, facts, eqn.invars)]
    # Only a sum turns a product into a matmul; anything else settles it.
    if rule not in (_move, _same, _sum):
      facts = [None if fact and fact.product else fact for fact in facts]
    outs = rule(eqn, facts, path, found)
    return outs if isinstance(outs, list) else [outs] * len(eqn.outvars)

  return interpret(program, facts, step, _constant, path)


def _flatten(fact: Fact, atom: Any) -> Fact:
  if fact and fact.leaves and sum(size > 1 for size in shape(atom)) < 2:
    return fact._replace(flat=True)
  return fact


def _lose(fact: Fact, found: Found) -> None:
  if fact and not fact.flat:
    found.lost.update(fact.leaves)


def _constant(value: Any) -> Fact:
  """Arrays that a function closes over may be its inputs."""
  return None if getattr(value, 'ndim', 0) else _CONSTANT


def _meet(facts: Facts) -> Fact:
  """Combines values; with one activation, the result is an activation."""
  made = [fact for fact in facts if fact is not None]
  if len(made) < len(facts):
    return None
  leaves = [fact for fact in made if fact.leaves]
  # Repeated leaves next to a kernel are its scales.
  main = [fact for fact in leaves if not fact.repeated] or leaves
  return Made(
    leaves=frozenset().union(*(fact.leaves for fact in main)),
    repeated=any(fact.repeated for fact in main),
    mixed=any(fact.mixed for fact in main),
    product=any(fact.product for fact in made),
    flat=any(fact.flat for fact in main),
  )


def _elsewhere(eqn, facts, path, found) -> Fact:
  """Primitives without a rule; if not elementwise, they may be matmuls."""
  if None in facts and (not _elementwise(eqn) or inside(eqn, path)):
    for fact in facts:
      _lose(fact, found)
  return _meet(_spread(eqn, facts))


def _elementwise(eqn) -> bool:
  out = shape(eqn.outvars[0]) if eqn.outvars else ()
  return all(
    len(dims) == len(out)
    and all(n in (1, m) for n, m in zip(dims, out, strict=True))
    for dims in map(shape, eqn.invars)
    if dims
  )


def _spread(eqn, facts) -> list[Fact]:
  """Marks inputs that are smaller than the result as repeated."""
  out = shape(eqn.outvars[0]) if eqn.outvars else ()
  return [
    fact._replace(repeated=True)
    if fact and fact.leaves and shape(x) != out
    else fact
    for fact, x in zip(facts, eqn.invars, strict=True)
  ]


def _join(eqn, facts, path, found) -> Fact:
  return _meet(facts)


def _same(eqn, facts, path, found) -> list[Fact]:
  return [*facts]


def _beside(eqn, facts, path, found) -> Fact:
  """A kernel that is masked or scaled is still a kernel."""
  pairs = zip(_spread(eqn, facts), eqn.invars, strict=True)
  known = [fact for fact, x in pairs if fact or shape(x)]
  made = [fact for fact in known if fact is not None]
  met = _meet(made)
  if met is None or not met.leaves or len(made) == len(known):
    return _meet(known)
  return met._replace(mixed=True, product=met.repeated)


def _move(eqn, facts, path, found) -> Fact:
  if None in facts[1:]:
    return _picked(eqn, facts[0])
  met = _meet(facts)
  (array, *_), (out, *_) = eqn.invars, eqn.outvars
  grows = math.prod(shape(out)) > math.prod(shape(array))
  vector = len(shape(array)) < 2 <= len(shape(out))
  if met and (grows or vector):
    return met._replace(repeated=True)
  return met


def _picked(eqn, table: Fact) -> Fact:
  """Matrices that are picked by inputs are kernels; rows are activations."""
  if eqn.primitive.name == 'gather':
    sizes = eqn.params['slice_sizes']
  else:
    sizes = shape(eqn.outvars[0])
  if table is None or sum(size > 1 for size in sizes) < 2:
    return None
  return table._replace(mixed=True)


def _sum(eqn, facts, path, found) -> Fact:
  (fact,) = facts
  # A matmul in disguise: the sum of an elementwise product.
  if fact and (fact.product or fact.mixed):
    _lose(fact, found)
    return None
  return fact


def _lookup(eqn, facts, path, found) -> Fact:
  table, *indices = facts
  if None not in indices:
    return _meet(facts)
  rows = _picked(eqn, table)
  if table and rows is None:
    found.looked_up.update(table.leaves)
  return rows


def _matmul(eqn, facts, path, found) -> Fact:
  sides = facts[:2]
  numbers = eqn.params.get('dimension_numbers')
  if eqn.primitive.name == 'dot_general' and not numbers[0][0]:
    return _meet(sides)  # An outer product.
  leaves = [fact for fact in sides if fact and fact.leaves]
  pure = [fact for fact in leaves if not fact.mixed]
  if len(pure) == 1:  # The other one is an activation times a scale.
    leaves = pure
  constant = found.inputs and any(f and not f.leaves for f in sides)
  if len(leaves) == 2:
    found.together.update(*(fact.leaves for fact in leaves))
  if len(leaves) != 1 or constant:
    return _meet(sides)
  found.multiplied.update(leaves[0].leaves)
  return None


def _call(eqn, facts, path, found) -> list[Fact]:
  ((path, program),) = inside(eqn, path)
  return _follow(program, facts, path, found)


def _cond(eqn, facts, path, found) -> list[Fact]:
  results = [
    _follow(program, facts[1:], here, found)
    for here, program in inside(eqn, path)
  ]
  return [_either(*outs) for outs in zip(*results, strict=True)]


def _scan(eqn, facts, path, found) -> list[Fact]:
  return _turn(eqn.params['jaxpr'], *loop_parts(eqn, facts), path, found)


def _while(eqn, facts, path, found) -> list[Fact]:
  first, count = eqn.params['cond_nconsts'], eqn.params['body_nconsts']
  facts = facts[first:]
  body = eqn.params['body_jaxpr']
  return _turn(body, facts[:count], facts[count:], [], path, found)


def _turn(body, consts, carry, xs, path, found) -> list[Fact]:
  """Repeats the body of a loop until the facts of its carries are stable."""
  # It ends: `_either` only adds leaves and flags, or gives up with `None`.
  while True:
    trial = Found.nothing(found.inputs)
    outs = _follow(body, [*consts, *carry, *xs], path, trial)
    after = [_either(*each) for each in zip(carry, outs, strict=False)]
    if after == carry:
      found.update(trial)
      return [*carry, *outs[len(carry) :]]
    carry = after


def _either(*facts: Fact) -> Fact:
  """The facts of a value that is one of several."""
  if any(fact is None or fact.product for fact in facts):
    return None
  made = [fact for fact in facts if fact]
  return Made(
    leaves=frozenset().union(*(fact.leaves for fact in made)),
    repeated=any(fact.repeated for fact in made),
    mixed=any(fact.mixed for fact in made),
    flat=any(fact.flat for fact in made),
  )


# These are not matmuls, whatever the shapes.
_PLAIN = (
  'argmax', 'argmin', 'concatenate', 'dynamic_update_slice', 'pad',
  'reduce_max', 'reduce_min', 'scatter', 'scatter-add', 'scatter_add',
  'scatter_mul', 'sort', 'stack', 'top_k',
)  # fmt: skip
_RULES = {
  **dict.fromkeys(CALLS, _call),
  **dict.fromkeys(MATMULS, _matmul),
  **dict.fromkeys(MOVES, _move),
  **dict.fromkeys(SAME, _same),
  **dict.fromkeys(BESIDE, _beside),
  **dict.fromkeys(_PLAIN, _join),
  'cond': _cond,
  'gather': _lookup,
  'reduce_sum': _sum,
  'scan': _scan,
  'shard_map': _call,
  'while': _while,
}
