"""Linguistic masks: packed sentences, paired arms, and what is measured."""

import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linguistic_cases import batch
from tiny_experiments import TINY

import linguistic_masks
from common import command, config, grid, seeds, tables
from linguistics import (
  arms,
  corpus,
  laboratory,
  measures,
  model,
  tagging,
  texts,
)
from linguistics.measurements import Measurements
from lthjax import linguistic as lg
from reports import linguistic_masks as report
from reports import linguistic_numbers as numbers

SMALL = config.parse(TINY['linguistic_masks'], linguistic_masks.PRESETS, '')


@pytest.fixture(scope='module')
def lab():
  return Measurements(SMALL)


def ewt():
  """The treebank, or a skipped test."""
  try:
    return texts.treebank('train'), texts.treebank('dev')
  except FileNotFoundError as error:
    pytest.skip(str(error))


# Sentences.


@pytest.mark.parametrize('seed', range(3))
def test_packed_rows_hold_every_sentence_once(seed):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(5, 17, 50)
  packing = corpus.packed(lengths, 16)
  numbers, counted = packing.segments(), packing.places()
  found = np.bincount(numbers[numbers >= 0], minlength=50)
  np.testing.assert_array_equal(found, lengths)
  # Together: a sentence is one stretch of one row.
  for i in range(50):
    row, places = np.nonzero(numbers == i)
    assert len(set(row)) == 1
    assert places.tolist() == [*range(places[0], places[0] + lengths[i])]
    assert counted[numbers == i].tolist() == [*range(lengths[i])]
  assert packing.shape[0] <= 1.2 * lengths.sum() / 16 + 1


def test_edges_come_back_from_bits():
  rng = np.random.default_rng(0)
  edges = rng.random((3, 8, 8)) < 0.5
  packing = corpus.packed(np.array([8, 3, 4]), 8)
  bits = packing.pack_edges(edges)
  text = model.Text(np.zeros(packing.shape), packing.segments(), 0, 0, bits)
  data = model.Data(text, text, None)
  bias = model.edge_bias({'alpha': jnp.zeros(2)}, text, data)
  for i, length in enumerate((8, 3, 4)):
    row, start = packing.rows[i], packing.starts[i]
    part = bias[row, 0, start : start + length, start : start + length]
    own = edges[i, :length, :length] | np.eye(length, dtype=bool)
    np.testing.assert_array_equal(part == 0, own)
  # Nothing is open between sentences.
  assert (bias > -np.inf).sum() <= 2 * (64 + 9 + 16 + 1)


@pytest.mark.slow
def test_a_sentence_does_not_notice_the_others_of_its_row(lab):
  """Loss of packed rows is that of sentences in rows of their own."""
  split = lab.part(lab.corpus.dev)
  params = lab.network.init(jax.random.key(0))
  arm = arms.Arm('asa', 'asa')
  together = lab.texts.packed_text(arm, split)
  apart = corpus.Packing(
    np.arange(len(split)),
    np.zeros(len(split), int),
    split.lengths,
    split.tokens.shape,
  )
  alone = lab.texts._text(arm, split, apart, 1)
  data = lab.texts.data(arm, 1)._replace(order=None)
  stacked = jax.tree.map(lambda x: x[None], params)
  run = jnp.arange(1)
  losses = [
    lab.network.test(stacked, run, x, data)[0] for x in (together, alone)
  ]
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_toy_sentences_have_heads():
  for sentence in corpus.toy(50):
    heads = np.array(sentence.heads)
    assert (heads == 0).sum() == 1
    assert sentence.tags[heads.argmin()] == 'VERB'
    assert heads.max() <= len(heads)


# Masks.


@pytest.mark.slow
def test_edges_of_a_run_do_not_depend_on_how_many_there_are(lab):
  arm = arms.Arm('random', 'random')
  first, three, again = (
    np.asarray(lab.texts.data(arm, runs).train.edges) for runs in (1, 3, 1)
  )
  assert len(three) == 3
  assert (three[0] != three[1]).any()
  np.testing.assert_array_equal(first, three[:1])
  np.testing.assert_array_equal(again, first)


