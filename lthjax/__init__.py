"""Lottery tickets and sparse training in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from lthjax import (
  accounting,
  densities,
  landscape,
  masks,
  opt_state,
  patterns,
  program,
  proxies,
  report,
  schedules,
  scores,
  supermasks,
  tickets,
  topologies,
  training,
)
from lthjax.iterative import prune_iteratively
from lthjax.opt_state import forward_params, get_masks, set_masks
from lthjax.proxies import rank
from lthjax.prune import prune
from lthjax.selection import keep_largest
from lthjax.sparse_forward import SparseForwardState
from lthjax.sparsify import SparsifyState, Topology, sparsify
from lthjax.topologies import (
  ac_dc,
  gradual,
  nm,
  rigl,
  snfs,
  sparse_evolution,
  sr_ste,
  srigl,
  static,
  static_sparse,
  straight_through,
  top_kast,
)
from lthjax.training import Trainer, TrainState, trainer, with_masks

if TYPE_CHECKING:
  from lthjax import checkpoints as checkpoints
  from lthjax import data as data
  from lthjax import models as models

__version__ = '0.1.0'

__all__ = [
  'SparseForwardState',
  'SparsifyState',
  'Topology',
  'TrainState',
  'Trainer',
  'ac_dc',
  'accounting',
  'checkpoints',
  'data',
  'densities',
  'forward_params',
  'get_masks',
  'gradual',
  'keep_largest',
  'landscape',
  'masks',
  'models',
  'nm',
  'opt_state',
  'patterns',
  'program',
  'proxies',
  'prune',
  'prune_iteratively',
  'rank',
  'report',
  'rigl',
  'schedules',
  'scores',
  'set_masks',
  'snfs',
  'sparse_evolution',
  'sparsify',
  'sr_ste',
  'srigl',
  'static',
  'static_sparse',
  'straight_through',
  'supermasks',
  'tickets',
  'top_kast',
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
