"""Treebanks in CoNLL-U and sources of tags."""

import gzip
from collections import Counter

import pytest

from lthjax import linguistic

# A multiword token, an empty node, and a comment without a value.
TREEBANK = """\
# newpar
# sent_id = first
1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_
2\tle\tle\tDET\t_\tGender=Masc|Number=Sing\t3\tdet\t_\t_
2.1\tvide\tvide\tNOUN\t_\t_\t_\t_\t_\t_
3\tpain\tpain\tNOUN\t_\tNumber=Sing\t0\troot\t_\t_

# sent_id = second
1\tOui\toui\tINTJ\t_\t_\t0\troot\t_\t_
"""


def write(folder, text, name='x.conllu'):
  path = folder / name
  path.write_text(text, encoding='utf8')
  return path


def test_multiword_tokens_and_empty_nodes_are_skipped(tmp_path):
  first, second = linguistic.read_conllu(write(tmp_path, TREEBANK))
  assert first.name == 'first'
  assert first.forms == ('de', 'le', 'pain')
  assert first.tags == ('ADP', 'DET', 'NOUN')
  assert first.heads == (3, 3, 0)
  assert first.tokens[1].feats == {'Gender': 'Masc', 'Number': 'Sing'}
  assert second.lemmas == ('oui',)


def test_packed_files_and_missing_last_lines_read_alike(tmp_path):
  plain = linguistic.read_conllu(write(tmp_path, TREEBANK.rstrip('\n')))
  packed = tmp_path / 'packed'  # Known by its content, not its name.
  packed.write_bytes(gzip.compress(TREEBANK.encode()))
  assert linguistic.read_conllu(packed) == plain


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (('ADP', 'IN'), r'x.conllu:4 has tag .IN.*Map others to X'),
    (('\t3\tcase', '\t9\tcase'), '1 de has head 9'),
    (('\t3\tcase', '\t_\tcase'), 'head ._.*counted|numbered'),
    (('2\tle', '4\tle'), 'This is word 2'),
    (('1\tOui\t', '1 Oui\t'), 'has 9 columns'),
  ],
)
def test_a_broken_line_is_named(tmp_path, change, said):
  with pytest.raises(ValueError, match=said):
    linguistic.read_conllu(write(tmp_path, TREEBANK.replace(*change)))


def test_files_that_are_no_treebanks(tmp_path):
  with pytest.raises(FileNotFoundError, match='There is no treebank'):
    linguistic.read_conllu(tmp_path / 'none.conllu')
  with pytest.raises(ValueError, match='has no sentence'):
    linguistic.read_conllu(write(tmp_path, '# only a comment\n'))
  cut = tmp_path / 'cut.gz'
  cut.write_bytes(gzip.compress(TREEBANK.encode())[:-20])
  with pytest.raises(ValueError, match='cut short'):
    linguistic.read_conllu(cut)
  with pytest.raises(TypeError, match='be a path'):
    linguistic.read_conllu(None)


def sentence(*pairs):
  tokens = tuple(linguistic.Token(form, upos=tag) for form, tag in pairs)
  return linguistic.Sentence('', tokens)


def test_most_frequent_tags():
  train = [
    sentence(('run', 'NOUN'), ('run', 'VERB'), ('Run', 'VERB')),
    sentence(('ok', 'INTJ'), ('hm', 'INTJ'), ('set', 'NOUN'), ('set', 'NOUN')),
  ]
  table = linguistic.type_tags(train)
  assert table.tag(['run', 'Run', 'new']) == ['NOUN', 'VERB', 'INTJ']
  folded = linguistic.type_tags(train, lowercase=True)
  assert folded.tag(['RUN']) == ['VERB']
  known = linguistic.type_tags(train, {'run', 'ok', 'hm', 'Run'})
  assert known.tag(['set', 'ok']) == ['NOUN', 'INTJ']


def test_sources_of_tags():
  words = [sentence(('run', 'VERB'), ('x', 'X'))]
  types = linguistic.type_tags([sentence(('run', 'NOUN'))])
  take = linguistic.tags_from
  assert take('gold', words) == [('VERB', 'X')]
  assert take('type', words, types=types) == [('NOUN', 'NOUN')]
  found = take('causal', words, predicted=[['ADJ', 'X']])
  assert found == [('ADJ', 'X')]
  with pytest.raises(ValueError, match=r'"gold".*"type".*"causal"'):
    take('silver', words)
  with pytest.raises(TypeError, match='type_tags'):
    take('type', words)
  with pytest.raises(ValueError, match='not one tag per word'):
    take('causal', words, predicted=[['ADJ']])
  with pytest.raises(ValueError, match='17 universal ones, but found VB'):
    take('causal', words, predicted=[['VB', 'X']])
  with pytest.raises(TypeError, match='read_conllu'):
    take('gold', [])
  with pytest.raises(ValueError, match='17 universal ones, but found NN, VB'):
    take('gold', [*words, sentence(('go', 'VB'), ('x', 'NN'))])
  with pytest.raises(ValueError, match=r'found VB\. Map them'):
    linguistic.type_tags([sentence(('go', 'VB'))])
  with pytest.raises(TypeError, match='list or set of forms'):
    linguistic.type_tags(words, 'run')


@pytest.mark.slow
def test_the_english_treebank(text_data_dir):
  folder = text_data_dir / 'ud_english_ewt'
  train, dev = (
    linguistic.read_conllu(folder / f'en_ewt-ud-{split}.conllu.gz')
    for split in ('train', 'dev')
  )
  assert [len(train), len(dev)] == [12_544, 2_001]
  assert sum(len(s.tokens) for s in train) == 204_577

  def right(table, sentences):
    pairs = [
      pair
      for s in sentences
      for pair in zip(table.tag(s.forms), s.tags, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)

  assert round(right(linguistic.type_tags(train), dev), 3) == 0.861
  # Of 4 to 39 words, among 3,000, of which <bos> and the unknown are two.
  train, dev = ([s for s in x if 3 < len(s.tokens) < 40] for x in (train, dev))
  counts = Counter(form.lower() for s in train for form in s.forms)
  words = {form for form, _ in counts.most_common(2_998)}
  few = linguistic.type_tags(train, words, lowercase=True)
  assert right(few, dev) == pytest.approx(0.827, abs=0.001)
