"""Where treebanks and lexicons are."""

import functools
import os
import pathlib

from lthjax import linguistic

LANGUAGES = ('en', 'de', 'fr', 'fi', 'zh')


def text_folder() -> pathlib.Path:
  """The folder ``LTHJAX_TEXT_DIR``, or ``text`` beside ``TFDS_DATA_DIR``.

  Raises:
    FileNotFoundError: if there is no such folder.
  """
  if named := os.environ.get('LTHJAX_TEXT_DIR'):
    folder = pathlib.Path(named).expanduser()
  else:
    prepared = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
    folder = pathlib.Path(prepared).expanduser().parent / 'text'
  if not folder.is_dir():
    raise FileNotFoundError(
      f'There is no folder {folder}. Set LTHJAX_TEXT_DIR to a folder that holds'
      ' ud_english_ewt/en_ewt-ud-{train,dev,test}.conllu.gz, from'
      ' https://universaldependencies.org.'
    )
  return folder


@functools.cache
def treebank(split: str) -> tuple[linguistic.Sentence, ...]:
  """Sentences of the English Web Treebank: train, dev or test."""
  name = f'en_ewt-ud-{split}.conllu.gz'
  return tuple(linguistic.read_conllu(text_folder() / 'ud_english_ewt' / name))


def parallel() -> dict[str, tuple[linguistic.Sentence, ...]]:
  """The parallel treebanks that are there, by language."""
  files = {
    language: text_folder() / 'ud_pud' / f'{language}_pud-ud-test.conllu.gz'
    for language in LANGUAGES
  }
  return {
    language: tuple(linguistic.read_conllu(file))
    for language, file in files.items()
    if file.is_file()
  }
