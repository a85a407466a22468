"""The page of a report in a real browser: Debian's chromium, if it is there."""

import numpy as np
import pytest

from lthjax import report

NAMES = [f'block_{i}/convolution_with_a_long_name/kernel' for i in range(3)]
COUNTS = np.array([[0, 7, 3], [10, 1, 2]])
MASKS = {
  NAMES[0]: np.arange(4000).reshape(40, 100) < 400,
  NAMES[1]: np.arange(600).reshape(20, 30) < 450,
  NAMES[2]: np.arange(10) < COUNTS.reshape(-1, 1),
  'bias': None,
}


@pytest.fixture(scope='module')
def url(tmp_path_factory):
  """A page with all its parts."""
  dense = {
    name: None if mask is None else np.ones_like(mask)
    for name, mask in MASKS.items()
  }
  zeros, halves = (
    {name: np.full(np.shape(mask), x) for name, mask in MASKS.items()}
    for x in (0.0, 0.5)
  )
  found = report.capacity(
    MASKS,
    initial=zeros,
    final=halves,
    input_layers=NAMES[2],
    input_shape=(2, 3),
    compared={'<i>ticket</i>': MASKS, 'dense network': dense},
  )
  path = tmp_path_factory.mktemp('page') / 'report.html'
  report.write_html(path, found, title='Fish & <b>chips</b>')
  return path.as_uri()


@pytest.fixture
def visit(browser, url):
  """Opens the page; it must load nothing else and complain about nothing."""
  pages, noise = [], []

  def visit(**options):
    page = browser.new_page(**options)
    pages.append(page)
    page.on('console', lambda message: noise.append(message.text))
    page.on('pageerror', lambda error: noise.append(str(error)))
    page.on('request', lambda x: x.url == url or noise.append(x.url[:80]))
    page.goto(url)
    return page

  yield visit
  for page in pages:
    page.close()
  assert [x for x in noise if not x.startswith('data:')] == []


def rows(page, table=0):
  """The texts that a table shows, row by row."""
  found = page.locator('table').nth(table).locator('tbody tr').all()
  return [row.locator('th, td').all_inner_texts() for row in found]


@pytest.mark.slow
def test_what_is_seen(visit):
  page = visit()
  assert page.title() == page.inner_text('h1') == 'Fish & <b>chips</b>'
  assert page.inner_text('.headline') == '873 of 4,660 weights alive: 18.73 %.'
  headings = page.get_by_role('heading', level=2)
  assert headings.all_inner_texts() == [
    'Layers',
    'Inputs',
    'Movement',
    'Overlap',
  ]
  assert rows(page) == [
    ['bias', 'dense', '–', '–', '–', '–'],
    [NAMES[0], '(40, 100)', '400', '10.00 %', '36 of 40', '0 of 100'],
    [NAMES[1], '(20, 30)', '450', '75.00 %', '5 of 20', '0 of 30'],
    [NAMES[2], '(6, 10)', '23', '38.33 %', '1 of 6', '0 of 10'],
  ]
  assert rows(page, 1)[0] == [NAMES[0], '0.500', '0.500', '1.00']
  assert rows(page, 2)[0] == ['<i>ticket</i>', '1.000', '0.187']
  table = page.get_by_role('table').first
  assert table.get_by_role('rowheader').count() == 5
  assert 'is dead if no alive weight feeds it' in table.inner_text()
  by_layer = page.locator('table').nth(3)
  assert not by_layer.is_visible()
  page.click('text=By layer')
  assert by_layer.is_visible()


