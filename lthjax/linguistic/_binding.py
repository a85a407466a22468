"""Binding: which nouns a pronoun may refer to."""

from typing import NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.linguistic import _restrictions, _treebanks


class Pronoun(NamedTuple):
  """What a pronoun agrees in; `None` where it agrees with all.

  Attributes:
    person: 1, 2 or 3.
    number: ``'Sing'`` or ``'Plur'``.
    gender: ``'Masc'``, ``'Fem'`` or ``'Neut'``.
    reflexive: whether it refers within its clause.
    possessive: whether it is a determiner, which binding leaves free.
  """

  person: int | None
  number: str | None
  gender: str | None = None
  reflexive: bool = False
  possessive: bool = False


def _table() -> dict[str, Pronoun]:
  """Rows of plain, possessive and reflexive forms."""
  rows = [
    ('I me', 'my mine', 'myself', 1, 'Sing', None),
    ('we us', 'our ours', 'ourselves', 1, 'Plur', None),
    ('you', 'your yours', '', 2, None, None),
    ('', '', 'yourself', 2, 'Sing', None),
    ('', '', 'yourselves', 2, 'Plur', None),
    ('he him', 'his', 'himself', 3, 'Sing', 'Masc'),
    ('she her', 'hers', 'herself', 3, 'Sing', 'Fem'),
    ('it', 'its', 'itself', 3, 'Sing', 'Neut'),
    ('they them', 'their theirs', 'themselves', 3, 'Plur', None),
    ('one', '', 'oneself', 3, 'Sing', None),
  ]
  return {
    form.lower(): Pronoun(person, number, gender, kind == 2, kind == 1)
    for *kinds, person, number, gender in rows
    for kind, forms in enumerate(kinds)
    for form in forms.split()
  }


PRONOUNS = _table()


def clauses(sentence: _treebanks.Sentence, *, gold: bool = True) -> list[int]:
  """Finds the clause of each word.

  Args:
    sentence: of a treebank.
    gold: whether to use heads and forms of verbs: the clause of a word is that
      of the nearest finite verb above it, or the word that a finite auxiliary
      belongs to. Otherwise, clauses are spans of words that start at a SCONJ or
      at a CCONJ before a verb, and end at punctuation that ends sentences.

  Returns:
    A number per word, equal within a clause: with gold heads, the position of
    the word that heads it.

  Example:
    >>> from lthjax import linguistic
    >>> tags = ['PRON', 'VERB', 'SCONJ', 'PRON', 'VERB']
    >>> words = tuple(linguistic.Token('x', upos=tag) for tag in tags)
    >>> linguistic.clauses(linguistic.Sentence('', words), gold=False)
    [0, 0, 1, 1, 1]
  """
  tokens = _restrictions.check_sentence(sentence).tokens
  return _gold(tokens) if _checks.flag('gold', gold) else _surface(tokens)


def binding_mask(
  sentence: _treebanks.Sentence, *, gold: bool = True
) -> np.ndarray:
  """Closes edges from pronouns to nouns that they cannot refer to.

  Among nouns, proper nouns and other pronouns, a reflexive pronoun attends to
  those that agree with it in its clause (principle A), and any other one to
  those that agree with it outside of its clause (principle B). Names are free
  (principle C), and so are possessive pronouns.

  Args:
    sentence: of a treebank. Features such as ``Number`` decide what agrees;
      where there are none, those of a table of English pronouns.
    gold: how to find clauses, as in `clauses`.

  Returns:
    bool[words, words], queries by keys. Rows of other words, columns of other
    words and the diagonal are open.

  Example:
    >>> from lthjax import linguistic
    >>> forms = {'Mary': 'PROPN', 'saw': 'VERB', 'herself': 'PRON'}
    >>> words = tuple(linguistic.Token(w, upos=t) for w, t in forms.items())
    >>> sentence = linguistic.Sentence('', words)
    >>> linguistic.binding_mask(sentence, gold=False)[2]
    array([ True,  True,  True])

  References:
    Chomsky, Lectures on Government and Binding (1981), chapter 3.
  """
  tokens = _restrictions.check_sentence(sentence).tokens
  place = clauses(sentence, gold=gold)
  allowed = np.ones((len(tokens),) * 2, bool)
  for i, token in enumerate(tokens):
    me = _pronoun(token)
    if token.upos != 'PRON' or me is None or me.possessive:
      continue
    for j, other in enumerate(tokens):
      if j != i and other.upos in _restrictions.NOMINALS:
        inside = place[i] == place[j]
        allowed[i, j] = inside == me.reflexive and _agree(me, other)
  return allowed


