"""Where treebanks and lexicons are."""

import functools
import os
import pathlib

from common.texts import FOLDER, folder
from lthjax import linguistic

LANGUAGES = ('en', 'de', 'fr', 'fi', 'zh')


def text_folder() -> pathlib.Path:
  """The folder ``LTHJAX_TEXT_DIR``, or ``text`` beside ``TFDS_DATA_DIR``.

  Raises:
    FileNotFoundError: if there is no such folder.
  """
  if not (found := folder()).is_dir():
    raise FileNotFoundError(
      f'There is no folder {found}. Set {FOLDER} to a folder that holds'
      ' ud_english_ewt/en_ewt-ud-{train,dev,test}.conllu.gz, from'
      ' https://universaldependencies.org.'
    )
  return found


@functools.cache
def treebank(split: str) -> tuple[linguistic.Sentence, ...]:
  """Sentences of the English Web Treebank: train, dev or test."""
  name = f'en_ewt-ud-{split}.conllu.gz'
  return tuple(linguistic.read_conllu(text_folder() / 'ud_english_ewt' / name))


def languages() -> tuple[str, ...]:
  """Languages whose parallel treebank is there; all if there is no folder."""
  known = folder().is_dir()
  return tuple(x for x in LANGUAGES if not known or _parallel(x).is_file())


def parallel() -> dict[str, tuple[linguistic.Sentence, ...]]:
  """The parallel treebanks that are there, by language."""
  text_folder()
  return {
    language: tuple(linguistic.read_conllu(_parallel(language)))
    for language in languages()
  }


def _parallel(language: str) -> pathlib.Path:
  return folder() / 'ud_pud' / f'{language}_pud-ud-test.conllu.gz'


@functools.cache
def verbnet() -> linguistic.VerbNet:
  """VerbNet 3.4, of ``LTHJAX_VERBNET`` or of the folder of texts."""
  named = os.environ.get('LTHJAX_VERBNET')
  return linguistic.load_verbnet(named or text_folder() / 'verbnet3.4')


@functools.cache
def wordnet() -> linguistic.WordNet:
  """WordNet 3.1, of ``LTHJAX_WORDNET`` or of the folder of texts."""
  named = os.environ.get('LTHJAX_WORDNET')
  return linguistic.load_wordnet(named or text_folder() / 'wordnet-3.1')
