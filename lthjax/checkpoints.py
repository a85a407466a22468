"""Checkpoints of states and tickets: whole or absent, and checked when read.

A checkpoint is written under another name, read back, and renamed: a killed
process or a full disk leaves the last good one as it was. Each lists digests of
its files (``sha256sum -c SHA256SUMS``), and shapes and dtypes of its leaves.
"""

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from lthjax import _checks, _storable, files, trees
from lthjax import masks as masks_lib
from lthjax._errors import differences, refuse
from lthjax._logging import quiet
from lthjax.tickets import Ticket

DIGESTS = 'SHA256SUMS'
_CUSTOM = '_CHECKPOINT_METADATA'  # orbax's file
_STATE, _DATA = 'state', 'data'  # folders of a checkpoint
_PATTERN = '[]*?'  # Orbax looks files up by patterns.
_TICKET = 'masks start trained', 'a `lthjax.tickets.Ticket`'


def save(
  path: str | os.PathLike[str],
  tree: chex.ArrayTree,
  metadata: dict[str, Any] | None = None,
  *,
  data: Any = None,
) -> None:
  """Writes a tree of arrays as an orbax checkpoint, atomically.

  With several processes, all of them call it with the same path.

  Args:
    path: folder to create; its parents are made as well.
    tree: tree of arrays, random keys and `None`.
    metadata: anything that JSON can hold, to be kept beside the arrays; scalars
      of NumPy and JAX are numbers, and paths are strings.
    data: iterator of a `grain.IterDataset`, of which its place is written.

  Raises:
    FileExistsError: if the path exists; nothing is overwritten.
    OSError: if it cannot be written. The disk is left as it was.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save(f'{folder}/state', {'w': jnp.ones(2)}, {'step': 3})
    ...   checkpoints.read_metadata(f'{folder}/state')
    {'step': 3}
  """
  path = files.local_path(path)
  check_path(path)
  if path.exists():
    raise FileExistsError(
      f'{path} exists already, and checkpoints are never overwritten. Choose'
      ' another path, or remove it first.'
    )
  _storable.check_leaves(tree)
  tree = jax.tree.map(jnp.asarray, tree)  # With the same values, as checked.
  parts = {_STATE: tree, **_as_part(data)}
  header = {
    'leaves': _describe(tree),
    'metadata': _storable.plain({} if metadata is None else metadata) or {},
  }
  token = _agree_on(secrets.token_hex(8))
  try:
    with files.temporary_folder(path, token) as folder, quiet():
      written = folder / path.name
      ocp.save_checkpointables(
        os.fspath(written), parts, custom_metadata=header
      )
      _wait_for_all(f'written {path}')
      if jax.process_index() == 0:
        files.write_text(written / DIGESTS, digests(written))
        # What cannot be read was not written.
        _read_header(written)
        ocp.metadata(os.fspath(written))
        files.rename_folder(written, path)
      _wait_for_all(f'renamed {path}')
  except FileExistsError:
    raise
  except Exception as error:  # Orbax has a ValueError for a full disk.
    reason = str(error).partition('\n')[0].rstrip('.:')
    raise OSError(
      f'Could not write the checkpoint {path}: {reason}.'
      ' Nothing was changed: earlier checkpoints are as they were.'
    ) from error


