"""The data of each arm, and its training."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lthjax as lth
from common import seeds
from linguistics import corpus, model
from linguistics.arms import AXES, Arm
from linguistics.corpus import Corpus, Packing, Split
from linguistics.model import Data, Network, Text
from lthjax import linguistic as lg
from lthjax import trees
from lthjax.training import TrainState

Edges = dict[str, np.ndarray]  # of the axes: bool [sentences, time, time]
OTHER_SEEDS = 2**16  # of weights that a ticket was not found with


class Texts:
  """Packed sentences with the masks of each arm, made when they are needed."""

  def __init__(
    self,
    whole: Corpus,
    axes: Callable[[Split], Edges],
    languages: Callable[[str], Corpus],
    sizes: tuple[int, int],
    first_seed: int = 0,
  ):
    """Packs; ``sizes`` are steps and sentences of a batch, for the order."""
    self.first_seed = first_seed
    self.whole, self._axes, self._languages = whole, axes, languages
    self.steps, self.batch = sizes
    self.packing = self._pack(whole.train)
    self.dev_packing = self._pack(whole.dev)
    places = self.packing.shape[0] / len(whole.train)
    self.rows = max(round(self.batch * places), 1)
    self._known: dict[Any, Any] = {}
    self._last: Any = None
    self._packed: dict[str | None, list[np.ndarray]] = {}

  def _pack(self, split: Split, rows: int | None = None) -> Packing:
    return corpus.packed(split.lengths, self.whole.time, rows)

  def data(self, arm: Arm, runs: int) -> Data:
    """What the runs of an arm see: one order of rows per run."""
    whole, chosen = self.whole, None
    train, dev = self.packing, self.dev_packing
    if arm.data.startswith('language_'):
      whole = self._languages(arm.data.removeprefix('language_'))
      train = self._pack(whole.train, self.packing.shape[0])
      dev = self._pack(whole.dev, self.dev_packing.shape[0])
    elif arm.data != 'whole':
      chosen = self.group(arm.data)
    split = whole.train
    if chosen is not None:
      split = select(split, chosen)
      train = self._pack(split, self.packing.shape[0])
    used = int(train.rows.max()) + 1
    order = [
      np.random.default_rng(run + self.first_seed).permutation(used)[
        np.arange(self.steps * self.rows) % used
      ]
      for run in range(runs)
    ]
    soft = arm.soft or arm.learned
    return Data(
      self._text(arm, split, train, runs),
      self._text(arm, whole.dev, dev, runs),
      jnp.asarray(np.stack(order), jnp.int32),
      opened=jnp.float32(1.0 if arm.soft else 0.0),
      closed=jnp.float32(0.0 if soft else -np.inf),
      learned=jnp.float32(arm.learned),
      tagged=jnp.float32(arm.tag_input),
    )

  def packed_text(self, arm: Arm, split: Split, runs: int = 1) -> Text:
    """A whole split with the masks of an arm's runs."""
    return self._text(arm, split, self._pack(split), runs)

  def _text(self, arm: Arm, split: Split, packing: Packing, runs: int) -> Text:
    none = np.full(split.tokens.shape, model.TAGS, np.int32)
    tags = split.tags.get(arm.source, none) if arm.tag_input else none
    known = np.where(tags < 0, model.TAGS, tags)
    return Text(
      jnp.asarray(packing.pack(split.tokens)),
      jnp.asarray(packing.segments()),
      jnp.asarray(packing.places()),
      jnp.asarray(packing.pack(known, model.TAGS)),
      jnp.asarray(np.stack(self._bits(arm, split, packing, runs))),
    )

  def _bits(
    self, arm: Arm, split: Split, packing: Packing, runs: int
  ) -> list[np.ndarray]:
    """Packed edges of each run; those of the last mask are kept."""
    mask = (arm.mask, arm.source)
    if mask != self._last:
      self._last, self._packed = mask, {}
    parts = self.whole._asdict().items()
    part = next((name for name, x in parts if x is split), None)
    if len(known := self._packed.get(part, [])) >= runs:
      return known[:runs]
    distinct = arm.mask in ('permuted', 'relabelled', 'random', 'random_union')
    edges = [
      packing.pack_edges(self.edges(arm, split, run + self.first_seed))
      for run in range(runs if distinct else 1)
    ]
    edges = edges if distinct else edges * runs
    if part is not None:
      self._packed[part] = edges
    return edges

  def edges(self, arm: Arm, split: Split, seed: int) -> np.ndarray:
    """Open edges ``[sentences, time, time]`` of an arm, for one seed."""
    if arm.mask == 'none':
      return np.ones((*split.tokens.shape, split.tokens.shape[1]), bool)
    tags = split.tags[arm.source]
    if 'union' in arm.mask or 'without' in arm.mask:
      without = arm.mask.removeprefix('without_')
      parts = [x for name, x in self.axes(split).items() if name != without]
      edges = np.any(parts, 0) | outside(tags)
    else:
      given = lg.permuted_tags(tags, seed) if arm.mask == 'permuted' else tags
      matrix = lg.relabelled(seed) if arm.mask == 'relabelled' else None
      edges = np.asarray(lg.pos_mask(given, matrix))
    if arm.mask.startswith('random'):
      edges = lg.row_matched(edges, tags, seed)
    return edges

  def axes(self, split: Split) -> Edges:
    """Edges of the five axes in the sentences of a split."""
    key = id(split.tokens)
    if key not in self._known:
      self._known[key] = self._axes(split)
    return self._known[key]

  def group(self, name: str) -> np.ndarray:
    """Sentences of half a group: the fifth richest in an axis, or any fifth."""
    group, _, half = name.rpartition('_')
    split = self.whole.train
    count = len(split)
    rng = np.random.default_rng(AXES.index(group) if group in AXES else 9)
    richness = rng.random(count)  # Ties are broken at random.
    if group in AXES:
      region = lg.region(split.tags['gold'])
      held = (self.axes(split)[group] & region).sum((1, 2))
      richness = richness * 1e-9 + held / np.maximum(region.sum((1, 2)), 1)
    chosen = rng.permutation(np.argsort(-richness)[: count // 5])
    return np.sort(chosen[half == 'b' :: 2])


def select(split: Split, chosen: np.ndarray) -> Split:
  """Some of the sentences."""
  return Split(
    [split.sentences[i] for i in chosen],
    split.tokens[chosen],
    {name: x[chosen] for name, x in split.tags.items()},
  )


def outside(tags: np.ndarray) -> np.ndarray:
  """Edges that are always open: the diagonal, from and to what is no word."""
  words = tags >= 0
  both = words[:, :, None] & words[:, None, :]
  return ~both | np.eye(tags.shape[1], dtype=bool)


class Trainings:
  """Initial states, pruning and training of arms."""

  def __init__(self, network: Network, texts: Texts):
    self.network, self.texts = network, texts
    tokens = jax.ShapeDtypeStruct((1, network.sizes.time), jnp.int32)
    found = lth.axes.from_program(
      network.decoder.apply, network.shapes['model'], tokens
    )
    self.axes = {f'model/{name}': axes for name, axes in found.items()}

  def start(self, arm: Arm, runs: int, offset: int = 0) -> TrainState:
    """Initial states; each run knows its number."""
    keys = self._keys(runs, offset)
    state = self.network.trainer.init(keys)
    numbers = {'run': jnp.arange(runs, dtype=jnp.int32)}
    if arm.guide:
      params = seeds.stack(
        self._guided(
          arm, seeds.one(state.params, run), run + self.texts.first_seed
        )
        for run in range(runs)
      )
      state = state._replace(params=params)
    best = state.best._replace(model_state=numbers, params=state.params)
    return state._replace(model_state=numbers, best=best)

  def _keys(self, runs: int, offset: int) -> Any:
    first = self.texts.first_seed + offset
    return jax.vmap(jax.random.key)(jnp.arange(runs) + first)

  def _guided(self, arm: Arm, params: Any, seed: int) -> Any:
    matrices = {
      'asa': lg.compatibility,
      'relabelled': lambda: lg.relabelled(seed),
      'random': lambda: same_spectrum(lg.compatibility(), seed),
      'none': lambda: np.zeros((model.TAGS, model.TAGS)),
    }
    return model.guide(
      self.network,
      params,
      matrices[arm.guide](),
      type_of_words(self.texts.whole, self.network.sizes.vocabulary),
      arm.strength,
      jax.random.key(OTHER_SEEDS + seed),
    )

  def pruned(self, arm: Arm, kept: Any, runs: int) -> Any:
    """Masks of a ticket: the smallest weights of some kernels go."""
    chosen = set(self.network.kernels(arm.pruned))
    if arm.density is None and self.network.mlp % 4:
      # Groups of four inputs do not fit there.
      chosen -= {x for x in chosen if x.endswith('down/kernel')}

    def cut(params, masks):
      names, structure = trees.flatten(masks)
      part = structure.unflatten(
        mask if name in chosen else None for name, mask in names.items()
      )
      scores = lth.scores.magnitude(params)
      how: dict[str, Any] = {'pattern': lth.patterns.NM(2, 4)}
      if arm.density is not None:
        how = {'sparsity': 1 - arm.density}
      axes = {name: self.axes[name] for name in chosen}
      new = lth.prune(scores, part, axes=axes, **how)
      return jax.tree.map(
        lambda a, b: b if a is None else a,
        new,
        masks,
        is_leaf=lambda x: x is None,
      )

    masks = jax.jit(jax.vmap(cut))(kept['params'], kept['masks'])
    if arm.control == 'shuffled':
      keys = self._keys(runs, OTHER_SEEDS)
      shuffle = functools.partial(lth.masks.shuffle, axes=self.axes)
      masks = jax.jit(jax.vmap(shuffle))(keys, kept['masks'])
    elif arm.control:
      masks = kept['masks']
    return masks

  def fit(
    self, state: TrainState, data: Data, until: int, evaluated: Any
  ) -> TrainState:
    return self.network.trainer.fit(state, data, until=until, report=evaluated)


def same_spectrum(matrix: np.ndarray, seed: int) -> np.ndarray:
  """A random symmetric matrix with the eigenvalues of another."""
  values = np.linalg.eigvalsh(matrix.astype(float))
  rng = np.random.default_rng(seed)
  basis, _ = np.linalg.qr(rng.normal(size=matrix.shape))
  return basis * values @ basis.T


def type_of_words(whole: Corpus, size: int) -> np.ndarray:
  """The most frequent tag of each word of the vocabulary; 17 for none."""
  counts = np.zeros((size, model.TAGS), int)
  split = whole.train
  tags = split.tags.get('gold', split.tags['type'])
  words = tags >= 0
  np.add.at(counts, (split.tokens[words], tags[words]), 1)
  return np.where(counts.any(1), counts.argmax(1), model.TAGS)
