"""Trainings and measurements of the experiment on linguistic masks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lthjax as lth
from common import grid, seeds
from linguistics import corpus, measures, tagging, texts
from linguistics.arms import AXES, NONE, Arm
from linguistics.corpus import Corpus, Split
from linguistics.model import Network, Sizes
from linguistics.training import OTHER_SEEDS, Texts, Trainings
from lthjax import linguistic as lg
from lthjax.training import with_masks

Found = dict[str, Any]
ROOTS = ('none', 'asa', 'random', 'relabelled', 'guided_1', 'guided_none')


class Laboratory:
  """The text, a network, and everything that is done with them."""

  def __init__(self, config: Any):
    """Reads the text; nothing is trained or tagged yet."""
    self.config = config
    if config.dataset == 'ewt' and {8, 9} & {*config.experiments}:
      texts.wordnet()  # Raise now, not after the trainings.
      texts.verbnet()
    self.splits = corpus.load(config.dataset, config.time, config.validation)
    self._taggers: Any = None
    size = len(self.splits['train'])
    if config.batch_size > size:
      raise ValueError(
        f'batch_size was {config.batch_size}, but there are {size} training'
        ' sentences. Take smaller batches.'
      )

  # What is made when it is first needed.

  @functools.cached_property
  def corpus(self) -> Corpus:
    config = self.config
    return corpus.build(
      self.splits,
      config.vocabulary,
      config.time,
      self.predict if 'causal' in config.sources else None,
      self.tagged if config.dataset == 'wikitext2' else None,
    )

  @functools.cached_property
  def tagged(self) -> Sequence[lg.Sentence]:
    """The sentences that taggers learn from."""
    if self.config.dataset == 'toy':
      return self.splits['train']
    return texts.treebank('train')

  @functools.cached_property
  def texts(self) -> Texts:
    config = self.config
    sizes, first = (config.steps, config.batch_size), config.first_seed
    return Texts(self.corpus, self.axis_edges, self.language, sizes, first)

  @functools.cached_property
  def network(self) -> Network:
    config = self.config
    return Network(
      Sizes(
        config.vocabulary,
        config.width,
        config.layers,
        config.heads,
        config.time,
        config.steps,
        self.texts.rows,
        config.learning_rate,
        config.eval_every,
      )
    )

  @functools.cached_property
  def trainings(self) -> Trainings:
    return Trainings(self.network, self.texts)

  @functools.cached_property
  def measured(self) -> Split:
    """Validation sentences in which attention is measured."""
    return self.part(self.corpus.dev)

  def part(self, split: Split, most: int | None = None) -> Split:
    """The first sentences of a split, as many as are measured or fewer."""
    count = min(self.config.measured, len(split), most or len(split))
    chosen = slice(0, count)
    tags = {name: x[chosen] for name, x in split.tags.items()}
    return Split(split.sentences[chosen], split.tokens[chosen], tags)

  @property
  def tags(self) -> np.ndarray:
    return self.measured.tags[self.config.sources[0]]

  def check_compiled(self) -> None:
    """Raises if masks, tags or arms have compiled anything again."""
    if 'network' in self.__dict__ and self.network.compilations > 2:
      raise RuntimeError(  # Once for the seeds, once for those of luck.
        f'Training steps were compiled {self.network.compilations} times'
        ' instead of twice.'
      )

  # Trainings.

  def train(self, arm: Arm, store: grid.Store, evaluated: Any) -> Any:
    """Trains all seeds of an arm, and measures their attention."""
    self.use_taggers(store)
    lab, runs = self.trainings, self._runs(arm)
    data, initial = self.texts.data(arm, runs), {}
    steps = round(self.config.steps * arm.steps)
    if arm.base:
      kept = store.load(f'networks/{arm.base}', self.like(runs))
      masks = lab.pruned(arm, kept, runs)
      start = lab.start(Arm(arm.root), runs, OTHER_SEEDS)
      if arm.control != 'reinit':
        start = store.load(f'starts/{arm.root}', slim(start))
        start = start._replace(best=lab.start(NONE, runs).best)
      state = with_masks(start, masks)
    else:
      state, masks = lab.start(arm, runs), seeds.repeat(self.network.full, runs)
      state = with_masks(state, masks)
      if arm.name == 'luck':
        initial['initial'] = self._excess(state.params)
      if arm.name in ROOTS:
        state = lab.fit(state, data, self.config.rewind_step, evaluated)
        if not store.has(f'starts/{arm.name}'):
          store.save(f'starts/{arm.name}', slim(state))
    state = lab.fit(state, data, steps, evaluated)
    result = {**self._tested(arm, state.params), **initial}
    return result, {'params': state.params, 'masks': masks}

  def _runs(self, arm: Arm) -> int:
    return self.config.luck if arm.name == 'luck' else self.config.seeds

  def _excess(self, params: Any) -> list[float]:
    each = map(self.attend, seeds.unstack(params))
    return [measures.overlap(x, self.tags)['excess'] for x in each]

  def _tested(self, arm: Arm, params: Any) -> Found:
    """Test loss; and attention without a mask, where tags are known."""
    result: Found = {'arm': arm._asdict()}
    if arm.data.startswith('language_'):
      split = self.language(arm.data.removeprefix('language_')).test
    else:
      split = self.corpus.test
    runs = len(params['alpha'])
    test = self.texts.data(arm._replace(data='whole'), 1)._replace(order=None)
    text = self.texts.packed_text(arm, split, runs)
    numbers = jnp.arange(runs)
    loss, accuracy = self.network.test(params, numbers, text, test)
    result['test_loss'] = np.asarray(loss).tolist()
    result['test_accuracy'] = np.asarray(accuracy).tolist()
    if arm.mask == 'none' and arm.data == 'whole' and not arm.tag_input:
      result['overlap'] = [
        measures.overlap(self.attend(seeds.one(params, run)), self.tags)
        for run in range(runs)
      ]
    return result

  def like(self, runs: int) -> Any:
    network = self.network  # Made here, and not while JAX traces.

    def kept():
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), network.shapes)
      both = {'params': zeros, 'masks': network.full}
      return seeds.repeat(both, runs)

    return jax.eval_shape(kept)

  def networks(self, store: grid.Store, name: str, runs: int = 0) -> list[Any]:
    """What was kept of each seed of an arm."""
    like = self.like(runs or self.config.seeds)
    return seeds.unstack(store.load(f'networks/{name}', like))

  def attend(self, params: Any, split: Split | None = None) -> np.ndarray:
    """Attention of one run, ``[sentences, layers, heads, time, time]``."""
    split = self.measured if split is None else split
    return self.network.attention(params, split.tokens)

  # Taggers.

  def use_taggers(self, store: grid.Store) -> None:
    if self._taggers is None and 'causal' in self.config.sources:
      like = {
        kind: jax.eval_shape(
          lth.models.tagger(bidirectional=kind != 'causal').init,
          jax.random.key(0),
        )
        for kind in ('causal', 'bidirectional')
      }
      self._taggers = store.load('measures/taggers', like)

  def predict(self, sentences: Sequence[lg.Sentence]) -> list[list[str]]:
    """Causal tags."""
    if self._taggers is None:
      raise RuntimeError('Taggers are trained before they are used.')
    return tagging.predict(
      self._taggers['causal'], sentences, bidirectional=False
    )

  # Axes and languages.

  def axis_edges(self, split: Split) -> dict[str, np.ndarray]:
    """Edges of the five axes; without lexicons, stand-ins by tags."""
    if self.config.dataset == 'toy':
      return self._toy_axes(split)
    wordnet, verbnet = texts.wordnet(), texts.verbnet()
    each = [
      lg.axis_edges(s, wordnet=wordnet, verbnet=verbnet)
      for s in split.sentences
    ]
    length = self.config.time
    return {
      axis: lg.pad_edges([x[axis] for x in each], length=length, fill=False)
      for axis in AXES
    }

  def _toy_axes(self, split: Split) -> dict[str, np.ndarray]:
    pairs = [('NOUN', 'ADJ'), ('VERB', 'NOUN'), ('NOUN', 'NOUN')]
    pairs += [('VERB', 'PRON'), ('ADP', 'NOUN')]
    tags, found = split.tags['gold'], {}
    for axis, names in zip(AXES, pairs, strict=True):
      a, b = (tags == lg.UPOS.index(name) for name in names)
      edges = a[:, :, None] & b[:, None, :]
      found[axis] = edges | edges.transpose(0, 2, 1)
    return found

  @functools.cache  # noqa: B019 - one laboratory per process
  def language(self, name: str) -> Corpus:
    """A parallel treebank: nine tenths to train on."""
    config = self.config
    found = corpus.fitting(texts.parallel()[name], config.time)
    count = 9 * len(found) // 10
    splits = {'train': found[:count], 'dev': found[count:]}
    splits['test'] = splits['dev']
    return corpus.build(splits, config.vocabulary, config.time, None)


def slim(state: Any) -> Any:
  return state._replace(best=None)
