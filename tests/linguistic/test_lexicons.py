"""VerbNet, WordNet, and how well nouns fit verbs."""

import collections
import gzip
import pathlib
import tarfile

import numpy as np
import pytest

from lthjax import linguistic

# Roles without, with one, with nested, and with overridden restrictions; one
# restriction stands outside of SELRESTRS and does not count.
VERBNET = """\
<VNCLASS ID="try-1">
  <MEMBERS><MEMBER name="eat"/><MEMBER name="take_in"/></MEMBERS>
  <THEMROLES>
    <THEMROLE type="Agent"><SELRESTRS logic="or">
      <SELRESTR Value="+" type="animate"/>
      <SELRESTRS>
        <SELRESTR Value="+" type="machine"/>
        <SELRESTR Value="-" type="pointy"/>
        <SELRESTR Value="-" type="vehicle"/>
      </SELRESTRS>
    </SELRESTRS></THEMROLE>
    <THEMROLE type="Patient"><SELRESTRS>
      <SELRESTR Value="+" type="comestible"/>
      <SELRESTR Value="+" type="solid"/>
    </SELRESTRS></THEMROLE>
    <THEMROLE type="Topic"><SELRESTR Value="+" type="question"/></THEMROLE>
    <THEMROLE type="Source"><SELRESTRS/></THEMROLE>
  </THEMROLES>
  <FRAMES><FRAME>
    <SYNTAX>
      <NP value="Agent"/><VERB/><NP value="Patient"/>
      <PREP value="from | out_of"/><NP value="Source"/>
    </SYNTAX>
    <SEMANTICS><PRED value="cause"/></SEMANTICS>
  </FRAME></FRAMES>
  <SUBCLASSES><VNSUBCLASS ID="try-1-1">
    <MEMBERS><MEMBER name="sip"/></MEMBERS>
    <THEMROLES>
      <THEMROLE type="Patient"><SELRESTRS>
        <SELRESTR Value="+" type="substance"/>
      </SELRESTRS></THEMROLE>
    </THEMROLES>
    <FRAMES/><SUBCLASSES/>
  </VNSUBCLASS></SUBCLASSES>
</VNCLASS>
"""
OTHER = """\
<VNCLASS ID="try-2">
  <MEMBERS><MEMBER name="eat"/></MEMBERS>
  <THEMROLES><THEMROLE type="Theme"><SELRESTRS>
    <SELRESTR Value="+" type="abstract"/>
  </SELRESTRS></THEMROLE></THEMROLES>
  <FRAMES><FRAME>
    <SYNTAX><NP value="Theme"/><VERB/></SYNTAX><SEMANTICS/>
  </FRAME></FRAMES>
  <SUBCLASSES/>
</VNCLASS>
"""


def some(*features):
  return frozenset(features)


@pytest.fixture
def small(tmp_path):
  (tmp_path / 'try-1.xml').write_text(VERBNET)
  return linguistic.load_verbnet(tmp_path)


def test_restrictions_are_read_with_their_logic(small):
  parent, child = small.classes
  agent = parent.roles['Agent']
  assert agent.any
  assert agent.parts[0] == (True, 'animate')
  assert agent.parts[1].parts[2] == (False, 'vehicle')
  assert [
    agent.allows(some(*words.split()))
    for words in ('animate', 'machine', 'machine vehicle', 'machine pointy', '')
  ] == [True, True, False, False, False]
  assert agent.allows(some('machine', 'pointy'), some('pointy'))
  assert not parent.roles['Patient'].any
  assert parent.roles['Topic'] is None
  assert parent.roles['Source'] is None
  assert (child.parent, child.lemmas) == ('try-1', ('sip',))


def test_subclasses_inherit_and_override(small):
  parent, child = small.classes
  assert child.roles['Agent'] == parent.roles['Agent']
  assert child.roles['Patient'].parts == ((True, 'substance'),)
  assert [name for name, _ in child.declared] == ['Patient']
  assert child.frames == parent.frames
  assert parent.frames[0].predicates == {'cause'}


def test_compatibility_is_the_share_of_restricted_roles(small):
  fits = {
    some('animate'): 0.5,
    some('comestible', 'solid'): 0.5,
    some('comestible'): 0.0,
    some('animate', 'comestible', 'solid'): 1.0,
    None: 1.0,
  }
  for features, wanted in fits.items():
    assert linguistic.compat(small, 'eat', features) == wanted
  assert linguistic.compat(small, 'sip', some('substance')) == 0.5
  assert linguistic.compat(small, 'unheard', some()) == 1


