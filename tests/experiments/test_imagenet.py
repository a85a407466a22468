"""ImageNet: presets that start, and images that come back after a stop."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import lthjax as lth

pytest.importorskip('grain')

import imagenet
from launch import images

ROOT = pathlib.Path(__file__).parents[2]
NOISE = images.Generated(examples=20, size=12, classes=5)


def epochs(read, steps):
  return [next(read) for _ in range(steps)]


@pytest.fixture
def hosts(monkeypatch):
  """As if this was one of several processes."""

  def pretend(index, count):
    monkeypatch.setattr(jax, 'process_index', lambda: index)
    monkeypatch.setattr(jax, 'process_count', lambda: count)

  return pretend


def test_any_number_of_hosts_reads_the_same_examples(hosts):
  data = images.Input(NOISE, size=8, batch_size=6, threads=1)

  def together(count):
    found = []
    for index in range(count):
      hosts(index, count)
      found.append(epochs(data.training(seed=3), 5))
    return [
      sorted(
        (int(label), image.tobytes())
        for share in shares
        for label, image in zip(share['label'], share['image'], strict=True)
      )
      for shares in zip(*found, strict=True)
    ]

  alone = together(1)
  assert together(2) == together(3) == alone
  assert len({image for batch in alone for _, image in batch}) == 30
  # Every example once in 20, and in another order in the next 10.
  hosts(0, 1)
  label = np.concatenate(
    [x['label'] for x in epochs(data.training(seed=3), 10)]
  )
  every = sorted(NOISE[i]['label'] for i in range(20))
  assert sorted(label[:20]) == sorted(label[20:40]) == every
  assert list(label[:20]) != list(label[20:40])


def test_images_for_tests_come_once(hosts):
  data = images.Input(NOISE, size=8, batch_size=6, threads=1)
  labels = []
  for index in range(2):
    hosts(index, 2)
    batches = list(data.testing())
    assert len(batches) == 4
    assert all(x['image'].shape == (3, 8, 8, 3) for x in batches)
    labels += [x['label'] for x in batches]
  labels = np.concatenate(labels)
  every = sorted(NOISE[i]['label'] for i in range(20))
  assert sorted(labels[labels >= 0]) == every
  assert (labels < 0).sum() == 4


def test_crops():
  """The central 7/8 of a gradient, and parts of it that are as they were."""
  ramp = np.arange(64, dtype=np.uint8)
  element = {'image': np.tile(ramp[None, :, None], (64, 1, 1)), 'label': 1}
  center = images.CenterCrop(28).map(element)['image']
  np.testing.assert_allclose(
    center[5, :, 2].astype(float), np.arange(28) * 2 + 4.5, atol=1
  )
  crop, mirrored = images.RandomCropFlip(16), 0
  for seed in range(20):
    made = crop.random_map(element, np.random.default_rng(seed))['image']
    slope = np.diff(made[3, :, 0].astype(float)).mean()
    mirrored += slope < 0
    # A crop has 8 to 100 % of the area.
    assert 0.2 * 64 < abs(slope) * 16 <= 64 + 1
    assert (made == made[:1]).all()
  assert 4 <= mirrored <= 16


def shapes(config):
  trainer = imagenet.make_trainer(config)
  return jax.eval_shape(trainer.init, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize('name', imagenet.PRESETS)
def test_presets_at_full_size(name):
  """Sizes of the papers, masks where they belong, and a step that traces."""
  config = imagenet.PRESETS[name]
  state = shapes(config)
  weights = sum(x.size for x in jax.tree.leaves(state.params))
  assert weights == {'resnet50': 25_557_032, 'vit': 86_567_656}[config.network]
  if config.method != 'dense':
    masks = lth.get_masks(state.opt_state)
    kernels = {
      n for n in lth.trees.by_name(state.params) if n.endswith('kernel')
    }
    assert set(lth.trees.prunable(masks)) == kernels


def test_learning_rates():
  """A straight line up, then the steps of RigL; a cosine for ViT."""

  def rate(config, step):
    params = {'a': {'kernel': np.zeros((1, 1)), 'bias': np.ones(1)}}
    params = jax.tree.map(np.float32, params)
    grads = jax.tree.map(lambda x: np.full_like(x, 0.5), params)
    tx = imagenet.make_inner(config)
    state = tx.init(params)
    at = np.int32(step)
    state = jax.tree.map(
      lambda x: at if getattr(x, 'dtype', None) == np.int32 else x, state
    )
    updates, _ = tx.update(grads, state, params)
    return -float(updates['a']['bias'][0]) / 0.5 / 1.9

  resnet = imagenet.PRESETS['resnet50_dense']
  steps = [0, 782, 1564, 9383, 9385, 21897, 28152]
  found = [rate(resnet, step) for step in steps]
  expected = [0, 0.8, 1.6, 1.6, 0.16, 0.016, 0.0016]
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


TINY = '--dataset generated --examples 32 --size 32 --batch-size 16'
TINY += ' --steps 2 --warmup 1 --update-every 2 --stop-step 2 --check-every 1'


def start(
  preset, output, options='', devices=8, program='experiments/imagenet.py'
):
  flags = os.environ.get('XLA_FLAGS', '')
  more = f'--xla_force_host_platform_device_count={devices}'
  return subprocess.Popen(
    [
      *(sys.executable, ROOT / program),
      *('--preset', preset, *TINY.split(), *options.split()),
      *('--output', str(output)),
    ],
    env={
      **os.environ,
      'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "experiments"}',
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{flags} {more}',
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def end(process, code=0):
  printed, errors = process.communicate(timeout=600)
  assert process.returncode == code, errors
  return printed


@pytest.mark.slow
@pytest.mark.parametrize(
  ('preset', 'width'), [('resnet50_rigl', 1 / 16), ('vit_srigl', 1 / 16)]
)
def test_two_steps_on_eight_devices(preset, width, tmp_path):
  printed = end(start(preset, tmp_path, f'--width {width}'))
  assert 'top-1: ' in printed
  assert 'done: ' in printed
  (folder,) = tmp_path.iterdir()
  assert sorted(x.name for x in folder.glob('steps-*')) == ['steps-00000002']


def bits(folder):
  (path,) = map(os.fspath, folder.glob('*/steps-00000024'))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # of one process
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
    ocp.metadata(path).metadata,
  )
  return [np.asarray(x).tobytes() for x in leaves(ocp.load(path, like))]


def leaves(tree):
  for x in jax.tree.leaves(tree):
    is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    yield jax.random.key_data(x) if is_key else x


def two(preset, output, options):
  """Two hosts with one device each, and a network that compiles at once."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    place = f'localhost:{free.getsockname()[1]}'
  options += f' --distributed --coordinator {place} --processes 2 --process '
  program = 'tests/experiments/small_imagenet.py'
  return [start(preset, output, f'{options}{i}', 1, program) for i in range(2)]


@pytest.mark.slow
def test_stopped_hosts_see_the_same_images(tmp_path):
  options = '--steps 24 --update-every 2 --stop-step 20'
  options += ' --save-every 2 --keep 2 --stopped-code 75'
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  for process in two('vit_rigl', whole, options):
    end(process)
  processes = two('vit_rigl', parts, options)
  while not (line := processes[0].stdout.readline()).startswith('saved '):
    assert line, end(processes[0])
  processes[1].send_signal(signal.SIGTERM)  # Both are told.
  for process in processes:
    end(process, 75)
  (folder,) = parts.iterdir()
  assert not (folder / 'steps-00000024').exists()
  places = sorted(x.name for x in folder.glob('steps-00000002/data/*'))
  assert places == ['process_0-of-2.json', 'process_1-of-2.json']
  for process in two('vit_rigl', parts, options):
    end(process)
  # Step 2, which is to be kept, and the last two: others may be odd now.
  kept = sorted(x.name for x in folder.glob('steps-*'))
  assert len(kept) == 3
  assert kept[::2] == ['steps-00000002', 'steps-00000024']
  assert bits(parts) == bits(whole)
