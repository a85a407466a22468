"""A resumable training loop over one value that holds everything.

The state holds the step, so that the batch at a step, the learning rate and the
random numbers are functions of the state alone. Training to step k and from
there to the end goes through the same compiled loop as training to the end, and
gives the same bits. A rewound ticket is therefore an old value of the state
with other masks in it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import _checks, _sharding, trees
from lthjax.opt_state import forward_params, keeps_dense_params, share_steps
from lthjax.training._checks import (
  check_functions,
  check_keys,
  first_and_last_step,
  update_of,
)
from lthjax.training._state import (
  Best,
  DivergedError,
  TrainState,
  no_best,
  shape_of_runs,
)

Init = Callable[[chex.PRNGKey], tuple[Any, Any]]
Loss = Callable[
  [chex.ArrayTree, chex.ArrayTree, Any, chex.PRNGKey],
  tuple[jax.Array, Any],
]
Metrics = dict[str, jax.Array]
Optimizer = (
  optax.GradientTransformation
  | Callable[[chex.PRNGKey], optax.GradientTransformation]
)


class Trainer(NamedTuple):
  """The result of `trainer`.

  Attributes:
    init: ``init(key) -> state``; with vmapped runs, ``init(keys)``.
    fit: ``fit(state, data, *, until, report=None, stop=None) -> state`` trains
      up to the step ``until``. After each evaluation, ``report(step, metrics)``
      is called with arrays that may still be being computed. If ``stop(step)``,
      asked as often, is true, training ends at that step; see
      `lthjax.runs.termination`.
  """

  init: Callable[[chex.PRNGKey], TrainState]
  fit: Callable[..., TrainState]


def trainer(
  init: Init,
  loss: Loss,
  tx: Optimizer,
  batch: Callable[[Any, chex.PRNGKey, jax.Array], Any],
  *,
  evaluate: Callable[..., Metrics] | None = None,
  every: int = 100,
  vmapped: bool = False,
  scanned: bool = True,
  check_finite: bool = True,
) -> Trainer:
  """Builds a training loop that is compiled once.

  Steps run on the device in chunks of ``every``, without a round trip to the
  host per step. Masks, seeds, data and the last step are arguments of the
  compiled loop. To save a long run now and then, call ``fit`` for a part of the
  steps at a time: the bits are the same.

  Args:
    init: ``init(key) -> (params, model_state)``, as in `lthjax.models`.
    loss: ``loss(params, model_state, batch, key) -> (scalar, model_state)``.
    tx: any optax optimizer; for tickets, `lthjax.static` of one. Or a function
      ``tx(key)`` that makes one, such as ``lambda key: lthjax.rigl(inner,
      lthjax.random_masks(key, sparsity=0.9), ...)``, so that every run draws
      initial masks of its own. The key may decide only what ``init`` puts into
      the optimizer state: all runs are updated by one optimizer, which ``tx``
      makes from an arbitrary key.
    batch: ``batch(data, key, step)``, the batch at a step as a pure function.
    evaluate: ``evaluate(params, model_state, data) -> metrics`` with a scalar
      ``'loss'``, usually on validation data; the state keeps the params of the
      step where it is lowest.
    every: number of steps between evaluations, which happen at its multiples.
    vmapped: whether to train several runs side by side with `jax.vmap`;
      ``init`` of the trainer then takes an array of keys.
    scanned: loop over steps on the device. On a CPU, XLA runs convolutions many
      times slower inside a loop (https://github.com/jax-ml/jax/issues/12868):
      turn this off there, and each step is dispatched from Python.
    check_finite: raise `lthjax.training.DivergedError` once the loss of every
      run has become NaN or infinite, checked every ``every`` steps. Of several
      runs, those that diverge are marked in ``state.diverged`` and the others
      train on.

  Returns:
    The pair ``(init, fit)``.

  Raises:
    DivergedError: from ``fit``.

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
  every = _checks.at_least('every', every, 1)
  flags = {'vmapped': vmapped, 'scanned': scanned, 'check_finite': check_finite}
  for name, x in flags.items():
    _checks.flag(name, x)
  check_functions(init, loss, tx, batch, evaluate)
  # Updates read masks and keys from the state, so that any key will do here.
  update = update_of(tx)
  start = functools.partial(_start, init, tx)
  step = functools.partial(_step, loss, batch, update)
  measure = functools.partial(_measure, evaluate)
  has_bad = _has_bad
  if vmapped:
    start, has_bad = jax.vmap(start), jax.vmap(has_bad)
    step = functools.partial(_step_runs, step)
    measure = jax.vmap(measure, in_axes=(0, 0, 0, None, None))
  programs = _compile(start, step, measure, has_bad)

  def init_checked(key):
    check_keys(key, vmapped)
    return programs.init(key)

  def fit(state, data, *, until, report=None, stop=None):
    now, until = first_and_last_step(state, until)
    if stop is not None:
      _checks.function('stop', stop, 'stop(step)')
    if report is not None and evaluate is None:
      raise ValueError(
        '`report` is called after evaluations, but this trainer has no'
        ' `evaluate`: pass one to `trainer`.'
      )
    advance = functools.partial(programs.advance, scanned)
    while now < until:
      before, now = state, min(until, (now // every + 1) * every)
      state = advance(before, data, now)
      if check_finite:
        state = programs.mark_bad(state)
        _raise_if_diverged(state, functools.partial(advance, before, data))
      if evaluate is not None and now % every == 0:
        state, metrics = programs.evaluate(state, data)
        if report is not None:
          report(now, metrics)
      if stop is not None and now < until and stop(now):
        break
    return state

  return Trainer(init_checked, fit)


class _Programs(NamedTuple):
  """The compiled parts of a training loop, for one run or several."""

  init: Callable[..., TrainState]
  one_step: Callable[..., TrainState]
  scan_steps: Callable[..., TrainState]
  mark_bad: Callable[[TrainState], TrainState]
  evaluate: Callable[..., tuple[TrainState, Metrics]]

  def advance(
    self, scanned: bool, state: TrainState, data: Any, until: int
  ) -> TrainState:
    """Trains up to a step; does nothing if the state is there already."""
    if scanned:
      return self.scan_steps(state, data, jnp.int32(until))
    for _ in range(int(state.step), until):
      state = self.one_step(state, data)
    return state


def _compile(start, step, measure, has_bad) -> _Programs:
  """Compiles what happens to the state, each part once."""

  @_on_devices_of_seeds
  def init(key):
    params, opt_state, model_state, run_key = start(key)
    seen, first = _run_params(opt_state, params), jnp.int32(0)
    best = no_best(first, seen, model_state, run_key)
    never = jnp.full_like(best.step, -1)
    return TrainState(
      first, params, opt_state, model_state, run_key, best, never
    )

  def clean(state):
    return state._replace(params=_hold_zeros(state.opt_state, state.params))

  def step_from(state, data):
    params, opt_state, model_state, finite = step(
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
      diverged=_mark(state, ~finite),
    )

  @_on_devices_of_seeds
  def one_step(state, data):
    return step_from(clean(state), data)

  @_on_devices_of_seeds
  def scan_steps(state, data, until):
    # The last step is an argument, so that another one compiles nothing.
    return jax.lax.fori_loop(
      state.step, until, lambda _, state: step_from(state, data), clean(state)
    )

  @_on_devices_of_seeds
  def mark_bad(state):  # The last update may have made weights infinite.
    params = _run_params(state.opt_state, state.params)
    return state._replace(diverged=_mark(state, has_bad(params)))

  @_on_devices_of_seeds
  def evaluate(state, data):
    params = _run_params(state.opt_state, state.params)
    best, metrics = measure(
      params, state.model_state, state.best, state.step, data
    )
    return state._replace(best=best), metrics

  return _Programs(init, one_step, scan_steps, mark_bad, evaluate)


def _on_devices_of_seeds(f: Callable[..., Any]) -> Any:
  """Compiles a function of a state, or of keys, whose seeds may be spread.

  Where the type of the keys says over which axes of a mesh, each device runs
  its own seeds: without messages, and whatever the function makes.
  """

  def run(first, *others):
    key = first.key if isinstance(first, TrainState) else first
    sharding = _sharding.in_type(key) if shape_of_runs(key) else None
    if sharding is None or sharding.spec[0] is None:
      return f(first, *others)
    names = sharding.spec[0]
    seeds = jax.P(names)
    state = TrainState._make([jax.P(), *[seeds] * 6])
    return jax.shard_map(
      f,
      mesh=sharding.mesh,
      in_specs=(
        state if first is not key else seeds,
        *(jax.P() for _ in others),
      ),
      out_specs=(state, seeds) if f.__name__ == 'evaluate' else state,
      axis_names={names} if isinstance(names, str) else {*names},
      check_vma=False,  # Loops begin with constants, which vary later.
    )(first, *others)

  return jax.jit(run)


def _start(init: Init, tx: Optimizer, key: chex.PRNGKey) -> tuple[Any, ...]:
  """Draws one run: params, optimizer state, model state and its key."""
  init_key, run_key = jax.random.split(key)
  drawn = init(init_key)
  if not isinstance(drawn, tuple) or len(drawn) != 2:
    raise TypeError(
      f'`init` returned {_checks.describe(drawn)}, but must return the pair'
      ' `(params, model_state)`; the model state is `{}` if there is none.'
    )
  params, model_state = drawn
  # Its own key, so that masks do not depend on how `init` draws the params.
  own = tx(trees.fold_in_name(key, 'tx')) if callable(tx) else tx
  opt_state = own.init(params)
  return _hold_zeros(opt_state, params), opt_state, model_state, run_key


def _step(
  loss, batch, update, params, opt_state, model_state, key, step, data
) -> tuple[Any, ...]:
  """Trains one run for one step; also returns whether the loss was finite."""
  # Functions of the state alone: a rewound run repeats its data and noise.
  batch_key, noise_key = jax.random.split(key)
  (value, model_state), grads = jax.value_and_grad(loss, has_aux=True)(
    _run_params(opt_state, params),
    model_state,
    batch(data, batch_key, step),
    jax.random.fold_in(noise_key, step),
  )
  updates, opt_state = update(grads, opt_state, params)
  trained: Any = optax.apply_updates(params, updates)
  params = _hold_zeros(opt_state, trained)
  return params, opt_state, model_state, jnp.isfinite(value)


def _run_params(
  opt_state: optax.OptState, params: chex.ArrayTree
) -> chex.ArrayTree:
  """Returns what the network runs with, at no cost where params are sparse."""
  if keeps_dense_params(opt_state):
    return forward_params(opt_state, params)
  return params


def _hold_zeros(
  opt_state: optax.OptState, params: chex.ArrayTree
) -> chex.ArrayTree:
  """Puts +0.0 at dead weights, where updates of -w would leave NaN as NaN."""
  # XLA fuses this into the update. Before the loss, it would cost a pass of its
  # own over the params.
  if keeps_dense_params(opt_state):
    return params
  return forward_params(opt_state, params)


def _step_runs(
  step, params, opt_state, model_state, key, count, data
) -> tuple[Any, ...]:
  """Trains several runs for one step."""
  # With one step for all runs, `vmap` takes the branch of a move only then.
  opt_state, axes = share_steps(opt_state)
  return jax.vmap(step, in_axes=(0, axes, 0, 0, None, None))(
    params, opt_state, model_state, key, count, data
  )


def _measure(
  evaluate, params, model_state, best, step, data
) -> tuple[Best, Metrics]:
  """Evaluates one run, and keeps it if it is the best so far."""
  metrics = evaluate(params, model_state, data)
  if 'loss' not in metrics or jnp.ndim(metrics['loss']):
    raise ValueError(
      "`evaluate` must return a scalar 'loss' among its metrics, but returned"
      f' {", ".join(f"{k} {jnp.shape(v)}" for k, v in metrics.items())}.'
    )
  loss = jnp.asarray(metrics['loss'], jnp.float32)
  now = Best(step, loss, params, model_state)
  better = now.loss < best.loss  # Never for NaN; the first of equals stays.
  return jax.tree.map(lambda a, b: jnp.where(better, a, b), now, best), metrics


def _has_bad(params: chex.ArrayTree) -> jax.Array:
  """Returns whether any weight of one run is NaN or infinite."""
  bad = [
    ~jnp.isfinite(x).all()
    for x in jax.tree.leaves(params)
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return jnp.any(jnp.array(bad)) if bad else jnp.array(False)


def _mark(state: TrainState, bad: jax.Array) -> jax.Array:
  """Returns ``diverged``, with the current step where a run is bad now."""
  new = bad & (state.diverged < 0)
  return jnp.where(new, state.step, state.diverged).astype(jnp.int32)


def _raise_if_diverged(
  state: TrainState, train_until: Callable[[int], TrainState]
) -> None:
  """Raises if no run is left whose loss is finite."""
  known = trees.concrete({'diverged': state.diverged})
  if known is None or (diverged := known['diverged']).min() < 0:
    return
  step = int(diverged.max())
  # Steps repeat to the bit, so that no older state has to be kept.
  last = train_until(step - 1)
  raise DivergedError(
    f'The training loss became NaN or infinite at step {step}. Lower the'
    ' learning rate, clip gradients, or train on with'
    f' `trainer(..., check_finite=False)`. The state at step {int(last.step)}'
    ' is the `state` of this error.',
    step,
    last,
  )