def load(
  path: str | os.PathLike[str], like: chex.ArrayTree, *, data: Any = None
) -> Any:
  """Reads a checkpoint into the structure of another tree.

  Args:
    path: what `save` wrote.
    like: tree of arrays or of `jax.ShapeDtypeStruct`, such as
      ``jax.eval_shape(make_state)``. Its structure, shapes and dtypes are
      required; arrays are placed on its devices, and are committed to them only
      where its own are.
    data: iterator of the dataset that was saved; it is put to the place where
      it was then, and its next batch is the one that came next.

  Returns:
    The tree, to the bit as it was saved.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: if it is not a checkpoint, is damaged, or holds another tree.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save(f'{folder}/state', {'w': jnp.ones(2)})
    ...   checkpoints.load(f'{folder}/state', like={'w': jnp.zeros(2)})
    {'w': Array([1., 1.], dtype=float32)}
  """
  path, part = files.local_path(path), _as_part(data)
  table = trees.prunable(like)
  refuse(
    [
      f'{name or "it"} is {_checks.describe(x)}'
      for name, x in table.items()
      if not hasattr(x, 'dtype')
      and not isinstance(x, bool | int | float | complex)
    ],
    '`like` must be a tree of arrays or `jax.ShapeDtypeStruct`, but {}.',
    TypeError,
  )
  if jax.process_count() > 1:
    refuse(
      [n for n, x in table.items() if getattr(x, 'sharding', None) is None],
      'With several processes, all leaves of `like` need a sharding, but {} has'
      ' none. Pass arrays, or `jax.ShapeDtypeStruct(..., sharding=...)`.',
    )
  target = jax.tree.map(_abstract, like)
  refuse(
    differences(_read_header(path)['leaves'], _describe(target), 'in `like`'),
    f'The checkpoint {path} holds another tree: {{}}. Load it into the'
    ' structure it was saved from.',
  )
  try:
    tree = ocp.load(os.fspath(path), target)
  except ValueError as error:  # The leaves are the same, as checked above.
    raise ValueError(
      f'The checkpoint {path} holds another tree: containers without leaves'
      ' differ. Load it into the structure it was saved from.'
    ) from error
  if part:
    _load_data(path, part)
  return jax.tree.map(_commit_like, like, tree)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads what was saved beside the arrays, or raises what `load` raises.

  Returns:
    The dict given to `save`, or an empty one.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save(f'{folder}/state', jnp.ones(2), {'level': 1})
    ...   checkpoints.read_metadata(f'{folder}/state')
    {'level': 1}
  """
  return _read_header(files.local_path(path))['metadata']


def save_ticket(path: str | os.PathLike[str], ticket: Ticket) -> None:
  """Writes a ticket: masks at one bit per weight, both states, and metrics.

  Raises what `save` raises.

  Args:
    path: folder to create.
    ticket: what `lthjax.tickets.imp` yields. Its metrics must be something that
      JSON can hold. States may be left out by ``ticket._replace(start=None)``.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> from lthjax import checkpoints
    >>> from lthjax.tickets import Ticket
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> ticket = Ticket(1, 0.5, masks, None, {'w': jnp.ones((1, 2))}, 0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints.save_ticket(f'{folder}/1', ticket)
    ...   checkpoints.load_ticket(f'{folder}/1', like=ticket).metrics
    0.9
  """
  _checks.having('ticket', ticket, *_TICKET)
  arrays = {
    'masks': masks_lib.pack(ticket.masks),
    'start': ticket.start,
    'trained': ticket.trained,
  }
  scalars = ('level', 'density', 'metrics')
  save(path, arrays, {name: getattr(ticket, name) for name in scalars})


def load_ticket(path: str | os.PathLike[str], like: Ticket) -> Ticket:
  """Reads a ticket, or raises what `load` raises.

  Args:
    path: what `save_ticket` wrote.
    like: a ticket whose masks and states have the right structure and shapes,
      as arrays or `jax.ShapeDtypeStruct`.

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
  _checks.having('like', like, *_TICKET)
  _checks.bool_masks(like.masks, 'like.masks', shapes=True)
  packed = jax.eval_shape(
    lambda: masks_lib.pack(
      jax.tree.map(lambda m: jnp.zeros(m.shape, bool), like.masks)
    )
  )
  target = {'masks': packed, 'start': like.start, 'trained': like.trained}
  arrays = load(path, target)
  scalars = read_metadata(path)
  refuse(
    sorted({'level', 'density', 'metrics'} - set(scalars)),
    f'{path} is a checkpoint but not a ticket: it has no {{}}. Read it with'
    ' `load`.',
  )
  return Ticket(
    scalars['level'],
    scalars['density'],
    masks_lib.unpack(arrays['masks'], like.masks),
    arrays['start'],
    arrays['trained'],
    scalars['metrics'],
  )


def check_path(path: str | os.PathLike[str]) -> None:
  """Raises if checkpoints could be written to a path, but not read again."""
  refuse(
    sorted({*os.fspath(path)} & {*_PATTERN}),
    f'{path} has {{}} in its name, which orbax takes for patterns: a checkpoint'
    ' there could not be read again. Choose another path.',
  )


def _as_part(data: Any) -> dict[str, Any]:
  """Returns the iterator as a part of a checkpoint, if there is one."""
  if data is None:
    return {}
  what = 'an iterator of a `grain.IterDataset`, or None'
  return {_DATA: _checks.having('data', data, 'save load get_state', what)}


def _load_data(path: Path, part: dict[str, Any]) -> None:
  """Puts an iterator to its place; every process has one of its own."""
  if not (path / _DATA).is_dir():
    raise ValueError(
      f'The checkpoint {path} holds no place for `data`. Save it with `data=`;'
      ' or leave `data` out.'
    )
  try:
    ocp.load_checkpointables(os.fspath(path), part)
  except Exception as error:  # whatever the iterator thinks of another's state
    raise ValueError(
      f'The place for `data` in the checkpoint {path} does not fit'
      f' ({error.__cause__ or error}). Load it in as many processes, into an'
      ' iterator of the same data; or leave `data` out.'
    ) from error


def _agree_on(token: str) -> str | None:
  """Returns the token of the first process; `None` if there is only one."""
  if jax.process_count() == 1:
    return None
  mine = np.frombuffer(bytes.fromhex(token), np.uint8)
  agreed = multihost_utils.broadcast_one_to_all(mine)
  return np.asarray(agreed, np.uint8).tobytes().hex()


def _wait_for_all(what: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def _abstract(x: Any) -> Any:
  """Returns shape, dtype and place of an array."""
  place = getattr(x, 'sharding', None)
  if place is None:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(
    jnp.shape(x), jax.dtypes.result_type(x), sharding=place
  )


def _commit_like(like: Any, x: jax.Array) -> jax.Array:
  """Frees an array from its device unless its place was asked for."""
  # Each mixture of committed and other arrays compiles a program again. So does
  # `jnp.asarray` for each shape; `device_put` copies.
  asked = trees.is_abstract(like) and like.sharding is not None
  if asked or getattr(like, 'committed', False):
    return x
  place = contextlib.nullcontext()
  if isinstance(like, jax.Array):  # It may be on another than the default.
    place = jax.default_device(next(iter(like.devices())))
  with place:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      data = jax.device_put(np.asarray(jax.random.key_data(x)))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jax.device_put(np.asarray(x))


def _describe(tree: chex.ArrayTree) -> dict[str, str]:
  """Returns shape and dtype of every leaf, such as ``float32[3, 2]``."""
  return {
    name: 'None' if x is None else f'{x.dtype}{list(x.shape)}'
    for name, x in trees.by_name(tree).items()
  }


def digests(folder: Path) -> str:
  """Returns SHA-256 of all files, as ``sha256sum`` writes it."""
  found = sorted(x for x in folder.rglob('*') if x.is_file())
  return ''.join(
    f'{hashlib.sha256(x.read_bytes()).hexdigest()}  {x.relative_to(folder)}\n'
    for x in found
    if x != folder / DIGESTS
  )


def _read_header(path: Path) -> dict[str, Any]:
  """Returns what a checkpoint holds, once it is known to be whole."""
  if not path.exists():
    raise FileNotFoundError(f'There is no checkpoint at {path}.')
  try:
    expected = (path / DIGESTS).read_text(encoding='utf-8')
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} is not a checkpoint that `lthjax.checkpoints.save` wrote: its'
      f' {DIGESTS} cannot be read ({error}). It is left untouched.'
    ) from error
  changed = set(expected.splitlines()) ^ set(digests(path).splitlines())
  refuse(
    sorted({line.partition('  ')[2] for line in changed}),
    f'The checkpoint {path} is damaged: {{}} changed since it was written. It'
    ' is left untouched; move it away to start again.',
  )
  header = _custom_metadata(path)
  parts = [header.get(key) for key in ('leaves', 'metadata')] if header else []
  if not parts or not all(isinstance(part, dict) for part in parts):
    raise ValueError(
      f'{path} is a checkpoint, but not one that `lthjax.checkpoints.save`'
      ' wrote: it does not list its leaves.'
    )
  return header


def _custom_metadata(path: Path) -> Any:
  """Returns what orbax keeps beside the arrays, without reading about them."""
  try:
    return json.loads((path / _CUSTOM).read_bytes())['custom_metadata']
  except (OSError, ValueError, LookupError, TypeError):  # of another orbax
    return ocp.metadata(os.fspath(path)).custom_metadata
