"""VerbNet: classes of verbs, with the roles that they give and restrict."""

import os
import pathlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from lthjax.linguistic import _folders

_WHAT = (
  'VerbNet 3.4 in XML, https://github.com/cu-clear/verbnet: a folder of files'
  ' such as absorb-39.8.xml, or a .tar.gz of it'
)


class Restriction(NamedTuple):
  """What may fill a role, as features with signs.

  Attributes:
    any: whether one part is enough; else all are needed.
    parts: ``(sign, feature)`` with True for +, or further restrictions.
  """

  any: bool
  parts: tuple['Restriction | tuple[bool, str]', ...]

  def allows(
    self, features: frozenset[str], unjudged: frozenset[str] = frozenset()
  ) -> bool:
    """Whether a noun of these features may fill the role.

    Args:
      features: those that the noun has; others it lacks.
      unjudged: features that nobody knows of any noun; these never forbid.
    """
    found = [
      part.allows(features, unjudged)
      if isinstance(part, Restriction)
      else part[1] in unjudged or (part[1] in features) == part[0]
      for part in self.parts
    ]
    return any(found) if self.any else all(found)

  def features(self) -> Iterator[str]:
    """Every feature, as often as it occurs."""
    for part in self.parts:
      if isinstance(part, Restriction):
        yield from part.features()
      else:
        yield part[1]


class Frame(NamedTuple):
  """A syntactic frame: which role stands where, and what the verb means.

  Attributes:
    subject: role of the first noun phrase.
    object: role of the next one, if no preposition precedes it.
    obliques: prepositions, or `None` for any, and the role behind them.
    predicates: of the semantics, such as ``'cause'``.
  """

  subject: str | None
  object: str | None
  obliques: tuple[tuple[frozenset[str] | None, str], ...]
  predicates: frozenset[str]

  def roles(
    self, deprel: str, preposition: str | None = None
  ) -> tuple[str, ...]:
    """Roles of a dependent of the verb, by its relation and preposition."""
    relation, _, kind = deprel.partition(':')
    if kind == 'agent' or (relation == 'nsubj' and kind != 'pass'):
      found = [self.subject]
    elif relation == 'obj' or deprel == 'nsubj:pass':
      found = [self.object]
    elif relation == 'obl':
      found = [
        role
        for prepositions, role in self.obliques
        if preposition and (prepositions is None or preposition in prepositions)
      ]
    else:
      found = []
    return tuple(role for role in found if role)


class VerbClass(NamedTuple):
  """A class or subclass of verbs.

  Attributes:
    name: such as ``'absorb-39.8'``.
    parent: name of the class that it is a subclass of, or `None`.
    lemmas: its verbs.
    declared: roles declared here and their restrictions, `None` where any
      noun will do.
    roles: the same with those of the parent, unless declared again.
    frames: its own and those of the parent.
  """

  name: str
  parent: str | None
  lemmas: tuple[str, ...]
  declared: tuple[tuple[str, Restriction | None], ...]
  roles: Mapping[str, Restriction | None]
  frames: tuple[Frame, ...]


class VerbNet(NamedTuple):
  """All classes.

  Attributes:
    classes: each class before its subclasses.
    by_lemma: the classes of each verb.
  """

  classes: tuple[VerbClass, ...]
  by_lemma: Mapping[str, tuple[VerbClass, ...]]

  def of(self, lemma: str) -> tuple[VerbClass, ...]:
    """The classes of a verb; a few, such as FedEx, have capitals."""
    found = self.by_lemma.get(lemma)
    return self.by_lemma.get(lemma.lower(), ()) if found is None else found