def features_of(lemma: str) -> frozenset[str] | None:
  """Features of a pronoun in VerbNet; unknown where it may be anything."""
  found = PRONOUNS.get(lemma.lower())
  human = found is not None and (found.person != 3 or found.gender in _SEXES)
  if human or lemma.lower() in _PERSONS:
    return frozenset(('animate', 'biotic', 'concrete', 'human', 'int_control'))
  return None


_SEXES = ('Masc', 'Fem')
_PERSONS = frozenset(
  f'{some}{body}'
  for some in ('some', 'any', 'every', 'no')
  for body in ('body', 'one')
) | {'who', 'whom', 'whoever'}
_GENDERS = ('Masc', 'Fem', 'Neut')
_NUMBERS = ('Sing', 'Plur')


def _pronoun(token: _treebanks.Token) -> Pronoun | None:
  """The table's entry, with the token's own features over it."""
  known, feats = PRONOUNS.get(token.form.lower()), token.feats
  if known is None and feats.get('PronType') != 'Prs':
    return None
  base = known or Pronoun(None, None)
  person = feats.get('Person', '')
  return Pronoun(
    int(person) if person in ('1', '2', '3') else base.person,
    _among(feats.get('Number'), _NUMBERS) or base.number,
    _among(feats.get('Gender'), _GENDERS) or base.gender,
    feats.get('Reflex') == 'Yes' or base.reflexive,
    feats.get('Poss') == 'Yes' or base.possessive,
  )


def _among(value: str | None, known: tuple[str, ...]) -> str | None:
  return value if value in known else None


def _agree(me: Pronoun, other: _treebanks.Token) -> bool:
  """Whether person, number and gender agree, as far as they are known."""
  if other.upos == 'PRON':
    they = _pronoun(other) or Pronoun(None, None)
  else:
    they = Pronoun(3, _among(other.feats.get('Number'), _NUMBERS))
  pairs = zip(me[:3], they[:3], strict=True)
  return all(a is None or b is None or a == b for a, b in pairs)


def _is_finite(token: _treebanks.Token) -> bool:
  return token.upos in ('VERB', 'AUX') and token.feats.get('VerbForm') == 'Fin'


def _gold(tokens: tuple[_treebanks.Token, ...]) -> list[int]:
  helpers = [token.deprel.split(':')[0] in ('aux', 'cop') for token in tokens]
  heads = {
    i if not helper else token.head - 1
    for i, (token, helper) in enumerate(zip(tokens, helpers, strict=True))
    if _is_finite(token)
  }
  found = []
  for i in range(len(tokens)):
    here, seen = i, set()
    while here not in heads and tokens[here].head and here not in seen:
      seen.add(here)  # Heads may go round in circles in a broken treebank.
      here = tokens[here].head - 1
    found.append(here)
  return found


def _surface(tokens: tuple[_treebanks.Token, ...]) -> list[int]:
  found, number, ended = [], 0, False
  for i, token in enumerate(tokens):
    following = tokens[i + 1].upos if i + 1 < len(tokens) else ''
    starts = token.upos == 'SCONJ' or (
      token.upos == 'CCONJ' and following in ('VERB', 'AUX')
    )
    if (starts or ended) and found:
      number += 1
    found.append(number)
    ended = token.upos == 'PUNCT' and token.form[-1:] in ('.', '!', '?', ';')
  return found