@pytest.mark.slow
def test_sorting(visit):
  page = visit()

  def order(column):
    page.get_by_role('button', name=column, exact=False).first.click()
    header = page.locator('[aria-sort]')
    names = [row[0] for row in rows(page)]
    return header.get_attribute('aria-sort'), names

  a, b, c = NAMES
  assert order('density') == ('descending', [b, c, a, 'bias'])
  assert order('density') == ('ascending', [a, c, b, 'bias'])
  assert order('alive') == ('descending', [b, a, c, 'bias'])
  assert order('dead inputs') == ('descending', [a, b, c, 'bias'])
  assert order('layer') == ('ascending', ['bias', a, b, c])
  assert order('layer') == ('descending', [c, b, a, 'bias'])
  assert page.locator('tfoot th').inner_text() == 'total'


@pytest.mark.slow
def test_sorting_by_keyboard(visit):
  page = visit()
  for _ in range(5):  # The table that scrolls, then its headers.
    page.keyboard.press('Tab')
  page.keyboard.press('Enter')
  assert page.locator('[aria-sort]').inner_text().startswith('density')
  assert rows(page)[0][0] == NAMES[1]


@pytest.mark.slow
def test_picture(visit):
  page = visit()
  picture = page.get_by_role('img', name='Map of the inputs')
  assert '0 to 10, 3.83 on average, none from 1 of 6' in picture.get_attribute(
    'alt'
  )
  colors = picture.evaluate("""image => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    const {width, height} = canvas;
    return [width, height, [...context.getImageData(0, 0, width, height).data]];
  }""")
  assert colors[:2] == [3, 2]
  pixels = np.array(colors[2]).reshape(-1, 4)
  assert pixels[0].tolist() == [68, 1, 84, 255]  # No weights.
  assert pixels[3].tolist() == [253, 231, 37, 255]  # The most.
  brightness = pixels[:, :3].sum(-1)
  assert np.argsort(brightness).tolist() == np.argsort(COUNTS.ravel()).tolist()
  box = picture.bounding_box()
  assert box['width'] == pytest.approx(1.5 * box['height'], rel=0.01)


def brightness(page, name, selector):
  """How bright a color is on the screen, from 0 to 1."""
  color = page.locator(selector).first.evaluate(
    f'x => getComputedStyle(x).{name}'
  )
  red, green, blue = (
    int(x) / 255 for x in color.removeprefix('rgb(').rstrip(')').split(',')
  )
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.slow
def test_light_and_dark(visit):
  light, dark = (visit(color_scheme=scheme) for scheme in ('light', 'dark'))
  for selector in ('h1', 'caption', 'figcaption', 'tbody th'):
    assert brightness(light, 'color', selector) < 0.4
    assert brightness(dark, 'color', selector) > 0.6
  assert brightness(light, 'backgroundColor', 'body') == 1
  assert brightness(dark, 'backgroundColor', 'body') < 0.1


@pytest.mark.slow
@pytest.mark.parametrize('width', [320, 400, 1200])
def test_no_page_scrolls_sideways(visit, width):
  page = visit(viewport={'width': width, 'height': 700})
  page.click('text=By layer')
  inner, outer = page.evaluate(
    '[document.documentElement.scrollWidth, window.innerWidth]'
  )
  assert inner <= outer == width
  box = page.locator('.scroll').first
  wide = box.evaluate('box => box.scrollWidth > box.clientWidth')
  assert wide == (width < 1000)
  if wide:  # All of the table can be reached, and names stay in sight.
    last = page.locator('thead th').nth(5)
    last.scroll_into_view_if_needed()
    edge = last.bounding_box()
    assert edge['x'] + edge['width'] <= width
    name = page.locator('tbody th').nth(1).bounding_box()
    assert 0 <= name['x'] < name['x'] + name['width'] < width / 2
    assert name['height'] < 120


@pytest.mark.slow
def test_page_may_fetch_nothing(browser, url):
  page = browser.new_page()
  page.goto(url)
  refused = page.evaluate("""() => new Promise(resolve => {
    document.addEventListener(
      'securitypolicyviolation', event => resolve(event.effectiveDirective));
    fetch('http://localhost:9/').catch(() => {});
  })""")
  assert refused == 'connect-src'
  page.close()
