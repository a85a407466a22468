"""Data sets of one shape, between which tickets can be transferred."""

import jax

from common.images import load
from lthjax import data


def load_alike(
  names: tuple[str, ...], validation: int | None
) -> dict[str, data.Dataset]:
  """Loads several sets, and raises unless one network fits all of them."""
  sets = {name: load(name, validation) for name in names}
  shapes = {name: x.train.images.shape[1:] for name, x in sets.items()}
  if len(set(shapes.values())) > 1:
    raise ValueError(
      'The images have several shapes, '
      + ', '.join(f'{shape} in {name}' for name, shape in shapes.items())
      + ', but a ticket fits networks of one shape. Choose sets of one shape,'
      ' such as mnist, fashion_mnist and cifar10_grey.'
    )
  return jax.device_put(sets)
