"""The site: versions, links, and what one finds in a real browser.

What needs the built site is skipped without: `.ci/docs` builds it.
"""

import functools
import html
import http.server
import importlib.machinery
import importlib.util
import pathlib
import re
import threading
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / 'docs' / '_build' / 'html'
LINK = re.compile(r'\b(?:href|src)="([^"]+)"')
TARGET = re.compile(r'\b(?:id|name)="([^"]+)"')


@pytest.fixture(scope='module')
def site():
  """The folder of the built site."""
  if not (SITE / 'search.html').exists():
    pytest.skip("needs the site: `pip install '.[docs]' && .ci/docs`")
  return SITE


def test_versions_side_by_side():
  loader = importlib.machinery.SourceFileLoader('site_', str(ROOT / '.ci/site'))
  spec = importlib.util.spec_from_loader('site_', loader)
  script = importlib.util.module_from_spec(spec)
  loader.exec_module(script)
  tags = ['v0.2.0', 'v0.10.0', 'v0.2.11', 'v0.2.3', 'v1.0', 'draft']
  found = script.releases(tags)
  assert list(found.items()) == [('v0.10', 'v0.10.0'), ('v0.2', 'v0.2.11')]
  first, second = script.switcher([*found], '/lthjax/')
  assert first == {
    'name': 'v0.10 (stable)',
    'version': 'v0.10',
    'url': '/lthjax/v0.10/',
    'preferred': True,
  }
  assert (second['name'], second['preferred']) == ('v0.2', False)


def test_links_inside_the_site_lead_somewhere(site):
  pages = {
    path: path.read_text()
    for path in site.rglob('*.html')
    if '_static' not in path.parts  # Templates of the theme.
  }
  targets = {path: {*TARGET.findall(text)} for path, text in pages.items()}
  broken = set()
  for path, text in pages.items():
    for link in LINK.findall(text):
      url = urllib.parse.urlsplit(html.unescape(link))
      if url.scheme or url.netloc:
        continue
      file = path
      if url.path:
        file = (path.parent / urllib.parse.unquote(url.path)).resolve()
      anchor = urllib.parse.unquote(url.fragment)
      if not file.exists() or (
        anchor and file in targets and anchor not in targets[file]
      ):
        broken.add(f'{path.relative_to(site)}: {link}')
  assert not broken, '\n'.join(sorted(broken))
  assert len(pages) > 400


@pytest.fixture(scope='module')
def address(site):
  """A server of the site, which says nothing."""

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  handler = functools.partial(Handler, directory=str(site))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    thread.join()


@pytest.fixture
def page(browser, address):
  """A page that may load nothing from elsewhere, and must raise no errors."""
  page = browser.new_page()
  errors = []
  page.route(
    re.compile(r'.*'),
    lambda route: (
      route.continue_()
      if route.request.url.startswith(address)
      else route.abort()
    ),
  )
  page.on('pageerror', lambda error: errors.append(str(error)))
  yield page
  page.close()
  assert errors == []


def test_search_finds_rigl(page, address):
  page.goto(f'{address}/search.html?q=RigL')
  found = page.locator('#search-results a[href*="lthjax.rigl"]').first
  found.wait_for()
  found.click()
  heading = page.locator('article h1').inner_text()
  assert heading.startswith('lthjax.rigl')
  assert 'lth.rigl(' in page.locator('article').inner_text()


def test_a_task_leads_to_code_in_two_clicks(page, address):
  page.goto(f'{address}/index.html')
  page.wait_for_url('**/docs/index.html')
  article = page.locator('article')
  article.locator('.sd-card', has_text='Prune my model to 90 %').click()
  page.wait_for_url('**/docs/tasks/prune.html')
  assert 'sparsity=0.9' in article.inner_text()
  article.locator('a[href$="/lthjax.prune.html#lthjax.prune"]').first.click()
  page.wait_for_url('**/docs/api/lthjax.prune.html#lthjax.prune')
  assert '>>> masks = ' in article.inner_text()


def test_commands_stay_in_their_cards(page, address):
  page.set_viewport_size({'width': 1280, 'height': 800})
  page.goto(f'{address}/docs/gallery.html')
  clipped = page.evaluate("""() =>
    [...document.querySelectorAll('.sd-card')].flatMap(card => {
      const edge = card.getBoundingClientRect().right;
      return [...card.querySelectorAll('code')]
        .flatMap(code => [...code.getClientRects()])
        .filter(box => box.right > edge).length ? [card.innerText] : [];
    })""")
  assert clipped == []
  assert page.locator('.sd-card code').count() > 15
