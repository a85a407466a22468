"""Treebanks in CoNLL-U, and where the tags of their words come from."""

import gzip
import os
import pathlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.linguistic import _tags

SOURCES = {
  'gold': 'annotated with the whole sentence in view',
  'type': 'the most frequent tag of the form',
  'causal': 'predictions that saw no later word',
}


class Token(NamedTuple):
  """A word of a sentence.

  Attributes:
    form: as written.
    lemma: dictionary form.
    upos: universal tag.
    feats: morphological features, such as ``{'Number': 'Sing'}``.
    head: number of the head in the sentence, from 1; 0 for the root.
    deprel: relation to the head, such as ``'nsubj'`` or ``'nsubj:pass'``.
  """

  form: str
  lemma: str = ''
  upos: str = 'X'
  feats: Mapping[str, str] = {}
  head: int = 0
  deprel: str = 'dep'


class Sentence(NamedTuple):
  """A sentence of a treebank.

  Attributes:
    name: its id in the treebank.
    tokens: its words.
  """

  name: str
  tokens: tuple[Token, ...]

  @property
  def forms(self) -> tuple[str, ...]:
    """Words as written."""
    return tuple(token.form for token in self.tokens)

  @property
  def lemmas(self) -> tuple[str, ...]:
    """Dictionary forms."""
    return tuple(token.lemma for token in self.tokens)

  @property
  def tags(self) -> tuple[str, ...]:
    """Universal tags."""
    return tuple(token.upos for token in self.tokens)

  @property
  def heads(self) -> tuple[int, ...]:
    """Numbers of the heads, from 1; 0 for the root."""
    return tuple(token.head for token in self.tokens)


class TypeTags(NamedTuple):
  """The most frequent tag of each form.

  Attributes:
    tags: of each known form.
    unknown: the tag of all others.
    lowercase: whether forms are compared in lower case.
  """

  tags: Mapping[str, str]
  unknown: str
  lowercase: bool

  def tag(self, forms: Sequence[str]) -> list[str]:
    """Tags the words of a sentence, without regard to their neighbors."""
    return [
      self.tags.get(form.lower() if self.lowercase else form, self.unknown)
      for form in forms
    ]


def read_conllu(path: str | os.PathLike[str]) -> list[Sentence]:
  r"""Reads a treebank in CoNLL-U.

  Lines of multiword tokens (``3-4``) and of empty nodes (``5.1``) are skipped:
  what remains are the syntactic words, which heads are counted in.

  Args:
    path: of a file, which may be compressed by gzip.

  Returns:
    The sentences, in the order of the file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not in CoNLL-U, naming the line.

  Example:
    >>> import pathlib, tempfile
    >>> from lthjax import linguistic
    >>> words = (
    ...   '1 cats cat NOUN _ _ 2 nsubj _ _',
    ...   '2 run run VERB _ _ 0 root _ _',
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   file = pathlib.Path(folder, 'two.conllu')
    ...   _ = file.write_text('\n'.join(words).replace(' ', '\t') + '\n\n')
    ...   sentences = linguistic.read_conllu(file)
    >>> sentences[0].tags
    ('NOUN', 'VERB')

  References:
    https://universaldependencies.org/format.html
  """
  file = pathlib.Path(_check_path(path)).expanduser()
  if not file.is_file():
    raise FileNotFoundError(
      f'There is no treebank {file}. Universal Dependencies has them as files'
      ' that end in .conllu, such as en_ewt-ud-train.conllu.'
    )
  sentences, name, tokens = [], '', []
  with _open(file) as lines:
    for number, line in enumerate(_decoded(lines, file), 1):
      text = line.rstrip('\r\n')
      if text.startswith('#'):
        key, _, value = text[1:].partition('=')
        name = value.strip() if key.strip() == 'sent_id' else name
      elif text.strip():
        token = _token(text.split('\t'), len(tokens), f'{file}:{number}')
        tokens += [token] if token else []
      elif tokens:
        sentences.append(_sentence(name, tokens, file))
        name, tokens = '', []
  if tokens:
    sentences.append(_sentence(name, tokens, file))
  if not sentences:
    raise ValueError(f'{file} has no sentence. Is it in CoNLL-U?')
  return sentences


def type_tags(
  sentences: Sequence[Sentence],
  vocabulary: Collection[str] | None = None,
  *,
  lowercase: bool = False,
) -> TypeTags:
  """Finds the most frequent tag of each form.

  Args:
    sentences: to count in, with gold tags.
    vocabulary: the forms that are known; by default all forms. Others get the
      tag most frequent among them; by default, that of forms seen once.
    lowercase: whether to compare forms in lower case.

  Returns:
    A table whose ``tag(forms)`` tags a sentence.

  Example:
    >>> from lthjax import linguistic
    >>> token = linguistic.Token
    >>> words = (token('the', upos='DET'), token('set', upos='NOUN'))
    >>> table = linguistic.type_tags([linguistic.Sentence('1', words)])
    >>> table.tag(['the', 'set'])
    ['DET', 'NOUN']
  """
  folded = _checks.flag('lowercase', lowercase)
  counts: dict[str, Counter[str]] = defaultdict(Counter)
  for token in (t for s in check_treebank(sentences) for t in s.tokens):
    counts[token.form.lower() if folded else token.form][token.upos] += 1
  if vocabulary is None:
    rare = [tags for tags in counts.values() if tags.total() == 1]
    known = set(counts)
  else:
    if isinstance(vocabulary, str) or not isinstance(vocabulary, Collection):
      wanted = 'be a list or set of forms'
      raise _checks.wrong_type('vocabulary', vocabulary, wanted)
    known = {str(form) for form in vocabulary}
    rare = [tags for form, tags in counts.items() if form not in known]
  if not counts:
    raise ValueError('`sentences` hold no word. Pass sentences with gold tags.')
  unseen = sum(rare, Counter()) or sum(counts.values(), Counter())
  best = {
    form: _most_frequent(tags) for form, tags in counts.items() if form in known
  }
  return TypeTags(best, _most_frequent(unseen), folded)


