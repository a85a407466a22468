"""Channels as what is pruned: the scales of normalizations tell their worth.

A channel is what one filter makes of an image. Where a normalization follows,
its scale multiplies the channel, and a channel with scale and bias at zero is
gone: the network may as well be built without it, and without the weights that
read it.

References:
  Liu et al., Learning Efficient Convolutional Networks through Network
  Slimming, arXiv:1708.06519.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.pruning._one_shot import prune
from lthjax.selection import keep_largest

_SCALE = re.compile(
  r'(^|/)(scale|gamma)$|(norm[^/]*|(^|/)bn\d*)/weight$', re.IGNORECASE
)
_BIASES = ('b', 'beta', 'bias', 'offset')


def scales(name: str, leaf: Any) -> bool:
  """Tells the scales of normalizations, one number a channel.

  Args:
    name: the leaf's name, such as ``'norm1/scale'``.
    leaf: the parameter, or its shape.

  Returns:
    Whether it is the scale of a normalization, going by its name: ``scale`` or
    ``gamma``, as in Flax and Haiku; or the ``weight`` of a layer called
    something with ``norm``, or ``bn`` and a number, as is usual in Equinox.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.structured.scales('norm1/scale', jnp.ones(3))
    True
    >>> lth.structured.scales('norm1/bias', jnp.ones(3))
    False
  """
  return len(leaf.shape) == 1 and bool(_SCALE.search(name))


def channel_masks(
  params: chex.ArrayTree,
  sparsity: float,
  where: masks_lib.Where | str | list[str] = scales,
) -> chex.ArrayTree:
  """Keeps the channels with the largest scales, all layers together.

  Counts are exact, and ties go to the lowest index: at initialization, where
  all scales are one, the first layers keep all of their channels. The largest
  of each layer stays in any case, so that no layer cuts the network in two.

  Args:
    params: tree of arrays.
    sparsity: share of the channels that goes, in [0, 1).
    where: the scales to compare, as for `lthjax.masks.full`. In a residual
      network, the channels that are added to a shortcut cannot be taken away,
      but by default they are chosen as well. Choose those inside of the blocks:
      ``'blocks/*/norm1/scale'`` in `lthjax.models.resnet_20`, and
      ``'blocks/*/norm2/scale'`` in `lthjax.models.wide_resnet_22_2`.

  Returns:
    Tree of masks: a bool vector at each scale, `None` elsewhere. It is what
    `lthjax.masks.hamming` compares and `mask_channels` makes masks of.

  Raises:
    ValueError: if there is no scale, if the sparsity is out of range or leaves
      fewer channels than layers, or if scales are NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'conv': {'kernel': jnp.ones((3, 3, 1, 4))},
    ...   'norm': {'scale': jnp.array([0.9, 0.1, -0.5, 0.2])},
    ... }
    >>> lth.structured.channel_masks(params, 0.5)['norm']['scale']
    Array([ True, False,  True, False], dtype=bool)

  References:
    You et al., Drawing Early-Bird Tickets: Towards More Efficient Training of
    Deep Networks, arXiv:1909.11957, section 3. The authors' code keeps what is
    above a threshold, and so one channel less, none of those that tie, and
    sometimes none of a layer.
  """
  masks = masks_lib.full(params, where)

  def size(name, mask, scale):
    del name, mask
    x = jnp.abs(scale)
    return jnp.where(keep_largest(x, 1), jnp.inf, x)

  sizes = trees.map_alive(size, masks, params)
  return prune(sizes, masks, sparsity=sparsity, scope='global')


def mask_channels(
  params: chex.ArrayTree,
  channels: chex.ArrayTree,
  *,
  kernels: Mapping[str, str] | None = None,
  readers: Mapping[str, str | Sequence[str]] | None = None,
) -> chex.ArrayTree:
  """Makes masks of all that belongs to the channels.

  These are the scale and the bias of a channel, the filter that makes it, with
  its bias, and the weights that read it, where it is said which. Training with
  them, `lthjax.static(tx, masks)`, keeps the channels at zero. Without readers
  the network is the same, but `lthjax.accounting.multiply_adds` counts weights
  that read zeros.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    channels: what `channel_masks` returned.
    kernels: ``{scale: kernel}``, the layer that makes the channels of a scale.
      Others go by names: the kernel beside the scale, or in a layer whose name
      has ``conv`` for ``norm``, or no ``_norm``. That is right where each
      normalization follows its convolution, and is not done unless every scale
      of the params finds a kernel with as many outputs. Where normalization
      comes first, as in `lthjax.models.wide_resnet_22_2`, say which:
      ``{'blocks/0/norm2/scale': 'blocks/0/conv1/kernel', ...}``. Outputs are
      the last axis.
    readers: ``{scale: [kernels]}``, the layers that read the channels. Inputs
      are the axis before the last; a dense layer may read every channel at
      several places, as after ``x.reshape(len(x), -1)``.

  Returns:
    Tree of masks, `None` where no channel is concerned.

  Raises:
    ValueError: if the channels do not fit the params or are all `None`, if no
      kernel belongs to a scale, if a name is none of the params, or if a kernel
      does not have that many channels.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'conv': {'kernel': jnp.ones((3, 3, 1, 2))},
    ...   'norm': {'scale': jnp.array([0.9, 0.1]), 'bias': jnp.ones(2)},
    ...   'output': {'kernel': jnp.ones((2, 10))},
    ... }
    >>> masks = lth.structured.mask_channels(
    ...   params,
    ...   lth.structured.channel_masks(params, 0.5),
    ...   readers={'norm/scale': ['output/kernel']},
    ... )
    >>> lth.masks.alive_by_name(masks)
    {'conv/kernel': 9, 'norm/bias': 1, 'norm/scale': 1, 'output/kernel': 10}
  """
  trees.check_like(channels, params, 'params')
  alive = {n: m for n, m in trees.by_name(channels).items() if m is not None}
  if not alive:
    raise ValueError(
      '`channels` are None at every leaf, but must have a mask at some scale:'
      ' make them with `channel_masks(params, sparsity)`.'
    )
  leaves = trees.by_name(params)
  shapes = {n: tuple(x.shape) for n, x in leaves.items() if x is not None}
  kernels = _all_kernels(alive, shapes, kernels or {})
  readers = {
    scale: [names] if isinstance(names, str) else list(names)
    for scale, names in (readers or {}).items()
  }
  _check_names(alive, shapes, kernels, readers)
  masks: dict[str, jax.Array] = {}

  def keep(name, mask):
    mask = jnp.broadcast_to(mask, shapes[name])
    masks[name] = masks[name] & mask if name in masks else mask

  for scale, mask in alive.items():
    kernel = kernels[scale]
    biases = {_sibling(x, bias) for x in (scale, kernel) for bias in _BIASES}
    for name in (scale, kernel, *sorted(biases & shapes.keys())):
      keep(name, mask)
    for name in readers.get(scale, ()):
      places = shapes[name][-2] // mask.size
      keep(name, jnp.tile(mask, places)[:, None])
  return jax.tree_util.tree_map_with_path(
    lambda path, _: masks.get(trees.path_name(path)),
    params,
    is_leaf=trees.is_none,
  )


def add_l1(
  strength: chex.Numeric = 1e-4,
  where: masks_lib.Where | str | list[str] | None = None,
) -> optax.GradientTransformation:
  """Adds the gradient of an L1 penalty: ``strength * sign(w)``.

  It pulls scales towards zero, so that channels tell themselves apart. Stands
  before the optimizer, as `optax.add_decayed_weights` does for L2.

  Args:
    strength: what the sum of absolute values is multiplied by, at least 0.
    where: which leaves, as for `lthjax.masks.full`; by default `scales`. Under
      `optax.inject_hyperparams`, which takes functions for schedules, a
      function needs ``static_args='where'``.

  Returns:
    The transformation, without a state.

  Raises:
    ValueError: if the strength is negative; from ``init`` and ``update``, if no
      leaf of the params is chosen; from ``update``, if there are no params.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = optax.chain(lth.structured.add_l1(0.1), optax.sgd(1.0))
    >>> params = {'norm': {'scale': jnp.array([2.0, -2.0, 0.0])}}
    >>> grads = {'norm': {'scale': jnp.zeros(3)}}
    >>> tx.update(grads, tx.init(params), params)[0]['norm']['scale']
    Array([-0.1,  0.1, -0. ], dtype=float32)

  References:
    Liu et al., arXiv:1708.06519, equation 1; strength as in You et al.,
    arXiv:1909.11957, section 4.
  """
  if not trees.is_traced(strength) and not strength >= 0:
    raise ValueError(
      f'`strength` was {strength}, but must be at least 0: it pulls towards'
      ' zero.'
    )

  def init_fn(params):
    _penalized(params, where)  # Raises if there is none.
    return optax.EmptyState()

  def update_fn(updates, state, params=None):
    if params is None:
      raise ValueError(
        '`add_l1` needs the current params: call `tx.update(grads, state,'
        ' params)`.'
      )
    chosen = _penalized(params, where)

    def add(path, p, g):
      if g is None or trees.path_name(path) not in chosen:
        return g
      return g + (strength * jnp.sign(p)).astype(g.dtype)

    updates = jax.tree_util.tree_map_with_path(
      add, params, updates, is_leaf=trees.is_none
    )
    return updates, state

  return optax.GradientTransformation(init_fn, update_fn)


def _penalized(params, where) -> set[str]:
  """The names of the leaves to penalize; none if there are no leaves at all."""
  leaves = {n: x for n, x in trees.by_name(params).items() if x is not None}
  if not leaves:  # As where optax asks for the structure of a state.
    return set()
  where = scales if where is None else where
  if callable(where):
    chosen = {name for name, x in leaves.items() if where(name, x)}
  else:
    globs = [where] if isinstance(where, str) else list(where)
    chosen = set(trees.first_match(globs, leaves, 'where', 'leaf'))
  if not chosen:
    raise ValueError(
      '`add_l1` found no scale of a normalization in the params, which are'
      f' {", ".join(leaves)}. Choose what to penalize with `where=lambda name,'
      ' leaf: ...` or a glob such as `where="*/scale"`.'
    )
  return chosen


def _kernel_of(scale: str, names: Mapping[str, Any]) -> str | None:
  """The kernel that a scale follows, going by names."""
  *outer, module, _ = ['', *scale.split('/')]
  modules = [
    module,
    re.sub('(batch)?norm', 'conv', module),
    re.sub('(Batch)?Norm', 'Conv', module),
    module.removesuffix('_norm'),
  ]
  found = ['/'.join([*outer, m, 'kernel']).strip('/') for m in modules]
  return next((name for name in found if name in names), None)


def _all_kernels(alive, shapes, given) -> dict[str, str]:
  """The kernels given, and others by name if names tell in this network."""
  params = {n: jax.ShapeDtypeStruct(s, bool) for n, s in shapes.items()}
  rest = [n for n in params if n in alive or scales(n, params[n])]
  named = {n: _kernel_of(n, shapes) for n in rest if n not in given}
  odd = [
    f'{scale} has none'
    if kernel is None
    else f'{scale} has {shapes[scale][-1]} channels, but {kernel}'
    f' {shapes[kernel][-1]} outputs'
    for scale, kernel in named.items()
    if kernel is None or shapes[kernel][-1] != shapes[scale][-1]
  ]
  if not odd:
    return {s: k for s, k in {**named, **given}.items() if k}
  if lost := [name for name in alive if name not in given]:
    raise ValueError(
      f'No kernel is known for {", ".join(lost)}. Names do not tell, as not'
      f' every scale follows the kernel of its name: {"; ".join(odd)}. Say'
      ' which layers make the channels with `kernels={scale: kernel}`; the'
      f' kernels are {", ".join(n for n, s in shapes.items() if len(s) > 1)}.'
    )
  return dict(given)


def _sibling(name: str, leaf: str) -> str:
  return '/'.join([*name.split('/')[:-1], leaf])


def _check_names(alive, shapes, kernels, readers) -> None:
  """Raises if channels cannot be found in the kernels, naming all of them."""
  faults = []
  pairs = [(scale, kernel, -1) for scale, kernel in kernels.items()]
  pairs += [(s, name, -2) for s, names in readers.items() for name in names]
  for scale, name, axis in pairs:
    if unknown := [n for n in (scale, name) if n not in shapes]:
      faults.append(f'{unknown[0]} is none of the params')
      continue
    if axis == -2 and scale not in alive:
      faults.append(f'{scale} has readers but no channels')
      continue
    size, whole = shapes[scale][-1], len(shapes[name]) == 2 and axis == -2
    n = shapes[name][axis] if len(shapes[name]) > 1 else 0
    if n != size and not (whole and n and n % size == 0):
      side = 'outputs' if axis == -1 else 'inputs'
      faults.append(f'{name} has {n} {side}, but {scale} {size} channels')
  if faults:
    raise ValueError(
      f'Channels do not fit the kernels: {"; ".join(faults)}. `kernels` names'
      ' the layer that makes the channels of a scale, `readers` those that'
      ' read them.'
    )
