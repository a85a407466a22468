"""What a step that moves masks takes on a mesh, in sizes of the weights."""

import jax
import numpy as np
import optax
import pytest
from helpers import compile_donated
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lthjax as lth

STACKS = (4, 4096, 8192)  # a count for each of four layers
EXPERTS = (4, 8, 4096, 32768)  # more weights than an int32 counts


def temporaries(*shapes):
  """Memory of a RigL step beside its arguments, in sizes of the weights."""
  tx = lth.rigl(
    optax.adamw(1e-3),
    lth.random_masks(jax.random.key(0), sparsity=0.9),
    update_every=100,
    stop_step=1000,
  )
  mesh = jax.make_mesh((4, 2), ('x', 'y'), (AxisType.Explicit,) * 2)
  with jax.set_mesh(mesh):
    params = {}
    for i, shape in enumerate(shapes):
      place = NamedSharding(mesh, P(*[None] * (len(shape) - 2), 'x', 'y'))
      leaf = jax.ShapeDtypeStruct(shape, np.float32, sharding=place)
      params[f'{i}/kernel'] = leaf
    memory = compile_donated(tx, params).memory_analysis()
  size = sum(x.size * x.dtype.itemsize for x in params.values()) / 8
  return memory.temp_size_in_bytes / size


@pytest.mark.slow
@pytest.mark.optimized
def test_a_move_stores_the_integers_and_the_mask_of_one_leaf(run_python):
  source = 'from tests.topologies.test_mesh_memory import *;'
  source += 'print(temporaries(STACKS, STACKS), temporaries(EXPERTS, EXPERTS))'
  found = [float(x) for x in run_python(source, devices=8).split()]
  # An int32 and a bool are 5 bytes, and two weights 8.
  assert len(found) == 2
  assert max(found) <= 5 / 8 + 0.03
