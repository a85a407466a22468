"""Build hook: compiles the kernels into the wheel, where a compiler is found.

`LTHJAX_KERNELS=0` leaves them out; with `LTHJAX_KERNELS=1`, a failure to
compile stops the build. Otherwise the wheel is pure, with one warning.
"""

import importlib.util
import os
import pathlib
import shutil
import tempfile

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging import tags

ROOT = pathlib.Path(__file__).parent
PACKAGE = 'lthjax/deploy'
# The oldest jaxlib that lthjax supports: a library that is compiled with its
# headers runs with all later ones of the same major version of the interface.
HEADERS = 'jaxlib==0.10.0; python_version < "3.15"'


def _load_compile():
  """Loads `lthjax.deploy._compile`, without lthjax and what it imports."""
  spec = importlib.util.spec_from_file_location(
    '_compile', ROOT / PACKAGE / '_compile.py'
  )
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


compile_ = _load_compile()


def choice() -> str:
  """Returns what `LTHJAX_KERNELS` asks for: ``'0'``, ``'1'`` or nothing."""
  value = os.environ.get('LTHJAX_KERNELS', '')
  if value not in ('', '0', '1'):
    raise ValueError(
      f'LTHJAX_KERNELS was {value!r}, but must be 0 (leave the kernels out), 1'
      ' (fail if they do not compile) or unset (compile them if possible).'
    )
  return value


def requirements() -> list[str]:
  """Returns what the build needs: headers, and only if they will be used."""
  if choice() == '0' or compile_.supported() is not None:
    return []
  return [HEADERS]


def include() -> pathlib.Path:
  """Returns the folder of XLA's headers; raises where they are of no use."""
  if reason := compile_.supported():
    raise compile_.CompileError(reason)
  spec = importlib.util.find_spec('jaxlib')
  if spec is None or spec.origin is None:
    raise compile_.CompileError(
      'There is no jaxlib in the build environment, whose headers the kernels'
      ' need.'
    )
  return pathlib.Path(spec.origin).parent / 'include'


def platform_tag() -> str:
  """Returns the tag of this platform, without promises about its libc."""
  return next(
    tag
    for tag in tags.platform_tags()
    if not tag.startswith(('manylinux', 'musllinux'))
  )


def up_to_date(library: pathlib.Path) -> bool:
  """Returns whether a library is newer than all it is made of."""
  made_of = [*compile_.SOURCES.iterdir(), ROOT / PACKAGE / '_compile.py']
  return library.exists() and library.stat().st_mtime > max(
    path.stat().st_mtime for path in made_of
  )


class KernelsHook(BuildHookInterface):
  """Adds the compiled library to a wheel, or to the tree it is built from.

  An editable install has no place for files of its own, so that the library
  goes beside the sources (ignored by git and left out of other wheels).
  """

  def dependencies(self) -> list[str]:
    """Returns what must be installed before the build."""
    return requirements()

  def initialize(self, version: str, build_data: dict) -> None:
    """Compiles, and says what the wheel is then."""
    asked = choice()
    if asked == '0':
      return
    editable = version == 'editable'
    folder = ROOT / PACKAGE
    if not editable:
      folder = pathlib.Path(tempfile.mkdtemp())
    library = folder / compile_.NAME
    try:
      if not (editable and up_to_date(library)):
        compile_.build(library, include())
    except (compile_.CompileError, OSError) as error:
      if not editable:
        shutil.rmtree(folder)
      if asked == '1':
        raise
      self.app.display_warning(
        f'lthjax is built without compiled kernels. {error}'
      )
      return
    if not editable:
      build_data['force_include'][os.fspath(library)] = (
        f'{PACKAGE}/{compile_.NAME}'
      )
      build_data['pure_python'] = False
      build_data['tag'] = f'py3-none-{platform_tag()}'

  def finalize(self, version: str, build_data: dict, artifact_path: str):
    """Removes what was compiled for a wheel that is now written."""
    for path in build_data['force_include']:
      if pathlib.Path(path).name == compile_.NAME:
        shutil.rmtree(pathlib.Path(path).parent)
