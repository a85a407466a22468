"""Numbers of the result pages, recomputed from the CSVs beside them."""

import csv
import functools
import re

import numpy as np
import pytest

from common import collect
from common.tables import spread

KEYS = ('kind', 'part', 'share', 'method', 'ratio', 'check', 'target')
KEYS += ('level', 'control', 'form', 'sparsity', 'arm', 'draw', 'masks')
KEYS += ('trained_on', 'tested_on', 'network', 'rewind_step', 'number')
KEYS += ('model', 'task')
OTHERS = ('seed', 'seconds', 'configuration')
# Pages whose tables have means and deviations of the columns of their CSVs.
PAGES = (
  'circuits_claims',
  'deployed_mnist',
  'experts_claims',
  'init_claims_digits',
  'lottery_claims_digits',
  'lottery_claims_mnist_cosine',
  'lottery_ticket_mnist',
  'post_training_claims_tiny',
  'post_training_pruning_smollm2',
  'post_training_pruning_smollm2_patterns',
  'post_training_pruning_tiny',
  'sparse_claims_digits',
  'ticket_signs_mnist',
)


@functools.cache
def rows(page):
  with (collect.RESULTS / f'{page}.csv').open(newline='') as file:
    return tuple(csv.DictReader(file))


def text(page):
  return (collect.RESULTS / f'{page}.md').read_text()


def spreads(page):
  """Mean and deviation over seeds, of all numbers of all arms, as written."""
  arms, found = {}, set()
  for row in rows(page):
    arms.setdefault(tuple(row.get(key) for key in KEYS), []).append(row)
  for arm in arms.values():
    for name in arm[0].keys() - {*KEYS, *OTHERS}:
      try:
        values = np.array([float(row[name]) for row in arm])
      except ValueError:
        continue  # Words, or not measured.
      found |= {
        spread(scale * values, digits=digits)
        for scale in (1, 100)
        for digits in (1, 2, 3)
      }
  return found


@pytest.mark.parametrize('page', PAGES)
def test_means_and_deviations_are_those_of_the_data(page):
  written = set(re.findall(r'-?\d+\.\d+ ± \d+\.\d+', text(page)))
  assert written <= spreads(page)


def mean(page, column, **arm):
  found = [
    float(row[column])
    for row in rows(page)
    if all(row[name] == str(value) for name, value in arm.items())
  ]
  assert found, (page, arm)
  return np.mean(found)


def behind(page, control, level):
  """Points that a control is behind the ticket."""
  one, other = (
    mean(page, 'test_accuracy_at_best', control=name, level=level)
    for name in ('ticket', control)
  )
  return 100 * (one - other)


def above_dense(page, level):
  ticket = mean(page, 'test_accuracy_at_best', control='ticket', level=level)
  dense = mean(page, 'test_accuracy_at_best', control='ticket', level=0)
  return 100 * (ticket - dense)


def perplexity(method, target, page='post_training_pruning_tiny'):
  """Of a pruned decoder, over that of the dense one."""
  dense = mean(page, 'perplexity', method='dense')
  return mean(page, 'perplexity', method=method, target=target) / dense


def smollm2(method, target):
  page = SMOLLM2 if target == '50 %' else f'{SMOLLM2}_patterns'
  return mean(page, 'perplexity', method=method, target=target)


def lost(method):
  cut = {'kind': 'cuts', 'part': 'neurons', 'method': method}
  dense = mean('structured_tiny', 'perplexity', kind='dense')
  return mean('structured_tiny', 'perplexity', **cut) - dense


