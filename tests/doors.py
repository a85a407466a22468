"""A valid call of every public function, and what each argument may be.

A row of `DOORS` names a function and its arguments; what an argument is and a
valid value come from `ARGUMENTS`, unless the row says otherwise. Modules that
only the package itself calls are left out: `counts`, `files`, `selection`
(apart from `keep_largest`) and `trees`.
"""

import dataclasses
import functools
import itertools
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import keys, random_like, random_masks
from language_doors import add_rows as add_language
from linguistic_doors import add_rows as add_linguistic

import lthjax as lth
from lthjax import (
  activations,
  adapters,
  axes,
  data,
  densities,
  deploy,
  evaluation,
  experts,
  landscape,
  lota,
  patterns,
  proxies,
  report,
  structure,
  supermasks,
  tickets,
  topologies,
)

SHAPES = {
  'hidden': {'kernel': (4, 8), 'bias': (8,)},
  'output': {'kernel': (8, 4)},
}
PARAMS = random_like(SHAPES, 0)
OTHERS = random_like(SHAPES, 1)
MASKS = random_masks(SHAPES, 2, 0.5)
MASKS['hidden']['bias'] = None
FULL = {
  'hidden': {'kernel': np.ones((4, 8), bool), 'bias': None},
  'output': {'kernel': np.ones((8, 4), bool)},
}
FLAT = {'hidden/kernel': (4, 8), 'output/kernel': (8, 4)}
AXES = {name: axes.Axes(inputs=(0,), outputs=(1,)) for name in FLAT}
X = np.ones((2, 4), np.float32)
LABELS = np.array([0, 1])
IMAGES = np.zeros((8, 4, 4, 1), np.uint8)
SPLIT = data.Split(jnp.asarray(IMAGES), jnp.arange(8) % 2)
DATASET = data.Dataset(SPLIT, SPLIT, SPLIT, np.zeros(1), np.ones(1))


def apply(params, x):
  hidden = x @ params['hidden']['kernel'] + params['hidden']['bias']
  return jax.nn.relu(hidden) @ params['output']['kernel']


def attend(params, x):
  x = apply(params, x)
  return jax.nn.softmax(x @ x.T) @ x


def loss(params, batch):
  return jnp.mean(apply(params, batch) ** 2)


def train(params, masks):
  return lth.masks.apply(masks, params)


def stateful(params, state, x, *, train=False):
  return apply(params, x), state


def error_of(outputs, labels):
  return jnp.mean((outputs - labels[:, None]) ** 2)


class Candidate(NamedTuple):
  init: Callable[..., Any]
  apply: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Config:
  steps: int = 1


class Argument(NamedTuple):
  """What a function takes: a kind, which `ALLOWED` knows, and a value."""

  kind: str
  value: Any


class Door(NamedTuple):
  """A public function, a valid call, and what uses the result."""

  function: Callable[..., Any]
  arguments: dict[str, Argument]
  finish: Callable[[Any], Any]
  variadic: tuple[str, ...] = ()

  def call(self, **changed: Any) -> Any:
    given = {name: a.value for name, a in self.arguments.items()}
    for name, argument in self.arguments.items():
      if argument.kind == 'new path':
        given[name] = argument.value / uuid.uuid4().hex
    given |= changed
    return self.finish(
      self.function(*[given.pop(x) for x in self.variadic], **given)
    )


SPARSE = deploy.condense(PARAMS, MASKS)
GROUPS = structure.groups(apply, PARAMS, X)
UNITS = next(iter(structure.by_leaf(GROUPS)['hidden/kernel']))[0]
TICKET = tickets.Ticket(1, 0.5, MASKS, PARAMS, PARAMS, {})
TX = lth.static(optax.adam(0.1), MASKS)
STATE = TX.init(PARAMS)
CAPACITY = report.capacity(MASKS)
DELTA = lota.zeros(MASKS)
ADAPTER = adapters.lora(keys(0), PARAMS, rank=2)
ROUTING = experts.Routing(
  {'e': np.ones(4, np.int32)},
  {'e': np.ones(4, np.float32)},
  {'e': np.int32(8)},
  {'e': np.int32(1)},
)

