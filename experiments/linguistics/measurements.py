"""What is measured of trained networks; one method per measurement."""

from typing import Any

import jax
import numpy as np

import lthjax as lth
from common import grid, seeds
from linguistics import arms, measures, probes, tagging, texts, untrained
from linguistics.arms import AXES, NONE, TENTHS, Arm
from linguistics.laboratory import Found, Laboratory
from linguistics.model import Text
from lthjax import linguistic as lg
from lthjax import tickets

Measured = tuple[Found, Any]
NOTHING = {
  'nothing': np.zeros(1, np.float32)
}  # what is kept beside the numbers
FEW = 128  # sentences of measurements that are slow


class Measurements(Laboratory):
  """A laboratory with its measurements: ``(numbers, arrays to keep)``."""

  def taggers(self, store: grid.Store) -> Measured:
    """Accuracy of the taggers on sentences they have not seen."""
    del store
    found: Found = {}
    kept = {}
    held_out = self.splits['dev']
    if self.config.dataset != 'toy':
      held_out = texts.treebank('dev')
    for kind in ('causal', 'bidirectional'):
      both = kind == 'bidirectional'
      params = tagging.train(
        self.tagged, bidirectional=both, epochs=self.config.tagger_epochs
      )
      guessed = tagging.predict(params, held_out, bidirectional=both)
      found[kind] = tagging.accuracy(guessed, held_out)
      kept[kind] = params
    types = lg.type_tags(self.tagged, lowercase=True)
    guessed = lg.tags_from('type', held_out, types=types)
    found['type'] = tagging.accuracy(guessed, held_out)
    return found, kept

  def untrained(self, store: grid.Store) -> Measured:
    """Overlap of initial networks, and the published protocol on them."""
    self.use_taggers(store)
    params = self.trainings.start(NONE, self.config.seeds).params
    each = [self.attend(x) for x in seeds.unstack(params)]
    found = {
      'overlap': [measures.overlap(x, self.tags) for x in each],
      'published': [measures.published(x, self.tags) for x in each],
    }
    if 7 in self.config.experiments:
      found['luck'] = self._permuted_luck().tolist()
    return found, NOTHING

  def _permuted_luck(self) -> np.ndarray:
    """Excess of the networks of luck on masks of permuted tags.

    Returns ``[draws, seeds]`` in units of 1e-7: correlations have no scale.
    """
    params = self.trainings.start(NONE, self.config.luck).params
    each = [self.attend(x) for x in seeds.unstack(params)]
    means = np.stack([lg.mean_attention(x) for x in each], 1)
    null = lg.null(means, self.tags, draws=self.config.draws)
    return np.rint(1e7 * null.draws).astype(int)

  def nulls(self, store: grid.Store) -> Measured:
    """Nulls, positive control and the published protocol, dense networks."""
    self.use_taggers(store)
    source, draws = self.config.sources[0], self.config.draws
    train = self.part(self.corpus.train)
    rows = []
    for kept in self.networks(store, 'none'):
      attention = self.attend(kept['params'])
      seen = self.attend(kept['params'], train), train.tags[source]
      control = measures.positive_control(seen, (attention, self.tags))
      rows.append(
        {
          'nulls': measures.nulls(attention, self.tags, draws),
          'positive': control,
          'published': measures.published(attention, self.tags),
          'jaccard': measures.chance_jaccard(attention, self.tags, 20),
          'beyond_tags': measures.beyond_popular_tags(attention, self.tags),
        }
      )
    return {'seeds': rows}, NOTHING

  def overlaps(self, store: grid.Store) -> Measured:
    """Edges that tickets share with dense networks, and their heads."""
    self.use_taggers(store)
    dense = self.networks(store, 'none')
    first = [self.attend(x['params']) for x in dense]
    pairs = [
      measures.shared(first[i], first[j], self.tags)
      for i in range(len(first))
      for j in range(i)
    ]
    found: Found = {'dense_pairs': pairs, 'shared': {}, 'heads': {}}
    names = [arms.ticket(density) for density in self.config.densities]
    names += [name for name in TENTHS if store.has(f'networks/{name}')]
    for name in names:
      kept = self.networks(store, name)
      each = [self.attend(x['params']) for x in kept]
      density = name.removeprefix('ticket_')
      found['shared'][density] = [
        measures.shared(a, b, self.tags)
        for a, b in zip(first, each, strict=True)
      ]
      if name in TENTHS:
        continue
      found['heads'][density] = [
        measures.heads(attention, x['params'], x['masks'], self.tags)
        for attention, x in zip(each, kept, strict=True)
      ]
    return found, NOTHING

  def movement(self, store: grid.Store) -> Measured:
    """Movement of query and key weights by gradient through edges."""
    self.use_taggers(store)
    runs = self.config.seeds
    trainings = self.trainings  # Made here, and not while JAX traces.
    like = jax.eval_shape(lambda: trainings.start(NONE, runs))
    start = store.load('starts/none', like._replace(best=None))
    rows = []
    for run, kept in enumerate(self.networks(store, 'none')):
      asa = Arm('asa', 'asa', self.config.sources[0])
      masks = {'asa': asa, 'relabelled': asa._replace(mask='relabelled')}
      batches = {name: self._batches(arm, run) for name, arm in masks.items()}
      plain = self.texts.data(NONE, 1)
      rows.append(
        probes.movement(
          self.network,
          seeds.one(start.params, run),
          kept['params'],
          batches,
          plain,
        )
      )
    return {'seeds': rows}, NOTHING

  def _batches(self, arm: Arm, run: int) -> list[Text]:
    """Some training rows, with the edges of an arm in one of its runs."""
    whole = self.texts.data(arm, run + 1).train
    whole = whole._replace(edges=whole.edges[run])
    size = min(4 * self.texts.rows, len(whole.tokens) // 4)
    found = []
    for i in range(4):
      rows = slice(i * size, (i + 1) * size)
      found.append(jax.tree.map(lambda x, rows=rows: x[rows], whole))
    return found

  def axes(self, store: grid.Store) -> Measured:
    """Excess of dense networks and tickets on each axis."""
    self.use_taggers(store)
    edges = self.texts.axes(self.measured)
    region = lg.region(self.tags)
    found: Found = {
      'density': {k: float(x[region].mean()) for k, x in edges.items()},
      'excess': {},
    }
    names = {'dense': 'none', 'ticket': self._ticket()}
    for name, kept in names.items():
      if not store.has(f'networks/{kept}'):
        continue
      each = [
        lg.mean_attention(self.attend(x['params']))
        for x in self.networks(store, kept)
      ]
      found['excess'][name] = {
        axis: [float(lg.mass_overlap(a, x, region).excess) for a in each]
        for axis, x in edges.items()
        if x[region].any()
      }
    return found, NOTHING

  def _ticket(self) -> str:
    """The name of the ticket that is measured beside dense networks."""
    return arms.ticket(arms.eighth(self.config.densities))

  def circuits(self, store: grid.Store) -> Measured:
    """Heads that are ablated, in dense networks and in tickets."""
    self.use_taggers(store)
    split = self.part(self.corpus.dev, FEW)
    count = len(split)
    edges = {k: x[:count] for k, x in self.texts.axes(self.measured).items()}
    inner = {k: [m[1:, 1:] for m in x] for k, x in edges.items()}
    arcs = {k: measures.arcs(split, x) for k, x in inner.items()}
    lengths, tags = split.lengths, split.tags['gold']
    found: Found = {}
    names = {'dense': 'none', 'ticket': self._ticket()}
    for name, kept in names.items():
      if not store.has(f'networks/{kept}'):
        continue
      found[name] = []
      for x in self.networks(store, kept):
        changes = probes.ablated(
          self.network, x['params'], split.tokens, lengths
        )
        attention = self.attend(x['params'], split)
        found[name].append(
          probes.circuits(changes, attention, tags, edges, arcs, lengths)
        )
    return found, NOTHING

  def axis_tickets(self, store: grid.Store) -> Measured:
    """Overlap of masks from groups of sentences, within and across axes."""
    kept = {
      f'{group}_{half}': self.networks(store, f'{group}_{half}')
      for group in (*AXES, 'random')
      for half in 'ab'
    }

    @jax.jit
    def cut(params):
      scores = lth.scores.magnitude(params)
      return lth.prune(
        scores, self.network.full, sparsity=0.8, axes=self.trainings.axes
      )

    masks = {k: [cut(x['params']) for x in each] for k, each in kept.items()}

    def z(a, b, run):
      whole, _ = tickets.overlap_against_chance([masks[a][run], masks[b][run]])
      return float(whole.z)

    runs = range(self.config.seeds)
    within = {
      group: [z(f'{group}_a', f'{group}_b', run) for run in runs]
      for group in (*AXES, 'random')
    }
    across = [
      float(
        np.mean(
          [z(f'{a}_a', f'{b}_b', run) for a in AXES for b in AXES if a != b]
        )
      )
      for run in runs
    ]
    return {'within': within, 'across': across}, NOTHING

  def treebanks(self, store: grid.Store) -> Measured:
    """Density of the matrix and its share of dependencies, by treebank."""
    del store
    if self.config.dataset == 'toy':
      found = [untrained.language('toy', self.splits['dev'])]
    else:
      found = untrained.languages()
    return {'languages': [x._asdict() for x in found]}, NOTHING

  def languages(self, store: grid.Store) -> Measured:
    """Excess in a model of each language; a matrix fitted on English."""
    found: Found = {}
    names, fitted = texts.languages(), []
    if 'en' in names:
      train = self.part(self.language('en').train)
      fitted = [
        lg.fit_matrix(
          lg.mean_attention(self.attend(x['params'], train)), train.tags['gold']
        )
        for x in self.networks(store, 'language_en')
      ]
    for name in names:
      split = self.part(self.language(name).dev)
      tags = split.tags['gold']
      each = [
        self.attend(x['params'], split)
        for x in self.networks(store, f'language_{name}')
      ]
      found[name] = {
        'overlap': [measures.overlap(x, tags) for x in each],
        'beyond_tags': [measures.beyond_popular_tags(x, tags) for x in each],
        'beyond_permuted': measures.beyond_permuted_tags(
          each, tags, self.config.draws
        ),
        'fitted': [
          measures.score_matrix(m, x, tags)
          for m, x in zip(fitted, each, strict=False)
        ],
      }
    return found, NOTHING

  def blocks(self, store: grid.Store) -> Measured:
    """Blocks of a mask that are closed altogether."""
    self.use_taggers(store)
    split = self.corpus.dev
    source = self.config.sources[0]
    sentences = [
      lg.Sentence(
        s.name,
        tuple(
          t._replace(upos=lg.UPOS[i])
          for t, i in zip(s.tokens, row[1:], strict=False)
        ),
      )
      for s, row in zip(split.sentences, split.tags[source], strict=True)
    ]
    words = sum(len(s.tokens) for s in sentences)
    tokens = 512 if words >= 512 else 128
    found = untrained.blocks(sentences, tokens=tokens)
    return {'blocks': [x._asdict() for x in found]}, NOTHING
