"""Programs whose matmuls read sparse activations."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax.activations import _sites

# A threshold, one for each turn of the loops, or a function of activations.
Rule = Any


def sparsify(
  apply: Callable[..., Any],
  rules: Mapping[str, Rule],
  *,
  from_token: int = 0,
) -> Callable[..., Any]:
  """Returns a function in which chosen matmuls read sparse activations.

  At each of them, activations ``x`` with ``|x| <= threshold`` become zero, or
  whatever a function makes of them. The model is not edited: its program is
  followed to the matmuls, also inside scans and calls.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    rules: ``{name or glob: rule}`` over the kernels of the program, where an
      exact name goes first and then the first glob that matches. A rule is a
      threshold: a number, or an array of one for each turn of the loops around,
      as `thresholds` and `teal` return them. Or it is a function of ``[..,
      tokens, inputs]``, such as ``functools.partial(abs_top_k, k=64)``.
    from_token: the first token, along the second axis of the first argument,
      whose activations are sparse.

  Returns:
    ``f(params, *args)`` with the results of ``apply``. Thresholds that are
    arrays may be traced, so one compiled program serves several.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> apply = lambda params, x: x @ params['w']
    >>> f = lth.activations.sparsify(apply, {'w': 1.0})
    >>> f({'w': jnp.eye(4)}, jnp.array([[-3.0, -1.0, 0.5, 2.0]]))
    Array([[-3.,  0.,  0.,  2.]], dtype=float32)

  References:
    Liu et al., Training-Free Activation Sparsity in Large Language Models
    (TEAL), arXiv:2408.14690, definition 1.
  """
  _check(apply, rules)
  from_token = _token(from_token)

  def run(params: chex.ArrayTree, *args: Any) -> Any:
    return _run(apply, rules, from_token, params, args)[0]

  return run


def unread(
  apply: Callable[..., Any],
  rules: Mapping[str, Rule],
  params: chex.ArrayTree,
  *args: Any,
  from_token: int = 0,
) -> dict[str, jax.Array]:
  """Reports the share of the rows of each kernel that no token reads.

  Args:
    apply: as for `sparsify`.
    rules: as for `sparsify`.
    params: tree of arrays.
    *args: one batch.
    from_token: as for `sparsify`; all tokens are counted.

  Returns:
    ``{name: float32[loops..]}``: the mean over tokens of the share of
    activations that are zero, for each turn of the loops around.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> apply = lambda params, x: x @ params['w']
    >>> x = jnp.array([[-3.0, -1.0, 0.5, 2.0]])
    >>> lth.activations.unread(apply, {'w': 1.0}, {'w': jnp.eye(4)}, x)
    {'w': Array(0.5, dtype=float32)}
  """
  _check(apply, rules)
  from_token = _token(from_token)
  _, notes, sites = _run(apply, rules, from_token, params, args)
  return {
    str(use.name): notes[path]
    for path, site in sites.items()
    for use in site.uses
  }


def _run(apply, rules, from_token, params, args) -> Any:
  """The result of a sparse program, and the share of zeros at each site."""
  trees.first_match(rules, _checks.arrays(params), 'rules', 'leaf')
  closed, sites = _sites.find(apply, params, args, list(rules))
  tokens = _sites.tokens_from(closed, args, sites, from_token)
  chosen = {path: _rule(rules, site) for path, site in sites.items()}
  feeds = {
    path: _sites.spread(name, rule, sites[path])
    for path, (name, rule) in chosen.items()
    if not callable(rule)
  }

  def change(site, x, threshold=None):
    _, rule = chosen[site.use.path]
    if threshold is None:
      new = rule(x)
    else:
      new = jnp.where(jnp.abs(x) > threshold, x, jnp.zeros((), x.dtype))
    if (late := tokens[site.use.path]) is not None:
      new = jnp.where(late[:, None], new, x)
    return new, jnp.mean(new == 0, dtype=jnp.float32)

  output, notes = _sites.visit(apply, params, args, sites, change, feeds)
  return output, notes, sites


def _rule(rules: Mapping[str, Rule], site: Any) -> tuple[str, Rule]:
  """Returns the one rule of the leaves at a site."""
  found = {}
  for use in site.uses:
    name = str(use.name)
    glob = name
    if name not in rules:
      glob = next(g for g in rules if trees.matches([g], name))
    found[glob] = name, rules[glob]
  if len(found) > 1:
    raise ValueError(
      f'{site.names} are one operand and read the same activations, so they'
      f' take one rule, but have those of {", ".join(found)}. Give one glob for'
      ' all of them.'
    )
  return next(iter(found.values()))


def _check(apply: Any, rules: Any) -> None:
  _checks.function('apply', apply, 'apply(params, *args)')
  what = 'names or globs of kernels to thresholds or functions'
  if not _checks.mapping('rules', rules, what):
    raise _checks.wrong_value('rules', rules, f'map {what}')
  for name, rule in rules.items():
    if not callable(rule):
      _checks.array(f'rules[{name!r}]', rule)


def _token(x: Any) -> int:
  """The number of a token, if an int32 can count as far."""
  return _checks.between('from_token', x, 0, 2**31 - 1, 'tokens are int32')
