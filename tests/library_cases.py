"""Small tickets for the tests of libraries."""

import numpy as np
from helpers import random_like

import lthjax as lth

SHAPES = {'fc': {'kernel': (6, 8), 'bias': (8,)}, 'out': {'kernel': (8, 3)}}
START = random_like(SHAPES, 0)


def identity(state):
  return state


def masks_of(seed, density=0.25, shapes=SHAPES, within=None):
  """Masks of kernels, nested in others; biases are dense."""
  rng = np.random.default_rng(seed)
  found = {}
  for layer, leaves in shapes.items():
    found[layer] = {}
    for name, shape in leaves.items():
      mask = None
      if name == 'kernel':
        mask = rng.random(shape) < density
        if within is not None:
          mask &= within[layer][name]
        mask.flat[np.argmax(within[layer][name]) if within else 0] = True
      found[layer][name] = mask
  return found


def make_ticket(seed, level=1, metrics=None, start=START, **options):
  """A ticket whose states are params."""
  shapes = options.get('shapes', SHAPES)
  masks = masks_of(seed, **options)
  trained = random_like(shapes, 100 + seed)
  metrics = {'accuracy': 0.9 + seed / 1000} if metrics is None else metrics
  return lth.tickets.Ticket(level, 0.25, masks, start, trained, metrics)


def add(library, seed=1, **options):
  """Adds such a ticket; states are params."""
  about = {'parent', 'domain', 'notes', 'license', 'git', 'config', 'data'}
  kept = {k: options.pop(k) for k in about & set(options)}
  ticket = make_ticket(seed, **options)
  return library.add(ticket, params=identity, **kept)


def applied(ticket):
  """The trained params with exact zeros, by NumPy alone."""
  return {
    layer: {
      name: leaf
      if ticket.masks[layer][name] is None
      else np.where(ticket.masks[layer][name], leaf, np.float32(0))
      for name, leaf in leaves.items()
    }
    for layer, leaves in ticket.trained.items()
  }
