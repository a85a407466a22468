"""Edge-popup: only the random weights with the largest scores run."""

import math
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, _sharding, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax.axes import Axes
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.pruning._checks import SCOPES
from lthjax.pruning._one_shot import Scope, prune
from lthjax.supermasks._gates import gate, run_gates, tables
from lthjax.supermasks._weights import fan_ins
from lthjax.topologies import _moves


def init_scores(
  key: chex.PRNGKey,
  params: chex.ArrayTree,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  *,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Draws initial scores, uniform in ``±1 / sqrt(fan_in)``.

  Args:
    key: random key; each leaf folds in its name.
    params: tree of arrays, of which only shapes and dtypes matter.
    where: which leaves get scores, as in `lthjax.masks.full`; all others run
      unchanged.
    axes: `lthjax.axes.Axes` by name or glob; by layout where not given.

  Returns:
    Tree like the params, `None` at the leaves without scores.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(2)}
    >>> scores = lth.supermasks.init_scores(jax.random.key(0), params)
    >>> scores['bias'] is None, bool(jnp.abs(scores['kernel']).max() <= 0.5)
    (True, True)
  """
  key = _checks.key('key', key)
  inputs = fan_ins(params, where, axes)

  def draw(name, mask, w):
    # As in the authors' code: `kaiming_uniform_` with a = sqrt(5).
    bound = 1 / math.sqrt(inputs[name])
    own = trees.fold_in_name(key, name)
    noise = _sharding.draw(jax.random.uniform, own, w, w.dtype)
    return (noise * (2 * bound) - bound).astype(w.dtype)

  return trees.map_alive(draw, masks_lib.full(params, where), params)


def edge_popup(
  params: chex.ArrayTree,
  scores: chex.ArrayTree,
  *,
  sparsity: float | None = None,
  scope: Scope = 'layer',
  densities: Densities | None = None,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Returns the params that a network of the best-scored weights runs with.

  The gradient with respect to a score is ``sign(score) * w * g``, where ``g``
  is the gradient of the loss with respect to the weight as the network runs
  with it. Scores of closed weights therefore train too, and these weights pop
  up once their scores are large enough.

  Args:
    params: random weights, which never change.
    scores: the values to train, from `init_scores`. Their absolute values are
      compared; leaves without scores run unchanged.
    sparsity: share of the weights with scores that is left out, strictly
      between 0 and 1. A pattern that fixes it, such as N:M, needs none.
    scope: ``'layer'`` gives each leaf its own budget; ``'global'`` lets all
      leaves compete for one.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    pattern: which shapes may run, such as `lthjax.patterns.NM`.
    axes: `lthjax.axes.Axes` by name or glob; by layout where not given. Each
      layer of a stacked leaf has a budget of its own.

  Returns:
    Tree like the params, +0.0 where left out; differentiable with respect to
    the scores.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = jnp.array([[2.0, -3.0]])
    >>> scores = jnp.array([[0.1, -0.5]])
    >>> lth.supermasks.edge_popup(params, scores, sparsity=0.5)
    Array([[ 0., -3.]], dtype=float32)
    >>> def loss(scores):
    ...   return lth.supermasks.edge_popup(params, scores, sparsity=0.5).sum()
    >>> jax.grad(loss)(scores)
    Array([[2., 3.]], dtype=float32)

  References:
    Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?,
    arXiv:1911.13299, section 3 and eq. 5. The derivative of the absolute value
    is that of the authors' code, where scores may change sign.
  """
  leaves, values, structure = tables(scores, params, 'scores')
  axes = axes_lib.resolve(axes, scores, strict=False)
  keep = _keep(values, sparsity, scope, densities, pattern, axes)

  def run(name, w, score):
    return gate(keep[name], w, jnp.abs(score))

  return run_gates(run, leaves, values, structure)


def edge_popup_masks(
  scores: chex.ArrayTree,
  *,
  sparsity: float | None = None,
  scope: Scope = 'layer',
  densities: Densities | None = None,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Returns the masks behind `edge_popup`, to count, keep or deploy.

  All arguments are as in `edge_popup`. Counts are exact and ties go to the
  lowest index. The number removed is rounded to the nearest integer; the
  authors' code rounds it down.

  Returns:
    Tree of masks, `None` at the leaves without scores.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = jnp.array([[0.1, -0.5]])
    >>> lth.supermasks.edge_popup_masks(scores, sparsity=0.5)
    Array([[False,  True]], dtype=bool)
  """
  values, structure = trees.flatten(scores)
  _checks.check_arrays(values, 'scores')
  axes = axes_lib.resolve(axes, scores, strict=False)
  keep = _keep(values, sparsity, scope, densities, pattern, axes)
  return structure.unflatten(keep.values())


def _keep(
  scores: dict[str, Any],
  sparsity: float | None,
  scope: Scope,
  densities: Densities | None,
  pattern: Pattern,
  axes: Mapping[str, Axes],
) -> dict[str, Any]:
  """Selects the largest scores by name; `None` where there are none."""
  given = {name: x for name, x in scores.items() if x is not None}
  _checks.pattern('pattern', pattern)
  _checks.densities('densities', densities)
  _checks.one_of('scope', scope, SCOPES)
  if sparsity is not None:
    why = 'with all weights or none there is no mask to learn'
    if not _checks.share('sparsity', sparsity, why):
      raise _checks.wrong_value('sparsity', sparsity, f'be above 0: {why}')
    if scope == 'layer' and pattern.density is None:
      shapes = {name: x.shape for name, x in given.items()}
      _moves.check_not_empty(shapes, sparsity, densities, axes)
  # Section 3: the top k by absolute score; no gradient through the choice.
  keep: Any = prune(
    {name: jnp.abs(jax.lax.stop_gradient(x)) for name, x in given.items()},
    {name: jnp.ones_like(x, bool) for name, x in given.items()},
    sparsity=sparsity,
    scope=scope,
    densities=densities,
    pattern=pattern,
    axes=axes,
  )
  return dict.fromkeys(scores) | keep
