"""Whether a network is right as often as it is sure of itself."""

from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.evaluation import _inputs

_COLDEST, _HOTTEST = 0.02, 50.0  # temperatures that are tried


class Reliability(NamedTuple):
  """Examples by confidence, ``[..., bins]``, from the lowest to the highest.

  Attributes:
    n: number of examples.
    confidence: mean of the highest probability; NaN in an empty bin.
    accuracy: share of right predictions; NaN in an empty bin.
  """

  n: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray


def reliability(
  probabilities: Any,
  labels: Any,
  *,
  bins: int = 15,
  equal_mass: bool = False,
) -> Reliability:
  """Compares confidence and accuracy in bins of confidence.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.
    bins: number of bins.
    equal_mass: whether bins hold equally many examples, up to ties, instead of
      being equally wide. A bin includes its upper edge.

  Returns:
    A `Reliability`, for a diagram.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[0.9, 0.1], [0.3, 0.7]])
    >>> found = lth.evaluation.reliability(
    ...   probabilities, np.array([0, 0]), bins=4
    ... )
    >>> found.n.tolist(), found.accuracy.tolist()
    ([0, 0, 1, 1], [nan, nan, 0.0, 1.0])

  References:
    Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599,
    section 2.
  """
  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)
  why = 'examples are counted in each of them'
  bins = _checks.between('bins', bins, 1, 10_000, why)
  equal_mass = _checks.flag('equal_mass', equal_mass)

  def one(p: np.ndarray) -> np.ndarray:
    confidence, hits = p.max(-1), p.argmax(-1) == y
    edges = np.linspace(0, 1, bins + 1)
    if equal_mass:
      edges = np.quantile(confidence, edges)
    place = np.searchsorted(edges[1:-1], confidence)
    return np.stack(
      [np.bincount(place, w, bins) for w in (None, confidence, hits)]
    )

  n, confidence, hits = np.moveaxis(_inputs.over_seeds(one, p), -2, 0)
  with np.errstate(invalid='ignore'):
    return Reliability(n.astype(int), confidence / n, hits / n)


def ece(
  probabilities: Any,
  labels: Any,
  *,
  bins: int = 15,
  equal_mass: bool = False,
) -> Any:
  """Computes the expected calibration error.

  The mean over examples of the distance between confidence and accuracy of
  their bin. It depends on the bins: compare networks with the same ones.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.
    bins: number of bins.
    equal_mass: as in `reliability`.

  Returns:
    The error, ``[...]``, in [0, 1].

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[0.9, 0.1], [0.3, 0.7]])
    >>> round(float(lth.evaluation.ece(probabilities, np.array([0, 0]))), 3)
    0.4

  References:
    Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599,
    equation 3.
  """
  found = reliability(probabilities, labels, bins=bins, equal_mass=equal_mass)
  gaps = np.abs(found.accuracy - found.confidence)
  gaps = np.where(found.n > 0, gaps, 0.0)
  return (found.n * gaps).sum(-1) / found.n.sum(-1)


def overconfidence(probabilities: Any, labels: Any) -> Any:
  """Computes mean confidence minus accuracy; below zero is underconfident.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.

  Returns:
    The difference, ``[...]``; its size is at most the `ece`.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[0.9, 0.1], [0.3, 0.7]])
    >>> found = lth.evaluation.overconfidence(probabilities, np.array([0, 0]))
    >>> round(float(found), 3)
    0.3
  """
  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)
  return p.max(-1).mean(-1) - (p.argmax(-1) == y).mean(-1)


def brier(probabilities: Any, labels: Any) -> Any:
  """Computes Brier's score: squared distance from the label, over classes.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.

  Returns:
    The score, ``[...]``, from 0, the best, to 2.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[1.0, 0.0], [0.5, 0.5]])
    >>> float(lth.evaluation.brier(probabilities, np.array([0, 0])))
    0.25
  """
  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)
  return ((p - np.eye(p.shape[-1])[y]) ** 2).sum(-1).mean(-1)


def log_loss(probabilities: Any, labels: Any) -> Any:
  """Computes the mean negative logarithm of the label's probability.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one. Below
      the precision of their dtype they count as that, so that nothing is
      infinite.
    labels: integers ``[examples]``.

  Returns:
    The loss, ``[...]``, in nats.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[0.5, 0.5], [0.125, 0.875]])
    >>> loss = lth.evaluation.log_loss(probabilities, np.array([0, 0]))
    >>> round(float(loss / np.log(2)), 3)
    2.0
  """
  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)
  right = p[..., np.arange(len(y)), y]
  return -np.log(np.maximum(right, _inputs.smallest(probabilities))).mean(-1)


def fit_temperature(probabilities: Any, labels: Any) -> Any:
  """Fits the one temperature that logits are divided by for the lowest loss.

  Fit it on held-out data and apply it with `temper`. It changes no prediction.
  Above 1, the network was overconfident.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.

  Returns:
    The temperature, ``[...]``, from 0.02 to 50: where all predictions are
    right, no temperature is low enough.

  Example:
    >>> import jax, numpy as np
    >>> import lthjax as lth
    >>> logits = np.array([[2.0, 0.0]] * 4)  # right three times: log(3) is best
    >>> labels = np.array([0, 0, 0, 1])
    >>> probabilities = jax.nn.softmax(logits)
    >>> found = lth.evaluation.fit_temperature(probabilities, labels)
    >>> round(float(found), 3)
    1.82

  References:
    Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599,
    section 4.2.
  """
  import scipy.optimize

  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)

  def one(p: np.ndarray) -> float:
    logits = np.log(np.maximum(p, np.finfo(np.float32).tiny))
    right = logits[np.arange(len(y)), y].mean()

    def slope(inverse: float) -> float:
      """The derivative of the loss, which is convex in the inverse."""
      weights = _softmax(inverse * logits)
      return float((weights * logits).sum(-1).mean() - right)

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(high) <= 0:
      return _COLDEST
    if slope(low) >= 0:
      return _HOTTEST
    root: Any = scipy.optimize.brentq(slope, low, high, xtol=1e-12)
    return 1 / root

  return _inputs.over_seeds(one, p)


def temper(probabilities: Any, temperature: Any) -> np.ndarray:
  """Divides logits by a temperature and returns probabilities again.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    temperature: a positive number, or ``[...]``, as from `fit_temperature`.

  Returns:
    Probabilities of the same shape and order.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> lth.evaluation.temper(np.array([[0.9, 0.1]]), 2.0)
    array([[0.75, 0.25]])
  """
  p = _inputs.probabilities(probabilities)
  t = np.asarray(_checks.array('temperature', temperature), np.float64)
  if t.shape not in ((), p.shape[:-2]) or not (np.isfinite(t) & (t > 0)).all():
    raise _checks.wrong_value(
      'temperature',
      temperature,
      f'be positive, and one number or of shape {p.shape[:-2]}',
    )
  logits = np.log(np.maximum(p, np.finfo(np.float32).tiny))
  return _softmax(logits / t[..., None, None])


def _softmax(x: np.ndarray) -> np.ndarray:
  grown = np.exp(x - x.max(-1, keepdims=True))
  return grown / grown.sum(-1, keepdims=True)
