"""Decoders with experts: trained, with fewer experts, or with sparse ones."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import lthjax as lth
from common import seeds
from common.language import Language, LanguageConfig
from lthjax import models, rules, structure, trees

ScoreName = Literal['random', 'norm', 'frequency', 'reap']
RuleName = Literal['magnitude', 'wanda', 'sparse_gpt', 'refit']
LABELS: dict[str, str] = {
  'random': 'random',
  'norm': 'norm',
  'frequency': 'frequency',
  'reap': 'REAP',
  'magnitude': 'magnitude',
  'wanda': 'Wanda',
  'sparse_gpt': 'SparseGPT',
  'refit': 'Wanda + refit',
}
COLORS: dict[str, str] = {
  'random': '#8a8a8a',
  'norm': '#e9a03b',
  'frequency': '#1b6ca8',
  'reap': '#222222',
  'magnitude': '#8a8a8a',
  'wanda': '#1b6ca8',
  'sparse_gpt': '#c8553d',
  'refit': '#2a9d8f',
}
RULES: dict[RuleName, rules.Rule] = {
  # The sparsity is an argument of a program that is compiled once.
  'magnitude': rules.magnitude(0.5),
  'wanda': rules.wanda(0.5),
  'sparse_gpt': rules.sparse_gpt(0.5),
  'refit': rules.refit(rules.wanda(0.5)),
}
EXPERTS = 'blocks/mlp/experts/*'
# One place of the experts; which others belong to it is found.
PLACE = 'blocks/mlp/experts/down/kernel[1]'


class Experts(NamedTuple):
  """One decoder of a seed, its groups, and where its tokens are sent."""

  params: chex.ArrayTree
  groups: structure.Groups
  tokens: jax.Array
  routing: lth.experts.Routing

  @property
  def number(self) -> int:
    """How many experts a layer has."""
    return self.groups[PLACE].size

  @property
  def busiest(self) -> float:
    """The largest share of the tokens of a layer that one expert sees."""
    return float(lth.experts.frequency(self.routing)[PLACE].max())

  @property
  def unused(self) -> int:
    """Experts of all layers that no token is sent to."""
    return int((self.routing.counts[PLACE] == 0).sum())


class Mixture(Language):
  """A text, and decoders with experts for it, one for each seed."""

  options: Any

  def sizes(self, vocabulary: int) -> models.LlamaMoEConfig:
    dense = dataclasses.asdict(super().sizes(vocabulary))
    options = self.options
    return models.LlamaMoEConfig(
      **dense,
      experts=options.experts,
      experts_per_token=options.experts_per_token,
    )

  def build(self, config: models.LlamaMoEConfig) -> models.Decoder:
    return models.llama_moe(config)

  @property
  def stacked(self) -> Any:
    """Shapes of the params of all seeds."""
    count = self.options.seeds
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), self.params
    )

  def fit_all(self, evaluated: Callable[..., None]) -> chex.ArrayTree:
    """Trains a decoder for each seed, side by side."""
    options: LanguageConfig = self.options
    trainer = self.trainer(
      self.optimizer(), every=options.eval_every, vmapped=True
    )
    state = trainer.init(seeds.seed_keys(options))
    return trainer.fit(
      state, self.dataset, until=options.steps, report=evaluated
    ).params

  def _loss(self, params, model_state, tokens, key):
    del key
    self.compilations += 1  # Python runs only when JAX traces.
    loss, means = lth.program.run(
      self.loss, {'name': _mean_gates}, params, tokens
    )
    (gates,) = (x for x in means.values() if x is not None)
    # One where all experts have equal gates on average, else above.
    uneven = gates.shape[-1] * jnp.sum(jnp.square(gates), -1)
    return loss + self.options.balance * jnp.mean(uneven), model_state

  def experts(self, params: Any, seed: int) -> Experts:
    """The decoder of a seed, with the draw of data of the same number."""
    one = seeds.one(params, seed)
    tokens = self.draw(seed)
    shape = jax.ShapeDtypeStruct((1, 8), tokens.dtype)
    return Experts(
      one,
      structure.groups(self.model.hidden, one, shape),
      tokens,
      lth.experts.routing(self.model.hidden, one, tokens),
    )


def _mean_gates(eqn: Any, inputs: Any) -> Any:
  """Notes the mean gate of each expert, where the model names gates."""
  (x,) = inputs
  named = eqn.params['name'] == 'gate'
  note = jnp.mean(x.reshape(-1, x.shape[-1]), 0) if named else None
  return lth.program.bind(eqn, inputs), note


def score(task: Mixture, one: Experts, how: ScoreName, seed: int) -> Any:
  """Scores the experts of each layer, ``[layers, experts]``."""
  if how == 'random':
    shape = (task.config.layers, one.number)
    seed += task.options.first_seed
    return np.random.default_rng(seed).random(shape).astype(np.float32)
  if how == 'norm':
    names = (PLACE, *one.groups[PLACE].varies)
    groups = {name: one.groups[name] for name in names}
    return structure.norm(one.params, groups)[PLACE]
  scores = lth.experts.reap if how == 'reap' else lth.experts.frequency
  return scores(one.routing)[PLACE]


def cut(
  task: Mixture, one: Experts, how: ScoreName, kept: int, seed: int
) -> chex.ArrayTree:
  """Keeps so many experts in each layer, and removes the others for real.

  The first seed is checked against a router that never chooses the others.
  """
  scores = {PLACE: score(task, one, how, seed)}
  keeps = lth.experts.keep(scores, kept)
  if seed:
    return structure.cut(one.params, one.groups, keeps)
  probe = one.tokens[:1, :16]
  return lth.experts.cut(
    task.model.hidden, one.params, keeps, probe, tolerance=1e-3
  )


def prune(
  task: Mixture, one: Experts, how: RuleName, sparsity: float
) -> chex.ArrayTree:
  """Prunes the kernels of the experts, each expert by its own tokens."""
  leaves = trees.by_name(one.params)
  kernels = [x for x in leaves if trees.matches([EXPERTS], x)]
  shares = dict.fromkeys(kernels, np.full(task.config.layers, sparsity))
  with warnings.catch_warnings():
    # Experts that see few tokens or none: their numbers are in the results.
    warnings.simplefilter('ignore', UserWarning)
    return lth.prune_program(
      task.model.hidden,
      one.params,
      one.tokens,
      rule=RULES[how],
      where=EXPERTS,
      sparsity=shares,
    ).params
