"""Compatible tags, masks over positions, and biases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import linguistic
from lthjax.linguistic import BOS, PAD, UPOS

ROW_SUMS = [11, 9, 8, 5, 7, 9, 4, 5, 5, 7, 3, 3, 2, 2, 17, 2, 2]
WORDS = ['DET', 'NOUN', 'VERB', 'ADP', 'DET', 'NOUN', 'PUNCT']
CLOSED = {(2, 0), (3, 0), (3, 2), (4, 2), (4, 3)}


def test_matrix_has_the_published_entries():
  m = linguistic.compatibility()
  assert m.shape == (17, 17)
  assert m.sum() == 101
  assert m.sum(1).tolist() == ROW_SUMS
  assert (m == m.T).all()
  assert m.diagonal().all()
  for pair in ('ADJ DET', 'VERB PART', 'AUX PRON'):
    assert not m[tuple(map(UPOS.index, pair.split()))]


def test_relabelled_matrix_moves_tags_but_not_punctuation():
  m, punct = linguistic.compatibility(), UPOS.index('PUNCT')
  seen = [linguistic.relabelled(seed) for seed in range(20)]
  for r in seen:
    assert r.sum() == 101
    assert r[punct].all()
    assert r[:, punct].all()
    assert (r == r.T).all()
    assert sorted(r.sum(1)) == sorted(ROW_SUMS)
  assert sum((r == m).all() for r in seen) == 0
  np.testing.assert_array_equal(linguistic.relabelled(3), seen[3])
  sparse = np.eye(17, dtype=bool)
  assert (linguistic.relabelled(0, sparse) == sparse).all()


def test_mask_of_the_hand_made_sentence():
  tags = linguistic.tag_ids([WORDS], bos=False)
  mask = np.asarray(linguistic.pos_mask(tags))[0]
  causal = [(i, j) for i in range(7) for j in range(i)]
  assert {edge for edge in causal if not mask[edge]} == CLOSED
  assert sum(mask[edge] for edge in causal) == 16


def test_masks_agree_with_a_loop_and_compile_once():
  rng = np.random.default_rng(0)
  m = linguistic.compatibility()
  tags = rng.integers(PAD, 17, (3, 9)).astype(np.int32)
  traced = jax.jit(linguistic.pos_mask)
  for matrix in (m, linguistic.relabelled(1)):
    expected = np.ones((3, 9, 9), bool)
    for b, i, j in itertools.product(range(3), range(9), range(9)):
      a, c = tags[b, i], tags[b, j]
      if a >= 0 and c >= 0 and i != j:
        expected[b, i, j] = matrix[a, c]
    np.testing.assert_array_equal(linguistic.pos_mask(tags, matrix), expected)
    np.testing.assert_array_equal(traced(tags, matrix), expected)
  assert traced._cache_size() == 1


@pytest.mark.slow
def test_padding_changes_no_edge_between_words():
  short = linguistic.tag_ids([WORDS])
  long = linguistic.tag_ids([WORDS, WORDS * 2])
  assert short.tolist() == [[BOS, *[UPOS.index(t) for t in WORDS]]]
  assert long[0, 8:].tolist() == [PAD] * 7
  mask = np.asarray(linguistic.pos_mask(long))
  np.testing.assert_array_equal(mask[0, :8, :8], linguistic.pos_mask(short)[0])
  assert mask[0, 8:].all()
  assert mask[0, :, 8:].all()
  assert mask[:, 0].all()
  assert mask[:, :, 0].all()
  assert linguistic.tag_ids([WORDS], length=10).shape == (1, 10)


@pytest.mark.slow
def test_pieces_have_the_tags_of_their_words():
  tags = linguistic.tag_ids([WORDS, ['X']])
  words = [[BOS, 1, 2, 2, 2, 3], [BOS, 1, 1, PAD, PAD, PAD]]
  found = linguistic.subword_tags(tags, words)
  x, det, noun, verb = map(UPOS.index, ['X', 'DET', 'NOUN', 'VERB'])
  assert found.tolist() == [
    [BOS, det, noun, noun, noun, verb],
    [BOS, x, x, PAD, PAD, PAD],
  ]
  # Pieces of one word see each other whatever the matrix says of its tag.
  mask = linguistic.pos_mask(found)
  assert mask[0, 2:5, 2:5].all()


def test_hard_bias_closes_and_minus_ten_leaks():
  mask = np.array([[True, False], [True, True]])
  closed = linguistic.bias(mask)
  logits = jnp.zeros((2, 2))
  assert jax.nn.softmax(logits + closed)[0].tolist() == [1, 0]
  leaky = jax.nn.softmax(logits + linguistic.bias(mask, value=-10))
  assert float(leaky[0, 1]) == pytest.approx(4.5e-5, rel=0.02)


def test_soft_bias_is_alpha_times_compatibility():
  rng = np.random.default_rng(1)
  pos = rng.random((2, 5, 5)) < 0.5
  share = rng.random((2, 5, 5)).astype(np.float32)
  alpha = np.array([0.5, 2.0, -1.0], np.float32)
  c = {'pos_only': pos, 'features_only': share, 'full': pos * share}
  c['none'] = np.ones_like(share)
  for mode, wanted in c.items():
    soft = linguistic.bias(pos, share, mode=mode, alpha=1.5)
    np.testing.assert_allclose(soft, 1.5 * wanted, rtol=1e-6)
    heads = linguistic.bias(pos, share, mode=mode, alpha=alpha)
    expected = alpha[None, :, None, None] * wanted[:, None]
    np.testing.assert_allclose(heads, expected, rtol=1e-6)
    hard = np.asarray(linguistic.bias(pos, share, mode=mode))
    np.testing.assert_array_equal(hard == 0, wanted > 0)
    assert set(np.unique(hard)) <= {0, -np.inf}
  slope = jax.grad(lambda a: linguistic.bias(pos, alpha=a).sum())(alpha)
  np.testing.assert_allclose(slope, [pos.sum()] * 3)


def test_matrices_of_sentences_become_a_batch():
  a, b = np.full((2, 2), 0.5), np.zeros((3, 3))
  padded = linguistic.pad_edges([a, b])
  assert padded.shape == (2, 4, 4)
  assert padded[0, 1:3, 1:3].tolist() == a.tolist()
  assert (padded[0, 0] == 1).all()
  assert (padded[0, 3] == 1).all()
  empty = linguistic.pad_edges([a > 0], bos=False, length=3, fill=False)
  assert empty.dtype == bool
  assert empty[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (lambda: linguistic.tag_ids([['NOUN', 'NN', 'vb']]), 'found NN, vb'),
    (lambda: linguistic.tag_ids(['NOUN']), "held 'NOUN'"),
    (lambda: linguistic.tag_ids([['X'] * 5], length=5), 'takes 6 places'),
    (lambda: linguistic.pos_mask([[0, 1], [0]]), 'unequal length.*tag_ids'),
    (lambda: linguistic.pos_mask([[0, 17, -3]]), 'found -3, 17'),
    (lambda: linguistic.pos_mask([[0.5]]), 'must be int'),
    (lambda: linguistic.pos_mask([[1]], np.eye(16)), r'`matrix`.*bool\[17, 17'),
    (lambda: linguistic.bias(mode='hard'), '`mode` was .hard.*pos_only'),
    (lambda: linguistic.bias(), 'needs `pos`'),
    (lambda: linguistic.bias(np.ones((2, 2)), mode='full'), 'needs `features`'),
    (lambda: linguistic.bias(np.ones((2, 3))), 'queries by keys'),
    (lambda: linguistic.bias(np.ones((2, 2)), value=10), 'below zero'),
    (lambda: linguistic.bias(np.eye(2), 2 * np.eye(2)), 'from 0 to 2'),
    (lambda: linguistic.pos_mask(jax.random.key(0)), 'must be int'),
    (lambda: linguistic.bias(np.ones((2, 2)), alpha=[1.0]), '`alpha`'),
    (lambda: linguistic.relabelled(-1), '`seed` was -1'),
    (lambda: linguistic.subword_tags([[0]], [[3]]), 'from 3 to 3'),
    (lambda: linguistic.pad_edges([]), 'empty'),
  ],
)
def test_bad_arguments_say_what_to_do(call, said):
  with pytest.raises((TypeError, ValueError), match=said):
    call()
