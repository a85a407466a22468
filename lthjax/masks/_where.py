"""Choices of prunable leaves: predicates over names, and globs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, _names, trees
from lthjax import axes as axes_lib
from lthjax._errors import refuse

Where = Callable[[str, Any], bool]


def kernels(name: str, leaf: Any) -> bool:
  """Selects the kernels of dense, convolution and attention layers.

  These are parameters of two or more dimensions that are not biases, scales,
  embeddings or tokens, judging by the words of their names; nor vectors with
  axes of size one that no word calls weights. To ask the program
  instead, use ``where=lthjax.program.kernels(apply, params, inputs)``.

  Args:
    name: the leaf's name, such as ``'decoder/attention/out/kernel'``.
    leaf: the parameter, or its shape.

  Returns:
    Whether the leaf may be pruned by default.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import masks
    >>> masks.kernels('patch_embed/proj/kernel', jnp.ones((3, 2)))
    True
    >>> masks.kernels('token_embedding/embedding', jnp.ones((3, 2)))
    False
  """
  if len(leaf.shape) < 2 or _names.is_kernel(name) is False:
    return False
  return sum(n != 1 for n in leaf.shape) > 1 or _names.is_weight(name)


def scales(name: str, leaf: Any) -> bool:
  """Selects the scales of normalization layers, one number per channel.

  Args:
    name: the leaf's name, such as ``'norm1/scale'``.
    leaf: the parameter, or its shape.

  Returns:
    Whether the leaf is the scale of a normalization layer, judging by its name:
    ``scale`` or ``gamma``, as in Flax and Haiku; or the ``weight`` or ``g`` of
    a layer called ``norm``, ``ln`` or ``bn``, as in Equinox.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.scales('norm1/scale', jnp.ones(3))
    True
    >>> lth.masks.scales('norm1/bias', jnp.ones(3))
    False
  """
  return len(leaf.shape) == 1 and _names.is_scale(name)


def full(
  params: chex.ArrayTree,
  where: Where | str | Sequence[str] = kernels,
  *,
  rule: Where = kernels,
) -> Any:
  """Makes masks that keep every weight, and chooses what may be pruned.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`. Other leaves, such as
      functions, are never pruned.
    where: which leaves may be pruned. A function ``where(name, leaf)`` decides
      on its own. A glob over names, or a list of them, such as
      ``'encoder/*'``, narrows the rule down; the exact name of a leaf selects
      it in any case.
    rule: what globs narrow down, such as `kernels` or `scales`.

  Returns:
    Tree of masks: all true where chosen, `None` elsewhere.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'fc': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
    >>> lth.masks.full(params)['fc']['bias'] is None
    True
    >>> lth.masks.full(params, 'fc/*')['fc']['bias'] is None
    True
    >>> lth.masks.full(params, 'fc/bias')['fc']['bias']
    Array([ True,  True], dtype=bool)
  """
  where = _checks.predicate('where', where)
  leaves, structure = trees.flatten(params)
  arrays = {name: x for name, x in leaves.items() if is_array(x)}
  if leaves and not arrays and any(x is not None for x in leaves.values()):
    _checks.check_arrays(leaves, 'params', shapes=True)
  if callable(where):
    chosen = {n for n, x in _layers(params, arrays, where) if where(n, x)}
  else:
    globs = [where] if isinstance(where, str) else list(where)
    chosen = _chosen_by_globs(
      globs, arrays, _layers(params, arrays, rule), rule
    )
  if not chosen:
    raise ValueError(
      'No leaf of the params was selected for pruning. They are'
      f' {", ".join(leaves) or "empty"}; choose some with'
      ' `where=lambda name, leaf: ...` or by name, as in `where="fc/kernel"`.'
    )
  return structure.unflatten(
    # Like the parameter, so that it is sharded like it.
    jnp.ones_like(x, dtype=bool) if name in chosen else None
    for name, x in leaves.items()
  )


def is_array(x: Any) -> bool:
  """Returns whether a leaf can have a mask: not functions, nor random keys."""
  if not isinstance(getattr(x, 'shape', None), tuple) or not hasattr(
    x, 'dtype'
  ):
    return False
  # Random keys have a shape as well, but an extended dtype.
  return not jnp.issubdtype(x.dtype, jax.dtypes.extended)


def _layers(
  params: chex.ArrayTree, arrays: Mapping[str, Any], rule: Where
) -> list[tuple[str, Any]]:
  """Lists the leaves; for `kernels`, the shape of one layer of each stack."""
  if rule is not kernels:
    return list(arrays.items())
  stacks = axes_lib.stacks(None, params)
  return [
    (
      name,
      jax.ShapeDtypeStruct(
        [n for axis, n in enumerate(x.shape) if axis not in stacks[name]],
        x.dtype,
      ),
    )
    for name, x in arrays.items()
  ]


def _chosen_by_globs(
  globs: list[str],
  arrays: Mapping[str, Any],
  layers: list[tuple[str, Any]],
  rule: Where,
) -> set[str]:
  """Returns leaves named exactly, and those matched that the rule allows."""
  # A name that happens to contain `*` or `[` is still a name.
  exact = {glob for glob in globs if glob in arrays}
  others = [glob for glob in globs if glob not in exact]
  _checks.function('rule', rule, '(name, leaf) -> bool', classes=False)
  allowed = {name for name, x in layers if rule(name, x)}
  matched = set(trees.first_match(others, arrays, 'where', 'leaf'))
  found = allowed | exact
  refuse(
    (
      repr(glob)
      for glob in others
      if not any(trees.matches([glob], name) for name in found)
    ),
    '`where` has globs that match no leaf among the'
    f' {getattr(rule, "__name__", "the rule")}: {{}}. To choose other leaves,'
    ' give their exact names, or `where=lambda name, leaf: ...`.',
  )
  return exact | (matched & allowed)
