"""Training of networks so sparse that their circuits can be read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lthjax import _checks, counts, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax._state import SparsifyState
from lthjax.axes import Axes
from lthjax.selection import keep_largest
from lthjax.topologies import _layers


class CircuitState(NamedTuple):
  """What `circuit` keeps besides the state of the optimizer.

  Attributes:
    masks: the weights that were kept at the last step.
    stacks: as in `DropAndGrowState`.
  """

  masks: Any
  stacks: dict[str, jax.Array]


def circuit(
  inner: optax.GradientTransformation,
  *,
  sparsity: float,
  start_step: int,
  stop_step: int,
  at_least: int = 4,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
  scales_updates: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Keeps the largest weights of each matrix after every step.

  Weights that are not kept are set to zero, but the optimizer trains all of
  them: gradients and slots of dead weights stay, so that the next step may
  bring a weight back. The number of weights falls along a straight line, from
  all of them at ``start_step`` to the target at ``stop_step``, and each neuron
  keeps some in any case. It is traced: nothing is compiled again as it falls.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it. The
      paper has ``optax.chain(divide_by_rms(), optax.adamw(lr, b2=0.95, eps=0.1,
      weight_decay=0.1))``.
    sparsity: dead share of each matrix at ``stop_step``, in [0, 1).
    start_step: the last dense step: 1 % of training in the paper.
    stop_step: the first step at the target: half of training in the paper.
    at_least: how many weights each neuron keeps. They count among those of the
      matrix, which has more if its neurons need them.
    where: which leaves are sparse, as for `lthjax.masks.full`. The paper
      includes biases, which have no neurons of several weights.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs, neurons or a stack of layers.
    scales_updates: whether updates are multiplied by the square root of the
      final over the current density, as the paper does with the learning rate.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[0.1, 5.0, 4.0], [0.2, 7.0, 1.0]])}
    >>> tx = lth.circuit(
    ...   optax.sgd(0.0), sparsity=0.5, start_step=1, stop_step=2, at_least=1
    ... )
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...   updates, state = tx.update({'w': jnp.ones((2, 3))}, state, params)
    >>> optax.apply_updates(params, updates)['w']
    Array([[0. , 0. , 4. ],
           [0.2, 7. , 0. ]], dtype=float32)

  References:
    Gao et al., Weight-sparse transformers have interpretable circuits,
    arXiv:2511.13653, section 2.1 and appendix A.
  """
  _checks.optimizer(inner)
  _checks.predicate('where', where)
  sparsity = _checks.share('sparsity', sparsity)
  at_least = _checks.at_least('at_least', at_least, 0)
  scales_updates = _checks.flag('scales_updates', scales_updates)
  start_step = _checks.at_least('start_step', start_step, 0)
  stop_step = _checks.at_least('stop_step', stop_step, start_step + 1)
  inner = optax.with_extra_args_support(inner)
  target = _Target(sparsity, start_step, stop_step, at_least)

  def init_fn(params: Any) -> Any:
    step = jnp.zeros([], jnp.int32)
    if not jax.tree.leaves(params):  # `optax.tree.map_params` asks for slots.
      return SparsifyState(step, jnp.zeros([], bool), inner.init(params))
    _checks.check_leaves(params)
    masks = masks_lib.full(params, where)
    _, stacks = _layers.remember(axes, params, masks)
    return SparsifyState(step, CircuitState(masks, stacks), inner.init(params))

  def update_fn(updates: Any, state: Any, params: Any = None, **extra_args):
    _checks.needs_params('circuit', params)
    topology = state.topology_state
    trees.check_like(topology.masks, updates, 'gradients')
    step = state.step + 1
    updates, inner_state = inner.update(
      updates, state.inner_state, params, **extra_args
    )
    if scales_updates:
      factor = jnp.sqrt((1 - sparsity) / target.density(step))
      updates = jax.tree.map(lambda u: (u * factor).astype(u.dtype), updates)
    its = _layers.recall(axes, topology.stacks, topology.masks)
    after: Any = optax.apply_updates(params, updates)
    weights = trees.by_name(after)
    masks = trees.map_alive(
      lambda name, _: target.keep(weights[name], step, its.get(name)),
      topology.masks,
    )
    updates = jax.tree.map(
      # An update of -w, as in `sparsify`: +0.0 for every finite weight.
      lambda m, u, p: u if m is None else jnp.where(m, u, -p),
      masks,
      updates,
      params,
      is_leaf=trees.is_none,
    )
    topology = topology._replace(masks=masks)
    new: Any = SparsifyState(step, topology, inner_state)
    return updates, new

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def divide_by_rms() -> optax.GradientTransformation:
  """Divides gradients by their root mean square over all leaves.

  Returns:
    A transformation without a state.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> tx = lth.topologies.divide_by_rms()
    >>> grads = {'w': jnp.array([3.0, -3.0])}
    >>> tx.update(grads, tx.init(grads))[0]['w']
    Array([ 1., -1.], dtype=float32)

  References:
    Gao et al., arXiv:2511.13653, appendix A.
  """

  def divide(updates, params):
    del params
    leaves = jax.tree.leaves(updates)
    number = sum(x.size for x in leaves)
    square = sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves)
    rms = jnp.sqrt(square / number)
    safe = jnp.where(rms > 0, rms, 1.0)
    return jax.tree.map(lambda x: (x / safe).astype(x.dtype), updates)

  return optax.stateless(divide)


class _Target(NamedTuple):
  """How many weights of a matrix are kept at a step."""

  sparsity: float
  start_step: int
  stop_step: int
  at_least: int

  def progress(self, step: Any) -> tuple[Any, int]:
    """The share of the way from dense to sparse, as two integers."""
    # Both halved as often as `counts.share_of` needs for traced integers.
    span = self.stop_step - self.start_step
    stride = -(-span // 2**22)
    past = jnp.clip(step - self.start_step, 0, span)
    return past // stride, span // stride

  def density(self, step: Any) -> jax.Array:
    """The share of the weights at a step."""
    past, span = self.progress(step)
    return 1 - self.sparsity * jnp.minimum(past / span, 1.0)

  def keep(self, x: jax.Array, step: Any, its: Axes | None) -> jax.Array:
    """Marks the largest weights of each layer, and some of each neuron."""
    scores = jnp.abs(x)
    layer = tuple(range(x.ndim)) if its is None else its.layer
    size = axes_lib.size(x.shape, layer)
    ratio = counts.exact(self.sparsity).as_integer_ratio()
    removed = counts.share_of(size, *ratio, 'nearest')
    past, span = self.progress(step)
    past = jnp.minimum(past, span)
    count = size - counts.share_of(removed, past, span, 'nearest')
    if its is None or not its.summed or not self.at_least:
      return keep_largest(scores, jnp.full(_ones(x, layer), count), axis=layer)
    best = keep_largest(scores, self.at_least, axis=its.summed)
    taken = jnp.sum(best, layer, jnp.int32, keepdims=True)
    rest = jnp.maximum(count - taken, 0)
    return best | keep_largest(scores, rest, ~best, axis=layer)


def _ones(x: jax.Array, axes: tuple[int, ...]) -> list[int]:
  """The shape of a count for each slice along some axes."""
  return [1 if axis in axes else n for axis, n in enumerate(x.shape)]
