"""Checks of options, before anything is trained or written."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from common import texts


def finite(config: Any, *names: str) -> None:
  """Refuses infinite numbers, and what is not a number."""
  for name in names:
    values = listed(getattr(config, name))
    numbers = [x for x in values if isinstance(x, float)]
    if wrong := [x for x in numbers if not math.isfinite(x)]:
      raise ValueError(f'{name} had {wrong[0]}, but must be a finite number.')


def at_least(config: Any, **least: int) -> None:
  """Refuses options that are too small; those that are `None` are fine."""
  for name, smallest in least.items():
    value = getattr(config, name)
    if value is not None and value < smallest:
      raise ValueError(f'{name} was {value}, but must be at least {smallest}.')


def above_zero(config: Any, *names: str) -> None:
  """Refuses options that are not positive."""
  for name in names:
    values = getattr(config, name)
    had = 'had' if isinstance(values, tuple) else 'was'
    if wrong := [x for x in listed(values) if x <= 0]:
      raise ValueError(f'{name} {had} {wrong[0]}, but must be above 0.')


def between_0_and_1(config: Any, *names: str, because: str = '') -> None:
  """Refuses shares of nothing, of everything, and of more."""
  for name in names:
    values = getattr(config, name)
    had = 'had' if isinstance(values, tuple) else 'was'
    if wrong := [x for x in listed(values) if not 0 < x < 1]:
      raise ValueError(
        f'{name} {had} {wrong[0]}, but must be between 0 and 1{because}.'
      )


def compressions(config: Any, name: str = 'ratios') -> None:
  """Refuses ratios of compression that leave all weights, and repeated ones."""
  each_once(config, name)
  if wrong := [ratio for ratio in getattr(config, name) if not ratio > 1]:
    raise ValueError(
      f'{name} had {wrong[0]}, but must be above 1: 10 leaves a tenth of the'
      ' weights. The dense network is always trained.'
    )


def each_once(config: Any, *names: str, none: bool = False) -> None:
  """Refuses options that repeat a value, or that lack one and need it."""
  for name in names:
    values = getattr(config, name)
    if not (values or none) or len(set(values)) < len(values):
      raise ValueError(
        f'{name} were {" ".join(map(str, values)) or "none"}, but must be'
        f' {"none" if none else "one"} or more, each of them once.'
      )


def rewindable(config: Any, name: str) -> None:
  """Refuses steps to rewind to that leave nothing to train."""
  value = getattr(config, name)
  had = 'had' if isinstance(value, tuple) else 'was'
  if wrong := [k for k in listed(value) if not 0 <= k < config.steps]:
    raise ValueError(
      f'{name} {had} {wrong[0]}, but must be from 0 to {config.steps - 1}:'
      f' training ends at step {config.steps}.'
    )


def reads(config: Any) -> None:
  """Refuses decoders of images, and other networks of texts."""
  text = config.dataset in get_args(texts.TextName)
  if text != (config.model == 'decoder'):
    raise ValueError(
      f'dataset was {config.dataset}, but model {config.model}. A decoder reads'
      f' a text ({", ".join(get_args(texts.TextName))}), and all others images.'
    )


def listed(value: Any) -> Sequence[Any]:
  """The values of an option, which may be one."""
  return value if isinstance(value, tuple) else (value,)


@contextlib.contextmanager
def blaming(option: str) -> Iterator[None]:
  """Names the option that an error comes from."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{option}: {error}') from error