def tags_from(
  source: str,
  sentences: Sequence[Sentence],
  *,
  types: TypeTags | None = None,
  predicted: Sequence[Sequence[str]] | None = None,
) -> list[tuple[str, ...]]:
  """Takes the tags of sentences from one of three sources.

  Args:
    source: ``'gold'`` for those of the treebank, which leak: an annotator sees
      the whole sentence. ``'type'`` for the most frequent tag of each form, and
      ``'causal'`` for predictions made from a word and those before it.
    sentences: to tag.
    types: the table of ``'type'``, from `type_tags`.
    predicted: the tags of ``'causal'``, one list per sentence.

  Returns:
    The names of the tags of each sentence.

  Example:
    >>> from lthjax import linguistic
    >>> words = (linguistic.Token('run', upos='VERB'),)
    >>> sentences = [linguistic.Sentence('1', words)]
    >>> linguistic.tags_from('causal', sentences, predicted=[['NOUN']])
    [('NOUN',)]
  """
  checked = check_treebank(sentences)
  if _checks.one_of('source', source, SOURCES) == 'gold':
    return [sentence.tags for sentence in checked]
  if source == 'type':
    if not isinstance(types, TypeTags):
      wanted = 'be the table that `linguistic.type_tags(sentences)` returns'
      raise _checks.wrong_type('types', types, wanted)
    return [tuple(types.tag(sentence.forms)) for sentence in checked]
  found = [tuple(row) for row in _tags.check_sentences('predicted', predicted)]
  if [*map(len, found)] != [len(sentence.tokens) for sentence in checked]:
    raise ValueError(
      f'`predicted` has {len(found)} lists of tags for {len(checked)}'
      ' sentences, or not one tag per word. Predict the tags of these'
      ' sentences, in their order.'
    )
  _tags.check_names(found)
  return found


def check_treebank(sentences: Any) -> Sequence[Sentence]:
  """Returns sentences, at least one."""
  if (
    isinstance(sentences, str)
    or not isinstance(sentences, Sequence)
    or not sentences
    or not all(isinstance(sentence, Sentence) for sentence in sentences)
  ):
    wanted = 'hold sentences, as `linguistic.read_conllu(path)` returns'
    raise _checks.wrong_type('sentences', sentences, wanted)
  _tags.check_names(sentence.tags for sentence in sentences)
  return sentences


def _most_frequent(tags: Counter[str]) -> str:
  """The tag with the largest count; of equals, the first in `UPOS`."""
  return min(tags, key=lambda tag: (-tags[tag], _tags.IDS.get(tag, 99)))


def _token(columns: list[str], before: int, where: str) -> Token | None:
  """Parses a line; `None` for a multiword token or an empty node."""
  if len(columns) != 10:
    raise ValueError(
      f'{where} has {len(columns)} columns, but CoNLL-U has 10, which tabs'
      ' separate. Is it a treebank?'
    )
  number, form, lemma, upos, _, feats, head, deprel, *_ = columns
  if '-' in number or '.' in number:
    return None
  if number != str(before + 1) or not head.isdecimal():
    raise ValueError(
      f'{where} has number {number!r} and head {head!r}, but words are numbered'
      f' from 1 in each sentence, and so are heads. This is word {before + 1}.'
    )
  if upos not in _tags.IDS:
    raise ValueError(
      f'{where} has tag {upos!r} in column 4, but must have one of'
      f' {", ".join(_tags.UPOS)}. Map others to X.'
    )
  pairs = [f.partition('=') for f in feats.split('|') if feats != '_']
  named = {name: value for name, _, value in pairs}
  return Token(form, lemma, upos, named, int(head), deprel)


def _sentence(name: str, tokens: list[Token], file: pathlib.Path) -> Sentence:
  refuse(
    [
      f'{i} {token.form} has head {token.head}'
      for i, token in enumerate(tokens, 1)
      if token.head > len(tokens) or token.head == i
    ],
    f'{file}, sentence {name or "without a name"}: heads must be other words of'
    f' the sentence, from 1 to {len(tokens)}, or 0, but {{}}.',
  )
  return Sentence(name, tuple(tokens))


def _open(file: pathlib.Path) -> Any:
  with file.open('rb') as start:
    packed = start.read(2) == b'\x1f\x8b'
  return (gzip.open if packed else open)(file, 'rt', encoding='utf8')


def _decoded(lines: Any, file: pathlib.Path) -> Any:
  try:
    yield from lines
  except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
    raise ValueError(f'{file} is cut short or is not text: {error}') from error


def _check_path(path: Any) -> str:
  if not isinstance(path, str | os.PathLike):
    raise _checks.wrong_type('path', path, 'be a path')
  return os.fspath(path)