def test_masks_of_controls_are_paired_with_those_of_tags(lab):
  split, tags = lab.corpus.train, lab.corpus.train.tags['gold']
  region = lg.region(tags)

  def edges(mask, seed=0):
    return lab.texts.edges(arms.Arm(mask, mask), split, seed)

  asa, random = edges('asa'), edges('random')
  np.testing.assert_array_equal(asa, lg.pos_mask(tags))
  counts = [(x & region).sum(-1) for x in (asa, random)]
  np.testing.assert_array_equal(*counts)
  assert (random != asa).any()
  assert (edges('random', 1) != random).any()
  assert edges('none').all()
  # Tags of a sentence stay in it, and so do the pairs that they open.
  permuted = edges('permuted')
  same = (asa & region).sum((1, 2)) == (permuted & region).sum((1, 2))
  assert same.all()
  union, without = edges('union'), edges('without_type')
  assert (without & ~union).sum() == 0
  assert (union & ~without & region).any()


def test_groups_are_halves_of_the_richest_sentences(lab):
  split = lab.corpus.train
  region = lg.region(split.tags['gold'])
  held = (lab.texts.axes(split)['type'] & region).sum((1, 2))
  share = held / region.sum((1, 2))
  a, b = (lab.texts.group(f'type_{half}') for half in 'ab')
  assert len(a) + len(b) == len(split) // 5
  assert not set(a) & set(b)
  rest = np.setdiff1d(np.arange(len(split)), [*a, *b])
  assert min(share[a].min(), share[b].min()) >= share[rest].max()


@pytest.mark.slow
def test_guided_kernels_prefer_compatible_tags(lab):
  """Where nothing has turned yet, logits of pairs are about their entry."""
  network = lab.network
  rng = np.random.default_rng(0)
  tags = np.r_[17, 17, rng.integers(0, 17, 62)]
  wide = model.Network(network.sizes._replace(width=64, heads=4, vocabulary=64))
  params = wide.init(jax.random.key(0))
  matrix = lg.compatibility()
  found = model.guide(wide, params, matrix, tags, 2.0, jax.random.key(1))
  blocks = found['model']['blocks']['attention']
  x = np.asarray(found['model']['embed']['embedding'])
  x = x / np.sqrt((x**2).mean(-1, keepdims=True))
  q, k = (
    x @ np.asarray(blocks[n]['kernel'])[0, :, 0] for n in ('query', 'key')
  )
  logits = (q @ k.T / 4)[2:, 2:]
  opened = matrix[tags[2:, None], tags[2:]]
  gap = logits[opened].mean() - logits[~opened].mean()
  assert 1.2 < gap < 2.8


# Tickets.


def test_tickets_of_the_default_preset_halve():
  found = arms.tickets(linguistic_masks.PRESETS['ewt'].densities)
  assert [(x.name, x.base, x.density) for x in found] == [
    ('ticket_0.5', 'none', 0.5),
    ('ticket_0.25', 'ticket_0.5', 0.25),
    ('ticket_0.125', 'ticket_0.25', 0.125),
    ('ticket_0.0625', 'ticket_0.125', 0.0625),
    ('ticket_0.125_reinit', 'ticket_0.125', 0.125),
    ('ticket_0.125_shuffled', 'ticket_0.125', 0.125),
    ('ticket_tenth_removed', 'none', 0.9),
    ('ticket_tenth_left', 'ticket_0.125', 0.1),
  ]
  guided = arms.guided((0.5, 0.25, 0.125, 0.0625), 'gold')
  assert [x.density for x in guided if x.base] == [0.25, 0.0625] * 2


