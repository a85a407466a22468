"""Units and layers of a decoder: scored, cut for real, distilled, timed."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common.language import Language
from lthjax import models, structure

PartName = Literal['neurons', 'heads', 'layers']
MethodName = Literal[
  'random',
  'norm',
  'norm_bias',
  'taylor',
  'minitron',
  'minitron_bias',
  'flap',
  'flap_bias',
  'cosine',
]
LABELS: dict[MethodName, str] = {
  'random': 'random',
  'norm': 'norm',
  'norm_bias': 'norm, means',
  'taylor': 'Taylor',
  'minitron': 'Minitron',
  'minitron_bias': 'Minitron, means',
  'flap': 'FLAP',
  'flap_bias': 'FLAP, means',
  'cosine': 'cosine',
}
# Of the same numbers for all draws.
FIXED = ('norm',)
# One place of each group; which others belong to it is found.
PLACES = {
  'neurons': 'blocks/mlp/down/kernel[1]',
  'heads': 'blocks/attention/key/kernel[2]',
  'layers': 'blocks/mlp/down/kernel[0]',
}
BIASES = {'attention': ('out',), 'mlp': ('gate', 'up', 'down')}


class Network(NamedTuple):
  """A decoder with biases, which are zero at first, and its groups."""

  task: Language
  model: models.Decoder
  params: chex.ArrayTree
  groups: structure.Groups


class Cut(NamedTuple):
  """What is removed, and how it is chosen."""

  part: PartName
  share: float
  method: MethodName


def fits(part: PartName, method: MethodName) -> bool:
  """Whether a part can be scored by a method."""
  if part == 'layers':
    return method in ('random', 'norm', 'taylor', 'cosine')
  return method != 'cosine'


def biased(task: Language, params: Any) -> Network:
  """Gives a decoder the biases that means go to."""
  config = dataclasses.replace(task.config, out_bias=True, mlp_bias=True)
  model = models.llama(config)
  blocks = dict(params['blocks'])
  for name, layers in BIASES.items():
    blocks[name] = dict(blocks[name])
    for layer in layers:
      kernel = blocks[name][layer]['kernel']
      bias = jnp.zeros((kernel.shape[0], kernel.shape[-1]), kernel.dtype)
      blocks[name][layer] = {'bias': bias, 'kernel': kernel}
  params = {**params, 'blocks': blocks}
  tokens = jax.ShapeDtypeStruct((1, 8), 'int32')
  return Network(
    task, model, params, structure.groups(model.apply, params, tokens)
  )


def cut(network: Network, how: Cut, draw: int) -> chex.ArrayTree:
  """Chooses units by a draw of calibration data, and removes them for real."""
  task, model, params, groups = network
  place = PLACES[how.part]
  tokens = task.draw(draw)
  seen = None
  if how.part != 'layers' and how.method not in ('random', 'norm', 'taylor'):
    seen = measured(model.apply, params, tokens, groups, place)
  (name,) = structure.choose(groups, place)
  scores = {name: score(network, how, name, tokens, seen, draw)}
  keeps = structure.keep(
    groups,
    scores,
    how.share,
    where=name,
    multiple_of=8 if how.part == 'neurons' else 1,
  )
  if how.method.endswith('bias') and seen is not None:
    params = structure.compensate(params, keeps, seen)
  small, _ = structure.compact(
    model.apply, params, keeps, tokens[:1, :16], groups=groups, tolerance=1e-3
  )
  return small


def measured(apply, params, tokens, groups, place) -> structure.Activations:
  """Measures units on a draw, a few sequences at a time."""
  size = max(1024 // tokens.shape[1], 1)
  count = len(tokens) // size * size or len(tokens)
  batches = [tokens[i : i + size] for i in range(0, count, size)]
  parts = [
    structure.activations(apply, params, batch, groups=groups, where=place)
    for batch in batches
  ]
  return sum(parts[1:], parts[0])


def score(network, how, name, tokens, seen, draw) -> Any:
  """Returns the scores of one group."""
  task, model, params, groups = network
  only = {n: g for n, g in groups.items() if n in (name, *groups[name].varies)}
  if how.method == 'random':
    shape = [groups[n].size for n in (*groups[name].varies, name)]
    return np.random.default_rng(task.options.first_seed + draw).random(shape)
  if how.method == 'cosine':
    few = tokens[: max(1024 // tokens.shape[1], 1)]
    return structure.depth(model.apply, params, few, groups=groups)[name]
  if how.method in ('minitron', 'minitron_bias'):
    return structure.minitron(seen)[name]
  if how.method in ('flap', 'flap_bias'):
    return structure.flap(params, seen)[name]
  if how.method == 'taylor':
    grads = gradient(model.apply, params, tokens)
    return structure.taylor(params, grads, only)[name]
  return structure.norm(params, only)[name]


@functools.partial(jax.jit, static_argnums=0)
def gradient(apply, params, tokens) -> chex.ArrayTree:
  """The gradient of the mean loss over a draw, one sequence at a time."""

  def loss(params, sequence):
    logits = apply(params, sequence[None])[0, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, sequence[1:]
    ).mean()

  def add(total, sequence):
    grads = jax.grad(loss)(params, sequence)
    return jax.tree.map(jnp.add, total, grads), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  return jax.lax.scan(add, zeros, tokens)[0]


@functools.partial(jax.jit, static_argnums=0)
def hidden(apply, params, tokens) -> jax.Array:
  """Hidden states of a few sequences, one at a time."""
  return jax.lax.map(lambda x: apply(params, x[None])[0], tokens)


def similarity(network: Network, small: Any, tokens: jax.Array) -> float:
  """Mean cosine of the hidden states of the whole and the cut decoder."""
  apply = network.model.hidden
  whole, cut = (hidden(apply, p, tokens) for p in (network.params, small))
  return 1 - float(lth.losses.cosine(cut, whole))


def distill(
  network: Network,
  student: Any,
  steps: int,
  rate: float,
  evaluated: Callable[[int, Any], None],
) -> chex.ArrayTree:
  """Trains a cut decoder to predict what the whole one does."""
  task, model, teacher, _ = network
  tx = optax.adam(optax.cosine_decay_schedule(rate, steps))
  stream = jnp.asarray(task.tokens.train)

  def loss(student, teacher, tokens):
    return lth.losses.distillation(
      model.apply(student, tokens), model.apply(teacher, tokens)
    )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(student, state, teacher, stream, key):
    tokens = task.batch(stream, key)
    value, grads = jax.value_and_grad(loss)(student, teacher, tokens)
    updates, state = tx.update(grads, state, student)
    return optax.apply_updates(student, updates), state, value

  student = jax.tree.map(jnp.array, student)
  state = tx.init(student)
  every = max(steps // 4, 1)
  for i in range(steps):
    key = jax.random.key(i)
    student, state, value = step(student, state, teacher, stream, key)
    if (i + 1) % every == 0 or i + 1 == steps:
      score = task.test(student, model.apply)
      metrics = {'loss': value, 'accuracy': score['test_accuracy']}
      evaluated(i + 1, {n: np.array([x]) for n, x in metrics.items()})
  return student


def multiply_adds(network: Network, params: Any, tokens: jax.Array) -> int:
  """All multiply-adds of a forward pass, attention included."""
  uses = lth.program.uses(network.model.apply, params, tokens)
  return sum(use.multiply_adds for use in uses)


def clock(
  network: Network, forms: dict[str, Any], tokens: jax.Array, repeats: int
) -> dict[str, dict[str, float]]:
  """Milliseconds of a forward pass of each form, in turns.

  The least of all repeats counts: a busy machine only ever adds to it. The time
  of all cores together hardly depends on what else runs.
  """
  call = jax.jit(network.model.apply)
  seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
  for turn in range(repeats + 1):
    for name, params in forms.items():
      start = time.perf_counter(), time.process_time()
      call(params, tokens).block_until_ready()
      end = time.perf_counter(), time.process_time()
      if turn:
        seconds[name].append((end[0] - start[0], end[1] - start[1]))
  wall, cores = (
    {name: min(each[i] for each in x) for name, x in seconds.items()}
    for i in range(2)
  )
  dense = next(iter(forms))
  costs = {n: multiply_adds(network, p, tokens) for n, p in forms.items()}
  sizes = {n: sum(x.size for x in jax.tree.leaves(p)) for n, p in forms.items()}
  return {
    name: {
      'ms': 1e3 * wall[name],
      'time': wall[name] / wall[dense],
      'time_of_cores': cores[name] / cores[dense],
      'multiply_adds': costs[name] / costs[dense],
      'parameters': sizes[name] / sizes[dense],
    }
    for name in forms
  }
