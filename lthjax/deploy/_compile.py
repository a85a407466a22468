"""Compiles the kernels, with the standard library alone.

The build of the wheel runs this file without lthjax being installed, so it must
not import anything of the package.
"""

import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

SOURCES = pathlib.Path(__file__).parent / 'csrc'
# Not a name that Python could take for an extension module.
NAME = 'libsparse.dylib' if sys.platform == 'darwin' else 'libsparse.so.1'
_FLAGS = ('-std=c++17', '-O3', '-fPIC', '-shared', '-fvisibility=hidden')


class CompileError(RuntimeError):
  """The kernels could not be compiled; says why, and what to do."""


def compiler() -> str | None:
  """Returns the C++ compiler: ``$CXX``, or the first that is installed."""
  candidates = (os.environ.get('CXX'), 'g++', 'clang++', 'c++')
  return next((c for c in candidates if c and shutil.which(c)), None)


def supported() -> str | None:
  """Returns why kernels cannot be built here, or `None` if they can."""
  machine = platform.machine().lower()
  if sys.platform not in ('linux', 'darwin'):
    return f'There are no kernels for {sys.platform}, only for Linux and macOS.'
  if machine not in ('x86_64', 'amd64', 'aarch64', 'arm64'):
    return f'There are no kernels for {machine}, only for x86-64 and arm64.'
  if compiler() is None:
    return (
      'There is no C++ compiler. Install one (g++ or clang++, or name it in'
      ' CXX), then call `lthjax.deploy.build_kernels()`.'
    )
  return None


def sources() -> str:
  """Returns a digest of the sources, which the library carries."""
  digest = hashlib.sha256()
  for path in sorted(SOURCES.iterdir()):
    digest.update(path.read_bytes())
  return digest.hexdigest()[:16]


def key(include: str | os.PathLike[str]) -> str:
  """Returns a name for what is built: sources, compiler, headers, machine."""
  name = compiler() or ''
  version = subprocess.run(
    [name, '--version'], capture_output=True, check=False, text=True
  ).stdout
  digest = hashlib.sha256(
    '\0'.join([version, platform.machine(), sys.platform, sources()]).encode()
  )
  header = pathlib.Path(include) / 'xla' / 'ffi' / 'api' / 'c_api.h'
  digest.update(header.read_bytes())
  return digest.hexdigest()[:16]


def build(
  library: str | os.PathLike[str], include: str | os.PathLike[str]
) -> None:
  """Compiles the kernels into a library, which appears whole or not at all.

  Args:
    library: path of the library.
    include: folder of XLA's headers, ``jax.ffi.include_dir()``.

  Raises:
    CompileError: if it cannot be done.
  """
  if reason := supported():
    raise CompileError(reason)
  library = pathlib.Path(library)
  library.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=library.parent) as folder:
    built = pathlib.Path(folder) / library.name
    command = [compiler(), *_FLAGS, '-isystem', os.fspath(include)]
    command += [f'-DLTHJAX_SOURCES="{sources()}"']
    if sys.platform == 'linux':
      command += [
        '-static-libstdc++',
        '-static-libgcc',
        '-Wl,--exclude-libs,ALL',
      ]
      command += ['-Wno-psabi', '-s', '-pthread']
    command += [os.fspath(SOURCES / 'kernels.cc'), '-o', os.fspath(built)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
      lines = [x for x in done.stderr.splitlines() if 'error' in x]
      raise CompileError(
        f'The kernels could not be compiled with {command[0]}:'
        f' {(lines or done.stderr.splitlines() or ["no message"])[0]}. Sparse'
        ' layers run without them, slower.'
      )
    os.replace(built, library)
