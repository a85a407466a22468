"""Valid calls of what prunes programs, for the table of all functions."""

import jax.numpy as jnp
import numpy as np
import optax
from helpers import random_like

import lthjax as lth

BLOCK = {'first': (4, 6), 'second': (6, 4)}


def block(params, x):
  return jnp.tanh(x @ params['first']) @ params['second']


def add_rows(add, apply, params):
  """Adds a row per function, as `doors.doors` does."""
  wanda = lth.rules.wanda(0.5)
  x = random_like({'x': (64, 4)}, 0)['x']
  one, masks = random_like(BLOCK, 1), {}
  for name, kernel in one.items():
    masks[name] = np.asarray(kernel) > 0
  stack = {name: np.stack([kernel, kernel]) for name, kernel in one.items()}
  chosen = {'where': ('where', None), 'token_mask': ('optional masks', None)}
  program = {
    'args': ('apply', 'params', 'x'),
    'apply': ('function', apply),
    'params': ('params', params),
    'x': ('array', x),
    **chosen,
  }
  pruned = {
    'masks': ('optional masks', None),
    'granularity': ('word', 'site'),
    'sparsity': ('shapes', None),
  }
  add(lth.calibrate, stat=('function', lth.stats.squares), **program)
  add(
    lth.prune_program,
    rule=('rule', wanda),
    calibration=('calibration', None),
    **program,
    **pruned,
  )
  add(
    lth.reconstruct,
    args=(*('block', 'params', 'dense', 'masks', 'x'), 'tx', 'steps', 'size'),
    block=('function', block),
    params=('params', one),
    dense=('params', one),
    masks=('masks', masks),
    x=('array', x),
    tx=('optimizer', optax.adam(1e-3)),
    steps=('count', 2),
    size=('count', 4),
  )
  add(
    lth.prune_blocks,
    args=('block', 'blocks', 'x'),
    block=('function', block),
    blocks=('params', stack),
    x=('array', x),
    rule=('rule', wanda),
    tx=('optimizer', None),
    steps=('count from 0', 0),
    batch_size=('count', 4),
    key=('key', None),
    **chosen,
    **pruned,
  )
  rules = lth.rules
  for name in ('magnitude', 'wanda', 'ria', 'obd', 'obs', 'admm', 'alps'):
    rule = getattr(rules, name)
    add(rule, sparsity=('share', 0.5), pattern=('pattern', None))
  add(
    rules.sparse_gpt,
    sparsity=('share', 0.5),
    pattern=('pattern', None),
    damping=('not negative', 0.01),
    block=('count', 128),
    bits=('bits', None),
    group=('count', 32),
  )
  add(rules.refit, rule=('rule', wanda))
  add(rules.swaps, rule=('rule', wanda), most=('count from 0', 5))
