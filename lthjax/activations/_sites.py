"""Inputs of chosen matmuls, changed while the program runs."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lthjax import trees
from lthjax.calibration import _sites, _tokens
from lthjax.calibration._sites import Site
from lthjax.program._interpreter import Path, bind, trace
from lthjax.program._values import run

Sites = Mapping[Path, Site]
# ``change(site, x, fed) -> (x, note)`` of activations ``[.., tokens, inputs]``.
Change = Callable[..., tuple[jax.Array, Any]]


def find(
  apply: Callable[..., Any], params: Any, args: Any, where: Any
) -> tuple[jex.ClosedJaxpr, dict[Path, Site]]:
  """Returns the program, and the sites of the chosen leaves."""
  closed, _ = trace(apply, params, *args)
  return closed, _sites.find(closed, params, where)


def by_name(sites: Sites) -> dict[str, Path]:
  """Returns the path of each leaf; raises for those used several times."""
  found: dict[str, list[Path]] = {}
  for path, site in sites.items():
    for use in site.uses:
      found.setdefault(str(use.name), []).append(path)
  if many := sorted(n for n, paths in found.items() if len(paths) > 1):
    raise ValueError(
      f'{", ".join(many)}: used several times, with activations of several'
      ' kinds, for which there is no one threshold. Leave these leaves out with'
      ' `where=`.'
    )
  return {name: path for name, (path,) in found.items()}


def visit(
  apply: Callable[..., Any],
  params: Any,
  args: Any,
  sites: Sites,
  change: Change,
  feeds: Mapping[Path, Any],
) -> tuple[Any, dict[Path, Any]]:
  """Runs a program, with ``change`` at the activations of each site."""

  def at(site):
    def visit(eqn, inputs, *fed):
      side = 1 - site.use.operand
      view, back = canonical(site, eqn, inputs[side])
      x, note = change(site, view, *fed)
      inputs = list(inputs)
      inputs[side] = back(x).astype(inputs[side].dtype)
      return bind(eqn, inputs), note

    return visit

  visits = {
    path: at(site) for site in sites.values() for path in site.use.paths
  }
  return run(apply, visits, params, *args, feeds=feeds)


def canonical(
  site: Site, eqn: jex.JaxprEqn, x: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
  """Views activations as ``[batch.., tokens, inputs]``, and back."""
  batch, free, contracted = _sites.activation_axes(site.use, eqn)
  order = (*batch, *free, *contracted)
  moved = x.transpose(order)
  sizes = [x.shape[axis] for axis in batch]
  sizes += [
    math.prod(x.shape[a] for a in group) for group in (free, contracted)
  ]
  inverse = np.argsort(order)
  return moved.reshape(sizes), lambda y: y.reshape(moved.shape).transpose(
    inverse
  )


def tokens_from(
  closed: jex.ClosedJaxpr, args: Any, sites: Sites, first: int
) -> dict[Path, jax.Array | None]:
  """Returns for each site which tokens are at a place or after it."""
  if not first:
    return dict.fromkeys(sites)
  leaves = jax.tree.leaves(args)
  shape = jnp.shape(leaves[0]) if leaves else ()
  if len(shape) < 2:
    raise ValueError(
      f'`from_token` counts along the second axis of the first argument, which'
      f' has shape {shape}. Pass tokens as `[batch, time]`.'
    )
  late = jnp.broadcast_to(jnp.arange(shape[1]) >= first, shape[:2])
  return _tokens.locate(closed, args, sites, late)


def turns(site: Site) -> tuple[int, ...]:
  """The lengths of the loops around a site."""
  return tuple(loop.length for loop in site.use.loops)


def spread(name: str, value: Any, site: Site) -> jax.Array:
  """One number, or one for each turn of the loops, as numbers for the turns."""
  x, shape = jnp.asarray(value, jnp.float32), turns(site)
  if x.shape not in ((), shape):
    raise ValueError(
      f'The threshold of {name} has shape {x.shape}, but must be one number'
      f' or, for the turns of its loops, have shape {shape}.'
    )
  known = trees.concrete({'': x})
  if known is not None and not (np.asarray(known['']) >= 0).all():
    raise ValueError(
      f'The threshold of {name} is {known[""]}, but must not be negative or'
      ' NaN: activations of smaller absolute value are set to zero.'
    )
  return jnp.broadcast_to(x, shape)
