"""Tickets for other data and other models."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.tickets._search import Ticket


def transfer(
  ticket: Ticket,
  onto: chex.ArrayTree,
  *,
  weights: bool = False,
  fresh: str | Sequence[str] = (),
  params: Callable[[Any], chex.ArrayTree] = lambda state: state.params,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
  """Puts a ticket onto the params of another network.

  Leaves are matched by name. Every leaf of either network has to fit one of the
  other in name, and in the shape of its mask and, with ``weights``, of the
  ticket's start; those that ``fresh`` names need not, and are left out of the
  transfer. So without ``weights``, a leaf that is never pruned may have another
  shape.

  | leaf               | mask          | weights                           |
  |--------------------|---------------|-----------------------------------|
  | fits               | the ticket's  | those of ``onto``, or the         |
  |                    |               | ticket's start with ``weights``   |
  | is named ``fresh`` | dense         | those of ``onto``                 |

  Args:
    ticket: a ticket of `imp` or `one_shot`. For another mask, such as the
      control ``lthjax.masks.shuffle(key, ticket.masks)``, use
      ``ticket._replace(masks=...)``.
    onto: params of the other network, at initialization or at its step k.
    weights: bring along the weights that the ticket started from, biases and
      normalization included, and not the masks alone.
    fresh: glob or globs over names of leaves that stay as they are in ``onto``,
      such as ``'output/*'`` for a head with another number of classes. Their
      masks keep all, and are `None` where the ticket has `None`, or, under a
      name that the ticket does not have, where `lthjax.masks.kernels` says so.
    params: finds the params in the ticket's states, as in `imp`.

  Returns:
    The pair ``(params, masks)``, both in the structure of ``onto``. As in
    `Ticket.start`, the masks are not applied yet: see
    `lthjax.training.with_masks` or `lthjax.masks.apply`.

  Raises:
    ValueError: if a leaf does not fit and is not named ``fresh``, if a glob
      matches no leaf, if no mask is transferred, or if ``weights`` are asked of
      a ticket without a start.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {
    ...   'fc': jnp.array([[True, False]]),
    ...   'output': jnp.ones((2, 3)) > 0,
    ... }
    >>> ticket = lth.tickets.Ticket(1, 0.875, masks, None, None, None)
    >>> onto = {'fc': jnp.array([[5.0, 6.0]]), 'output': jnp.ones((2, 7))}
    >>> params, masks = lth.tickets.transfer(ticket, onto, fresh='output')
    >>> params['fc'], masks['fc'], masks['output'].shape
    (Array([[5., 6.]], dtype=float32), Array([[ True, False]], dtype=bool),
     (2, 7))

  References:
    Morcos et al., One ticket to win them all: generalizing lottery ticket
    initializations across datasets and optimizers, arXiv:1906.02773, section 3.
  """
  masks, leaves = trees.by_name(ticket.masks), trees.by_name(onto)
  if weights and ticket.start is None:
    raise ValueError(
      '`ticket.start` was None, but `weights=True` brings along the weights'
      ' that the ticket started from. Give a ticket with its start, or transfer'
      ' its masks alone.'
    )
  started = trees.by_name(params(ticket.start)) if weights else None
  globs = [fresh] if isinstance(fresh, str) else list(fresh)
  names = list(dict.fromkeys([*leaves, *masks]))
  left_out = set(trees.first_match(globs, names, 'fresh', 'leaf'))
  _check_fit(masks, started, leaves, left_out)

  def mask(path, leaf):
    name = trees.path_name(path)
    if name not in left_out:
      return masks[name]
    prunable = (
      masks[name] is not None
      if name in masks
      else masks_lib.kernels(name, leaf)
    )
    return jnp.ones_like(leaf, dtype=bool) if prunable else None

  def weight(path, leaf):
    name = trees.path_name(path)
    if started is None or name in left_out:
      return leaf
    return jnp.asarray(started[name], leaf.dtype)

  tree_map = jax.tree_util.tree_map_with_path
  return tree_map(weight, onto), tree_map(mask, onto)


def _check_fit(masks, started, leaves, left_out) -> None:
  """Raises if something does not fit, or nothing does."""
  if all(mask is None for mask in masks.values()):
    raise ValueError(
      'The ticket has no masks: every one is None. Give a ticket whose masks'
      ' choose what is pruned, as `lthjax.masks.full(params)` does.'
    )
  faults = []
  for name in dict.fromkeys([*leaves, *masks]):
    if name in left_out:
      continue
    if name not in masks:
      faults.append(f'the ticket has no {name}')
    elif name not in leaves:
      faults.append(f'{name} is in the ticket only')
    else:
      faults += _unlike(name, leaves[name], masks[name], "the ticket's masks")
      if started is not None and name not in started:
        faults.append(f"{name} is not in the ticket's start")
      elif started is not None:
        start = started[name]
        faults += _unlike(name, leaves[name], start, "the ticket's start")
        if start is None and leaves[name] is not None:
          faults.append(f"{name} is None in the ticket's start")
  if faults:
    raise ValueError(
      f'The ticket does not fit: {"; ".join(faults)}. Networks of one'
      ' architecture fit; name what shall stay as it is in `onto`, such as a'
      ' head with other classes, with `fresh="output/*"`.'
    )
  if all(mask is None or name in left_out for name, mask in masks.items()):
    raise ValueError(
      'Nothing of the ticket is transferred: `fresh` names every leaf that has'
      f' a mask, {", ".join(n for n, m in masks.items() if m is not None)}.'
      ' Name fewer.'
    )


def _unlike(name, leaf, source, where) -> list[str]:
  """What is wrong with a leaf that the ticket has in this place."""
  if source is None:
    return []
  if leaf is None:
    return [f'{name} is in {where} but None in `onto`']
  if jnp.shape(source) == jnp.shape(leaf):
    return []
  return [
    f'{name} has shape {jnp.shape(source)} in {where} and {jnp.shape(leaf)} in'
    ' `onto`'
  ]