def test_a_slot_asks_its_own_role_only(small):
  def fits(deprel, *features, preposition=None):
    return linguistic.compat(
      small, 'Eat', some(*features), deprel=deprel, preposition=preposition
    )

  assert fits('nsubj', 'animate') == 1
  assert fits('nsubj', 'comestible', 'solid') == 0
  assert fits('obj', 'comestible', 'solid') == 1
  assert fits('nsubj:pass', 'comestible', 'solid') == 1
  assert fits('obl:agent', 'animate') == 1
  assert fits('obj', 'animate') == 0
  assert fits('obl', preposition='from') == 1  # A role for any noun.
  assert fits('obl', preposition='with') == 1  # No such slot.
  assert fits('advmod') == 1


def test_any_class_of_a_verb_may_allow(tmp_path):
  (tmp_path / 'a.xml').write_text(VERBNET)
  (tmp_path / 'b.xml').write_text(OTHER)
  both = linguistic.load_verbnet(tmp_path)
  assert linguistic.compat(both, 'eat', some('abstract')) == 1
  assert linguistic.compat(both, 'eat', some('abstract'), deprel='nsubj') == 1
  assert linguistic.compat(both, 'eat', some('abstract'), deprel='obj') == 0
  assert linguistic.compat(both, 'sip', some('abstract')) == 0


def test_matrix_of_a_sentence(small):
  words = [
    ('She', 'PRON', 2, 'nsubj'),
    ('eats', 'VERB', 0, 'root'),
    ('ideas', 'NOUN', 2, 'obj'),
    ('often', 'ADV', 2, 'advmod'),
    ('Rome', 'PROPN', 3, 'nmod'),
  ]
  lemmas = {'eats': 'eat', 'ideas': 'idea'}
  sentence = linguistic.Sentence(
    '',
    tuple(
      linguistic.Token(w, lemmas.get(w, w), tag, head=head, deprel=deprel)
      for w, tag, head, deprel in words
    ),
  )
  known = {'She': some('animate'), 'idea': some('abstract'), 'Rome': None}

  def matrix(**options):
    return linguistic.compat_matrix(
      sentence, small, lambda lemma, upos: known[lemma], **options
    )

  renamed = sentence.tokens[1]._replace(upos='VBZ')
  with pytest.raises(ValueError, match=r'found VBZ\. Map them'):
    linguistic.compat_matrix(
      sentence._replace(tokens=(renamed,)), small, lambda lemma, upos: None
    )
  expected = np.ones((5, 5))
  expected[1, 0] = expected[0, 1] = 0.5
  expected[1, 2] = expected[2, 1] = 0
  np.testing.assert_array_equal(matrix(), expected)
  expected[1, 0] = expected[0, 1] = 1
  np.testing.assert_array_equal(matrix(gold_slots=True), expected)
  hard = linguistic.bias(features=matrix(), mode='features_only')
  assert np.argwhere(np.isinf(hard)).tolist() == [[1, 2], [2, 1]]


def test_folders_that_are_no_verbnet(tmp_path, monkeypatch):
  monkeypatch.delenv('LTHJAX_VERBNET', raising=False)
  load = linguistic.load_verbnet
  with pytest.raises(FileNotFoundError, match='set LTHJAX_VERBNET'):
    load()
  with pytest.raises(FileNotFoundError, match='does not exist'):
    load(tmp_path / 'none')
  with pytest.raises(ValueError, match='no XML file with a VNCLASS'):
    load(tmp_path)
  (tmp_path / 'x.xml').write_text('<html></html>')
  with pytest.raises(ValueError, match='no XML file with a VNCLASS'):
    load(tmp_path)
  (tmp_path / 'x.xml').write_text(VERBNET[:200])
  with pytest.raises(ValueError, match=r'x\.xml is not XML'):
    load(tmp_path)
  broken = tmp_path / 'broken.tar.gz'
  broken.write_bytes(b'no archive')
  with pytest.raises(ValueError, match='not a whole archive'):
    load(broken)
  with pytest.raises(TypeError, match='be a path or None'):
    load(3)


def test_the_package_holds_no_lexicon():
  folder = pathlib.Path(linguistic.__file__).parent
  assert {x.suffix for x in folder.rglob('*') if x.is_file()} <= {'.py', '.pyc'}


