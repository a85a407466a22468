"""Damaged and forged files, and places that are no library."""

import contextlib
import json

import jax
import numpy as np
import pytest
from etils import epath
from helpers import bits, contents, names
from library_cases import START, add, applied, identity, make_ticket

import lthjax as lth
from lthjax.library import _format


@pytest.fixture
def library(tmp_path):
  return lth.library.open(tmp_path / 'tickets')


@pytest.fixture
def folder(tmp_path):
  return tmp_path / 'tickets' / 'tickets'


@pytest.mark.slow
def test_any_flipped_bit_is_found(library, folder):
  """Also where it changes no value, and no damaged value is ever loaded."""
  parent = add(library, 0)
  ticket = make_ticket(1)
  key = library.add(ticket, params=identity, parent=parent)
  path = folder / f'{key}.safetensors'
  good = path.read_bytes()
  rng = np.random.default_rng(0)
  places = [*range(8), *rng.integers(8, len(good), 500), len(good) - 1]
  expected = bits(applied(ticket))
  for place in places:
    bad = bytearray(good)
    bad[place] ^= 1 << rng.integers(8)
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=f'{key}.safetensors is damaged'):
      library.verify(key)
    with contextlib.suppress(ValueError):
      assert bits(library.load(key)) == expected
    assert path.read_bytes() == bad
  for bad in [good[:-1], good[:7], b'', good + b'\0', good[:3000]]:
    path.write_bytes(bad)
    for call in library.verify, library.load, library.card:
      with pytest.raises(ValueError, match='is damaged'):
        call(key)
  with pytest.warns(UserWarning, match='is damaged'):
    assert [x.key for x in lth.library.open(folder.parent).list()] == [parent]
  with pytest.raises(ValueError, match=key):
    library.verify()
  path.write_bytes(good)
  library.verify()


def test_promoting_and_rolling_back_verify_first(library, folder):
  a, b = add(library, 0), add(library, 1)
  library.promote(a, 'live')
  for key, call in (
    (b, lambda: library.promote(b, 'live')),
    (a, lambda: library.rollback('live')),
  ):
    path = folder / f'{key}.safetensors'
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match='is damaged'):
      call()
    path.write_bytes(good)
    library.promote(b, 'live')
  assert [x.action for x in library.history('live')] == ['promote'] * 3


def forge(library, folder, change, storage=lambda x: x):
  """A ticket whose hashes are right, but whose manifest is not."""
  key = add(library, 1)
  path = folder / f'{key}.safetensors'
  data = path.read_bytes()
  head = _format.read_head(lambda a, b: data[a:b], len(data))
  manifest = json.loads(head.metadata['manifest'])
  change(manifest)
  kept = json.loads(head.metadata['storage'])
  storage(kept)
  text = _format.canonical(manifest)
  tensors = {
    name: _format.values(x, data[head.size :]).reshape(x.shape)
    for name, x in head.tensors.items()
  }
  metadata = {
    'format': head.metadata['format'],
    'manifest': text,
    'storage': _format.canonical(kept),
  }
  forged = _format.sha256(text)
  path.unlink()
  target = folder / f'{forged}.safetensors'
  target.write_bytes(_format.encode(tensors, metadata))
  return forged


def set_shape(shape, *, alive=None):
  def change(manifest):
    for leaf in (
      manifest['masks']['fc/kernel'],
      *(x['fc/kernel'] for x in manifest['parts'].values()),
    ):
      leaf['shape'] = shape
    if alive is not None:
      manifest['masks']['fc/kernel']['alive'] = alive

  return change


