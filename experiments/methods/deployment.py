"""A ticket in the forms in which it can be deployed, and what each takes."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import lthjax as lth
from lthjax import deploy

BATCHES = (1, 64)


class Form(NamedTuple):
  """A network as it is deployed.

  Attributes:
    params: what the function takes.
    apply: ``apply(params, x)``.
    stored: params and masks for `lthjax.deploy.save`.
    int8: whether the file holds values of 8 bits.
  """

  params: Any
  apply: Callable[..., Any]
  stored: tuple[chex.ArrayTree, chex.ArrayTree]
  int8: bool = False


def forms(
  apply: Callable[..., Any],
  dense: chex.ArrayTree,
  trained: chex.ArrayTree,
  masks: chex.ArrayTree,
  x: chex.Array,
) -> dict[str, Form]:
  """The dense network, and a ticket in all of its forms.

  ``apply(params, x)`` takes sizes from the params.
  """
  masked = lth.masks.apply(masks, trained)
  everything = jax.tree.map(lambda m: None, masks, is_leaf=lambda m: m is None)
  run = deploy.sparse_apply(apply, masked)
  small = deploy.compact(apply, masked, masks, x)
  compact_run = deploy.sparse_apply(apply, small[0])
  condense = functools.partial(deploy.condense, max_density=1.0)
  return {
    'dense': Form(dense, apply, (dense, everything)),
    'masked': Form(masked, apply, (masked, everything)),
    'condensed': Form(condense(masked, masks), run, (masked, masks)),
    'int8': Form(
      condense(masked, masks, int8=True), run, (masked, masks), int8=True
    ),
    'compacted': Form(small[0], apply, small),
    'compacted, condensed': Form(condense(*small), compact_run, small),
  }


def size_on_disk(form: Form, folder: Path) -> int:
  """Bytes of the file that holds a form."""
  path = folder / 'network.safetensors'
  deploy.save(path, *form.stored, int8=form.int8)
  size = path.stat().st_size
  path.unlink()
  return size


def latencies(
  found: dict[str, Form], x: jax.Array, repeats: int
) -> dict[str, dict[str, float]]:
  """Median and 95th percentile of a call in milliseconds, for each batch.

  The forms take turns, so that a busy machine slows all of them.
  """
  times: dict[str, dict[str, float]] = {name: {} for name in found}
  calls = {name: jax.jit(form.apply) for name, form in found.items()}
  for batch in BATCHES:
    images = jnp.asarray(x[:batch])
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repeats + 2):
      for name, form in found.items():
        start = time.perf_counter()
        calls[name](form.params, images).block_until_ready()
        if turn > 1:
          seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
      for percent in (50, 95):
        value = 1e3 * np.percentile(values, percent)
        times[name][f'ms_p{percent}_batch_{batch}'] = round(float(value), 4)
  return times
