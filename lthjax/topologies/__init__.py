"""How the alive set starts and moves, and the optimizers made of it."""

from lthjax.topologies.ac_dc import ACDCState, ac_dc
from lthjax.topologies.drop_and_grow import DropAndGrowState, drop_and_grow
from lthjax.topologies.fixed import FixedState, fixed, static
from lthjax.topologies.gradual import GradualState, gradual
from lthjax.topologies.moving import start_masks
from lthjax.topologies.nm import NMState, nm
from lthjax.topologies.rigl import rigl
from lthjax.topologies.set import sparse_evolution
from lthjax.topologies.snfs import SNFSState, snfs
from lthjax.topologies.srigl import SRigLState, srigl
from lthjax.topologies.static_sparse import static_sparse

__all__ = [
  'ACDCState',
  'DropAndGrowState',
  'FixedState',
  'GradualState',
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
  'srigl',
  'start_masks',
  'static',
  'static_sparse',
]
