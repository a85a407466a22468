"""Versions of everything a bug report should name."""

import platform
from importlib import metadata

import jax

from lthjax import deploy

__version__ = '0.2.0'
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def _package(name: str) -> str:
  """Returns the installed version of a package, without importing it."""
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return 'not installed'


def _devices() -> str:
  """Returns the backend with its devices, or why there is none."""
  try:
    kinds = [device.device_kind for device in jax.devices()]
  except RuntimeError as error:
    return f'none: {error}'
  counts = [f'{kinds.count(kind)} x {kind}' for kind in sorted(set(kinds))]
  return f'{jax.default_backend()}: {", ".join(counts)}'


def _kernels() -> str:
  """Returns the instruction set of the compiled kernels, or the reason."""
  found = deploy.kernels()
  return found.isa or found.reason


def versions() -> dict[str, str]:
  """Returns what `show_versions` prints, by name."""
  found = {
    'lthjax': __version__,
    'python': platform.python_version(),
    **{name: _package(name) for name in _PACKAGES},
    'platform': platform.platform(),
    'devices': _devices(),
    'kernels': _kernels(),
  }
  return {name: ' '.join(value.split()) for name, value in found.items()}


def show_versions() -> None:
  """Prints the versions and devices that a bug report should name.

  It names no user, host or folder. `python -m lthjax` prints the same.

  Example:
    >>> import lthjax as lth
    >>> lth.show_versions()
    lthjax            ...
    python            3...
    jax               ...
  """
  for name, value in versions().items():
    print(f'{name:<17} {value}')
