"""Five axes of linguistic structure, as sets of edges."""

import itertools
from collections.abc import Iterable

import numpy as np

from lthjax import _checks
from lthjax.linguistic import (
  _restrictions,
  _tags,
  _treebanks,
  _verbnet,
  _wordnet,
)

AXES = ('type', 'valence', 'qualia', 'force', 'geometry')

_FORCES = frozenset(('cause', 'exert_force', 'contact', 'conflict'))
_PLAYERS = frozenset(('Agent', 'Causer', 'Patient', 'Instrument'))
_MOTIONS = frozenset(('has_location', 'motion', 'has_position'))
_PLACES = frozenset(('Location', 'Destination', 'Source', 'Trajectory'))
_EDGES = set[tuple[int, int]]


def axis_edges(
  sentence: _treebanks.Sentence,
  *,
  wordnet: _wordnet.WordNet,
  verbnet: _verbnet.VerbNet,
) -> dict[str, np.ndarray]:
  """Finds the edges of a sentence along each of five axes.

  The definitions are operational:

  * ``type``: two nouns whose first senses share a lexicographer file; a noun
    and an adjective.
  * ``valence``: a verb and a dependent for which one of its frames has a slot.
  * ``qualia``: two nouns, one a kind (formal) or a part or substance
    (constitutive) of the other; a verb and a noun that one derives from the
    other (agentive, telic).
  * ``force``: a verb whose meaning has a cause, force, contact or conflict, and
    its Agent, Causer, Patient or Instrument.
  * ``geometry``: a preposition and what it belongs to; a preposition, or a verb
    of motion or location, and a noun that is a location; such a verb and its
    Location, Destination, Source or Trajectory.

  Args:
    sentence: of a treebank, with gold heads.
    wordnet: as `load_wordnet` returns.
    verbnet: as `load_verbnet` returns.

  Returns:
    For each axis, symmetric bool[words, words]. Take what is in the `region`
    after `pad_edges(.., fill=False)`.
  """
  _restrictions.check_sentence(sentence)
  for name, x, kind in (
    ('wordnet', wordnet, _wordnet.WordNet),
    ('verbnet', verbnet, _verbnet.VerbNet),
  ):
    if not isinstance(x, kind):
      wanted = f'be a {kind.__name__}, as `linguistic.load_{name}()` returns'
      raise _checks.wrong_type(name, x, wanted)
  found = {
    'type': _type(sentence, wordnet),
    'valence': _slots(sentence, verbnet),
    'qualia': _qualia(sentence, wordnet),
    'force': _slots(sentence, verbnet, _FORCES, _PLAYERS),
    'geometry': _geometry(sentence, wordnet, verbnet),
  }
  return {axis: _symmetric(found[axis], len(sentence.tokens)) for axis in AXES}


def _type(sentence: _treebanks.Sentence, wordnet: _wordnet.WordNet) -> _EDGES:
  files = {
    i: wordnet.synset(offset).file
    for i, offset in _nouns(sentence, wordnet).items()
  }
  adjective, noun = map(_tags.IDS.get, ('ADJ', 'NOUN'))
  edges = {
    (i, j) for i, j in itertools.combinations(files, 2) if files[i] == files[j]
  }
  if _tags.compatibility()[adjective, noun]:
    edges |= {*_pairs(sentence, ('ADJ',), ('NOUN',))}
  return edges


def _qualia(sentence: _treebanks.Sentence, wordnet: _wordnet.WordNet) -> _EDGES:
  nouns, edges = _nouns(sentence, wordnet), set()
  for i, j in itertools.permutations(nouns, 2):
    below, above = nouns[i], nouns[j]
    formal = below != above and above in wordnet.hypernyms(below)
    parts = {
      to
      for symbol, _, to in wordnet.synset(above).pointers
      if symbol in ('%p', '%s')
    }
    if formal or below in parts:
      edges.add((i, j))
  for i, j in _pairs(sentence, ('VERB',), ('NOUN',)):
    verb, noun = sentence.tokens[i].lemma, sentence.tokens[j].lemma
    derived = {
      to
      for offset in wordnet.senses(verb, 'v')
      for symbol, pos, to in wordnet.synset(offset, 'v').pointers
      if symbol == '+' and pos == 'n'
    }
    if derived & {*wordnet.senses(noun)}:
      edges.add((i, j))
  return edges


def _geometry(
  sentence: _treebanks.Sentence,
  wordnet: _wordnet.WordNet,
  verbnet: _verbnet.VerbNet,
) -> _EDGES:
  locations = [
    i
    for i, offset in _nouns(sentence, wordnet).items()
    if wordnet.synset(offset).file == 'noun.location'
  ]
  anchors = [
    i
    for i, token in enumerate(sentence.tokens)
    if token.upos == 'ADP'
    or (token.upos == 'VERB' and _means(verbnet, token.lemma, _MOTIONS))
  ]
  edges = {(i, j) for i in anchors for j in locations}
  edges |= {
    (i, token.head - 1)
    for i, token in enumerate(sentence.tokens)
    if token.upos == 'ADP' and token.head
  }
  return edges | _slots(sentence, verbnet, _MOTIONS, _PLACES)


def _slots(
  sentence: _treebanks.Sentence,
  verbnet: _verbnet.VerbNet,
  predicates: frozenset[str] | None = None,
  roles: frozenset[str] | None = None,
) -> _EDGES:
  """Verbs and dependents with a slot, perhaps of some roles and meanings."""
  edges = set()
  for j, token in enumerate(sentence.tokens):
    i = token.head - 1
    if i < 0 or sentence.tokens[i].upos != 'VERB':
      continue
    preposition = _restrictions.preposition_of(sentence, j)
    found = {
      role
      for frame in _frames(verbnet, sentence.tokens[i].lemma)
      if predicates is None or frame.predicates & predicates
      for role in frame.roles(token.deprel, preposition)
    }
    if found if roles is None else found & roles:
      edges.add((i, j))
  return edges


def _frames(verbnet: _verbnet.VerbNet, lemma: str) -> Iterable[_verbnet.Frame]:
  classes = verbnet.of(lemma)
  return (frame for found in classes for frame in found.frames)


def _means(
  verbnet: _verbnet.VerbNet, lemma: str, predicates: frozenset[str]
) -> bool:
  return any(f.predicates & predicates for f in _frames(verbnet, lemma))


def _nouns(
  sentence: _treebanks.Sentence, wordnet: _wordnet.WordNet
) -> dict[int, str]:
  """First senses of the nouns that are in the dictionary."""
  senses = {
    i: wordnet.senses(token.lemma)
    for i, token in enumerate(sentence.tokens)
    if token.upos == 'NOUN'
  }
  return {i: offsets[0] for i, offsets in senses.items() if offsets}


def _pairs(
  sentence: _treebanks.Sentence, one: tuple[str, ...], two: tuple[str, ...]
) -> Iterable[tuple[int, int]]:
  tags = list(enumerate(sentence.tags))
  return ((i, j) for i, a in tags for j, b in tags if a in one and b in two)


def _symmetric(edges: _EDGES, n: int) -> np.ndarray:
  found = np.zeros((n, n), bool)
  for i, j in edges:
    found[i, j] = found[j, i] = True
  return found
