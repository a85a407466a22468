"""Tables of experiments 5 to 11 on linguistic masks."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from common.tables import Table
from linguistics.arms import AXES
from reports.linguistic_numbers import (
  correlation,
  correlations_by_chance,
  final,
  interval,
  paired,
  reached_by_chance,
  spread,
  steps_saved,
  tested,
)

Found = dict[str, Any]
DRAWS = 999


def tables(found: Found) -> list[str | Table]:
  """Of all experiments that were run."""
  makers = (_guided, _movement, _luck, _axes, _groups, _circuits)
  makers = (*makers, _treebanks, _languages, _blocks, _patterned)
  return [part for make in makers for part in make(found)]


def _guided(found: Found) -> Iterator[Table]:
  names = {
    'guided_none': 'tag directions in the embedding alone',
    'guided_0.5': 'M, strength 0.5',
    'guided_1': 'M, strength 1',
    'guided_2': 'M, strength 2',
    'guided_relabelled': 'relabelled M, strength 1',
    'guided_random': 'random matrix of its spectrum, strength 1',
    'learned_asa': 'learned bias on ASA',
    'learned_relabelled': 'learned bias on relabelled M',
  }
  lines = []
  for name, label in names.items():
    if name not in found or 'none' not in found:
      continue
    row = [label, spread(final(found[name]), 3), interval(paired(found, name))]
    row.append(f'{100 * steps_saved(found, name).mean():.0f} %')
    beside = (
      'guided_none' if name.startswith('guided') else 'learned_relabelled'
    )
    own = beside in found and beside != name
    row.append(interval(paired(found, name, beside)) if own else '')
    lines.append(row)
  if not lines:
    return
  more = _guided_tickets(found)
  yield Table(
    ['initial weights', 'loss', 'beside dense [95 %]', 'steps saved', 'own'],
    lines,
    'Experiment 5: query and key kernels that start with a factor that takes'
    ' pairs of tags to a matrix. The words of these networks start with a'
    ' direction of their most frequent tag: "own" is the difference from the'
    ' network that has only that, and of learned biases from those on a'
    ' relabelled matrix.' + more,
  )


def _guided_tickets(found: Found) -> str:
  """Losses of tickets of attention, from guided and from plain weights.

  And the sparsest of each kind that are as good as the dense network.
  """
  each = []
  for name in found:
    if name.startswith('guided_ticket_'):
      density = name.rpartition('_')[2]
      others = (f'guided_none_ticket_{density}', f'ticket_{density}')
      losses = [
        spread(final(found[x]), 3) for x in (name, *others) if x in found
      ]
      each.append(f'{density}: {", ".join(losses)}')
  if not each:
    return ''
  kinds = ('guided_ticket_', 'guided_none_ticket_', 'ticket_')
  least = ', '.join(_sparsest(found, kind) for kind in kinds)
  return (
    ' Tickets of attention by density, from M at strength 1, tag directions'
    f' alone, and from plain weights: {"; ".join(each)}. The sparsest of them'
    f' that end no higher than the dense network: {least}.'
  )


def _sparsest(found: Found, kind: str) -> str:
  """Density of the sparsest ticket with the dense network's loss or less."""
  arms = [x['arm'] for x in found.values() if 'arm' in x]
  good = [
    arm['density']
    for arm in arms
    if arm['name'].startswith(kind)
    and not arm['control']
    and final(found[arm['name']]).mean() <= final(found['none']).mean()
  ]
  return f'{100 * min(good):.3g} %' if good else 'none'


def _movement(found: Found) -> Iterator[Table]:
  if 'movement' not in found:
    return
  each = found['movement']['seeds']
  lines = []
  for what, label in (('moved', 'movement'), ('size', 'final size')):
    values = {
      name: np.array([x[name][what] for x in each])
      for name in ('asa', 'relabelled')
    }
    lines.append(
      [
        label,
        *(interval(tested(x), '{:+.3f}') for x in values.values()),
        interval(tested(values['asa'] - values['relabelled'])),
      ]
    )
  yield Table(
    ['of query and key weights', 'ASA', 'relabelled', 'difference'],
    lines,
    'Experiment 6: Spearman correlation over weights of the share of their'
    ' early gradient that flows through edges of the mask with how far they'
    ' move; mean and 95 % interval over seeds.',
  )


def _luck(found: Found) -> Iterator[Table]:
  if 'luck' not in found:
    return
  start = np.array(found['luck']['initial'])
  loss = np.array(found['luck']['test_loss'])
  r, (low, high) = correlation(start, loss)
  draws = correlations_by_chance(start, loss, DRAWS)
  # Excess of the same networks on masks of permuted tags, [draws, seeds].
  masks = found.get('untrained', {}).get('luck', [])
  other = [float(np.corrcoef(x, loss)[0, 1]) for x in masks]
  yield Table(
    [
      *('seeds', 'excess at initialization', 'r with the loss', '95 %'),
      *('p, losses permuted', 'p, tags permuted'),
    ],
    [
      [
        str(len(loss)),
        f'{start.min():+.4f} to {start.max():+.4f}',
        f'{r:+.2f}',
        f'[{low:+.2f}, {high:+.2f}]',
        f'{reached_by_chance(r, draws):.3f}',
        f'{reached_by_chance(r, other):.3f}' if other else '',
      ]
    ],
    'Experiment 7: whether networks that start with more attention on'
    ' compatible tags have a lower test loss, after'
    f' {100 * found["luck"]["arm"]["steps"]:g} % of the steps. p: share of'
    f' {DRAWS} draws, and r itself, with a correlation as strong, of either'
    ' sign: of losses that are permuted over seeds, and of the excess of the'
    ' same networks on masks of tags that are permuted in each sentence.',
  )


