"""What reports gather and show: as text, as a figure, and as a page."""

import base64
import html.parser
import io
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from lthjax import report, trees
from lthjax.report import DistanceMoved

FC1 = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
FC2 = np.array([[0, 0], [1, 0], [1, 1]], bool)
MASKS = {
  'fc1': {'kernel': FC1, 'bias': None},
  'fc2': {'kernel': FC2, 'bias': None},
}


def whole():
  """Everything that can be found out about the masks above."""
  initial = jax.tree.map(lambda m: jnp.zeros(m.shape), MASKS)
  kernels = {'fc1/kernel': np.where(FC1, 0.5, 0.125), 'fc2/kernel': FC2 * 0.25}
  final = {
    name.partition('/')[0]: {'kernel': jnp.asarray(x), 'bias': None}
    for name, x in kernels.items()
  }
  other = {**MASKS, 'fc2': {'kernel': ~FC2, 'bias': None}}
  return report.capacity(
    MASKS,
    initial=initial,
    final=final,
    input_layers='fc1/kernel',
    input_shape=(2, 2, 1),
    compared={'these': MASKS, 'other <b>': other},
  )


def test_capacity():
  found = whole()
  assert found.layers == report.layers(MASKS)
  assert found.movement == {
    'fc1/kernel': DistanceMoved(0.5, 0.125),
    'fc2/kernel': DistanceMoved(0.25, 0.0),
  }
  assert found.input_layers == ('fc1/kernel',)
  assert found.saliency.tolist() == [[[2], [1]], [[0], [1]]]
  assert found.overlaps.total[0, 1] == 0.4
  assert report.capacity(MASKS)[1:] == (None, (), None, None)


def test_capacity_needs_masks_and_whole_sets_of_options():
  params = jax.tree.map(lambda m: np.ones(m.shape), MASKS)
  for masks, options, message in [
    ({}, {}, '`masks` must be a tree of bool arrays and None, but it has no'),
    ({'a': None}, {}, 'There is nothing to report: every leaf of `masks` is'),
    (params, {}, r'fc1/kernel is float64\[4, 3\]; fc2/kernel is float64'),
    (MASKS, {'initial': params}, '`initial` was given without `final`'),
    (MASKS, {'final': params}, '`final` was given without `initial`'),
    (
      MASKS,
      {'input_shape': (2, 2)},
      r'given, \(2, 2\), without `input_layers`',
    ),
    (MASKS, {'input_shape': 4}, 'given, 4, without `input_layers`'),
    (
      MASKS,
      {'compared': {x: {'fc1': {'kernel': FC1.T}} for x in 'ab'}},
      "do not fit the compared masks 'a': fc1/bias has a mask only; .*fc1/kern",
    ),
    (
      MASKS,
      {'compared': [MASKS, MASKS]},
      '`compared` was a list, but must map names',
    ),
    (MASKS, {'axes': {'fc3*': None}}, '`axes` has patterns that match no'),
    (MASKS, {'axes': 2}, '`axes` was 2, but must map names or globs'),
    (MASKS, {'axes': {'fc2*': ()}}, r'but fc2/kernel \(3, 2\) has \(\)'),
  ]:
    with pytest.raises((TypeError, ValueError), match=message):
      report.capacity(masks, **options)


TEXT = """\
7 of 18 weights alive: 38.89 %.

layer        shape  alive  density  dead inputs  dead outputs
fc1/bias     dense      –        –            –             –
fc1/kernel  (4, 3)      4  33.33 %       1 of 4        1 of 3
fc2/bias     dense      –        –            –             –
fc2/kernel  (3, 2)      3  50.00 %       1 of 3        0 of 2
total           18      7  38.89 %       2 of 7        1 of 5

Alive weights of fc1/kernel from each of 2 × 2 × 1 inputs: 0 to 2, 1.00 on
average, none from 1 of 4.

Mean distance of weights from their values before training, for those that the
masks keep and for those that they remove.
layer       alive  pruned  alive / pruned
fc1/kernel  0.500   0.125            4.00
fc2/kernel  0.250    0.00               –

Weights alive in both masks, as a share of those alive in either.
masks      these  other <b>
these      1.000      0.400
other <b>  0.400      1.000"""


def test_text():
  assert report.text(whole()) == TEXT


# ---- The figure.


def test_figure():
  density, inputs, movement, overlap, scale = report.figure(whole()).axes
  widths = [bar.get_width() for bar in density.patches]
  assert widths == pytest.approx([100 / 3, 50])
  assert inputs.images[0].get_array().tolist() == [[2, 1], [0, 1]]
  assert [x.get_width() for x in movement.patches] == [0.5, 0.25, 0.125, 0]
  shown = [x.get_text() for x in overlap.texts]
  assert shown == ['1.00', '0.40', '0.40', '1.00']
  assert scale.get_ylim() == (0, 2)
  assert len(report.figure(report.capacity(MASKS)).axes) == 1


def test_names_in_the_figure_are_no_formulas(tmp_path):
  masks = {'a$^$': FC1, 'b$': FC2}
  found = report.capacity(masks, compared={'x$_$': masks, 'y': masks})
  fig = report.figure(found)
  fig.savefig(tmp_path / 'figure.png', dpi=20)
  density, overlap = fig.axes
  assert [x.get_text() for x in density.get_yticklabels()] == ['a$^$', 'b$']
  assert [x.get_text() for x in overlap.get_xticklabels()] == ['x$_$', 'y']


