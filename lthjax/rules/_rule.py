"""What a rule is, and the choice of how many weights it keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, counts, trees
from lthjax._errors import refuse
from lthjax.patterns import NM
from lthjax.selection import keep_largest

Within = Literal['output', 'layer']
Ratio = tuple[Any, Any]


class Pruned(NamedTuple):
  """What a rule returns for one kernel.

  Attributes:
    keep: bool ``[inputs, outputs]``.
    kernel: new values ``[inputs, outputs]``; `None` if weights stay.
    failed: whether the statistic could not be used, such as a Gram matrix that
      is not positive definite.
  """

  keep: jax.Array
  kernel: jax.Array | None = None
  failed: jax.Array | bool = False


class Target(NamedTuple):
  """How many weights a rule keeps.

  Attributes:
    sparsity: dead share in [0, 1]; the number is rounded, and exact.
    pattern: N:M along the inputs, instead of a sparsity.
    within: where scores are compared: within each output or over the layer.
  """

  sparsity: float | None
  pattern: NM | None
  within: Within

  @classmethod
  def of(
    cls, sparsity: Any, pattern: Any, within: Within = 'output'
  ) -> 'Target':
    """Checks what the user asks for."""
    if (sparsity is None) == (pattern is None):
      raise ValueError(
        'A rule needs either `sparsity=0.5` or'
        ' `pattern=lthjax.patterns.NM(2, 4)`.'
      )
    if sparsity is not None:
      sparsity = _checks.closed_share('sparsity', sparsity)
    elif not isinstance(pattern, NM) or not 1 <= pattern.n <= pattern.m:
      raise ValueError(
        f'`pattern` was {pattern!r}, but must be N:M with 1 <= n <= m, such as'
        ' `lthjax.patterns.NM(2, 4)`.'
      )
    where = {'output': 'for each output', 'layer': 'over the whole kernel'}
    _checks.one_of('within', within, where)
    return cls(sparsity, pattern, within)

  def kept(self, size: int, ratio: Ratio | None = None) -> Any:
    """Counts the weights to keep among ``size``."""
    ratio = ratio or counts.exact(self.sparsity).as_integer_ratio()
    return size - counts.share_of(size, *ratio, 'nearest')

  def select(
    self, scores: jax.Array, alive: jax.Array, ratio: Ratio | None = None
  ) -> jax.Array:
    """Keeps the largest scores ``[inputs, outputs]``."""
    depth, width = scores.shape
    if self.pattern is not None:
      groups = (depth // self.pattern.m, self.pattern.m, width)
      scores, alive = scores.reshape(groups), alive.reshape(groups)
      keep = keep_largest(scores, self.pattern.n, alive, axis=1)
      return keep.reshape(depth, width)
    if self.within == 'output':
      return keep_largest(scores, self.kept(depth, ratio), alive, axis=0)
    return keep_largest(scores, self.kept(depth * width, ratio), alive)


def check_matrices(
  kernel: Any, gram: Any, *, start: Any = None, **masks: Any
) -> None:
  """Raises unless a kernel, a Gram matrix and masks belong together."""
  shape = np.shape(_checks.array('kernel', kernel))
  if len(shape) != 2:
    raise ValueError(
      f'`kernel` has the shape {shape}, but must be [inputs, outputs]. Reshape'
      ' it, or use `jax.vmap`.'
    )
  depth = shape[0]
  faults = []
  if (given := np.shape(_checks.array('gram', gram))) != (depth, depth):
    faults.append(f'`gram` {given} instead of {(depth, depth)}')
  values = {'kernel': kernel, 'gram': gram}
  if start is not None:
    values['start'] = _checks.array('start', start)
    if np.shape(start) != shape:
      faults.append(f'`start` {np.shape(start)} instead of {shape}')
  _checks.check_masks({k: v for k, v in masks.items() if v is not None})
  for name, mask in masks.items():
    if mask is not None and mask.shape != shape:
      faults.append(f'`{name}` {mask.shape} instead of {shape}')
  refuse(faults, f'A kernel {shape} cannot go with {{}}.')
  refuse(
    [
      f'`{name}`'
      for name, x in (trees.concrete(values) or {}).items()
      if not np.isfinite(np.asarray(x, np.float32)).all()
    ],
    'A kernel and its Gram matrix must be finite, but there is NaN or infinity'
    ' in {}. Look for it in the params and in the calibration data.',
  )


def _check_call(
  rule: 'Rule', name: str, kernel: Any, statistic: Any, alive: Any
) -> None:
  """Raises unless the shapes of a call fit together, and N:M fits them."""
  shape = np.shape(_checks.array(name, kernel))
  if len(shape) < 2:
    raise ValueError(
      f'{name} has the shape {shape}, but must be [batch.., inputs, outputs].'
      ' Reshape it.'
    )
  *lead, depth, _ = shape
  pattern = rule.target.pattern
  if pattern is not None and depth % pattern.m:
    raise ValueError(
      f'{name} has {depth} inputs, not a multiple of {pattern.m}. Take another'
      ' pattern, or leave it out.'
    )
  faults = []
  if np.shape(alive) != shape:
    faults.append(f'`alive` {np.shape(alive)} instead of {shape}')
  if rule.needs is not None:
    tokens = jax.ShapeDtypeStruct((*lead, 1, depth), jnp.float32)
    wanted = jax.eval_shape(rule.needs, tokens).shape
    if np.shape(statistic) != wanted:
      called = getattr(rule.needs, '__name__', 'needs')
      given = np.shape(statistic)
      faults.append(f'`statistic` {given} instead of `{called}` {wanted}')
  refuse(faults, f'{name} {shape} cannot go with {{}}.')


@dataclass(frozen=True)
class Rule:
  """A way to prune a kernel, given a statistic of its activations.

  Rules of your own are made of this class too.

  Attributes:
    prune: ``prune(kernel, statistic, alive, target, ratio, **options) ->
      Pruned``, with a float32 kernel ``[inputs, outputs]``; ``ratio`` is
      `None`, or the sparsity of this layer as an integer numerator and
      denominator, where they vary.
    target: how many weights to keep.
    needs: the statistic, a function of `lthjax.stats`; `None` for none.
    updates: whether it returns new values.
    options: more keywords, as pairs.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> rule = lth.rules.wanda(sparsity=0.5)
    >>> kernel = jnp.array([[1.0, -4.0], [2.0, 1.0]])
    >>> alive, squares = jnp.ones((2, 2), bool), jnp.array([100.0, 1.0])
    >>> rule('w', kernel, squares, alive).keep
    Array([[ True,  True],
           [False, False]], dtype=bool)
  """

  prune: Callable[..., Pruned]
  target: Target
  needs: Callable[[jax.Array], jax.Array] | None = None
  updates: bool = False
  options: tuple[tuple[str, Any], ...] = ()

  def __call__(
    self,
    name: str,
    kernel: jax.Array,
    statistic: jax.Array | None,
    alive: jax.Array,
    ratio: Ratio | None = None,
  ) -> Pruned:
    """Prunes ``[batch.., inputs, outputs]``, each kernel by itself."""
    _check_call(self, name or 'the kernel', kernel, statistic, alive)

    def prune(kernel, statistic, alive):
      options = dict(self.options)
      found = self.prune(
        kernel, statistic, alive, self.target, ratio, **options
      )
      return found._replace(failed=jnp.asarray(found.failed))

    for _ in range(kernel.ndim - 2):
      prune = jax.vmap(prune)
    return prune(kernel, statistic, alive)