@pytest.mark.parametrize('name', ['wikitext2', 'accelerator'])
def test_tickets_of_large_presets_lose_a_fifth_per_level(name):
  preset = linguistic_masks.PRESETS[name]
  found = arms.tickets(preset.densities)
  levels, rest = found[:12], found[12:]
  left = [1.0]
  for arm in levels:
    left.append(left[-1] - 0.2 * left[-1])
    assert arm.density == pytest.approx(left[-1])
  bases = ['none', *(x.name for x in levels)]
  assert [x.base for x in levels] == bases[:-1]
  # Late rewinding: all start from early weights of the dense network.
  assert {(x.root, x.pruned) for x in found} == {('none', 'attention')}
  assert 0 < preset.rewind_step < preset.steps / 5
  assert [(x.name, x.base, x.control) for x in rest] == [
    ('ticket_0.134218_reinit', 'ticket_0.134218', 'reinit'),
    ('ticket_0.134218_shuffled', 'ticket_0.134218', 'shuffled'),
    ('ticket_tenth_removed', 'none', ''),
    ('ticket_tenth_left', 'ticket_0.107374', ''),
  ]
  assert [x.density for x in rest[2:]] == [0.9, 0.1]
  guided = [x for x in arms.guided(preset.densities, 'causal') if x.base]
  assert [x.name for x in guided[:2]] == [
    'guided_ticket_0.64',
    'guided_ticket_0.4096',
  ]
  trained = {x.arm.name for x in linguistic_masks.cells(preset)}
  assert {x.name for x in (*found, *guided)} <= trained


def test_few_levels_have_no_tickets_of_a_tenth():
  names = [x.name for x in arms.tickets(arms.densities(2, 0.5))]
  assert names[2:] == ['ticket_0.25_reinit', 'ticket_0.25_shuffled']
  assert arms.eighth((0.5,)) == 0.5
  assert arms.eighth((0.05,)) == 0.05


@pytest.mark.slow
def test_a_level_keeps_the_largest_of_what_was_left(lab):
  params = seeds.stack([lab.network.init(jax.random.key(i)) for i in range(2)])
  masks = seeds.repeat(lab.network.full, 2)
  last, second = arms.tickets(arms.densities(2, 0.2))[:2]
  for arm in (last, second):
    before, masks = (
      masks,
      lab.trainings.pruned(arm, {'params': params, 'masks': masks}, 2),
    )
    for name in ('query', 'key', 'value', 'out'):
      alive, earlier, kernel = (
        np.asarray(x['model']['blocks']['attention'][name]['kernel'])
        for x in (masks, before, params)
      )
      counts = alive.reshape(2, -1).sum(1)
      size = alive[0].size
      np.testing.assert_allclose(counts, arm.density * size, atol=2)
      assert not (alive & ~earlier).any()
      layer = np.abs(kernel[0, 0])
      assert layer[alive[0, 0]].min() >= layer[~alive[0, 0]].max()


@pytest.mark.slow
def test_pages_have_every_level_of_a_large_preset():
  """With numbers that are made up, in the place of trainings."""
  preset = linguistic_masks.PRESETS['wikitext2']
  tags, _ = batch(0)

  def overlaps():
    return [measures.overlap(batch(i)[1], tags) for i in range(preset.seeds)]

  losses = np.arange(preset.seeds) / 100
  results = [{'measure': 'untrained', 'found': {'overlap': overlaps()}}]
  for arm in (arms.NONE, *arms.tickets(preset.densities)):
    curve = [{'step': 100 * k, 'loss': 5 + losses / k} for k in (1, 2)]
    made = {'arm': arm._asdict(), 'overlap': overlaps(), 'curve': curve}
    results.append(made | {'test_loss': losses.tolist()})
  names = [f'{d:g}' for d in preset.densities]
  names += ['tenth_removed', 'tenth_left']
  shared = dict.fromkeys(names, [0.7654] * preset.seeds)
  overlaps_ = {'dense_pairs': [0.5], 'shared': shared, 'heads': {}}
  results.append({'measure': 'overlaps', 'found': overlaps_})
  run = command.Run(pathlib.Path(), preset, 'made up', results)
  page = '\n'.join(
    tables.markdown(x) for x in report.page(run) if not isinstance(x, str)
  )
  for left in ('80', '64', '51.2', '13.4', '10.7', '6.87', '90', '10'):
    (line,) = [x for x in page.split('\n') if f'| ticket, {left} % |' in x]
    assert '| 0.765 |' in line  # Jaccard with the dense network.
  assert '| reinit ticket, 13.4 % |' in page
  assert '10 % of the attention weights removed' in page
  assert '10 % of them left' in page
  figure = report.draw(run)['overlap']
  labels = [x.get_text() for x in figure.axes[0].get_xticklabels()]
  assert labels == ['100', '64', '41', '26.2', '16.8', '10.7', '6.87']


