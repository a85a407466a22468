"""What sparse networks cost: arithmetic, storage, and how much they explored.

`multiply_adds` counts one forward pass of any model, and the functions of
`training` turn that into the cost of training, method by method.
"""

from lthjax.accounting import training
from lthjax.accounting.forward import MultiplyAdds, multiply_adds
from lthjax.accounting.itop import itop_init, itop_rate, itop_update
from lthjax.accounting.storage import Storage, storage

__all__ = [
  'MultiplyAdds',
  'Storage',
  'itop_init',
  'itop_rate',
  'itop_update',
  'multiply_adds',
  'storage',
  'training',
]
