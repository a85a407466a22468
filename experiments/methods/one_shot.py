"""Ways to prune a trained model without training it again."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import numpy as np
import optax

import lthjax as lth
from common.language import Language
from lthjax import models, rules, trees

MethodName = Literal[
  'magnitude',
  'wanda',
  'ria',
  'sparse_gpt',
  'admm',
  'refit',
  'swaps',
  'swaps_refit',
  'reconstruct',
  'wanda_at_once',
  'sparse_gpt_at_once',
  'wanda_owl',
  'sparse_gpt_int8',
  'sparse_gpt_int4',
]
When = Literal['all', 'first', 'owl']


class Method(NamedTuple):
  """A way to prune."""

  label: str
  color: str
  rule: Callable[..., rules.Rule]
  when: When = 'all'  # at all sparsities and patterns, or at one
  drawn: bool = True  # whether it looks at calibration data
  at_once: bool = False  # by the activations of the dense model
  owl: bool = False  # sparsities of blocks by their outliers
  trains: bool = False  # trains each block by its outputs
  swaps: bool = False  # exchanges weights, up to a number per output


def swapped(*, most: int, **target: Any) -> rules.Rule:
  return rules.swaps(rules.wanda(**target), most=most)


def refitted(rule: Callable[..., rules.Rule], **target: Any) -> rules.Rule:
  return rules.refit(rule(**target))


REFIT = functools.partial(refitted, rules.wanda)
INT8 = functools.partial(rules.sparse_gpt, bits=8)
INT4 = functools.partial(rules.sparse_gpt, bits=4, group=32)
METHODS: dict[MethodName, Method] = {
  'magnitude': Method('magnitude', '#8a8a8a', rules.magnitude, drawn=False),
  'wanda': Method('Wanda', '#1b6ca8', rules.wanda),
  'ria': Method('RIA', '#5aa9e6', rules.ria),
  'sparse_gpt': Method('SparseGPT', '#c8553d', rules.sparse_gpt),
  'admm': Method('ADMM', '#9b5de5', rules.admm),
  'refit': Method('Wanda + refit', '#2a9d8f', REFIT),
  'swaps': Method('Wanda + swaps', '#7f4f24', swapped, swaps=True),
  'swaps_refit': Method(
    'Wanda + swaps + refit',
    '#e9a03b',
    functools.partial(refitted, swapped),
    swaps=True,
  ),
  'reconstruct': Method(
    'Wanda + refit + reconstruction', '#222222', REFIT, trains=True
  ),
  'wanda_at_once': Method(
    'Wanda, at once', '#1b6ca8', rules.wanda, 'first', at_once=True
  ),
  'sparse_gpt_at_once': Method(
    'SparseGPT, at once', '#c8553d', rules.sparse_gpt, 'first', at_once=True
  ),
  'wanda_owl': Method('Wanda, OWL', '#e07a9b', rules.wanda, 'owl', owl=True),
  'sparse_gpt_int8': Method('SparseGPT, int8', '#c8553d', INT8, 'first'),
  'sparse_gpt_int4': Method('SparseGPT, int4', '#c8553d', INT4, 'first'),
}


class Target(NamedTuple):
  """How much goes: a share of the weights, or N:M."""

  sparsity: float | None
  pattern: lth.patterns.NM | None = None

  @property
  def name(self) -> str:
    if self.pattern is None:
      return f'{100 * (self.sparsity or 0):g} %'
    return f'{self.pattern.n}:{self.pattern.m}'


class Training(NamedTuple):
  """How blocks are trained by their outputs."""

  tx: optax.GradientTransformation
  steps: int
  batch_size: int


class Effort(NamedTuple):
  """How long methods that improve on others may take."""

  training: Training
  swaps: int  # per output


def prune(
  method: Method,
  task: Language,
  params: chex.ArrayTree,
  tokens: jax.Array,
  target: Target,
  effort: Effort,
  said: Callable[[int], None] = lambda block: None,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
  """Prunes the kernels of all blocks; returns params and masks.

  ``said`` hears of each block that is done, where a block takes long.
  """
  how: dict[str, Any] = {}
  make = method.rule
  if method.swaps:
    make = functools.partial(make, most=effort.swaps)
  if target.pattern is None:
    # The sparsity is an argument of a program that is compiled once.
    rule = make(sparsity=0.5)
    how['sparsity'] = sparsities(method, task, params, tokens, target)
  else:
    rule = make(pattern=target.pattern)
  if method.trains or method.swaps:
    if method.trains:
      how |= effort.training._asdict()
    found = models.prune_decoder(
      task.model,
      params,
      tokens,
      rule=rule,
      on_block=lambda number, *_: said(number),
      **how,
    )
    return found[:2]
  # Without logits, which are many times as large.
  run = task.model.hidden
  if method.at_once and rule.needs is not None:
    how['calibration'] = lth.calibrate(run, params, tokens, stat=rule.needs)
  return lth.prune_program(run, params, tokens, rule=rule, **how)[:2]


def sparsities(
  method: Method,
  task: Language,
  params: chex.ArrayTree,
  tokens: jax.Array,
  target: Target,
) -> dict[str, np.ndarray]:
  """The sparsity of each kernel in each block."""
  leaves = trees.by_name(params)
  kernels = [x for x in leaves if x.startswith('blocks/') and 'kernel' in x]
  layers = task.config.layers
  if not method.owl:
    return {name: np.full(layers, target.sparsity) for name in kernels}
  squares = lth.calibrate(task.model.hidden, params, tokens)
  shares = lth.densities.outliers(squares, params, m=5)
  shapes = {name: leaves[name].shape for name in kernels}
  spread = lth.densities.owl(shares)(shapes, target.sparsity or 0.0)
  return {name: 1 - np.asarray(density) for name, density in spread.items()}
