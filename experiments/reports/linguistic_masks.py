"""Tables of the experiment on linguistic masks, with the verdicts first."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from common import grid
from common.command import Run
from common.grid import Result
from common.tables import Table
from linguistics.arms import FFN, MASKS, TENTHS
from lthjax import linguistic as lg
from reports import linguistic_figures, linguistic_more
from reports.linguistic_numbers import (
  curves,
  excess,
  final,
  interval,
  paired,
  spread,
  steps_saved,
  tickets,
  trained,
)

HEAD = 'Linguistic masks and lottery tickets'
draw = linguistic_figures.draw
LABELS = {
  'none': 'no mask',
  'asa': 'ASA',
  'random': 'random edges, row by row',
  'permuted': 'tags permuted in the sentence',
  'relabelled': 'relabelled matrix, same tags',
}


def rows(result: Result) -> list[dict[str, Any]]:
  """Of the trainings; measurements are on the page."""
  if 'arm' not in result:
    return []
  arm, found = result['arm'], result.get('overlap')
  of = {
    name: [x[name] for x in found] if found else ''
    for name in ('overlap', 'expected', 'excess', 'jaccard', 'strongest')
  }
  names = ('name', 'mask', 'source', 'guide', 'pruned', 'density', 'data')
  return grid.by_seed(
    result,
    **{name: arm[name] for name in names},
    test_loss=result['test_loss'],
    initial_excess=result.get('initial', ''),
    **of,
  )


def page(run: Run) -> list[str | Table]:
  """Everything that was run, in the order of the experiments."""
  found = trained(run)
  parts: list[str | Table] = [*_taggers(found), *_verdicts(found)]
  parts += [*_overlap(found), *_nulls(found), *_published(found)]
  parts += [*_training(found), *_hybrid(found)]
  return parts + linguistic_more.tables(found)


def terminal(run: Run) -> list[str | Table]:
  """Verdicts, overlap and training."""
  found = trained(run)
  shown = [*_taggers(found), *_verdicts(found), *_training(found)]
  return [x for x in shown if isinstance(x, Table) or not x.startswith('!')]


def _taggers(found: dict[str, Any]) -> Iterator[Table]:
  if 'taggers' not in found:
    return
  each = found['taggers']
  wanted = {'causal': '90', 'bidirectional': '93.5', 'type': '–'}
  yield Table(
    ['tagger', 'accuracy, %', 'at least'],
    [[name, f'{100 * each[name]:.2f}', wanted[name]] for name in each],
    'Words of the validation sentences, of any length, that get their gold'
    ' tag. "type" is the most frequent tag of the form.',
  )


def _verdicts(found: dict[str, Any]) -> Iterator[Table]:
  """The criteria of the proposal, each in its fair reading."""
  lines = []
  before = (
    [x['strongest'] for x in found['untrained']['overlap']]
    if ('untrained' in found)
    else [np.nan]
  )
  words = ('10 % of the attention weights removed', '10 % of them left')
  for name, what in zip(TENTHS, words, strict=True):
    if name not in found:
      continue
    each = found[name]['overlap']
    mean = {k: np.mean([x[k] for x in each]) for k in (*_SHARES, 'density')}
    test = lg.over_seeds(excess(found[name]))
    lines.append(
      [
        f'overlap above 60 %, random about 50 %: {what}',
        f'O {mean["overlap"]:.3f}, X {mean["expected"]:.3f}; of the strongest'
        f' 10 % of edges ASA holds {mean["strongest"]:.3f}, before training'
        f' {np.mean(before):.3f}, of all edges {mean["density"]:.3f}',
        interval(test),
        _word(test, +1, 'trivially above 60 %; excess is'),
      ]
    )
  for name, control in (
    ('guided_1', 'guided_relabelled'),
    ('asa', 'relabelled'),
    ('asa_causal', 'relabelled_causal'),
  ):
    if not {name, control, 'none'} <= found.keys():
      continue
    own, other = (steps_saved(found, x) for x in (name, control))
    test = lg.over_seeds(100 * (own - other))
    lines.append(
      [
        f'more than 10 % faster: {name.replace("_", " ")}',
        f'{100 * own.mean():.0f} % fewer steps;'
        f' {control.replace("_", " ")} {100 * other.mean():.0f} %',
        interval(test, '{:.1f} points'),
        _word(test, +1, 'beyond its control'),
      ]
    )
    loss = paired(found, name)
    sd = float(np.std(final(found['none']), ddof=1))
    fine = loss.mean <= sd
    lines.append(
      [
        f'no degradation: {name.replace("_", " ")}',
        f'loss {loss.mean:+.3f} beside the dense network, whose seeds have an'
        f' sd of {sd:.3f}',
        interval(loss),
        'holds' if fine else 'fails',
      ]
    )
  if lines:
    yield Table(
      ['criterion', 'measured', 'fair difference', 'verdict'],
      lines,
      'Verdicts of the proposed criteria, over trained models. The fair'
      ' difference is the excess over row-matched edges, or what is left after'
      ' the control with a relabelled matrix on the same tags; mean and 95 %'
      ' interval over paired seeds.',
      left=2,
    )


_SHARES = ('overlap', 'expected', 'strongest')


def _word(test: lg.SeedTest, sign: int, what: str) -> str:
  low, high = test.interval
  if sign * low > 0:
    return f'{what}: yes'
  return f'{what}: ' + ('the opposite' if sign * high < 0 else 'no')


def _overlap(found: dict[str, Any]) -> Iterator[str | Table]:
  if not ({'none', 'untrained'} & found.keys()):
    return
  lines, shared = [], found.get('overlaps', {}).get('shared', {})
  names = {'untrained': 'untrained', 'none': 'dense'}
  for control in ('', 'reinit', 'shuffled'):
    label = f'{control} ticket, {{:.3g}} %'.strip()
    each = tickets(found, control).items()
    names |= {name: label.format(100 * density) for density, name in each}
  names |= dict(zip(TENTHS, ('ticket, 90 %', 'ticket, 10 %'), strict=True))
  for name, label in names.items():
    if name not in found or not (each := found[name].get('overlap')):
      continue
    test = lg.over_seeds([x['excess'] for x in each])
    of = {k: [x[k] for x in each] for k in (*_SHARES, 'jaccard', 'bos', 'self')}
    with_dense = shared.get(name.removeprefix('ticket_'))
    lines.append(
      [
        label,
        spread(final(found[name]), 3) if 'curve' in found[name] else '',
        f'{np.mean(of["overlap"]):.3f}',
        f'{np.mean(of["expected"]):.3f}',
        interval(test),
        f'{test.p:.2f}',
        ' '.join(
          f'{np.mean([x["layers"]["excess"][i] for x in each]):+.3f}'
          for i in range(len(each[0]['layers']['excess']))
        ),
        f'{np.mean(of["jaccard"]):.3f}',
        f'{np.mean(with_dense):.3f}' if with_dense else '',
        f'{np.mean(of["strongest"]):.3f}',
        f'{np.mean(of["bos"]):.2f} {np.mean(of["self"]):.2f}',
      ]
    )
  heads = ['attention', 'loss', 'O', 'X', 'excess [95 %]', 'p', 'by layer']
  heads += ['Jaccard with ASA', 'with dense', 'strongest 10 %', '<bos>, self']
  pairs = found.get('overlaps', {}).get('dense_pairs')
  extra = f' Two dense seeds share {np.mean(pairs):.3f}.' if pairs else ''
  yield Table(
    heads,
    lines,
    'Experiment 1: attention of networks trained without a mask, on pairs of a'
    ' word and an earlier word. O: share of the mass on compatible tags; X:'
    ' what row-matched random edges hold; p: of a t-test of the excess over'
    ' seeds. Jaccard: of as many of the strongest edges of each sentence.'
    + extra,
    printed=6,
  )
  yield '![Excess of attention by density, by layer and seed](overlap.png)'
  yield from _heads(found)


def _heads(found: dict[str, Any]) -> Iterator[Table]:
  heads = found.get('overlaps', {}).get('heads', {})
  lines = []
  for density, each in heads.items():
    row = [f'{100 * float(density):.3g} %']
    for name in ('density', 'norm'):
      own = [lg.spearman(x['excess'], x[name]) for x in each]
      row.append(interval(lg.over_seeds(np.nan_to_num(own)), '{:.2f}'))
    lines.append(row)
  if lines:
    yield Table(
      ['left', 'density of query and key slices', 'norm of output slice'],
      lines,
      'Spearman correlation over heads of their excess with what pruning has'
      ' left of them: mean and 95 % interval over seeds.',
    )


def _nulls(found: dict[str, Any]) -> Iterator[Table]:
  if 'nulls' not in found:
    return
  each = found['nulls']['seeds']
  lines = []
  for kind in ('permuted', 'other', 'relabelled'):
    rows = [x['nulls'][kind] for x in each]
    gap = [x['statistic'][0] - x['mean'][0] for x in rows]
    ps = [x['p'][0] for x in rows]
    lines.append(
      [
        kind,
        f'{np.mean([x["mean"][0] for x in rows]):+.4f}',
        f'{np.mean([x["sd"][0] for x in rows]):.4f}',
        f'{min(ps):.3f} to {max(ps):.3f}',
        interval(lg.over_seeds(gap), '{:+.4f}'),
      ]
    )
  gap = [x['beyond_tags'] for x in each]
  beyond = interval(lg.over_seeds(gap), '{:+.4f}')
  lines.append(['popular tags of keys', '', '', '', beyond])
  control = [x['positive'] for x in each]
  o, x = (np.mean([c[k] for c in control]) for k in ('overlap', 'expected'))
  jaccard = [x['jaccard'] for x in each]
  yield Table(
    ['null', 'mean', 'sd in a model', 'p in a model', 'excess beyond [95 %]'],
    lines,
    'Nulls of the excess of dense networks. Within one model, p can be'
    ' anything; the last column is the verdict, over seeds. "Popular tags":'
    ' attention that depends on the tag of the key alone. Positive control: a'
    f' matrix fitted to training attention has O {o:.3f}, X {x:.3f}, excess'
    f' {interval(lg.over_seeds([c["excess"] for c in control]))}, and agrees'
    f' with ASA in {100 * np.mean([c["agree"] for c in control]):.0f} % of its'
    ' entries. Jaccard of their strongest edges with masks of permuted tags:'
    f' {np.mean([j["mean"] for j in jaccard]):.3f} ±'
    f' {np.mean([j["sd"] for j in jaccard]):.3f}.',
  )


def _published(found: dict[str, Any]) -> Iterator[Table]:
  if 'nulls' not in found:
    return
  groups = {'dense': [x['published'] for x in found['nulls']['seeds']]}
  if 'untrained' in found:
    groups['untrained'] = found['untrained']['published']
  names = ('masks', 'control', 'row_matched', 'relabelled')
  yield Table(
    ['network', 'ASA', 'published control', 'row-matched', 'relabelled'],
    [
      [label, *(spread([x[name] for x in each], 3) for name in names)]
      for label, each in groups.items()
    ],
    'Experiment 2: the published protocol, 0.739 against 0.472 in the proposal,'
    ' and fair controls beside it. Its control has half of the density. Random'
    ' edges, as many in each row as in ASA, hold as much as it does; a'
    ' relabelled matrix has fewer edges between frequent tags.',
  )


def _training(found: dict[str, Any]) -> Iterator[str | Table]:
  if 'asa' not in found or 'none' not in found:
    return
  lines = []
  for name, result in found.items():
    arm = result.get('arm', {})
    plain = not (arm.get('base') or arm.get('guide') or arm.get('learned'))
    if not plain or arm.get('data') != 'whole' or 'curve' not in result:
      continue
    if 'union' in arm['mask'] or 'without' in arm['mask'] or name == 'luck':
      continue
    label = LABELS[arm['mask']]
    label += ', soft' * arm['soft']
    label = 'tag as input, no mask' if arm['tag_input'] else label
    uses = arm['tag_input'] or arm['mask'] != 'none'
    saved = steps_saved(found, name)
    own, dense = curves(result), curves(found['none'])
    mean = lg.over_seeds((own - dense).mean(0))
    same = name == 'none'
    lines.append(
      [
        label,
        arm['source'] if uses else '',
        spread(final(result), 3),
        '' if same else interval(paired(found, name)),
        '' if same else interval(mean),
        '' if same else f'{100 * saved.mean():.0f} %',
        '' if same else ' '.join(f'{100 * x:.0f}' for x in saved),
        spread(result['test_loss'], 3),
      ]
    )
  leak = ' Gold tags leak what follows a word.'
  heads = ['mask', 'tags', 'loss', 'beside no mask [95 %]', 'mean of the curve']
  yield Table(
    [*heads, 'steps saved', 'by seed, %', 'test loss'],
    lines,
    'Experiment 4: validation loss in nats at the end of training, its'
    ' difference from the network without a mask, paired by seed, and steps'
    " saved until that network's final loss (0 where never reached). Near the"
    ' plateau, steps saved say little: see the losses beside them.'
    + leak
    * (found['asa']['arm']['source'] == 'gold'),
    left=2,
    printed=6,
  )
  yield '![Loss beside the network without a mask, over steps](curves.png)'


def _hybrid(found: dict[str, Any]) -> Iterator[Table]:
  pruned = [
    x['arm'] for x in found.values() if x.get('arm', {}).get('pruned') == 'ffn'
  ]
  kept = sorted({arm['density'] for arm in pruned}, reverse=True)
  if not kept:
    return
  lines, source = [], pruned[-1]['source']
  for mask in MASKS:
    names = [mask, *(f'{mask}_ffn_{d:g}' for d in kept)]
    if not set(names) <= found.keys():
      continue
    lines.append(
      [LABELS[mask], *(spread(final(found[name]), 3) for name in names)]
    )
    if mask == 'none' or 'none' not in found:
      continue
    row = [f'interaction, {LABELS[mask]}', '']
    for d in kept:
      own, plain = (final(found[f'{x}_ffn_{d:g}']) for x in (mask, 'none'))
      whole = final(found[mask]) - final(found['none'])
      row.append(interval(lg.over_seeds(own - plain - whole)))
    lines.append(row)
  yield Table(
    ['mask', 'dense', *(f'{100 * d:g} % of FFN' for d in kept)],
    lines,
    f'Experiment 3: loss under masks from {source} tags, with feed-forward'
    ' kernels pruned by IMP. Interaction: how much more, or less, the mask'
    ' gains once kernels are pruned; paired, with 95 % interval.'
    + _all_kernels(found),
  )


def _all_kernels(found: dict[str, Any]) -> str:
  """Losses where kernels of attention are pruned as well."""
  each = [
    f'{LABELS[x["arm"]["mask"]]} {spread(final(x), 3)}'
    for x in found.values()
    if '_both_' in x.get('arm', {}).get('name', '')
  ]
  if not each:
    return ''
  return f' With {100 * min(FFN):g} % of all kernels left: {", ".join(each)}.'
