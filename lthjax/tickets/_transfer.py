"""Tickets for other data and other models."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.tickets._search import Params, Ticket, find_params


def transfer(
  ticket: Ticket,
  onto: chex.ArrayTree,
  *,
  weights: bool = False,
  fresh: str | Sequence[str] = (),
  params: Params = find_params,
) -> tuple[Any, Any]:
  """Puts a ticket onto the params of another network.

  Leaves are matched by name. Every leaf of either network must fit one of the
  other in name and in the shape of its mask, and with ``weights`` also in the
  shape of the ticket's start. Leaves named ``fresh`` are left out. Without
  ``weights``, a leaf that is never pruned may have another shape.

  | leaf               | mask          | weights                           |
  |--------------------|---------------|-----------------------------------|
  | fits               | the ticket's  | those of ``onto``, or the         |
  |                    |               | ticket's start with ``weights``   |
  | is named ``fresh`` | dense         | those of ``onto``                 |

  Args:
    ticket: a ticket of `imp` or `one_shot`. For other masks, such as the
      control ``lthjax.masks.shuffle(key, ticket.masks)``, use
      ``ticket._replace(masks=...)``.
    onto: params of the other network, at initialization or at its step k.
    weights: whether to transfer the weights that the ticket started from as
      well, including biases and normalization.
    fresh: glob or globs over names of leaves that keep their values in
      ``onto``, such as ``'output/*'`` for a head with another number of
      classes. Their masks keep everything. They are `None` where the ticket has
      `None`; for names that the ticket does not have, `lthjax.masks.kernels`
      decides.
    params: ``params(state)`` of the ticket's states, as in `imp`.

  Returns:
    The pair ``(params, masks)``, both in the structure of ``onto``. As in
    `Ticket.start`, the masks are not applied yet: see
    `lthjax.training.with_masks` or `lthjax.masks.apply`.

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
  if not isinstance(ticket, Ticket):
    wanted = (
      'be a ticket of `lthjax.tickets.imp`. For masks alone, pass'
      ' `lthjax.tickets.Ticket(0, 1.0, masks, None, None, None)`'
    )
    raise _checks.wrong_type('ticket', ticket, wanted)
  weights = _checks.flag('weights', weights)
  masks, leaves = _checks.bool_masks(ticket.masks), _checks.arrays(onto, 'onto')
  if weights and ticket.start is None:
    raise ValueError(
      '`ticket.start` was None, but `weights=True` transfers the weights that'
      ' the ticket started from. Pass a ticket with its start, or transfer its'
      ' masks alone.'
    )
  started = trees.by_name(params(ticket.start)) if weights else None
  globs = _checks.globs('fresh', fresh)
  names = list(dict.fromkeys([*leaves, *masks]))
  left_out = set(trees.first_match(globs, names, 'fresh', 'leaf'))
  _refuse_misfits(masks, started, leaves, left_out)

  def mask(path, leaf):  # In the structure of the target, by name.
    name = trees.path_name(path)
    if name not in left_out:
      return masks[name]
    # A fresh leaf is dense, and prunable if it is so in the ticket.
    prunable = (
      masks[name] is not None
      if name in masks
      else masks_lib.kernels(name, leaf)
    )
    return jnp.ones_like(leaf, dtype=bool) if prunable else None

  def weight(path, leaf):  # In the dtype of the target.
    name = trees.path_name(path)
    if started is None or name in left_out:
      return leaf
    return jnp.asarray(started[name], leaf.dtype)

  tree_map = jax.tree_util.tree_map_with_path
  return tree_map(weight, onto), tree_map(mask, onto)


def _refuse_misfits(masks, started, leaves, left_out) -> None:
  """Raises if a leaf does not fit, or if nothing is transferred."""
  maskable = [name for name, mask in masks.items() if mask is not None]
  if not maskable:
    raise ValueError(
      'The ticket has no masks: every one is None. Pass a ticket with masks,'
      ' such as those that start from `lthjax.masks.full(params)`.'
    )
  names = [n for n in dict.fromkeys([*leaves, *masks]) if n not in left_out]
  refuse(
    [x for n in names for x in _misfits(n, masks, started, leaves)],
    'The ticket does not fit: {}. Networks of one architecture fit; name leaves'
    ' that keep their values in `onto`, such as a head with other classes, with'
    ' `fresh="output/*"`.',
  )
  if left_out.issuperset(maskable):
    raise ValueError(
      'Nothing of the ticket is transferred: `fresh` names every leaf that has'
      f' a mask, {", ".join(maskable)}. Name fewer.'
    )


def _misfits(name, masks, started, leaves) -> list[str]:
  """Describes what is wrong with one leaf of either network."""
  if name not in masks:
    return [f'the ticket has no {name}']
  if name not in leaves:
    return [f'{name} is in the ticket only']
  leaf = leaves[name]
  faults = _unlike(name, leaf, masks[name], "the ticket's masks")
  if started is not None and name not in started:
    faults.append(f"{name} is not in the ticket's start")
  elif started is not None:
    faults += _unlike(name, leaf, started[name], "the ticket's start")
    if started[name] is None and leaf is not None:
      faults.append(f"{name} is None in the ticket's start")
  return faults


def _unlike(name, leaf, source, where) -> list[str]:
  """Describes what is wrong with a leaf that the ticket has in this place."""
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
