"""Checkpoints of states and tickets, and the folders of runs.

Every file and folder appears whole or not at all: it is written under another
name and renamed. Killing the process, or a disk that runs full, leaves the last
good checkpoint as it was. Reading one back checks that it is what was written:
each checkpoint has a list of the digests of its files (``sha256sum -c
SHA256SUMS`` checks it too), and of the shapes and dtypes of its leaves.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.tickets import Ticket

_DIGESTS = 'SHA256SUMS'


def save(
  path: str | os.PathLike[str],
  tree: chex.ArrayTree,
  metadata: dict[str, Any] | None = None,
) -> None:
  """Writes a tree of arrays as an orbax checkpoint, atomically.

  Args:
    path: folder to create; its parents are made as well.
    tree: tree of arrays, random keys and `None`.
    metadata: anything that JSON can hold, to be kept beside the arrays.

  Raises:
    FileExistsError: if the path exists; nothing is overwritten.
    OSError: if it cannot be written. The disk is left as it was.
    ValueError: if there is no array, or an empty one.
    TypeError: if a leaf is no array, or the metadata do not fit into JSON.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save(f'{folder}/state', {'w': jnp.ones(2)}, {'step': 3})
    ...   checkpoints.read_metadata(f'{folder}/state')
    {'step': 3}
  """
  path = Path(path).absolute()
  if path.exists():
    raise FileExistsError(
      f'{path} exists already, and checkpoints are never overwritten. Choose'
      ' another path, or remove it first.'
    )
  tree = jax.tree.map(jnp.asarray, tree)
  sizes = [x.size for x in jax.tree.leaves(tree)]
  if not sizes or not min(sizes):
    raise ValueError(
      'A checkpoint needs at least one array, and none that is empty.'
    )
  header = {'leaves': _describe(tree), 'metadata': metadata or {}}
  json.dumps(header)  # Raises now on what JSON cannot hold.
  with _temporary(path) as folder:
    written = folder / path.name
    try:
      ocp.save(os.fspath(written), tree, custom_metadata=header)
      (written / _DIGESTS).write_text(_digests(written), encoding='utf-8')
      os.rename(written, path)
    except Exception as error:  # Orbax has a ValueError for a full disk.
      raise OSError(
        f'Could not write the checkpoint {path}: {_first_line(error)}.'
        ' Nothing was changed: earlier checkpoints are as they were.'
      ) from error


def load(path: str | os.PathLike[str], like: chex.ArrayTree) -> Any:
  """Reads a checkpoint into the structure of another tree.

  Args:
    path: what `save` wrote.
    like: tree of arrays or of `jax.ShapeDtypeStruct`, such as
      ``jax.eval_shape(make_state)``. Its structure, shapes and dtypes are
      required; arrays are placed on its devices, and are committed to them only
      where its own are.

  Returns:
    The tree, to the bit as it was saved.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: if it is no checkpoint, is damaged, or holds another tree.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save(f'{folder}/state', {'w': jnp.ones(2)})
    ...   checkpoints.load(f'{folder}/state', like={'w': jnp.zeros(2)})
    {'w': Array([1., 1.], dtype=float32)}
  """
  path = Path(path).absolute()
  target = jax.tree.map(_abstract, like)
  found, wanted = _read_header(path)['leaves'], _describe(target)
  if found != wanted:
    differ = [
      f'{name or "the array"}: {found.get(name, "nothing")} there,'
      f' {wanted.get(name, "nothing")} in `like`'
      for name in sorted(found.keys() | wanted.keys())
      if found.get(name) != wanted.get(name)
    ]
    raise ValueError(
      f'The checkpoint {path} holds another tree: {"; ".join(differ)}. Load it'
      ' into the structure it was saved from.'
    )
  return jax.tree.map(_commit_like, like, ocp.load(os.fspath(path), target))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads what was saved beside the arrays.

  Args:
    path: what `save` wrote.

  Returns:
    The dict given to `save`, or an empty one.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: if it is no checkpoint or is damaged.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save(f'{folder}/state', jnp.ones(2), {'level': 1})
    ...   checkpoints.read_metadata(f'{folder}/state')
    {'level': 1}
  """
  return _read_header(Path(path).absolute())['metadata']


