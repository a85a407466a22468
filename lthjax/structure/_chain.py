"""Groups of layers that follow one another."""

from collections.abc import Iterator, Sequence

import chex

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.structure._groups import Group, by_axes


def chain(params: chex.ArrayTree, layers: Sequence[str]) -> dict[str, Group]:
  """Groups the hidden units of layers that follow one another.

  Kernels have their inputs on the second-to-last axis and their outputs on the
  last one, as in Flax. A layer without a kernel, such as a normalization, has
  the units of the layer before it. The inputs of the first layer and the
  outputs of the last one are in no group.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`; or several such trees,
      as in ``(params, model_state)``, to include running statistics.
    layers: the names of all layers, in the order of the computation. A leaf
      belongs to the layer whose name is among its keys.

  Returns:
    ``{layer: Group}`` for every hidden layer with a kernel. For networks that
    do not form a chain, use `from_program` or `by_axes`.

  Example:
    >>> import jax
    >>> import lthjax as lth
    >>> model = lth.models.lenet_300_100()
    >>> params, _ = jax.eval_shape(model.init, jax.random.key(0))
    >>> groups = lth.structure.chain(params, ['fc1', 'fc2', 'output'])
    >>> print(lth.structure.table(groups))
    group  size  pins  members
    fc1     300  --    fc1/bias[0], fc1/kernel[1], fc2/kernel[0]
    fc2     100  --    fc2/bias[0], fc2/kernel[1], output/kernel[0]
  """
  leaves = _checks.arrays(params, shapes=True)
  leaves = {name: leaf for name, leaf in leaves.items() if leaf is not None}
  if isinstance(layers, str):
    raise _checks.wrong_type('layers', layers, 'be a list of names')
  layers = _checks.globs('layers', layers)
  owners = {
    name: [layer for layer in layers if f'/{layer}/' in f'/{name}/']
    for name in leaves
  }
  kernels = {
    layer: [
      n for n in leaves if layer in owners[n] and len(leaves[n].shape) > 1
    ]
    for layer in layers
  }
  refuse(
    _faults(layers, owners, kernels),
    'These layers do not form a chain: {}. Name every layer of the model once,'
    ' in the order of the computation, or use `lthjax.structure.groups` or'
    ' `by_axes`.',
  )
  # A kernel's outputs are the inputs of the next one; the ends are in no group.
  axes, inputs, outputs = {}, None, None
  last = [layer for layer in layers if kernels[layer]][-1]
  for layer in layers:
    if kernels[layer]:
      inputs, outputs = outputs, None if layer == last else layer
    for name, leaf in leaves.items():
      if layer in owners[name]:
        ndim = len(leaf.shape)
        ends = (outputs,) if ndim == 1 else (inputs, outputs)
        axes[name] = (None,) * (ndim - len(ends)) + ends
  return by_axes(params, axes)


def _faults(
  layers: list[str],
  owners: dict[str, list[str]],
  kernels: dict[str, list[str]],
) -> Iterator[str]:
  """Describes leaves and layers that have no place in a chain."""
  yield from (
    f'{n} belongs to no layer' for n, own in owners.items() if not own
  )
  for name, own in owners.items():
    if len(own) > 1:
      yield f'{name} belongs to {" and ".join(own)}'
  for i, layer in enumerate(layers):
    if not any(layer in own for own in owners.values()):
      yield f'{layer} has no leaf'
    elif len(kernels[layer]) > 1:
      yield f'{layer} has several kernels'
    elif i == 0 and not kernels[layer]:
      yield f'{layer} comes first, but has no kernel'
  if not layers:
    yield 'none was given'
