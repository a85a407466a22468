"""Model cards, and folders for other tools."""

import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lthjax import checkpoints, deploy, files, trees
from lthjax.library import _contents, _format, _manifest
from lthjax.library._contents import Leaf, Reader


def card(reader: Reader, key: str, aliases: Mapping[str, str]) -> str:
  """Returns a model card in Markdown."""
  manifest, storage = reader.open(key)[1:]
  front = ['library_name: lthjax', 'tags: [lottery-ticket, sparse, jax]']
  if manifest['license']:
    front.insert(0, f'license: {json.dumps(manifest["license"])}')
  names = [alias for alias, target in aliases.items() if target == key]
  about = {
    'key': f'`{key}`',
    'aliases': ', '.join(names),
    'domain': manifest['domain'],
    'density': f'{manifest["density"]:.4g}',
    'level': manifest['level'],
    'rewound to step': manifest['rewind_step'],
    'seeds': ', '.join(map(str, manifest['seeds'])),
    'license': manifest['license'],
    'code': ' '.join(
      filter(None, [manifest['git'], f'lthjax {manifest["version"]}'])
    ),
    'machine': storage['machine'],
    'added': storage['added'],
  }
  title = manifest['domain'] or 'Ticket'
  parts = [
    '---\n' + '\n'.join(front) + '\n---',
    f'# {_line(title)} {key[:12]}',
    _table({name: x for name, x in about.items() if x not in ('', None)}),
  ]
  for heading, field in (
    ('Metrics', 'metrics'),
    ('Controls', 'controls'),
    ('Data', 'data'),
    ('Configuration', 'config'),
    ('Notes', 'notes'),
  ):
    if manifest[field] not in (None, {}, [], ''):
      parts += [f'## {heading}', _table(_manifest.flat(manifest[field]))]
  parts += [
    '## Layers',
    _layers(manifest),
    '## Provenance',
    _chain(reader, key),
  ]
  return '\n\n'.join(parts) + '\n'


def chain(reader: Reader, key: str) -> list[tuple[str, dict[str, Any] | None]]:
  """Returns a ticket and its ancestors; `None` where one is missing."""
  found = []
  # A parent is in the hash of its child, so there are no circles.
  at: str | None = key
  while at is not None:
    try:
      manifest = reader.open(at).manifest
    except LookupError:
      found.append((at, None))
      break
    found.append((at, manifest))
    at = manifest['parent']
  return found


def _chain(reader: Reader, key: str) -> str:
  lines = []
  for i, (at, manifest) in enumerate(chain(reader, key), 1):
    if manifest is None:
      lines.append(f'{i}. `{at}`, which is not in this library')
      continue
    domain = f', {_line(manifest["domain"])}' if manifest['domain'] else ''
    lines.append(
      f'{i}. `{at}`: level {manifest["level"]}, density'
      f' {manifest["density"]:.4g}{domain}'
    )
  return '\n'.join(lines)


def _layers(manifest: Mapping[str, Any]) -> str:
  rows = ['| leaf | shape | alive |', '|---|---|---|']
  leaves = manifest['parts'].get('trained') or manifest['parts'].get('start')
  for name, mask in manifest['masks'].items():
    leaf = mask or (leaves or {}).get(name)
    shape = ' × '.join(map(str, leaf['shape'])) if leaf else ''
    alive = 'dense' if mask is None else f'{mask["alive"]:,}'
    rows.append(f'| {_line(name)} | {shape} | {alive} |')
  return '\n'.join(rows)


def _table(rows: Mapping[str, Any]) -> str:
  lines = ['| | |', '|---|---|']
  lines += [
    f'| {_line(name)} | {_line(_cell(x))} |' for name, x in rows.items()
  ]
  return '\n'.join(lines)


def _cell(x: Any) -> str:
  """Several numbers as their mean and standard deviation."""
  if isinstance(x, list) and all(type(n) in (int, float) for n in x):
    if len(x) > 1:
      return (
        f'{statistics.mean(x):.4g} ± {statistics.stdev(x):.2g} (n = {len(x)})'
      )
    return ', '.join(map(str, x))
  if isinstance(x, float):
    return f'{x:.6g}'
  return x if isinstance(x, str) else json.dumps(x)


def _line(text: Any) -> str:
  """A text that stays in its cell."""
  return ' '.join(str(text).split()).replace('|', '\\|')


def export(
  reader: Reader, key: str, folder: str | os.PathLike[str], text: str
) -> Path:
  """Writes a ticket as a folder: card, manifest, dense and sparse weights."""
  target = files.local_path(folder)
  if target.exists():
    raise FileExistsError(
      f'{target} exists already, and exports never overwrite. Choose another'
      ' folder, or remove it first.'
    )
  manifest = reader.open(key).manifest
  parts = {
    part: {name: reader.leaf(key, part, name) for name in leaves}
    for part, leaves in manifest['parts'].items()
  }
  dense = {
    f'{part}/{name}' if part != 'trained' else name: _contents.dense(leaf)
    for part, leaves in parts.items()
    for name, leaf in leaves.items()
    if leaf is not None and part != 'start'
  }
  with files.temporary_folder(target) as temporary:
    written = temporary / target.name
    written.mkdir()
    (written / 'README.md').write_text(text, encoding='utf-8')
    (written / 'manifest.json').write_text(
      json.dumps(manifest, indent=2) + '\n', encoding='utf-8'
    )
    data = _format.encode(
      dense, {'format': 'np', 'manifest': _format.canonical(manifest)}
    )
    (written / 'model.safetensors').write_bytes(data)
    if trained := parts.get('trained'):
      _write_sparse(written / 'ticket.safetensors', trained)
    digests = checkpoints.digests(written)
    (written / checkpoints.DIGESTS).write_text(digests, encoding='utf-8')
    files.rename_folder(written, target)
  return target


def _write_sparse(path: Path, trained: Mapping[str, Leaf | None]) -> None:
  leaves = {name: leaf for name, leaf in trained.items() if leaf is not None}
  params, masks = {}, {}
  for name, leaf in leaves.items():
    mask = leaf.mask
    params[name] = jnp.asarray(_contents.dense(leaf))
    masks[name] = (
      None if mask is None else jnp.asarray(mask).reshape(leaf.shape)
    )
  deploy.save(path, trees.nest(params), trees.nest(masks))
