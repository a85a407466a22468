"""What an installed lthjax must be able to do, in seconds."""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import optax

import lthjax as lth

checkout = pathlib.Path(__file__).parents[1]
assert checkout not in pathlib.Path(lth.__file__).parents, lth.__file__
lth.show_versions()
missing = [name for name in lth.__all__ if not hasattr(lth, name)]
assert not missing, missing

params = {'w': jax.random.normal(jax.random.key(0), (64, 32))}
x = jax.random.normal(jax.random.key(1), (256, 64))


def apply(p, x):
  return x @ p['w']


def loss(p):
  return jnp.mean((apply(p, x) - 1) ** 2)


def train(tx, params):
  """Three steps."""
  state = tx.init(params)
  params = lth.forward_params(state, params)
  for _ in range(3):
    grads = jax.grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


masks = lth.prune(
  lth.scores.magnitude(params), lth.masks.full(params), sparsity=0.9
)
trained, _ = train(lth.static(optax.adam(1e-2), masks), params)
assert jnp.count_nonzero(trained['w']) == lth.masks.count(masks) == 205

moving = lth.random_masks(jax.random.key(2), sparsity=0.9)
tx = lth.rigl(optax.sgd(0.1), moving, update_every=2, stop_step=10)
trained, state = train(tx, params)
assert lth.masks.count(lth.get_masks(state)) == 205

sparse = lth.deploy.condense(params, masks)
y = jax.jit(lth.deploy.sparse_apply(apply, params))(sparse, x)
dense = apply(lth.masks.apply(masks, params), x)
assert jnp.allclose(y, dense, rtol=1e-3, atol=1e-3)

with tempfile.TemporaryDirectory() as folder:
  path = f'{folder}/state'
  lth.checkpoints.save(path, {'state': state})
  same = lth.checkpoints.load(path, {'state': state})
  assert (lth.get_masks(same['state'])['w'] == lth.get_masks(state)['w']).all()

model = lth.models.lenet_300_100(input_shape=(8, 8, 1))
params, model_state = model.init(jax.random.key(3))
logits, _ = model.apply(params, model_state, jnp.ones((2, 8, 8, 1)))
assert logits.shape == (2, 10)
print(f'ok: Python {sys.version.split()[0]}, jax {jax.__version__}')
