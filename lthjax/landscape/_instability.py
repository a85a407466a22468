"""Instability of training to the noise of SGD."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.landscape import _pairs
from lthjax.landscape._barrier import Barrier, Error, error_barrier
from lthjax.opt_state import forward_params


class Comparison(NamedTuple):
  """Several networks, compared pair by pair.

  All arrays have a leading axis of pairs.

  Attributes:
    networks: the networks.
    pairs: the two networks of each pair, by number.
    barriers: the error between them.
    distances: the Euclidean distance between their weights.
    cosines: the cosine of the angle between their weights.
    disagreements: share of the examples for which they predict different
      classes; `None` without ``predict``.
  """

  networks: tuple[Any, ...]
  pairs: tuple[tuple[int, int], ...]
  barriers: Barrier
  distances: jax.Array
  cosines: jax.Array
  disagreements: jax.Array | None


def instability(
  train: Callable[[Any], Any],
  state: Any,
  keys: chex.PRNGKey | Sequence[chex.PRNGKey],
  *,
  error: Error,
  predict: Callable[[chex.ArrayTree], jax.Array] | None = None,
  points: int = 31,
  batch_size: int | None = None,
  network: Callable[[Any], chex.ArrayTree] | None = None,
) -> Comparison:
  """Trains copies of a network with different noise and compares them.

  Training is stable from a state on if there is no barrier between the copies;
  the paper requires an error barrier below two percentage points. Tickets can
  be rewound to states from which training is stable.

  Args:
    train: ``train(state) -> state`` to the end, such as ``lambda state:
      trainer.fit(state, data, until=1500)``. It must not donate the state.
    state: where the copies start: the state of the dense network at step k, or
      of a ticket (see `lthjax.training.with_masks`). Its field ``key``
      determines the order of the data, augmentation and noise.
    keys: array or list of keys, one per copy.
    error: ``error(network) -> scalar``, as in `error_barrier`.
    predict: ``predict(network)`` returns the predicted class of each example,
      as an array of integers.
    points: as in `error_barrier`.
    batch_size: as in `error_barrier`.
    network: returns, for a trained state, the tree to interpolate; by default
      the params that the network runs with. Required for models with running
      statistics (see `lthjax.landscape`).

  Returns:
    A `Comparison` of all pairs of copies.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> trainer = lth.trainer(
    ...   init=lambda key: ({'w': jnp.zeros(2)}, {}),
    ...   loss=lambda params, state, x, key: (
    ...     jnp.sum((params['w'] - x) ** 2),
    ...     state,
    ...   ),
    ...   tx=optax.sgd(0.1),
    ...   batch=lambda data, key, step: jax.random.choice(
    ...     jax.random.fold_in(key, step), data
    ...   ),
    ... )
    >>> data = jnp.array([[1.0, -1.0], [3.0, 1.0]])
    >>> report = lth.landscape.instability(
    ...   lambda state: trainer.fit(state, data, until=50),
    ...   trainer.init(jax.random.key(0)),
    ...   jax.random.split(jax.random.key(1), 3),
    ...   error=lambda params: jnp.sum((params['w'] - data) ** 2),
    ... )
    >>> report.pairs
    ((0, 1), (0, 2), (1, 2))
    >>> report.barriers.above_line.round(5)  # the error is convex
    Array([0., 0., 0.], dtype=float32)

  References:
    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    arXiv:1912.05671, algorithm 1.
  """
  _checks.function('train', train, 'train(state) -> state')
  if network is not None:
    _checks.function('network', network, 'network(state)')
  if not hasattr(state, 'key'):
    raise ValueError(
      f'The state is a {type(state).__name__} without a field `key`, by which'
      ' the copies would differ. Give a `lthjax.TrainState`, or another state'
      ' with such a field.'
    )
  keys = _check_keys(keys, state.key)
  network = network or _network(state)
  # NamedTuples and dataclasses spell it differently.
  replace = getattr(state, '_replace', None) or state.replace
  networks = []
  for key in keys:  # Algorithm 1, steps 2 to 4: copies differ by noise alone.
    trained = train(replace(key=key))
    if hasattr(state, 'step') and trained.step == state.step:
      raise ValueError(
        f'`train` took no steps: the state was already at step {state.step}.'
        ' Start from an earlier state, or train to a later step.'
      )
    networks.append(network(trained))
  return compare(
    networks, error=error, predict=predict, points=points, batch_size=batch_size
  )


def compare(
  networks: Sequence[chex.ArrayTree],
  *,
  error: Error,
  predict: Callable[[chex.ArrayTree], jax.Array] | None = None,
  points: int = 31,
  batch_size: int | None = None,
) -> Comparison:
  """Compares networks pair by pair: barrier, distance, angle, disagreement.

  The networks are trees of floating-point arrays of the same structure. All
  other arguments are as in `instability`.

  Returns:
    A `Comparison` of all pairs.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> x = jnp.array([-2.0, 0.1, 0.5, 2.0])
    >>> report = lth.landscape.compare(
    ...   [{'w': jnp.array(3.0)}, {'w': jnp.array(-1.0)}],
    ...   error=lambda params: params['w'] ** 2,
    ...   predict=lambda params: (params['w'] * x > 1).astype(int),
    ... )
    >>> print(report.distances, report.cosines, report.disagreements)
    [4.] [-1.] [0.75]
  """
  if predict is not None:
    _checks.function('predict', predict, 'predict(network)')
  if not isinstance(networks, Sequence) or isinstance(networks, str | bytes):
    wanted = 'be a list of trees of arrays'
    raise _checks.wrong_type('networks', networks, wanted)
  _checks.at_least('len(networks)', len(networks), 2)
  refuse(
    (
      f'network {i}: {", ".join(found)}'
      for i, other in enumerate(networks)
      if (found := _pairs.differences(networks[0], other))
    ),
    'Networks to compare must have the same structure, but these differ from'
    ' network 0: {}. Give networks of one model, without leaves that are not'
    ' floating-point arrays.',
  )
  pairs = tuple(itertools.combinations(range(len(networks)), 2))
  both = [(networks[i], networks[j]) for i, j in pairs]
  barriers = [
    error_barrier(error, a, b, points=points, batch_size=batch_size)
    for a, b in both
  ]
  disagreements = None
  if predict is not None:
    classes = [_classes(predict, x) for x in networks]
    disagreements = jnp.stack(
      [jnp.mean(classes[i] != classes[j]) for i, j in pairs]
    )
  return Comparison(
    networks=tuple(networks),
    pairs=pairs,
    barriers=jax.tree.map(lambda *x: jnp.stack(x), *barriers),
    distances=jnp.stack([distance(a, b) for a, b in both]),
    cosines=jnp.stack([cosine(a, b) for a, b in both]),
    disagreements=disagreements,
  )


def distance(params_a: chex.ArrayTree, params_b: chex.ArrayTree) -> jax.Array:
  """Returns the Euclidean distance between two networks in weight space.

  Returns:
    A scalar, summed in at least single precision.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a = {'w': jnp.array([1.0, 1.0]), 'b': jnp.array(0.0)}
    >>> b = {'w': jnp.array([1.0, 4.0]), 'b': jnp.array(4.0)}
    >>> lth.landscape.distance(a, b)
    Array(5., dtype=float32)
  """
  gap = _pairs.map_pair(
    lambda a, b: _pairs.widened(a) - _pairs.widened(b), params_a, params_b
  )
  return jnp.asarray(optax.tree.norm(gap))


def cosine(params_a: chex.ArrayTree, params_b: chex.ArrayTree) -> jax.Array:
  """Returns the cosine of the angle between two networks in weight space.

  Returns:
    A scalar in [-1, 1], summed in at least single precision; NaN if all weights
    of a network are zero.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = {'w': jnp.array([2.0, 0.0])}, {'w': jnp.array([3.0, 4.0])}
    >>> lth.landscape.cosine(a, b).round(3)
    Array(0.6, dtype=float32)
  """
  _pairs.check_alike(params_a, params_b)
  a, b = (jax.tree.map(_pairs.widened, x) for x in (params_a, params_b))
  dot = optax.tree.sum(_pairs.map_pair(jnp.multiply, a, b))
  # Rounding may leave the interval [-1, 1].
  return jnp.clip(dot / (optax.tree.norm(a) * optax.tree.norm(b)), -1, 1)


def _check_keys(keys: Any, like: chex.PRNGKey) -> chex.PRNGKey:
  """Returns keys as an array; raises unless several, all different."""
  if isinstance(keys, list | tuple):
    keys = jnp.stack(keys) if keys else like[None][:0]
  for key in keys if np.ndim(keys) else [keys]:
    _checks.key('keys', key)
  data, needed = map(jax.random.key_data, (keys, like))
  several = data.ndim == needed.ndim + 1
  different = len(np.unique(data, axis=0)) if several else 1
  if different < 2 or different < len(data):
    raise ValueError(
      f'`keys` held {different} different key{"s" * (different != 1)}, but each'
      ' copy, at least 2, needs its own, such as `jax.random.split(key, 3)`.'
    )
  return keys


def _network(state: Any) -> Callable[[Any], chex.ArrayTree]:
  """Returns the default ``network``; raises if params are not all of it."""
  model_state: Any = getattr(state, 'model_state', None)
  refuse(
    (n for n, x in trees.by_name(model_state).items() if x is not None),
    'The model has a state besides its params: {}. Between two networks it must'
    ' be recomputed from data or interpolated. Give `network=lambda state:'
    ' state.params` and an `error` that calls'
    ' `lthjax.landscape.batch_statistics`; or `network=lambda state:'
    ' (state.params, state.model_state)` and an `error` of both.',
  )
  if not hasattr(state, 'opt_state'):
    return lambda state: state.params
  return lambda state: forward_params(state.opt_state, state.params)


def _classes(predict, network: chex.ArrayTree) -> jax.Array:
  """Predicts; raises unless that gives classes."""
  classes = jnp.asarray(predict(network))
  if not jnp.issubdtype(classes.dtype, jnp.integer):
    raise ValueError(
      f'`predict` must return integers, but returned {classes.dtype} of shape'
      f' {classes.shape}. Take `jnp.argmax(logits, axis=-1)`.'
    )
  return classes
