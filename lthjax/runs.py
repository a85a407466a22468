"""Folders of runs: named by configuration, found again, one process each.

And what several processes need to work in one: how they find each other, and
the signal that ends a run on a machine that is wanted back.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lthjax import _checks, files
from lthjax._errors import differences, item, refuse


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
    >>> from lthjax import runs
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   steps: int = 100
    >>> runs.config_hash(Config(7)) == runs.config_hash(Config(8))
    False
  """
  _check_dataclass(config)
  defaults = _fields(type(config)())
  # As text: 1, 1.0 and True are equal in Python, but different settings.
  changed = {
    name: value
    for name, value in sorted(_fields(config).items())
    if json.dumps(value) != json.dumps(defaults[name])
  }
  text = json.dumps(changed)  # The order inside a nested dict counts.
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def open_run(parent: str | os.PathLike[str], name: str, config: Any) -> Path:
  """Creates the folder of a run, or finds it again.

  With several processes, all of them call it.

  Args:
    parent: folder of all runs; ``~`` is expanded.
    name: what the run is called; the hash of the configuration is added.
    config: a dataclass instance, written as ``config.json``.

  Returns:
    The folder ``parent/name-hash``.

  Raises:
    ValueError: if the folder is not that of a run, is damaged, or belongs to
      another configuration; it is left untouched. Or if the processes of one
      job have different configurations.

  Example:
    >>> import dataclasses, tempfile
    >>> from lthjax import runs
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   steps: int = 100
    >>> with tempfile.TemporaryDirectory() as parent:
    ...   folder = runs.open_run(parent, 'mnist', Config())
    ...   print((folder / 'config.json').read_text())
    {
      "steps": 100
    }
    <BLANKLINE>
  """
  if (
    not isinstance(name, str)
    or not name
    or name in ('.', '..')
    or {*name} & {*'/\\\0'}
  ):
    raise ValueError(
      f'`name` was {name!r}, but must be the name of one folder, without'
      ' slashes. The folder that it goes into is `parent`.'
    )
  folder = files.local_path(parent) / f'{name}-{config_hash(config)}'
  _check_alike(config)
  if not folder.exists():
    text = json.dumps(_fields(config), indent=2) + '\n'
    with files.temporary_folder(folder) as temporary:
      written = temporary / folder.name
      written.mkdir()
      (written / 'config.json').write_text(text, encoding='utf-8')
      with contextlib.suppress(OSError):  # Another process was faster.
        os.rename(written, folder)
  _check_config(folder, config)
  return folder


