"""Models as programs: where each parameter goes, and what is computed there.

JAX traces every model, of any framework, to the same few primitives. `uses`
follows each kernel through casts, transposes, reshapes, slices and masks to the
matmuls and convolutions that multiply with it, also inside `jax.jit`,
`jax.checkpoint`, `jax.lax.scan`, `jax.lax.cond`, `jax.shard_map` and functions
with custom derivatives, and gives the way back from there to the leaf.
`kernels` chooses the leaves that are multiplied with, whatever their names.
`run` runs a program, and shows or changes what chosen equations of it compute.
`attention_maps` shows the attention of every layer.
"""

from lthjax.program._attention import attention_maps
from lthjax.program._interpreter import bind
from lthjax.program._kernels import kernels
from lthjax.program._use import Loop, Step, Use
from lthjax.program._uses import uses
from lthjax.program._values import run

__all__ = [
  'Loop',
  'Step',
  'Use',
  'attention_maps',
  'bind',
  'kernels',
  'run',
  'uses',
]
