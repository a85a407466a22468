"""Which positions may attend to which, and the bias that makes them do so."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lthjax import _checks
from lthjax.linguistic import _tags

MODES = {
  'pos_only': 'tags',
  'features_only': 'features of words',
  'full': 'both',
  'none': 'neither',
}


def pos_mask(tags: Any, matrix: Any = None) -> jax.Array:
  """Opens the edges between words of compatible tags.

  Causality is left to the model. The diagonal is open, and so are all edges
  from and to ``<bos>`` and padding: no row of attention is closed altogether,
  and a model closes padding by itself.

  Args:
    tags: int[.., T], as `tag_ids` returns; may be traced.
    matrix: bool[17, 17], which may be traced; by default `compatibility`.

  Returns:
    bool[.., T, T], queries by keys.

  Example:
    >>> from lthjax import linguistic
    >>> tags = linguistic.tag_ids([['DET', 'ADJ', 'NOUN']], bos=False)
    >>> linguistic.pos_mask(tags)[0]
    Array([[ True, False,  True],
           [False,  True,  True],
           [ True,  True,  True]], dtype=bool)
  """
  if isinstance(tags, Tracer):
    _tags.check_kind('tags', tags, tags)
    found = tags
  else:
    found = jnp.asarray(_tags.check_ids('tags', tags))
  if not isinstance(matrix, Tracer):
    matrix = _tags.check_matrix(matrix)
  queries, keys = found[..., :, None], found[..., None, :]
  # Negative ids read some entry, which the rest of the line overrides.
  allowed = jnp.asarray(matrix)[jnp.maximum(queries, 0), jnp.maximum(keys, 0)]
  diagonal = jnp.eye(found.shape[-1], dtype=bool)
  return allowed | (queries < 0) | (keys < 0) | diagonal


def bias(
  pos: Any = None,
  features: Any = None,
  *,
  mode: str = 'pos_only',
  alpha: Any = None,
  value: float = -np.inf,
) -> jax.Array:
  """Computes what is added to the logits of attention.

  A hard bias closes the edges where ``C`` is 0, a soft one adds ``alpha C``.

  Args:
    pos: bool[.., T, T], such as `pos_mask` returns; modes ``'pos_only'`` and
      ``'full'`` need it.
    features: compatibility in [0, 1] of the same shape, such as
      `compat_matrix` returns; modes ``'features_only'`` and ``'full'`` need it.
    mode: what ``C`` is: ``'pos_only'``, ``'features_only'``, ``'full'`` (their
      product) or ``'none'`` (1 everywhere, so that a hard bias is 0).
    alpha: factor of a soft bias, or one factor per head, float[H]; it may be
      trained. By default, the bias is hard.
    value: of closed edges in a hard bias: ``-inf``, or a finite number, which
      leaks: with -10, a closed edge keeps a factor of e⁻¹⁰, or 4.5e-5.

  Returns:
    float32[.., T, T]; float32[.., H, T, T] with one alpha per head.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import linguistic
    >>> mask = jnp.array([[True, False], [True, True]])
    >>> linguistic.bias(mask)
    Array([[  0., -inf],
           [  0.,   0.]], dtype=float32)
    >>> linguistic.bias(mask, alpha=jnp.array([0.5, 2.0])).shape
    (2, 2, 2)
  """
  parts = {'pos': pos, 'features': features}
  used = {'pos_only': ['pos'], 'features_only': ['features'], 'none': []}.get(
    _checks.one_of('mode', mode, MODES), ['pos', 'features']
  )
  if missing := [name for name in used if parts[name] is None]:
    raise ValueError(
      f'Mode "{mode}" needs `{missing[0]}`. Pass it, or choose another mode.'
    )
  given = [_check_edges(name, x) for name, x in parts.items() if x is not None]
  if not given:
    raise ValueError(
      'Mode "none" takes its shape from `pos` or `features`. Pass one of them,'
      ' or no bias at all.'
    )
  for name, x in parts.items():
    if x is None or isinstance(x, Tracer) or not np.size(x):
      continue
    low, high = np.min(x), np.max(x)
    if not 0 <= low <= high <= 1:
      raise ValueError(
        f'`{name}` goes from {low:g} to {high:g}, but compatibility is from 0'
        ' to 1. Scale it; `alpha` says how much it weighs.'
      )
  shape = jnp.broadcast_shapes(*[x.shape for x in given])
  c = jnp.ones(shape, jnp.float32)
  for name in used:
    c *= jnp.asarray(parts[name], jnp.float32)
  if alpha is not None:
    return _soft(c, alpha)
  if not (closed := _checks.real('value', value)) < 0:
    raise _checks.wrong_value('value', value, 'be below zero, such as -inf')
  return jnp.where(c > 0, jnp.float32(0), jnp.float32(closed))


def pad_edges(
  matrices: Sequence[Any],
  *,
  bos: bool = True,
  length: int | None = None,
  fill: float = 1,
) -> np.ndarray:
  """Makes one array of matrices over the words of one sentence each.

  Args:
    matrices: [words, words] of each sentence, such as `compat_matrix` returns.
    bos: whether a row and a column for ``<bos>`` come first.
    length: number of positions; by default that of the longest sentence.
    fill: value at ``<bos>`` and padding: 1 for masks, 0 for sets of edges.

  Returns:
    [sentences, length, length] of the matrices' dtype.

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> linguistic.pad_edges([np.zeros((1, 1), int)], length=3)
    array([[[1, 1, 1],
            [1, 0, 1],
            [1, 1, 1]]])
  """
  if isinstance(matrices, str) or not isinstance(matrices, Sequence):
    wanted = 'hold a matrix per sentence'
    raise _checks.wrong_type('matrices', matrices, wanted)
  if not matrices:
    raise ValueError('`matrices` is empty. Pass at least one sentence.')
  found = [_check_edges('matrices', x) for x in matrices]
  for x in found:
    if x.ndim != 2:
      raise _checks.wrong_type('matrices', x, 'hold [words, words] of each')
  first = int(_checks.flag('bos', bos))
  longest = max(x.shape[-1] for x in found) + first
  size = _tags.check_length(length, longest)
  _checks.real('fill', int(fill) if isinstance(fill, bool) else fill)
  padded = np.full((len(found), size, size), fill, np.result_type(*found))
  for row, x in zip(padded, found, strict=True):
    row[first : first + len(x), first : first + len(x)] = x
  return padded


def _soft(c: jax.Array, alpha: Any) -> jax.Array:
  scale = jnp.asarray(_checks.array('alpha', alpha), jnp.float32)
  if not isinstance(scale, Tracer) and not np.isfinite(scale).all():
    raise _checks.wrong_value('alpha', alpha, 'be finite')
  if scale.ndim > 1:
    wanted = 'be a number or have one entry per head'
    raise _checks.wrong_type('alpha', alpha, wanted)
  return scale[:, None, None] * c[..., None, :, :] if scale.ndim else scale * c


def _check_edges(name: str, x: Any) -> Any:
  shape = getattr(x, 'shape', ())
  if len(shape) < 2 or shape[-1] != shape[-2]:
    wanted = 'be [.., T, T], queries by keys'
    raise _checks.wrong_type(name, x, wanted)
  return _checks.array(name, x)
