"""Units removed for real, with a check that nothing else changes."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.structure import _from_program, _groups, _units
from lthjax.structure._groups import check_groups

UnitMasks = Mapping[str, chex.Array]


def compact(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  keeps: UnitMasks,
  *probe: Any,
  groups: _groups.Groups | None = None,
  masks: chex.ArrayTree | None = None,
  tolerance: float = 1e-4,
) -> tuple[Any, Any]:
  """Removes units for real; the function equals the one with zeroed units.

  A program may have sizes of its own, such as a number of heads, and compute
  something else with smaller params without an error; and where a layer makes
  something other than zero of a zeroed unit, removing it is not zeroing it.
  So both programs run on the probe, and what they return is compared.

  Args:
    apply: pure function ``apply(params, *probe)``. It takes sizes from the
      params.
    params: tree of arrays.
    keeps: ``{group: bool array}``, the units to keep of some groups, as for
      `lthjax.structure.cut`. The groups must have no pins, or be the layers of
      a loop, where a layer of zeros has to leave its input as it is, as blocks
      around a residual stream do.
    *probe: trees of arrays, such as a batch of examples.
    groups: which axes move together; by default those that
      `lthjax.structure.groups` finds.
    masks: tree of masks of the params, to be cut with them; by default that of
      the units, so that the result is true wherever units were removed.
    tolerance: the largest difference between the two programs, relative to the
      largest output. Programs in bfloat16 need more.

  Returns:
    The smaller params, and their masks.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.eye(2, 3), 'out': jnp.ones((3, 2))}
    >>> def apply(params, x):
    ...   return jax.nn.relu(x @ params['in']) @ params['out']
    >>> keeps = {'in[1]': jnp.array([True, True, False])}
    >>> small, _ = lth.structure.compact(apply, params, keeps, jnp.ones((1, 2)))
    >>> small['in'].shape, small['out'].shape
    ((2, 2), (2, 2))
  """
  tolerance = _checks.not_negative('tolerance', tolerance)
  if not probe:
    raise ValueError(
      '`compact` needs a probe, such as a batch of examples, to compare the'
      ' program with zeroed and with smaller params.'
    )
  if trees.is_traced(*jax.tree.leaves((params, probe))):
    raise ValueError(
      '`compact` compares numbers and shapes: call it outside of `jax.jit`.'
    )
  _checks.function('apply', apply, 'apply(params, *probe)')
  _checks.arrays(params)
  _checks.evaluated('apply(params, *probe)', apply, params, *probe)
  tolerance = _checks.positive('tolerance', tolerance)
  if groups is None:
    groups = _from_program.groups(apply, params, *probe)
  check_groups(groups)
  keeps = _units.check_masks(keeps, groups)
  if masks is not None:
    trees.check_like(masks, params, 'params')
  free = [name for name, group in groups.items() if not group.pins]
  refuse(
    [
      f'{name} ({", ".join(sorted(groups[name].pins))})'
      for name in keeps
      if groups[name].pins - {'loop'}
    ],
    '{}: units of pinned groups cannot be removed without changing the'
    f' function. Groups without pins are {", ".join(free) or "not there"};'
    ' `lthjax.structure.cut` removes any, unchecked.',
  )

  def attempt(chosen: UnitMasks) -> tuple[chex.ArrayTree, str | None]:
    small = _units.cut(params, groups, chosen)
    zeroed = masks_lib.apply(_units.masks(chosen, params, groups), params)
    run = jax.jit(apply)
    return small, difference(run(zeroed, *probe), run, small, probe, tolerance)

  small, fault = attempt(keeps)
  if fault:  # Which group it is, or all of them together.
    refuse(
      blame(keeps, lambda one: attempt(one)[1])
      or [f'{" with ".join(keeps)}: {fault}'],
      'Without these units the program is another function: {}. Is there a size'
      ' in the program that does not come from the params, or a layer that'
      ' makes something of a unit that is zero? `lthjax.structure.cut` removes'
      ' units unchecked.',
    )
  found = _units.masks(keeps, params, groups) if masks is None else masks
  return small, _units.cut(found, groups, keeps) if keeps else found


def blame(
  keeps: UnitMasks, fault_of: Callable[[UnitMasks], str | None]
) -> list[str]:
  """Says what is wrong without units of a single group, for each group."""
  alone = {name: fault_of({name: keep}) for name, keep in keeps.items()}
  return [f'{name}: {why}' for name, why in alone.items() if why]


def difference(
  expected: Any,
  run: Callable[..., Any],
  small: chex.ArrayTree,
  probe: tuple[Any, ...],
  tolerance: float,
  floor: float = 0.0,
) -> str | None:
  """Says how the outputs with smaller params differ from those expected.

  The tolerance is relative to the largest output, or to ``floor`` if larger.
  """
  try:
    found = run(small, *probe)
  except (TypeError, ValueError, IndexError) as error:
    return f'{type(error).__name__}: {str(error).splitlines()[0]}'
  expected, found = trees.by_name(expected), trees.by_name(found)
  for name, a in expected.items():
    a, b = np.asarray(a), np.asarray(found[name])
    name = name or 'the output'
    if a.shape != b.shape:
      return f'{name} has shape {b.shape}, not {a.shape}'
    if not jnp.issubdtype(a.dtype, jnp.inexact):
      if (a != b).any():
        return f'{name} differs'
      continue
    a, b = a.astype(np.float64), b.astype(np.float64)
    gap = np.max(np.abs(a - b), initial=0)
    scale = np.max(np.abs(a), initial=0)
    if not gap <= tolerance * max(scale, floor):
      return f'{name} differs by {gap:.2g}, where it is up to {scale:.2g}'
  return None
