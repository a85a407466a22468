"""Pruning a program while it runs."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.calibration import Calibration, _sites, _tokens, stats
from lthjax.calibration._calibrate import hashable, hashable_where
from lthjax.program._interpreter import check_arguments, trace
from lthjax.program._kernels import Where
from lthjax.program._values import run
from lthjax.pruning import _kernels
from lthjax.pruning._blocks import by_block
from lthjax.rules import Rule

Sparsity = Mapping[str, Any]


class PrunedProgram(NamedTuple):
  """What `prune_program` returns.

  Attributes:
    params: pruned params: zero where masks are false.
    masks: tree of masks, `None` where nothing was pruned.
    output: what the pruned program returned.
  """

  params: Any
  masks: Any
  output: Any


def prune_program(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  rule: Rule,
  where: Where | None = None,
  token_mask: jax.Array | None = None,
  masks: chex.ArrayTree | None = None,
  granularity: str = 'site',
  sparsity: Sparsity | None = None,
  calibration: Calibration | None = None,
) -> PrunedProgram:
  """Prunes each kernel when the program reaches it, and goes on with the rest.

  Every kernel sees the activations that the already pruned part of the model
  produces. All calibration data comes in one call. Scans stay scans, so the
  compile time does not grow with depth. Convolutions are matmuls of patches, as
  for `lthjax.calibrate`. Of stacked kernels, such as experts, those that no
  token reaches are pruned by magnitude, with a warning, and what stays of them
  keeps its values. Works under `jax.jit`, where checks of values are left out.
  Compiled once for each function, rule and shape: pass the same function again,
  not a new `lambda`.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays.
    *args: trees of arrays: the calibration data.
    rule: how to prune a kernel, from `lthjax.rules`.
    where: the leaves, as for `lthjax.calibrate`.
    token_mask: which tokens count, as for `lthjax.calibrate`.
    masks: prune further: dead weights stay dead, and leaves without a mask stay
      dense.
    granularity: ``'site'`` prunes each matmul before the next one; ``'block'``
      prunes all kernels of a turn of the outermost loop by what the dense turn
      computes, and then runs it again. A kernel outside of the loops is a block
      of its own. Where no kernel is in a loop there are no blocks: see
      `lthjax.prune_blocks`, which takes a list of them.
    sparsity: ``{name: sparsity}`` of leaves that differ from the rule's, such
      as those of `lthjax.densities`; an array where a loop goes over the leaf,
      with a number for each turn.
    calibration: statistics from `lthjax.calibrate`, to prune all at once by the
      activations of the dense model, over as many batches as were added up.

  Returns:
    Pruned params, masks, and the output of the pruned program.

  Raises:
    ValueError: if a leaf cannot be pruned as the program runs: it is never
      multiplied with, used twice, like a tied embedding, or shared by the turns
      of a loop, or the rule updates it but it is squashed or scaled on the way;
      if inputs are not a
      multiple of m; or if statistics of a leaf are all zero, not finite or not
      positive definite.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[[1.0, -4.0], [2.0, 1.0]]] * 3)}
    >>> def apply(params, x):
    ...   return jax.lax.scan(lambda x, w: (x @ w, None), x, params['w'])[0]
    >>> x = jnp.array([[10.0, 1.0]])
    >>> rule = lth.rules.wanda(sparsity=0.5)
    >>> pruned = lth.prune_program(apply, params, x, rule=rule)
    >>> pruned.masks['w'][0]
    Array([[ True,  True],
           [False, False]], dtype=bool)
    >>> bool((pruned.output == apply(pruned.params, x)).all())
    True
  """
  _checks.function('apply', apply, 'apply(params, *args)')
  leaves = _checks.arrays(params)
  if not isinstance(rule, Rule):
    raise TypeError(
      f'`rule` was {_checks.describe(rule)}, but must be a rule, such as'
      ' `lthjax.rules.wanda(0.5)`.'
    )
  _checks.one_of('granularity', granularity, ('site', 'block'))
  check_arguments(params, *args)
  if sparsity is not None and rule.target.pattern is not None:
    raise ValueError(
      f'`sparsity` cannot go with a rule for {rule.target.pattern}, which fixes'
      ' it. Leave it out, or make the rule with `sparsity=`.'
    )
  if calibration is not None:
    _check_calibration(rule, calibration)
  _tokens.check(token_mask, args)
  if masks is not None:
    trees.check_like(masks, params, 'params')
  alive = {} if masks is None else trees.prunable(masks)
  if masks is not None and not alive:
    raise ValueError('`masks` prunes no leaf: all of its leaves are None.')
  ratios = _kernels.ratios(sparsity, leaves)
  found, notes, output = _prune(
    hashable(apply),
    rule,
    hashable_where(where),
    granularity,
    masks is not None,
    params,
    args,
    token_mask,
    alive,
    ratios,
    calibration,
  )
  _check_values(rule, notes)
  new, new_masks = found
  _, structure = trees.flatten(params)
  return PrunedProgram(
    structure.unflatten({**leaves, **new}.values()),
    structure.unflatten(new_masks.get(name) for name in leaves),
    output,
  )


@functools.partial(
  jax.jit, static_argnames=('apply', 'rule', 'where', 'granularity', 'nested')
)
def _prune(
  apply,
  rule,
  where,
  granularity,
  nested,
  params,
  args,
  token_mask,
  alive,
  ratios,
  calibration,
):
  closed, _ = trace(apply, params, *args)
  where = _narrowed(where, alive) if nested else where
  sites = _sites.find(closed, params, where)
  leaves = trees.by_name(params)
  running = calibration is None
  tables = _sites.looked_up(closed, params, sites) if running else set()
  _kernels.check(sites, rule, leaves, tables)
  feeds: Any = _kernels.feeds(sites, alive, ratios)
  if running:
    tokens = _tokens.locate(closed, args, sites, token_mask)
    if granularity == 'block':
      _check_loops(sites)
      visits, feeds = by_block(rule, sites, tokens, leaves, feeds)
    else:
      visits = {
        path: functools.partial(
          _kernels.visit, rule, site, tokens[site.use.path], leaves
        )
        for site in sites.values()
        for path in site.use.paths
      }
    output, notes = run(apply, visits, params, *args, feeds=feeds)
    notes = _kernels.flat_notes(notes)
  else:
    output = None
    notes = _kernels.at_once(rule, sites, leaves, feeds, calibration)
  new, masks = _kernels.to_leaves(sites, notes, leaves, alive, rule)
  if not running:
    _, structure = trees.flatten(params)
    output = apply(structure.unflatten({**leaves, **new}.values()), *args)
  named = {sites[path].names: note for path, note in notes.items()}
  faults = {
    name: note._replace(keep=None, value=None) for name, note in named.items()
  }
  return (new, masks), faults, output


def _check_calibration(rule: Rule, calibration: Any) -> None:
  """Raises unless sums can be those of squares, where squares are needed."""
  if not isinstance(calibration, Calibration):
    raise _checks.wrong_type(
      'calibration', calibration, 'come from `lthjax.calibrate`'
    )
  if rule.needs is stats.squares:
    known = trees.concrete(calibration.sums) or {}
    refuse(
      [name for name, x in known.items() if (np.asarray(x) < 0).any()],
      '`calibration` has negative sums for {}, but the rule needs sums of'
      ' squares. Calibrate with `stat=lthjax.stats.squares`.',
    )


def _check_loops(sites: Mapping[Any, _sites.Site]) -> None:
  """Raises if no kernel is in a loop."""
  if not any(site.use.scans for site in sites.values()):
    names = ', '.join(dict.fromkeys(site.names for site in sites.values()))
    raise ValueError(
      '`granularity="block"` prunes the kernels of a turn of a loop together,'
      f' but there is no loop over {names}. Stack equal blocks and run them'
      ' with `jax.lax.scan`, pass a list of blocks to `lthjax.prune_blocks`, or'
      ' use `granularity="site"`.'
    )


def _narrowed(where: Where | None, alive: Mapping[str, Any]):
  """Selects among the leaves that have a mask."""
  if where is None:
    return lambda name, leaf: name in alive
  if callable(where):
    return lambda name, leaf: name in alive and where(name, leaf)
  globs = [where] if isinstance(where, str) else list(where)
  return lambda name, leaf: name in alive and trees.matches(globs, name)


def _check_values(rule: Rule, faults: Mapping[str, Any]) -> None:
  """Raises where kernels or statistics could not be used, if they are known."""
  known = trees.concrete(
    {str(i): x for i, x in enumerate(jax.tree.leaves(faults))}
  )
  if known is None:
    return
  values = jax.tree.map(np.asarray, faults)
  refuse(
    [name for name, note in values.items() if note.broken.any()],
    'Kernels must be finite to be pruned, but those of {} hold NaN or infinity.'
    ' Train again from the last good params, or leave these leaves out with'
    ' `where=`.',
  )
  if rule.needs is None:
    return
  wrong = [
    f'{name} {text}'
    for name, note in values.items()
    for text, bad in (
      ('are all zero', note.zero.any()),
      ('are not finite', note.infinite.any()),
      (
        'give no positive definite Gram matrix',
        note.failed.any() and not note.infinite.any(),
      ),
    )
    if bad
  ]
  if wrong:
    raise ValueError(
      f'Kernels cannot be pruned by their activations: those of'
      f' {"; those of ".join(wrong)}. Look for NaN in the params and inputs,'
      ' for inputs of zeros, and give more tokens or more `damping=`, or leave'
      ' these leaves out with `where=`.'
    )
  if unseen := [
    f'{note.unseen.sum()} of {name}'
    for name, note in values.items()
    if note.unseen.any()
  ]:
    warnings.warn(
      f'No token has reached some of the stacked kernels: {", ".join(unseen)}.'
      ' They were pruned by magnitude. Give more calibration data, or remove'
      ' such experts by `lthjax.experts.cut`.',
      stacklevel=3,
    )
  few = [
    name
    for name, note in values.items()
    if rule.updates and note.tokens_per_input.min() < 2
  ]
  if few:
    warnings.warn(
      f'There are fewer than 2 tokens per input for {", ".join(few)}, so their'
      ' new weights fit the calibration data more than the model. Give 5 tokens'
      ' per input or more, or use `lthjax.rules.wanda`.',
      stacklevel=3,
    )
