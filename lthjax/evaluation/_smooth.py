"""Calibration without bins."""

from typing import Any

import numpy as np
import scipy.fft
import scipy.optimize

from lthjax.evaluation import _inputs

_CELLS = 2048  # of confidence, from 0 to 1
_NARROWEST = 1e-3  # bandwidth


def smooth_ece(probabilities: Any, labels: Any) -> Any:
  """Computes the smooth calibration error, which depends on no bins.

  Confidence minus accuracy is smoothed over confidence by a Gaussian kernel,
  reflected at 0 and 1, and its size is integrated. The bandwidth is the one
  that equals the error. A check of `ece`: where the two tell different stories,
  the bins do.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.

  Returns:
    The error, ``[...]``, in [0, 1]. It is at least the size of the
    `overconfidence`, and equal to it where all confidences are the same.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[0.8, 0.2]] * 4)  # right half of the time
    >>> labels = np.array([0, 0, 1, 1])
    >>> round(float(lth.evaluation.smooth_ece(probabilities, labels)), 6)
    0.3

  References:
    Błasiok & Nakkiran, Smooth ECE: Principled Reliability Diagrams via Kernel
    Smoothing, arXiv:2309.12236, definitions 2 and 3.
  """
  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)
  frequencies = np.pi * np.arange(_CELLS)

  def one(p: np.ndarray) -> float:
    gaps = _cells(p.max(-1), p.max(-1) - (p.argmax(-1) == y))
    # Cosines are the eigenfunctions of the reflected kernel.
    waves: Any = scipy.fft.dct(gaps / len(y))

    def error(bandwidth: float) -> float:
      damped = waves * np.exp(-((frequencies * bandwidth) ** 2) / 2)
      smooth: Any = scipy.fft.idct(damped)
      return float(np.abs(smooth).sum())

    # It falls with the bandwidth, and is at most 1.
    if error(_NARROWEST) <= _NARROWEST or error(1.0) >= 1.0:
      return min(error(_NARROWEST), 1.0)
    root: Any = scipy.optimize.brentq(
      lambda bandwidth: error(bandwidth) - bandwidth, _NARROWEST, 1.0
    )
    return root

  return _inputs.over_seeds(one, p)


def _cells(places: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Spreads weights over the two nearest middles of cells of [0, 1]."""
  position = np.clip(places, 0, 1) * _CELLS - 0.5
  low = np.floor(position)
  share = position - low
  index = np.clip(low.astype(int), 0, _CELLS - 1)
  above = np.clip(low.astype(int) + 1, 0, _CELLS - 1)
  return np.bincount(index, (1 - share) * weights, _CELLS) + np.bincount(
    above, share * weights, _CELLS
  )
