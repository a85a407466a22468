"""Where kernels meet activations, in one form whatever the program's layout."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import trees
from lthjax.calibration import _patches
from lthjax.program._interpreter import Path, equations
from lthjax.program._kernels import Where, classify, select
from lthjax.program._use import Use
from lthjax.program._uses import uses_of
from lthjax.program._walk import shape


class Site(NamedTuple):
  """An equation that multiplies with chosen leaves.

  Attributes:
    uses: one for each leaf in its operand, where kernels were concatenated.
  """

  uses: tuple[Use, ...]

  @property
  def use(self) -> Use:
    """The first use; all have the same roles of axes."""
    return self.uses[0]

  @property
  def names(self) -> str:
    """The names of the leaves."""
    return ' and '.join(str(use.name) for use in self.uses)

  def activations(
    self, eqn: jex.JaxprEqn, inputs: Sequence[jax.Array]
  ) -> jax.Array:
    """Returns the activations as ``[batch.., tokens, inputs]`` in float32."""
    if _patches.is_convolution(eqn):
      return _patches.patches(eqn, _patches.images(eqn, inputs))
    x = inputs[1 - self.use.operand].astype(jnp.float32)
    batch, free, contracted = activation_axes(self.use, eqn)
    sizes = [x.shape[axis] for axis in batch]
    tokens, depth = (
      math.prod(x.shape[axis] for axis in axes) for axes in (free, contracted)
    )
    return x.transpose(*batch, *free, *contracted).reshape(
      *sizes, tokens, depth
    )

  def columns(
    self, view: jax.Array
  ) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Views an operand as ``[loops.., batch.., inputs, outputs]``, and back.

    Inputs of a convolution are its window, then channels; its groups are batch.
    """
    use = self.use
    loops = view.ndim - len(use.shapes[use.operand])
    lead = tuple(range(loops)) + tuple(loops + axis for axis in use.batch)
    channels = [axis for axis in use.contracted if axis not in use.window]
    order = [*use.window, *channels, *use.free]
    order = [*lead, *(loops + axis for axis in order)]
    moved = view.transpose(order)
    last = len(lead) + len(use.contracted)
    depth = math.prod(moved.shape[len(lead) : last])
    width = math.prod(moved.shape[last:])
    inverse = sorted(range(len(order)), key=order.__getitem__)
    sizes, groups = (*moved.shape[: len(lead)], depth), use.groups
    if groups == 1:
      return moved.reshape(*sizes, width), lambda y: y.reshape(
        moved.shape
      ).transpose(inverse)
    split = moved.reshape(*sizes, groups, width // groups)

    def back(y):
      return jnp.moveaxis(y, -3, -2).reshape(moved.shape).transpose(inverse)

    return jnp.moveaxis(split, -2, -3), back


def activation_axes(
  use: Use, eqn: jex.JaxprEqn
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
  """Returns the batch, free and contracted axes of a matmul's activations."""
  side = 1 - use.operand
  contracted, batch = eqn.params['dimension_numbers']
  met = (*contracted[side], *batch[side])
  rank = len(shape(eqn.invars[side]))
  free = tuple(axis for axis in range(rank) if axis not in met)
  return tuple(batch[side]), free, tuple(contracted[side])


def kind(use: Use, eqn: jex.JaxprEqn) -> Any:
  """Identifies how a value is read, besides which value it is."""
  if not _patches.is_convolution(eqn):
    return activation_axes(use, eqn)
  sizes = [shape(eqn.invars[1])[axis] for axis in use.window]
  return sizes, {n: x for n, x in eqn.params.items() if 'dtype' not in n}


def find(
  closed: jex.ClosedJaxpr, params: chex.ArrayTree, where: Where | None
) -> dict[Path, Site]:
  """Returns the sites of the chosen leaves, by path; raises if one has none."""
  chosen = _choose(closed, params, where)
  uses = [
    use
    for use in uses_of(closed, params, chosen)
    if use.name is not None and use.primitive != 'gather'
  ]
  if idle := sorted(chosen - {str(use.name) for use in uses}):
    raise ValueError(
      f'The program never multiplies with {", ".join(idle)}, so there are no'
      ' activations to look at. Pass the function that applies the model, and'
      ' leave these out with `where=`.'
    )
  faults = {
    f'{use.name} in `{use.primitive}`'
    for use in uses
    if use.primitive not in ('conv_general_dilated', 'dot_general')
  }
  eqns = dict(equations(closed))
  faults |= {
    f'{use.name} in a convolution with groups of examples'
    for use in uses
    if eqns[use.path].params.get('batch_group_count', 1) > 1
  }
  faults |= {
    f'{use.name} inside `shard_map`'
    for use in uses
    if any(loop.axis for loop in use.loops)
  }
  if faults:
    raise ValueError(
      'Activations can be looked at in matmuls and convolutions, but not those'
      f' of {", ".join(sorted(faults))}. Leave these leaves out with `where=`.'
    )
  found: dict[Path, list[Use]] = {}
  for use in uses:
    found.setdefault(use.path, []).append(use)
  return {path: Site(tuple(each)) for path, each in found.items()}


def looked_up(
  closed: jex.ClosedJaxpr, params: chex.ArrayTree, sites: Mapping[Path, Site]
) -> set[str]:
  """Returns the leaves of sites from which rows are taken as well."""
  names = {str(use.name) for site in sites.values() for use in site.uses}
  return classify(closed, params, names).looked_up


def _choose(closed, params: Any, where: Where | None) -> set[str]:
  """Leaves that ``where`` selects; a glob selects among kernels only."""
  names = select(params, where)
  if callable(where):
    return names
  found = classify(closed, params, set(trees.by_name(params)))
  kernels = (found.multiplied - found.looked_up) | found.lost
  globs = [where] if isinstance(where, str) else list(where or ())
  exact = names & set(globs)
  chosen = exact | (names & kernels)
  idle = [g for g in globs if not any(trees.matches([g], n) for n in chosen)]
  if idle or not chosen:
    raise ValueError(
      f'`where` selects nothing that the program multiplies with:'
      f' {", ".join(map(repr, idle)) or "there are no such leaves"}. The'
      f' kernels are {", ".join(sorted(kernels)) or "none"}.'
    )
  return chosen


def by_leaf(sites: Sequence[Site]) -> dict[str, list[tuple[Site, Use]]]:
  """Groups uses that share a statistic, under the names of their leaves.

  Uses of the same entries are together; parts of a fused leaf that are used
  apart from each other are numbered, as ``'qkv[0]'``.
  """
  named: dict[str, list[tuple[Site, Use]]] = {}
  for site in sites:
    for use in site.uses:
      named.setdefault(str(use.name), []).append((site, use))
  found = {}
  for name, each in named.items():
    if len(each) == 1 or not disjoint([use for _, use in each]):
      found[name] = each
    else:
      found |= {f'{name}[{i}]': [pair] for i, pair in enumerate(each)}
  return found


def disjoint(uses: Sequence[Use]) -> bool:
  """Returns whether no entry of a leaf takes part in two uses."""
  with jax.ensure_compile_time_eval():
    times = sum(coverage(use) for use in uses)
    return not bool(jnp.any(times > 1))


def coverage(use: Use) -> chex.Array:
  """Counts how often each entry of a leaf takes part in a use."""
  ones = jax.eval_shape(use.view, jax.ShapeDtypeStruct(use.shape, jnp.float32))
  return use.pull_back(jnp.ones(ones.shape, ones.dtype))
