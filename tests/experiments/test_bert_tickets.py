"""Tickets of a pretrained encoder: rounds, controls, tables, vocabularies."""

import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import bits
from tiny_experiments import TINY

import bert_tickets as script_module
import lthjax as lth
from adaptation import glue, pretrained, tasks
from adaptation.tasks import Words
from common import grid
from common.config import parse
from reports import bert_tickets as report

COLUMNS = 'sentence1\tsentence2\tlabel'
ROWS = ['a dog\ta cat\tno', 'A cat!\ta cat\tyes'] * 10
WORDS = tasks.vocabulary([['a', 'cat', 'dog', '!']], 8)


def write(folder, name='RTE', columns=COLUMNS, rows=ROWS, dev=None):
  folder = folder / name
  folder.mkdir()
  for file, lines in (('train', rows), ('dev', rows if dev is None else dev)):
    text = '\n'.join([columns, *lines]) + '\n'
    (folder / f'{file}.tsv').write_text(text)
  return folder


def test_masks_of_rounds_and_controls(unbroken):
  config = parse(TINY['bert_tickets'], script_module.PRESETS, '')
  experiment = script_module.Experiment(config)
  store = grid.Store(unbroken.folder)
  start = experiment.start('words', store)
  kernels = 2 * (4 * 8 * 8 + 2 * 8 * 12)

  def stored(level):
    return experiment.load('words', level, start, store)['masks']['model']

  def alive(masks):
    """By layer of each kernel, and seed."""
    leaves = jax.tree.leaves(masks)
    return np.array([np.reshape(x, (2, 2, -1)).sum(2) for x in leaves])

  # Each round removes a tenth of all, and none comes back.
  rounds = [stored(0), stored(1), experiment.ticket('words', 2, store)]
  for level, masks in enumerate(rounds):
    total = alive(masks).sum((0, 2))
    assert total.tolist() == [round(kernels * (1 - level / 10))] * 2
  for old, new in itertools.pairwise(map(jax.tree.leaves, rounds)):
    assert not any(np.any(a & ~b) for a, b in zip(new, old, strict=True))
  controls = {
    kind: experiment.masks(
      script_module.Cell('words', kind, 2, 1), start, store
    )
    for kind in ('words', 'shuffled', 'random', 'magnitude')
  }
  assert bits(controls['words']['model']) == bits(rounds[2])
  own = alive(rounds[2])
  assert (alive(controls['shuffled']) == own).all()
  assert bits(controls['shuffled']) != bits(controls['words'])
  for kind in ('random', 'magnitude'):
    counts = alive(controls[kind])
    assert (counts.sum((0, 2)) == own.sum((0, 2))).all()
  for leaf in jax.tree.leaves(controls['magnitude']):
    assert (leaf[0] == leaf[1]).all()  # Of one pretrained encoder.


def test_rewinding():
  start = lth.training.TrainState(
    0, {'model': np.ones(2), 'head': np.zeros(1)}, None, {}, None, None
  )
  trained = start._replace(params={'model': np.zeros(2), 'head': np.ones(1)})
  found = script_module.with_trained_head(start, trained)
  assert bits(found.params) == bits({'model': np.ones(2), 'head': np.ones(1)})
  assert found.opt_state is start.opt_state


def test_rows_have_all_seeds(unbroken):
  rows = unbroken.rows()
  kinds = {(x['task'], x['kind'], x['level']) for x in rows}
  assert kinds == {
    ('words', 'pretrained', '0'),
    ('words', 'imp', '0'),
    ('words', 'imp', '1'),
    ('tags', 'imp', '0'),
    *(
      (x, y, '2') for x in ('words', 'tags') for y in report.KINDS if y in KINDS
    ),
  }
  assert len(rows) == 2 * len(kinds)
  for row in rows:
    density = 1 - int(row['level']) / 10
    assert float(row['density']) == pytest.approx(density, abs=1e-3)


KINDS = ('words', 'random', 'shuffled')


def test_ahead_is_in_the_larger_standard_deviation():
  one = {'test_accuracy': [0.5, 0.7]}
  other = {'test_accuracy': [0.3, 0.3]}
  deviation = np.std([0.5, 0.7], ddof=1)
  assert report.ahead(one, other) == pytest.approx(0.3 / deviation)
  assert report.ahead(other, one) == pytest.approx(-0.3 / deviation)


