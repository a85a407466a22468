"""Byte-level BPE tokenizers, from GGUF files and folders of Hugging Face."""

import importlib
import os
import pathlib
from typing import Any

from lthjax.models import _gguf

_SPECIAL, _USER_DEFINED = 3, 4
# How words are split before merging, by the name that llama.cpp gives it.
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_QWEN2 = _LLAMA3.replace('{1,3}', '')
_SPLITS = {'llama-bpe': _LLAMA3, 'qwen2': _QWEN2}
_BYTES = ('gpt-2', 'smollm')


def load_tokenizer(path: str | os.PathLike[str], config: Any = None) -> Any:
  """Loads the tokenizer of a GGUF file or of a folder of Hugging Face.

  Args:
    path: a GGUF file, whose metadata must hold a byte-level BPE; or a folder
      with ``tokenizer.json``.
    config: of the model; its vocabulary must be that of the tokenizer.

  Returns:
    A `tokenizers.Tokenizer`: ``encode(text).ids`` and ``decode(ids)``.

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: without the package tokenizers.
    ValueError: if the tokenizer is of another kind, or does not fit.
  """
  try:
    tokenizers = importlib.import_module('tokenizers')
  except ImportError:
    raise ImportError(
      'Tokenizers need the package tokenizers: `pip install'
      ' "lthjax[language]"`.'
    ) from None
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    source = path / 'tokenizer.json'
    text = source.read_text(encoding='utf-8')
    try:
      tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:
      raise ValueError(f'{source} is not a tokenizer: {error}.') from error
  else:
    source = path
    tokenizer = _from_metadata(tokenizers, path, _gguf.read(path).metadata)
  if config is not None:
    _check_vocabulary(source, tokenizer, config.vocabulary)
  return tokenizer


def _check_vocabulary(
  source: pathlib.Path, tokenizer: Any, vocabulary: int
) -> None:
  """Raises if tokens have no embedding, or most embeddings no token."""
  ids = tokenizer.get_vocab(with_added_tokens=True).values()
  count = max(ids, default=-1) + 1
  # Embeddings are often padded to a multiple of 64 or more.
  if not 0 <= vocabulary - count < max(512, vocabulary // 64):
    raise ValueError(
      f'The tokenizer of {source} has {count} tokens, but the model has'
      f' {vocabulary}. Load the tokenizer that belongs to the model.'
    )


def _from_metadata(
  tokenizers: Any, path: pathlib.Path, data: dict[str, Any]
) -> Any:
  """Builds a tokenizer from the metadata of a GGUF file."""
  kind = data.get('tokenizer.ggml.model')
  split = data.get('tokenizer.ggml.pre', 'gpt-2')
  if kind != 'gpt2' or split not in (*_SPLITS, *_BYTES):
    raise ValueError(
      f'{path} has the tokenizer {kind!r} with words split by {split!r}, but'
      ' only byte-level BPE (gpt2) with'
      f' {", ".join(sorted((*_SPLITS, *_BYTES)))} is supported. Load a folder'
      ' with the tokenizer.json of this model.'
    )
  needed = ('tokenizer.ggml.tokens', 'tokenizer.ggml.merges')
  if missing := [name for name in needed if not data.get(name)]:
    raise ValueError(f'{path} lacks {", ".join(missing)}.')
  tokens, merges = (data[name] for name in needed)
  for name, words in zip(needed, (tokens, merges), strict=True):
    if not all(isinstance(word, str) for word in words):
      raise ValueError(f'{path} is damaged: {name} must be strings only.')
  vocabulary = {token: number for number, token in enumerate(tokens)}
  pairs = [tuple(merge.split(' ', 1)) for merge in merges]
  parts = tokenizers.pre_tokenizers
  try:
    tokenizer = tokenizers.Tokenizer(
      tokenizers.models.BPE(
        vocabulary, pairs, ignore_merges=split == 'llama-bpe'
      )
    )
  except Exception as error:
    raise ValueError(
      f'The merges of {path} do not fit its tokens: {error}.'
    ) from error
  if split in _SPLITS:
    words = parts.Split(tokenizers.Regex(_SPLITS[split]), 'isolated')
    bytes_ = parts.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = parts.Sequence([words, bytes_])
  else:
    bytes_ = parts.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [parts.Digits(individual_digits=True)] if split == 'smollm' else []
    tokenizer.pre_tokenizer = parts.Sequence([*digits, bytes_])
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  kinds = data.get('tokenizer.ggml.token_type', [])
  for token, kind in zip(tokens, kinds, strict=False):
    if kind in (_SPECIAL, _USER_DEFINED):
      special = tokenizers.AddedToken(token, special=kind == _SPECIAL)
      tokenizer.add_tokens([special])
  return tokenizer
