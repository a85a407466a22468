"""The Python of the docs runs as it stands and prints what it says."""

import pathlib
import re

import pytest
from helpers import outputs_of

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
PAGES = {
  page.name: blocks
  for page in sorted(DOCS.glob('*.md'))
  if page.name != 'guide.md'  # Tested with the README.
  and (
    blocks := re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
  )
}


@pytest.mark.parametrize('page', PAGES)
def test_blocks_print_what_they_say(page, run_python):
  blocks = PAGES[page]
  outputs = outputs_of(blocks, run_python, devices=2)
  for block, output in zip(blocks, outputs, strict=True):
    said = re.findall(r'^ *print\(.*\)  # (.*)$', block, re.MULTILINE)
    assert said, f'This block prints nothing:\n{block}'
    assert output == [x for line in said for x in line.split('; ')]


def test_there_are_recipes():
  assert len(PAGES['recipes.md']) >= 6