@contextlib.contextmanager
def only_process(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Holds the folder of a run, so that no second process trains in it.

  The lock goes with the process, however that ends. The processes of one job
  share it: the first one holds the folder for all.

  Raises:
    RuntimeError: if another job holds it, naming its process.

  Example:
    >>> import tempfile
    >>> from lthjax import runs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with runs.only_process(folder):
    ...     print('training')
    training
  """
  folder, error = files.local_path(folder), None
  with contextlib.ExitStack() as stack:
    if not jax.distributed.is_initialized() or jax.process_index() == 0:
      try:
        stack.enter_context(files.only_process(folder))
      except (RuntimeError, OSError) as found:
        error = found
    if any(_from_all(np.int32(error is not None))):
      raise error or RuntimeError(
        f'The first process cannot hold {folder}, and says why.'
      )
    yield


def connect(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  *,
  timeout: int = 60,
  silence: int = 30,
) -> None:
  """Finds the other processes of a job, before anything touches a device.

  `jax.distributed.initialize`, but a process that is told where process 0
  listens, and that gets no answer there, raises. The runtime of JAX ends a
  process 0 that waits in vain, and all that find their place by themselves. It
  needs no arguments under Slurm, Open MPI and Kubernetes, and on TPU slices.

  Args:
    coordinator: where process 0 listens, such as ``'10.0.0.2:1234'``.
    processes: how many there are.
    process: which one this is, from 0.
    timeout: seconds to wait for the others.
    silence: seconds without a sign of life after which a process counts as
      dead, which ends all others.

  Raises:
    OSError: if the processes did not find each other.

  Example:
    >>> from lthjax import runs
    >>> runs.connect('localhost:1', processes=2, process=1, timeout=1)
    Traceback (most recent call last):
    OSError: The processes did not find each other: ...
  """
  if coordinator is not None:
    _checks.text('coordinator', coordinator)
    if not coordinator.rpartition(':')[2].isdecimal():
      raise ValueError(
        f'`coordinator` was {coordinator!r}, but must end with a port, as in'
        " '10.0.0.2:1234'."
      )
  if processes is not None:
    processes = _checks.at_least('processes', processes, 1)
  if process is not None:
    process = _checks.at_least('process', process, 0)
  timeout = _checks.at_least('timeout', timeout, 1)
  silence = _checks.at_least('silence', silence, 1)
  place = coordinator, processes, process
  try:
    if coordinator and process:
      _reach(coordinator, timeout)
    jax.distributed.initialize(
      *place,
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=silence,
    )
  except (RuntimeError, ValueError, OSError) as error:
    raise OSError(
      f'The processes did not find each other: {error}. Start all of them'
      f' within {timeout} seconds, under Slurm, Open MPI, Kubernetes or on a'
      ' TPU slice; or say where process 0 listens, how many there are, and'
      ' which one this is.'
    ) from error


def _reach(coordinator: str, timeout: int) -> None:
  """Waits until process 0 listens; the runtime of JAX would abort."""
  host, _, port = coordinator.rpartition(':')
  until = time.monotonic() + timeout
  while True:
    try:
      address = host.strip('[]'), int(port)  # brackets of IPv6
      socket.create_connection(address, timeout=timeout).close()
      return
    except OSError:
      if time.monotonic() > until:
        raise
    time.sleep(0.2)


@contextlib.contextmanager
def termination() -> Iterator[Callable[[int], bool]]:
  """Makes of SIGTERM an answer to whether training should stop.

  Schedulers and preempted machines send it some time before they kill. A second
  one ends the process at once. With several processes, the runtime of JAX tells
  all of them, whichever got it, and all stop at the same step.

  Returns:
    A context that gives ``stop(step)``, for `lthjax.Trainer.fit`. All processes
    must call it equally often.

  Raises:
    RuntimeError: in a thread, where signals cannot be received.

  Example:
    >>> import os, signal
    >>> from lthjax import runs
    >>> with runs.termination() as stop:
    ...   print(stop(100))
    ...   os.kill(os.getpid(), signal.SIGTERM)
    ...   print(stop(200))  # Now save, and exit with 0.
    False
    True
  """
  if jax.distributed.is_initialized():
    from jax.experimental import multihost_utils

    # It counts calls: the step at which to stop is the one after all others.
    calls = itertools.count()
    yield lambda step: multihost_utils.reached_preemption_sync_point(
      next(calls)
    )
    return
  if threading.current_thread() is not threading.main_thread():
    raise RuntimeError(
      'Only the main thread receives signals: open `termination` there, and'
      ' hand what it gives to the thread that trains.'
    )
  told = []

  def note(number, frame):
    told.append(number)
    signal.signal(number, before)

  before = signal.signal(signal.SIGTERM, note) or signal.SIG_DFL
  try:
    yield lambda step: bool(told)
  finally:
    signal.signal(signal.SIGTERM, before)


def _check_alike(config: Any) -> None:
  """Raises unless all processes of a job have the same configuration."""
  mine = np.frombuffer(bytes.fromhex(config_hash(config)), np.uint8)
  found = [np.asarray(x).tobytes().hex() for x in _from_all(mine)]
  if len({*found}) > 1:
    raise ValueError(
      'The processes of this job have different configurations, with the hashes'
      f' {", ".join(found)}. Start all of them with the same options.'
    )


def _from_all(x: np.ndarray | np.generic) -> list[Any]:
  """Returns a value of each process of the job."""
  if not jax.distributed.is_initialized():
    return [x]
  from jax.experimental import multihost_utils

  return list(np.atleast_1d(multihost_utils.process_allgather(x)))


def _check_dataclass(config: Any) -> None:
  if isinstance(config, type) or not dataclasses.is_dataclass(config):
    raise TypeError(
      f'`config` was {config!r}, but must be a dataclass instance.'
    )
  refuse(
    [
      field.name
      for field in dataclasses.fields(config)
      if field.init
      and field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    ],
    'All fields of `config` need defaults, from which the name of a run is'
    ' made, but {} came without. Add one, such as `steps: int = 100`.',
  )


def _check_config(folder: Path, config: Any) -> None:
  """Raises unless a folder belongs to a run with this configuration."""
  try:
    found = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    if not isinstance(found, dict):
      raise ValueError(f'it holds a {type(found).__name__}')
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(
      f'{folder} exists, but is not the folder of a run: its config.json'
      f' cannot be read ({error}). It is left untouched; move it away or'
      ' choose another folder.'
    ) from error
  # Fields that were added later have their defaults in older folders.
  written, wanted = {**_fields(type(config)()), **found}, _fields(config)
  refuse(
    differences(
      {k: repr(x) for k, x in written.items() if x != wanted.get(k, ...)},
      {k: repr(x) for k, x in wanted.items() if x != written.get(k, ...)},
    ),
    f'{folder} was written by another configuration ({{}}). It is left'
    ' untouched; move it away or choose another folder.',
  )


def _fields(config: Any) -> dict[str, Any]:
  """Returns the fields that count, as JSON would give them back."""
  values = {}
  for field in dataclasses.fields(config):
    if not field.compare:
      continue
    value = getattr(config, field.name)
    refuse(
      map(repr, _other_keys(value)),
      f'The field {field.name!r} of the configuration has the key {{}}, which'
      ' JSON would turn into a string. Use strings as keys.',
      TypeError,
    )
    try:
      values[field.name] = json.loads(json.dumps(value, default=_plain))
    except TypeError as error:
      raise TypeError(
        f'The field {field.name!r} of the configuration cannot be written as'
        f' JSON: {error}. Use numbers, strings, paths, lists and dicts.'
      ) from None
  return values


def _other_keys(value: Any) -> Iterator[Any]:
  """Lists the keys of nested dicts that are not strings."""
  if isinstance(value, dict):
    yield from (key for key in value if not isinstance(key, str))
    value = value.values()
  elif not isinstance(value, list | tuple):
    return
  for x in value:
    yield from _other_keys(x)


def _plain(value: Any) -> Any:
  """Returns paths as strings, and scalars of NumPy and JAX as numbers."""
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if (number := item(value)) is not value:
    return number
  raise TypeError(f'{value!r} is a {type(value).__name__}')
