"""Training a pruned submodule to compute what the dense one computes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax._errors import differences, refuse
from lthjax.calibration._calibrate import hashable
from lthjax.topologies import static


class Reconstructed(NamedTuple):
  """What `reconstruct` returns.

  Attributes:
    params: of the submodule; zero where masks are false.
    before: relative squared error of its outputs, over all examples, before
      training.
    after: the same after training, never larger.
  """

  params: Any
  before: jax.Array
  after: jax.Array


def reconstruct(
  block: Callable[..., Any],
  params: chex.ArrayTree,
  dense: chex.ArrayTree,
  masks: chex.ArrayTree,
  x: chex.ArrayTree,
  tx: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  *,
  args: Sequence[Any] = (),
  dense_x: chex.ArrayTree | None = None,
  token_mask: jax.Array | None = None,
  key: chex.PRNGKey | None = None,
) -> Reconstructed:
  """Trains the alive weights of a submodule to match the dense outputs.

  The loss is the squared error of each token's output, relative to the squared
  norm of its target, and averaged over tokens. A token is an index along all
  axes but the last. Submodules with a nonlinearity inside, such as attention,
  an MLP or a whole block, do better than single matrices. Compiled once for all
  submodules that share ``block``, ``tx`` and shapes.

  Args:
    block: pure function ``block(params, x, *args)``, which returns an array or
      a tree of them.
    params: pruned params of the submodule, from which training starts. Leaves
      without a mask train too, unless ``tx`` freezes them.
    dense: its dense params.
    masks: tree of masks.
    x: activations ``[examples, ...]``, as the pruned model computes them.
    tx: any optax transformation.
    steps: number of training steps.
    batch_size: number of examples per step.
    args: more trees of arrays ``[examples, ...]`` for the block.
    dense_x: activations of the dense model, from which the target is computed;
      by default ``x``.
    token_mask: bool array of the shape of the first axes of ``x``, true where a
      token counts in the error.
    key: shuffles the examples in each epoch; by default ``jax.random.key(0)``.

  Returns:
    Params and errors. Where training did not lower the error, or diverged, the
    params are those from which it started.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> block = lambda params, x: jnp.tanh(x @ params['w'])
    >>> dense = {'w': jnp.array([[1.0], [1.0]])}
    >>> masks = {'w': jnp.array([[True], [False]])}
    >>> pruned = lth.masks.apply(masks, dense)
    >>> x = jnp.array([[0.1, 0.1], [0.3, 0.3]])  # both inputs agree
    >>> found = lth.reconstruct(
    ...   block, pruned, dense, masks, x, optax.adam(0.1), 100, 2
    ... )
    >>> found.params['w'].ravel().round(2)
    Array([2., 0.], dtype=float32)

  References:
    Wagner et al., A Free Lunch in LLM Compression: Revisiting Retraining after
    Pruning, arXiv:2510.14444.
  """
  _checks.function('block', block, 'block(params, x, *args)')
  _checks.optimizer(tx)
  _check_params(params, dense)
  trees.check_like(masks, params, 'params')
  dense_x = x if dense_x is None else dense_x
  args = tuple(args)
  batch_size = check_batches(x, dense_x, args, batch_size)
  check_tokens(token_mask, x)
  key = jax.random.key(0) if key is None else _checks.key('key', key)
  steps = _checks.at_least('steps', steps, 1)
  options = _Options(hashable(block), tx, steps, batch_size)
  found = _reconstruct(
    options, params, dense, masks, x, dense_x, args, token_mask, key
  )
  given = {'params': params, 'dense': dense, 'x': x, 'dense_x': dense_x}
  _check_finite(found.before, {**given, 'args': args})
  return found


class _Options(NamedTuple):
  """What is compiled in."""

  block: Callable[..., Any]
  tx: Any
  steps: int
  batch_size: int


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(
  options, params, dense, masks, x, dense_x, args, token_mask, key
) -> Reconstructed:
  block, tx, steps, size = options
  start = masks_lib.apply(masks, params)
  target = in_batches(block, dense, (dense_x, *args), size)
  trained, whole = _split(start)
  tx = static(tx, _only(masks, trained))
  data = (x, args), target, token_mask

  def loss(trained, data):
    (x, args), target, valid = data
    total, count = error(block(whole(trained), x, *args), target, valid)
    return total / jnp.maximum(count, 1.0)

  def step(state, rows):
    trained, opt_state = state
    batch = jax.tree.map(lambda each: each[rows], data)
    grads = jax.grad(loss)(trained, batch)
    updates, opt_state = tx.update(grads, opt_state, trained)
    return (optax.apply_updates(trained, updates), opt_state), None

  rows = _order(key, len(jax.tree.leaves(x)[0]), steps, size)
  (last, _), _ = jax.lax.scan(step, (trained, tx.init(trained)), rows)
  new = masks_lib.apply(masks, whole(last))

  def measured(params):
    y = in_batches(block, params, (x, *args), size)
    total, count = error(y, target, token_mask)
    return total / jnp.maximum(count, 1.0)

  before, after = measured(start), measured(new)
  better = after < before  # False where training gave NaN.
  new = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, start)
  return Reconstructed(new, before, jnp.where(better, after, before))


def error(
  outputs: Any, targets: Any, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Sums relative squared errors of tokens, and counts the tokens."""
  total = count = jnp.float32(0)
  pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(targets), strict=True)
  for y, target in pairs:
    y, target = y.astype(jnp.float32), target.astype(jnp.float32)
    norms = jnp.sum(jnp.square(target), -1)
    weights = jnp.ones_like(norms)
    if valid is not None:
      more = (1,) * (norms.ndim - valid.ndim)
      weights *= valid.reshape(valid.shape + more)
    # Tokens whose target is zero are compared with the others.
    size = jnp.sum(jnp.where(weights > 0, norms, 0.0))
    size /= jnp.maximum(jnp.sum(weights), 1.0)
    norms += 1e-6 * size + jnp.finfo(jnp.float32).tiny
    errors = jnp.sum(jnp.square(y - target), -1) / norms
    total += jnp.sum(jnp.where(weights > 0, errors, 0.0))
    count += jnp.sum(weights)
  return total, count


