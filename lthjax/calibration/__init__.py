"""Statistics of the activations that kernels are multiplied with.

`calibrate` runs a model, of any framework, and sums a statistic over the tokens
that each kernel meets. The program says which activation that is, so there is
no list of model classes and there are no hooks. `stats` has the statistics.
"""

from lthjax.calibration import stats
from lthjax.calibration._calibrate import calibrate
from lthjax.calibration._calibration import Calibration

__all__ = ['Calibration', 'calibrate', 'stats']
