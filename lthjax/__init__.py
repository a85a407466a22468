"""Lottery tickets and sparse training in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from lthjax import (
  accounting,
  densities,
  masks,
  patterns,
  program,
  schedules,
  scores,
  tickets,
  topologies,
  training,
)
from lthjax.iterative import prune_iteratively
from lthjax.prune import prune
from lthjax.selection import keep_largest
from lthjax.sparsify import (
  SparsifyState,
  Topology,
  get_masks,
  set_masks,
  sparsify,
)
from lthjax.topologies import (
  ac_dc,
  gradual,
  nm,
  rigl,
  snfs,
  sparse_evolution,
  srigl,
  static,
  static_sparse,
)
from lthjax.training import Trainer, TrainState, trainer, with_masks

if TYPE_CHECKING:
  from lthjax import checkpoints as checkpoints
  from lthjax import data as data
  from lthjax import models as models

__version__ = '0.1.0'

__all__ = [
  'SparsifyState',
  'Topology',
  'TrainState',
  'Trainer',
  'ac_dc',
  'accounting',
  'checkpoints',
  'data',
  'densities',
  'get_masks',
  'gradual',
  'keep_largest',
  'masks',
  'models',
  'nm',
  'patterns',
  'program',
  'prune',
  'prune_iteratively',
  'rigl',
  'schedules',
  'scores',
  'set_masks',
  'snfs',
  'sparse_evolution',
  'sparsify',
  'srigl',
  'static',
  'static_sparse',
  'tickets',
  'topologies',
  'trainer',
  'training',
  'with_masks',
]

# Loaded on first use: they need Flax, TensorFlow Datasets or orbax.
_ON_TOP = ('checkpoints', 'data', 'models')


def __getattr__(name: str) -> Any:
  """Loads the parts that stand on top of the core when they are used."""
  if name in _ON_TOP:
    return importlib.import_module(f'lthjax.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  """Lists the parts not loaded yet as well."""
  return sorted({*globals(), *_ON_TOP})