def save_ticket(path: str | os.PathLike[str], ticket: Ticket) -> None:
  """Writes a ticket: masks at one bit a weight, both states, and metrics.

  Args:
    path: folder to create.
    ticket: what `lthjax.tickets.imp` yields. Its metrics must be something that
      JSON can hold. States may be left out by ``ticket._replace(start=None)``.

  Raises:
    FileExistsError: if the path exists; nothing is overwritten.
    OSError: if it cannot be written. The disk is left as it was.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> from lthjax.tickets import Ticket
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> ticket = Ticket(
    ...   1, 0.5, masks, None, {'w': jnp.ones((1, 2))}, {'acc': 1}
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save_ticket(f'{folder}/1', ticket)
    ...   checkpoints.load_ticket(f'{folder}/1', like=ticket).metrics
    {'acc': 1}
  """
  arrays = {
    'masks': masks_lib.pack(ticket.masks),
    'start': ticket.start,
    'trained': ticket.trained,
  }
  scalars = ('level', 'density', 'metrics')
  save(path, arrays, {name: getattr(ticket, name) for name in scalars})


def load_ticket(path: str | os.PathLike[str], like: Ticket) -> Ticket:
  """Reads a ticket.

  Args:
    path: what `save_ticket` wrote.
    like: a ticket whose masks and states have the right structure and shapes,
      as arrays or `jax.ShapeDtypeStruct`.

  Returns:
    The ticket, to the bit as it was saved.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: if it is no ticket, is damaged, or has another structure.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> from lthjax.tickets import Ticket
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> ticket = Ticket(1, 0.5, masks, None, None, None)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save_ticket(f'{folder}/1', ticket)
    ...   checkpoints.load_ticket(f'{folder}/1', like=ticket).masks
    {'w': Array([[ True, False]], dtype=bool)}
  """
  packed = jax.eval_shape(
    lambda: masks_lib.pack(
      jax.tree.map(lambda m: jnp.zeros(m.shape, bool), like.masks)
    )
  )
  target = {'masks': packed, 'start': like.start, 'trained': like.trained}
  arrays = load(path, target)
  scalars = read_metadata(path)
  if missing := {'level', 'density', 'metrics'} - set(scalars):
    raise ValueError(
      f'{path} is a checkpoint but not a ticket: it has no'
      f' {", ".join(sorted(missing))}. Read it with `load`.'
    )
  return Ticket(
    scalars['level'],
    scalars['density'],
    masks_lib.unpack(arrays['masks'], like.masks),
    arrays['start'],
    arrays['trained'],
    scalars['metrics'],
  )


