"""Sanity checks of pruning at initialization: what do its masks know?

Each check keeps one thing of a mask. If the network trains as well with it, the
rest did not matter. Two checks need no function of their own: masks at random
places within each layer are `lthjax.masks.shuffle`, and reinitialization is the
same masks on the params of another seed.

References:
  Su et al., Sanity-Checking Pruning Methods: Random Tickets can Win the
  Jackpot, arXiv:2009.11094. Frankle et al., Pruning Neural Networks at
  Initialization: Why Are We Missing the Mark?, arXiv:2009.08576, section 5.
"""

from collections.abc import Mapping

import chex
import jax

from lthjax import densities, scores, trees
from lthjax.densities import Densities
from lthjax.pruning._one_shot import prune
from lthjax.selection import keep_largest


def inverted(values: chex.ArrayTree) -> chex.ArrayTree:
  """Turns scores around: what a criterion would prune first is kept.

  Args:
    values: tree of scores.

  Returns:
    Tree of scores.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = jnp.array([[0.5, -2.0, 0.1, 1.0]])
    >>> worst = lth.tickets.inverted(lth.scores.magnitude(params))
    >>> lth.prune(worst, lth.masks.full(params), sparsity=0.5)
    Array([[ True, False,  True, False]], dtype=bool)

  References:
    Frankle et al., arXiv:2009.08576, section 5 ("inversion").
  """
  return jax.tree.map(lambda x: -x, values)


def random_quotas(
  key: chex.PRNGKey, masks: chex.ArrayTree, quotas: Mapping[str, int]
) -> chex.ArrayTree:
  """Keeps a given number of weights in each layer, at random places.

  Args:
    key: random key; each leaf folds in its name.
    masks: tree of masks to choose from, such as `lthjax.masks.full(params)`.
    quotas: ``{name: number}`` for every prunable leaf, such as
      `lthjax.masks.alive_by_name` of any other masks.

  Returns:
    Tree of masks, a subset of those given.

  Raises:
    ValueError: if a leaf has no quota, or not as many alive weights; or a quota
      no leaf.

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
  alive = {n: m for n, m in trees.by_name(masks).items() if m is not None}
  faults = [f'{n} has no quota' for n in alive if n not in quotas]
  faults += [f'{n} is no prunable leaf' for n in quotas if n not in alive]
  fitting = {n: m for n, m in alive.items() if n in quotas}
  if not trees.is_traced(*fitting.values(), *quotas.values()):
    faults += [
      f'{name} has a quota of {quotas[name]} out of {int(mask.sum())}'
      for name, mask in fitting.items()
      if not 0 <= quotas[name] <= int(mask.sum())
    ]
  if faults:
    raise ValueError(
      f'The quotas do not fit the masks: {"; ".join(faults)}. Give every'
      ' prunable leaf a number of weights that it has.'
    )
  noise = scores.noise(key, masks)
  return trees.map_alive(
    lambda name, m, x: keep_largest(x, quotas[name], m), masks, noise
  )


def smart_ratio(
  key: chex.PRNGKey,
  masks: chex.ArrayTree,
  sparsity: float,
  spread: Densities | None = None,
) -> chex.ArrayTree:
  """Keeps random weights, fewer and fewer from input to output.

  The random tickets that do as well as pruning at initialization.

  Args:
    key: random key; each leaf folds in its name.
    masks: tree of masks to choose from, such as `lthjax.masks.full(params)`.
    sparsity: dead share of all prunable weights, in [0, 1).
    spread: density by layer; `lthjax.densities.smart_ratio()` by default, which
      tells how to give the order of the layers.

  Returns:
    Tree of masks. Each layer is rounded to whole weights by itself.

  Raises:
    ValueError: as `lthjax.prune` and `lthjax.densities.smart_ratio`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = lth.masks.full(
    ...   {'fc': jnp.ones((20, 10)), 'out': jnp.ones((10, 2))}
    ... )
    >>> ticket = lth.tickets.smart_ratio(jax.random.key(0), masks, 0.9)
    >>> lth.masks.alive_by_name(ticket)
    {'fc': 16, 'out': 6}

  References:
    Su et al., arXiv:2009.11094, section 4.1 ("smart-ratio").
  """
  return hybrid(scores.noise(key, masks), masks, sparsity, spread)


def hybrid(
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  sparsity: float,
  spread: Densities | None = None,
) -> chex.ArrayTree:
  """Keeps the largest weights, as many in each layer as `smart_ratio` does.

  Args:
    params: params after training, with weights or learning rate rewound.
    masks: tree of masks to choose from, such as `lthjax.masks.full(params)`.
    sparsity: dead share of all prunable weights, in [0, 1).
    spread: density by layer; `lthjax.densities.smart_ratio()` by default.

  Returns:
    Tree of masks. Each layer is rounded to whole weights by itself.

  Raises:
    ValueError: as `lthjax.prune` and `lthjax.densities.smart_ratio`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'fc': jnp.array([[3.0, -4.0, 1.0, 2.0, 0.5]]),
    ...   'out': jnp.array([[1.0], [-2.0], [3.0], [0.1], [0.2]]),
    ... }
    >>> masks = lth.masks.full(params)
    >>> lth.tickets.hybrid(params, masks, sparsity=0.6)['fc']
    Array([[ True,  True, False, False, False]], dtype=bool)

  References:
    Su et al., arXiv:2009.11094, section 4.3 ("hybrid tickets").
  """
  return prune(
    scores.magnitude(params),
    masks,
    sparsity=sparsity,
    densities=densities.smart_ratio() if spread is None else spread,
  )