# Numbers.


def test_steps_are_linear_between_evaluations():
  steps, losses = np.array([10.0, 20, 30]), np.array([3.0, 2.0, 1.9])
  assert numbers.reached(steps, losses, 2.25) == 17.5
  assert numbers.reached(steps, losses, 1.0) == 30
  assert numbers.reached(steps, losses, 5.0) == 10


def test_correlations_by_chance():
  """Losses of four seeds: their 24 orders give r from -1 to 1."""
  x, y = [1.0, 2, 3, 4], [2.0, 1, 4, 3]
  r, (low, high) = numbers.correlation(x, y)
  assert r == pytest.approx(0.6)
  # Fisher's z with one degree of freedom: 0.693 ± 1.96.
  assert (low, high) == pytest.approx((-0.853, 0.990), abs=1e-3)
  drawn = numbers.correlations_by_chance(x, y, 999)
  every = [np.corrcoef(x, z)[0, 1] for z in itertools.permutations(y)]
  assert set(np.round(drawn, 9)) == set(np.round(every, 9))
  strong = sum(abs(z) > 0.59 for z in every) / 24
  p = numbers.reached_by_chance(r, drawn)
  assert p == pytest.approx(strong, abs=0.06)
  assert 1000 * p == pytest.approx(round(1000 * p))
  assert numbers.reached_by_chance(0.5, [0.1, -0.5, 0.4]) == 2 / 4


@pytest.mark.slow
def test_luck_has_masks_of_permuted_tags(lab, monkeypatch):
  """Of the networks of luck, in units of 1e-7."""
  monkeypatch.setattr(lab, 'config', dataclasses.replace(SMALL, luck=4))
  drawn = lab._permuted_luck()
  assert drawn.shape == (SMALL.draws, 4)
  params = lab.trainings.start(arms.NONE, 4).params
  attention = lab.attend(seeds.one(params, 2))
  found = lg.null(
    lg.mean_attention(attention), lab.tags, draws=SMALL.draws
  ).draws
  np.testing.assert_allclose(drawn[:, 2], 1e7 * found, atol=0.6)


def test_arms_of_a_run_are_paired(unbroken):
  """All begin with the same weights, and see the same rows."""
  rows = unbroken.rows()
  names = {row['name'] for row in rows}
  assert {'none', 'asa', 'random', 'relabelled', 'permuted'} <= names
  assert {'asa_type', 'tag_input', 'asa_soft', 'ticket_0.5'} <= names
  by_name = {(row['name'], row['seed']): row for row in rows}
  dense = [by_name['none', seed] for seed in '01']
  # Gold and type tags agree wherever a toy word has one tag.
  assert all(float(row['excess']) < 0.5 for row in dense)
  assert len({row['validation_loss'] for row in rows}) > len(names)
  for row in dense:
    gap = float(row['overlap']) - float(row['expected'])
    assert float(row['excess']) == pytest.approx(gap)


def test_masks_compile_nothing_and_tickets_are_sparse(unbroken):
  lab = Measurements(SMALL)
  store = grid.Store(unbroken.folder)
  masks = lab.networks(store, 'ticket_0.5')[0]['masks']['model']['blocks']
  for kernel in ('query', 'key', 'value', 'out'):
    assert np.mean(masks['attention'][kernel]['kernel']) == 0.5
  assert all(np.all(x['kernel']) for x in masks['mlp'].values())
  shuffled = lab.networks(store, 'ticket_0.5_shuffled')[0]['masks']
  other = shuffled['model']['blocks']['attention']['query']['kernel']
  assert np.mean(other) == 0.5
  assert (other != masks['attention']['query']['kernel']).any()
  lab.check_compiled()


@pytest.mark.parametrize('name', linguistic_masks.PRESETS)
def test_masks_are_made_of_tags_that_there_are(name):
  preset = linguistic_masks.PRESETS[name]
  trained = [x.arm for x in linguistic_masks.cells(preset) if x.kind == 'train']
  used = {x.source for x in trained if x.mask != 'none' or x.tag_input}
  assert used <= {*preset.sources}


