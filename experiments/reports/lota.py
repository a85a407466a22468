"""Tables and figure of the experiment on adaptation to two tasks."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adaptation.arms import ARMS
from common import figures, findings, grid, tables
from common.command import Run
from common.tables import Table

HEAD = 'Lottery ticket adaptation'
COLUMNS = (
  'network',
  'arm',
  'stage',
  'rate',
  'trained',
  'text_loss',
  'domain_loss',
  'tags_accuracy',
  'forgotten',
  'exact',
)
TITLES = {'decoder': 'a decoder', 'encoder': 'an encoder'}


def rows(result: grid.Result) -> list[dict[str, Any]]:
  columns = {name: result.get(name) for name in COLUMNS}
  return grid.by_seed(result, **columns)


def find(
  results: list[grid.Result], network: str, arm: str, stage: str
) -> grid.Result | None:
  """The result of a cell, if it is there."""
  wanted = (network, arm, stage)
  for one in results:
    if (one['network'], one['arm'], one['stage']) == wanted:
      return one
  return None


def networks(results: list[grid.Result]) -> list[str]:
  return list(dict.fromkeys(x['network'] for x in results))


def arms(results: list[grid.Result]) -> list[str]:
  return list(dict.fromkeys(x['arm'] for x in results if x['arm']))


def perplexity(values: Any) -> str:
  return tables.spread(np.exp(values))


def share(values: Any) -> str:
  return tables.spread(100 * np.asarray(values, float))


def sequence(results: list[grid.Result]) -> list[list[str]]:
  """What both tasks in turn have done, by network and arm."""
  lines = []
  for network in networks(results):
    base = find(results, network, '', 'pretrained')
    assert base is not None
    text, domain = (
      f'{np.exp(base[x][0]):.2f}' for x in ('text_loss', 'domain_loss')
    )
    lines.append([network, 'pretrained', '', domain, '', '', '', text])
    for arm in arms(results):
      one = find(results, network, arm, 'first')
      two = find(results, network, arm, 'second')
      if one is None or two is None:
        continue
      lines.append(
        [
          network,
          ARMS[arm].label,  # pyright: ignore[reportArgumentType]
          f'{round(np.mean(two["trained"])):,}',
          perplexity(one['domain_loss']),
          perplexity(two['domain_loss']),
          tables.spread(two['forgotten'], '+', 3),
          share(two['tags_accuracy']),
          perplexity(two['text_loss']),
        ]
      )
  return lines


def merges(results: list[grid.Result]) -> list[list[str]]:
  """What is left of each task after a merge."""
  lines = []
  for one in results:
    if one['stage'] not in ('sum', 'mean', 'ties'):
      continue
    alone = [
      find(results, one['network'], one['arm'], x) for x in ('first', 'alone')
    ]
    assert alone[0] is not None
    assert alone[1] is not None
    exact = sum(one['exact'])
    lines.append(
      [
        one['network'],
        ARMS[one['arm']].label,
        one['stage'],
        perplexity(alone[0]['domain_loss']),
        perplexity(one['domain_loss']),
        share(alone[1]['tags_accuracy']),
        share(one['tags_accuracy']),
        f'{exact} of {len(one["exact"])}',
      ]
    )
  return lines


def comparisons(results: list[grid.Result]) -> list[str]:
  """What each arm forgets and learns beside full fine-tuning, by seed."""
  found = []
  for network in networks(results):
    full = find(results, network, 'full', 'second')
    forgotten, learned = [], []
    for arm in arms(results):
      one = find(results, network, arm, 'second')
      if arm == 'full' or one is None or full is None:
        continue
      new, old = (np.asarray(x['forgotten'], float) for x in (one, full))
      label = ARMS[arm].label  # pyright: ignore[reportArgumentType]
      forgotten.append(
        f'{label} {findings.difference(new, old, 3)}, less in'
        f' {np.sum(new < old)} of {len(new)}'
      )
      accuracies = one['tags_accuracy'], full['tags_accuracy']
      learned.append(f'{label} {findings.difference(*accuracies, scale=100)}')
    if forgotten:
      found += [
        f'What {TITLES[network]} forgets of the first task beyond full'
        f' fine-tuning, in nats per word, {findings.PAIRED}:'
        f' {"; ".join(forgotten)}.',
        f'Points of accuracy on tags above full fine-tuning: of'
        f' {TITLES[network]}, {"; ".join(learned)}.',
      ]
  return found


def domains(found: Any) -> list[str]:
  """What one program has made of the domains of a pretrained model."""
  lines = []
  for one in found or []:
    base, words, tags = (f'{np.exp(x):.2f}' for x in one.losses)
    label = ARMS[one.arm].label  # pyright: ignore[reportArgumentType]
    lines.append(
      f'One compiled program has run {TITLES[one.network]} in turn as'
      f' pretrained, with the changes for words and with those for tags'
      f' ({label}; {one.numbers[0]:,} and {one.numbers[1]:,} numbers):'
      f' perplexity of the first task {base}, {words} and {tags}. Rolled back,'
      ' each gave the same bits again.'
    )
  return lines


def chosen_rates(results: list[grid.Result]) -> str:
  """The step sizes that were best on the validation part."""
  found = []
  for network in networks(results):
    each = [
      f'{ARMS[x["arm"]].label} {x["rate"]:g}'
      for x in results
      if (x['network'], x['stage']) == (network, 'second')
    ]
    found.append(f'{TITLES[network]}: {", ".join(each)}')
  return (
    'Step sizes of the second task, as multiples of the usual ones, with the'
    f' lowest loss on the validation part: {"; ".join(found)}.'
  )


def page(run: Run) -> list[str | Table]:
  config, results = run.config, run.results
  first = Table(
    [
      'model',
      'trained',
      'weights',
      'first task',
      'after the second',
      'forgotten',
      'tags',
      'old text',
    ],
    sequence(results),
    f'Two tasks in turn, after {config.text_name}: words of {config.domain},'
    f' then tags of {config.treebank_name}; mean ± standard deviation over the'
    ' seeds, which share the pretrained weights. Perplexity of words on the'
    ' test part of the first task, after it and after the second; what it has'
    ' lost between them, in nats per word; accuracy of tags in %; perplexity of'
    ' the old text at the end. Weights: how many of the model trained in the'
    ' second task; heads are new in each task.',
    left=2,
    printed=7,
  )
  parts: list[str | Table] = [*comparisons(results), first]
  if len(config.rates) > 1:
    parts.append(chosen_rates(results))
  parts += domains(run.measured)
  if lines := merges(results):
    parts.append(
      Table(
        [
          'model',
          'trained',
          'merged by',
          'words alone',
          'words merged',
          'tags alone',
          'tags merged',
          'exact',
        ],
        lines,
        'Changes for each task, both from the pretrained weights, and merged.'
        ' Perplexity of the words of the first task and accuracy of tags in %,'
        ' by the changes for this task alone and by both. Exact: seeds in which'
        ' changes have no places in common and all arrive to the bit.',
        left=3,
      )
    )
  return [*parts, '![Forgotten and learned, by seed](forgotten.png)']


def draw(run: Run) -> dict[str, Figure]:
  """Draws what each seed forgets and learns, a panel for each model."""
  results = run.results
  names = networks(results)
  fig, axes = figures.panels(1, len(names), (4.6 * len(names), 4.2))
  for ax, network in zip(axes[0], names, strict=True):
    for arm in arms(results):
      one = find(results, network, arm, 'second')
      if one is None:
        continue
      it = ARMS[arm]  # pyright: ignore[reportArgumentType]
      accuracy = 100 * np.asarray(one['tags_accuracy'], float)
      ax.plot(
        one['forgotten'], accuracy, 'o', ms=5, color=it.color, label=it.label
      )
    ax.axvline(0, color='0.7', lw=0.8)
    ax.set_xlabel('forgotten of the first task (nats per word)')
    ax.set_ylabel('accuracy of the second (%)')
    figures.decorate(ax)
    figures.title(ax, network)
  figures.legend(fig, axes, ncols=3)
  figures.title_all(fig, run.title)
  return {'forgotten': fig}
