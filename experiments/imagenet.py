"""Sparse ResNet-50 and ViT-B/16 on ImageNet, on one host or on many.

  python experiments/imagenet.py --preset resnet50_rigl
  srun python experiments/imagenet.py --preset vit_srigl --distributed

Images are `imagenet2012` of tensorflow-datasets, prepared once with
`file_format='array_record'` (TFDS_DATA_DIR, 150 GB), and read by grain. Params
are on all devices and batches are spread over them. The place in the data is
saved with the state: what is interrupted goes on with the same batches.

  resnet50_dense    32,000 steps of 4,096 images, as in arXiv:1911.11134. 76.8 %
                    on the validation images; 3.2e18 operations, half of them
                    multiplications, or about 11 hours of one TPU v5e at 40 % of
                    its peak: 45 minutes of 16 of them if images come as fast.
  resnet50_gradual  from dense to 80 % zeros until step 25,000 by a cubic
                    (arXiv:1710.01878). 75.6 %, at 0.56 times the operations on
                    hardware that skips zeros.
  resnet50_rigl     80 % zeros by ERK, masks move every 100 steps until step
                    25,000. 75.1 %, 73.0 % with `--sparsity 0.9`; 0.42 and 0.24
                    times the operations.
  resnet50_srigl    the same with a constant fan-in (arXiv:2305.02299). The
                    accuracy of RigL, within the spread of its seeds.
  vit_dense         46,918 steps of 4,096 images (150 epochs) of AdamW, as in
                    arXiv:2305.02299, without its mixup and other distortions;
                    2.0e19 operations, about 70 hours of one TPU v5e.
  vit_gradual, vit_rigl, vit_srigl
                    the same at 80 % zeros, as above; neurons go if less than 95
                    % of their weights are salient.

Accuracies and shares are those of the papers. No hardware here skips zeros:
all presets of a network take the time of the dense one. Statistics of BatchNorm
are those of the whole batch, and not of the part on each device.

Does it start? On any computer, without data:

  python experiments/imagenet.py --dataset generated --size 32 \\
    --width 0.125 --batch-size 8 --steps 2 --examples 64
"""

import common.stopping  # noqa: F401

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lthjax as lth
from common import checks, processes
from common import config as options
from launch import images
from launch import train as launch
from lthjax import checkpoints, files, models, runs

Network = Literal['resnet50', 'vit']
Method = Literal['dense', 'gradual', 'rigl', 'srigl']
NETWORKS = {'resnet50': models.resnet_50, 'vit': models.vit_b_16}


@dataclasses.dataclass(frozen=True)
class Config(processes.Processes):
  """Trains a sparse network on ImageNet, on as many devices as there are."""

  network: Network = 'resnet50'
  """ResNet-50 or ViT-B/16."""
  method: Method = 'dense'
  """How weights become or stay sparse."""
  sparsity: float = 0.8
  """Share of weights that are zero, spread over layers by ERK."""
  steps: int = 32_000
  """Training steps."""
  stop_step: int = 25_000
  """The last step at which masks move."""
  update_every: int = 100
  """Steps between moves."""
  batch_size: int = 4096
  """Images per step, of all devices together."""
  learning_rate: float = 1.6
  """The highest one, at the end of the warm-up."""
  warmup: int = 1_564
  """Steps in which the learning rate rises: 5 epochs, 16 for ViT."""
  drops: tuple[int, ...] = (9_384, 21_896, 28_151)
  """Steps at which it falls to a tenth: after 30, 70, 90 epochs; not of ViT."""
  dataset: str = 'imagenet2012'
  """A TFDS name, or `generated` for noise."""
  examples: int = 1024
  """Of noise."""
  size: int = 224
  """Height and width of the images."""
  width: float = 1.0
  """Multiplies the units of all layers but the last."""
  seed: int = 0
  """Of weights, masks and order."""
  check_every: int = 10
  """Steps whose batches go to the devices at once, and after which to ask
  whether to stop."""
  save_every: int = 1_000
  """Steps between checkpoints."""
  keep: tuple[int, ...] = ()
  """Steps whose checkpoints stay, such as the one to rewind to."""

  def __post_init__(self):
    counts = ('steps', 'stop_step', 'update_every', 'batch_size', 'warmup')
    counts += ('examples', 'size', 'check_every', 'save_every')
    checks.at_least(self, **dict.fromkeys(counts, 1))
    checks.between_0_and_1(self, 'sparsity')
    checks.above_zero(self, 'learning_rate', 'width')
    if wrong := [x for x in self.keep if x % self.check_every]:
      raise ValueError(
        f'keep had {wrong[0]}, but must be multiples of check_every, which is'
        f' {self.check_every}.'
      )


