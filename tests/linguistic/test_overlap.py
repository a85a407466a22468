"""Mass on edges, its expectation by chance, and the strongest edges."""

import itertools

import numpy as np
import pytest
from linguistic_cases import batch, edges_of

from lthjax import linguistic

WORDS = ['DET', 'NOUN', 'VERB', 'ADP', 'DET', 'NOUN', 'PUNCT']


def oracle(attention, edges, tags):
  """Overlap and expectation by loops over one map per sentence."""
  mass = held = chance = 0.0
  for b, i in itertools.product(*map(range, tags.shape)):
    if tags[b, i] < 0:
      continue
    keys = [j for j in range(1, i) if tags[b, j] >= 0]
    if keys:
      w = sum(attention[b, i, j] for j in keys)
      mass += w
      held += sum(attention[b, i, j] for j in keys if edges[b, i, j])
      chance += w * sum(edges[b, i, j] for j in keys) / len(keys)
  return held / mass, chance / mass


def test_region_of_the_hand_made_sentence():
  tags = linguistic.tag_ids([WORDS, WORDS[:2]])
  r = linguistic.region(tags)
  assert r.sum((1, 2)).tolist() == [21, 1]
  assert not r[:, 0].any()
  assert not r[:, :, 0].any()
  assert (edges_of(tags) & r).sum((1, 2)).tolist() == [16, 1]


def test_overlap_agrees_with_loops_for_each_layer_and_head():
  tags, attention = batch(0)
  edges, r = edges_of(tags), linguistic.region(tags)
  found = linguistic.mass_overlap(attention, edges, r)
  assert found.excess.shape == (2, 3)
  for layer, head in itertools.product(range(2), range(3)):
    o, x = oracle(attention[:, layer, head], edges, tags)
    here = [part[layer, head] for part in found]
    np.testing.assert_allclose(here, [o, x, o - x], rtol=1e-12, atol=1e-15)
  mean = linguistic.mean_attention(attention)
  whole = linguistic.mass_overlap(mean, edges, r)
  assert whole.overlap.shape == ()
  o, x = oracle(mean, edges, tags)
  np.testing.assert_allclose([whole.overlap, whole.expected], [o, x])


def test_uniform_attention_has_no_excess_and_all_edges_hold_all_mass():
  tags, attention = batch(1)
  r = linguistic.region(tags)
  uniform = np.tril(np.ones(attention.shape))
  uniform /= uniform.sum(-1, keepdims=True)
  found = linguistic.mass_overlap(uniform, edges_of(tags), r)
  np.testing.assert_allclose(found.excess, 0, atol=1e-15)
  assert (abs(found.overlap - edges_of(tags)[r].mean()) > 1e-4).all()
  everything = linguistic.mass_overlap(attention, r, r)
  np.testing.assert_allclose(
    everything, [np.ones((2, 3))] * 2 + [np.zeros((2, 3))], atol=1e-12
  )


def test_swapped_tags_leave_the_expectation_of_uniform_attention():
  tags, attention = batch(2)
  uniform = np.tril(np.ones(attention[:, 0, 0].shape))
  uniform /= uniform.sum(-1, keepdims=True)
  swapped = tags[[0, 3, 2, 1]]  # Both have four words.
  assert (swapped != tags).any()
  found, other = (
    linguistic.mass_overlap(uniform, edges_of(t), linguistic.region(t))
    for t in (tags, swapped)
  )
  np.testing.assert_allclose(found.expected, other.expected, rtol=1e-12)


def test_what_lies_outside_the_region():
  tags, attention = batch(3)
  found = linguistic.outside_region(attention, tags)
  words = tags >= 0
  own = np.diagonal(attention, axis1=-2, axis2=-1)
  for layer, head in itertools.product(range(2), range(3)):
    bos = attention[:, layer, head, :, 0][words].sum()
    me = own[:, layer, head][words].sum()
    np.testing.assert_allclose(
      [found.bos[layer, head], found.self[layer, head]],
      np.array([bos, me]) / words.sum(),
    )


def test_strongest_edges_by_sorting():
  tags, attention = batch(4)
  mean = linguistic.mean_attention(attention)
  r, edges = linguistic.region(tags), edges_of(tags)
  top = linguistic.top_edges(mean, r, like=edges)
  rows = linguistic.top_edges(mean, r, like=edges, within='row')
  tenth = linguistic.top_edges(mean, r, share=0.1, within='all')
  assert not (top & ~r).any()
  for b in range(len(tags)):
    k = (edges & r)[b].sum()
    cut = np.sort(mean[b][r[b]])[-k]
    np.testing.assert_array_equal(top[b], r[b] & (mean[b] >= cut))
    counts = (edges & r)[b].sum(1)
    np.testing.assert_array_equal(rows[b].sum(1), counts)
  assert tenth.sum() == round(0.1 * r.sum())
  assert mean[tenth].min() >= mean[r & ~tenth].max()
  both, either = (top & edges & r).sum(), ((top | edges) & r).sum()
  assert linguistic.edge_jaccard(top, edges, r) == both / either
  assert linguistic.edge_jaccard(top, top, r) == 1


def test_equal_edges_are_taken_in_order():
  tags = linguistic.tag_ids([['X'] * 4], bos=False)
  r = linguistic.region(tags)
  top = linguistic.top_edges(r.astype(float), r, share=0.5)
  assert np.argwhere(top[0]).tolist() == [[1, 0], [2, 0], [2, 1]]


def test_layers_and_heads_are_chosen():
  _, attention = batch(5)
  found = linguistic.mean_attention(attention, layers=[1], heads=[0, 2])
  np.testing.assert_allclose(found, attention[:, 1, [0, 2]].mean(1))
  with pytest.raises(IndexError, match=r'`heads` names 3, 7, but .* 3 heads'):
    linguistic.mean_attention(attention, heads=[0, 3, 7])
  with pytest.raises(IndexError, match=r'`layers` names -1, .* 0 to 1'):
    linguistic.mean_attention(attention, layers=[-1])
  with pytest.raises(ValueError, match='`heads` is empty'):
    linguistic.mean_attention(attention, heads=[])


def test_bad_arguments_say_what_to_do():
  tags, attention = batch(6)
  r, mean = linguistic.region(tags), attention[:, 0, 0]
  for call, said in [
    (lambda: linguistic.region(tags[0]), r'int\[sentences, positions'),
    (lambda: linguistic.region([[0, 1], [2]]), 'unequal length'),
    (lambda: linguistic.mass_overlap(mean[:, 1:], r, r), r'float\[4, .., 10'),
    (lambda: linguistic.mass_overlap(-mean, r, r), 'after the softmax'),
    (lambda: linguistic.mass_overlap(mean * np.nan, r, r), 'not finite'),
    (lambda: linguistic.mass_overlap(mean, r[:1], r), '`edges`.*like the reg'),
    (lambda: linguistic.mass_overlap(mean, r, r[0]), '`region`'),
    (lambda: linguistic.mass_overlap(mean, r, r & False), 'no sentence has'),
    (lambda: linguistic.top_edges(attention, r, share=0.1), 'mean_attention'),
    (lambda: linguistic.top_edges(mean, r), 'either `like`'),
    (lambda: linguistic.top_edges(mean, r, share=10), r'\[0, 1\]'),
    (lambda: linguistic.edge_jaccard(r, tags, r), '`b`'),
    (lambda: linguistic.mean_attention(mean), 'layers, heads'),
  ]:
    with pytest.raises((TypeError, ValueError), match=said):
      call()
