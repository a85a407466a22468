"""What holds for each of the commands."""

import dataclasses
import importlib
import io
import json
import pathlib
import re
import shutil
import sys
import xml.etree.ElementTree

import pytest
from tiny_experiments import TINY

from common import collect, command, figures
from common.config import BaseConfig, brief, parse
from lthjax import runs

MOST = 46  # lines of help, which should fit on a screen
FIRST_PRESETS = {
  'lottery_ticket': 'digits',
  'deployed_ticket': 'digits',
  'dynamic_sparse_training': 'mnist',
  'pruning_at_init': 'mnist',
  'score_submission': 'digits',
  'zero_cost_ranking': 'fashion_mnist',
  'linear_mode_connectivity': 'digits',
  'ticket_transfer': 'digits',
  'disentangled_tickets': 'digits',
  'early_bird': 'digits',
  'linguistic_masks': 'ewt',
  'bert_tickets': 'tiny',
  'lota': 'tiny',
  'beyond_accuracy': 'digits',
  'beyond_perplexity': 'tiny',
  'supermasks': 'mnist',
  'structured_pruning': 'tiny',
  'post_training_pruning': 'tiny',
  'experts': 'tiny',
  'circuit_sparsity': 'tiny',
  'activation_sparsity': 'tiny',
}
PRESETS = [
  (name, preset)
  for name in TINY
  for preset in importlib.import_module(name).PRESETS
]
# How many trainings and other cells there are.
COUNTS = {
  ('lottery_ticket', 'digits'): 19 + 9 * 4,
  ('lottery_ticket', 'signs'): 16 + 2 * 7,
  ('deployed_ticket', 'digits'): 19 + 1,
  ('dynamic_sparse_training', 'mnist'): 1 + 10 * 3,
  ('dynamic_sparse_training', 'mnist_longer'): 5 * 4,
  ('score_submission', 'digits'): 1 + 5 + 6 * 5 * 4,
  ('zero_cost_ranking', 'digits'): 10 + 32,
  ('ticket_transfer', 'digits'): 3 * 16 + 3 * 7,
  ('ticket_transfer', 'images'): 3 * 16 + 3 * 7,
  ('beyond_accuracy', 'digits'): 2 + 6 + 2 * 2,
  ('beyond_accuracy', 'digits_unit'): 2 + 6 + 2 * 2,
  ('beyond_perplexity', 'tiny'): 2 + 3,
  ('beyond_perplexity', 'smollm2'): 1 + 2,
  ('early_bird', 'digits'): 1 + 3 * 7,
  ('linguistic_masks', 'ewt'): 89,
  ('linguistic_masks', 'tagger'): 1,
  # Taggers, measurements, masks, tickets of twelve levels and four others,
  # guided weights and their tickets, 2:4, hybrids, and luck.
  ('linguistic_masks', 'wikitext2'): 1 + 5 + 9 + 16 + 8 + 12 + 3 + 18 + 1,
  ('linguistic_masks', 'accelerator'): 1 + 5 + 9 + 16 + 8 + 12 + 3 + 18,
  # Three arms with two stages, and four with three, and three merges.
  # Two tasks with seven rounds, and five kinds, of which words have four.
  ('bert_tickets', 'tiny'): 1 + 2 * 7 + 2 * (4 + 5),
  ('lota', 'tiny'): 2 * (1 + 3 * 2 + 4 * 3 + 4 * 3),
  ('early_bird', 'mnist'): 1 + 3 * 8,
  ('supermasks', 'mnist'): 12,
  ('supermasks', 'mnist_widths'): 16,
  # Eight scores of neurons and heads, four of layers, and those distilled.
  ('structured_pruning', 'tiny'): 1 + 8 + 8 + 4 + 3 * 3 + 1,
  ('structured_pruning', 'smollm2'): 1 + 5 + 5 + 3 + 1,
  # Four scores at three shares, and four rules at two sparsities.
  ('experts', 'tiny'): 1 + 4 * 3 + 4 * 2,
  ('activation_sparsity', 'tiny'): 1 + 3 * 3,
  ('circuit_sparsity', 'tiny'): 2 + 2 * 2,
  ('post_training_pruning', 'smollm2'): 2 + 3 * 5,
  ('post_training_pruning', 'smollm2_patterns'): 3 + 3 * 6,
}
# Lines of pages, and how often they are there.
LINES = {
  'lottery_ticket': {'|  | sign | magnitude | mask | 80.20 % | 51.63 % |': 1},
  'deployed_ticket': {'| compacted | ': 1, '| int8 | ': 1},
  'dynamic_sparse_training': {'| RigL | ': 1},
  'pruning_at_init': {'| SNIP | ': 2},
  'score_submission': {'| snip | ': 2, '| ERK-random | ': 1},
  'zero_cost_ranking': {'| num_params | ': 1, '| by snip alone | ': 1},
  'linear_mode_connectivity': {'| winning ticket | ': 2},
  'ticket_transfer': {'| of digits | ': 2},
  'disentangled_tickets': {
    '| core, specialist 1 | 40 % | 0 | ': 1,
    '| COLT, level 1 | ': 2,
    '| 1 | 40 % | output/kernel | 160.0 | ': 1,
  },
  'early_bird': {
    '| 50 % | ticket | rule: 1, 1 | ': 1,
    '| 50 % | slim, from scratch | 1 | ': 1,
  },
  'linguistic_masks': {'| ASA | gold | ': 1, '| ticket, 50 % | ': 1},
  'bert_tickets': {'| for masked words | 20 % | ': 1, '| tags | 20 % | ': 1},
  'lota': {
    '| decoder | LoTA, 90 % | ': 2,
    'One compiled program has run a decoder in turn as pretrained': 1,
  },
  'beyond_accuracy': {
    '| 100 % | dense, another seed | ': 2,
    '| 60 % | random ticket | ': 2,
    '| motion blur | ': 1,
    '| ticket, masked | 64 | ': 1,
  },
  'beyond_perplexity': {
    '| dense, another seed | ': 3,
    '| Wanda 50 % | ': 3,
  },
  'supermasks': {
    '| large final same sign, ': 2,
    '| edge-popup, signed constant | 50 | ': 1,
  },
  'structured_pruning': {
    '| neurons | 50 % | ': 3,
    '| neurons, 50 % | ': 3,
    '| neurons 0.5 | ': 1,
  },
  'post_training_pruning': {'| Wanda | ': 1},
  'activation_sparsity': {'| TEAL, greedy | ': 1, '| AbsTopK | ': 1},
  'circuit_sparsity': {
    '| closing a quote | weight-sparse | ': 1,
    '| closing a quote | dense twin | ': 1,
  },
  'experts': {'| REAP | ': 1, '| Wanda | ': 1, '| weights left | ': 1},
}
# Steps of the evaluations, and those of cells that are different.
STEPS = {
  'lottery_ticket': [20, 40, 60],
  'deployed_ticket': [20],
  'dynamic_sparse_training': [20, 40],
  'pruning_at_init': [20],
  'score_submission': [20],
  'zero_cost_ranking': [30],
  'linear_mode_connectivity': [20],
  'ticket_transfer': [20],
  'disentangled_tickets': [6, 12],
  'early_bird': [1, 2],
  'linguistic_masks': [4, 8],
  'bert_tickets': [5, 10],
  'networks/encoder': [10, 20],
  'lota': [5, 10],
  'merged/decoder-lota_90-sum': [],
  'beyond_accuracy': [20],
  'beyond_perplexity': [],
  'networks/again-0': [10, 20],
  'supermasks': [10, 20],
  'structured_pruning': [],
  'networks/decoder': [10, 20],
  'distilled/neurons-0.5-flap_bias': [1, 2, 3, 4],
  'post_training_pruning': [],
  'activation_sparsity': [],
  'circuit_sparsity': [10, 20],
  **{f'circuits/{x}-quotes': [] for x in ('sparse', 'dense')},
  'experts': [],
  'networks/decoders': [10, 20],
  'deployed': [],
  'scores/num_params': [],
  'scores/snip': [],
  'networks/colt-01': [6, 12, 18, 24],
  'networks/0.5-001': [1],
  'networks/0.5-001-random': [1],
  'networks/0.5-001-slim': [1, 2, 3, 4, 5, 6],
  **{f'measures/{x}': [] for x in ('untrained', 'nulls', 'overlaps')},
  **{f'networks/ticket_0.5{x}': [8] for x in ('', '_shuffled')},
}
# Refused by the command line, whatever else it says.
BAD_COMMAND_LINES = {
  'lottery_ticket': [
    ('--sparse-from 1', 'sparse_from was 1.0, but must be between 0 and 1'),
    ('--rewind-step 60', 'rewind_step was 60, but must be from 0 to 59'),
    ('--rewind-step -1', 'rewind_step was -1, but must be from 0 to 59'),
    ('--rewind-step 59 --eval-every 61', 'There is no evaluation from step'),
    ('--controls reinit reinit', 'but must be none or more, each of them once'),
    ('--steps 19', 'There is no evaluation from step 0 to step 19 when eval_'),
    ('--levels 0', 'levels was 0, but must be at least 1'),
    ('--preset nonsense', "invalid choice 'nonsense' for argument '--preset'"),
    ('--preset', 'argument --preset: expected one argument'),
    ('--model mlp', "invalid choice 'mlp' for argument '--model'"),
    ('--controls rewind', "invalid choice 'rewind' for argument '--controls'"),
    ('--fraction 0.2', '--fraction'),
    ('--sparsity 0.9', '--sparsity'),
    ('--weight-decay -1', 'weight_decay was -1.0, but must be at least 0'),
    ('--weight-decay nan', 'weight_decay had nan, but must be a finite'),
  ],
  'deployed_ticket': [
    ('--levels 1', 'levels was 1, but must be at least 2'),
    ('--repeats 0', 'repeats was 0, but must be at least 1'),
    ('--sparse-from 0', 'sparse_from was 0.0, but must be between 0 and 1'),
    ('--model mlp', "invalid choice 'mlp' for argument '--model'"),
  ],
  'dynamic_sparse_training': [
    ('--sparsities 1.0', 'sparsities had 1.0, but must be between 0 and 1'),
    ('--sparsities nan', 'sparsities had nan, but must be a finite number'),
    ('--sparsities 0.9 0.9', 'sparsities were 0.9 0.9, but must be'),
    ('--lengths 0.001', 'lengths had 0.001, but 0.001 of 40 steps'),
    ('--stop-share 1.5', 'stop_share was 1.5, but must be in (0, 1]'),
    ('--update-every 0', 'update_every was 0, but must be at least 1'),
    ('--methods snip', "invalid choice 'snip' for argument '--methods'"),
  ],
  'pruning_at_init': [
    ('--ratios 1', 'ratios had 1.0, but must be above 1'),
    ('--ratios 10 10', 'ratios were 10.0 10.0, but must be one or more'),
    ('--checks reinit reinit', 'checks were reinit reinit, but must be none'),
    ('--imp-fraction 1', 'imp_fraction was 1.0, but must be between 0 and 1'),
    ('--score-batches 0', 'score_batches was 0, but must be at least 1'),
    ('--methods rigl', "invalid choice 'rigl' for argument '--methods'"),
  ],
  'score_submission': [
    ('--seeds 1', 'seeds was 1, but must be at least 2'),
    ('--ratios 1', 'ratios had 1.0, but must be above 1'),
    ('--ratios 4 4', 'ratios were 4.0 4.0, but must be one or more'),
    ('--checks reinit reinit', 'checks were reinit reinit, but must be none'),
    ('--submissions nothing', 'nothing.py is not a file. Submissions are'),
    ('--submissions snip snip', 'submissions were snip snip, but must be'),
    ('--dataset python_manual', 'python_manual, but model lenet_300_100. A'),
    ('--model decoder', 'dataset was digits, but model decoder. A decoder'),
    ('--model mlp', "invalid choice 'mlp' for argument '--model'"),
  ],
  'zero_cost_ranking': [
    ('--widths 3 3', 'widths were 3 3, but must be one or more'),
    ('--kernels 2', 'kernels had 2, but must be odd'),
    ('--proxy-batch 1', 'proxy_batch was 1, but must be at least 2'),
    ('--warm zen', 'warm had zen, which is not among the proxies'),
  ],
  'linear_mode_connectivity': [
    ('--model decoder', 'A decoder reads a text (tinyshakespeare,'),
    ('--copies 1', 'copies was 1, but must be at least 2'),
    ('--points 1', 'points was 1, but must be at least 2'),
    ('--networks ticket ticket', 'networks were ticket ticket, but must be'),
    ('--rewind-steps 0 0', 'rewind_steps were 0 0, but must be one or more'),
    ('--rewind-steps 20', 'rewind_steps had 20, but must be from 0 to 19'),
    ('--rewind-steps -1', 'rewind_steps had -1, but must be from 0 to 19'),
    ('--networks dense', "invalid choice 'dense' for argument '--networks'"),
  ],
  'ticket_transfer': [
    ('--levels 1', 'levels was 1, but must be at least 2'),
    ('--rewind-step 20', 'rewind_step was 20, but must be from 0 to 19'),
    ('--datasets digits digits', 'datasets were digits digits, but must be'),
    ('--model mlp', "invalid choice 'mlp' for argument '--model'"),
  ],
  'disentangled_tickets': [
    ('--levels 1', 'levels was 1, but must be at least 2'),
    ('--rewind-step 12', 'rewind_step was 12, but must be from 0 to 11'),
    ('--by pixel', "invalid choice 'pixel' for argument '--by'"),
  ],
  'linguistic_masks': [
    ('--seeds 1', 'seeds was 1, but must be at least 2'),
    ('--experiments 12', 'experiments had 12, but must be from 1 to 11'),
    ('--experiments 1 1', 'experiments were 1 1, but must be one or more'),
    ('--time 20', 'time was 20, but must be a multiple of 8.'),
    ('--heads 3', 'width was 16, but must be 3 heads of an even size.'),
    ('--kept 1', 'kept had 1.0, but must be between 0 and 1'),
    ('--fraction 1', 'fraction was 1.0, but must be between 0 and 1'),
    ('--luck 3', 'luck was 3, but must be at least 4'),
    ('--rewind-step 8', 'rewind_step was 8, but must be from 0 to 7'),
    ('--draws 0', 'draws was 0, but must be at least 1'),
    ('--dataset wikitext2', 'sources had gold, but WikiText-2 has no gold'),
    ('--sources silver', "invalid choice 'silver' for argument '--sources'"),
  ],
  'bert_tickets': [
    ('--sparsities 0.65', 'sparsities had 0.65, but must be in tenths'),
    ('--sparsities 1.0', 'sparsities had 1.0, but must be between 0 and 1'),
    ('--kinds words words', 'kinds were words words, but must be one or'),
    ('--width 9', 'width was 9, but must be 2 heads of an even size.'),
    ('--pretrain-steps 0', 'pretrain_steps was 0, but must be at least 1'),
    ('--kinds hessian', "invalid choice 'hessian' for argument '--kinds'"),
  ],
  'lota': [
    ('--arms lota_90', 'arms were lota_90, but must have full, which'),
    ('--merged lora', 'merged had lora, which is not among the arms.'),
    ('--width 9', 'width was 9, but must be 2 heads of an even size.'),
    ('--rules', 'rules were none, but must be one or more'),
    ('--lora-rate 0', 'lora_rate was 0.0, but must be above 0'),
    ('--rates 1 0', 'rates had 0.0, but must be above 0'),
    ('--rates 1 2 --eval-every 11', 'eval_every was 11, but there are 10'),
    ('--vocabulary 4', 'vocabulary was 4, but must be at least 8'),
    ('--networks gru', "invalid choice 'gru' for argument '--networks'"),
  ],
  'early_bird': [
    ('--sparsities 1.0', 'sparsities had 1.0, but must be between 0 and 1'),
    ('--draws 2', 'draws had 2, but must be between 0 and the number of'),
    ('--draws 2 1', 'draws were 2 1, but must be in order.'),
    ('--window 1', '`window` was 1, but must be at least 2'),
    ('--epochs 0', 'epochs was 0, but must be at least 1'),
    ('--model conv_2', "invalid choice 'conv_2' for argument '--model'"),
  ],
  'beyond_accuracy': [
    ('--levels 1', 'levels was 1, but must be at least 2'),
    ('--seeds 1', 'seeds was 1, but must be at least 2'),
    ('--control-levels 2', 'control_levels had 2, but must be from 1 to 1'),
    ('--shifted 0', 'shifted was 0, but must be at least 1'),
    ('--model mlp', "invalid choice 'mlp' for argument '--model'"),
  ],
  'beyond_perplexity': [
    ('--sparsities 1.0', 'sparsities had 1.0, but must be between 0 and 1'),
    ('--questions 0', 'questions was 0, but must be at least 1'),
    ('--new-tokens 16', 'time was 16, but must be above the 16 tokens of an'),
    ('--tokens words', 'tokens was words, but other texts have other words'),
    ('--domains novel', "invalid choice 'novel' for argument '--domains'"),
  ],
  'supermasks': [
    ('--kept 1.0', 'kept had 1.0, but must be between 0 and 1: with all'),
    ('--read-kept 0.5 0', 'read_kept had 0.0, but must be between 0 and 1'),
    ('--kept 0.5 0.5', 'kept were 0.5 0.5, but must be one or more'),
    ('--score-rate 0', 'score_rate was 0.0, but must be above 0'),
    (
      '--model resnet_20 --widths 1 2',
      'widths were 1.0 2.0, but resnet_20 has one width only',
    ),
    ('--methods snip', "invalid choice 'snip' for argument '--methods'"),
  ],
  'structured_pruning': [
    ('--shares 1.0', 'shares had 1.0, but must be between 0 and 1'),
    ('--shares 0.5 0.5', 'shares were 0.5 0.5, but must be one or more'),
    ('--distilled taylor', 'distilled had taylor, which is not among the'),
    ('--distill-rate 0', 'distill_rate was 0.0, but must be above 0'),
    ('--similar-tokens 8', 'similar_tokens was 8, but must be at least 16'),
    ('--parts experts', "invalid choice 'experts' for argument '--parts'"),
    ('--methods snip', "invalid choice 'snip' for argument '--methods'"),
  ],
  'post_training_pruning': [
    ('--sparsities 1.0', 'sparsities had 1.0, but must be between 0 and 1'),
    ('--sparsities 0.5 0.5', 'sparsities were 0.5 0.5, but must be none or'),
    ('--sparsities --patterns', 'sparsities and patterns were both none'),
    ('--owl-sparsity 0', 'owl_sparsity was 0.0, but must be between 0 and 1'),
    ('--train-rate 0', 'train_rate was 0.0, but must be above 0'),
    ('--time 1', 'time was 1, but must be at least 2'),
    ('--eval-tokens 8', 'eval_tokens was 8, but must be at least 16'),
    ('--patterns 3:2', "invalid choice '3:2' for argument '--patterns'"),
    ('--methods snip', "invalid choice 'snip' for argument '--methods'"),
    ('--text novel', "invalid choice 'novel' for argument '--text'"),
  ],
  'activation_sparsity': [
    ('--sparsities 1.0', 'sparsities had 1.0, but must be between 0 and 1'),
    ('--sparsities 0.995', 'sparsities had 0.995, but must be at most 0.99'),
    ('--methods top_k top_k', 'methods were top_k top_k, but must be one or'),
    ('--greedy-step 0', 'greedy_step was 0.0, but must be between 0 and 1'),
    ('--counted-tokens 8', 'counted_tokens was 8, but must be at least 16'),
    ('--methods snip', "invalid choice 'snip' for argument '--methods'"),
  ],
  'circuit_sparsity': [
    ('--sparsity 1.0', 'sparsity was 1.0, but must be between 0 and 1'),
    ('--active 0', 'active was 0.0, but must be between 0 and 1'),
    ('--target 0', 'target was 0.0, but must be above 0'),
    ('--width 9', 'width was 9, but must be a multiple of the 2 heads'),
    ('--eval-every 21', 'eval_every was 21, but there are 20 steps'),
    ('--tasks quotes quotes', 'tasks were quotes quotes, but must be one or'),
    ('--tasks variables', "invalid choice 'variables' for argument '--tasks'"),
  ],
  'experts': [
    ('--shares 1.0', 'shares had 1.0, but must be between 0 and 1'),
    ('--shares 0.9', 'shares had 0.9, which leaves 0 of 4 experts, but must'),
    ('--shares 0.1', 'shares had 0.1, which leaves 4 of 4 experts, but must'),
    ('--scores reap reap', 'scores were reap reap, but must be one or more'),
    ('--experts 1', 'experts was 1, but must be at least 2'),
    ('--pretrained', 'pretrained was True, but SmolLM2 has no experts'),
    ('--scores snip', "invalid choice 'snip' for argument '--scores'"),
  ],
}
BAD_COMMAND_LINES['lottery_ticket'] += [
  ('--seeds 0', 'seeds was 0, but must be at least 1'),
  ('--batch-size 0', 'batch_size was 0, but must be at least 1'),
  ('--validation 0', 'validation was 0, but must be at least 1'),
  ('--learning-rate inf', 'learning_rate had inf, but must be a finite'),
]
for _bad in BAD_COMMAND_LINES.values():
  # The last check of `BaseConfig`: where it is reached, so are the others.
  _bad.append(
    ('--learning-rate -1', 'learning_rate was -1.0, but must be above 0')
  )
  if _bad is not BAD_COMMAND_LINES['early_bird']:  # It counts in epochs.
    _bad.append(('--steps 0', 'steps was 0, but must be at least 1'))
