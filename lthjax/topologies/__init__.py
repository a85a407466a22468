"""How the alive set starts and moves, and the optimizers made of it."""

from lthjax.topologies.ac_dc import ACDCState, ac_dc
from lthjax.topologies.drop_and_grow import DropAndGrowState, drop_and_grow
from lthjax.topologies.fixed import FixedState, fixed, static
from lthjax.topologies.gradual import GradualState, gradual
from lthjax.topologies.largest import LargestState
from lthjax.topologies.moving import start_masks
from lthjax.topologies.nm import NMState, nm
from lthjax.topologies.rigl import rigl
from lthjax.topologies.set import sparse_evolution
from lthjax.topologies.snfs import SNFSState, snfs
from lthjax.topologies.sr_ste import sr_ste
from lthjax.topologies.srigl import SRigLState, srigl
from lthjax.topologies.static_sparse import static_sparse
from lthjax.topologies.straight_through import straight_through
from lthjax.topologies.top_kast import top_kast

__all__ = [
  'ACDCState',
  'DropAndGrowState',
  'FixedState',
  'GradualState',
  'LargestState',
  'NMState',
  'SNFSState',
  'SRigLState',
  'ac_dc',
  'drop_and_grow',
  'fixed',
  'gradual',
  'nm',
  'rigl',
  'snfs',
  'sparse_evolution',
  'sr_ste',
  'srigl',
  'start_masks',
  'static',
  'static_sparse',
  'straight_through',
  'top_kast',
]
