"""Trackers: tools that draw the numbers of a run while it goes on.

The interface is that of `metrax.logging.LoggingBackend`, and `log_scalar` fits
`jax.monitoring.register_scalar_listener`. Adapters are short, so that others
are easy to add; packages are imported only where they are asked for.
"""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np


class Tracker(Protocol):
  """Takes numbers, one at a time."""

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    """Takes the value of an event, usually with ``step=``."""

  def close(self) -> None:
    """Writes what has not been written."""


def _package(name: str) -> Any:
  return importlib.import_module(name)


class Nothing:
  """Keeps nothing: files of the run have all numbers anyway."""

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    pass

  def close(self) -> None:
    pass


class TensorboardX:
  """Files for TensorBoard, in the folder of the run; without TensorFlow."""

  def __init__(self, folder: Path, config: dict[str, Any]):
    tensorboardX = _package('tensorboardX')
    del config
    self._writer = tensorboardX.SummaryWriter(str(folder / 'tensorboard'))

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    self._writer.add_scalar(event, value, kwargs.get('step'))

  def close(self) -> None:
    self._writer.close()


class _Rows:
  """Trackers that take dicts, in which the step is one more number."""

  _run: Any

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    # Not as the step of the tracker, which may never fall: cells begin at zero.
    self._run.log({event: value, 'step': kwargs.get('step')})

  def close(self) -> None:
    self._run.finish()


class Wandb(_Rows):
  """Weights & Biases; a run that is resumed goes on under its name."""

  def __init__(self, folder: Path, config: dict[str, Any]):
    wandb = _package('wandb')
    self._run = wandb.init(
      project='lthjax',
      id=folder.name,
      name=folder.name,
      config=config,
      resume='allow',
    )
    self._run.define_metric('*', step_metric='step')


class Trackio(_Rows):
  """Trackio: the same interface, on this machine."""

  def __init__(self, folder: Path, config: dict[str, Any]):
    trackio = _package('trackio')
    self._run = trackio
    trackio.init(
      project='lthjax', name=folder.name, config=config, resume='allow'
    )


class Mlflow:
  """MLflow, wherever `MLFLOW_TRACKING_URI` says."""

  def __init__(self, folder: Path, config: dict[str, Any]):
    mlflow = _package('mlflow')
    self._mlflow = mlflow
    mlflow.set_experiment('lthjax')
    mlflow.start_run(run_name=folder.name)
    mlflow.log_params(config)

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    self._mlflow.log_metric(event, value, step=kwargs.get('step'))

  def close(self) -> None:
    self._mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, dict[str, Any]], Tracker]] = {
  'tensorboardX': TensorboardX,
  'wandb': Wandb,
  'mlflow': Mlflow,
  'trackio': Trackio,
}


def start(name: str | None, folder: Path, config: Any) -> Tracker:
  """Starts a tracker, in the first process; raises if it is not installed."""
  if name is None or jax.process_index():
    return Nothing()
  try:
    return TRACKERS[name](folder, dataclasses.asdict(config))
  except ModuleNotFoundError as error:
    raise ImportError(
      f'--track {name} needs a package: pip install {name}'
    ) from error


def log(
  tracker: Tracker, name: str, numbers: dict[str, Any], step: int
) -> None:
  """Logs all numbers among these, means over seeds, as ``name/key``."""
  for key, x in numbers.items():
    try:
      values = np.asarray(x, float)
    except (TypeError, ValueError):  # Text, or lists of other things.
      continue
    if x is None or not values.size:  # Such as the curve of a measurement.
      continue
    tracker.log_scalar(f'{name}/{key}', float(values.mean()), step=step)
