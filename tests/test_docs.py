"""The Python of the docs runs as it stands and prints what it says."""

import importlib
import importlib.util
import pathlib
import re
import sys

import pytest
from helpers import outputs_of

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PYTHON = re.compile(r'```python\n(.*?)```', re.DOTALL)
PAGES = {
  str(page.relative_to(DOCS)): blocks
  for page in sorted([*DOCS.glob('*.md'), *DOCS.glob('tasks/*.md')])
  if page.name != 'guide.md'  # Tested with the README.
  and (blocks := PYTHON.findall(page.read_text()))
}
# Each in one process: to start one takes longer than most pages.
GROUPS = {
  'recipes and loops': ['recipes.md', 'loops.md'],
  'others': sorted(PAGES.keys() - {'recipes.md', 'loops.md'}),
}
FRAMEWORKS = ('equinox', 'haiku')
MISSING = [x for x in FRAMEWORKS if importlib.util.find_spec(x) is None]


@pytest.fixture(scope='module')
def names():
  """What the site knows of public names."""
  sys.path.insert(0, str(DOCS / '_ext'))
  try:
    return importlib.import_module('names')
  finally:
    sys.path.pop(0)


@pytest.fixture
def gallery(names):
  """What draws the cards of the gallery."""
  sys.path.insert(0, str(DOCS / '_ext'))
  try:
    return importlib.import_module('gallery')
  finally:
    sys.path.pop(0)


@pytest.mark.slow
@pytest.mark.parametrize('pages', GROUPS.values(), ids=GROUPS)
def test_blocks_print_what_they_say(pages, run_python):
  every = [(page, block) for page in pages for block in PAGES[page]]
  found = [
    (page, block)
    for page, block in every
    if not any(f'import {name}' in block for name in MISSING)
  ]
  outputs = outputs_of([block for _, block in found], run_python, devices=2)
  for (page, block), output in zip(found, outputs, strict=True):
    said = re.findall(r'^ *print\(.*\)  # (.*)$', block, re.MULTILINE)
    assert said, f'This block of {page} prints nothing:\n{block}'
    assert output == [x for line in said for x in line.split('; ')], page
  if len(found) < len(every):
    pytest.skip(
      f'the other blocks need {", ".join(MISSING)}:'
      " `pip install 'lthjax[frameworks]'`"
    )


def test_there_are_recipes():
  assert len(PAGES['recipes.md']) >= 6


def test_every_public_name_is_on_one_task_page(names):
  found = [name for page in names.task_pages().values() for name in page]
  assert sorted(found) == sorted(names.public_names())


def test_every_public_name_has_an_example(names):
  examples = names.examples()
  assert [
    name
    for name, thing in names.public_names().items()
    if names.needs_example(thing) and name not in examples
  ] == []
  assert [
    name
    for name, source in names.SHOWN_BY.items()
    if name not in names.public_names() or examples[name].source != source
  ] == []


def test_every_task_page_is_listed_and_has_code():
  index = (DOCS / 'tasks' / 'index.md').read_text()
  for page in (DOCS / 'tasks').glob('*.md'):
    if page.stem != 'index':
      assert f']({page.name})' in index
      assert f'\n{page.stem}\n' in index
      assert PYTHON.search(page.read_text()), page.name


def test_every_page_is_in_the_contents():
  index = (DOCS / 'index.md').read_text()
  listed = re.findall(r'^(?:/docs/)?([\w]+)$', index, re.MULTILINE)
  pages = {page.stem for page in DOCS.glob('*.md')} - {'index', 'gallery'}
  assert sorted(pages - {*listed}) == []


def test_numbers_are_those_of_the_pages_they_link_to():
  links = re.findall(
    r'\[(\d[^]]*)\]\(\.\./(experiments/results/\w+\.md)\)',
    (DOCS / 'methods.md').read_text(),
  )
  assert len(links) > 25
  assert [x for x in links if x[0] not in (ROOT / x[1]).read_text()] == []


def test_cards_have_a_picture_and_the_command_that_draws_it(gallery):
  cards = gallery.cards()
  assert len(cards) > 15
  page = gallery.page()
  for card in cards:
    assert (gallery.EXPERIMENTS / 'results' / card.picture).exists()
    script, *_ = re.findall(r'^python (experiments/\S+\.py)', card.command)
    assert (ROOT / script).exists()
    assert f'`{card.command}`' in page


def test_no_picture_is_published_without_its_command(
  gallery, tmp_path, monkeypatch
):
  folder = tmp_path / 'results'
  folder.mkdir()
  (tmp_path / 'README.md').write_text(
    '| A claim (Someone, 1) | `a.py` | x | [a](results/a.md) |\n'
  )
  picture = '# A\n\n![A](a.png)\n'
  (folder / 'a.md').write_text(f'{picture}\n| command | `python a.py` |\n')
  (folder / 'b.md').write_text(picture)
  (folder / 'c.md').write_text('# C\n\n| command | `python c.py` |\n')
  monkeypatch.setattr(gallery, 'EXPERIMENTS', tmp_path)
  (card,) = gallery.cards()
  assert card[:5] == ('a', 'A', 'a.png', 'python a.py', 'A claim')
