"""What tests of several modules share: bits, trees, steps, oracles, folders."""

import hashlib
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
import pytest


def bits(tree: Any) -> Any:
  """Type, shape and bytes of every array; -0.0 is not 0.0, and NaN is NaN."""

  def leaf(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return str(x.dtype), leaf(jax.random.key_data(x))
    return str(x.dtype), x.shape, np.asarray(x).tobytes()

  return jax.tree.map(leaf, tree)


def keys(*seeds: int) -> jax.Array:
  """`jax.random.key` of a seed, or an array of them; compiles nothing."""
  data = np.array([(0, seed) for seed in seeds], np.uint32)
  return jax.random.wrap_key_data(data[0] if len(seeds) == 1 else data)


def random_like(
  shapes: Any, seed: int, scale: float = 1.0, dtype: Any = np.float32
) -> Any:
  """NumPy arrays of normal numbers, for a tree whose leaves are shapes."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: (rng.normal(size=shape) * scale).astype(dtype),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def random_masks(
  shapes: Mapping[str, Any], seed: int, density: float = 0.3
) -> Any:
  """NumPy masks, each weight alive by chance, for a tree of shapes."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: rng.random(shape) < density,
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def slow_but(
  cases: Iterable[Any], fast: Collection[Any], several: bool = False
) -> list[Any]:
  """Parameters of a test, all marked as `slow` but some.

  With several parameters, a case is a tuple, known by its first element.
  """
  return [
    pytest.param(
      *(case if several else (case,)),
      marks=[] if (case[0] if several else case) in fast else pytest.mark.slow,
    )
    for case in cases
  ]


def eager_step(
  tx: optax.GradientTransformationExtraArgs, params: Any, state: Any, grads: Any
) -> tuple[Any, Any]:
  """One training step, not compiled."""
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def compile_donated(
  tx: optax.GradientTransformationExtraArgs, params: Any
) -> jax.stages.Compiled:
  """A training step that updates params and state in place, not run."""

  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = jax.eval_shape(tx.init, params)
  step = jax.jit(step, donate_argnums=(0, 1))
  return step.lower(params, state, params).compile()


def largest(
  scores: np.ndarray, count: int, allowed: np.ndarray | None = None
) -> np.ndarray:
  """Mask of the largest scores by sorting: ties to the lowest, NaN last."""
  flat = np.where(np.isnan(scores), -np.inf, scores).ravel()
  dead = np.isnan(scores).ravel()
  if allowed is not None:
    dead = dead | ~np.ravel(allowed)
  order = np.lexsort((np.arange(flat.size), -flat, dead))
  keep = np.zeros(flat.size, bool)
  keep[order[:count]] = True
  return keep.reshape(scores.shape)


def outputs_of(
  blocks: Sequence[str], run_python: Callable[..., str], **options: Any
) -> list[list[str]]:
  """The lines that each block of Python prints, in one fresh process."""
  source = f"""
for block in {list(blocks)!r}:
  print('###')
  exec(compile(block, 'docs', 'exec'), {{'__name__': 'docs'}})
"""
  _, *printed = run_python(source, '-W', 'error', **options).split('###\n')
  return [text.splitlines() for text in printed]


def contents(folder: pathlib.Path) -> dict[str, str]:
  """Everything below a path, by name: digests of files, and the folders."""
  paths = [folder, *folder.rglob('*')]
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    if path.is_file()
    else 'folder'
    for path in paths
  }


def names(folder: pathlib.Path) -> list[str]:
  """Names of what is in a folder."""
  return sorted(path.name for path in folder.iterdir())