RESNET = Config()
VIT = Config(
  network='vit',
  steps=46_918,
  stop_step=35_188,
  learning_rate=3e-3,
  warmup=5_005,
  drops=(),
)
PRESETS = {
  f'{config.network}_{method}': dataclasses.replace(config, method=method)
  for config in (RESNET, VIT)
  for method in ('dense', 'gradual', 'rigl', 'srigl')
}


def make_model(config: Config) -> models.Model:
  shape = config.size, config.size, 3
  return NETWORKS[config.network](shape, 1000, width=config.width)


def make_inner(config: Config) -> optax.GradientTransformation:
  """The optimizer of the papers, without masks."""
  peak, warmup = config.learning_rate, config.warmup
  if config.network == 'vit':
    rate = optax.warmup_cosine_decay_schedule(
      0.033 * peak, peak, warmup, max(config.steps, warmup + 1)
    )
    adam = optax.adamw(rate, weight_decay=0.3, mask=kernels)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)
  later = {step - warmup: 0.1 for step in config.drops if step > warmup}
  falls = optax.piecewise_constant_schedule(peak, later)
  rises = optax.linear_schedule(0.0, peak, warmup)
  rate = optax.join_schedules([rises, falls], [warmup])
  sgd = optax.sgd(rate, momentum=0.9, nesterov=True)
  return optax.chain(optax.add_decayed_weights(1e-4, kernels), sgd)


def kernels(params: Any) -> Any:
  """Which leaves decay: those that may be pruned."""
  masks = lth.masks.full(params)
  return jax.tree.map(
    lambda m: m is not None, masks, is_leaf=lambda m: m is None
  )


def make_optimizer(config: Config) -> Any:
  inner = make_inner(config)
  if config.method == 'dense':
    return inner
  times: Any = {'update_every': config.update_every}
  times |= {'stop_step': config.stop_step}
  budget: Any = {'sparsity': config.sparsity, 'densities': lth.densities.erk}
  if config.method == 'gradual':
    return lth.gradual(inner, **budget, **times)
  draw = lth.random_masks(jax.random.key(config.seed + 1), **budget)
  if config.method == 'rigl':
    return lth.rigl(inner, draw, **times)
  salient = 0.95 if config.network == 'vit' else 0.3
  return lth.srigl(inner, draw, min_salient=salient, **times)


def make_loss(config: Config) -> Callable[..., Any]:
  model = make_model(config)
  smoothing = 0.11 if config.network == 'vit' else 0.1

  def loss(params, state, batch, key):
    del key
    logits, state = model.apply(
      params, state, normalized(batch['image']), train=True
    )
    labels = optax.smooth_labels(
      jax.nn.one_hot(batch['label'], 1000), smoothing
    )
    return optax.softmax_cross_entropy(logits, labels).mean(), state

  return loss


def normalized(image: jax.Array) -> jax.Array:
  return (image.astype(jnp.float32) - images.MEAN) / images.STD


def make_trainer(config: Config) -> lth.Trainer:
  """A training loop over the batches of a chunk of steps."""
  chunk = config.check_every
  return lth.trainer(
    make_model(config).init,
    make_loss(config),
    make_optimizer(config),
    lambda batches, key, step: jax.tree.map(lambda x: x[step % chunk], batches),
    every=chunk,
    scanned=jax.default_backend() != 'cpu',
  )