# Refused once the data and the network are known, before any training.
BAD_VALUES = {
  'lottery_ticket': [
    ('--fraction * 1.0', '`fraction` was 1.0, but must be in [0, 1)'),
    ('--fraction conv* 0.2', "match no prunable leaf: 'conv*'"),
    ('--validation 1437', '`validation` was 1437, but must be from 0 to 1436'),
  ],
  'deployed_ticket': [
    ('--fraction x* 0.2', "match no prunable leaf: 'x*'"),
    ('--model conv_2 --sparse-from 0.5', 'cannot be trained on alive weights'),
  ],
  'dynamic_sparse_training': [
    ('--update-every 35', '`stop_step` was 30, before the first move'),
    ('--drop-fraction 1.2', '`drop_fraction` was 1.2, but must be in'),
    ('--sparsities 0.99999', 'leaves no weight alive in fc'),
    ('--model conv_2 --sparse-kernels', 'cannot be trained on alive weights'),
  ],
  'pruning_at_init': [
    (
      '--ratios 30000',
      '--ratios 30000: This sparsity leaves 2 weights for 3 layers'
      ' (fc1/kernel,',
    ),
  ],
  'score_submission': [
    ('--ratios 30000', '--ratios 30000: '),
  ],
  'zero_cost_ranking': [
    (
      '--patches 3',
      'Images of 8 x 8 pixels cannot be cut into patches of 3 x 3. Choose',
    ),
  ],
  'linear_mode_connectivity': [
    ('--fraction conv* 0.2', "match no prunable leaf: 'conv*'"),
  ],
  'ticket_transfer': [
    ('--fraction x* 0.2', "match no prunable leaf: 'x*'"),
    ('--fresh conv*', "`fresh` has patterns that match no leaf: 'conv*'"),
  ],
  'disentangled_tickets': [
    (
      '--parts 11',
      '`parts` was 11, but must be from 2 to 10: every part needs classes',
    ),
    ('--by example --parts 190', 'part 189 has no validation example. Every'),
    ('--batch-size 700', 'batch_size was 700, but part 1 has 624'),
    ('--fraction x* 0.6', "match no prunable leaf: 'x*'"),
  ],
  'early_bird': [
    ('--sparsities 0.99', '--sparsities 0.99: This sparsity leaves 1 weights'),
    ('--patch 3', 'cannot be cut into patches of 3 x 3'),
  ],
  'beyond_accuracy': [
    ('--fraction x* 0.2', "match no prunable leaf: 'x*'"),
  ],
  'supermasks': [
    (
      '--kept 0.0001',
      'A sparsity of 0.9999 leaves no weight alive in output/kernel (of 1000'
      ' weights; keeping one is',
    ),
  ],
}
BAD_VALUES['structured_pruning'] = [
  ('--width 9', 'width was 9, but must be a multiple of the 2 heads'),
  ('--batch-size 500000', 'batch_size was 500000, but there are'),
]
BAD_VALUES['activation_sparsity'] = [
  ('--width 9', 'width was 9, but must be a multiple of the 2 heads'),
  ('--batch-size 500000', 'batch_size was 500000, but there are'),
]
BAD_VALUES['beyond_perplexity'] = [
  ('--width 9', 'width was 9, but must be a multiple of the 2 heads'),
]
BAD_VALUES['circuit_sparsity'] = [
  ('--batch-size 65', 'batch_size was 65, but there are 64 lines to train on'),
]
BAD_VALUES['experts'] = [
  ('--width 9', 'width was 9, but must be a multiple of the 2 heads'),
  ('--batch-size 500000', 'batch_size was 500000, but there are'),
]
BAD_VALUES['post_training_pruning'] = [
  ('--width 9', 'width was 9, but must be a multiple of the 2 heads'),
  (
    '--mlp 6 --patterns 2:4',
    'mlp/down/kernel has 6 inputs, not a multiple of 4',
  ),
  ('--batch-size 500000', 'batch_size was 500000, but there are'),
]
BAD_VALUES['bert_tickets'] = [
  ('--batch-size 500000', 'batch_size was 500000, but there are'),
  ('--pretrained nothing', 'nothing is neither a folder nor an installed'),
  ('--glue nowhere', 'nowhere has no folder with the files train.tsv and'),
]
BAD_VALUES['lota'] = [
  ('--batch-size 5000', 'batch_size was 5000, but there are'),
  ('--pretrain-batch 500000', 'pretrain_batch was 500000, but there are'),
  ('--time 4096', 'time was 4096, but the validation part of domain has'),
]
for _name, _bad in BAD_VALUES.items():
  if _name not in (
    'activation_sparsity',
    'beyond_perplexity',
    'bert_tickets',
    'circuit_sparsity',
    'disentangled_tickets',
    'experts',
    'lota',
    'structured_pruning',
    'post_training_pruning',
  ):
    _bad.append(
      ('--batch-size 5000', 'batch_size was 5000, but there are 1'),
    )