def config_hash(config: Any) -> str:
  """Names a configuration by what it changes.

  Only fields that differ from their defaults count, so the name stays when a
  field with a default is added later. Fields declared with ``compare=False``,
  such as where to write, do not count.

  Args:
    config: a dataclass instance whose fields have defaults.

  Returns:
    Eight hexadecimal digits.

  Example:
    >>> import dataclasses
    >>> from lthjax import checkpoints
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   steps: int = 100
    >>> checkpoints.config_hash(Config(7)) == checkpoints.config_hash(Config(8))
    False
  """
  defaults = _fields(type(config)())
  changed = {
    name: value
    for name, value in sorted(_fields(config).items())
    if json.dumps(value) != json.dumps(defaults[name])
  }
  text = json.dumps(changed)  # The order inside a nested dict counts.
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def open_run(parent: str | os.PathLike[str], name: str, config: Any) -> Path:
  """Creates the folder of a run, or finds it again.

  Args:
    parent: folder of all runs.
    name: what the run is called; the hash of the configuration is added.
    config: a dataclass instance, written as ``config.json``.

  Returns:
    The folder ``parent/name-hash``.

  Raises:
    ValueError: if the folder is not that of a run, is damaged, or belongs to
      another configuration. It is left untouched.

  Example:
    >>> import dataclasses, tempfile
    >>> from lthjax import checkpoints
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   steps: int = 100
    >>> with tempfile.TemporaryDirectory() as parent:
    ...   folder = checkpoints.open_run(parent, 'mnist', Config())
    ...   print((folder / 'config.json').read_text())
    {
      "steps": 100
    }
    <BLANKLINE>
  """
  folder = Path(parent).absolute() / f'{name}-{config_hash(config)}'
  if not folder.exists():
    with _temporary(folder) as temporary:
      written = temporary / folder.name
      written.mkdir()
      text = json.dumps(_fields(config), indent=2)
      (written / 'config.json').write_text(text + '\n', encoding='utf-8')
      os.rename(written, folder)
  try:
    found = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    if not isinstance(found, dict):
      raise ValueError(f'it holds a {type(found).__name__}')
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{folder} exists, but is not the folder of a run: its config.json'
      f' cannot be read ({error}). It is left untouched; move it away or'
      ' choose another folder.'
    ) from error
  written = {**_fields(type(config)()), **found}
  wanted = _fields(config)
  if written != wanted:
    differ = [
      f'{k}: {written.get(k)!r} there, {wanted.get(k)!r} here'
      for k in sorted(written.keys() | wanted.keys())
      if written.get(k) != wanted.get(k)
    ]
    raise ValueError(
      f'{folder} was written by another configuration ({"; ".join(differ)}).'
      ' It is left untouched; move it away or choose another folder.'
    )
  return folder


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file atomically, in UTF-8.

  Args:
    path: the file, which is replaced if it exists.
    text: what it shall hold.

  Raises:
    OSError: if it cannot be written; an earlier file stays as it was.

  Example:
    >>> import pathlib, tempfile
    >>> from lthjax import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.write_text(f'{folder}/a.txt', 'hello')
    ...   pathlib.Path(folder, 'a.txt').read_text()
    'hello'
  """
  path = Path(path).absolute()
  with _temporary(path) as folder:
    written = folder / path.name
    written.write_text(text, encoding='utf-8', newline='')
    os.replace(written, path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
  """A hidden folder beside the path; removes those of killed processes."""
  path.parent.mkdir(parents=True, exist_ok=True)
  prefix = f'.{path.name}.tmp-'
  for stale in path.parent.iterdir():
    if stale.name.startswith(prefix):
      shutil.rmtree(stale, ignore_errors=True)
  folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def _fields(config: Any) -> dict[str, Any]:
  """The fields that count, as JSON would give them back."""
  values = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
    if field.compare
  }
  return json.loads(json.dumps(values))


def _abstract(x: Any) -> Any:
  """Shape, dtype and place of an array."""
  place = getattr(x, 'sharding', None)
  if place is None:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(
    jnp.shape(x), jax.dtypes.result_type(x), sharding=place
  )


def _commit_like(like: Any, x: jax.Array) -> jax.Array:
  """Frees an array from its device unless its place was asked for.

  A program is compiled anew for each mixture of committed arrays and others.
  """
  asked = isinstance(like, jax.ShapeDtypeStruct) and like.sharding is not None
  if asked or getattr(like, 'committed', False):
    return x
  place = contextlib.nullcontext()
  if isinstance(like, jax.Array):  # It may be on another than the default.
    place = jax.default_device(next(iter(like.devices())))
  with place:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      data = jnp.asarray(np.asarray(jax.random.key_data(x)))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.asarray(np.asarray(x))


def _first_line(error: Exception) -> str:
  return str(error).partition('\n')[0].rstrip('.:')


def _describe(tree: chex.ArrayTree) -> dict[str, str]:
  """Shape and dtype of every leaf, such as ``float32[3, 2]``."""
  return {
    name: 'None' if x is None else f'{x.dtype}{list(x.shape)}'
    for name, x in trees.by_name(tree).items()
  }


def _digests(folder: Path) -> str:
  """SHA-256 of all files, as ``sha256sum`` writes it."""
  files = sorted(x for x in folder.rglob('*') if x.is_file())
  return ''.join(
    f'{hashlib.sha256(x.read_bytes()).hexdigest()}  {x.relative_to(folder)}\n'
    for x in files
    if x != folder / _DIGESTS
  )


def _read_header(path: Path) -> dict[str, Any]:
  """What a checkpoint holds, once it is known to be whole."""
  if not path.exists():
    raise FileNotFoundError(f'There is no checkpoint at {path}.')
  try:
    expected = (path / _DIGESTS).read_text(encoding='utf-8')
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} is not a checkpoint that `lthjax.checkpoints.save` wrote: its'
      f' {_DIGESTS} cannot be read ({error}). It is left untouched.'
    ) from error
  changed = set(expected.splitlines()) ^ set(_digests(path).splitlines())
  if changed:
    files = sorted({line.partition('  ')[2] for line in changed})
    raise ValueError(
      f'The checkpoint {path} is damaged: {", ".join(files)} changed since it'
      ' was written. It is left untouched; move it away to start anew.'
    )
  header: Any = ocp.metadata(os.fspath(path)).custom_metadata
  return header
