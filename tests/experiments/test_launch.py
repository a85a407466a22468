"""The program for many hosts: two processes, a signal, and other devices."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / 'experiments' / 'launch'
TINY = '--width 16 --layers 2 --batch-size 8 --steps 100 --check-every 5'
TINY = [*TINY.split(), '--save-every', '20']


@pytest.mark.parametrize('name', ['slurm.sh', 'slurm_seeds.sh'])
def test_scripts_can_be_parsed(name):
  subprocess.run(['bash', '-n', LAUNCH / name], check=True)
  if shutil.which('shellcheck'):
    subprocess.run(['shellcheck', LAUNCH / name], check=True)


def test_jobs_have_time_to_save_and_come_back():
  yaml = pytest.importorskip('yaml')
  job = yaml.safe_load((LAUNCH / 'jobset.yaml').read_text())
  assert (job['apiVersion'], job['kind']) == (
    'jobset.x-k8s.io/v1alpha2',
    'JobSet',
  )
  spec = job['spec']
  assert spec['failurePolicy']['maxRestarts'] > 0
  (workers,) = spec['replicatedJobs']
  workers = workers['template']['spec']
  assert workers['parallelism'] == workers['completions'] == 4
  pod = workers['template']['spec']
  assert pod['restartPolicy'] == 'Never'
  assert pod['terminationGracePeriodSeconds'] >= 30
  (container,) = pod['containers']
  # A job that is stopped fails with a code of its own, and is started again.
  (code,) = (x for x in container['command'] if x.startswith('--stopped-code'))
  (rule,) = workers['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes'] == {
    'containerName': container['name'],
    'operator': 'In',
    'values': [int(code.partition('=')[2])],
  }
  (rule,) = spec['failurePolicy']['rules']
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  assert (ROOT / container['command'][1]).is_file()
  assert {x['name'] for x in container['volumeMounts']} == {
    x['name'] for x in pod['volumes']
  }


def test_pages_name_files_and_options_that_exist():
  page = (ROOT / 'docs' / 'launch.md').read_text()
  for name in re.findall(r'experiments/[\w/]+\.\w+', page):
    assert (ROOT / name).is_file(), name
  source = (LAUNCH / 'train.py').read_text()
  for option in re.findall(
    r'train\.py((?: \\?\n? *--[a-z-]+(?: [^-\s]\S*)?)*)', page
  ):
    for name in re.findall('--([a-z-]+)', option):
      assert f'\n  {name.replace("-", "_")}: ' in source, name


@pytest.mark.parametrize('option', ['--distributed', '--coordinator=a:1'])
def test_a_grid_is_not_for_several_processes(option, call):
  code, _, errors = call('lottery_ticket', option)
  assert code == 1
  assert errors.startswith(f'error: {option.partition("=")[0]} was given, but')
  assert '`--seeds 1 --first-seed N`' in errors


def start(output, *options, devices=1):
  return subprocess.Popen(
    [sys.executable, LAUNCH / 'train.py', *TINY, *options, '--output', output],
    env={
      **os.environ,
      'PYTHONPATH': str(ROOT),
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")}'
      f' --xla_force_host_platform_device_count={devices}',
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def end(process, code=0):
  printed, errors = process.communicate(timeout=600)
  assert process.returncode == code, errors
  return printed if code == 0 else errors


def two(output, *options):
  """Starts two processes with one device each."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    place = f'localhost:{free.getsockname()[1]}'
  options = [*options, '--distributed', '--coordinator', place]
  options += ['--processes', '2', '--fsdp', '2']
  return [start(output, *options, '--process', str(i)) for i in range(2)]


DIGEST = """
import hashlib, sys
import jax, numpy as np
from orbax.checkpoint import v1 as ocp
found = hashlib.sha256()
tree = ocp.load(PATH)
for path, x in jax.tree_util.tree_leaves_with_path(tree):
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  found.update(f'{path} {x.dtype} {x.shape}'.encode())
  found.update(np.asarray(x).tobytes())
print(found.hexdigest())
"""


def last(output):
  return sorted(output.glob('*/steps-*'))[-1]