def pairs(table, fast):
  """Name and case; of each experiment but one, only the first are fast."""
  return [
    pytest.param(
      name,
      *case,
      marks=[]
      if name == 'lottery_ticket' or case in cases[:fast]
      else pytest.mark.slow,
    )
    for name, cases in table.items()
    for case in cases
  ]


@pytest.fixture(params=TINY)
def name(request):
  return request.param


@pytest.fixture
def finished(run_once, name):
  return run_once(name)


def unboxed(text):
  """The words of a message without their frame."""
  return re.sub(r'[│╭╮╰╯─\s]+', ' ', text)


# The command line.


def test_help(name, call):
  module = importlib.import_module(name)
  code, printed, _ = call(name, '--help')
  assert code == 0
  assert f'python experiments/{name}.py' in printed
  assert max(map(len, module.__doc__.splitlines())) <= 80
  for preset in module.PRESETS:
    assert re.search(rf'\n  ([a-z0-9_]+, )*{preset}\b', printed)
  for field in dataclasses.fields(type(module.PRESETS[FIRST_PRESETS[name]])):
    assert f'--{field.name.replace("_", "-")} (' in printed
  assert f'--preset ({FIRST_PRESETS[name]})' in printed
  assert '()' not in printed
  lines = printed.splitlines()
  assert max(map(len, lines)) <= 80
  assert len(lines) <= MOST


