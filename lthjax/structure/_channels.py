"""Channel pruning by the scales of normalization layers.

The scale of a normalization multiplies a channel. Once scale and bias are zero
the channel carries nothing, and the filter that makes it and the weights that
read it can go as well.

References:
  Liu et al., Learning Efficient Convolutional Networks through Network
  Slimming, arXiv:1708.06519.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.pruning._one_shot import prune
from lthjax.selection import keep_largest
from lthjax.structure import _groups, _units
from lthjax.structure._groups import Groups


def channel_masks(
  params: chex.ArrayTree,
  sparsity: float,
  where: masks_lib.Where | str | list[str] = masks_lib.scales,
) -> Any:
  """Keeps the channels with the largest scales, across all layers.

  Counts are exact, and ties go to the lowest index: at initialization, where
  all scales are one, the first layers keep all of their channels. Every layer
  keeps its largest channel, so that none disconnects the network.

  Args:
    params: tree of arrays.
    sparsity: share of the channels to remove, in [0, 1).
    where: the scales to compare: a function, or globs that narrow
      `lthjax.masks.scales` down, as for `lthjax.masks.full`. In a residual
      network, channels that are added to a shortcut belong to every block of
      their stage; choose those within the blocks to prune each on its own:
      ``'blocks/*/norm1/scale'`` in `lthjax.models.resnet_20`, and
      ``'blocks/*/norm2/scale'`` in `lthjax.models.wide_resnet_22_2`.

  Returns:
    Tree of masks: a bool vector at each scale, `None` elsewhere. Compare such
    trees with `lthjax.masks.hamming`; make masks of all weights with
    `mask_channels`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'conv': {'kernel': jnp.ones((3, 3, 1, 4))},
    ...   'norm': {'scale': jnp.array([0.9, 0.1, -0.5, 0.2])},
    ... }
    >>> lth.structure.channel_masks(params, 0.5)['norm']['scale']
    Array([ True, False,  True, False], dtype=bool)

  References:
    You et al., Drawing Early-Bird Tickets: Towards More Efficient Training of
    Deep Networks, arXiv:1909.11957, section 3. The authors' code keeps the
    scales above a threshold: one channel fewer, none of those that tie, and
    sometimes none of a layer.
  """
  masks = masks_lib.full(params, where, rule=masks_lib.scales)

  def size(name, mask, scale):
    del name, mask
    x = jnp.abs(scale)
    # Infinite, the largest scale of a layer is never removed.
    return jnp.where(keep_largest(x, 1), jnp.inf, x)

  sizes = trees.map_alive(size, masks, params)
  return prune(sizes, masks, sparsity=sparsity, scope='global')


def mask_channels(
  params: chex.ArrayTree, channels: chex.ArrayTree, groups: Groups
) -> Any:
  """Makes masks of all weights that belong to the channels.

  A dead channel loses its scale and bias, the filter that makes it, with its
  bias, and the weights that read it, wherever the groups contain them. Training
  with these masks, ``lthjax.static(tx, masks)``, keeps the channels at zero.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    channels: the result of `channel_masks`.
    groups: which axes move together, such as
      ``lthjax.structure.groups(apply, params, x)``. If the scales of one
      group disagree, as those of a residual stream do when each is chosen on
      its own, use ``from_program(..., sums=False)``: it ends groups at sums.

  Returns:
    Tree of masks, `None` where no channel is concerned.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'conv': {'kernel': jnp.ones((3, 3, 1, 2))},
    ...   'norm': {'scale': jnp.array([0.9, 0.1]), 'bias': jnp.ones(2)},
    ...   'output': {'kernel': jnp.ones((2, 10))},
    ... }
    >>> masks = lth.structure.mask_channels(
    ...   params,
    ...   lth.structure.channel_masks(params, 0.5),
    ...   lth.structure.chain(params, ['conv', 'norm', 'output']),
    ... )
    >>> lth.masks.alive_by_name(masks)
    {'conv/kernel': 9, 'norm/bias': 1, 'norm/scale': 1, 'output/kernel': 10}
  """
  trees.check_like(channels, params, 'params')
  alive = trees.prunable(channels)
  if not alive:
    raise ValueError(
      '`channels` are None at every leaf, but must have a mask at some scale:'
      ' make them with `channel_masks(params, sparsity)`.'
    )
  _groups.check_fit(groups, params)
  owners = {n: _owner(n, mask.size, groups) for n, mask in alive.items()}
  refuse(
    [name for name, owner in owners.items() if owner is None],
    'No group holds the channels of {}. The groups are'
    f' {", ".join(groups) or "none"}; make them with'
    ' `lthjax.structure.groups(apply, params, x)`, or describe these leaves'
    ' with `lthjax.structure.by_axes`.',
  )
  _refuse_differences(alive, owners)
  units = {owner: alive[name] for name, owner in owners.items() if owner}
  return _units.masks(units, params, groups)


def add_l1(
  strength: chex.Numeric = 1e-4,
  where: masks_lib.Where | str | list[str] | None = None,
) -> optax.GradientTransformation:
  """Adds the gradient of an L1 penalty: ``strength * sign(w)``.

  It pulls scales towards zero, so that unimportant channels stand out. Put it
  before the optimizer, as `optax.add_decayed_weights` for L2.

  Args:
    strength: factor of the sum of absolute values, at least 0.
    where: a function or globs that choose leaves; `lthjax.masks.scales` by
      default. Under `optax.inject_hyperparams`, which takes functions for
      schedules, a function needs ``static_args='where'``.

  Returns:
    The transformation, without a state.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = optax.chain(lth.structure.add_l1(0.1), optax.sgd(1.0))
    >>> params = {'norm': {'scale': jnp.array([2.0, -2.0, 0.0])}}
    >>> grads = {'norm': {'scale': jnp.zeros(3)}}
    >>> tx.update(grads, tx.init(params), params)[0]['norm']['scale']
    Array([-0.1,  0.1, -0. ], dtype=float32)

  References:
    Liu et al., arXiv:1708.06519, equation 1; strength as in You et al.,
    arXiv:1909.11957, section 4.
  """
  if not trees.is_traced(strength):
    _checks.not_negative('strength', strength)
  if where is not None:
    _checks.predicate('where', where)

  def init_fn(params):
    _penalized(params, where)  # Raises if there is none.
    return optax.EmptyState()

  def update_fn(updates, state, params=None):
    _checks.needs_params('add_l1', params)
    chosen = _penalized(params, where)

    def add(path, p, g):
      if g is None or trees.path_name(path) not in chosen:
        return g
      # Equation 1 of arXiv:1708.06519: the subgradient of strength * |w|.
      return g + (strength * jnp.sign(p)).astype(g.dtype)

    updates = jax.tree_util.tree_map_with_path(
      add, params, updates, is_leaf=trees.is_none
    )
    return updates, state

  return optax.GradientTransformation(init_fn, update_fn)


def _penalized(params, where) -> set[str]:
  """Returns the names of the leaves to penalize, none for an empty tree."""
  leaves = trees.prunable(params)
  if not leaves:  # Placeholders, when optax asks for the structure of a state.
    return set()
  where = masks_lib.scales if where is None else where
  if callable(where):
    chosen = {name for name, x in leaves.items() if where(name, x)}
  else:
    globs = [where] if isinstance(where, str) else list(where)
    chosen = set(trees.first_match(globs, leaves, 'where', 'leaf'))
  if not chosen:
    raise ValueError(
      '`add_l1` found no scale of a normalization in the params, which are'
      f' {", ".join(leaves)}. Choose the leaves to penalize with `where=lambda'
      ' name, leaf: ...` or a glob such as `where="*/scale"`.'
    )
  return chosen


def _owner(scale: str, size: int, groups: Groups) -> str | None:
  """Returns the group whose indices are the entries of a scale."""
  # A scale has one entry per unit, in order; other members may have several.
  identity = np.arange(size)[:, None]
  for name, group in groups.items():
    for member in group.members:
      if member.leaf == scale and np.array_equal(member.places, identity):
        return name
  return None


def _refuse_differences(alive, owners) -> None:
  """Raises if scales of one group are, or may be, chosen differently."""
  scales_of: dict[str, list[str]] = {}
  for name, owner in owners.items():
    scales_of.setdefault(owner, []).append(name)
  traced = trees.is_traced(*alive.values())
  refuse(
    (
      f'{" and ".join(names)} of {owner}'
      for owner, names in scales_of.items()
      if len(names) > 1
      and (traced or any((alive[n] != alive[names[0]]).any() for n in names))
    ),
    'The scales of one group must lose the same channels, but these were chosen'
    ' separately: {}. Choose scales within the blocks with `where=`, or end'
    ' groups at sums with `lthjax.structure.groups(..., sums=False)`.',
  )
