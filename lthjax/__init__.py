"""Lottery tickets and sparse training in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from lthjax import (
  accounting,
  activations,
  adapters,
  axes,
  calibration,
  densities,
  deploy,
  evaluation,
  experts,
  files,
  landscape,
  linguistic,
  losses,
  lota,
  masks,
  opt_state,
  patterns,
  program,
  proxies,
  pruning,
  quantization,
  reconstruction,
  report,
  rules,
  runs,
  schedules,
  scores,
  selection,
  structure,
  supermasks,
  tickets,
  topologies,
  training,
  trees,
)
from lthjax._sparsify import sparsify
from lthjax._state import SparsifyState, Topology
from lthjax._versions import __version__ as __version__
from lthjax._versions import show_versions
from lthjax.calibration import Calibration, calibrate, stats
from lthjax.lota import packed
from lthjax.opt_state import forward_params, get_masks, set_masks, strip
from lthjax.proxies import rank
from lthjax.pruning import prune, prune_iteratively, prune_program
from lthjax.reconstruction import prune_blocks, reconstruct
from lthjax.selection import keep_largest
from lthjax.topologies import (
  ac_dc,
  circuit,
  frozen,
  gradual,
  random_masks,
  rigl,
  snfs,
  sparse_evolution,
  sr_ste,
  srigl,
  static,
  straight_through,
  top_kast,
)
from lthjax.training import Trainer, TrainState, trainer, with_masks

if TYPE_CHECKING:
  from lthjax import checkpoints as checkpoints
  from lthjax import data as data
  from lthjax import library as library
  from lthjax import models as models

__all__ = [
  'Calibration',
  'SparsifyState',
  'Topology',
  'TrainState',
  'Trainer',
  'ac_dc',
  'accounting',
  'activations',
  'adapters',
  'axes',
  'calibrate',
  'calibration',
  'checkpoints',
  'circuit',
  'data',
  'densities',
  'deploy',
  'evaluation',
  'experts',
  'files',
  'forward_params',
  'frozen',
  'get_masks',
  'gradual',
  'keep_largest',
  'landscape',
  'library',
  'linguistic',
  'losses',
  'lota',
  'masks',
  'models',
  'opt_state',
  'packed',
  'patterns',
  'program',
  'proxies',
  'prune',
  'prune_blocks',
  'prune_iteratively',
  'prune_program',
  'pruning',
  'quantization',
  'random_masks',
  'rank',
  'reconstruct',
  'reconstruction',
  'report',
  'rigl',
  'rules',
  'runs',
  'schedules',
  'scores',
  'selection',
  'set_masks',
  'show_versions',
  'snfs',
  'sparse_evolution',
  'sparsify',
  'sr_ste',
  'srigl',
  'static',
  'stats',
  'straight_through',
  'strip',
  'structure',
  'supermasks',
  'tickets',
  'top_kast',
  'topologies',
  'trainer',
  'training',
  'trees',
  'with_masks',
]

# Loaded on first use: they need Flax, TensorFlow Datasets or orbax.
_ON_TOP = ('checkpoints', 'data', 'library', 'models')


if not TYPE_CHECKING:  # A type checker would take it for every name.

  def __getattr__(name: str) -> Any:
    """Loads the parts on top of the core when they are used."""
    if name in _ON_TOP:
      return importlib.import_module(f'lthjax.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  """Lists the public names only, those not loaded yet included."""
  return sorted([*__all__, '__version__'])