def test_verbose_help_explains_the_options(call):
  code, printed, _ = call('lottery_ticket', '--help-verbose')
  assert code == 0
  assert 'python experiments/lottery_ticket.py' in printed
  assert 'Share of alive weights to prune per level' in unboxed(printed)
  assert 'Paper: Frankle & Carbin' in printed


def test_short_help_leaves_out_paragraphs_above_the_examples():
  assert brief('Title.') == 'Title.'
  assert brief('Title.\n\nWords.\n') == 'Title.\n\nWords.\n'
  doc = 'Title.\n\nWords.\n\nPaper.\n\n  python a\n\n  one  Two.\n\nNote.\n'
  assert brief(doc) == 'Title.\n\n  python a\n\n  one  Two.\n\nNote.\n'


def test_a_reader_that_leaves_is_no_error(monkeypatch):
  monkeypatch.setattr(sys, 'stdout', io.StringIO())
  with pytest.raises(SystemExit) as info, command.friendly_exit():
    raise BrokenPipeError
  assert info.value.code == 1  # And not a text, which would be printed.


def test_help_names_the_defaults_of_a_preset(call):
  code, printed, _ = call('lottery_ticket', '--preset', 'mnist', '--help')
  assert code == 0
  assert '--preset (mnist)' in printed
  assert "--fraction ('output/*' 0.1 '*' 0.2)" in ' '.join(printed.split())
  assert '--augment (no)' in printed


