"""Searches for winning tickets: train, prune, rewind, repeat."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, pruning, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.pruning._checks import check_nan
from lthjax.scores import magnitude
from lthjax.tickets._checks import (
  State,
  as_functions,
  check_resume,
  check_trained,
  check_vmapped,
  watch,
)
from lthjax.tickets._rewind import Rewind, rewind_weights
from lthjax.training._state import field

Train = Callable[[State, chex.ArrayTree], State]
Prune = Callable[[chex.ArrayTree, chex.ArrayTree], chex.ArrayTree]
Score = Callable[..., chex.ArrayTree]

Evaluate = Callable[[State], Any]
Params = Callable[[State], chex.ArrayTree]

FIFTH: Prune = functools.partial(pruning.prune, fraction=0.2)
find_params: Params = functools.partial(field, name='params')


class Ticket(NamedTuple):
  """One level: masks, where their training started and where it led.

  Attributes:
    level: number of prunings so far; 0 is the dense network.
    density: alive share of the prunable weights.
    masks: tree of masks.
    start: the state that training started from, before the masks are applied.
    trained: the state that training returned; from `lthjax.tickets.colt`, a
      tuple with one state per part.
    metrics: the result of ``evaluate`` on the trained state; from
      `lthjax.tickets.colt`, a tuple with one result per part.
  """

  level: int
  density: float
  masks: Any
  start: State
  trained: State
  metrics: Any


def imp(
  train: Train,
  state: State,
  masks: chex.ArrayTree,
  *,
  levels: int,
  prune: Prune = FIFTH,
  score: Score = magnitude,
  rewind: Rewind = rewind_weights,
  evaluate: Evaluate | None = None,
  params: Params = find_params,
  vmapped: bool = False,
  resume: Ticket | None = None,
) -> Iterator[Ticket]:
  """Finds tickets by iterative magnitude pruning with rewinding.

  Level 0 trains the network under the given masks. Every further level prunes
  by the scores of the trained weights, rewinds, and trains again.

  Args:
    train: ``train(state, masks) -> state`` applies the masks (see
      `lthjax.training.with_masks`) and trains to the end. It must return a new
      state and neither change nor donate the one it was given.
    state: what to rewind to: the state at initialization, or after k steps of
      dense training for late rewinding.
    masks: initial tree of masks, such as ``lthjax.masks.full(params)``.
    levels: number of trainings, including that of level 0.
    prune: ``prune(scores, masks) -> masks`` of the next level, by default
      ``functools.partial(lthjax.prune, fraction=0.2)``. It is tried out on
      scores of one before anything is trained.
    score: ``score(trained_params)`` or ``score(trained_params,
      initial_params)``, where initial means those of ``state``.
    rewind: ``rewind(state, trained) -> state`` from which a level starts:
      `rewind_weights`, `rewind_learning_rate`, `fine_tune` or your own.
    evaluate: ``evaluate(trained_state)``, kept as ``ticket.metrics``.
    params: ``params(state)``, by default the field ``params`` of the state.
    vmapped: whether params and masks have a leading axis of independent runs;
      each is then pruned on its own, by `jax.vmap` of ``prune``.
    resume: the last ticket of an interrupted search, to go on from. The tickets
      are those of the search without the interruption.

  Yields:
    One `Ticket` per level.

  Example:
    >>> import functools
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> def train(params, masks):  # The state can be anything; here: params.
    ...   return lth.masks.apply(masks, {'w': params['w'] * 2})
    >>> tickets = lth.tickets.imp(
    ...   train,
    ...   params,
    ...   lth.masks.full(params),
    ...   levels=3,
    ...   prune=functools.partial(lth.prune, fraction=0.5),
    ...   params=lambda state: state,
    ... )
    >>> [(ticket.level, ticket.density) for ticket in tickets]
    [(0, 1.0), (1, 0.5), (2, 0.25)]

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, section 2. Frankle et al., Linear Mode
    Connectivity and the Lottery Ticket Hypothesis, arXiv:1912.05671, algorithm
    2 (late rewinding).
  """
  levels = _checks.at_least('levels', levels, 1)
  search = Search(state, masks, score, evaluate, params, vmapped)
  search.check([train], [prune], rewind)
  check_resume(resume, masks, state)

  def first():
    return search.level(train, 0, state, masks)

  def following(ticket):
    # Algorithm 2 of arXiv:1912.05671: prune, rewind, train again.
    start = rewind(state, ticket.trained)
    kept = search.cut(prune, ticket.trained, ticket.masks)
    return search.level(train, ticket.level + 1, start, kept)

  return run_levels(search, levels, first, following, resume)


def one_shot(
  train: Train,
  state: State,
  masks: chex.ArrayTree,
  *,
  prunes: Sequence[Prune],
  score: Score = magnitude,
  rewind: Rewind = rewind_weights,
  evaluate: Evaluate | None = None,
  params: Params = find_params,
  vmapped: bool = False,
) -> Iterator[Ticket]:
  """Finds tickets by pruning the trained dense network once to each size.

  The counterpart of `imp`: every ticket is cut from the network of level 0,
  which is trained once. ``prunes`` has one ``prune(scores, masks) -> masks``
  per ticket; the other arguments are those of `imp`.

  Yields:
    The dense network as level 0, then one `Ticket` per entry of ``prunes``.

  Example:
    >>> import functools
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> tickets = lth.tickets.one_shot(
    ...   lambda params, masks: lth.masks.apply(masks, params),
    ...   params,
    ...   lth.masks.full(params),
    ...   prunes=[
    ...     functools.partial(lth.prune, sparsity=s) for s in (0.25, 0.75)
    ...   ],
    ...   params=lambda state: state,
    ... )
    >>> [ticket.density for ticket in tickets]
    [1.0, 0.75, 0.25]

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 2
    ("one-shot pruning").
  """
  prunes = as_functions('prunes', prunes)
  search = Search(state, masks, score, evaluate, params, vmapped)
  search.check([train], prunes, rewind)

  @functools.cache  # All tickets are cut from one training.
  def dense():
    return search.level(train, 0, state, masks)

  def following(ticket):
    trained = dense().trained
    kept = search.cut(prunes[ticket.level], trained, masks)
    return search.level(train, ticket.level + 1, rewind(state, trained), kept)

  return run_levels(search, len(prunes) + 1, dense, following)


def run_levels(
  search: 'Search',
  levels: int,
  first: Callable[[], Ticket],
  following: Callable[[Ticket], Ticket],
  resume: Ticket | None = None,
) -> Iterator[Ticket]:
  """Yields the first ticket and those that follow, or goes on from one."""
  who = '`evaluate`, `score`, `rewind` or the loop over the tickets'
  check_unchanged = watch(search.state, search.params, who)
  ticket = resume
  if ticket is None:
    ticket = first()
    check_unchanged()
    yield ticket
  while ticket.level + 1 < levels:
    check_unchanged()
    ticket = following(ticket)
    check_unchanged()
    yield ticket


class Search(NamedTuple):
  """What all levels of a search share."""

  state: State
  masks: Any
  score: Score
  evaluate: Evaluate | None
  params: Params
  vmapped: bool

  def level(
    self, train: Train, number: int, start: State, masks: chex.ArrayTree
  ) -> Ticket:
    """Trains and evaluates one ticket."""
    self._check_alive(masks, number)
    check_unchanged = watch(start, self.params)
    trained = train(start, masks)
    check_unchanged()  # Every later level starts from this state again.
    if trained is None:
      raise TypeError('`train` returned None, but must return a trained state.')
    check_trained(masks, start, trained, self.params(trained))
    metrics = None if self.evaluate is None else self.evaluate(trained)
    density = masks_lib.density(masks)
    return Ticket(number, density, masks, start, trained, metrics)

  def cut(self, prune: Prune, trained: State, masks: chex.ArrayTree) -> Any:
    """Prunes by the scores of what was trained, every run on its own."""
    params = [self.params(trained)]
    # Zhou's criteria compare with the initial weights; most others do not.
    if _wants_initial(self.score):
      params.append(self.params(self.state))
    scores = self.score(*params)
    if not self.vmapped:
      return prune(scores, masks)
    trees.check_like(masks, scores, 'scores')
    check_nan(scores, masks)  # Under `jax.vmap`, `prune` cannot.
    return jax.vmap(prune)(scores, masks)

  def check(
    self,
    trains: Sequence[Train],
    prunes: Sequence[Prune],
    rewind: Rewind = rewind_weights,
  ) -> None:
    """Raises on bad input before anything is trained."""
    for name, call, functions in (
      ('train', '(state, masks) -> state', trains),
      ('prune', '(scores, masks) -> masks', prunes),
      ('score', '(trained_params) -> scores', [self.score]),
      ('rewind', '(state, trained) -> state', [rewind]),
      ('params', '(state) -> params', [self.params]),
      ('evaluate', '(state)', [] if self.evaluate is None else [self.evaluate]),
    ):
      for function in functions:
        _checks.function(name, function, name + call, classes=False)
    _checks.bool_masks(self.masks)
    trees.check_like(self.masks, self.params(self.state), 'params')
    check_vmapped(self.state, self.vmapped)
    runs = {n: m.shape[:1] for n, m in trees.prunable(self.masks).items()}
    if self.vmapped and len(set(runs.values())) > 1:
      raise ValueError(
        '`vmapped` was True, but the first axes of the masks, which count runs,'
        f' differ: {", ".join(f"{n} {list(s)}" for n, s in runs.items())}.'
      )
    # On scores of one, a bad budget raises now, not after hours of training.
    ones = jax.tree.map(lambda m: jnp.ones_like(m, float), self.masks)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Of layers that such scores empty.
      for prune in prunes:
        kept = (jax.vmap(prune) if self.vmapped else prune)(ones, self.masks)
        trees.check_like(kept, self.params(self.state), 'params')
    self._check_alive(self.masks, 0)

  def check_common(self, masks: chex.ArrayTree, level: int) -> None:
    """Raises if parts have nothing in common in a layer."""
    refuse(
      [name for name, runs in self._alive(masks).items() if not runs.all()],
      f'At level {level}, the parts keep no weight in common in {{}}. Stop'
      ' before that level, or prune less per level.',
    )

  def _check_alive(self, masks: chex.ArrayTree, level: int) -> None:
    """Raises if no weight is left."""
    alive = list(self._alive(masks).values())
    where = ' in some of the runs' if self.vmapped else ''
    if alive and not np.any(alive, axis=0).all():
      raise ValueError(
        f'At level {level}, no weight is alive{where}. Stop before that level,'
        ' or prune less per level.'
      )

  def _alive(self, masks: chex.ArrayTree) -> dict[str, np.ndarray]:
    """Returns whether each leaf has an alive weight: one bool per run."""
    first = int(self.vmapped)
    alive = {
      name: jnp.any(m, axis=tuple(range(first, m.ndim)))
      for name, m in trees.prunable(masks).items()
    }
    return trees.concrete(alive) or {}


def _wants_initial(score: Score) -> bool:
  """Returns whether a score requires the initial params as well."""
  try:
    parameters = inspect.signature(score).parameters.values()
  except (TypeError, ValueError):  # Some callables do not tell.
    return True
  # Only required arguments count: a score may have options with defaults.
  required = [
    p
    for p in parameters
    if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    and p.default is p.empty
  ]
  return len(required) != 1
