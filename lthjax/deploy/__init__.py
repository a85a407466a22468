"""Deployment: sparsity that is faster where it runs, and smaller on disk.

On a CPU, `condense` turns pruned kernels into `Sparse` ones, which compiled
kernels multiply with several times as fast as XLA does with dense ones, in
inference and in training; `sparse_apply` runs any model with them. `report`
says what that gains on the machine at hand, or that it gains nothing. Files
hold alive values and one bit per weight.
"""

from lthjax.deploy._apply import sparse_apply
from lthjax.deploy._compact import (
  Compaction,
  UnitGroup,
  compact,
  compaction,
)
from lthjax.deploy._compile import CompileError
from lthjax.deploy._condense import (
  condense,
  densify,
  is_sparse,
  join,
  regather,
  split,
)
from lthjax.deploy._exchange import load, save
from lthjax.deploy._export import export, load_export, to_bcsr
from lthjax.deploy._kernels import Kernels, build_kernels, kernels
from lthjax.deploy._layouts import Lookup, Sparse
from lthjax.deploy._linear import linear
from lthjax.deploy._report import Report, report
from lthjax.deploy._storage import Storage, storage

__all__ = [
  'Compaction',
  'CompileError',
  'Kernels',
  'Lookup',
  'Report',
  'Sparse',
  'Storage',
  'UnitGroup',
  'build_kernels',
  'compact',
  'compaction',
  'condense',
  'densify',
  'export',
  'is_sparse',
  'join',
  'kernels',
  'linear',
  'load',
  'load_export',
  'regather',
  'report',
  'save',
  'sparse_apply',
  'split',
  'storage',
  'to_bcsr',
]
