"""A resumable training loop over one value that holds everything.

The state holds the step, so that the batch at a step, the learning rate and the
random numbers are functions of the state alone. Training to step k and from
there to the end goes through the same compiled loop as training to the end, and
gives the same bits. A rewound ticket is therefore an old value of the state
with other masks in it.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import trees
from lthjax.opt_state import (
  forward_params,
  keeps_dense_params,
  set_masks,
  share_steps,
)

Loss = Callable[
  [chex.ArrayTree, chex.ArrayTree, Any, chex.PRNGKey],
  tuple[jax.Array, chex.ArrayTree],
]
Metrics = dict[str, jax.Array]


class Best(NamedTuple):
  """The evaluation with the lowest loss so far.

  Attributes:
    step: when it was, int32.
    loss: how low, float32; infinity before the first evaluation.
    params: params at that step, as the network ran with them.
    model_state: model state at that step.
  """

  step: chex.Array
  loss: chex.Array
  params: chex.ArrayTree
  model_state: chex.ArrayTree


class TrainState(NamedTuple):
  """Everything that training depends on.

  With replicates all leaves but ``step`` have a leading axis, one entry a run.

  Attributes:
    step: number of steps done, int32.
    params: trained params.
    opt_state: state of the optimizer, masks included.
    model_state: what the model carries beside params, such as the running
      statistics of BatchNorm; an empty dict if nothing.
    key: random key of the data order and of the loss's noise.
    best: the best evaluation so far: what early stopping would return.
  """

  step: chex.Array
  params: chex.ArrayTree
  opt_state: optax.OptState
  model_state: chex.ArrayTree
  key: chex.PRNGKey
  best: Best


class Trainer(NamedTuple):
  """What `trainer` returns.

  Attributes:
    init: ``init(key) -> state``; with replicates, ``init(keys)``.
    fit: ``fit(state, data, *, until, report=None) -> state`` trains up to the
      step ``until``. After each evaluation ``report(step, metrics)`` is called
      with arrays that may still be being computed.
  """

  init: Callable[[chex.PRNGKey], TrainState]
  fit: Callable[..., TrainState]


def trainer(
  init: Callable[[chex.PRNGKey], tuple[chex.ArrayTree, chex.ArrayTree]],
  loss: Loss,
  tx: optax.GradientTransformation
  | Callable[[chex.PRNGKey], optax.GradientTransformation],
  batch: Callable[[Any, chex.PRNGKey, jax.Array], Any],
  *,
  evaluate: Callable[..., Metrics] | None = None,
  every: int = 100,
  replicated: bool = False,
  scanned: bool = True,
) -> Trainer:
  """Builds a training loop that is compiled once.

  Steps run on the device in chunks of ``every``, without a host round trip a
  step. Masks, seeds, data and the last step are arguments of the compiled loop.
  To save a long run now and then, call ``fit`` for a part of the steps at a
  time: the bits are the same.

  Args:
    init: ``init(key) -> (params, model_state)``, such as a model of
      `lthjax.models` has it.
    loss: ``loss(params, model_state, batch, key) -> (scalar, model_state)``.
    tx: any optax optimizer; `lthjax.static` of it to train tickets. Or
      ``tx(key)`` that makes one, such as ``lambda key: lthjax.rigl(inner,
      lthjax.random_masks(key, sparsity=0.9), ...)``, so that every run draws
      initial masks of its own. Params start under the masks.
    batch: ``batch(data, key, step)``, the batch of a step as a pure function.
    evaluate: ``evaluate(params, model_state, data) -> metrics`` with a scalar
      ``'loss'``, usually on validation data; the state keeps the params of the
      step where it is lowest.
    every: number of steps between evaluations, which happen at its multiples.
    replicated: train several runs side by side with `jax.vmap`; ``init`` of the
      trainer then takes an array of keys.
    scanned: loop over steps on the device. On a CPU, XLA runs convolutions many
      times slower inside a loop (https://github.com/jax-ml/jax/issues/12868):
      turn this off there, and each step is dispatched from Python.

  Returns:
    The pair ``(init, fit)``.

  Raises:
    ValueError: if ``every`` is not positive; from ``fit`` if ``until`` is
      before the step of the state.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> init = lambda key: ({'w': jax.random.normal(key, (2, 1))}, {})
    >>> def loss(params, model_state, x, key):
    ...   return jnp.mean((x @ params['w'] - 1) ** 2), model_state
    >>> batch = lambda data, key, step: data[step % 2]
    >>> train = lth.trainer(init, loss, optax.sgd(0.1), batch)
    >>> state = train.fit(train.init(jax.random.key(0)), jnp.eye(2), until=200)
    >>> state.params['w'].ravel().round(3)
    Array([1., 1.], dtype=float32)
  """
  if every < 1:
    raise ValueError(f'`every` was {every}, but must be at least 1 step.')

  # Keys are in the state from `init` on: for updates, any will do.
  update = (tx(jax.random.key(0)) if callable(tx) else tx).update

  def init_run(key):
    init_key, run_key = jax.random.split(key)
    params, model_state = init(init_key)
    own = tx(trees.fold_in_name(key, 'tx')) if callable(tx) else tx
    opt_state = own.init(params)
    if not keeps_dense_params(opt_state):
      params = forward_params(opt_state, params)
    return params, opt_state, model_state, run_key

  def train_step(params, opt_state, model_state, key, step, data):
    batch_key, noise_key = jax.random.split(key)
    grads, model_state = jax.grad(loss, has_aux=True)(
      _run_params(opt_state, params),
      model_state,
      batch(data, batch_key, step),
      jax.random.fold_in(noise_key, step),
    )
    updates, opt_state = update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, model_state

  def measure(params, model_state, best, step, data):
    assert evaluate is not None
    metrics = evaluate(params, model_state, data)
    if 'loss' not in metrics or jnp.ndim(metrics['loss']):
      raise ValueError(
        "`evaluate` must return a scalar 'loss' among its metrics, but returned"
        f' {", ".join(f"{k} {jnp.shape(v)}" for k, v in metrics.items())}.'
      )
    loss_now = jnp.asarray(metrics['loss'], jnp.float32)
    now = Best(step, loss_now, params, model_state)
    better = now.loss < best.loss
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), now, best)
    return best, metrics

  if replicated:
    init_run = jax.vmap(init_run)
    train_run = train_step

    def train_step(params, opt_state, model_state, key, step, data):
      opt_state, axes = share_steps(opt_state)
      return jax.vmap(train_run, in_axes=(0, axes, 0, 0, None, None))(
        params, opt_state, model_state, key, step, data
      )

    measure = jax.vmap(measure, in_axes=(0, 0, 0, None, None))

  @jax.jit
  def one_step(state, data):
    params, opt_state, model_state = train_step(
      state.params,
      state.opt_state,
      state.model_state,
      state.key,
      state.step,
      data,
    )
    return state._replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      model_state=model_state,
    )

  @jax.jit
  def scan_steps(state, data, until):
    def body(_, state):
      return one_step(state, data)

    return jax.lax.fori_loop(state.step, until, body, state)

  @jax.jit
  def evaluate_state(state, data):
    params = _run_params(state.opt_state, state.params)
    best, metrics = measure(
      params, state.model_state, state.best, state.step, data
    )
    return state._replace(best=best), metrics

  @jax.jit
  def init_state(key):
    params, opt_state, model_state, run_key = init_run(key)
    start = jnp.int32(0)
    best = no_best(start, _run_params(opt_state, params), model_state, run_key)
    return TrainState(start, params, opt_state, model_state, run_key, best)

  def init_checked(key):
    if jnp.ndim(jax.random.key_data(key)) != 1 + replicated:
      raise ValueError(
        'The trainer has `replicated=True` and needs an array of keys, such as'
        ' `jax.random.split(key, 3)`.'
        if replicated
        else 'The trainer needs one key; for several runs side by side, build'
        ' it with `replicated=True`.'
      )
    return init_state(key)

  def fit(state, data, *, until, report=None):
    if report is not None and evaluate is None:
      raise ValueError(
        '`report` is called after evaluations, but this trainer has no'
        ' `evaluate`: give `trainer` one.'
      )
    step, until = int(state.step), operator.index(until)
    if until < step:
      raise ValueError(
        f'The state is at step {step} already, but `until` was {until}. Give'
        ' a later step, or start from an earlier state.'
      )
    while step < until:
      start, step = step, min(until, (step // every + 1) * every)
      if scanned:
        state = scan_steps(state, data, jnp.int32(step))
      else:
        for _ in range(start, step):
          state = one_step(state, data)
      if evaluate is not None and step % every == 0:
        state, metrics = evaluate_state(state, data)
        if report is not None:
          report(step, metrics)
    return state

  return Trainer(init_checked, fit)


def with_masks(state: TrainState, masks: chex.ArrayTree) -> TrainState:
  """Puts masks into the params and the optimizer state of a training state.

  The params stay dense where the optimizer keeps them so. The best evaluation
  so far is forgotten, as it was that of other masks.

  Args:
    state: state whose optimizer is `lthjax.static` or another of `lthjax`.
    masks: tree of masks that fits the params.

  Returns:
    The state of a ticket, ready to train.

  Raises:
    ValueError: if the masks do not fit.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> masks = {'w': jnp.array([[True], [False]])}
    >>> train = lth.trainer(
    ...   init=lambda key: ({'w': jnp.ones((2, 1))}, {}),
    ...   loss=lambda params, state, x, key: (jnp.sum(params['w']), state),
    ...   tx=lth.static(optax.sgd(0.5), lth.masks.full(masks)),
    ...   batch=lambda data, key, step: data,
    ... )
    >>> state = lth.training.with_masks(train.init(jax.random.key(0)), masks)
    >>> train.fit(state, None, until=1).params['w'].ravel()
    Array([0.5, 0. ], dtype=float32)
  """
  opt_state = set_masks(state.opt_state, masks)
  params = forward_params(opt_state, state.params)
  return state._replace(
    params=state.params if keeps_dense_params(opt_state) else params,
    opt_state=opt_state,
    # A copy, so that the whole state can be donated.
    best=no_best(
      state.step,
      jax.tree.map(jnp.copy, params),
      jax.tree.map(jnp.copy, state.model_state),
      state.key,
    ),
  )


def no_best(
  step: chex.Array,
  params: chex.ArrayTree,
  model_state: chex.ArrayTree,
  key: chex.PRNGKey,
) -> Best:
  """Starts to look for the best evaluation.

  Args:
    step: the present step.
    params: the present params, of one run or of replicates.
    model_state: the present model state.
    key: key of the run, or keys of the replicates.

  Returns:
    These params as the best, at a loss of infinity.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import training
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> training.no_best(jnp.int32(3), {'w': jnp.ones((2, 5))}, {}, keys).loss
    Array([inf, inf], dtype=float32)
  """
  # (): one run; (n,): replicates. Keys of the old style end in an axis of two.
  runs = jax.random.key_data(key).shape[:-1]
  return Best(
    step=jnp.full(runs, step, jnp.int32),
    loss=jnp.full(runs, jnp.inf, jnp.float32),
    params=params,
    model_state=model_state,
  )


def _run_params(
  opt_state: optax.OptState, params: chex.ArrayTree
) -> chex.ArrayTree:
  """Returns what the network runs with, at no cost where params are sparse."""
  if keeps_dense_params(opt_state):
    return forward_params(opt_state, params)
  return params