def load_verbnet(path: str | os.PathLike[str] | None = None) -> VerbNet:
  """Reads VerbNet from its XML, selectional restrictions included.

  Args:
    path: a folder of XML files, a ``.tar.gz`` of it, or a folder with the
      latter; by default that of the environment variable ``LTHJAX_VERBNET``.

  Returns:
    All classes. Subclasses inherit roles and frames, and override the roles
    that they repeat.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: if it is not VerbNet.

  References:
    Kipper et al., A large-scale classification of English verbs, Language
    Resources and Evaluation 42 (2008).
  """
  place = _folders.find(path, 'LTHJAX_VERBNET', _WHAT)
  classes: list[VerbClass] = []
  for name, text in _texts(place):
    try:
      root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
      raise ValueError(f'{name} is not XML: {error}. Pass {_WHAT}.') from error
    if root.tag == 'VNCLASS' and 'ID' in root.attrib:
      classes += _classes(root, None)
  if not classes:
    raise ValueError(
      f'{place} has no XML file with a VNCLASS that has an ID. Pass {_WHAT}.'
    )
  by_lemma: dict[str, tuple[VerbClass, ...]] = {}
  for found in classes:
    for lemma in dict.fromkeys(found.lemmas):
      by_lemma[lemma] = (*by_lemma.get(lemma, ()), found)
  return VerbNet(tuple(classes), by_lemma)


def _texts(place: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """Names and contents of the XML files of a folder or an archive."""
  if place.is_dir() and (files := sorted(place.glob('*.xml'))):
    yield from ((str(file), file.read_bytes()) for file in files)
    return
  archives = sorted(place.glob('*.tar.gz')) if place.is_dir() else [place]
  for archive in archives:
    try:
      with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.name.endswith('.xml')]
        for member in sorted(members, key=lambda m: m.name):
          if (file := tar.extractfile(member)) is not None:
            yield f'{archive}/{member.name}', file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
      raise ValueError(
        f'{archive} is not a whole archive: {error}. Pass {_WHAT}.'
      ) from error


def _classes(
  node: ElementTree.Element, parent: VerbClass | None
) -> Iterator[VerbClass]:
  """A class and its subclasses."""
  declared = tuple(
    (role.get('type', ''), _restriction(role.find('SELRESTRS')))
    for role in node.findall('THEMROLES/THEMROLE')
  )
  frames = [_frame(frame) for frame in node.findall('FRAMES/FRAME')]
  found = VerbClass(
    node.get('ID', ''),
    parent.name if parent else None,
    tuple(m.get('name', '') for m in node.findall('MEMBERS/MEMBER')),
    declared,
    {**(parent.roles if parent else {}), **dict(declared)},
    (*(parent.frames if parent else ()), *frames),
  )
  yield found
  for child in node.findall('SUBCLASSES/VNSUBCLASS'):
    yield from _classes(child, found)


def _restriction(node: ElementTree.Element | None) -> Restriction | None:
  """``logic="or"`` needs one part, and everything else all of them."""
  parts = [] if node is None else [_part(child) for child in node]
  kept = tuple(part for part in parts if part is not None)
  if node is None or not kept:
    return None
  return Restriction(node.get('logic') == 'or', kept)


def _part(node: ElementTree.Element) -> Restriction | tuple[bool, str] | None:
  if node.tag == 'SELRESTRS':
    return _restriction(node)
  return node.get('Value') != '-', node.get('type', '')


def _frame(node: ElementTree.Element) -> Frame:
  """Reads the roles of noun phrases in order."""
  plain: list[str] = []
  obliques: list[tuple[frozenset[str] | None, str]] = []
  before: ElementTree.Element | None = None
  for part in node.iterfind('SYNTAX/*'):
    if part.tag == 'NP':
      role = part.get('value', '').lstrip('?')
      if before is None:
        plain.append(role)
      else:
        words = before.get('value', '').replace('|', ' ').split()
        obliques.append((frozenset(words) or None, role))
    before = part if part.tag == 'PREP' else None
  subject, following, *_ = [*plain, None, None]
  predicates = (p.get('value', '') for p in node.iterfind('SEMANTICS/PRED'))
  return Frame(subject, following, tuple(obliques), frozenset(predicates))
