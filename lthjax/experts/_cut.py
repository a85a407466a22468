"""Experts removed for real, checked against logits of minus infinity."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, structure, trees
from lthjax._errors import refuse
from lthjax.program import Use, bind, run, uses
from lthjax.structure._compact import difference
from lthjax.structure._groups import stack_shape


def cut(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  keeps: Mapping[str, chex.Array],
  *probe: Any,
  tolerance: float = 1e-4,
) -> Any:
  """Removes experts, with their columns of the router.

  That equals logits of minus infinity for them, and not experts of zeros, which
  would still be chosen. Both programs run on the probe, and what they return is
  compared.

  Args:
    apply: pure function ``apply(params, *probe)``. It takes the number of
      experts from the params.
    params: tree of arrays.
    keeps: ``{group: bool [experts]}``, or ``[loops.., experts]`` with equally
      many in all layers, as `keep` returns them.
    *probe: trees of arrays, such as a batch of tokens.
    tolerance: the largest difference, relative to the largest output.

  Returns:
    The smaller params.

  Raises:
    ValueError: if a group is not one of experts, if fewer experts are left than
      a token is sent to, or if the programs differ.

  References:
    Lasby et al., REAP the Experts, arXiv:2510.13999, section 4.
  """
  tolerance = _checks.positive('tolerance', tolerance)
  _checks.function('apply', apply, 'apply(params, *probe)')
  _checks.arrays(params)
  _checks.evaluated('apply(params, *probe)', apply, params, *probe)
  groups = structure.groups(apply, params, *probe)
  _checks.mapping('keeps', keeps, 'groups of experts to masks')
  those = [name for name, group in groups.items() if 'sorted' in group.pins]
  refuse(
    [
      f'{name} ({", ".join(sorted(groups[name].pins)) or "no pins"})'
      if name in groups
      else f'{name} (unknown)'
      for name in keeps
      if name not in those
    ],
    f'Not groups of experts: {{}}. Those are {", ".join(those) or "not there"};'
    ' for others use `lthjax.structure.compact`.',
  )
  keeps = {name: _fitting(groups, name, keep) for name, keep in keeps.items()}
  small = structure.cut(params, groups, keeps)
  visits, feeds = {}, {}
  for name, keep in keeps.items():
    routers = _routers(apply, params, probe, groups[name])
    refuse(
      [] if routers else [name],
      'No kernel has the experts as its outputs: {} has no router.',
    )
    for use, axis, order in routers:
      mask = np.asarray(keep)[..., order]
      turns = tuple(loop.length for loop in use.loops)
      feeds[use.path] = jnp.asarray(
        np.broadcast_to(mask, (*turns, mask.shape[-1]))
      )
      visits |= dict.fromkeys(use.paths, functools.partial(_exclude, axis))
  expected = jax.jit(
    lambda params, *probe: run(apply, visits, params, *probe, feeds=feeds)[0]
  )(params, *probe)
  fault = difference(expected, jax.jit(apply), small, probe, tolerance)
  refuse(
    [fault] if fault else [],
    'Without these experts the program is not the one whose router never'
    ' chooses them: {}. Is there a number of experts in the program that does'
    ' not come from the params, or are fewer left than a token is sent to?',
  )
  return small


def _fitting(groups: structure.Groups, name: str, keep: Any) -> Any:
  """Drops the axis of a loop with one turn, over which no choice differs."""
  shape = (*stack_shape(groups, name), groups[name].size)
  lone = np.shape(keep)[: np.ndim(keep) - len(shape)]
  return np.reshape(keep, shape) if lone and set(lone) == {1} else keep


def _exclude(axis: int, eqn: Any, inputs: Any, keep: jax.Array) -> Any:
  """A router's matmul, with logits of minus infinity."""
  (logits,) = bind(eqn, inputs)
  shape = [1] * logits.ndim
  shape[axis] = keep.size
  return [jnp.where(keep.reshape(shape), logits, -jnp.inf)], None


def _routers(
  apply: Any, params: Any, probe: Any, group: structure.Group
) -> list[tuple[Use, int, np.ndarray]]:
  """Matmuls with experts as outputs: the axis, and its order of experts."""
  leaves, found = trees.by_name(params), []
  for member in group.members:
    shape = jnp.shape(leaves[member.leaf])
    if len(shape) < 2 or member.places.shape[1] != 1:
      continue
    index = np.zeros(shape[member.axis], np.float32)
    index[member.places[:, 0]] = np.arange(group.size)
    wide = np.broadcast_to(
      np.expand_dims(index, [i for i in range(len(shape)) if i != member.axis]),
      shape,
    )
    for use in _uses(apply, params, probe, member.leaf):
      view = np.asarray(use.view(jnp.asarray(wide)))
      view = view[(0,) * (view.ndim - len(use.shapes[use.operand]))]
      for place, axis in enumerate(use.free):
        order = np.moveaxis(view, axis, 0).reshape(view.shape[axis], -1)[:, 0]
        if view.shape[axis] == group.size and len({*order}) == group.size:
          before = len(use.batch) + place
          if use.operand:  # Outputs of the other side come first.
            other = len(use.shapes[0]) - len(use.batch) - len(use.contracted)
            before += other
          found.append((use, before, order.astype(int)))
  return found


def _uses(apply: Any, params: Any, probe: Any, leaf: str) -> list[Use]:
  """The matmuls with one leaf."""
  return [
    use
    for use in uses(apply, params, *probe, where=lambda n, x: n == leaf)
    if use.name == leaf and use.primitive == 'dot_general'
  ]