def rename_leaf(manifest):
  leaves = manifest['parts']['trained']
  leaves['../../fc'] = leaves.pop('fc/kernel')


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    (lambda m: m.update(parent='../../etc/passwd'), 'which is not a key'),
    (lambda m: m.update(parent='/etc/passwd'), 'which is not a key'),
    (set_shape([10**9, 10**9]), 'tensors do not fit its manifest'),
    (set_shape([6, 8], alive=47), 'trained/fc/kernel is float32'),
    (set_shape([6, 8], alive=10**30), 'of 48 weights alive'),
    (set_shape([-6, -8]), 'has the shape'),
    (set_shape([6.0, 8]), 'has the shape'),
    (set_shape([4, 12]), ''),  # Nothing contradicts it: another ticket.
    (rename_leaf, 'do not have the same leaves'),
    (lambda m: m.update(parts={'../x': {}}), r'parts are \.\./x'),
    (lambda m: m.update(more=1), 'other fields'),
    (lambda m: m.update(domain=3), 'domain is not a text'),
    (lambda m: m.update(level='x', density=2), "level 'x'; density 2"),
    (lambda m: m.update(seeds=[0.5]), r'seeds \[0.5\]'),
    (lambda m: m.update(masks=[]), 'not a table'),
    (lambda m: m.update(format='lthjax-ticket-9'), 'format is not'),
  ],
)
def test_forged_manifests(library, folder, change, text):
  key = forge(library, folder, change)
  before = contents(folder)
  if not text:
    assert library.load(key)['fc']['kernel'].shape == (4, 12)
    return
  for call in [library.load, library.verify, library.card, library.masks]:
    with pytest.raises(ValueError, match=f'is damaged: .*{text}'):
      call(key)
  with pytest.raises(ValueError, match=text):
    add(library, 2, parent=key)
  assert contents(folder) == before


SOURCE = {'key': 'f' * 64, 'part': 'trained', 'depth': 1, 'changed': 0}


@pytest.mark.parametrize(
  ('source', 'text'),
  [
    ({**SOURCE, 'key': '../x'}, 'is not a key'),
    ({**SOURCE, 'depth': 9}, 'depth out of range'),
    ({**SOURCE, 'changed': -1}, 'changed out of range'),
    ({**SOURCE, 'part': 'x'}, 'is not a part'),
    ({'key': 'f' * 64}, 'other fields'),
    (SOURCE, 'trained/fc/bias belongs to none'),
  ],
)
def test_forged_sources(library, folder, source, text):
  key = forge(
    library,
    folder,
    lambda m: None,
    lambda s: s['sources'].update({'trained/fc/bias': source}),
  )
  with pytest.raises(ValueError, match=text):
    library.load(key)


def test_a_renamed_ticket_is_found(library, folder):
  key = add(library)
  other = 'a' * 64
  (folder / f'{key}.safetensors').rename(folder / f'{other}.safetensors')
  with pytest.raises(ValueError, match='the hash that it is named by'):
    library.load(other)


def test_links_do_not_lead_out(library, folder, tmp_path):
  key = add(library)
  path = folder / f'{key}.safetensors'
  path.rename(tmp_path / 'secret')
  path.symlink_to(tmp_path / 'secret')
  for call in library.load, library.verify:
    with pytest.raises(ValueError, match='leads out of the library'):
      call(key)
  assert (tmp_path / 'secret').exists()


def test_a_missing_parent(library, folder):
  parent = add(library, 0)
  key = library.add(
    make_ticket(1)._replace(trained=make_ticket(0).trained),
    params=identity,
    parent=parent,
  )
  (folder / f'{parent}.safetensors').unlink()
  with pytest.raises(LookupError, match=f'no ticket {parent}'):
    library.load(key)
  with pytest.raises(ValueError, match=parent):
    library.verify()
  assert f'2. `{parent}`, which is not in this library' in library.card(key)


# Places.


@pytest.mark.parametrize('scheme', ['http', 'az', 'hf', 'file', 'memory', ''])
def test_other_schemes_are_refused(scheme):
  with pytest.raises(ValueError, match=f'has the scheme {scheme}://, but'):
    lth.library.open(f'{scheme}://bucket/tickets')


@pytest.mark.parametrize('path', ['s3://', 'gs:///', 's3://bucket/../other'])
def test_urls_without_a_place(path):
  with pytest.raises(ValueError, match='is not the place of a library'):
    lth.library.open(path)


@pytest.mark.parametrize('path', [None, '', 3, b'x', ['x']])
def test_paths_that_are_none(path):
  with pytest.raises(TypeError, match='`path` was'):
    lth.library.open(path)


