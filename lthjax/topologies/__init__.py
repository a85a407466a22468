"""How the alive set starts and moves, and the optimizers made of it."""

from lthjax.topologies._ac_dc import ACDCState, ac_dc
from lthjax.topologies._drop_and_grow import DropAndGrowState, drop_and_grow
from lthjax.topologies._fixed import FixedState, fixed, static
from lthjax.topologies._gradual import GradualState, gradual
from lthjax.topologies._largest import LargestState
from lthjax.topologies._moving import start_masks
from lthjax.topologies._nm import NMState, nm
from lthjax.topologies._rigl import rigl
from lthjax.topologies._set import sparse_evolution
from lthjax.topologies._snfs import SNFSState, snfs
from lthjax.topologies._sr_ste import sr_ste
from lthjax.topologies._srigl import SRigLState, srigl
from lthjax.topologies._static_sparse import static_sparse
from lthjax.topologies._straight_through import straight_through
from lthjax.topologies._top_kast import top_kast

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