A = Argument
ARGUMENTS = {
  'a': A('masks', MASKS),
  'after': A('masks', FULL),
  'alpha': A('number', 0.5),
  'apply': A('function', apply),
  'applies_gradient': A('flag', False),
  'at_least': A('count from 0', 1),
  'axes': A('axes', AXES),
  'b': A('masks', FULL),
  'backward_sparsity': A('share', 0.25),
  'batch': A('batch', (X, LABELS)),
  'batch_size': A('count', 2),
  'before': A('masks', MASKS),
  'compared': A('named trees', {'a': MASKS, 'b': FULL}),
  'decay': A('not negative', 1e-4),
  'densities': A('densities', densities.erk),
  'drop_fraction': A('share or schedule', 0.3),
  'error': A('function', lambda p: jnp.mean(apply(p, X) ** 2)),
  'every': A('count', 2),
  'explored': A('masks', MASKS),
  'final': A('params', OTHERS),
  'fraction': A('shares', 0.5),
  'fresh': A('params', OTHERS),
  'groups': A('groups', GROUPS),
  'initial': A('params', OTHERS),
  'inner': A('optimizer', optax.adam(0.1)),
  'int8': A('flag', False),
  'key': A('key', keys(0)),
  'level': A('count', 2),
  'levels': A('count', 2),
  'logits': A('params', PARAMS),
  'loss': A('function', loss),
  'masks': A('masks', MASKS),
  'min_salient': A('share', 0.3),
  'onto': A('params', OTHERS),
  'opt_state': A('optimizer state', STATE),
  'params': A('params', PARAMS),
  'params_a': A('params', PARAMS),
  'params_b': A('params', OTHERS),
  'parts': A('count', 2),
  'pattern': A('pattern', patterns.Unstructured()),
  'points': A('count', 3),
  'power': A('positive', 3.0),
  'probability': A('share', 0.5),
  'rounding': A('word', 'nearest'),
  'scope': A('word', 'layer'),
  'score': A('function', lth.scores.magnitude),
  'scores': A('params', PARAMS),
  'seed': A('count from 0', 0),
  'sparsity': A('share', 0.5),
  'step': A('count from 0', 3),
  'steps': A('count', 3),
  'stop_step': A('count', 10),
  'train': A('function', train),
  'update_every': A('count', 2),
  'where': A('where', '*/kernel'),
  'within': A('word', 'layer'),
  'x': A('array', X),
}
MOVING = (
  'inner masks update_every stop_step drop_fraction applies_gradient axes'
)


def initialize(tx):
  return tx.init(PARAMS)


def two(iterator):
  return list(itertools.islice(iterator, 2))