def make_mesh(config: Config) -> jax.sharding.Mesh:
  devices = jax.device_count()
  if config.batch_size % devices:
    raise ValueError(
      f'--batch-size was {config.batch_size}, but must be a multiple of the'
      f' {devices} devices.'
    )
  return jax.make_mesh((devices,), ('data',), (AxisType.Auto,))


def start(config: Config, trainer: lth.Trainer, mesh: jax.sharding.Mesh) -> Any:
  """The initial state, on all devices."""
  everywhere = NamedSharding(mesh, PartitionSpec())
  init = jax.jit(trainer.init, out_shardings=everywhere)
  return init(jax.random.key(config.seed))


def chunk_of(batches: Any, size: int, steps: int) -> Any:
  """The batches of some steps, in arrays of one size."""
  found = [next(batches) for _ in range(steps)]
  found += [found[-1]] * (size - steps)  # Not looked at.
  return jax.tree.map(lambda *x: np.stack(x), *found)


def train(config: Config) -> bool:
  """Trains from the last checkpoint on; returns whether all steps are done."""
  mesh = make_mesh(config)
  read = functools.partial(
    images.source, config.dataset, size=config.size, examples=config.examples
  )
  data = images.Input(read(split='train'), config.size, config.batch_size)
  folder = runs.open_run(config.output, f'{config.network}', config)
  with runs.only_process(folder), runs.termination() as stop:
    trainer, batches = make_trainer(config), data.training(config.seed)
    state = start(config, trainer, mesh)
    if path := launch.newest(folder):
      state = checkpoints.load(path, state, data=batches)
    step, saved, began = int(state.step), int(state.step), time.monotonic()
    while step < config.steps:
      until = min(step + config.check_every, config.steps)
      chunk = chunk_of(batches, config.check_every, until - step)
      state = trainer.fit(state, images.place(chunk, mesh, None), until=until)
      told = until < config.steps and stop(until)
      step = until
      due = step - saved >= config.save_every or step == config.steps
      if told or due or step in config.keep:
        launch.save(folder, state, batches, config.keep)
        speed = (step - saved) * config.batch_size / (time.monotonic() - began)
        processes.say(f'step {step}: {speed:,.0f} images per second')
        saved, began = step, time.monotonic()
      if told:
        return False
    found = validate(config, read(split='validation'), state, mesh)
    if jax.process_index() == 0:
      files.write_text(folder / 'results.json', json.dumps(found) + '\n')
    processes.say(f'top-1: {100 * found["accuracy"]:.2f} %\ndone: {folder}')
    return True


def validate(
  config: Config, source: Any, state: Any, mesh: jax.sharding.Mesh
) -> dict[str, float]:
  """Accuracy on images that were not trained on, and what is alive."""
  model = make_model(config)
  params = state.params
  masked = config.method != 'dense'
  if masked:
    params = lth.forward_params(state.opt_state, params)

  @jax.jit
  def hits(params, model_state, batch):
    logits, _ = model.apply(params, model_state, normalized(batch['image']))
    return jnp.sum(jnp.argmax(logits, -1) == batch['label'])

  data, right = images.Input(source, config.size, config.batch_size), 0
  for batch in data.testing():
    right += int(hits(params, state.model_state, images.place(batch, mesh)))
  alive = lth.masks.density(lth.get_masks(state.opt_state)) if masked else 1.0
  return {'accuracy': right / len(source), 'density': float(alive)}


def main() -> None:
  try:
    presets: Any = PRESETS
    config = options.parse(sys.argv[1:], presets, __doc__)
    config.connect()
    done = train(config)
  except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
    print(f'error: {error}', file=sys.stderr, flush=True)
    os._exit(1)  # Without waiting for the other processes.
  sys.exit(0 if done else config.stopped_code)


if __name__ == '__main__':
  main()