def test_packages_of_buckets_are_named(monkeypatch):
  import fsspec

  def missing(scheme):
    raise ImportError(scheme)

  monkeypatch.setattr(fsspec, 'filesystem', missing)
  with pytest.raises(ImportError, match='pip install s3fs'):
    lth.library.open('s3://bucket/tickets')


def test_places_that_are_no_library(tmp_path):
  (tmp_path / 'thesis.txt').write_text('hello')
  before = contents(tmp_path)
  with pytest.raises(ValueError, match=r'not a library: it has thesis\.txt'):
    lth.library.open(tmp_path)
  with pytest.raises(ValueError, match='is a file, where a folder'):
    lth.library.open(tmp_path / 'thesis.txt')
  with pytest.raises(FileNotFoundError, match='no library at'):
    lth.library.open(tmp_path / 'new', create=False)
  assert contents(tmp_path) == before
  library = lth.library.open(epath.Path(tmp_path / 'new'))
  assert lth.library.open(tmp_path / 'new', create=False).list() == ()
  (tmp_path / 'new' / 'library.json').write_text('{"format":"lthjax-9"}')
  with pytest.raises(ValueError, match='the version that wrote it'):
    lth.library.open(library.store.root)


def test_errors_of_the_disk_lose_nothing(library, folder):
  key = add(library)

  def fail(original, path, mode):
    if path.endswith('.safetensors'):
      raise OSError('the disk is gone')
    return original(path, mode)

  with (
    epath.testing.mock_epath(open=fail),
    pytest.raises(OSError, match='the disk is gone'),
  ):
    library.load(key)
  assert names(folder) == [f'{key}.safetensors']
  library.verify()


# Tickets.


def test_tickets_that_would_change_are_refused(library, folder):
  ticket = make_ticket(1)
  for bad, text in [
    (np.zeros(8), 'trained/fc/bias is float64, which JAX makes float32'),
    (np.zeros(8, 'U1'), 'trained/fc/bias is <U1, which its file cannot hold'),
    (jax.random.key(0), r'trained/fc/bias is key<fry>, which its file'),
  ]:
    ticket.trained['fc']['bias'] = bad
    with pytest.raises((ValueError, TypeError), match=text):
      library.add(ticket, params=identity)
  assert library.list() == ()


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ({'masks': {'fc': None}}, 'params of `ticket.trained`'),
    ({'trained': 3}, r'`params\(ticket.trained\)` must be a tree of arrays'),
    ({'level': -1}, '`ticket.level` was -1'),
    ({'metrics': {'a': float('nan')}}, r"metrics\['a'\] is not finite"),
    ({'metrics': {1: 2}}, 'key 1, which JSON would turn'),
    ({'metrics': {'a': object()}}, 'which JSON cannot hold'),
  ],
)
def test_bad_tickets(library, change, text):
  with pytest.raises((ValueError, TypeError), match=text):
    library.add(make_ticket(1)._replace(**change), params=identity)
  assert library.list() == ()


def test_other_bad_arguments(library):
  ticket = make_ticket(1)
  for options, text in [
    ({'domain': 3}, '`domain` was 3'),
    ({'seeds': 'x'}, '`seeds` was'),
    ({'config': 3}, '`config` was 3'),
    ({'parent': 'nobody'}, "no alias 'nobody'"),
    ({'params': 3}, '`params` was 3'),
  ]:
    with pytest.raises((TypeError, ValueError, LookupError), match=text):
      library.add(ticket, **{'params': identity, **options})
  with pytest.raises(TypeError, match='`ticket` was 3'):
    library.add(3)
  with pytest.raises(TypeError, match='without `params`'):
    library.add(ticket._replace(trained=(1, 2)))
  assert library.list() == ()


def test_another_structure_is_refused(library):
  key = add(library)
  other = {**START, 'out': {'kernel': np.zeros((8, 4), np.float32)}}
  with pytest.raises(ValueError, match=r'out/kernel: float32\[8, 3\] there'):
    library.load(key, other)
  with pytest.raises(ValueError, match=r'out/kernel: bool\[8, 3\] there'):
    library.masks(key, other)
  with pytest.raises(LookupError, match='without "model_state"'):
    library.load(key, part='model_state')
  with pytest.raises(ValueError, match='`part` was'):
    library.load(key, part='else')
