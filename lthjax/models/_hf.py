"""Folders of Hugging Face: `config.json` and files of safetensors."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import files, trees
from lthjax.models import _hf_config, _tensors
from lthjax.models._bert import bert
from lthjax.models._config import BertConfig, LlamaMoEConfig
from lthjax.models._hf_config import Config
from lthjax.models._llama import llama, llama_moe

_INDEX = 'model.safetensors.index.json'
_SINGLE = 'model.safetensors'
# Copies and tables that some versions write, and heads that we do not have.
_UNUSED = (
  '*.rotary_emb.inv_freq',
  '*.position_ids',
  'bert.pooler.*',
  'cls.predictions.decoder.*',
  'cls.seq_relationship.*',
)


def _safetensors() -> Any:
  try:
    import safetensors
    import safetensors.numpy
  except ImportError:
    raise ImportError(
      'Folders of Hugging Face need the package safetensors: `pip install'
      ' "lthjax[language]"`.'
    ) from None
  return safetensors


def network(config: Config) -> Any:
  """Builds the network of a config."""
  if isinstance(config, BertConfig):
    return bert(config)
  if isinstance(config, LlamaMoEConfig):
    return llama_moe(config)
  return llama(config)


def load_hf(
  folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[Config, Any]:
  """Loads a model of a folder of Hugging Face.

  Families are llama (SmolLM2 too), qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe
  and bert. Weights are those of ``model.safetensors`` or of the shards that
  ``model.safetensors.index.json`` lists.

  Args:
    folder: the folder.
    dtype: of the params.

  Returns:
    The config, for `llama`, `llama_moe` or `bert`, and the params.

  Raises:
    FileNotFoundError: if a file is missing.
    ImportError: without the package safetensors.
    ValueError: if a file is damaged, or if tensors are missing, unknown or of
      the wrong shape, all of which are named.

  Example:
    >>> import tempfile
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import models
    >>> config = models.LlamaConfig(
    ...   vocabulary=32,
    ...   width=16,
    ...   layers=2,
    ...   heads=4,
    ...   key_value_heads=2,
    ...   head_dim=4,
    ...   mlp=24,
    ... )
    >>> shapes = jax.eval_shape(models.llama(config).init, jax.random.key(0))
    >>> params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   models.save_hf(f'{folder}/tiny', config, params)
    ...   config, params = models.load_hf(f'{folder}/tiny')
    >>> config.key_value_heads, params['blocks']['mlp']['up']['kernel'].shape
    (2, (2, 16, 24))
  """
  library = _safetensors()
  folder = files.local_path(folder)
  path = folder / 'config.json'
  data = _read_json(path)
  config = _hf_config.read(str(path), data)
  wanted = jax.eval_shape(network(config).init, jax.random.key(0))
  with contextlib.ExitStack() as stack:
    stored, read = _open(library, folder, stack)
    # Tied models may store the shared matrix twice.
    tied = isinstance(config, BertConfig) or config.tied
    unused = (*_UNUSED, 'lm_head.weight') if tied else _UNUSED
    table = _hf_config.TABLES[data['model_type']]
    params = _tensors.assemble(
      str(folder), table, wanted, stored, read, dtype, unused
    )
  return config, params


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object."""
  text = path.read_text(encoding='utf-8')
  try:
    data = json.loads(text)
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}.') from None
  if not isinstance(data, dict):
    raise ValueError(f'{path} holds {type(data).__name__}, but must be a dict.')
  return data


def _open(
  library: Any, folder: pathlib.Path, stack: contextlib.ExitStack
) -> tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray]]:
  """Opens the files of weights: shapes of the tensors, and what reads them."""
  listed = None
  names = [_SINGLE]
  if not (folder / _SINGLE).exists() and (folder / _INDEX).exists():
    listed = _read_json(folder / _INDEX).get('weight_map')
    if not isinstance(listed, dict):
      raise ValueError(f'{folder / _INDEX} lacks weight_map.')
    names = sorted(set(listed.values()))
  missing = [name for name in names if not (folder / name).is_file()]
  if missing:
    raise FileNotFoundError(
      f'{folder} lacks {", ".join(missing)}. Weights must be safetensors; other'
      ' formats are not read.'
    )
  places = {}
  for name in names:
    path = folder / name
    try:
      file = stack.enter_context(library.safe_open(os.fspath(path), 'np'))
    except Exception as error:
      raise ValueError(
        f'{path} is truncated or damaged: {error}. Download it again.'
      ) from error
    places |= dict.fromkeys(file.keys(), (path, file))
  if listed is not None and (lost := sorted(listed.keys() - places.keys())):
    raise ValueError(f'The shards of {folder} lack {", ".join(lost)}.')
  shapes = {
    tensor: tuple(file.get_slice(tensor).get_shape())
    for tensor, (_, file) in places.items()
  }

  def read(tensor):
    path, file = places[tensor]
    kind = file.get_slice(tensor).get_dtype()
    if kind not in ('BF16', 'F16', 'F32', 'F64'):
      raise ValueError(
        f'{tensor} of {path} is of type {kind}, but only BF16, F16, F32 and F64'
        ' are supported. Save the model without quantization.'
      )
    return file.get_tensor(tensor)

  return shapes, read


def save_hf(
  folder: str | os.PathLike[str], config: Config, params: chex.ArrayTree
) -> None:
  """Saves a model as a folder of Hugging Face, which appears as a whole.

  Sizes in the config are those of the params, so that a model whose heads,
  neurons, experts or layers were cut is saved as what it is. Masked weights
  are stored as zeros.

  Args:
    folder: the folder, which must not exist or be empty.
    config: of the model.
    params: its params.

  Raises:
    FileExistsError: if the folder holds files.
    ImportError: without the package safetensors.
    ValueError: if no model of Hugging Face has such a config.
  """
  library = _safetensors()
  folder = files.local_path(folder)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise FileExistsError(
      f'{folder} exists. Models are saved to new folders; choose another name.'
    )
  shapes = {name: x.shape for name, x in trees.by_name(params).items()}
  _check_names(config, shapes)
  config = _hf_config.fitted(config, shapes)
  data = _hf_config.write(config)
  tensors = _tensors.disassemble(_hf_config.TABLES[data['model_type']], params)
  kinds = {str(x.dtype) for x in tensors.values()}
  data['torch_dtype'] = kinds.pop() if len(kinds) == 1 else 'float32'
  with files.temporary_folder(folder) as parent:
    built = parent / folder.name
    built.mkdir()
    files.write_text(built / 'config.json', json.dumps(data, indent=2) + '\n')
    content = library.numpy.save(tensors, {'format': 'pt'})
    files.write_bytes(built / _SINGLE, content)
    if folder.exists():
      folder.rmdir()
    files.rename_folder(built, folder)


def _check_names(config: Config, shapes: dict[str, Any]) -> None:
  """Raises unless params have the leaves of the config."""
  wanted = jax.eval_shape(network(config).init, jax.random.key(0))
  names = trees.by_name(wanted).keys()
  if names == shapes.keys():
    return
  faults = []
  if missing := sorted(names - shapes.keys()):
    faults.append(f'lack {", ".join(missing)}')
  if unknown := sorted(shapes.keys() - names):
    faults.append(f'have the unknown {", ".join(unknown)}')
  raise ValueError(
    f'The params {" and ".join(faults)}, but the config is {config}. Pass the'
    ' config that they were loaded or initialized with.'
  )
