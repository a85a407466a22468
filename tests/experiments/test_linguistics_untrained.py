"""What linguistic masks show without training."""

import numpy as np
import pytest

from linguistics import untrained
from lthjax import linguistic

# Language: share of dependencies inside the matrix; that by chance, which is
# near the density.
EXPECTED = {
  'en (EWT)': (0.889, 0.679),
  'en (PUD)': (0.908, 0.694),
  'de (PUD)': (0.932, 0.695),
  'fr (PUD)': (0.922, 0.672),
  'fi (PUD)': (0.933, 0.830),
  'zh (PUD)': (0.855, 0.710),
}


def sentence(tags, heads):
  pairs = zip(tags.split(), heads, strict=True)
  tokens = (linguistic.Token('x', upos=tag, head=head) for tag, head in pairs)
  return linguistic.Sentence('', tuple(tokens))


def test_shares_of_a_hand_made_sentence():
  tags = 'DET NOUN VERB ADP DET NOUN PUNCT'
  found = untrained.language('x', [sentence(tags, [2, 3, 0, 6, 6, 3, 3])])
  assert found.density == pytest.approx(16 / 21)
  assert found.arcs == 1  # Five, without that of punctuation.
  assert found.chance == pytest.approx(16 / 21)
  found = untrained.language('x', [sentence('ADJ DET NOUN', [2, 3, 0])])
  assert (found.arcs, found.density) == (1 / 2, pytest.approx(2 / 3))


@pytest.mark.slow
def test_chance_is_the_mean_over_permutations():
  tags = 'DET ADJ NOUN VERB ADP NUM'
  heads = [3, 3, 4, 0, 6, 4]
  found = untrained.language('x', [sentence(tags, heads)])
  rng = np.random.default_rng(0)
  shares = [
    untrained.language(
      'x', [sentence(' '.join(rng.permutation(tags.split())), heads)]
    ).arcs
    for _ in range(2000)
  ]
  assert np.mean(shares) == pytest.approx(found.chance, abs=0.02)


@pytest.mark.slow
def test_languages(text_data_dir, monkeypatch):
  monkeypatch.setenv('LTHJAX_TEXT_DIR', str(text_data_dir))
  found = {row.name: row for row in untrained.languages()}
  assert found.keys() == EXPECTED.keys()
  for name, (arcs, chance) in EXPECTED.items():
    assert found[name].arcs == pytest.approx(arcs, abs=0.005)
    assert found[name].chance == pytest.approx(chance, abs=0.005)
    assert found[name].density == pytest.approx(chance, abs=0.005)


def test_blocks_without_an_open_edge():
  # Runs of 16 adjectives and determiners, which are not compatible.
  tags = ('ADJ ' * 16 + 'DET ' * 16) * 4
  rows = untrained.blocks(
    [sentence(tags, [0] * 128)], tokens=128, rows=1, seed=0
  )
  closed = {(row.mask, row.size): row.closed for row in rows}
  # Of 36 blocks at or below the diagonal, those of unlike runs: 16.
  assert closed['compatible tags', 16] == pytest.approx(16 / 36)
  assert closed['compatible tags', 64] == 0
  assert closed['random', 16] == 0
  with pytest.raises(ValueError, match='do not fill a row'):
    untrained.blocks([sentence(tags, [0] * 128)], tokens=256)


def test_verbs_are_not_as_many_as_claimed(text_data_dir, monkeypatch):
  monkeypatch.setenv('LTHJAX_TEXT_DIR', str(text_data_dir))
  counts = untrained.verb_counts()
  assert counts['lemmas claimed'] == 468
  assert counts['lemmas'] == 4_580
  assert counts['lemmas with a restriction'] == 4_373
  assert counts['features'] == 28
