"""Flax NNX modules as pairs of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from lthjax._errors import refuse


class Model(NamedTuple):
  """A network as two pure functions over plain nested dicts.

  Everything that changes is an argument and everything that changed is a
  result, so both functions work under `jax.jit`, `jax.vmap` (many seeds side by
  side), `jax.lax.scan` and `jax.grad`. Any network can be wrapped by hand into
  such a pair; `functional` does it for Flax NNX.

  Attributes:
    init: ``init(key)`` returns ``(params, model_state)``.
    apply: ``apply(params, model_state, x, *, train=False)`` returns ``(outputs,
      new_model_state)``. With ``train``, which must be static under `jax.jit`,
      batch normalization uses the batch's statistics and records them.
  """

  init: Callable[[jax.Array], tuple[Any, Any]]
  apply: Callable[..., tuple[jax.Array, Any]]


def functional(
  make: Callable[[nnx.Rngs], nnx.Module],
  input_shape: tuple[int, ...] | None = None,
) -> Model:
  """Turns a Flax NNX module into a `Model` of pure functions.

  Every ``nnx.Param`` becomes part of ``params``; everything else (running
  statistics of BatchNorm, streams of Dropout) becomes part of ``model_state``.
  Both are plain nested dicts of arrays with ``str`` keys, even where NNX counts
  layers with integers. Leaf paths therefore read ``'conv1/kernel'`` or
  ``'blocks/0/conv1/kernel'``, and masks, checkpoints and optax need not know
  about NNX.

  Args:
    make: builds the module from ``nnx.Rngs``. It must build the same module for
      every key. The module is called as ``module(x, train=train)``.
    input_shape: shape of one example, without the batch axis. When given,
      ``apply`` refuses inputs of another shape.

  Returns:
    The module's `Model`.

  Example:
    >>> from flax import nnx
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import models
    >>> class Net(nnx.Module):
    ...   def __init__(self, *, rngs):
    ...     self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs)])
    ...     self.norm = nnx.BatchNorm(4, rngs=rngs)
    ...
    ...   def __call__(self, x, *, train=False):
    ...     x = self.layers[0](x)
    ...     return self.norm(x, use_running_average=not train)
    >>> net = models.functional(lambda rngs: Net(rngs=rngs))
    >>> params, model_state = net.init(jax.random.key(0))
    >>> jax.tree.map(jnp.shape, params['layers'])
    {'0': {'bias': (4,), 'kernel': (4, 4)}}
    >>> sorted(model_state['norm'])
    ['mean', 'var']
    >>> y, model_state = net.apply(params, model_state, jnp.ones((2, 4)))
    >>> y.shape
    (2, 4)
  """
  # Only shapes are computed here: no array is made and nothing is compiled.
  module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graphdef, *parts = nnx.split(module, nnx.Param, ...)
  params_paths, state_paths = map(_paths, parts)

  def init(key):
    _, params, rest = nnx.split(make(nnx.Rngs(key)), nnx.Param, ...)
    return _to_dict(params), _to_dict(rest)

  def apply(params, model_state, x, *, train=False):
    if input_shape is not None:
      _check_input(x, tuple(input_shape))
    # A copy, because modules write to their variables.
    merged = nnx.merge(
      graphdef,
      _to_state('params', params, params_paths),
      _to_state('model_state', model_state, state_paths),
      copy=True,
    )
    outputs = merged(x, train=train)
    _, _, rest = nnx.split(merged, nnx.Param, ...)
    return outputs, _to_dict(rest)

  return Model(init, apply)


def _to_dict(state: nnx.State) -> dict[str, Any]:
  """Returns a plain nested dict of arrays, with integer keys as strings."""
  # JAX cannot sort dicts that mix both, and names of leaves are strings.
  flat = nnx.to_flat_state(state)
  return traverse_util.unflatten_dict(
    {tuple(map(str, path)): leaf.get_value() for path, leaf in flat}
  )


def _paths(state: nnx.State) -> dict[str, tuple[Any, ...]]:
  """NNX's path of every leaf, by its plain name 'blocks/0/conv1/kernel'."""
  paths = nnx.to_flat_state(state).paths
  return {'/'.join(map(str, path)): path for path in paths}


def _to_state(name: str, tree: chex.ArrayTree, paths) -> nnx.State:
  """Inverts `_to_dict` by name, since NNX itself only counts the leaves."""
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  faults = [f'lacks {n}' for n in paths if n not in leaves]
  faults += [f'has the unknown {n}' for n in leaves if n not in paths]
  refuse(
    faults,
    f'`{name}` is of another model: it {{}}. Pass what `init` or `apply` of'
    ' this model returned.',
  )
  return nnx.from_flat_state(
    [(path, leaves[plain]) for plain, path in paths.items()]
  )


def _check_input(x: jax.Array, input_shape: tuple[int, ...]):
  """Raises if ``x`` is not a batch of examples of ``input_shape``."""
  shape = jnp.shape(x)
  if shape and shape[1:] == input_shape:
    return
  needed = ', '.join(map(str, ('batch', *input_shape)))
  raise ValueError(
    f'x has shape {shape}, but this model takes ({needed}). Give x a batch axis'
    ' or reshape it, or build the model with the `input_shape=` of your data.'
  )