def test_tables_become_tasks(tmp_path):
  write(tmp_path)
  write(tmp_path, 'SST', 'Sentence\tlabel', ['dog cat\t1', 'cat\t0'] * 6)
  (tmp_path / 'notes').mkdir()
  assert glue.names(tmp_path) == ['RTE', 'SST']
  first, second = glue.read(tmp_path, WORDS, 8)
  assert (first.classes, second.classes) == (2, 2)
  start = WORDS.marks.start
  a, cat, dog, sign = (WORDS.ids[x] for x in ('a', 'cat', 'dog', '!'))
  # Each text has half of the room.
  assert first.test.tokens[:2].tolist() == [
    [start, a, dog, start, a, cat, 0, 0],
    [start, a, cat, sign, start, a, cat, 0],
  ]
  assert first.test.labels[:2].tolist() == [[0] + [-1] * 7, [1] + [-1] * 7]
  assert len(first.validation.tokens) == 2
  assert len(first.train.tokens) == 18


@pytest.mark.parametrize(
  ('how', 'text'),
  [
    ({'columns': 'a\tb\tc'}, 'train.tsv has the columns a, b, c, but needs'),
    ({'columns': 'sentence1\tlabel\tx'}, 'for the text one of: sentence1 and'),
    ({'columns': ''}, 'has the columns none, but needs one of label'),
    ({'dev': ['a\tb\tmaybe'] * 10}, 'has the labels maybe, which train.tsv'),
    ({'dev': ['a\tb'] * 10}, 'dev.tsv has 2 columns in line 2, but 3 in its'),
    ({'dev': ROWS[:2]}, 'dev.tsv has 2 examples, but needs 10 or more.'),
    ({'rows': ROWS[::2]}, 'train.tsv has 1 labels, but a task needs two'),
    (
      {'rows': ['x y\tz z\t0', 'y y\tx x\t1'] * 5},
      'vocabulary does not fit: o',
    ),
  ],
)
def test_bad_tables(how, text, tmp_path):
  write(tmp_path, **how)
  with pytest.raises(ValueError, match='tsv') as error:
    glue.read(tmp_path, WORDS, 8)
  assert text in str(error.value)


def test_words_are_spelled_by_the_longest_pieces():
  pieces = ['[UNK]', 'un', 'una', '##aff', '##able', '##ffable', 'cat']
  words = Words({x: i for i, x in enumerate(pieces)}, pieces=True)
  spelled = [words.spell(x) for x in ('unaffable', 'cat', 'unaffect')]
  # Greedy: una comes before un, and then nothing fits but ##ffable.
  assert spelled == [[2, 5], [6], [words.marks.unknown]]


def test_pretrained_folders(tmp_path, monkeypatch):
  folder = tmp_path / 'package' / 'model'
  folder.mkdir(parents=True)
  (folder.parent / '__init__.py').touch()
  (folder / 'config.json').touch()
  vocabulary = folder / 'vocab.txt'
  vocabulary.write_text('[PAD]\n[UNK]\n[CLS]\n')
  monkeypatch.syspath_prepend(tmp_path)
  assert pretrained.find('package') == Path(folder)
  assert pretrained.find(str(folder)) == Path(folder)
  config = lth.models.BertConfig(4, 8, 1, 2, 4, 8, context=16)
  monkeypatch.setattr(lth.models, 'load_hf', lambda folder: (config, {}))
  with pytest.raises(ValueError, match=r'lacks \[MASK\], which BERT has'):
    pretrained.load('package', 8)
  vocabulary.write_text('[PAD]\n[UNK]\n[CLS]\n[MASK]\n')
  assert pretrained.load('package', 8).words.marks == (0, 1, 2, 3)
  with pytest.raises(ValueError, match='but the encoder has 16 positions'):
    pretrained.load('package', 17)
  small = dataclasses.replace(config, vocabulary=3)
  monkeypatch.setattr(lth.models, 'load_hf', lambda folder: (small, {}))
  with pytest.raises(ValueError, match='has 4 tokens, but the encoder 3'):
    pretrained.load('package', 8)
