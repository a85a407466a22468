"""Words in the names of parameters, and the role that they give a leaf."""

import re

_WORD = re.compile(r'[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+')


def one_of(text: str) -> frozenset[str]:
  """Makes a set of the words of a text."""
  return frozenset(text.split())


# Layers, whatever the other words of a component say that they are for.
_LAYER = one_of("""
  kernel kernels proj projection linear dense conv convs convolution fc mapping
  modulation
""")
_WEIGHT = one_of('w weight weights')
# What else has kernels, unless it is the norm of one.
_PART = one_of("""
  ffn mlp attn attention q k v query key value qkv kv out output head gate up
  down router mixer mixing forward feedforward classifier predictor predictions
  logits
""")
_KERNEL = _LAYER | _PART
# What has a number for each channel, or none that trains.
_NUMBERS = one_of("""
  scale scales offset offsets shift gamma beta gain layerscale freq freqs rope
  slopes slope temperature ema
""")
_NUMBERS_LEAF = one_of("""
  g gains alpha log decay std stddev zero zeros mask masks
""")
# Vectors that enter a network as they are, and statistics, unless a layer that
# makes them is meant: `linear_probe`, `fc_mu`.
_VECTORS = one_of("""
  wte wpe tok token tokens pos position positions positional pe codebook
  codebooks table vocab vocabulary lookup lut
""")
_VECTORS_LEAF = one_of("""
  cls bos eos latent latents probe prompt prompts prefix sink sinks anchor
  anchors register registers centers centroids queue avg mean var variance mu
  logvar
""")
_MAKES_VECTORS = _LAYER | one_of('mlp ffn mixer mixing to')
# Adapters, wherever a name speaks of them; and arrays that are cached, but not
# layers that use a cache.
_ADAPTER = one_of('lora')
_CACHES = (['cache'], ['kv', 'cache'], ['kvcache'])
_NORM = re.compile('.*norms?|normalization|ln|bn|gn|rms')
_EMBEDDING = re.compile('(?!un).*emb(s|ed(s|der|dings?)?)?')
_BIAS = re.compile('b([a-z]|ih|hh|kv)?')  # `b1`, `bq`, `bz`


def parts(name: str) -> list[list[str]]:
  """Splits a name into the words of its components, from the leaf outwards."""
  return [words(part) for part in reversed(re.split(r'[/.]', name))]


def words(component: str) -> list[str]:
  """Splits ``'qProj_0'`` into ``['qproj', 'q', 'proj', '0']``.

  A run of letters also counts as a whole, so that ``MoE`` contains ``moe``.
  """
  found = [word.lower() for word in _WORD.findall(component)]
  runs = [run.lower() for run in re.findall('[A-Za-z]+', component)]
  return [run for run in runs if run not in found] + found


def is_scale(name: str) -> bool:
  """Returns whether a name is that of the scale of a normalization."""
  leaf, layer, *_ = [*parts(name), []]
  if leaf in (['scale'], ['gamma']):
    return True
  last = [word for word in layer if not word.isdigit()][-1:]
  return leaf in (['weight'], ['g']) and _any(_NORM, last)


def is_kernel(name: str) -> bool | None:
  """Returns whether a name is that of a kernel; `None` if it does not say.

  The component nearest to the leaf decides, by its last telling word, as in
  English: a ``patch_embed/proj`` is a projection and a ``pos_embed`` is not.
  """
  leaf, *layers = parts(name)
  if any(not _ADAPTER.isdisjoint(part) for part in (leaf, *layers)):
    return False
  if 'cached' in leaf or any(part in _CACHES for part in (leaf, *layers)):
    return False
  if _is_bias(leaf):
    return False
  if (leaf, layers[:1]) == (['weight'], [['shared']]):
    return False  # the embeddings of T5
  told = _tells(leaf, _NUMBERS | _NUMBERS_LEAF, _VECTORS | _VECTORS_LEAF)
  for part in layers:
    if told is not None:
      break
    told = _tells(part, _NUMBERS, _VECTORS)
  return told


def _tells(
  part: list[str], numbers: frozenset[str], vectors: frozenset[str]
) -> bool | None:
  """Returns whether one component of a name speaks of kernels."""
  if 'bias' in part or 'biases' in part:
    return False
  norm = _any(_NORM, part)
  makes = not (norm or _MAKES_VECTORS.isdisjoint(part))
  for word in reversed(part):
    if word in numbers or _NORM.fullmatch(word):
      return False
    if _EMBEDDING.fullmatch(word):  # Patches are embedded by a convolution.
      return makes or 'patch' in part
    if word in vectors:
      return makes
    if word in _LAYER:
      return True
    if word in _PART:  # The `norm_q` of a query is a norm.
      return not norm
  return None


def _is_bias(leaf: list[str]) -> bool:
  """Returns whether the letter b makes a leaf a bias: `b1`, `fc_b`, `bqkv`."""
  told = [word for word in leaf if not word.isdigit()]
  if not told:
    return False
  first, last = told[0], told[-1]
  # The `w_b` of a layer is the second of two kernels.
  if first == 'b' or (last == 'b' and 'w' not in told):
    return True
  if not (_LAYER | _WEIGHT).isdisjoint(told):  # `bw_kernel` of an RNN
    return False
  if _BIAS.fullmatch(first):
    return True
  stems = first.removeprefix('b'), first.removesuffix('b')
  return told == [first] and any(x != first and x in _KERNEL for x in stems)


def _any(pattern: re.Pattern[str], words: list[str]) -> bool:
  return any(map(pattern.fullmatch, words))


def is_weight(name: str) -> bool:
  """Returns whether the last part of a name is one for the weights of a layer.

  Layers with one input or one output have them in the shape of a vector.
  """
  leaf = parts(name)[0]
  if len(leaf) < 2 and (
    not leaf or len(leaf[0]) == 1 or leaf[0].isdigit() or leaf[0] in _KERNEL
  ):
    return True
  few = any(len(word) < 3 and word.startswith('w') for word in leaf)
  return few or not (_LAYER | _WEIGHT).isdisjoint(leaf)