def in_batches(
  block: Callable[..., Any],
  params: chex.ArrayTree,
  inputs: tuple[Any, ...],
  size: int,
) -> Any:
  """Applies a block to so many examples at a time."""
  number = len(jax.tree.leaves(inputs)[0])
  whole = number // size

  def part(x, first, last, *shape):
    return x[first:last].reshape(*shape, *x.shape[1:])

  head = jax.tree.map(lambda x: part(x, 0, whole * size, whole, size), inputs)
  y = jax.lax.map(lambda each: block(params, *each), head)
  y = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), y)
  if rest := number - whole * size:
    tail = jax.tree.map(lambda x: part(x, whole * size, number, rest), inputs)
    more = block(params, *tail)
    y = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y, more)
  return y


def _split(params: Any) -> tuple[Any, Callable[[Any], Any]]:
  """Returns what trains, in float32 at least, and the way back to params."""
  leaves, structure = trees.flatten(params)
  leaves = {n: None if x is None else jnp.asarray(x) for n, x in leaves.items()}
  trained = {
    name: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if x is not None and jnp.issubdtype(x.dtype, jnp.floating)
    else None
    for name, x in leaves.items()
  }

  def whole(tree):
    new = trees.by_name(tree)
    return structure.unflatten(
      x if x is None or new[name] is None else new[name].astype(x.dtype)
      for name, x in leaves.items()
    )

  return structure.unflatten(trained.values()), whole


def _only(masks: Any, trained: Any) -> Any:
  """Drops the masks of what does not train."""
  leaves, structure = trees.flatten(trained)
  given = trees.by_name(masks)
  return structure.unflatten(
    None if x is None else given[name] for name, x in leaves.items()
  )


def _order(key: Any, number: int, steps: int, size: int) -> jax.Array:
  """Draws which examples each step sees, epoch by epoch."""
  epochs = -(-steps * size // number)
  draw = jax.vmap(lambda key: jax.random.permutation(key, number))
  order = draw(jax.random.split(key, epochs)).reshape(-1)
  return order[: steps * size].reshape(steps, size)


def _check_params(params: Any, dense: Any) -> None:
  """Raises unless both are params of one submodule."""
  given, wanted = (
    {n: getattr(x, 'shape', None) for n, x in _checks.arrays(*each).items()}
    for each in ((params, 'params'), (dense, 'dense'))
  )
  refuse(
    differences(wanted, given),
    '`params` and `dense` must be of one submodule, but their shapes differ:'
    ' {}. Pass the dense params from which the pruned ones were made.',
  )


def _check_finite(before: jax.Array, given: dict[str, Any]) -> None:
  """Raises if there was no error to lower, and says where NaN came from."""
  known = trees.concrete({'before': before})
  if known is None or np.isfinite(known['before']):
    return
  broken = [
    f'{what}/{name}' if name else what
    for what, tree in given.items()
    for name, x in trees.by_name(tree).items()
    if x is not None
    and jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)
    and not bool(jnp.isfinite(x).all())
  ]
  raise ValueError(
    f'The outputs of `block` differ by {known["before"]} before it trains, so'
    f' nothing can be learned. NaN or infinity is in'
    f' {", ".join(broken) or "what `block` computes"}. Look for it in the'
    ' params and in the data.'
  )


def check_batches(
  x: Any, dense_x: Any, args: tuple[Any, ...], batch_size: Any
) -> int:
  """Returns the batch size, if all inputs have so many examples."""
  size = _checks.at_least('batch_size', batch_size, 1)
  inputs = {'x': x, 'dense_x': dense_x} | {
    f'args[{i}]': each for i, each in enumerate(args)
  }
  numbers = {}
  for name, each in inputs.items():
    for path, leaf in _checks.arrays(each, name).items():
      if leaf is not None:
        where = f'{name}/{path}' if path else name
        numbers[where] = jnp.shape(leaf)[:1]
  number = next(iter(numbers.values()))
  faults = [f'{n} has {k}' for n, k in numbers.items() if k != number or not k]
  refuse(
    faults,
    f'All inputs of a block need as many examples, {number}, along their first'
    ' axis, but {}.',
  )
  if size > number[0]:
    raise ValueError(
      f'`batch_size` was {size}, but must be at most the number of examples,'
      f' {number[0]}. Give more examples, or smaller batches.'
    )
  return size


def check_tokens(token_mask: Any, x: Any) -> None:
  """Raises unless a mask of tokens fits the activations."""
  if token_mask is None:
    return
  if not jnp.issubdtype(getattr(token_mask, 'dtype', object), bool):
    raise _checks.wrong_type(
      'token_mask', token_mask, 'be a bool array, true where a token counts'
    )
  shape = jnp.shape(jax.tree.leaves(x)[0])
  if not token_mask.shape or token_mask.shape != shape[: token_mask.ndim]:
    raise ValueError(
      f'`token_mask` has the shape {token_mask.shape}, but must have that of'
      f' the first axes of `x`, {shape}: one entry per token.'
    )
