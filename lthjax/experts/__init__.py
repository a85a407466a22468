"""Mixtures of experts: what each expert does for its tokens, and fewer of them.

A model names two values in each layer, with
`jax.ad_checkpoint.checkpoint_name`: gates ``[tokens.., experts]``, zero where a
token is not sent, and the outputs of the experts ``[tokens.., experts,
width]``. `lthjax.models.llama_moe` does. Then::

  routing = experts.routing(apply, params, tokens)
  keeps = experts.keep(experts.reap(routing), 6)
  small = experts.cut(apply, params, keeps, tokens)

Experts are batch axes for `lthjax.prune_program`, so Wanda and SparseGPT prune
each expert by its own tokens.

References:
  Lasby et al., REAP the Experts: Why Pruning Prevails for One-Shot MoE
  Compression, arXiv:2510.13999.
"""

from lthjax.experts._cut import cut
from lthjax.experts._routing import Routing, routing, warn_few_tokens
from lthjax.experts._scores import frequency, keep, reap

__all__ = [
  'Routing',
  'cut',
  'frequency',
  'keep',
  'reap',
  'routing',
  'warn_few_tokens',
]
