"""Rules that prune a kernel, given statistics of the activations it meets.

A `Rule` takes a kernel ``[inputs, outputs]``, a statistic of its activations
and the alive weights, and returns which weights to keep and, if it updates
them, their new values. `lthjax.prune_program` applies one while a model runs.

| rule         | statistic | updates | for                                     |
|--------------|-----------|---------|-----------------------------------------|
| `magnitude`  | none      | no      | the baseline                            |
| `wanda`      | squares   | no      | fast, with few tokens                   |
| `ria`        | squares   | no      | the same, with relative importance      |
| `obd`        | squares   | no      | Optimal Brain Damage                    |
| `sparse_gpt` | Gram      | yes     | accurate; also with int8 or int4        |
| `admm`       | Gram      | yes     | more accurate, a few matmuls more       |
| `alps`       | Gram      | yes     | high sparsity: ADMM until masks stay    |
| `obs`        | Gram      | yes     | exact, for small layers                 |
| `swaps`      | Gram      | no      | better masks after any rule             |
| `refit`      | Gram      | yes     | the best weights for the masks of a rule|
"""

from lthjax.rules._admm import admm, alps
from lthjax.rules._magnitude import magnitude
from lthjax.rules._obs import obd, obs
from lthjax.rules._refit import refit, refit_kernel
from lthjax.rules._rule import Pruned, Rule, Target
from lthjax.rules._sparse_gpt import sparse_gpt
from lthjax.rules._swaps import swap, swaps
from lthjax.rules._wanda import ria, wanda

__all__ = [
  'Pruned',
  'Rule',
  'Target',
  'admm',
  'alps',
  'magnitude',
  'obd',
  'obs',
  'refit',
  'refit_kernel',
  'ria',
  'sparse_gpt',
  'swap',
  'swaps',
  'wanda',
]
