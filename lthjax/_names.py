"""Words in the names of parameters, and the role that they give a leaf."""

import re

_WORD = re.compile(r'[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+')


def one_of(text: str) -> frozenset[str]:
  """Makes a set of the words of a text."""
  return frozenset(text.split())


_KERNEL = one_of("""
  kernel kernels proj projection linear dense conv convs convolution fc ffn mlp
  attn attention q k v query key value qkv kv out output head gate up down
  router mixer mixing
""")
# Layers; other words of `_KERNEL` may say what a layer is for.
_LAYER = one_of("""
  kernel kernels proj projection linear dense conv convs convolution fc
""")
_WEIGHT = one_of('w weight weights')
_NOT_KERNEL = one_of("""
  scale scales offset offsets shift gamma beta gain norm norms layernorm
  batchnorm groupnorm instancenorm rmsnorm normalization ln bn gn rms layerscale
  emb embed embeds embedder embedding embeddings wte wpe tok token tokens pos
  posemb position positions positional pe codebook table freq freqs rope slopes
  slope temperature ema
""")
_EMBEDDING = one_of("""
  emb embed embeds embedder embedding embeddings
""")
_NORM = one_of("""
  norm layernorm batchnorm groupnorm instancenorm rmsnorm normalization ln bn gn
  rms
""")
# These mean it only as a word of the leaf itself.
_NOT_KERNEL_LEAF = one_of("""
  b bqkv bkv g gains cls log mean avg var variance mu logvar alpha bos eos
  latent latents probe prompt prompts prefix sink sinks point
""")
_BIAS = re.compile('b[a-z]?')  # `b1`, `bq`, `bz`


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
  return leaf in (['weight'], ['g']) and not _NORM.isdisjoint(last)


def is_kernel(name: str) -> bool | None:
  """Returns whether a name is that of a kernel; `None` if it does not say.

  The component nearest to the leaf decides, by its last telling word, as in
  English: a ``patch_embed/proj`` is a projection and a ``pos_embed`` is not.
  """
  components = parts(name)
  if any('lora' in part for part in components):
    return False
  for depth, part in enumerate(components):
    leaf = depth == 0
    if 'bias' in part or 'biases' in part or (leaf and part[:1] == ['b']):
      return False
    told = not (_LAYER | _WEIGHT).isdisjoint(part)  # `bw_kernel` of an RNN
    if leaf and not told and _BIAS.fullmatch(''.join(part[:1])):
      return False
    if components == [['weight'], ['shared']]:
      return False  # the embeddings of T5
    for word in reversed(part):
      if word == 'b' and 'w' in part:
        continue  # `w_b` is the second of two kernels
      if word in _NOT_KERNEL or (leaf and word in _NOT_KERNEL_LEAF):
        # Patches are embedded by a convolution.
        return 'patch' in part and word in _EMBEDDING
      if word in _KERNEL:
        # The `norm_q` of a query is a norm, but a `norm_conv` a convolution.
        return word in _LAYER or _NORM.isdisjoint(part)
  return None


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