@pytest.mark.parametrize(('name', 'preset'), PRESETS)
def test_presets(name, preset):
  module = importlib.import_module(name)
  config = module.PRESETS[preset]
  assert isinstance(config, BaseConfig)
  changed = parse(['--seeds', '7', f'--preset={preset}'], module.PRESETS, '')
  assert changed == dataclasses.replace(config, seeds=7)
  cells = module.cells(config)
  assert len({cell.name for cell in cells}) == len(cells)
  assert len({cell.label for cell in cells}) == len(cells)
  assert len(cells) == COUNTS.get((name, preset), len(cells))


def test_the_first_preset_is_the_default(name):
  module = importlib.import_module(name)
  config = parse([], module.PRESETS, '')
  assert config == module.PRESETS[FIRST_PRESETS[name]]
  # Names of folders stay as they are when options with defaults are added.
  default = type(config)()
  assert runs.config_hash(default) == '44136fa3'


@pytest.mark.usefixtures('no_training')
@pytest.mark.parametrize(
  ('name', 'options', 'text'), pairs(BAD_COMMAND_LINES, fast=2)
)
def test_bad_command_line(name, options, text, call, tmp_path):
  output = ['--output', str(tmp_path)]
  code, printed, errors = call(name, *TINY[name], *output, *options.split())
  assert (code, printed) == (2, '')
  assert text in unboxed(errors)
  assert 'Traceback' not in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('no_training')
