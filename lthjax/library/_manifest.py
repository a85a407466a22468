"""What a ticket is: a canonical text whose hash is the ticket's key."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lthjax import _checks, _storable, runs
from lthjax._errors import refuse
from lthjax.library import _format

FORMAT = 'lthjax-ticket-1'
PARTS = ('trained', 'start', 'model_state')
_KEY = re.compile(r'[0-9a-f]{64}')
_TEXTS = ('format', 'version', 'domain', 'license', 'git')
_FIELDS = {
  *(
    *_TEXTS,
    'parent',
    'level',
    'density',
    'rewind_step',
    'config',
    'data',
    'seeds',
  ),
  *('metrics', 'controls', 'notes', 'masks', 'parts'),
}


def is_key(x: Any) -> bool:
  """Returns whether something is the key of a ticket."""
  return isinstance(x, str) and _KEY.fullmatch(x) is not None


def values(name: str, x: Any) -> Any:
  """Returns numbers, texts, lists and dicts of them, as JSON gives them back.

  NamedTuples and dataclasses become dicts, and arrays lists.
  """
  found = _storable.plain(_simple(x), name)
  refuse(
    _not_finite(found, name),
    '{} is not finite, which JSON cannot hold. Leave it out, or write it as'
    ' text.',
  )
  return found


def config(x: Any) -> Any:
  """Returns a configuration, a dataclass or a dict, with its hash."""
  if x is None:
    return None
  found = values('config', x)
  if not isinstance(found, dict):
    raise _checks.wrong_type('config', x, 'be a dataclass instance or a dict')
  if dataclasses.is_dataclass(x):
    try:
      return {'hash': runs.config_hash(x), 'values': found}
    except TypeError:  # Not all of its fields have defaults.
      pass
  return {'hash': _format.sha256(_format.canonical(found))[:8], 'values': found}


def _simple(x: Any) -> Any:
  if dataclasses.is_dataclass(x) and not isinstance(x, type):
    return {f.name: _simple(getattr(x, f.name)) for f in dataclasses.fields(x)}
  as_dict = getattr(x, '_asdict', None)
  if callable(as_dict) and not isinstance(x, type):
    x = as_dict()
  if isinstance(x, Mapping):
    return {name: _simple(value) for name, value in x.items()}
  if isinstance(x, list | tuple):
    return [_simple(value) for value in x]
  shape = getattr(x, 'shape', ())
  if shape and hasattr(x, 'tolist') and math.prod(shape) <= 1000:
    return np.asarray(x).tolist()
  return x


def _not_finite(x: Any, name: str) -> Iterator[str]:
  if isinstance(x, dict):
    for key, value in x.items():
      yield from _not_finite(value, f'{name}[{key!r}]')
  elif isinstance(x, list):
    for i, value in enumerate(x):
      yield from _not_finite(value, f'{name}[{i}]')
  elif isinstance(x, float) and not math.isfinite(x):
    yield name


def parse(text: str, key: str) -> dict[str, Any]:
  """Returns a manifest once it is known to be sound, or raises `ValueError`.

  Sizes are only numbers here: nothing is allocated for them.
  """
  if _format.sha256(text) != key:
    raise ValueError('its manifest does not have the hash that it is named by')
  manifest = json.loads(text)
  if not isinstance(manifest, dict) or manifest.keys() != _FIELDS:
    raise ValueError('its manifest has other fields')
  if _format.canonical(manifest) != text:
    raise ValueError('its manifest is not in canonical form')
  if manifest['format'] != FORMAT:
    raise ValueError(f'its format is not {FORMAT}')
  for field in _TEXTS:
    if not isinstance(manifest[field], str):
      raise ValueError(f'{field} is not a text')
  if not (manifest['parent'] is None or is_key(manifest['parent'])):
    raise ValueError(
      f'its parent is {_checks.spell(manifest["parent"])}, which is not a key'
    )
  _check_numbers(manifest)
  masks, parts = manifest['masks'], manifest['parts']
  if not isinstance(masks, dict) or not isinstance(parts, dict):
    raise ValueError('its masks or its parts are not a table')
  if not parts.keys() <= set(PARTS):
    raise ValueError(f'its parts are {", ".join(parts)}')
  for name, mask in masks.items():
    if mask is not None:
      size = _check_leaf(name, mask, {'shape', 'sha256', 'alive'})
      if type(mask['alive']) is not int or not 0 <= mask['alive'] <= size:
        raise ValueError(f'{name} has {mask["alive"]} of {size} weights alive')
  for part, leaves in parts.items():
    _check_part(part, leaves, masks)
  return manifest


def _check_numbers(manifest: Mapping[str, Any]) -> None:
  """Raises if fields are not of the types that a list and a card show."""
  sound = {
    'level': type(manifest['level']) is int and manifest['level'] >= 0,
    'density': type(manifest['density']) in (int, float)
    and 0 <= manifest['density'] <= 1,
    'rewind_step': type(manifest['rewind_step']) in (int, type(None)),
    'seeds': isinstance(manifest['seeds'], list)
    and all(type(seed) is int for seed in manifest['seeds']),
  }
  refuse(
    [f'{field} {manifest[field]!r}' for field in sound if not sound[field]],
    'its manifest has {}',
  )


def _check_part(part: str, leaves: Any, masks: dict[str, Any]) -> None:
  if not isinstance(leaves, dict):
    raise ValueError(f'{part} is not a table')
  if part != 'model_state' and leaves.keys() != masks.keys():
    raise ValueError(f'{part} and masks do not have the same leaves')
  for name, leaf in leaves.items():
    mask = None if part == 'model_state' else masks[name]
    if leaf is not None:
      _check_leaf(name, leaf, {'shape', 'sha256', 'dtype'})
      if leaf['dtype'] not in _format.CODES:
        raise ValueError(f'{name} has the dtype {leaf["dtype"]}')
    if mask is not None and (leaf is None or mask['shape'] != leaf['shape']):
      raise ValueError(f'the mask of {name} has another shape')


def _check_leaf(name: str, leaf: Any, fields: set[str]) -> int:
  """Returns the size of a leaf with a sound shape and hash."""
  if not isinstance(leaf, dict) or leaf.keys() != fields:
    raise ValueError(f'{name} has other fields')
  shape = leaf['shape']
  if not isinstance(shape, list) or not all(
    type(n) is int and n >= 0 for n in shape
  ):
    raise ValueError(f'{name} has the shape {_checks.spell(shape)}')
  if not is_key(leaf['sha256']):
    raise ValueError(f'{name} has no hash')
  return math.prod(shape)


def flat(x: Any, name: str = '') -> dict[str, Any]:
  """Returns the entries of nested dicts, by names joined with slashes."""
  if not isinstance(x, dict) or not x:
    return {name: x}
  found: dict[str, Any] = {}
  for key, value in x.items():
    found |= flat(value, f'{name}/{key}' if name else key)
  return found