def test_only_the_figure_needs_matplotlib(monkeypatch):
  for name in ('matplotlib', 'matplotlib.figure'):
    monkeypatch.setitem(sys.modules, name, None)
  found = whole()
  assert report.html(found).startswith('<!doctype html>')
  with pytest.raises(ImportError, match='`pip install matplotlib`, or use'):
    report.figure(found)


# ---- The page.


class Page(html.parser.HTMLParser):
  """Reads a page: tags that match, and what stands in its tables."""

  VOID = ('meta', 'link', 'img')

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.tables = [], [], []
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)
    if tag == 'table':
      self.tables.append([])
    elif tag == 'tr':
      self.tables[-1].append([])
    elif tag in ('td', 'th'):
      self.tables[-1][-1].append('')

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if {'td', 'th'} & set(self.open):
      self.tables[-1][-1][-1] += data

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


def test_page():
  page = Page(report.html(whole(), title='a "b" & <i>c</i>'))
  layers, movement, total, fc1, fc2 = page.tables
  text = [re.split(' {2,}', line) for line in TEXT.split('\n')]
  assert (text[2:8], text[14:17], text[19:22]) == (layers, movement, total)
  assert fc1[1] == ['these', '1.000', '1.000']
  assert fc2[2] == ['other <b>', '0.000', '1.000']
  assert all(x['scope'] in ('col', 'row') for x in page.all('th'))
  names = [x['id'] for _, x in page.tags if 'id' in x]
  labels = [x['aria-labelledby'] for x in page.all('section')]
  assert names == labels == ['layers', 'inputs', 'movement', 'overlap']
  (picture,) = page.all('img')
  assert 'from each of 2 × 2 × 1 inputs: 0 to 2' in picture['alt']
  bars = [x['style'] for x in page.all('td') if 'style' in x]
  assert bars[:3] == [f'--share: {x}' for x in ('0.3333', '0.5000', '0.3889')]


def test_page_writes_infinity_as_scripts_read_it():
  found = whole()._replace(movement={'w': DistanceMoved(np.inf, 0.5)})
  page = report.html(found)
  assert '<td data-value="Infinity" class="share"' in page
  assert '"inf"' not in page


def test_page_of_masks_alone():
  page = Page(report.html(report.capacity(MASKS)))
  assert [x['aria-labelledby'] for x in page.all('section')] == ['layers']
  assert not page.all('img')


def test_page_names_no_address():
  text = report.html(whole())
  assert not re.search(r'https?:|//\w|@import|url\(|\bsrc="(?!data:)', text)


def test_picture_has_a_pixel_for_each_input():
  counts = np.arange(6).reshape(3, 2, 1).repeat(2, -1)  # Two channels.
  masks = {'conv': np.arange(10)[None, None, None, :] < counts[..., None]}
  found = report.capacity(masks, input_layers='conv')
  np.testing.assert_array_equal(found.saliency, counts)
  (picture,) = Page(report.html(found)).all('img')
  assert (picture['width'], picture['height']) == ('2', '3')
  png = base64.b64decode(picture['src'].removeprefix('data:image/png;base64,'))
  image = PIL.Image.open(io.BytesIO(png))
  image.load()
  assert np.asarray(image).tolist() == [[0, 51], [102, 153], [204, 255]]
  colors = np.asarray(image.convert('RGB'))
  assert colors[0, 0].tolist() == [68, 1, 84]
  assert colors[2, 1].tolist() == [253, 231, 37]


def test_picture_of_nothing_and_of_a_vector():
  masks = {'w': np.zeros((5, 3), bool)}
  found = report.capacity(masks, input_layers='w')
  (picture,) = Page(report.html(found)).all('img')
  assert (picture['width'], picture['height']) == ('5', '1')
  assert '0 to 0, 0.00 on average, none from 5 of 5' in picture['alt']
  assert report.figure(found).axes[1].images[0].get_array().shape == (1, 5)


def test_write_is_atomic(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'report.html'
  report.write_html(path, whole(), title='first')
  assert path.read_text(encoding='utf-8') == report.html(whole(), title='first')
  other = tmp_path / 'other'
  other.touch()
  assert path.stat().st_mode == other.stat().st_mode

  def fail(*paths):
    raise OSError('disk full')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='disk full'):
    report.write_html(path, whole(), title='second')
  assert '<title>first</title>' in path.read_text(encoding='utf-8')
  assert os.listdir(path.parent) == ['report.html']


def test_masks_are_flattened_once(monkeypatch):
  """Each tree is turned into names once, however much is reported of it."""
  flattened = []
  by_name = trees.by_name

  def counted(tree):
    flattened.append(id(tree))
    return by_name(tree)

  monkeypatch.setattr(trees, 'by_name', counted)
  params = jax.tree.map(lambda m: np.ones(m.shape), MASKS)
  final = jax.tree.map(lambda x: x + 1, params)
  compared = {'a': jax.tree.map(np.copy, MASKS)}
  compared['b'] = jax.tree.map(np.copy, MASKS)
  report.capacity(
    MASKS,
    initial=params,
    final=final,
    input_layers='fc1/kernel',
    compared=compared,
  )
  assert sorted(flattened) == sorted(
    id(tree) for tree in (MASKS, params, final, *compared.values())
  )


def test_control_characters_in_names_are_spelled_out():
  masks = {'a\x1b[31mred': np.array([[True, False]])}
  found = report.capacity(masks)
  assert '\x1b' not in report.text(found)
  assert r'a\x1b[31mred' in report.text(found)
