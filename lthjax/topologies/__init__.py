"""Topologies: how masks start and move, and the optimizers that move them."""

from lthjax.topologies._ac_dc import ACDCState, ac_dc
from lthjax.topologies._circuit import CircuitState, circuit, divide_by_rms
from lthjax.topologies._drop_and_grow import DropAndGrowState, drop_and_grow
from lthjax.topologies._frozen import FrozenState, frozen
from lthjax.topologies._gradual import GradualState, gradual
from lthjax.topologies._largest import LargestState
from lthjax.topologies._metrics import metrics
from lthjax.topologies._rigl import rigl
from lthjax.topologies._set import sparse_evolution
from lthjax.topologies._snfs import SNFSState, snfs
from lthjax.topologies._srigl import SRigLState, srigl
from lthjax.topologies._start import RandomMasks, random_masks
from lthjax.topologies._static import FixedState, fixed, static
from lthjax.topologies._straight_through import sr_ste, straight_through
from lthjax.topologies._top_kast import top_kast

__all__ = [
  'ACDCState',
  'CircuitState',
  'DropAndGrowState',
  'FixedState',
  'FrozenState',
  'GradualState',
  'LargestState',
  'RandomMasks',
  'SNFSState',
  'SRigLState',
  'ac_dc',
  'circuit',
  'divide_by_rms',
  'drop_and_grow',
  'fixed',
  'frozen',
  'gradual',
  'metrics',
  'random_masks',
  'rigl',
  'snfs',
  'sparse_evolution',
  'sr_ste',
  'srigl',
  'static',
  'straight_through',
  'top_kast',
]
