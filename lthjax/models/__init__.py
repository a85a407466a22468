"""Networks of the papers as pure functions, initialized as in the papers.

Every network for images is a `Model`: ``init(key)`` draws parameters,
``apply(params, model_state, x, train=...)`` computes logits. Networks with
batch normalization keep its running means and variances in ``model_state``,
which is empty in the others. The classification layer is always called
``output``, so that ``'output/*'`` finds it in every network. The functions that
build them take ``input_shape``, the height, width and channels of one image;
``classes``, the number of logits; and some take ``width``, which multiplies the
numbers of filters and hidden units.

Language models have no state: ``apply(params, tokens, token_mask)`` computes
logits, and params come from files or from ``init(key)``. So does a `tagger`,
which reads `word_features`.
"""

from lthjax.models._bert import Encoder, bert
from lthjax.models._config import BertConfig, LlamaConfig, LlamaMoEConfig
from lthjax.models._conv import conv_2, conv_4, conv_6, conv_8
from lthjax.models._functional import Model, functional
from lthjax.models._generate import generate, perplexity
from lthjax.models._hf import load_hf, save_hf
from lthjax.models._lenet import lenet_300_100
from lthjax.models._llama import Cache, Decoder, llama, llama_moe
from lthjax.models._load_gguf import load_gguf
from lthjax.models._prune import PrunedDecoder, prune_decoder
from lthjax.models._resnet import resnet_20, resnet_50
from lthjax.models._tagger import Tagger, tagger, word_features
from lthjax.models._tokenizer import load_tokenizer
from lthjax.models._vgg import vgg_11, vgg_16
from lthjax.models._vit import vit_b_16
from lthjax.models._wide_resnet import wide_resnet_22_2

__all__ = [
  'BertConfig',
  'Cache',
  'Decoder',
  'Encoder',
  'LlamaConfig',
  'LlamaMoEConfig',
  'Model',
  'PrunedDecoder',
  'Tagger',
  'bert',
  'conv_2',
  'conv_4',
  'conv_6',
  'conv_8',
  'functional',
  'generate',
  'lenet_300_100',
  'llama',
  'llama_moe',
  'load_gguf',
  'load_hf',
  'load_tokenizer',
  'perplexity',
  'prune_decoder',
  'resnet_20',
  'resnet_50',
  'save_hf',
  'tagger',
  'vgg_11',
  'vgg_16',
  'vit_b_16',
  'wide_resnet_22_2',
  'word_features',
]