@pytest.fixture
def digest(run_python):
  """Sums up the bits of the last checkpoint, on devices as they were there."""
  return lambda output: run_python(
    DIGEST.replace('PATH', repr(os.fspath(last(output)))), devices=2
  )


@pytest.mark.slow
@pytest.mark.optimized
def test_two_processes_a_crash_a_signal_and_one_process(tmp_path, digest):
  """All end in the bits of one process with two devices."""
  one, both = tmp_path / 'one', tmp_path / 'both'
  end(start(str(one), '--fsdp', '2', devices=2))
  processes = two(str(both))
  wait_for_save(processes[0])
  processes[1].kill()  # The other one cannot go on, and says so.
  _, errors = processes[0].communicate(timeout=120)
  assert processes[0].returncode not in (0, None)
  assert errors
  processes[1].communicate()
  there = last(both).name
  processes = two(str(both), '--stopped-code', '75')
  wait_for_save(processes[0])
  processes[1].send_signal(signal.SIGTERM)  # Both are told.
  for process in processes:
    end(process, 75)
  assert there < last(both).name < last(one).name
  # Process 0 alone, on a mesh of its own, goes on where both have stopped.
  end(start(str(both), '--fsdp', '2', devices=2))
  assert last(both).name == last(one).name
  assert digest(both) == digest(one)
  # Other devices take it as it is: nothing is left to train.
  assert 'done: ' in end(start(str(both)))


def wait_for_save(process):
  while not (line := process.stdout.readline()).startswith('saved '):
    assert line, end(process)  # Gloo prints lines of its own.


SEARCH = """
import hashlib, sys
sys.path[:0] = ['experiments/launch']
from lthjax import runs
if sys.argv[1:]:
  runs.connect(sys.argv[1], 2, int(sys.argv[2]))
import jax, numpy as np, optax
import lthjax as lth
import train
from jax.experimental import multihost_utils
config = train.Config(width=16, layers=2, batch_size=8, fsdp=4)
with jax.set_mesh(train.make_mesh(config)):
  trainer = train.make_trainer(
    config, lth.static(optax.adam(1e-3), lth.masks.full)
  )
  state = trainer.init(jax.random.key(0))
  def fit(state, masks):
    return trainer.fit(lth.training.with_masks(state, masks), None, until=20)
  masks = lth.get_masks(state.opt_state)
  for ticket in lth.tickets.imp(fit, state, masks, levels=3):
    found = hashlib.sha256()
    for x in jax.tree.leaves(ticket.masks):
      whole = multihost_utils.process_allgather(x, tiled=True)
      found.update(np.asarray(whole).tobytes())
    print('level', ticket.level, ticket.density, found.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.optimized
def test_a_search_in_two_processes(run_python):
  """As in one process with as many devices: the same masks at each level."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    place = f'localhost:{free.getsockname()[1]}'
  flags = '--xla_force_host_platform_device_count=2'
  both = [
    subprocess.Popen(
      [sys.executable, '-c', SEARCH, place, str(i)],
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  tickets = run_python(SEARCH, devices=4).splitlines()
  assert [line.split()[:2] for line in tickets] == [
    ['level', '0'],
    ['level', '1'],
    ['level', '2'],
  ]
  for process in both:
    printed = end(process).splitlines()
    assert [x for x in printed if x.startswith('level ')] == tickets


BAD = """
import sys
sys.path[:0] = ['.', 'experiments/launch']
import train
train.SECONDS = 5
sys.argv[1:] = OPTIONS
train.main()
"""


@pytest.mark.slow
def test_a_coordinator_that_nobody_reaches(tmp_path):
  options = '--distributed --coordinator localhost:1 --processes 2 --process 1'
  source = BAD.replace('OPTIONS', repr([*options.split(), *TINY]))
  done = subprocess.run(
    [sys.executable, '-c', source],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 1
  assert 'error: The processes did not find each other' in done.stderr


@pytest.mark.slow
def test_meshes_that_do_not_fit(tmp_path):
  errors = end(start(str(tmp_path), '--fsdp', '3'), 1)
  assert 'error: --fsdp was 3, but must divide the 1 devices' in errors
