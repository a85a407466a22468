"""Cost of sparse networks: arithmetic per pass and per step, and exploration.

`multiply_adds` counts one forward pass of any model, and the functions of
`step_cost` turn that into the cost of training, method by method.
"""

from lthjax.accounting import step_cost
from lthjax.accounting._forward import MultiplyAdds, multiply_adds
from lthjax.accounting._itop import itop_init, itop_rate, itop_update

__all__ = [
  'MultiplyAdds',
  'itop_init',
  'itop_rate',
  'itop_update',
  'multiply_adds',
  'step_cost',
]
