"""Files that appear whole or not at all."""

import io
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from helpers import names

from lthjax import files

ROOT = pathlib.Path(__file__).parents[1]


def test_write_text_keeps_every_character(tmp_path):
  path = tmp_path / 'new' / 'a.txt'
  for text in ['first', '', 'ü\r\nsecond\n\n']:
    files.write_text(path, text)
    assert path.read_bytes().decode() == text
    assert names(path.parent) == ['a.txt']


def test_write_text_does_not_depend_on_the_locale(tmp_path, monkeypatch):
  """In some of them, text is ASCII if nothing else is said."""
  monkeypatch.setattr(io, 'text_encoding', lambda x, *_: x or 'ascii')
  with pytest.raises(UnicodeEncodeError):
    (tmp_path / 'b.txt').write_text('ü')
  files.write_text(tmp_path / 'a.txt', 'ü')
  assert (tmp_path / 'a.txt').read_bytes() == b'\xc3\xbc'


def test_write_text_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
  files.write_text(tmp_path / 'a.txt', 'old')

  def fail(source, target):
    raise OSError('no room')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='no room'):
    files.write_text(tmp_path / 'a.txt', 'new')
  assert (tmp_path / 'a.txt').read_text() == 'old'
  assert names(tmp_path) == ['a.txt']


def test_a_folder_is_removed_even_if_threads_still_write(tmp_path, monkeypatch):
  remove, tries = shutil.rmtree, []

  def busy(folder, **options):
    tries.append(folder)
    if len(tries) > 2:
      remove(folder, **options)

  monkeypatch.setattr(shutil, 'rmtree', busy)
  with files.temporary_folder(tmp_path / 'x'):
    assert len(names(tmp_path)) == 1
  assert names(tmp_path) == []


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
  """Locked folders belong to the living; new ones may be about to lock."""
  for name in ('.x.tmp-dead', '.x.tmp-old', '.x.tmp-new', '.other.tmp-dead'):
    (tmp_path / name / 'x').mkdir(parents=True)
  for name in ('.x.tmp-dead', '.other.tmp-dead'):
    (tmp_path / name / '.alive-1').write_text('')
  os.utime(tmp_path / '.x.tmp-old', (0, 0))
  with files.temporary_folder(tmp_path / 'x') as living:
    files.write_text(tmp_path / 'x', 'hello')
    found = ['.other.tmp-dead', '.x.tmp-new', living.name, 'x']
    assert names(tmp_path) == sorted(found)
  files.write_text(tmp_path / 'x', 'again')
  assert names(tmp_path) == ['.other.tmp-dead', '.x.tmp-new', 'x']


def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path):
  (tmp_path / 'mine').write_text('keep')
  (tmp_path / 'a.txt').symlink_to(tmp_path / 'mine')
  files.write_text(tmp_path / 'a.txt', 'hello')
  assert (tmp_path / 'mine').read_text() == 'keep'
  assert (tmp_path / 'a.txt').read_text() == 'hello'
  assert not (tmp_path / 'a.txt').is_symlink()


def test_many_processes_write_one_file(tmp_path):
  """None of them fails, and one text stands whole at the end."""
  source = """
import sys
sys.path.append('lthjax')
import files  # alone: the package takes seconds
for i in range(150):
  files.write_text(sys.argv[1], sys.argv[2] * 1000)
"""
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', source, str(tmp_path / 'a.txt'), letter],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    for letter in 'ab'
  ]
  for process in processes:
    _, errors = process.communicate()
    assert process.returncode == 0, errors
  assert (tmp_path / 'a.txt').read_text() in ('a' * 1000, 'b' * 1000)
  assert names(tmp_path) == ['a.txt']


def test_what_is_in_the_way_is_named(tmp_path):
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'folder' / '.lock').mkdir(parents=True)
  before = names(tmp_path)
  for path in (tmp_path / 'file' / 'a.txt', tmp_path / 'file' / 'b' / 'a.txt'):
    with pytest.raises(NotADirectoryError, match='file is in the way: there'):
      files.write_text(path, 'hello')
  with pytest.raises(IsADirectoryError, match='folder is in the way: it is a'):
    files.write_text(tmp_path / 'folder', 'hello')
  held = pytest.raises(IsADirectoryError, match='lock is in the way: it is a')
  with held, files.only_process(tmp_path / 'folder'):
    raise AssertionError('locked')
  assert names(tmp_path) == before
  assert (tmp_path / 'file').read_text() == 'mine'


def test_paths(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.local_path('~/runs') == tmp_path / 'runs'
  for url in ('gs://b/runs', 's3://b', 'file:///runs'):
    with pytest.raises(ValueError, match=f'{url} is a URL'):
      files.local_path(url)
  with pytest.raises(ValueError, match='gs:/b/runs is a URL'):
    files.local_path(pathlib.Path('gs://b/runs'))
  assert files.local_path(tmp_path / 'a:b').name == 'a:b'