@pytest.mark.parametrize(('name', 'options', 'text'), pairs(BAD_VALUES, fast=1))
def test_bad_values(name, options, text, call, tmp_path):
  output = ['--output', str(tmp_path)]
  code, _, errors = call(name, *TINY[name], *output, *options.split())
  assert code == 1
  assert errors.startswith('error: ')
  assert text in errors
  assert not list(tmp_path.iterdir())


# Pages.


def test_the_table_of_claims_has_every_command_and_result():
  folder = pathlib.Path(collect.RESULTS).parent
  text = (folder / 'README.md').read_text()
  commands = set(re.findall(r'`([a-z_]+)\.py', text))
  assert commands == set(TINY) | {'theory', 'dry_run', 'imagenet'}
  scripts = {path.stem for path in folder.glob('*.py')}
  assert scripts == commands | {'animate', 'claims'}
  pages = {path.name for path in collect.RESULTS.glob('*.md')}
  assert set(re.findall(r'\]\(results/(.*?)\)', text)) == pages
  index = (collect.RESULTS / 'README.md').read_text()
  assert index == collect.index()
  assert set(re.findall(r'\]\((\w+\.md)\)', index)) == pages - {'README.md'}


@pytest.mark.slow
def test_results_are_collected_under_one_name(run_once, tmp_path):
  run = run_once('linear_mode_connectivity').folder
  by_hand = f'old\n\n{collect.MARKER}\n\nA conclusion.\n'
  (tmp_path / 'new.md').write_text(by_hand)
  for _ in range(2):
    files = collect.collect(run, 'new', tmp_path)
  names = ['new.md', 'new.png', 'new_paths.png', 'new.csv']
  assert [path.name for path in files] == names
  page = (tmp_path / 'new.md').read_text()
  assert page.endswith(f'](new.csv)\n\n{collect.MARKER}\n\nA conclusion.\n')
  assert re.findall(r'\]\((.*?)\)', page) == names[1:]
  for ours, theirs in [('new.csv', 'results.csv'), ('new.png', 'barriers.png')]:
    assert (tmp_path / ours).read_bytes() == (run / theirs).read_bytes()
  index = (tmp_path / 'README.md').read_text()
  assert '| [Linear mode connectivity: LeNet-300-100 on digits, 2' in index
  assert index.endswith(' | [CSV](new.csv) |\n')


