"""The compiled kernels: found, checked, registered, and built.

Nothing happens at import. The library is loaded and registered with JAX when a
sparse layer is traced for the first time.
"""

import ctypes
import functools
import os
import pathlib
import re
import sys
import threading
from typing import NamedTuple

import jax

from lthjax.deploy import _compile

TARGETS = (
  'lthjax_sparse_forward',
  'lthjax_sparse_input_gradient',
  'lthjax_sparse_value_gradients',
)
_LOCK = threading.Lock()
_ISAS = {0: 'baseline', 3: 'avx2', 4: 'avx512', 5: 'avx512'}


class Kernels(NamedTuple):
  """What there is of compiled kernels.

  Attributes:
    available: whether sparse layers run on them on the CPU.
    isa: ``'avx512'``, ``'avx2'`` or ``'baseline'``; `None` if not available.
    path: the library; `None` if there is none.
    reason: why they are not available, and what to do; empty if they are.
  """

  available: bool
  isa: str | None
  path: str | None
  reason: str


def kernels() -> Kernels:
  """Looks for compiled kernels; loads and registers those that fit.

  Libraries that come with the package and libraries that `build_kernels` has
  made are looked at. One that needs a newer JAX than the running one is left
  alone.

  Returns:
    The `Kernels`.

  Example:
    >>> from lthjax import deploy
    >>> found = deploy.kernels()
    >>> found.available == (found.reason == '')
    True
  """
  with _LOCK:
    return _find()


def build_kernels(folder: str | os.PathLike[str] | None = None) -> Kernels:
  """Compiles the kernels with the headers of the running JAX.

  It takes about ten seconds, once for each version of sources, compiler and
  XLA's interface. Whatever is built already is used as it stands.

  Args:
    folder: where the library goes; the user's cache folder by default.

  Returns:
    The `Kernels` that are there now.

  Raises:
    lthjax.deploy.CompileError: if there is no compiler, or it fails.
  """
  if reason := _compile.supported():
    raise _compile.CompileError(reason)
  include = jax.ffi.include_dir()
  library = (
    pathlib.Path(folder) if folder else _cache() / _compile.key(include)
  ) / _compile.NAME
  with _LOCK:
    if folder or not library.exists():
      _compile.build(library, include)
    _find.cache_clear()
    return _find(os.fspath(library))


def running_version() -> tuple[int, int]:
  """Returns the version of XLA's interface that the running jaxlib has."""
  header = (
    pathlib.Path(jax.ffi.include_dir()) / 'xla' / 'ffi' / 'api' / 'c_api.h'
  )
  numbers = re.findall(
    r'#define XLA_FFI_API_(MAJOR|MINOR) (\d+)', header.read_text()
  )
  found = dict(numbers)
  return int(found['MAJOR']), int(found['MINOR'])


def _cache() -> pathlib.Path:
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'lthjax' / 'kernels'


def _candidates() -> list[pathlib.Path]:
  found = [pathlib.Path(__file__).parent / _compile.NAME]
  if _compile.supported() is None:
    folder = _cache() / _compile.key(jax.ffi.include_dir())
    found.append(folder / _compile.NAME)
  return [path for path in found if path.exists()]


_registered: set[str] = set()


@functools.cache
def _find(library: str | None = None) -> Kernels:
  """Takes the first library that fits the running JAX."""
  if os.environ.get('LTHJAX_KERNELS') == '0':
    return Kernels(
      False, None, None, 'LTHJAX_KERNELS=0 switches compiled kernels off.'
    )
  cap = os.environ.get('LTHJAX_ISA', '')
  if cap and not (cap.isascii() and cap.isdigit()):
    raise ValueError(
      f'LTHJAX_ISA was {cap!r}, but must be 0 (baseline), 3 (AVX2), 4 (AVX-512)'
      ' or 5 (with VBMI). Higher ones than the processor has are capped.'
    )
  reasons = []
  for path in [library] if library else map(str, _candidates()):
    try:
      handle = ctypes.CDLL(path)
    except OSError as error:
      reasons.append(f'{path} cannot be loaded: {error}.')
      continue
    if reason := _misfit(handle):
      reasons.append(f'{path} {reason}')
      continue
    _register(path, handle)
    return Kernels(True, _ISAS[handle.lthjax_isa()], path, '')
  return Kernels(False, None, None, ' '.join(reasons) or _missing())


def _misfit(handle: ctypes.CDLL) -> str:
  """Returns why a library does not fit the running JAX.

  Registering a newer handler than the runtime knows can stop the whole CPU
  backend from starting, so the versions are compared before.
  """
  major, minor = divmod(handle.lthjax_ffi_version(), 1000)
  running = running_version()
  if major == running[0] and minor <= running[1]:
    handle.lthjax_sources.restype = ctypes.c_char_p
    if handle.lthjax_sources().decode() == _compile.sources():
      return ''
    return (
      'was built from other sources than those installed. Call'
      ' `lthjax.deploy.build_kernels()`.'
    )
  return (
    f'was built for version {major}.{minor} of the foreign function interface'
    f' of XLA, and this jaxlib has {running[0]}.{running[1]}. Call'
    ' `lthjax.deploy.build_kernels()`.'
  )


def _register(path: str, handle: ctypes.CDLL) -> None:
  if _registered:  # By another library of the same sources.
    return
  for target in TARGETS:
    jax.ffi.register_ffi_target(
      target, jax.ffi.pycapsule(getattr(handle, target)), platform='cpu'
    )
  _registered.add(path)


def _missing() -> str:
  return _compile.supported() or (
    'The kernels are not compiled yet: this copy of lthjax was installed'
    f' without a compiler (Python {sys.version.split()[0]}). Call'
    ' `lthjax.deploy.build_kernels()` once; it takes ten seconds.'
  )
