"""What is measured of networks beside accuracy, seed by seed."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from common.classification import Classification
from lthjax import data, evaluation
from lthjax.evaluation import corruptions
from lthjax.training import TrainState

# What is measured of each seed, in the order of the CSV.
MEASURES = (
  'worst_class',
  'behind_mean',
  'ece',
  'ece_equal_mass',
  'smooth_ece',
  'ece_doublings',
  'brier',
  'log_loss',
  'overconfidence',
  'temperature',
  'tempered_ece',
  'churn',
  'shifted_accuracy',
  'corruption_error',
)


class Sample(NamedTuple):
  """Raw images on the host, and their labels."""

  images: np.ndarray
  labels: np.ndarray


class Judge:
  """Predictions of all seeds of a network, and what follows from them."""

  def __init__(self, task: Classification, shifted: int):
    """Judges on the test set, of which ``shifted`` examples are corrupted."""
    self.task = task
    test, held = task.dataset.test, task.dataset.validation
    self.test, self.held_out = (
      Sample(np.asarray(x.images), np.asarray(x.labels)) for x in (test, held)
    )
    self.shifted = Sample(*(x[:shifted] for x in self.test))
    self._apply = jax.jit(jax.vmap(self._one, in_axes=(0, 0, None, None)))

  def predict(self, state: Any, images: Any) -> np.ndarray:
    """Probabilities, ``[seeds, examples, classes]``."""
    params, model_state = state
    return np.asarray(
      self._apply(params, model_state, self.task.dataset, images)
    )

  def measure(
    self, state: TrainState, dense: np.ndarray | None, reference: Any
  ) -> dict[str, Any]:
    """Everything but accuracy, as lists with one number per seed.

    ``dense`` are the predictions of the dense networks and ``reference`` what
    was measured of them; both are `None` for the dense networks themselves.
    """
    networks = state.params, state.model_state
    p, labels = self.predict(networks, self.test.images), self.test.labels
    held_out = self.predict(networks, self.held_out.images)
    groups = evaluation.accuracy_by_group(p, labels)
    t = evaluation.fit_temperature(held_out, self.held_out.labels)
    tempered = evaluation.temper(p, t)
    found = {
      'worst_class': groups.worst,
      'behind_mean': evaluation.accuracy(p, labels) - groups.worst,
      'ece': evaluation.ece(p, labels),
      'ece_equal_mass': evaluation.ece(p, labels, equal_mass=True),
      'smooth_ece': evaluation.smooth_ece(p, labels),
      'brier': evaluation.brier(p, labels),
      'log_loss': evaluation.log_loss(p, labels),
      'overconfidence': evaluation.overconfidence(p, labels),
      'temperature': t,
      'tempered_ece': evaluation.ece(tempered, labels),
    }
    shifts = self.under_shifts(networks)
    errors = {name: 1 - np.array(x) for name, x in shifts.items()}
    reference = reference or {'shifts': shifts, 'ece': found['ece'].tolist()}
    dense_errors = {
      # No error at all would leave nothing to compare with.
      name: np.maximum(1 - np.mean(x, 0), 1e-6)
      for name, x in reference['shifts'].items()
    }
    found |= {
      'shifted_accuracy': np.mean(list(shifts.values()), (0, 2)),
      'corruption_error': evaluation.mean_corruption_error(
        errors, dense_errors
      ),
    }
    if dense is not None:
      found['churn'] = evaluation.churn(p, dense)
      found['ece_doublings'] = np.log2(found['ece'] / reference['ece'])
    return {
      **{name: found[name].tolist() for name in MEASURES if name in found},
      'class_accuracy': groups.accuracy.mean(0).tolist(),
      'class_examples': groups.n.tolist(),
      'shifts': shifts,
    }

  def under_shifts(self, networks: Any) -> dict[str, list[list[float]]]:
    """Accuracy under each corruption, ``[seeds, severities]``."""
    found = {}
    for name, severity_to_images in self._corrupted.items():
      each = [
        evaluation.accuracy(self.predict(networks, x), self.shifted.labels)
        for x in severity_to_images
      ]
      found[name] = np.stack(each, -1).tolist()
    return found

  @functools.cached_property
  def _corrupted(self) -> dict[str, list[np.ndarray]]:
    return {
      name: [corrupt(self.shifted.images, k) for k in range(1, 6)]
      for name, corrupt in corruptions.ALL.items()
    }

  def _one(self, params, model_state, dataset, images):
    def one(image):
      x = data.normalize(image[None], dataset.mean, dataset.std)
      logits, _ = self.task.model.apply(params, model_state, x)
      return jax.nn.softmax(logits[0])

    return jax.lax.map(one, images, batch_size=1000)