def test_archives_and_the_environment(tmp_path, monkeypatch, small):
  inside = tmp_path / 'packed'
  inside.mkdir()
  with tarfile.open(inside / 'verbnet.tar.gz', 'w:gz') as tar:
    tar.add(tmp_path / 'try-1.xml', 'verbnet/try-1.xml')
  monkeypatch.setenv('LTHJAX_VERBNET', str(inside))
  assert linguistic.load_verbnet() == small
  assert linguistic.load_verbnet(inside / 'verbnet.tar.gz') == small


COUNTS = {
  'animate': 341,
  'organization': 179,
  'concrete': 105,
  'location': 54,
  'region': 29,
  'int_control': 25,
  'machine': 14,
  'solid': 11,
  'body_part': 11,
  'communication': 10,
  'abstract': 6,
  'comestible': 6,
  'currency': 5,
  'vehicle': 4,
  'plural': 4,
  'human': 4,
  'animal': 3,
  'refl': 3,
  'elongated': 2,
  'substance': 2,
  'nonrigid': 1,
  'eventive': 1,
  'biotic': 1,
  'pointy': 1,
  'garment': 1,
  'sound': 1,
  'vehicle_part': 1,
  'force': 1,
}


def test_verbnet_3_4_has_the_published_counts(text_data_dir):
  found = linguistic.load_verbnet(text_data_dir / 'verbnet3.4')
  top = [c for c in found.classes if c.parent is None]
  assert (len(top), len(found.classes)) == (329, 609)
  assert len(found.by_lemma) == 4_580
  restricted = [
    any(r for c in classes for r in c.roles.values())
    for classes in found.by_lemma.values()
  ]
  assert sum(restricted) == 4_373
  declared = [r for c in found.classes for _, r in c.declared]
  assert len(declared) == 1_007
  assert sum(r is not None for r in declared) == 576
  features = collections.Counter(
    f for r in declared if r is not None for f in r.features()
  )
  assert features == COUNTS


# offset file pos words (word id).. pointers (symbol offset pos words).. | gloss
DATA = """\
  1 This line is of the license.
00000001 03 n 01 physical_entity 0 000 | all
00000002 03 n 01 animal 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | lives
00000003 05 n 02 dog 0 hound 1 002 @ 00000002 n 0000 %p 00000004 n 0000 | barks
00000004 08 n 01 tail 0 002 @ 00000001 n 0000 #p 00000003 n 0000 | wags
00000005 05 n 01 Rex 0 001 @i 00000003 n 0000 | a dog
00000006 10 n 01 bark 0 001 + 00000008 v 0101 | a sound
00000007 06 n 01 dog 0 001 @ 00000001 n 0000 | of iron
"""
INDEX = """\
  1 This line is of the license.
animal n 1 2 @ ~ 1 0 00000002
bark n 1 1 + 1 0 00000006
dog n 2 2 @ %p 2 1 00000003 00000007
hound n 1 1 @ 1 0 00000003
physical_entity n 1 0 1 0 00000001
rex n 1 1 @i 1 0 00000005
tail n 1 1 @ 1 0 00000004
"""
VERB_DATA = '00000008 39 v 01 bark 0 001 + 00000006 n 0101 01 + 02 00 | woof\n'
VERB_INDEX = 'bark v 1 1 + 1 0 00000008\n'
FILES = {
  'data.noun': DATA,
  'index.noun': INDEX,
  'data.verb': VERB_DATA,
  'index.verb': VERB_INDEX,
}


def write_wordnet(folder, files=FILES):
  for name, text in files.items():
    (folder / name).write_text(text)
  return folder


def test_a_small_wordnet(tmp_path):
  found = linguistic.load_wordnet(write_wordnet(tmp_path))
  assert found.senses('Dog') == ('00000003', '00000007')
  assert found.senses('cat') == ()
  dog = found.synset('00000003')
  assert (dog.file, dog.words) == ('noun.animal', ('dog', 'hound'))
  assert dog.pointers[1] == ('%p', 'n', '00000004')
  assert found.synset('00000008', 'v').file == 'verb.39'
  above = {'00000005', '00000003', '00000002', '00000001'}
  assert found.hypernyms('00000005') == above  # Through an instance.