TICKET, SIGNS = 'lottery_ticket_mnist', 'ticket_signs_mnist'
COSINE, TINY = 'lottery_claims_mnist_cosine', 'post_training_pruning_tiny'
SMOLLM2 = 'post_training_pruning_smollm2'
TARGETS = ('50 %', '4:8', '2:4')
# Words of a page, whose numbers stand for #, and what those are.
PROSE = [
  (
    TICKET,
    'by # points at 21 % and # at 3.6 %; if both',
    lambda: [above_dense(TICKET, level) for level in (7, 15)],
  ),
  (
    TICKET,
    'it leads by at most #',
    lambda: [max(above_dense(COSINE, level) for level in range(16))],
  ),
  (
    TICKET,
    'new weights by # points at 21 % and by # at 3.6 %',
    lambda: [behind(TICKET, 'reinit', level) for level in (7, 15)],
  ),
  (
    TICKET,
    'shuffled within its layers by # and #.',
    lambda: [behind(TICKET, 'shuffled', level) for level in (7, 15)],
  ),
  (
    SIGNS,
    'new or constant magnitudes cost at most # points',
    lambda: [
      max(
        behind(SIGNS, control, level)
        for control in ('sign_preserved', 'signed_constant')
        for level in (7, 15)
      )
    ],
  ),
  (
    SIGNS,
    'new signs, the ticket loses # points at 21 % and # points',
    lambda: [behind(SIGNS, 'random_signs', level) for level in (7, 15)],
  ),
  (
    SIGNS,
    'a random reinitialization loses #',
    lambda: [behind(SIGNS, 'reinit', 15)],
  ),
  (SIGNS, 'it loses most, # points', lambda: [behind(SIGNS, 'shuffled', 15)]),
  (
    SIGNS,
    'initial values, the ticket loses # and # points',
    lambda: [behind(SIGNS, 'frozen', level) for level in (7, 15)],
  ),
  (
    COSINE,
    'by # points at 11 % of the weights and # at its best',
    lambda: [above_dense(COSINE, 10), above_dense(COSINE, 4)],
  ),
  (COSINE, 'at 3.6 % it is # behind', lambda: [-above_dense(COSINE, 15)]),
  (
    COSINE,
    'pruning at once by # points at 3.6 %, and still by # if',
    lambda: [behind(COSINE, f'one_shot{x}', 15) for x in ('', '_matched')],
  ),
  (
    TINY,
    '# times the dense perplexity at 50 %, # times at 70 % and # times',
    lambda: [perplexity('reconstruct', f'{share} %') for share in (50, 70, 80)],
  ),
  (
    TINY,
    'where Wanda has # and # times',
    lambda: [perplexity('wanda', f'{share} %') for share in (70, 80)],
  ),
  (
    'structured_tiny',
    '# against # in perplexity',
    lambda: [lost('flap_bias'), lost('random')],
  ),
  (
    SMOLLM2,
    'Wanda # times, SparseGPT # times, and a refit of the weights that Wanda'
    ' keeps # times',
    lambda: [
      perplexity(method, '50 %', SMOLLM2)
      for method in ('wanda', 'sparse_gpt', 'refit')
    ],
  ),
  (
    SMOLLM2,
    'takes the perplexity #, # and # below the refit of the same draw.',
    lambda: [
      mean(SMOLLM2, 'perplexity', method='refit', seed=draw)
      - mean(SMOLLM2, 'perplexity', method='reconstruct', seed=draw)
      for draw in range(3)
    ],
  ),
  (
    f'{SMOLLM2}_patterns',
    'Wanda goes from # to # with 4:8 and # with 2:4, magnitudes from # to #'
    ' and #.',
    lambda: [
      smollm2(method, target)
      for method in ('wanda', 'magnitude')
      for target in TARGETS
    ],
  ),
  (
    f'{SMOLLM2}_patterns',
    'with a refit, #, # and #.',
    lambda: [smollm2('refit', target) for target in TARGETS],
  ),
]


@pytest.mark.parametrize(('page', 'words', 'numbers'), PROSE)
def test_numbers_in_prose_are_those_of_the_data(page, words, numbers):
  pattern = re.escape(words).replace(r'\#', r'(\d[\d,]*(?:\.\d+)?)')
  by_hand = text(page).partition(collect.MARKER)[2]
  found = re.search(pattern, ' '.join(by_hand.split()))
  assert found, 'The page does not say so any more.'
  for written, number in zip(found.groups(), numbers(), strict=True):
    digits = len(written.partition('.')[2])
    assert (
      abs(float(written.replace(',', '')) - number) <= 0.51 * 10**-digits
    ), number
