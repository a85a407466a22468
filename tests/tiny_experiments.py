"""Options that make each experiment a matter of seconds."""

import csv
import io
import re

TINY = {
  name: options.split()
  for name, options in {
    'lottery_ticket': '--levels 4 --steps 60 --seeds 2 --eval-every 20',
    'deployed_ticket': '--levels 3 --steps 20 --seeds 2 --eval-every 20'
    ' --repeats 3 --sparse-from None',
    'dynamic_sparse_training': '--dataset digits --validation 180 --steps 40'
    ' --seeds 2 --sparsities 0.9 --methods dense rigl sr_ste'
    ' --eval-every 20 --update-every 10 --batch-size 60',
    'pruning_at_init': '--dataset digits --steps 20 --seeds 2'
    ' --methods random snip imp --ratios 4 16'
    ' --checks shuffled shuffled_input reinit inverted --eval-every 20'
    ' --score-batches 2 --score-steps 5 --imp-fraction 0.75',
    'score_submission': '--submissions snip erk_random --steps 20 --seeds 2'
    ' --ratios 4 --eval-every 20 --score-batches 2',
    'zero_cost_ranking': '--dataset digits --steps 30 --seeds 2 --depths 1'
    ' --widths 3 --kernels 1 --patches 4 --proxies num_params snip'
    ' --warm snip --samples 1 --warm-trials 1 --budget 3 --repeats 2',
    'linear_mode_connectivity': '--dataset digits --steps 20 --seeds 2'
    ' --levels 3 --rewind-steps 10 0 --points 3 --eval-every 20',
    'ticket_transfer': '--datasets digits digits_permuted --steps 20 --seeds 2'
    ' --levels 2 --eval-every 20',
    'disentangled_tickets': '--steps 12 --eval-every 6 --seeds 2 --examples 20'
    ' --levels 2 --colt-levels 2 --fraction * 0.6',
    'early_bird': '--epochs 2 --draws 1 --sparsities 0.5 --seeds 2 --window 2'
    ' --threshold 0.9 --arms random slim',
    'beyond_accuracy': '--levels 2 --control-levels 1 --steps 20 --seeds 2'
    ' --eval-every 20 --shifted 40 --repeats 2',
    'beyond_perplexity': '--text python_manual --width 8 --layers 1 --heads 2'
    ' --key-value-heads 1 --mlp 12 --time 16 --steps 20 --seeds 2'
    ' --eval-every 10 --batch-size 4 --eval-tokens 64'
    ' --calibration-tokens 64 --methods wanda --domains python_manual'
    ' --questions 6 --answer-tokens 4 --new-tokens 4',
    'supermasks': '--dataset digits --steps 20 --seeds 2'
    ' --methods dense edge_popup_constant --kept 0.5 --read-kept 0.3'
    ' --eval-every 10 --batch-size 60',
    'linguistic_masks': '--preset toy --experiments 1 4 --sources gold type'
    ' --steps 8 --eval-every 4 --rewind-step 4 --seeds 2 --levels 1'
    ' --measured 24 --draws 9',
    'structured_pruning': '--text python_manual --width 8 --layers 2 --heads 2'
    ' --key-value-heads 1 --mlp 12 --time 16 --steps 20 --seeds 2'
    ' --eval-every 10 --batch-size 4 --eval-tokens 256'
    ' --calibration-tokens 64 --parts neurons --shares 0.5'
    ' --methods random norm flap_bias --distilled flap_bias'
    ' --distill-steps 4 --similar-tokens 64 --clock-time 8 --repeats 2',
    'bert_tickets': '--text python_manual --treebank toy --vocabulary 64'
    ' --width 8 --layers 2 --heads 2 --mlp 12 --time 16 --pretrain-steps 20'
    ' --pretrain-batch 4 --steps 10 --eval-every 5 --batch-size 4'
    ' --test-rows 32 --seeds 2 --sparsities 0.2 --kinds words random shuffled',
    'lota': '--text python_manual --domain toy --treebank toy'
    ' --networks decoder --arms full lota_90 --merged lota_90 --rules sum'
    ' --vocabulary 64 --width 8 --layers 2 --heads 2 --mlp 12 --time 16'
    ' --pretrain-steps 20 --pretrain-batch 4 --steps 10 --eval-every 5'
    ' --batch-size 4 --test-rows 32 --seeds 2 --rates 1 0.5',
    'experts': '--text python_manual --width 8 --layers 2 --heads 2'
    ' --key-value-heads 1 --mlp 4 --experts 4 --experts-per-token 1 --time 16'
    ' --steps 20 --seeds 2 --eval-every 10 --batch-size 4 --eval-tokens 256'
    ' --calibration-tokens 256 --scores frequency reap --shares 0.5'
    ' --rules wanda --sparsities 0.5',
    'circuit_sparsity': '--width 8 --layers 1 --heads 2 --mlp 8 --sparsity 0.5'
    ' --steps 20 --eval-every 10 --seeds 2 --batch-size 8 --lines 64'
    ' --prompts 8 --tasks quotes',
    'activation_sparsity': '--text python_manual --width 8 --layers 2'
    ' --heads 2 --key-value-heads 1 --mlp 12 --time 16 --steps 20 --seeds 2'
    ' --eval-every 10 --batch-size 4 --eval-tokens 256'
    ' --calibration-tokens 64 --counted-tokens 64 --sparsities 0.5'
    ' --methods greedy top_k --greedy-step 0.25',
    'post_training_pruning': '--text python_manual --width 8 --layers 2'
    ' --heads 2 --key-value-heads 1 --mlp 12 --time 16 --steps 20 --seeds 2'
    ' --eval-every 10 --batch-size 4 --eval-tokens 256'
    ' --calibration-tokens 512 --sparsities 0.5 --patterns'
    ' --methods magnitude wanda --train-steps 4',
  }.items()
}
# What needs the run of one of these is slow.
LONG = TINY.keys() - {'post_training_pruning'}


def timeless(path):
  """The contents of a file of a run, without how long its trainings took."""
  text = path.read_bytes()
  if path.suffix == '.csv':
    rows = list(csv.DictReader(io.StringIO(text.decode())))
    return [{k: x for k, x in row.items() if k != 'seconds'} for row in rows]
  return re.sub(rb', "seconds": [0-9.]+', b'', text)