def test_features_come_from_files_and_hypernyms(tmp_path):
  features = linguistic.wordnet_features(
    linguistic.load_wordnet(write_wordnet(tmp_path))
  )
  living = {'animal', 'animate', 'concrete', 'int_control'}
  assert features('dog', 'NOUN') == living
  assert features('rex', 'NOUN') == living
  assert features('tail', 'NOUN') == {'body_part', 'concrete'}
  assert features('rex', 'PROPN') is None
  assert features('cat', 'NOUN') is None
  assert features('she', 'PRON') > {'animate', 'human'}
  assert features('it', 'PRON') is None
  assert features('they', 'PRON') is None


def test_axes_of_a_sentence(tmp_path, small):
  words = [
    ('dogs', 'dog', 'NOUN', 2, 'nsubj'),
    ('eat', 'eat', 'VERB', 0, 'root'),
    ('tails', 'tail', 'NOUN', 2, 'obj'),
    ('from', 'from', 'ADP', 5, 'case'),
    ('Rex', 'rex', 'NOUN', 2, 'obl'),
    ('big', 'big', 'ADJ', 5, 'amod'),
    ('bark', 'bark', 'VERB', 2, 'conj'),
    ('bark', 'bark', 'NOUN', 7, 'vocative'),
  ]
  sentence = linguistic.Sentence(
    '',
    tuple(
      linguistic.Token(form, lemma, tag, head=head, deprel=deprel)
      for form, lemma, tag, head, deprel in words
    ),
  )
  wordnet = linguistic.load_wordnet(write_wordnet(tmp_path))
  found = linguistic.axis_edges(sentence, wordnet=wordnet, verbnet=small)
  assert tuple(found) == linguistic.AXES
  below = {
    axis: {(int(i), int(j)) for i, j in np.argwhere(np.tril(edges))}
    for axis, edges in found.items()
  }
  assert all((edges == edges.T).all() for edges in found.values())
  adjectives = {(5, 0), (5, 2), (5, 4), (7, 5)}
  assert below['type'] == {(4, 0), *adjectives}
  assert below['valence'] == {(1, 0), (2, 1), (4, 1)}
  # Rex is a dog, a tail is part of one (and of no Rex), barking makes a bark.
  assert below['qualia'] == {(4, 0), (2, 0), (7, 6)}
  assert below['force'] == {(1, 0), (2, 1)}
  assert below['geometry'] == {(4, 3)}
  with pytest.raises(TypeError, match='be a WordNet'):
    linguistic.wordnet_features(small)
  with pytest.raises(TypeError, match='be a WordNet'):
    linguistic.axis_edges(sentence, wordnet=small, verbnet=small)


def test_folders_that_are_no_wordnet(tmp_path, monkeypatch):
  monkeypatch.delenv('LTHJAX_WORDNET', raising=False)
  load = linguistic.load_wordnet
  with pytest.raises(FileNotFoundError, match='set LTHJAX_WORDNET'):
    load()
  with pytest.raises(FileNotFoundError, match=r'has no index\.noun and no'):
    load(tmp_path)
  write_wordnet(tmp_path, FILES | {'data.noun': 'something else\n'})
  with pytest.raises(ValueError, match=r'data\.noun is not a dictionary'):
    load(tmp_path)
  (tmp_path / 'data.noun').unlink()
  (tmp_path / 'data.noun.gz').write_bytes(gzip.compress(DATA.encode())[:-9])
  with pytest.raises(ValueError, match='cut short'):
    load(tmp_path)
  (tmp_path / 'data.noun.gz').write_bytes(gzip.compress(DATA.encode()))
  monkeypatch.setenv('LTHJAX_WORDNET', str(tmp_path))
  assert load().senses('tail') == ('00000004',)


def test_wordnet_3_1(text_data_dir):
  found = linguistic.load_wordnet(text_data_dir / 'wordnet-3.1')
  assert len(found.lemmas['n']) == 117_953
  assert len(found.synsets['n']) == 82_192
  features = linguistic.wordnet_features(found)
  has = {
    'dog': 'animal animate concrete',
    'teacher': 'human animate concrete',
    'company': 'organization abstract',
    'city': 'location region concrete',
    'bread': 'comestible concrete',
    'idea': 'abstract',
    'hand': 'body_part',
    'car': 'vehicle',
    'money': 'currency',
    'letter': 'communication',
  }
  for noun, wanted in has.items():
    assert features(noun, 'NOUN') >= set(wanted.split()), noun
  assert not features('idea', 'NOUN') & {'concrete', 'animate'}
  known = set().union(*(features(noun, 'NOUN') for noun in has))
  assert not known & linguistic.UNJUDGED
