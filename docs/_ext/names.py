"""Public names: which there are, their pages, and their examples.

A task page lists names by pattern in a fence called `names`; every name belongs
to exactly one such page, and has a page of its own under `docs/api`.
"""

import fnmatch
import functools
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import lthjax as lth

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / 'docs'
# Modules of functions for lthjax itself.
PLUMBING = ('files', 'selection', 'trees')
FENCE = re.compile(r'^```\{names\}\n(.*?)^```$', re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r'^```python\n(.*?)^```$', re.DOTALL | re.MULTILINE)

# Names that occur in no example under their own name, and whose example shows
# what they are. A slash: a page instead of a name.
SHOWN_BY = {
  'lthjax.SparsifyState': 'lthjax.sparsify',
  'lthjax.TrainState': 'lthjax.trainer',
  'lthjax.deploy.CompileError': '/README.md',
  'lthjax.deploy.Lookup': 'lthjax.deploy.condense',
  'lthjax.deploy.UnitGroup': 'lthjax.deploy.compaction',
  'lthjax.evaluation.Shift': 'lthjax.evaluation.evaluate',
  'lthjax.experts.cut': '/docs/guide.md',
  'lthjax.experts.warn_few_tokens': 'lthjax.experts.routing',
  'lthjax.library.Change': 'lthjax.library.open',
  'lthjax.library.Comparison': 'lthjax.library.open',
  'lthjax.library.ConflictError': 'lthjax.library.open',
  'lthjax.library.RefusedError': 'lthjax.library.open',
  'lthjax.linguistic.Frame': 'lthjax.linguistic.compat',
  'lthjax.linguistic.Pronoun': 'lthjax.linguistic.binding_mask',
  'lthjax.linguistic.Synset': '/notebooks/linguistic_tickets.ipynb',
  'lthjax.linguistic.WordNet': '/notebooks/linguistic_tickets.ipynb',
  'lthjax.linguistic.axis_edges': '/docs/asa.md',
  'lthjax.linguistic.compat_matrix': 'lthjax.linguistic.compat',
  'lthjax.linguistic.load_verbnet': '/notebooks/linguistic_tickets.ipynb',
  'lthjax.linguistic.load_wordnet': '/notebooks/linguistic_tickets.ipynb',
  'lthjax.linguistic.wordnet_features': '/notebooks/linguistic_tickets.ipynb',
  'lthjax.models.Cache': 'lthjax.models.generate',
  'lthjax.models.load_gguf': '/notebooks/language_model.ipynb',
  'lthjax.models.load_tokenizer': '/notebooks/language_model.ipynb',
  'lthjax.program.Loop': 'lthjax.program.uses',
  'lthjax.program.Step': 'lthjax.program.uses',
  'lthjax.topologies.ACDCState': 'lthjax.ac_dc',
  'lthjax.topologies.CircuitState': 'lthjax.circuit',
  'lthjax.topologies.DropAndGrowState': 'lthjax.rigl',
  'lthjax.topologies.FixedState': 'lthjax.static',
  'lthjax.topologies.FrozenState': 'lthjax.frozen',
  'lthjax.topologies.GradualState': 'lthjax.gradual',
  'lthjax.topologies.LargestState': 'lthjax.straight_through',
  'lthjax.topologies.RandomMasks': 'lthjax.random_masks',
  'lthjax.topologies.SNFSState': 'lthjax.snfs',
  'lthjax.topologies.SRigLState': 'lthjax.srigl',
  'lthjax.topologies.drop_and_grow': 'lthjax.rigl',
  'lthjax.training.Best': 'lthjax.trainer',
  'lthjax.training.DivergedError': 'lthjax.trainer',
}


class Example(NamedTuple):
  """An example: where it is written, and its lines; none for a page."""

  source: str
  lines: tuple[str, ...]


