"""Controls: networks that keep some properties of a ticket, but not others.

| keeps                                | control                               |
|--------------------------------------|---------------------------------------|
| masks                                | the same masks on the params of       |
|                                      | another seed                          |
| masks and signs                      | `sign_preserved`, `signed_constant`   |
| masks and magnitudes                 | `random_signs`                        |
| masks and values, in another order   | `reshuffle`                           |
| weights and alive counts per layer   | `lthjax.masks.shuffle`,               |
|                                      | `random_quotas`                       |
| what scored lowest                   | prune by                              |
|                                      | ``jax.tree.map(jnp.negative, scores)``|

For random tickets of the smart ratio, prune `lthjax.scores.noise` with
``densities=lthjax.densities.smart_ratio()``; for hybrid tickets, prune
`lthjax.scores.magnitude` of the trained params with it.

A ticket sets its dead weights to zero. `with_frozen_dead` keeps them at other
values, such as those of `zero_shrunk`.

Controls of params return a tree like the params. They change the prunable
leaves; where the masks are `None`, params stay unchanged. Random controls fold
the name of each leaf into the key. For several runs, use `jax.vmap`.

References:
  Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask,
  arXiv:1905.01067, sections 3 and 4. Su et al., Sanity-Checking Pruning
  Methods: Random Tickets can Win the Jackpot, arXiv:2009.11094. Frankle et al.,
  Pruning Neural Networks at Initialization: Why Are We Missing the Mark?,
  arXiv:2009.08576, section 5.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, _sharding, scores, trees
from lthjax._errors import refuse
from lthjax.selection import keep_largest


def sign_preserved(
  params: chex.ArrayTree, fresh: chex.ArrayTree, masks: chex.ArrayTree
) -> Any:
  """Keeps the signs, and takes magnitudes from the params of another seed.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = jnp.array([[True, True]])
    >>> params, fresh = jnp.array([[-1.0, 2.0]]), jnp.array([[3.0, -4.0]])
    >>> lth.tickets.sign_preserved(params, fresh, masks)
    Array([[-3.,  4.]], dtype=float32)
  """
  return _map(
    lambda _, m, p, f: jnp.sign(p) * jnp.abs(f).astype(p.dtype),
    masks,
    {'params': params, 'fresh params': fresh},
  )


def signed_constant(params: chex.ArrayTree, masks: chex.ArrayTree) -> Any:
  """Keeps the signs and nothing else: ``sign(w) * std(w)`` in each layer.

  Pass the params at initialization, before any mask is applied.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = jnp.array([[-1.0, 2.0, 3.0, -4.0]])
    >>> lth.tickets.signed_constant(params, lth.masks.full(params))
    Array([[-2.738...,  2.738...,  2.738..., -2.738...]], dtype=float32)
  """
  # The deviation of the whole layer: that of the alive weights alone, which
  # masks by magnitude choose, is not that of the initialization.
  return _map(
    lambda _, m, p: jnp.sign(p) * jnp.std(p), masks, {'params': params}
  )


def random_signs(
  key: chex.PRNGKey, params: chex.ArrayTree, masks: chex.ArrayTree
) -> Any:
  """Keeps the magnitudes and draws new signs.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[1.0, -2.0, 3.0, -4.0]])}
    >>> masks = lth.masks.full(params)
    >>> drawn = lth.tickets.random_signs(jax.random.key(0), params, masks)
    >>> jnp.abs(drawn['w'])
    Array([[1., 2., 3., 4.]], dtype=float32)
  """
  key = _checks.key('key', key)

  def draw(name, m, p):  # The same signs on any mesh.
    own = trees.fold_in_name(key, name)
    signs = _sharding.draw(jax.random.rademacher, own, p, p.dtype)
    return jnp.abs(p) * signs

  return _map(draw, masks, {'params': params})


def reshuffle(
  key: chex.PRNGKey, params: chex.ArrayTree, masks: chex.ArrayTree
) -> Any:
  """Permutes the values of the alive weights within each layer.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> masks = {'w': jnp.array([[True, False, True, True]])}
    >>> moved = lth.tickets.reshuffle(jax.random.key(0), params, masks)
    >>> jnp.sort(moved['w'])
    Array([[1., 2., 3., 4.]], dtype=float32)
  """
  key = _checks.key('key', key)

  def permute(name, m, p):
    p, m = jnp.asarray(p), jnp.asarray(m)
    place, p, m = p, _sharding.whole(p), _sharding.whole(m)
    noise = _sharding.uniform(trees.fold_in_name(key, name), m)
    # Alive entries come first in both orders: in place, and by noise below 1.
    places = jnp.argsort(~m, axis=None, stable=True)
    chance = jnp.argsort(jnp.where(m, noise, 2), axis=None, stable=True)
    flat = jnp.ravel(p)
    moved = flat.at[places].set(flat[chance]).reshape(p.shape)
    return _sharding.match(moved, place)

  return _map(permute, masks, {'params': params})


def with_frozen_dead(
  masks: chex.ArrayTree, params: chex.ArrayTree, initial: chex.ArrayTree
) -> Any:
  """Puts the dead weights at their initial values, or any others, not at zero.

  In a loss, ``loss(with_frozen_dead(masks, params, initial))`` keeps them
  there: no gradient reaches them.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = jnp.array([[True, False]])
    >>> params, initial = jnp.array([[3.0, 4.0]]), jnp.array([[1.0, 2.0]])
    >>> lth.tickets.with_frozen_dead(masks, params, initial)
    Array([[3., 2.]], dtype=float32)
  """
  # The "mask-0 action" of section 4.
  return _map(
    lambda _, m, p, w0: jnp.where(m, p, w0),
    masks,
    {'params': params, 'initial params': initial},
  )


def zero_shrunk(
  params: chex.ArrayTree, initial: chex.ArrayTree, masks: chex.ArrayTree
) -> Any:
  """Returns the initial params, with zeros where training shrank a weight.

  A mask that sets such weights to zero does what training would have done. Pass
  the result to `with_frozen_dead` to treat dead weights this way; pass it as
  params as well to treat all weights.

  Returns:
    Tree like the params: ``initial``, and +0.0 where ``|initial| > |params|``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params, initial = jnp.array([[3.0, -0.5]]), jnp.array([[1.0, 2.0]])
    >>> masks = lth.masks.full(params)
    >>> lth.tickets.zero_shrunk(params, initial, masks)
    Array([[1., 0.]], dtype=float32)
  """
  return _map(
    lambda _, m, w0, p: jnp.where(jnp.abs(w0) > jnp.abs(p), 0, w0),
    masks,
    {'initial params': initial, 'params': params},
  )


def random_quotas(
  key: chex.PRNGKey, masks: chex.ArrayTree, quotas: Mapping[str, int]
) -> Any:
  """Keeps a given number of weights in each layer, at random places.

  Args:
    key: random key; each leaf folds in its name.
    masks: tree of masks to choose from, such as ``lthjax.masks.full(params)``.
    quotas: ``{name: number}`` for every prunable leaf, such as
      `lthjax.masks.alive_by_name` of other masks.

  Returns:
    Tree of masks, a subset of those given.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = lth.masks.full(
    ...   {'fc': jnp.ones((4, 4)), 'out': jnp.ones((4, 2))}
    ... )
    >>> ticket = lth.tickets.random_quotas(
    ...   jax.random.key(0), masks, {'fc': 5, 'out': 3}
    ... )
    >>> lth.masks.alive_by_name(ticket)
    {'fc': 5, 'out': 3}

  References:
    Su et al., arXiv:2009.11094, section 3 (layerwise keep-ratios).
  """
  key = _checks.key('key', key)
  _checks.bool_masks(masks)
  refuse(
    _bad_quotas(trees.prunable(masks), quotas),
    'The quotas do not fit the masks: {}. Give every prunable leaf a number of'
    ' weights that it has.',
  )
  return trees.map_alive(
    lambda name, m, x: keep_largest(x, quotas[name], m),
    masks,
    scores.noise(key, masks),
  )


def _map(
  change: Callable[..., Any],
  masks: chex.ArrayTree,
  given: Mapping[str, chex.ArrayTree],
) -> chex.ArrayTree:
  """Maps ``change(name, mask, *leaves)``; other leaves are the first tree's."""
  alive = _checks.bool_masks(masks)
  for what, tree in given.items():
    _checks.arrays(tree, what)
    trees.check_like(masks, tree, what)
  first, structure = trees.flatten(next(iter(given.values())))
  leaves = [trees.by_name(tree) for tree in given.values()]
  return structure.unflatten(
    x if alive[n] is None else change(n, alive[n], *(t[n] for t in leaves))
    for n, x in first.items()
  )


def _bad_quotas(
  alive: dict[str, Any], quotas: Mapping[str, int]
) -> Iterator[str]:
  """Describes leaves without a number of weights that they have."""
  _checks.mapping('quotas', quotas, 'prunable leaves to numbers of weights')
  yield from (f'{n} has no quota' for n in alive if n not in quotas)
  yield from (f'{n} is not a prunable leaf' for n in quotas if n not in alive)
  fitting = {n: m.sum() for n, m in alive.items() if n in quotas}
  sizes = trees.concrete(fitting) or {}
  numbers = trees.concrete({n: quotas[n] for n in fitting})
  for name, size in sizes.items():
    if numbers is not None and not 0 <= numbers[name] <= size:
      yield f'{name} has a quota of {numbers[name]} out of {int(size)}'
