"""What is trained: which mask, by which tags, from which weights."""

from typing import NamedTuple


class Arm(NamedTuple):
  """One training of all seeds.

  Attributes:
    name: where it is kept.
    mask: 'none', 'asa', 'random' edges matched by row, 'permuted' tags of a
      sentence, a 'relabelled' matrix, the 'union' of the axes, 'random_union'
      matched to it by row, or the union 'without_' one axis.
    source: of the tags.
    soft: adds 1 to the logits of open edges and closes none.
    learned: adds a number to open edges that every head learns.
    tag_input: adds an embedding of a word's tag to that of the word.
    guide: 'asa', 'relabelled' or 'random' matrix that the products of query and
      key kernels start with; or 'none', for the tags in the embedding alone.
    strength: of the guide.
    base: the training whose weights are pruned.
    root: the dense training whose early weights a ticket starts from.
    pruned: 'attention', 'ffn' or 'both'.
    density: alive share of these kernels; None for two of four.
    control: 'reinit' or 'shuffled' ticket.
    data: 'whole', or a part of the training sentences or a language.
    steps: of training, as a share of those of the dense network.
  """

  name: str
  mask: str = 'none'
  source: str = 'gold'
  soft: bool = False
  learned: bool = False
  tag_input: bool = False
  guide: str = ''
  strength: float = 0.0
  base: str = ''
  root: str = ''
  pruned: str = ''
  density: float | None = 1.0
  control: str = ''
  data: str = 'whole'
  steps: float = 1.0


NONE = Arm('none')
MASKS = ('none', 'asa', 'random', 'relabelled')
FFN = (0.5, 0.2, 0.1, 0.05)
AXES = ('type', 'valence', 'qualia', 'force', 'geometry')
TENTHS = ('ticket_tenth_removed', 'ticket_tenth_left')


def masked(sources: tuple[str, ...]) -> list[Arm]:
  """Masks in training by the sources of tags, with their controls."""
  first = sources[0]
  arms = [NONE]
  for mask in ('asa', 'relabelled', 'random'):
    arms.append(Arm(mask, mask, first))
  arms.append(Arm('tag_input', source=first, tag_input=True))
  arms.append(Arm('permuted', 'permuted', first))
  for source in sources[1:]:
    arms.append(Arm(f'asa_{source}', 'asa', source))
  for source in sources[1:]:
    arms.append(Arm(f'relabelled_{source}', 'relabelled', source))
  if 'causal' in sources[1:]:
    arms.append(Arm('tag_input_causal', source='causal', tag_input=True))
  return [*arms, Arm('asa_soft', 'asa', first, soft=True)]


def densities(levels: int, fraction: float) -> tuple[float, ...]:
  """Shares of the attention kernels that tickets keep, level by level."""
  return tuple((1 - fraction) ** level for level in range(1, levels + 1))


def tickets(kept: tuple[float, ...]) -> list[Arm]:
  """IMP of the attention kernels of the dense network, and its controls.

  Tickets with a tenth removed and a tenth left come between the levels.
  """
  arms, base = [], 'none'
  for density in kept:
    arms.append(_ticket(ticket(density), base, 'none', density))
    base = arms[-1].name
  last = arms[kept.index(eighth(kept))]
  for control in ('reinit', 'shuffled'):
    name = f'{last.name}_{control}'
    arms.append(last._replace(name=name, base=last.name, control=control))
  before = [density for density in kept if density > 0.1]
  if before and before[-1] * kept[0] <= 0.1:  # The next level passes a tenth.
    starts = (('none', 0.9), (ticket(before[-1]), 0.1))
    for name, (base, density) in zip(TENTHS, starts, strict=True):
      arms.append(_ticket(name, base, 'none', density))
  return arms


def ticket(density: float) -> str:
  """The name of the ticket of a level."""
  return f'ticket_{density:g}'


def eighth(kept: tuple[float, ...]) -> float:
  """The last level that keeps an eighth: the one that is looked at closely."""
  return min((x for x in kept if x >= 0.125), default=kept[0])


def _ticket(name: str, base: str, root: str, density: float) -> Arm:
  return Arm(name, base=base, root=root, pruned='attention', density=density)


def hybrid(densities: tuple[float, ...], source: str) -> list[Arm]:
  """Masks of attention, and IMP of the feed-forward kernels under each.

  Without a mask and with ASA, at last of all kernels.
  """
  arms = []
  for mask in MASKS:
    base = mask
    for density in densities:
      name = f'{mask}_ffn_{density:g}'
      arm = Arm(name, mask, source, base=base, root=mask)
      arms.append(arm._replace(pruned='ffn', density=density))
      base = arm.name
    if densities and mask in ('none', 'asa'):
      name = f'{mask}_both_{min(densities):g}'
      arm = Arm(name, mask, source, base=base, root=mask)
      arms.append(arm._replace(pruned='both', density=min(densities)))
  return arms


def patterned(source: str) -> list[Arm]:
  """Two weights of four, under no mask, ASA and random edges."""
  return [
    Arm(
      f'{mask}_two_of_four',
      mask,
      source,
      base=mask,
      root=mask,
      pruned='both',
      density=None,
    )
    for mask in ('none', 'asa', 'random')
  ]


def guided(kept: tuple[float, ...], source: str) -> list[Arm]:
  """Initial weights or learned biases that favor compatible tags.

  Their tickets are those of every other level.
  """
  arms = [Arm('guided_none', guide='none')]
  for strength in (0.5, 1.0, 2.0):
    arms.append(Arm(f'guided_{strength:g}', guide='asa', strength=strength))
  for guide in ('relabelled', 'random'):
    arms.append(Arm(f'guided_{guide}', guide=guide, strength=1.0))
  for mask in ('asa', 'relabelled'):
    arms.append(Arm(f'learned_{mask}', mask, source, learned=True))
  for root, prefix in (('guided_1', 'guided'), ('guided_none', 'guided_none')):
    base = root
    for density in kept[1::2]:
      name = f'{prefix}_ticket_{density:g}'
      arms.append(_ticket(name, base, root, density))
      base = name
  return arms


def by_axis() -> list[Arm]:
  """The union of the axes as a mask, without each of them, and its control."""
  names = ['union', 'random_union', *(f'without_{x}' for x in AXES)]
  return [Arm(name, name) for name in names]


def groups(share: float) -> list[Arm]:
  """Sentences rich in an axis, in two halves; and random groups."""
  return [
    Arm(f'{group}_{half}', data=f'{group}_{half}', steps=share)
    for group in (*AXES, 'random')
    for half in 'ab'
  ]


def languages(names: tuple[str, ...], share: float) -> list[Arm]:
  """A small model of each language."""
  return [
    Arm(f'language_{x}', data=f'language_{x}', steps=share) for x in names
  ]
