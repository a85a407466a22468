"""Low-rank adapters on a frozen core: dense, sparse, or rounded to 8 bits.

The core never changes. `weights` gives the network what it runs with, and the
gradient is taken with respect to the adapter::

  adapter = adapters.lora(key, core, rank=8)
  loss = lambda adapter: loss_of(adapters.weights(core, adapter), batch)

A sparse core stays as sparse as it is until somebody merges: `merge` fills its
zeros, unless the adapter was made with ``masked=True``. Then masks are part of
the forward pass, and the merged kernels are as sparse as the core.

References:
  Hu et al., LoRA: Low-Rank Adaptation of Large Language Models,
  arXiv:2106.09685; Dettmers et al., QLoRA: Efficient Finetuning of Quantized
  LLMs, arXiv:2305.14314.
"""

from lthjax.adapters._lora import Adapter, lora, merge, rank_of_count, weights

__all__ = ['Adapter', 'lora', 'merge', 'rank_of_count', 'weights']
