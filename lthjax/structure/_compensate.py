"""What removed units add on average, put into biases."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.program._interpreter import Path
from lthjax.structure._activations import Activations, check_seen
from lthjax.structure._groups import check_fit
from lthjax.structure._readers import Reader
from lthjax.structure._units import check_masks


def compensate(
  params: chex.ArrayTree,
  keeps: Mapping[str, chex.Array],
  seen: Activations,
) -> Any:
  """Adds what units add on average to the biases of the layers that read them.

  The mean activation of each unit that goes, times the weights that read it: so
  the mean of what the next layer gets stays the same. Do this before `compact`,
  with the same units.

  Args:
    params: tree of arrays.
    keeps: ``{group: bool array}``, the units to keep, from `keep`.
    seen: from `lthjax.structure.activations`.

  Returns:
    The params, with other biases. The units are still there.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'in': jnp.eye(2),
    ...   'out': jnp.array([[1.0, 2.0], [3.0, 0.0]]),
    ...   'bias': jnp.zeros(2),
    ... }
    >>> def apply(params, x):
    ...   return x @ params['in'] @ params['out'] + params['bias']
    >>> x = jnp.array([[1.0, 0.0], [3.0, 2.0], [5.0, 1.0]])
    >>> seen = lth.structure.activations(apply, params, x)
    >>> keeps = {'in[1]': jnp.array([True, False])}
    >>> lth.structure.compensate(params, keeps, seen)['bias']
    Array([3., 0.], dtype=float32)

  References:
    An et al., Fluctuation-based Adaptive Structured Pruning for Large Language
    Models, arXiv:2312.11983, equation 4.
  """
  check_seen(seen)
  _checks.arrays(params)
  leaves = check_fit(seen.groups, params)
  keeps = check_masks(keeps, seen.groups)
  readers = [
    (name, reader) for name in keeps for reader in seen.readers.get(name, ())
  ]
  refuse(
    dict.fromkeys(
      f'{reader.use.name} of {name}'
      for name, reader in readers
      if reader.bias is None
    ),
    'Nothing is added to what these kernels compute, so that the means of'
    ' removed units have no place to go: {}. Give the layers biases of zeros'
    ' first, such as with `out_bias=True` or `mlp_bias=True` in a'
    ' `lthjax.models.LlamaConfig`, or leave these groups as they are.',
  )
  # An input stays if all units that it belongs to do.
  kept: dict[tuple[str, Path], tuple[Reader, np.ndarray]] = {}
  for name, reader in readers:
    key = str(reader.use.name), reader.use.path
    stays = reader.of_units(np.asarray(keeps[name]), True)
    kept[key] = reader, stays & kept.get(key, (reader, np.True_))[1]
  biases: dict[str | None, np.ndarray] = {}
  for (leaf, path), (reader, stays) in kept.items():
    mean = np.asarray(seen.moments[path].mean, np.float64)
    mean = np.where(stays, 0.0, mean)
    more = np.einsum('...i,...io->...o', mean, reader.kernel(leaves[leaf]))
    own = np.asarray(leaves[str(reader.bias)], np.float64)
    bias = biases.get(reader.bias, own)
    biases[reader.bias] = bias + more.reshape(bias.shape)

  def change(path, leaf):
    name = trees.path_name(path)
    if name not in biases:
      return leaf
    return jnp.asarray(biases[name], leaf.dtype)

  return jax.tree_util.tree_map_with_path(change, params)
