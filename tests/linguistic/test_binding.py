"""Clauses, and what pronouns may refer to."""

import pytest

from lthjax import linguistic

TAGS = {
  **dict.fromkeys(['John', 'Mary'], 'PROPN'),
  **dict.fromkeys(['boy', 'girls', 'picture'], 'NOUN'),
  **dict.fromkeys(['says', 'saw', 'likes', 'left'], 'VERB'),
  **dict.fromkeys(['that', 'because'], 'SCONJ'),
  'and': 'CCONJ',
  '.': 'PUNCT',
  'is': 'AUX',
  'proud': 'ADJ',
}
NUMBERS = {'boy': 'Sing', 'girls': 'Plur'}


def sentence(text, heads=()):
  """Words with their tags; verbs are finite."""
  words = text.split()
  heads = heads or [0] * len(words)
  return linguistic.Sentence(
    '',
    tuple(
      linguistic.Token(
        word,
        word,
        TAGS.get(word, 'PRON'),
        {'VerbForm': 'Fin'}
        if TAGS.get(word) in ('VERB', 'AUX')
        else {'Number': NUMBERS[word]}
        if word in NUMBERS
        else {},
        head,
        'cop' if word == 'is' else 'dep',
      )
      for word, head in zip(words, heads, strict=True)
    ),
  )


def antecedents(text, pronoun, heads=()):
  """Nominals that a pronoun may attend to, by their forms."""
  found = sentence(text, heads)
  mask = linguistic.binding_mask(found, gold=bool(heads))
  i = found.forms.index(pronoun)
  return {
    word
    for j, word in enumerate(found.forms)
    if mask[i, j] and j != i and TAGS.get(word, 'PRON') in 'NOUN PROPN PRON'
  }


EMBEDDED = 'John says that Mary saw herself .'
EMBEDDED_HEADS = [2, 0, 5, 5, 2, 5, 2]


@pytest.mark.parametrize('heads', [(), EMBEDDED_HEADS])
def test_reflexives_stay_in_their_clause(heads):
  assert antecedents(EMBEDDED, 'herself', heads) == {'Mary'}


@pytest.mark.parametrize('heads', [(), EMBEDDED_HEADS])
def test_plain_pronouns_leave_their_clause(heads):
  text = EMBEDDED.replace('herself', 'him')
  assert antecedents(text, 'him', heads) == {'John'}


def test_number_person_and_gender_agree():
  assert antecedents('girls and boy saw himself .', 'himself') == {'boy'}
  assert antecedents('girls and boy saw themselves .', 'themselves') == {
    'girls'
  }
  assert antecedents('I says that she saw myself .', 'myself') == set()
  assert antecedents('I saw she myself .', 'myself') == {'I'}
  assert antecedents('he likes herself .', 'herself') == set()
  assert antecedents('she likes herself .', 'herself') == {'she'}


def test_names_and_possessives_are_free():
  found = sentence('John likes his picture because Mary left .')
  mask = linguistic.binding_mask(found, gold=False)
  assert mask.all()


def test_other_words_stay_open():
  found = sentence(EMBEDDED, EMBEDDED_HEADS)
  mask = linguistic.binding_mask(found)
  assert (~mask).sum() == 1
  assert not mask[5, 0]


def test_clauses_by_heads():
  # A finite copula makes a clause of the adjective that it belongs to.
  text = 'Mary says that John is proud .'
  found = sentence(text, [2, 0, 6, 6, 6, 2, 2])
  assert linguistic.clauses(found) == [1, 1, 5, 5, 5, 5, 1]
  verbless = sentence('John and Mary', [0, 3, 1])
  assert linguistic.clauses(verbless) == [0, 0, 0]


def test_clauses_by_words():
  text = 'John left because Mary left and saw John . Mary and John left'
  spans = linguistic.clauses(sentence(text), gold=False)
  assert spans == [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_features_of_a_treebank_come_first():
  words = (
    linguistic.Token('chien', upos='NOUN', feats={'Number': 'Sing'}),
    linguistic.Token(
      'se', upos='PRON', feats={'PronType': 'Prs', 'Reflex': 'Yes'}
    ),
    linguistic.Token('qui', upos='PRON', feats={'PronType': 'Rel'}),
  )
  mask = linguistic.binding_mask(linguistic.Sentence('', words), gold=False)
  assert mask.all()  # In the same clause; and nothing is known of others.
  plural = words[0]._replace(feats={'Number': 'Plur'})
  feats = {'PronType': 'Prs', 'Reflex': 'Yes', 'Number': 'Sing'}
  singular = words[1]._replace(feats=feats)
  both = linguistic.Sentence('', (plural, singular))
  assert not linguistic.binding_mask(both, gold=False)[1, 0]


def test_table_of_pronouns():
  assert len(linguistic.PRONOUNS) >= 30
  assert linguistic.PRONOUNS['herself'] == (3, 'Sing', 'Fem', True, False)
  assert linguistic.PRONOUNS['i'].person == 1
  assert sum(p.reflexive for p in linguistic.PRONOUNS.values()) == 9


def test_wrong_types():
  with pytest.raises(TypeError, match='be a sentence'):
    linguistic.binding_mask(['John'])
  with pytest.raises(TypeError, match='be True or False'):
    linguistic.clauses(sentence('John'), gold='yes')
  words = (linguistic.Token('go', upos='VB'),)
  for find in (linguistic.clauses, linguistic.binding_mask):
    with pytest.raises(ValueError, match=r'found VB\. Map them'):
      find(linguistic.Sentence('', words))
