"""The picture of the README that moves: which pixels a first layer looks at.

Above, LeNet-300-100 is pruned level by level, rewound to its initialization in
between (Frankle & Carbin, arXiv:1803.03635). Below, RigL moves a sparse mask
while the network trains (Evci et al., arXiv:1911.11134). Each map shows the
weights that leave a pixel, over the average of all pixels.

  python experiments/animate.py                      # docs/moving_masks.gif
  python experiments/animate.py --dataset digits --output digits.gif

One seed. The schedule is written into the picture. On MNIST, less than a minute
on 2 CPU cores.
"""

import common.stopping  # noqa: F401

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
import optax
import tyro
from PIL import Image, ImageDraw, ImageFont

import lthjax as lth
from common import command
from common.classification import Classification, image_shape
from common.config import titled
from lthjax import files

DOCS = Path(__file__).parents[1] / 'docs'
SLOTS = 9  # maps per row
SIDE = 64  # pixels of a map, at least
GAP = 8
HEAD = 22  # pixels of the line above a row
MOST = 3.0  # times the average: the brightest color
PACE = 220  # milliseconds per frame
PAUSE = 2_500  # milliseconds of the whole strip


class Row(NamedTuple):
  """Maps of one method, in the order of its training."""

  title: str
  labels: Sequence[str]  # one per map
  maps: Sequence[np.ndarray]  # [height, width]


def relative(mask: Any, shape: tuple[int, int, int]) -> np.ndarray:
  """The alive weights of each pixel over their average, ``[height, width]``."""
  alive = np.asarray(mask).sum(1).reshape(shape).sum(-1)
  return alive / alive.mean()


def first_layer(masks: Any, task: Classification) -> np.ndarray:
  return relative(masks['fc1']['kernel'], image_shape(task.dataset))


def prune(task: Classification, steps: int, levels: int) -> Row:
  """First layers of tickets, from the dense network on."""
  masks = lth.masks.full(task.params)
  tx = lth.static(optax.adam(1.2e-3), masks)
  trainer = task.trainer(tx, every=steps, vmapped=False)

  def train(state, masks):
    state = lth.with_masks(state, masks)
    return trainer.fit(state, task.dataset, until=steps)

  start = trainer.init(jax.random.key(0))
  labels, maps = [], []
  for ticket in lth.tickets.imp(train, start, masks, levels=levels):
    labels.append(f'{100 * ticket.density:.3g} %')
    maps.append(first_layer(ticket.masks, task))
  title = (
    f'Pruned and rewound, a fifth per level, {steps} steps each: weights left'
  )
  return Row(title, labels, maps)


def move(task: Classification, steps: int, moves: int, sparsity: float) -> Row:
  """First layers under RigL, at the start and after each move."""
  every = steps // (moves + 1)
  tx = lth.rigl(
    optax.sgd(
      optax.cosine_decay_schedule(0.1, steps), momentum=0.9, nesterov=True
    ),
    lth.random_masks(jax.random.key(1), sparsity=sparsity),
    update_every=every,
    stop_step=every * moves + 1,
  )
  trainer = task.trainer(tx, every=every, vmapped=False)
  state = trainer.init(jax.random.key(0))
  labels, maps = [], []
  for n in range(moves + 1):
    state = trainer.fit(state, task.dataset, until=n * every)
    labels.append(f'step {n * every}')
    maps.append(first_layer(lth.get_masks(state.opt_state), task))
  left = 100 * (1 - sparsity)
  title = f'RigL, {left:.3g} % of the weights, moved every {every} steps'
  return Row(title, labels, maps)


def strip(rows: Sequence[Row], share: float, about: str) -> Image.Image:
  """The picture once a share of training is done, from 0 to 1."""
  scale = max(1, -(-SIDE // rows[0].maps[0].shape[0]))
  side = scale * rows[0].maps[0].shape[0]
  high = HEAD + side + 16 + GAP
  width = GAP + SLOTS * (side + GAP)
  picture = Image.new('RGB', (width, len(rows) * high + HEAD), 'white')
  pen = ImageDraw.Draw(picture)
  fonts = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
  large, small = (ImageFont.truetype(str(fonts), size) for size in (12, 10))
  colors = matplotlib.colormaps['viridis']
  for top, row in zip(range(0, len(rows) * high, high), rows, strict=True):
    pen.text((GAP, top + 5), row.title, 'black', large)
    now = share * (len(row.maps) - 1)
    for slot in range(SLOTS):
      first = slot * (len(row.maps) - 1) / (SLOTS - 1)
      if first > now + 1e-9:
        break
      # The last map of the strip is the one that moves.
      after = (slot + 1) * (len(row.maps) - 1) / (SLOTS - 1)
      i = int(now if now < after - 1e-9 else first)
      pixels = (255 * colors(row.maps[i] / MOST)[..., :3]).astype(np.uint8)
      tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
      left = GAP + slot * (side + GAP)
      picture.paste(tile, (left, top + HEAD))
      pen.text((left, top + HEAD + side + 2), row.labels[i], '#555', small)
  pen.text((GAP, len(rows) * high), about, '#555', small)
  return picture


def frames(
  rows: Sequence[Row], about: str
) -> Iterator[tuple[Image.Image, int]]:
  """Pictures and their milliseconds: the whole strip, then how it grows."""
  yield strip(rows, 1, about), PAUSE
  steps = max(len(row.maps) for row in rows)
  for n in range(steps):
    last = n == steps - 1
    yield strip(rows, n / (steps - 1), about), PAUSE if last else PACE


def gif(rows: Sequence[Row], about: str) -> bytes:
  """The film as a GIF that starts again at its end."""
  pictures, times = zip(*frames(rows, about), strict=True)
  # One palette, so that what stays costs nothing.
  palette = pictures[0].quantize(96)
  first, *others = (
    x.quantize(palette=palette, dither=Image.Dither.NONE) for x in pictures
  )
  out = io.BytesIO()
  first.save(
    out,
    'GIF',
    save_all=True,
    append_images=others,
    duration=list(times),
    loop=0,
    optimize=True,
  )
  return out.getvalue()


def main(
  dataset: str = 'mnist',
  steps: int = 600,
  levels: int = 17,
  rigl_steps: int = 2_400,
  moves: int = 32,
  sparsity: float = 0.95,
  output: Path = DOCS / 'moving_masks.gif',
) -> None:
  """Trains both networks and writes the film.

  Args:
    dataset: digits, or a TFDS name such as mnist.
    steps: training steps per level of pruning.
    levels: of pruning, including the dense network.
    rigl_steps: training steps of RigL.
    moves: of RigL's masks.
    sparsity: dead share under RigL.
    output: where the GIF goes.
  """
  with command.friendly_exit():
    task = Classification(dataset, 'lenet_300_100', batch_size=60)
    rows = [
      prune(task, steps, levels),
      move(task, rigl_steps, moves, sparsity),
    ]
    about = (
      f'First layer of LeNet-300-100 on {titled(dataset)}, seed 0: weights per'
      f' pixel, from none (dark) to {MOST:g} times the average (yellow)'
    )
    files.write_bytes(output, gif(rows, about))
    print(f'{output}: {output.stat().st_size / 1024:.0f} KiB')


if __name__ == '__main__':
  if {'-h', '--help'} & set(sys.argv[1:]):
    print(__doc__)  # Tyro would break lines elsewhere.
  tyro.cli(main, description='')