def _is_public(module: Any, name: str, thing: Any) -> bool:
  """Returns whether a name of a module is one for users.

  By the house rules a helper has a docstring of one line.
  """
  if name.startswith('_') or inspect.ismodule(thing):
    return False
  if hasattr(module, '__all__'):
    return True
  if getattr(thing, '__module__', None) != module.__name__:
    return False
  return inspect.isclass(thing) or '\n' in (inspect.getdoc(thing) or '')


def _modules(path: str, module: Any) -> Iterator[tuple[str, Any]]:
  """Yields a module, and the public modules in it."""
  yield path, module
  for name in getattr(module, '__all__', ()):
    if inspect.ismodule(thing := getattr(module, name)):
      yield from _modules(f'{path}.{name}', thing)


@functools.cache
def public_names() -> dict[str, Any]:
  """Returns every public thing by the shortest of its names."""
  found, seen = {}, set()
  modules = []
  for name in lth.__all__:
    thing = getattr(lth, name)
    if not inspect.ismodule(thing):
      found[f'lthjax.{name}'] = thing
      seen.add(id(thing))
    elif name not in PLUMBING:
      modules += _modules(f'lthjax.{name}', thing)
  for path, module in modules:
    things = {
      f'{path}.{name}': getattr(module, name)
      for name in getattr(module, '__all__', None) or sorted(vars(module))
      if _is_public(module, name, getattr(module, name))
      and id(getattr(module, name)) not in seen
    }
    found |= things
    seen |= {id(thing) for thing in things.values()}
  return found


@functools.cache
def _by_identity() -> dict[int, str]:
  """Returns the public name of every public thing."""
  found: dict[int, str] = {}
  for name, thing in public_names().items():
    if name.endswith(f'.{getattr(thing, "__name__", "")}'):
      found[id(thing)] = name
    found.setdefault(id(thing), name)
  return found


@functools.cache
def canonical(target: str) -> str | None:
  """Returns the public name of what a dotted path means, if it has one."""
  thing: Any = lth
  first, *parts = target.split('.')
  if first not in ('lth', 'lthjax'):
    return None
  for part in parts:
    thing = getattr(thing, part, None)
  return _by_identity().get(id(thing))


def expand(patterns: str) -> list[str]:
  """Returns the public names that a `names` fence lists."""
  names = public_names()
  found = []
  for pattern in patterns.split():
    matching = fnmatch.filter(names, f'lthjax.{pattern}')
    found += sorted(matching, key=lambda name: (name.count('.'), name))
  return list(dict.fromkeys(found))


def task_pages() -> dict[str, list[str]]:
  """Returns the names on each page that has `names` fences."""
  return {
    path.stem: [x for fence in fences for x in expand(fence)]
    for path in sorted((DOCS / 'tasks').glob('*.md'))
    if (fences := FENCE.findall(path.read_text()))
  }


def _doctest(thing: Any) -> tuple[str, ...]:
  """Returns the lines of the example in a docstring."""
  lines = (inspect.getdoc(thing) or '').splitlines()
  if not any('>>>' in line for line in lines):
    return ()
  start = next(i for i, line in enumerate(lines) if '>>>' in line)
  indent = len(lines[start]) - len(lines[start].lstrip())
  found = []
  for line in lines[start:]:
    if line.strip() and len(line) - len(line.lstrip()) < indent:
      break
    found.append(line[indent:])
  while found and not found[-1].strip():
    found.pop()
  return tuple(found)


def _annotation(thing: Any) -> str:
  """Returns what a function says it takes and returns, as text."""
  try:
    return str(inspect.signature(thing))
  except (TypeError, ValueError):
    return ''


@functools.cache
def _pages_with_code() -> dict[str, list[str]]:
  """Returns the blocks of Python of all pages, which the tests run."""
  pages = [ROOT / 'README.md', *sorted(DOCS.glob('*.md'))]
  return {
    f'/{page.relative_to(ROOT)}': BLOCK.findall(page.read_text())
    for page in pages
  }


