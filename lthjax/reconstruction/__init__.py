"""Reconstruction: pruned submodules learn the outputs of dense ones.

`reconstruct` trains the alive weights of one submodule on a little calibration
data, with no labels and no backward pass through the rest of the model.
`prune_blocks` prunes a whole stack of blocks that way, one after the other.
"""

from lthjax.reconstruction._blocks import PrunedBlocks, prune_blocks
from lthjax.reconstruction._reconstruct import Reconstructed, reconstruct

__all__ = ['PrunedBlocks', 'Reconstructed', 'prune_blocks', 'reconstruct']
