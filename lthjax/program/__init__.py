"""Reads a model's program: which parameter meets which matmul, how often.

JAX traces every model, of any framework, to the same few primitives. `uses`
walks over them and follows each kernel through casts, transposes, reshapes,
slices and masks to the matmuls and convolutions that multiply with it, also
inside of `jax.jit`, `jax.checkpoint`, `jax.lax.scan`, `jax.lax.cond` and
functions with derivatives of their own. Nothing is computed. `run` runs a
program, and shows or changes what chosen equations of it compute.
"""

from lthjax.program._interpreter import bind
from lthjax.program._kernels import kernels
from lthjax.program._use import Loop, Step, Use
from lthjax.program._uses import uses
from lthjax.program._values import run

__all__ = ['Loop', 'Step', 'Use', 'bind', 'kernels', 'run', 'uses']