@functools.cache
def examples() -> dict[str, Example]:
  """Returns an example that runs for every public name that has one.

  It is that of the name itself, or one that uses the name, or that of a
  function which takes or returns it.
  """
  names = public_names()
  own = {name: lines for name, x in names.items() if (lines := _doctest(x))}
  found = {name: Example(name, lines) for name, lines in own.items()}
  for name, thing in names.items():
    if name in found:
      continue
    module, _, short = name.rpartition('.')
    near = [other for other in own if other.startswith(module)]
    uses = [x for x in near if re.search(rf'\b{short}\(', '\n'.join(own[x]))]
    if inspect.isclass(thing):
      path = re.escape(f'{thing.__module__}.{thing.__qualname__}')
      uses += [x for x in own if re.search(path, _annotation(names[x]))]
    if uses:
      found[name] = Example(uses[0], own[uses[0]])
      continue
    call = re.compile(rf'\b{name.removeprefix("lthjax.")}\(')
    for page, blocks in _pages_with_code().items():
      for block in blocks:
        if call.search(block):
          found.setdefault(name, Example(page, tuple(block.splitlines())))
    if name not in found and (source := SHOWN_BY.get(name)):
      found[name] = Example(source, own.get(source, ()))
  return found | _of_fields(names, found)


def _of_fields(
  names: dict[str, Any], found: dict[str, Example]
) -> dict[str, Example]:
  """Returns examples of classes that are fields of classes with one."""
  fields = {
    name: str(getattr(names[name], '__annotations__', {})) for name in found
  }
  return {
    name: found[owner]
    for name, thing in names.items()
    if name not in found and inspect.isclass(thing)
    for owner, text in fields.items()
    if owner.startswith(name.rpartition('.')[0])
    and re.search(rf'\b{thing.__name__}\b', text)
  }


def needs_example(thing: Any) -> bool:
  """Returns whether something is called; pages of values show the value."""
  return inspect.isfunction(thing) or inspect.isclass(thing)


def page_of(name: str) -> str:
  """Returns the reStructuredText of the page of a name."""
  thing = public_names()[name]
  module, _, short = name.rpartition('.')
  kind, options = 'data', []
  if inspect.isclass(thing):
    kind = 'exception' if issubclass(thing, BaseException) else 'class'
    if not issubclass(thing, (BaseException, tuple)):
      options = ['   :members:']
  elif callable(thing) and inspect.isfunction(thing):
    kind = 'function'
  lines = [name, '=' * len(name), '', f'.. currentmodule:: {module}', '']
  if not needs_example(thing):
    value = re.sub(r' at 0x\w+', '', ' '.join(repr(thing).split()))
    value = value if len(value) < 200 else f'{value[:200]} …'
    return '\n'.join(
      [*lines, f'.. py:data:: {short}', f'   :value: {value}', '']
    )
  return '\n'.join([*lines, f'.. auto{kind}:: {name}', *options, ''])


def write_pages() -> None:
  """Writes the pages of all names, and removes those of former names."""
  folder = DOCS / 'api'
  folder.mkdir(exist_ok=True)
  pages = {f'{name}.rst': page_of(name) for name in public_names()}
  for path in folder.iterdir():
    if path.name not in pages:
      path.unlink()
  for file, text in pages.items():
    path = folder / file
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def tables(source: str) -> str:
  """Returns the text of a page with tables of names in place of fences."""

  def table(match: re.Match[str]) -> str:
    names = expand(match[1])
    if not names:
      return ''
    things = public_names()
    calls = [name for name in names if needs_example(things[name])]
    values = [name for name in names if name not in calls]
    rows = '\n'.join(f'   {name}' for name in calls)
    links = ', '.join(f'{{py:obj}}`{name}`' for name in values)
    entries = '\n'.join(f'{name} </docs/api/{name}>' for name in names)
    return (
      '```{eval-rst}\n.. autosummary::\n   :nosignatures:\n\n'
      f'{rows}\n```\n\n{links and f"Values: {links}."}\n\n'
      f'```{{toctree}}\n:hidden:\n\n{entries}\n```'
    )

  return FENCE.sub(table, source)