@pytest.mark.parametrize('name', linguistic_masks.PRESETS)
def test_whatever_is_needed_is_trained_before(name):
  preset = linguistic_masks.PRESETS[name]
  for chosen in (preset.experiments, *((x,) for x in preset.experiments)):
    cells = linguistic_masks.cells(
      dataclasses.replace(preset, experiments=chosen)
    )
    done = set()
    for cell in cells:
      if cell.kind == 'train':
        needed = {cell.arm.base, cell.arm.root} - {''}
        assert needed <= done, cell
      if cell.arm.name in ('nulls', 'overlaps', 'movement', 'circuits'):
        assert 'none' in done
      done.add(cell.arm.name)


def test_languages_are_those_that_are_there(monkeypatch, tmp_path):
  monkeypatch.setenv('LTHJAX_TEXT_DIR', str(tmp_path))
  (tmp_path / 'ud_pud').mkdir()
  (tmp_path / 'ud_pud' / 'fi_pud-ud-test.conllu.gz').touch()
  chosen = dataclasses.replace(
    linguistic_masks.PRESETS['ewt'], experiments=(10,)
  )
  names = [x.arm.name for x in linguistic_masks.cells(chosen)]
  assert [x for x in names if 'language_' in x] == ['language_fi']
  monkeypatch.setenv('LTHJAX_TEXT_DIR', str(tmp_path / 'nowhere'))
  assert len(texts.languages()) == 5


def test_a_missing_treebank_is_named(monkeypatch, tmp_path, main):
  monkeypatch.setenv('LTHJAX_TEXT_DIR', str(tmp_path / 'nowhere'))
  texts.treebank.cache_clear()
  code, _, errors = main('--output', str(tmp_path))
  assert code == 1
  assert 'Set LTHJAX_TEXT_DIR to a folder that holds' in errors
  texts.treebank.cache_clear()


@pytest.mark.parametrize('missing', ['verbnet', 'wordnet'])
def test_a_missing_lexicon_is_named_before_anything_is_trained(
  monkeypatch, tmp_path, main, no_training, missing
):
  monkeypatch.setenv(f'LTHJAX_{missing.upper()}', str(tmp_path / 'nowhere'))
  read = getattr(texts, missing).__wrapped__  # What it has read is kept.
  for name in ('verbnet', 'wordnet'):
    monkeypatch.setattr(texts, name, read if name == missing else lambda: None)
  code, _, errors = main('--experiments', '8', '--output', str(tmp_path / 'x'))
  assert code == 1
  words = ' '.join(errors.split())
  assert f'set LTHJAX_{missing.upper()}' in words
  assert 'nowhere does not exist, but must hold' in words


# Taggers.


@pytest.mark.slow
def test_tags_of_a_toy_are_learned():
  sentences = corpus.toy(160)
  params = tagging.train(sentences[:128], bidirectional=False, epochs=4)
  guessed = tagging.predict(params, sentences[128:], bidirectional=False)
  assert tagging.accuracy(guessed, sentences[128:]) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
  ('bidirectional', 'least'), [(False, 0.90), (True, 0.935)]
)
def test_accuracy_of_taggers(bidirectional, least):
  train, dev = ewt()
  params = tagging.train(train, bidirectional=bidirectional, epochs=3)
  guessed = tagging.predict(params, dev, bidirectional=bidirectional)
  assert tagging.accuracy(guessed, dev) >= least


@pytest.mark.slow
def test_all_experiments(main, tmp_path):
  options = '--preset toy --steps 8 --eval-every 4 --rewind-step 4 --seeds 2'
  options += ' --levels 3 --kept 0.5 --luck 4 --draws 9 --measured 40'
  options += ' --tagger-epochs 0.5'
  code, printed, errors = main(*options.split(), '--output', str(tmp_path))
  assert code == 0, errors
  assert 'Verdicts of the proposed criteria' in ' '.join(printed.split())
  (folder,) = tmp_path.iterdir()
  page = (folder / 'results.md').read_text()
  for number in range(1, 10):
    assert f'Experiment {number}' in page
  assert set(laboratory.ROOTS) <= {
    x.name for x in (folder / 'starts').iterdir()
  }