def doors(folder: pathlib.Path) -> dict[str, Door]:
  """All rows, by name; files go to a folder."""
  saved, saved_ticket, file = folder / 'saved', folder / 'ticket', folder / 'f'
  lth.checkpoints.save(saved, PARAMS)
  lth.checkpoints.save_ticket(saved_ticket, TICKET)
  deploy.save(file, PARAMS, MASKS)

  table: dict[str, Door] = {}

  def add(function, names='', /, finish=lambda x: x, args=(), **special):
    arguments = {}
    for word in names.split():
      arguments[word] = ARGUMENTS[word]
    arguments |= {k: A(*v) for k, v in special.items()}
    name = f'{function.__module__}.{function.__qualname__}'
    table[name] = Door(function, arguments, finish, tuple(args))

  add(
    lth.snfs,
    MOVING,
    initialize,
    momentum=('share', 0.9),
    redistribute=('flag', False),
  )
  add(
    lth.srigl,
    f'{MOVING} min_salient',
    initialize,
    masks=('masks', FULL),
    never_ablate=('where', 'output/*'),
  )
  add(
    lth.rigl,
    MOVING + ' pattern',
    initialize,
    sparsity=('schedule', None),
    densities=('densities', None),
  )
  add(lth.sparse_evolution, MOVING + ' key pattern', initialize)
  add(
    lth.ac_dc,
    'inner sparsity densities where axes',
    initialize,
    sparse_steps=('steps', [1, 3]),
    dense_steps=('steps', [2]),
  )
  add(
    lth.gradual,
    'inner densities where pattern axes update_every stop_step',
    initialize,
    sparsity=('schedule', lth.schedules.polynomial_sparsity(0.5, 0, 10)),
  )
  for tx in (lth.sr_ste, lth.straight_through):
    words = 'inner densities where pattern axes update_every stop_step'
    decay = ' decay' if tx is lth.sr_ste else ''
    add(tx, words + decay, initialize, sparsity=('share or schedule', 0.5))
  add(
    lth.top_kast,
    'inner sparsity backward_sparsity densities where axes decay'
    ' update_every stop_step',
    initialize,
  )
  add(lth.static, 'inner masks', initialize)
  add(lth.frozen, 'inner masks', initialize)
  add(lth.packed, 'inner', lambda tx: tx.init(DELTA))
  add(
    lth.circuit,
    'inner sparsity stop_step at_least where axes',
    initialize,
    start_step=('count from 0', 1),
    scales_updates=('flag', True),
  )
  add(
    lth.sparsify,
    'inner',
    initialize,
    topology=('topology', topologies.fixed(MASKS)),
  )
  add(
    lth.random_masks,
    'key sparsity densities where pattern axes',
    lambda f: f(PARAMS),
    pattern=('pattern', None),
  )
  add(topologies.fixed, 'masks', lambda t: t.init(PARAMS))
  add(
    topologies.metrics, 'before after axes', history=('optional masks', MASKS)
  )
  add(lth.forward_params, 'opt_state params')
  add(lth.get_masks, 'opt_state')
  add(lth.set_masks, 'opt_state masks')
  add(lth.strip, 'opt_state params')
  add(
    lth.with_masks,
    'masks',
    state=('state', {'params': PARAMS, 'opt_state': STATE}),
  )
  add(lth.opt_state.keeps_dense_params, 'opt_state')
  add(
    lth.keep_largest,
    args=(),
    scores=('one array', X),
    count=('count from 0', 3),
    eligible=('one mask', X > 0),
    axis=('axis', 0),
  )
  add(
    lth.prune,
    'scores masks sparsity scope pattern densities rounding at_least axes',
  )
  table['prune by fraction'] = Door(
    lth.prune,
    {
      'scores': ARGUMENTS['scores'],
      'masks': ARGUMENTS['masks'],
      'fraction': ARGUMENTS['fraction'],
    },
    lambda x: x,
  )
  add(
    lth.prune_iteratively,
    'params sparsity steps where rounding at_least axes',
    score_fn=('function', lth.scores.magnitude),
    scope=('word', 'global'),
  )

  def init(key):
    return PARAMS, {}

  def one_loss(params, state, batch, key):
    return loss(params, batch), state

  add(
    lth.trainer,
    'every',
    lambda t: t.init(keys(0)),
    init=('function', init),
    loss=('function', one_loss),
    tx=('optimizer', optax.sgd(0.1)),
    batch=('function', lambda data, key, step: data),
    evaluate=('function', lambda p, s, k: {'loss': 0.0}),
    vmapped=('flag', False),
    scanned=('flag', True),
    check_finite=('flag', True),
  )
  add(
    lth.rank,
    'key',
    candidates=(
      'candidates',
      {'a': Candidate(init, stateful), 'b': Candidate(init, stateful)},
    ),
    proxy=('function', proxies.num_params),
    batch=('batch', (X, LABELS)),
    train=('flag', False),
    samples=('count', 1),
  )
  # lota, adapters, activations, experts
  add(lota.largest, 'scores sparsity', masks=('masks', FULL))
  add(
    lota.calibrated,
    'sparsity',
    masks=('masks', FULL),
    base=('params', PARAMS),
    tuned=('params', OTHERS),
  )
  add(lota.complement, args=('taken',), taken=('masks', MASKS))
  add(
    lota.difference,
    'masks',
    base=('params', PARAMS),
    tuned=('params', OTHERS),
  )
  add(lota.zeros, 'masks')
  add(lota.add, 'params', delta=('delta', DELTA))
  add(lota.pad, 'params', deltas=('deltas', [DELTA]))
  add(lota.support, 'params', delta=('delta', DELTA))
  add(lota.fingerprint, 'params')
  for f in (lota.merge_sum, lota.merge_mean, lota.merge_ties):
    add(f, deltas=('deltas', [DELTA]))
  add(
    lota.save,
    path=('path', folder / 'd'),
    delta=('delta', DELTA),
    base=('params', PARAMS),
  )
  add(
    adapters.lora,
    'key where axes',
    core=('params', PARAMS),
    rank=('count', 2),
    alpha=('positive', None),
    masked=('flag', False),
  )
  for f in (adapters.weights, adapters.merge):
    add(
      f,
      core=('params', PARAMS),
      adapter=('adapter', ADAPTER),
      masks=('optional masks', None),
    )
  add(
    adapters.rank_of_count,
    'where axes',
    core=('params', PARAMS),
    count=('count', 9),
  )
  add(activations.abs_top_k, 'x', k=('count from 0', 2))
  add(
    activations.sparsify,
    'apply',
    lambda f: f(PARAMS, X),
    rules=('thresholds', {'*': 0.5}),
    from_token=('count from 0', 0),
  )
  for f in (activations.thresholds, activations.teal):
    add(f, 'apply params x sparsity where', args=('apply', 'params', 'x'))
  add(
    experts.keep,
    scores=('named', {'e': np.ones((2, 4), np.float32)}),
    count=('count', 2),
    parts=('count', 1),
  )
  for f in (experts.reap, experts.frequency, experts.warn_few_tokens):
    add(f, routing=('routing', ROUTING))
  # accounting
  acc = lth.accounting
  add(acc.itop_init, 'masks')
  add(acc.itop_rate, 'explored params where')
  add(acc.itop_update, 'explored masks')
  add(
    acc.multiply_adds,
    'apply params x masks where',
    args=('apply', 'params', 'x'),
  )
  cost = acc.step_cost
  one = ('not negative', 10.0)
  add(cost.ac_dc, dense=one, sparse=one, dense_share=('share', 0.5))
  add(cost.dense, dense=one)
  add(
    cost.gradual,
    'steps update_every',
    cost=('function', lambda d: d),
    density=('function', lambda s: 0.5),
  )
  add(cost.rigl, 'update_every', dense=one, sparse=one)
  add(cost.snfs, dense=one, sparse=one)
  add(cost.static, sparse=one)
  add(cost.straight_through, dense=one, sparse=one)
  add(cost.top_kast, sparse=one, backward=one)
  add(axes.by_layout, 'params', stacked=('stacked', {}))
  add(axes.columns, 'x', axes=('one axes', AXES['hidden/kernel']))
  add(
    axes.fan_in,
    shape=('shape', (4, 8)),
    axes=('one axes', AXES['hidden/kernel']),
  )
  add(axes.from_program, 'apply params x where', args=('apply', 'params', 'x'))
  # data
  add(data.batch, 'key step batch_size', split=('split', SPLIT))
  add(data.epoch_indices, 'key step batch_size', size=('count', 8))
  add(data.load, 'seed', name=('word', 'digits'), validation=('count', 100))
  add(
    data.normalize,
    images=('array', IMAGES),
    mean=('array', np.zeros(1)),
    std=('array', np.ones(1)),
  )
  add(data.num_classes, dataset=('dataset', DATASET))
  add(
    data.partition,
    'parts seed',
    dataset=('dataset', DATASET),
    by=('word or function', 'example'),
    relabel=('flag', False),
  )
  add(
    data.random_crop_flip,
    'key',
    images=('array', IMAGES),
    pad=('count from 0', 1),
  )
  # densities, schedules, patterns
  for f in (densities.er, densities.erk, densities.uniform):
    add(f, 'sparsity axes', shapes=('shapes', FLAT))

  def use(f):
    return f(FLAT, 0.5)

  add(
    densities.custom,
    '',
    use,
    fixed=('shares', {'hidden/*': 0.5}),
    others=('densities', densities.uniform),
    keep_total=('flag', False),
  )
  add(
    densities.smart_ratio,
    '',
    use,
    order=('texts', None),
    last=('share', 0.3),
    decay=('number', 0),
  )
  add(
    lth.schedules.cosine_drop_fraction,
    'stop_step',
    lambda f: f(3),
    initial=('share', 0.3),
  )
  add(
    lth.schedules.polynomial_sparsity,
    'power',
    lambda f: f(3),
    final=('share', 0.5),
    begin_step=('count from 0', 0),
    end_step=('count', 10),
    initial=('share', 0.0),
  )

  def fit(pattern):
    return pattern.fit(None, FLAT)

  add(patterns.Block, '', fit, shape=('shape', (2, 2)))
  add(patterns.NM, '', fit, n=('count', 2), m=('count', 4))
  # deploy
  add(
    deploy.condense,
    'params masks axes int8',
    where=('where', None),
    max_density=('closed share', 1.0),
    lookup=('word', 'auto'),
    blocks=('word', 'auto'),
    capacity=('count', None),
  )
  add(deploy.densify, sparse=('sparse', SPARSE))
  add(
    deploy.join,
    values=('sparse values', deploy.split(SPARSE)[0]),
    structure=('sparse structure', deploy.split(SPARSE)[1]),
  )
  add(deploy.split, sparse=('sparse', SPARSE))
  add(
    deploy.linear,
    'x',
    sparse=('one sparse', SPARSE['hidden']['kernel']),
    bias=('array', np.ones(8, np.float32)),
  )
  add(deploy.regather, dense=('params', PARAMS), sparse=('sparse', SPARSE))
  add(deploy.sparse_apply, 'apply params', lambda f: f(SPARSE, X))
  add(deploy.storage, 'params masks axes')
  add(deploy.to_bcsr, sparse=('one sparse', SPARSE['hidden']['kernel']))
  add(deploy.load, path=('path', file))
  add(
    deploy.load_export,
    data=(
      'bytes',
      deploy.export(
        deploy.sparse_apply(apply, PARAMS),
        SPARSE,
        jax.ShapeDtypeStruct((2, 4), np.float32),
      ),
    ),
  )
  add(deploy.save, 'params masks int8', path=('path', file))
  add(
    lth.checkpoints.save,
    path=('new path', folder),
    tree=('params', PARAMS),
    metadata=('json', {}),
    data=('iterator', None),
  )
  add(
    lth.checkpoints.save_ticket,
    path=('new path', folder),
    ticket=('ticket', TICKET),
  )
  add(
    lth.checkpoints.load,
    path=('path', saved),
    like=('params', PARAMS),
    data=('iterator', None),
  )
  add(lth.checkpoints.read_metadata, path=('path', saved))
  add(
    lth.checkpoints.load_ticket,
    path=('path', saved_ticket),
    like=('ticket', TICKET),
  )
  add(
    lth.library.open,
    path=('new path', folder),
    create=('flag', True),
  )
  # structure
  add(
    structure.by_axes,
    'params',
    axes=(
      'named',
      {
        'hidden/kernel': (None, 'u'),
        'hidden/bias': ('u',),
        'output/kernel': ('u', None),
      },
    ),
  )
  add(structure.by_leaf, 'groups')
  add(structure.chain, 'params', layers=('texts', ['hidden', 'output']))
  keeps = {UNITS: np.arange(8) < 4}
  add(structure.cut, 'params groups', keeps=('keeps', keeps))
  add(structure.masks, 'params groups', keeps=('keeps', keeps))
  add(
    structure.groups,
    'apply params x',
    args=('apply', 'params', 'x'),
    sums=('flag', True),
  )
  add(
    structure.permute,
    'groups',
    tree=('params', PARAMS),
    permutations=('named', {UNITS: np.arange(8)}),
  )
  add(structure.norm, 'params groups')
  add(
    structure.choose,
    'groups',
    where=('units', UNITS),
    what=('text', 'where'),
  )
  add(structure.taylor, 'params groups', grads=('params', OTHERS))
  seen = structure.activations(apply, PARAMS, X)
  add(
    structure.activations,
    'apply params x groups',
    args=('apply', 'params', 'x'),
    where=('optional where', UNITS),
    token_mask=('optional mask', np.ones(2, bool)),
  )
  add(structure.minitron, '', seen=('activations', seen))
  add(structure.flap, 'params', seen=('activations', seen))
  add(
    structure.keep,
    'groups sparsity',
    scores=('named', {UNITS: np.arange(8.0)}),
    where=('optional where', UNITS),
    scope=('word', 'group'),
    multiple_of=('count', 8),
    minimum=('count', 1),
  )
  deep = {'w': np.ones((2, 4, 4), np.float32), 'b': np.ones((2, 4), np.float32)}

  def layers(params, x):
    def layer(x, p):
      return x + jnp.tanh(x) @ p['w'] + p['b'], None

    return jax.lax.scan(layer, x, params)[0]

  add(
    structure.depth,
    'x',
    args=('apply', 'params', 'x'),
    apply=('function', layers),
    params=('params', deep),
    groups=('optional groups', structure.groups(layers, deep, X)),
    token_mask=('optional mask', np.ones(2, bool)),
  )
  biased = {'in': np.eye(4, 3, dtype=np.float32), 'out': deep['w'][0, :3]}
  biased['bias'] = np.zeros(4, np.float32)

  def with_bias(params, x):
    return jax.nn.relu(x @ params['in']) @ params['out'] + params['bias']

  add(
    structure.compensate,
    '',
    params=('params', biased),
    keeps=('keeps', {'in[1]': np.arange(3) < 2}),
    seen=('activations', structure.activations(with_bias, biased, X)),
  )
  add(structure.table, 'groups')
  norm = {
    'conv': {'kernel': np.ones((3, 3, 1, 4), np.float32)},
    'norm': {'scale': np.arange(4.0, dtype=np.float32)},
  }
  add(
    structure.add_l1,
    '',
    lambda tx: tx.update(PARAMS, tx.init(PARAMS), PARAMS),
    strength=('not negative', 0.1),
    where=('where', '*/bias'),
  )
  add(
    structure.channel_masks,
    'sparsity',
    params=('params', norm),
    where=('where', '*/scale'),
  )
  chain = structure.chain(
    norm | {'output': {'kernel': np.ones((4, 2), np.float32)}},
    ['conv', 'norm', 'output'],
  )
  add(
    structure.mask_channels,
    '',
    params=(
      'params',
      norm | {'output': {'kernel': np.ones((4, 2), np.float32)}},
    ),
    channels=(
      'masks',
      {
        'conv': {'kernel': None},
        'norm': {'scale': np.arange(4) < 2},
        'output': {'kernel': None},
      },
    ),
    groups=('groups', chain),
  )
  add(
    structure.compact,
    'apply params x groups',
    args=('apply', 'params', 'keeps', 'x'),
    keeps=('keeps', keeps),
    tolerance=('positive', 1e-4),
  )
  # evaluation
  e = evaluation
  sure = np.array([[0.9, 0.1], [0.3, 0.7]], np.float32)
  judged = {
    'probabilities': ('probabilities', sure),
    'labels': ('integers', LABELS),
  }
  for f in (e.accuracy, e.brier, e.fit_temperature, e.log_loss):
    add(f, **judged)
  for f in (e.overconfidence, e.smooth_ece):
    add(f, **judged)
  bins = {'bins': ('count', 15), 'equal_mass': ('flag', False)}
  for f in (e.ece, e.reliability):
    add(f, **judged, **bins)
  for f in (e.accuracy_by_group, e.table_by_group):
    add(f, **judged, groups=('names of examples', LABELS))
  add(
    e.churn,
    probabilities=judged['probabilities'],
    dense=('probabilities', sure),
  )
  votes = ('probabilities', np.stack([sure, sure]))
  add(e.exemplars, pruned=votes, dense=votes, labels=judged['labels'])
  add(
    e.temper,
    probabilities=judged['probabilities'],
    temperature=('positive', 2.0),
  )
  rates = ('rates', {'fog': np.array([0.1, 0.2])})
  add(e.mean_corruption_error, errors=rates, dense=rates)
  add(
    e.flips,
    scores=('scores', sure),
    dense=('scores', sure),
    answers=judged['labels'],
  )
  add(e.is_refusal, text=('text', 'I cannot.'))
  for f in e.corruptions.ALL.values():
    add(
      f,
      'seed',
      images=('images', IMAGES),
      severity=('severity', 3),
    )
  # landscape
  add(landscape.align, 'params_a params_b groups')
  add(
    landscape.batch_statistics,
    'params',
    apply=('function', lambda p, s, x: (x, {'m': x.mean()})),
    model_state=('params', {'m': np.zeros((), np.float32)}),
    batches=('array', X),
  )
  add(
    landscape.compare,
    'error points batch_size',
    networks=('trees', [PARAMS, OTHERS]),
    predict=('function', lambda p: apply(p, X).argmax(-1)),
  )
  add(landscape.cosine, 'params_a params_b')
  add(landscape.distance, 'params_a params_b')
  add(landscape.error_barrier, 'error params_a params_b points batch_size')
  add(landscape.interpolate, 'params_a params_b alpha')
  add(
    landscape.instability,
    'error points',
    train=('function', lambda s: s._replace(step=s.step + 1)),
    state=(
      'anything',
      lth.TrainState(np.zeros((), np.int32), PARAMS, (), {}, keys(0), None),
    ),
    keys=('keys', keys(0, 1)),
    network=('function', lambda s: s.params),
  )
  # masks
  m = lth.masks
  for f in (m.alive_by_name, m.count, m.density, m.pack):
    add(f, 'masks')
  for f in (m.difference, m.hamming, m.intersect, m.jaccard, m.union):
    add(f, 'a b')
  add(m.apply, 'masks params')
  add(m.full, 'params where', rule=('function', m.kernels))
  add(m.shuffle, 'key masks within axes')
  add(m.summary, 'masks axes')
  add(m.unpack, packed=('params', m.pack(MASKS)), like=('masks', MASKS))
  # program
  add(
    lth.program.kernels,
    'apply params x where',
    lambda f: f('hidden/kernel', X),
    args=('apply', 'params', 'x'),
  )
  add(lth.program.uses, 'apply params x where', args=('apply', 'params', 'x'))
  add(
    lth.program.attention_maps,
    'params x',
    args=('apply', 'params', 'x'),
    apply=('function', attend),
  )
  add(
    lth.program.run,
    'x',
    args=('f', 'visits', 'x'),
    f=('function', lambda x: x + 1),
    visits=('named', {}),
  )
  # proxies
  for f in (proxies.fisher, proxies.grad_norm, proxies.grasp, proxies.snip):
    add(f, 'apply params batch key', loss=('function', error_of))
  for f in (
    proxies.jacob_cov,
    proxies.multiply_adds,
    proxies.naswot,
    proxies.num_params,
    proxies.synflow,
  ):
    add(f, 'apply params batch key')
  add(proxies.zen, 'apply params batch key', scale=('positive', 0.01))
  for f in (proxies.kendall, proxies.spearman):
    add(
      f,
      scores=('named numbers', {'a': 1.0, 'b': 2.0}),
      accuracies=('named numbers', {'a': 1.0, 'b': 2.0}),
    )
  # report
  add(
    report.capacity,
    'masks initial final compared axes',
    input_layers=('texts', ['hidden/kernel']),
    input_shape=('shape', None),
  )
  add(report.distance_moved, 'initial masks', final=('params', PARAMS))
  for f in (report.figure, report.html, report.text):
    add(f, found=('capacity', CAPACITY))
  add(report.html, found=('capacity', CAPACITY), title=('text', 'Title'))
  add(
    report.write_html,
    path=('new path', folder),
    found=('capacity', CAPACITY),
    title=('text', 'Title'),
  )
  add(
    report.input_saliency,
    'masks axes',
    layers=('texts', ['hidden/kernel']),
    input_shape=('shape', None),
  )
  add(report.layers, 'masks axes')
  add(report.similarity, masks=('named trees', {'a': MASKS, 'b': FULL}))
  add(lth.runs.config_hash, config=('config', Config()))
  add(
    lth.runs.open_run,
    parent=('new path', folder),
    name=('text', 'x'),
    config=('config', Config()),
  )
  # scores
  s = lth.scores
  add(s.gradient, 'loss params', batch=('array', X))
  for f in (s.fisher, s.taylor):
    add(f, 'loss params', batches=('batches', [X]))
  add(
    s.grasp,
    'params',
    loss=('function', lambda p, b, temperature=1.0: loss(p, b) / temperature),
    batches=('batches', [X]),
    temperature=('positive', 1.0),
  )
  for f in (
    s.large_final_same_sign,
    s.large_init,
    s.large_init_large_final,
    s.magnitude_increase,
    s.movement,
    s.small_init,
    s.small_init_small_final,
  ):
    add(f, 'params initial')
  for f in (s.large_final, s.small_final):
    add(f, 'params')
  add(s.noise, 'key params')
  add(s.snip, 'loss params', batch=('array', X))
  add(s.synflow, 'apply params', input_shape=('shape', (1, 4)))
  # supermasks
  u = supermasks
  add(u.bernoulli, 'params logits key axes', rescale=('flag', False))
  add(u.bernoulli_masks, 'logits key')
  add(
    u.edge_popup,
    'params scores sparsity scope densities pattern axes',
    scores=('params', OTHERS),
  )
  add(u.edge_popup_masks, 'scores sparsity scope densities pattern axes')
  add(u.init_logits, 'params probability where')
  add(u.init_scores, 'key params where axes')
  add(u.scaled_kaiming, 'key params sparsity where axes')
  add(u.signed_kaiming_constant, 'params sparsity where axes')
  # tickets
  t = tickets
  own = {
    'params': ('function', lambda state: state),
    'state': ('state', PARAMS),
    'prune': ('function', functools.partial(lth.prune, fraction=0.5)),
  }
  add(
    t.imp,
    'train masks levels score',
    two,
    rewind=('function', t.rewind_weights),
    evaluate=('function', lambda s: {}),
    vmapped=('flag', False),
    resume=('ticket', None),
    **own,
  )
  own.pop('prune')
  add(
    t.one_shot,
    'train masks score',
    two,
    prunes=('functions', [functools.partial(lth.prune, fraction=0.5)]),
    rewind=('function', t.rewind_weights),
    evaluate=('function', lambda s: {}),
    vmapped=('flag', False),
    **own,
  )
  add(
    t.colt,
    'masks levels score',
    two,
    trains=('functions', [train, train]),
    evaluate=('function', lambda s: {}),
    vmapped=('flag', False),
    resume=('ticket', None),
    prune=('function', functools.partial(lth.prune, fraction=0.5)),
    **own,
  )
  add(
    t.core_and_specialists,
    masks=('trees of masks', [MASKS, FULL]),
    reading=('word', 'without_core'),
  )
  add(
    t.early_bird,
    '',
    two,
    train_epoch=('function', lambda s: s),
    state=('anything', PARAMS),
    masks_of=('function', lambda s: MASKS),
    epochs=('count', 3),
    window=('count', 2),
    threshold=('closed share', 0.1),
  )
  add(t.fresh_slots, tx=('optimizer', TX), opt_state=('optimizer state', STATE))
  add(t.overlap_against_chance, masks=('trees of masks', [MASKS, FULL]))
  add(
    t.random_quotas,
    'key masks',
    quotas=('quotas', {'hidden/kernel': 3, 'output/kernel': 2}),
  )
  for f in (t.random_signs, t.reshuffle):
    add(f, 'key params masks')
  pair = {'params': PARAMS, 'opt_state': STATE, 'step': 0}
  for f in (t.rewind_learning_rate,):
    add(f, start=('state', pair), trained=('state', pair))
  add(
    t.settled,
    distances=('numbers', [0.1, 0.1]),
    window=('count', 2),
    threshold=('closed share', 0.1),
  )
  add(t.sign_preserved, 'params fresh masks')
  add(t.signed_constant, 'params masks')
  add(
    t.transfer,
    'onto',
    ticket=('ticket', TICKET),
    weights=('flag', False),
    fresh=('texts', 'output/*'),
    params=('function', lambda s: s),
  )
  add(t.with_frozen_dead, 'masks params initial')
  add(t.zero_shrunk, 'params initial masks')
  # linguistic
  add_linguistic(add, folder)
  add_language(add, apply, PARAMS)
  return table
