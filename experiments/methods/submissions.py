"""Files with a function `prune`: found, read, called, and checked.

A submission is a file of `experiments/submissions`, or any other, with

  prune(params, loss, data, sparsity) -> masks

Whatever is wrong with it is an error that names the file, before training.
"""

import functools
import hashlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

import lthjax as lth
from lthjax import trees

FOLDER = Path(__file__).parents[1] / 'submissions'
SIGNATURE = '`prune(params, loss, data, sparsity)`'
TOLERANCE = 0.01  # of the weights that are dead or alive, the fewer of both


class Data(NamedTuple):
  """What a submission may look at, beside the params and the loss.

  Attributes:
    batches: training batches, each of them a second argument of the loss:
      ``loss(params, batch)`` is the mean over its examples.
    apply: ``apply(params, x)``, outputs of the network in inference form. A
      decoder takes floats for tokens as well, and reads only their shape.
    shape: shape of one input, without the batch axis.
    key: random key of the seed.
  """

  batches: Sequence[Any]
  apply: Callable[..., jax.Array]
  shape: tuple[int, ...]
  key: chex.PRNGKey


Prune = Callable[[chex.ArrayTree, Callable[..., Any], Data, float], Any]


def names() -> tuple[str, ...]:
  """All files of the folder."""
  return tuple(sorted(path.stem for path in FOLDER.glob('[!_]*.py')))


def find(name: str) -> Path:
  """The file of a submission: its name in the folder, or a path."""
  path = Path(name) if name.endswith('.py') else FOLDER / f'{name}.py'
  if not path.is_file():
    raise ValueError(
      f'{path} is not a file. Submissions are paths that end in .py, or files'
      f' of experiments/submissions: {", ".join(names())}.'
    )
  return path


def digest(path: Path) -> str:
  """Names what a file says, so that it is scored again if it changes."""
  return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def load(path: Path) -> Prune:
  """The function of a file; raises if there is none that can be called."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise ValueError(f'{path} cannot be imported: {_said(error)}') from error
  prune = getattr(module, 'prune', None)
  if not callable(prune):
    raise ValueError(
      f'{path} has no function `prune`. Define {SIGNATURE}, which returns'
      ' masks.'
    )
  try:
    inspect.signature(prune).bind(None, None, None, None)
  except TypeError as error:
    raise ValueError(
      f'{path}: `prune{inspect.signature(prune)}` cannot be called as'
      f' {SIGNATURE}.'
    ) from error
  return functools.partial(_call, path, prune)


def inverted(
  prune: Prune,
  params: chex.ArrayTree,
  loss: Callable[..., Any],
  data: Data,
  sparsity: float,
) -> chex.ArrayTree:
  """The weights that go first: all but those that pruning few leaves.

  For a method that ranks weights once, these are the lowest scores.
  """
  masks = prune(params, loss, data, 1 - sparsity)
  return lth.masks.difference(lth.masks.full(params), masks)


def _call(path, prune, params, loss, data, sparsity):
  """Calls a submission and checks what it returns."""
  try:
    with warnings.catch_warnings():  # Emptied layers are a result.
      warnings.filterwarnings('ignore', 'Pruning left no weight')
      masks = prune(params, loss, data, sparsity)
  except Exception as error:
    raise ValueError(
      f'{path}: `prune` failed at sparsity {sparsity:g}: {_said(error)}'
    ) from error
  check(path, masks, params, sparsity)
  return masks


def check(
  path: Path, masks: Any, params: chex.ArrayTree, sparsity: float
) -> None:
  """Raises unless these are masks of the params, of the right density."""
  full = lth.masks.full(params)
  wanted, found = (_flat(tree) for tree in (full, masks))
  wrong = [
    *(f'there is no {name or "leaf"}' for name in wanted if name not in found),
    *(
      f'{name or "the whole"} is no leaf'
      for name in sorted(found.keys() - wanted)
    ),
  ] or [
    fault
    for name, mask in wanted.items()
    if (fault := _fault(name, mask, found[name]))
  ]
  if wrong:
    raise ValueError(
      f'{path}: `prune` returned {type(masks).__name__} that is not a tree of'
      f' masks of the params: {"; ".join(wrong)}. `lth.masks.full(params)` is'
      ' one, and `lth.prune(scores, masks, sparsity=sparsity)` another.'
    )
  total, alive = lth.masks.count(full), lth.masks.count(masks)
  due = total * (1 - sparsity)
  leaves = sum(mask is not None for mask in wanted.values())
  if abs(alive - due) > max(2 * leaves, TOLERANCE * min(due, total - due)):
    raise ValueError(
      f'{path}: `prune` kept {alive:,} of {total:,} weights'
      f' ({100 * alive / total:.3g} %), but a sparsity of {sparsity:g} leaves'
      f' {due:,.0f} ({100 * due / total:.3g} %). Count over all prunable'
      ' weights together, as `lth.prune(..., scope="global")` does.'
    )


def _flat(tree: Any) -> dict[str, Any]:
  flat = jax.tree_util.tree_flatten_with_path(tree, lambda x: x is None)[0]
  return {trees.path_name(path): leaf for path, leaf in flat}


def _fault(name: str, mask: Any, found: Any) -> str | None:
  """What is wrong with a leaf."""
  if mask is None or found is None:
    if mask is found:
      return None
    if mask is None:
      return f'{name} is never pruned and must be None'
    return f'{name} is None, but must be a mask of shape {mask.shape}'
  found = np.asarray(found)
  if found.shape != mask.shape:
    return f'{name} has shape {found.shape}, but must have {mask.shape}'
  if found.dtype == np.bool_:
    return None
  number = np.issubdtype(found.dtype, np.number)
  if number and (bad := int(np.sum(~np.isfinite(found)))):
    return f'{name} has {bad} values that are not finite, but must be bool'
  return f'{name} has dtype {found.dtype}, but must be bool'


def _said(error: Exception) -> str:
  return f'{type(error).__name__}: {error}'