def _axes(found: Found) -> Iterator[str | Table]:
  if 'axes' not in found:
    return
  each = found['axes']
  lines = []
  for axis in AXES:
    row = [axis, f'{each["density"][axis]:.3f}']
    for name in ('dense', 'ticket'):
      values = each['excess'].get(name, {}).get(axis)
      row.append(interval(tested(values)) if values else '')
    without, union = f'without_{axis}', 'union'
    known = {without, union} <= found.keys()
    row.append(interval(paired(found, without, union)) if known else '')
    lines.append(row)
  if {'union', 'random_union', 'none'} <= found.keys():
    for name in ('union', 'random_union'):
      row = [name.replace('_', ' '), '', '', '']
      lines.append([*row, f'{interval(paired(found, name))} beside no mask'])
  yield Table(
    ['axis', 'density', 'excess, dense', 'excess, ticket', 'loss without it'],
    lines,
    'Experiment 8: attention on the edges of five axes, over row-matched edges;'
    ' and the loss of networks masked by the union of the axes, without one of'
    ' them, beside that of the whole union.',
  )
  yield '![Excess of attention by axis](axes.png)'


def _groups(found: Found) -> Iterator[Table]:
  if 'axis_tickets' not in found:
    return
  each = found['axis_tickets']
  within = {k: np.array(x) for k, x in each['within'].items()}
  across = np.array(each['across'])
  lines = [
    [k, spread(x, 1), interval(tested(x - across), '{:+.1f}')]
    for k, x in within.items()
  ]
  lines.append(['across axes', spread(across, 1), ''])
  yield Table(
    ['sentences rich in', 'z of shared weights', 'beyond across [95 %]'],
    lines,
    'Experiment 8, tickets: overlap of the masks (a fifth of the weights left)'
    ' of two networks, each trained on half of a group of sentences from the'
    ' same initial weights, in standard deviations above chance.',
  )


def _circuits(found: Found) -> Iterator[Table]:
  if 'circuits' not in found:
    return
  lines = []
  for name, each in found['circuits'].items():
    own = np.array([x['mean_own'] for x in each], float)
    other = np.array([x['mean_other'] for x in each], float)
    test = tested(own - other)
    lines.append(
      [
        name,
        spread(own),
        spread(other),
        interval(test, '{:+.2f}'),
      ]
    )
  yield Table(
    ['network', 'own axis', 'other axes', 'difference [95 %]'],
    lines,
    'Experiment 9: Spearman correlation over heads of their excess on an axis'
    ' with what ablating them costs on words whose dependency lies in that'
    ' axis, and in another one.',
  )


def _treebanks(found: Found) -> Iterator[str | Table]:
  if 'treebanks' not in found:
    return
  yield Table(
    ['treebank', 'sentences', 'density', 'dependencies', 'by chance'],
    [
      [x['name'], str(x['sentences'])]
      + [f'{x[k]:.3f}' for k in ('density', 'arcs', 'chance')]
      for x in found['treebanks']['languages']
    ],
    'Experiment 10a, without training: share of pairs of words whose tags are'
    ' compatible, and share of the dependencies, without punctuation, that are;'
    ' by chance with tags permuted in the sentence.',
  )
  yield '![Dependencies and attention by language](languages.png)'


def _languages(found: Found) -> Iterator[Table]:
  if 'languages' not in found:
    return
  lines = []
  for name, each in found['languages'].items():
    columns = (
      [x['excess'] for x in each['overlap']],
      each.get('beyond_permuted', []),
      each['beyond_tags'],
      [x['excess'] for x in each['fitted']],
    )
    mean = np.mean([x['overlap'] for x in each['overlap']])
    tests = [interval(tested(x)) if x else '' for x in columns]
    lines.append([name, f'{mean:.3f}', *tests])
  heads = ['language', 'O', 'excess [95 %]', 'beyond permuted tags']
  yield Table(
    [*heads, 'beyond popular tags', 'English matrix'],
    lines,
    'Experiments 10b and 10c: a small model per language, and a matrix that was'
    ' fitted to the attention of the English one. "Beyond permuted tags":'
    ' over masks of tags that are permuted in each sentence. "Beyond popular'
    ' tags": what is left of the excess over attention that depends on the tag'
    ' of the key alone.',
  )


def _blocks(found: Found) -> Iterator[Table]:
  if 'blocks' not in found:
    return
  yield Table(
    ['mask', 'block', 'blocks', 'closed'],
    [
      [
        x['mask'],
        f'{x["size"]}x{x["size"]}',
        str(x['blocks']),
        f'{100 * x["closed"]:.3f} %',
      ]
      for x in found['blocks']['blocks']
    ],
    'Experiment 11: blocks of the mask without an open edge, which a kernel'
    ' could skip, among those that causality leaves.',
  )


def _patterned(found: Found) -> Iterator[Table]:
  names = [x for x in found if x.endswith('_two_of_four')]
  if not names:
    return
  lines = []
  for name in names:
    mask = name.removesuffix('_two_of_four')
    row = [mask, spread(final(found[mask]), 3), spread(final(found[name]), 3)]
    lines.append([*row, interval(paired(found, name, mask))])
  yield Table(
    ['mask', 'dense', '2:4', 'difference [95 %]'],
    lines,
    'Experiment 11: two of four weights of all kernels whose inputs are a'
    ' multiple of four, under masks of attention.',
  )