# What a run leaves behind.


def test_a_finished_run_is_only_shown_again(
  name, finished, no_training, call, tmp_path, monkeypatch
):
  folder = shutil.copytree(finished.folder, tmp_path / finished.folder.name)
  if name != 'lottery_ticket':  # One shows that SVGs, too, are drawn again.
    png = {'png': figures.FORMATS['png']}
    monkeypatch.setattr(figures, 'FORMATS', png)
  for suffix in figures.FORMATS:
    for path in folder.glob(f'*.{suffix}'):
      path.unlink()
  code, printed, errors = call(name, *TINY[name], '--output', str(tmp_path))
  assert code == 0, errors
  count = len((folder / 'metrics.jsonl').read_text().splitlines())
  assert f'{count} of {count} trainings are there already.' in printed
  assert f'Figures, tables and networks: {folder}\n' in printed
  # But for the progress, all is printed as the first time.
  tables, _, _ = finished.printed.partition('Figures, tables and networks:')
  assert tables[tables.index('┏') :] in printed
  for path in finished.folder.iterdir():
    # The page names the command, and the lock a process.
    if path.is_file() and path.name not in ('results.md', '.lock'):
      assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_pages(name, finished):
  page = (finished.folder / 'results.md').read_text()
  options = ' '.join(TINY[name]).replace('*', "'*'")
  command = f'`python experiments/{name}.py {options}`'
  assert f'\n| command | {command} |\n' in page
  for row in ('commit', 'machine', 'date'):
    assert re.search(rf'\n\| {row} \| \S+', page)
  assert '\n| seeds | 0, 1 |\n' in page
  assert page.startswith('# ')
  for line, count in LINES[name].items():
    assert page.count(f'\n{line}') == count
  linked = set(re.findall(r'\]\((.*?)\)', page))
  assert linked == {path.name for path in finished.folder.glob('*.png')} | {
    'results.csv'
  }


