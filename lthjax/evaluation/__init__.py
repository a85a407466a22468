"""What pruning changes beside accuracy, measured on the host.

Pure functions of probabilities ``[..., examples, classes]``, labels
``[examples]`` and groups ``[examples]``. Axes in front, such as seeds, stay in
front of what they return. `evaluate` calls all of them for several networks;
`lthjax.report` shows what it returns. Numbers are NumPy's in double precision,
and nothing is compiled.
"""

from lthjax.evaluation import corruptions
from lthjax.evaluation._calibration import (
  Reliability,
  brier,
  ece,
  fit_temperature,
  log_loss,
  overconfidence,
  reliability,
  temper,
)
from lthjax.evaluation._churn import Exemplars, churn, exemplars
from lthjax.evaluation._evaluate import Evaluation, Measures, evaluate
from lthjax.evaluation._evaluate_language import (
  LanguageEvaluation,
  LanguageMeasures,
  evaluate_language,
)
from lthjax.evaluation._frames import GroupTable, table_by_group
from lthjax.evaluation._groups import Groups, accuracy, accuracy_by_group
from lthjax.evaluation._harness import Harness
from lthjax.evaluation._language import (
  Flips,
  flips,
  perplexity_by_domain,
  sequence_losses,
)
from lthjax.evaluation._refusals import Refusals, is_refusal, refusals
from lthjax.evaluation._shifts import Shift, mean_corruption_error
from lthjax.evaluation._smooth import smooth_ece
from lthjax.evaluation._timing import Latency, latency, seconds_in_turn

__all__ = [
  'Evaluation',
  'Exemplars',
  'Flips',
  'GroupTable',
  'Groups',
  'Harness',
  'LanguageEvaluation',
  'LanguageMeasures',
  'Latency',
  'Measures',
  'Refusals',
  'Reliability',
  'Shift',
  'accuracy',
  'accuracy_by_group',
  'brier',
  'churn',
  'corruptions',
  'ece',
  'evaluate',
  'evaluate_language',
  'exemplars',
  'fit_temperature',
  'flips',
  'is_refusal',
  'latency',
  'log_loss',
  'mean_corruption_error',
  'overconfidence',
  'perplexity_by_domain',
  'refusals',
  'reliability',
  'seconds_in_turn',
  'sequence_losses',
  'smooth_ece',
  'table_by_group',
  'temper',
]
