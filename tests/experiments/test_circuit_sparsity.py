"""Circuits: lines and prompts, ablated nodes, and what is taken away."""

import jax
import numpy as np
import pytest
from helpers import bits

from methods import circuits, code_lines
from methods.code_lines import NAMES

TIME = code_lines.time_of_longest()
SIZES = circuits.Sizes(width=8, layers=1, heads=2, mlp=6, time=TIME)


def words(tokens):
  return ''.join(NAMES[x] for x in tokens)


def test_lines_close_what_they_open():
  found = code_lines.lines(0, 200, TIME)
  assert found.shape == (200, TIME)
  assert {words(x)[1] for x in found} == {"'", '"', '['}
  for tokens in found:
    text = words(tokens)
    assert text[0] == '^'
    assert text.endswith('\n')
    text = text[1:].rstrip('\n')
    depth = len(text) - len(text.lstrip('['))
    assert text.count(']') == depth
    assert text.endswith(']' * depth if depth else text[0])


@pytest.mark.parametrize('task', ['quotes', 'brackets'])
def test_prompts_end_where_the_choice_is(task):
  found = code_lines.prompts(task, 0, 20, TIME)
  for number in range(20):
    tokens, last, right, wrong = (x[number] for x in found)
    text = words(tokens[1 : last + 1])
    if task == 'quotes':
      assert NAMES[right] == text[0]
      assert {NAMES[right], NAMES[wrong]} == {"'", '"'}
      assert text.count(text[0]) == 1
    else:
      depth = text.count('[')
      assert text.endswith(']')
      assert NAMES[right] == (']' if depth == 2 else '\n')
      assert {NAMES[right], NAMES[wrong]} == {']', '\n'}


@pytest.fixture(scope='module')
def network():
  """Random params, the means of their nodes, and prompts."""
  shapes = jax.eval_shape(
    lambda key: circuits.init(SIZES, key), jax.random.key(0)
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), shapes
  )
  kernel = params['blocks']['0']['up']['kernel']
  kernel[:2] = 0
  means = circuits.means(SIZES, params, code_lines.lines(1, 16, TIME))
  return params, means, code_lines.prompts('quotes', 0, 16, TIME)


def look(network, masks):
  params, means, prompts = network
  (loss, _), grads = circuits.measure(SIZES, masks, params, means, prompts)
  return float(loss), grads


@pytest.mark.slow
def test_everything_is_the_whole_decoder(network):
  params, _, prompts = network
  masks = circuits.everything(SIZES, params)
  whole, _ = circuits.apply(SIZES, params, prompts.tokens)
  rows = np.arange(len(prompts.last))
  at = np.asarray(whole)[rows, prompts.last]
  gap = at[rows, prompts.right] - at[rows, prompts.wrong]
  loss, _ = look(network, masks)
  assert loss == pytest.approx(np.mean(np.log1p(np.exp(-gap))), rel=1e-4)
  size = sum(x.size for x in jax.tree.leaves(params['blocks']))
  assert circuits.count(masks['edges']) == size - 2 * 6


@pytest.mark.slow
def test_a_node_that_is_gone_has_its_mean(network):
  """An unrelated way: biases in place of what neurons would add."""
  params, means, prompts = network
  masks = circuits.everything(SIZES, params)
  masks['nodes']['0/neuron'] = np.zeros(6, np.float32)
  loss, _ = look(network, masks)
  added = means['0/neuron'] @ params['blocks']['0']['down']['kernel']
  masks = circuits.everything(SIZES, params)
  masks['nodes']['0/mlp_write'] = np.zeros(8, np.float32)
  means = {**means, '0/mlp_write': added}
  again, _ = look((params, means, prompts), masks)
  assert loss == pytest.approx(again, rel=1e-5)


def test_what_changes_the_loss_least_goes_first():
  masks = {'a': np.array([1, 0, 1, 1], np.float32), 'b': np.ones(2, np.float32)}
  grads = {'a': np.array([3.0, 0.0, -1.0, 0.5]), 'b': np.array([0.7, -2.0])}
  found = circuits.without(masks, grads, 2)
  assert found['a'].tolist() == [1, 0, 1, 0]
  assert found['b'].tolist() == [0, 1]
  assert masks['a'].tolist() == [1, 0, 1, 1]


@pytest.mark.slow
def test_circuits_solve_the_task(network):
  """Edges have both ends, and one less would be too few."""
  params, means, prompts = network
  whole, _ = look(network, circuits.everything(SIZES, params))
  target = whole + 0.05
  found = circuits.find(SIZES, params, means, prompts, target)
  assert found.loss <= target
  loss, grads = look(network, found.masks)
  assert loss == pytest.approx(found.loss)
  assert found.edges < circuits.count(
    circuits.everything(SIZES, params)['edges']
  )
  again = circuits.between(found.masks)
  assert bits(again['edges']) == bits(found.masks['edges'])
  for name, has_edge in found.nodes.items():
    assert not (has_edge & (found.masks['nodes'][name] == 0)).any()
  fewer = circuits.without(found.masks['edges'], grads['edges'], 1)
  loss, _ = look(network, {**found.masks, 'edges': fewer})
  assert loss > target or not found.edges


def test_a_decoder_above_the_target_is_its_own_circuit(network):
  params, means, prompts = network
  found = circuits.find(SIZES, params, means, prompts, 1e-6)
  assert found.edges == circuits.count(
    circuits.everything(SIZES, params)['edges']
  )
