"""The build hook: what it asks for, and which wheels come out."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import types
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def hook():
  """The module of the hook, without hatchling where that is missing."""
  name = 'hatchling.builders.hooks.plugin.interface'
  missing = importlib.util.find_spec('hatchling') is None
  if missing:
    stub = types.ModuleType(name)
    stub.BuildHookInterface = object  # pyright: ignore
    parts = name.split('.')
    for i in range(1, len(parts)):
      parent = '.'.join(parts[:i])
      sys.modules[parent] = types.ModuleType(parent)
    sys.modules[name] = stub
  spec = importlib.util.spec_from_file_location(
    'hatch_build', ROOT / 'hatch_build.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if missing:
    for key in [k for k in sys.modules if k.partition('.')[0] == 'hatchling']:
      del sys.modules[key]
  return module


class App:
  """Collects the warnings of a build."""

  def __init__(self):
    self.warnings = []

  def display_warning(self, text):
    self.warnings.append(text)


@pytest.fixture
def build(hook, monkeypatch, tmp_path):
  """Runs the hook on a tree of its own, with a compiler of ours."""
  monkeypatch.delenv('LTHJAX_KERNELS', raising=False)
  monkeypatch.setattr(hook, 'ROOT', tmp_path)
  monkeypatch.setattr(hook.compile_, 'supported', lambda: None)
  (tmp_path / hook.PACKAGE).mkdir(parents=True)
  (tmp_path / hook.PACKAGE / '_compile.py').touch()
  calls = []

  def compiles(library, include):
    calls.append(include)
    library.write_bytes(b'library')

  monkeypatch.setattr(hook.compile_, 'build', compiles)

  def run(version='standard'):
    plugin = hook.KernelsHook.__new__(hook.KernelsHook)
    app = App()
    monkeypatch.setattr(hook.KernelsHook, 'app', app, raising=False)
    data = {'force_include': {}, 'pure_python': True}
    plugin.initialize(version, data)
    held = [pathlib.Path(p).read_bytes() for p in data['force_include']]
    plugin.finalize(version, data, '')
    assert not any(map(os.path.exists, data['force_include']))
    return types.SimpleNamespace(
      data=data, warnings=app.warnings, held=held, calls=len(calls)
    )

  return run


def test_wheels_hold_the_library(hook, build):
  built = build()
  name = f'lthjax/deploy/{hook.compile_.NAME}'
  assert list(built.data['force_include'].values()) == [name]
  assert built.held == [b'library']
  assert built.data['pure_python'] is False
  assert re.fullmatch(r'py3-none-(linux|macosx)_\w+', built.data['tag'])
  assert built.warnings == []


def test_editable_installs_compile_into_the_tree_once(hook, build):
  library = hook.ROOT / hook.PACKAGE / hook.compile_.NAME
  built = build('editable')
  assert built.data == {'force_include': {}, 'pure_python': True}
  assert library.read_bytes() == b'library'
  later = library.stat().st_mtime + 60
  os.utime(library, (later, later))
  assert build('editable').calls == 1
  os.utime(library, (0, 0))  # Older than the sources.
  assert build('editable').calls == 2


def test_without_a_library_the_wheel_is_pure(hook, build, monkeypatch):
  def fails(library, include):
    raise hook.compile_.CompileError('There is no C++ compiler.')

  monkeypatch.setattr(hook.compile_, 'build', fails)
  built = build()
  assert built.data == {'force_include': {}, 'pure_python': True}
  assert built.warnings == [
    'lthjax is built without compiled kernels. There is no C++ compiler.'
  ]
  monkeypatch.setenv('LTHJAX_KERNELS', '1')
  with pytest.raises(hook.compile_.CompileError, match=r'no C\+\+ compiler'):
    build()


def test_kernels_can_be_left_out(hook, build, monkeypatch):
  monkeypatch.setenv('LTHJAX_KERNELS', '0')
  built = build()
  assert built.data == {'force_include': {}, 'pure_python': True}
  assert built.warnings == []
  assert built.calls == 0
  assert hook.requirements() == []


def test_headers_are_asked_for_where_they_are_used(hook, build, monkeypatch):
  assert hook.requirements() == [hook.HEADERS]
  monkeypatch.setattr(hook.compile_, 'supported', lambda: 'no compiler')
  assert hook.requirements() == []
  monkeypatch.setenv('LTHJAX_KERNELS', 'yes')
  with pytest.raises(ValueError, match="LTHJAX_KERNELS was 'yes', but must be"):
    hook.requirements()


def test_headers_are_those_of_the_oldest_jaxlib(hook, monkeypatch):
  monkeypatch.setattr(hook.compile_, 'supported', lambda: None)
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  oldest = re.search(r'jaxlib==(\d+\.\d+)\.0;', hook.HEADERS)
  assert f'jax>={oldest[1]}' in project['project']['dependencies']
  header = hook.include() / 'xla' / 'ffi' / 'api' / 'c_api.h'
  assert 'XLA_FFI_API_MAJOR' in header.read_text()


@pytest.fixture
def tree(tmp_path):
  """A copy of what a wheel is built from."""
  copy = tmp_path / 'tree'
  shutil.copytree(
    ROOT / 'lthjax',
    copy / 'lthjax',
    ignore=shutil.ignore_patterns('__pycache__', 'libsparse.so.1'),
  )
  for name in ('pyproject.toml', 'README.md', 'LICENSE', 'hatch_build.py'):
    shutil.copy(ROOT / name, copy)
  return copy


def pip(*args, **env):
  env = {**os.environ, 'PYTHONPATH': '', 'LTHJAX_KERNELS': '', **env}
  return subprocess.run(
    [sys.executable, '-m', 'pip', '-v', *map(str, args)],
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow
@pytest.mark.skipif(
  shutil.which('g++') is None, reason='there is no C++ compiler'
)
def test_a_wheel_with_the_library(tree, tmp_path):
  done = pip('wheel', tree, '-w', tmp_path, '--no-deps', LTHJAX_KERNELS='1')
  assert done.returncode == 0, done.stderr
  (wheel,) = tmp_path.glob('*.whl')
  assert '-py3-none-linux_' in wheel.name or '-py3-none-macosx_' in wheel.name
  names = zipfile.ZipFile(wheel).namelist()
  folder = ROOT / 'lthjax' / 'deploy' / 'csrc'
  sources = [f'csrc/{path.name}' for path in folder.iterdir()]
  for name in ('libsparse.so.1', *sources):
    assert f'lthjax/deploy/{name}'.replace('.so.1', '.') in ' '.join(names)
  # The library fits the running JAX and the sources beside it.
  installed = tmp_path / 'installed'
  zipfile.ZipFile(wheel).extractall(installed)
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'from lthjax import deploy; print(deploy.kernels())',
    ],
    env={**os.environ, 'PYTHONPATH': str(installed)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'available=True' in done.stdout
  assert str(installed) in done.stdout


@pytest.mark.slow
def test_wheels_without_a_compiler(tree, tmp_path):
  """No compiler: pure, no headers asked for. One that fails: a warning."""
  bare = str(tmp_path)
  done = pip('wheel', tree, '-w', tmp_path, '--no-deps', PATH=bare)
  assert done.returncode == 0, done.stderr
  (wheel,) = tmp_path.glob('*-py3-none-any.whl')
  names = zipfile.ZipFile(wheel).namelist()
  assert 'lthjax/deploy/csrc/loops.h' in names
  assert not any('libsparse.so.1' in name for name in names)
  text = done.stdout + done.stderr
  assert text.count('lthjax is built without compiled kernels') == 1
  assert 'jaxlib' not in text
  failing = {'PATH': bare, 'LTHJAX_KERNELS': '1'}
  done = pip('wheel', tree, '-w', tmp_path, '--no-deps', **failing)
  assert done.returncode != 0
  assert 'There is no C++ compiler' in done.stdout + done.stderr