def test_figures(name, finished):
  figures = sorted(finished.folder.glob('*.png'))
  assert figures
  for path in figures:
    png = path.read_bytes()
    assert png.startswith(b'\x89PNG')
    assert png.endswith(b'IEND\xaeB`\x82')
    svg = xml.etree.ElementTree.parse(path.with_suffix('.svg'))
    assert svg.getroot().tag.endswith('svg')
    assert '<dc:date>' not in path.with_suffix('.svg').read_text()
  assert {path.name for path in finished.folder.rglob('.*')} <= {'.lock'}


def test_numbers_of_each_seed(name, finished):
  text = (finished.folder / 'results.csv').read_bytes().decode()
  assert '\r' not in text
  rows = finished.rows()
  assert {row['seed'] for row in rows} == {'0', '1'}
  assert all(0 <= float(row['test_accuracy']) <= 1 for row in rows)
  trained = [row for row in rows if row['validation_accuracy']]
  assert trained
  assert all(0 <= float(row['validation_accuracy']) <= 1 for row in trained)
  if name != 'zero_cost_ranking':  # Its rows have networks instead.
    assert all(float(row['validation_loss']) > 0 for row in trained)
    assert all(int(row['step']) > 0 for row in trained)


def test_metrics(name, finished):
  module = importlib.import_module(name)
  lines = (finished.folder / 'metrics.jsonl').read_text().splitlines()
  cells = module.cells(parse(TINY[name], module.PRESETS, ''))
  assert len(lines) == len(cells)
  for cell, line in zip(cells, lines, strict=True):
    curve = json.loads(line)['curve']
    assert [x['step'] for x in curve] == STEPS.get(cell.name, STEPS[name])
    assert {len(x['loss']) for x in curve} <= {1, 2, 4}
    assert (finished.folder / cell.name).is_dir()
