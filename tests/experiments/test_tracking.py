"""Adapters for trackers, on stand-ins with the same functions."""

import dataclasses
import sys
from unittest import mock

import numpy as np
import pytest

from common import tracking
from common.config import RunConfig

NUMBERS = {
  'step': 10,
  'loss': [0.5, 1.5],
  'density': 0.25,
  'control': 'ticket',
  'curve': [{'step': 1}],
  'best': None,
  'pairs': [],
}
CONFIG = dataclasses.asdict(RunConfig())


@pytest.mark.parametrize(
  ('name', 'calls'),
  [
    (
      'tensorboardX',
      lambda folder: [
        mock.call.SummaryWriter(f'{folder}/tensorboard'),
        mock.call.SummaryWriter().add_scalar('tickets/01/step', 10.0, 10),
        mock.call.SummaryWriter().add_scalar('tickets/01/loss', 1.0, 10),
        mock.call.SummaryWriter().add_scalar('tickets/01/density', 0.25, 10),
        mock.call.SummaryWriter().close(),
      ],
    ),
    (
      'wandb',
      lambda folder: [
        mock.call.init(
          project='lthjax',
          id='run',
          name='run',
          config=CONFIG,
          resume='allow',
        ),
        mock.call.init().define_metric('*', step_metric='step'),
        mock.call.init().log({'tickets/01/step': 10.0, 'step': 10}),
        mock.call.init().log({'tickets/01/loss': 1.0, 'step': 10}),
        mock.call.init().log({'tickets/01/density': 0.25, 'step': 10}),
        mock.call.init().finish(),
      ],
    ),
    (
      'mlflow',
      lambda folder: [
        mock.call.set_experiment('lthjax'),
        mock.call.start_run(run_name='run'),
        mock.call.log_params(CONFIG),
        mock.call.log_metric('tickets/01/step', 10.0, step=10),
        mock.call.log_metric('tickets/01/loss', 1.0, step=10),
        mock.call.log_metric('tickets/01/density', 0.25, step=10),
        mock.call.end_run(),
      ],
    ),
    (
      'trackio',
      lambda folder: [
        mock.call.init(
          project='lthjax', name='run', config=CONFIG, resume='allow'
        ),
        mock.call.log({'tickets/01/step': 10.0, 'step': 10}),
        mock.call.log({'tickets/01/loss': 1.0, 'step': 10}),
        mock.call.log({'tickets/01/density': 0.25, 'step': 10}),
        mock.call.finish(),
      ],
    ),
  ],
)
def test_trackers(name, calls, tmp_path, monkeypatch):
  package = mock.MagicMock()
  monkeypatch.setitem(sys.modules, name, package)
  tracker = tracking.start(name, tmp_path / 'run', RunConfig())
  tracking.log(tracker, 'tickets/01', NUMBERS, 10)
  tracker.close()
  assert package.mock_calls == calls(tmp_path / 'run')


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
  for name in tracking.TRACKERS:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f'pip install {name}'):
      tracking.start(name, tmp_path, RunConfig())


def test_without_a_tracker_nothing_is_kept(tmp_path):
  tracker = tracking.start(None, tmp_path, RunConfig())
  tracking.log(tracker, 'x', {'loss': np.float32(1)}, 1)
  tracker.close()
  assert list(tmp_path.iterdir()) == []
