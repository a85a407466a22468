"""Trainings that stop at SIGTERM, and go on there with the same bits."""

import contextlib
import contextvars
import hashlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import lthjax as lth
from lthjax.training import TrainState

FOLDER = 'interrupted'  # below that of the run


class Terminated(Exception):
  """SIGTERM has come, and everything is saved."""


class Store(Protocol):
  """What keeps a state; see `common.grid.Store`."""

  @property
  def folder(self) -> Any: ...

  def save(self, name: str, tree: Any, result: Any = None) -> None: ...
  def read(self, name: str) -> Any: ...
  def load(self, name: str, like: Any) -> Any: ...


class _Cell(NamedTuple):
  """The cell that is being trained."""

  store: Store
  name: str
  stop: Callable[[int], bool]


_cell: contextvars.ContextVar[_Cell | None] = contextvars.ContextVar(
  'cell', default=None
)


@contextlib.contextmanager
def saved(
  store: Store, name: str, stop: Callable[[int], bool]
) -> Iterator[None]:
  """Has trainings of a cell saved when it is time to stop."""
  token = _cell.set(_Cell(store, name, stop))
  try:
    yield
  finally:
    _cell.reset(token)


def forget(store: Store) -> None:
  """Removes what was saved, once its cell is done."""
  shutil.rmtree(store.folder / FOLDER, ignore_errors=True)


def trainer(*args: Any, **options: Any) -> lth.Trainer:
  """`lthjax.trainer`, whose trainings go on where they were interrupted."""
  made = lth.trainer(*args, **options)

  def fit(state, data, *, until, report=None):
    if (cell := _cell.get()) is None:
      return made.fit(state, data, until=until, report=report)
    return _fit(cell, made.fit, state, data, until, report)

  return made._replace(fit=fit)


def _fit(
  cell: _Cell,
  fit: Callable[..., TrainState],
  start: TrainState,
  data: Any,
  until: int,
  report: Callable[..., None] | None,
) -> TrainState:
  """Trains, from where an earlier process was told to stop."""
  said: list[tuple[int, dict[str, Any]]] = []
  show = report or (lambda step, metrics: None)
  state = start
  if name := _newest(
    cell.store, lambda: _digest(cell.name, start, data, until)
  ):
    state = cell.store.load(name, start)
    said = cell.store.read(name)['said']
    for step, metrics in said:
      show(step, {key: np.asarray(*x) for key, x in metrics.items()})

  def save(state):
    digest = _digest(cell.name, start, data, until)
    name = f'{FOLDER}/{digest}-{int(state.step):09d}'
    cell.store.save(name, state, {'said': said})

  if cell.stop(int(state.step)):  # As `fit` does not ask at its last step.
    if state is start:  # Others are saved already.
      save(state)
    raise Terminated

  def tell(step, metrics):
    plain = {key: (x.tolist(), str(x.dtype)) for key, x in metrics.items()}
    said.append((int(step), plain))
    show(step, metrics)

  state = fit(state, data, until=until, report=report and tell, stop=cell.stop)
  if int(state.step) < until:
    save(state)
    raise Terminated
  return state


def _newest(store: Store, digest: Callable[[], str]) -> str | None:
  """The latest of what is saved of a training, if anything is."""
  folder = store.folder / FOLDER
  if not folder.is_dir():
    return None
  found = sorted(x.name for x in folder.glob(f'{digest()}-*'))
  return f'{FOLDER}/{found[-1]}' if found else None


def _digest(name: str, *trees: Any) -> str:
  """Names a training by its cell, and by all that it starts from."""
  found = hashlib.sha256(name.encode())
  for path, x in jax.tree_util.tree_leaves_with_path(trees):
    if hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    x = np.asarray(x)
    head = f'{jax.tree_util.keystr(path)} {x.dtype} {x.shape}'
    found.update(head.encode() + x.tobytes())
  return found.hexdigest()[:16]
