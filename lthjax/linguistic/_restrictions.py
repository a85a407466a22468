"""How well a noun fits the roles of a verb."""

from typing import Any

import numpy as np

from lthjax import _checks
from lthjax.linguistic import _tags, _treebanks, _verbnet, _wordnet

NOMINALS = ('NOUN', 'PROPN', 'PRON')
# Features of VerbNet that no dictionary tells of a lemma.
UNJUDGED = frozenset(
  ('elongated', 'nonrigid', 'plural', 'pointy', 'refl', 'vehicle_part')
)


def compat(
  verbnet: _verbnet.VerbNet,
  verb: str,
  features: frozenset[str] | None,
  *,
  deprel: str | None = None,
  preposition: str | None = None,
) -> float:
  """Computes how well a noun fits the roles of a verb.

  The share of the verb's restricted roles that the features satisfy; with a
  relation, whether they satisfy the role of that slot in some frame. What is
  unknown never forbids: a verb outside VerbNet, a class without restrictions, a
  slot that no frame has, unknown features.

  Args:
    verbnet: as `load_verbnet` returns.
    verb: a lemma.
    features: those of the noun, as a function of `wordnet_features` returns.
    deprel: relation of the noun to the verb: ``'nsubj'`` for the first noun
      phrase of a frame, ``'obj'`` for the next, ``'obl'`` for those behind the
      preposition, and their passive counterparts.
    preposition: lemma of the preposition of an oblique.

  Returns:
    From 0 to 1. A verb of several classes is allowed what any of them allows.

  Example:
    >>> from lthjax import linguistic
    >>> animate = linguistic.Restriction(False, ((True, 'animate'),))
    >>> roles = {'Agent': animate, 'Theme': None}
    >>> absorb = linguistic.VerbClass('x', None, ('see',), (), roles, ())
    >>> verbnet = linguistic.VerbNet((absorb,), {'see': (absorb,)})
    >>> linguistic.compat(verbnet, 'see', frozenset({'concrete'}))
    0.0
  """
  if not isinstance(verbnet, _verbnet.VerbNet):
    wanted = 'be a VerbNet, as `linguistic.load_verbnet(path)` returns'
    raise _checks.wrong_type('verbnet', verbnet, wanted)
  if features is not None and not isinstance(features, frozenset | set):
    wanted = 'be a set of strings, or None where unknown'
    raise _checks.wrong_type('features', features, wanted)
  for name, x in (('deprel', deprel), ('preposition', preposition)):
    if x is not None:
      _checks.text(name, x)
  classes = verbnet.of(_checks.text('verb', verb))
  if features is None or not classes:
    return 1.0
  have = frozenset(features)
  if deprel is None:
    return max(_share(c, have) for c in classes)
  found = [
    _fits(c.roles.get(role), have)
    for c in classes
    for role in slot_roles(c, deprel, preposition)
  ]
  return float(any(found) or not found)


def compat_matrix(
  sentence: _treebanks.Sentence,
  verbnet: _verbnet.VerbNet,
  features: _wordnet.Features,
  *,
  gold_slots: bool = False,
) -> np.ndarray:
  """Computes how well each verb and each noun of a sentence fit.

  Args:
    sentence: of a treebank.
    verbnet: as `load_verbnet` returns.
    features: a function from a lemma and a tag to features of VerbNet, or
      `None` where they are unknown; such as `wordnet_features` makes.
    gold_slots: whether to use the annotated relations: then only dependents of
      a verb are restricted, and only by the role of their slot.

  Returns:
    float32[words, words]: `compat` between verbs and nouns, proper nouns and
    pronouns, in both directions, and 1 elsewhere.
  """
  tokens = check_sentence(sentence).tokens
  _checks.function('features', features, '(lemma, upos) -> frozenset or None')
  slots = _checks.flag('gold_slots', gold_slots)
  found = np.ones((len(tokens),) * 2, np.float32)
  for i, verb in enumerate(tokens):
    for j, noun in enumerate(tokens):
      if verb.upos != 'VERB' or noun.upos not in NOMINALS:
        continue
      if slots and noun.head != i + 1:
        continue
      found[i, j] = found[j, i] = compat(
        verbnet,
        verb.lemma,
        features(noun.lemma, noun.upos),
        deprel=noun.deprel if slots else None,
        preposition=preposition_of(sentence, j) if slots else None,
      )
  return found


def slot_roles(
  verb_class: _verbnet.VerbClass, deprel: str, preposition: str | None
) -> set[str]:
  """Roles that the frames of a class give to a dependent."""
  return {
    role
    for frame in verb_class.frames
    for role in frame.roles(deprel, preposition)
  }


def preposition_of(sentence: _treebanks.Sentence, noun: int) -> str | None:
  """Lemma of the preposition that depends on a noun."""
  return next(
    (
      token.lemma.lower()
      for token in sentence.tokens
      if token.head == noun + 1 and token.deprel == 'case'
    ),
    None,
  )


def check_sentence(sentence: Any) -> _treebanks.Sentence:
  """Returns one sentence."""
  if not isinstance(sentence, _treebanks.Sentence):
    wanted = 'be a sentence, as `linguistic.read_conllu(path)` returns several'
    raise _checks.wrong_type('sentence', sentence, wanted)
  _tags.check_names([sentence.tags])
  if any(not 0 <= t.head <= len(sentence.tokens) for t in sentence.tokens):
    raise ValueError(
      f'Sentence "{sentence.name}" has {len(sentence.tokens)} words, but a head'
      ' beyond them. Count heads from 1, and 0 for the root.'
    )
  return sentence


def _share(verb_class: _verbnet.VerbClass, have: frozenset[str]) -> float:
  restricted = [r for r in verb_class.roles.values() if r is not None]
  if not restricted:
    return 1.0
  return sum(_fits(r, have) for r in restricted) / len(restricted)


def _fits(
  restriction: _verbnet.Restriction | None, have: frozenset[str]
) -> bool:
  return restriction is None or restriction.allows(have, UNJUDGED)
