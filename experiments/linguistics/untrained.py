"""What can be said about linguistic masks without any training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linguistics import texts
from lthjax import linguistic

BLOCKS = (16, 64, 128)
# The number of verbs with selectional restrictions that the claim gives.
CLAIMED_VERBS = 468


class Language(NamedTuple):
  """How a treebank looks through the matrix of compatible tags.

  Attributes:
    name: of the treebank.
    sentences: its number of sentences.
    density: share of the edges in the region that compatible tags open.
    arcs: share of the dependencies, those of punctuation left out, that are
      between compatible tags.
    chance: the same with tags permuted within each sentence, in expectation.
  """

  name: str
  sentences: int
  density: float
  arcs: float
  chance: float


class Blocks(NamedTuple):
  """Blocks of a mask that hold no open edge, so that a kernel may skip them.

  Attributes:
    mask: which mask.
    tokens: length of the rows that sentences are packed into.
    size: of a block, in queries and in keys.
    blocks: number of blocks that causality does not close already.
    closed: share of these without an open edge.
  """

  mask: str
  tokens: int
  size: int
  blocks: int
  closed: float


def languages() -> list[Language]:
  """Experiment 10a: the English treebank, and the parallel ones."""
  found = {'en (EWT)': texts.treebank('dev')}
  found |= {f'{name} (PUD)': x for name, x in texts.parallel().items()}
  return [language(name, sentences) for name, sentences in found.items()]


def language(name: str, sentences: Sequence[linguistic.Sentence]) -> Language:
  """Counts edges and dependencies between compatible tags.

  Permuting the tags of a sentence makes each pair of its words equally likely
  to have each pair of its tags, so that the expected share of its dependencies
  that are compatible is the density of the sentence.
  """
  matrix = linguistic.compatibility()
  punct = linguistic.UPOS.index('PUNCT')
  opened = pairs = arcs = inside = by_chance = 0.0
  for sentence in sentences:
    (ids,) = linguistic.tag_ids([sentence.tags], bos=False)
    if (n := len(ids)) < 2:
      continue
    below = np.tril(matrix[np.ix_(ids, ids)], -1).sum()
    opened, pairs = opened + below, pairs + n * (n - 1) / 2
    heads = np.array(sentence.heads) - 1
    own = np.flatnonzero(heads >= 0)
    own = own[(ids[own] != punct) & (ids[heads[own]] != punct)]
    arcs += len(own)
    inside += matrix[ids[own], ids[heads[own]]].sum()
    by_chance += len(own) * below / (n * (n - 1) / 2)
  return Language(
    name, len(sentences), opened / pairs, inside / arcs, by_chance / arcs
  )


def blocks(
  sentences: Sequence[linguistic.Sentence],
  *,
  tokens: int = 512,
  rows: int = 32,
  seed: int = 0,
) -> list[Blocks]:
  """Experiment 11: blocks that a kernel could skip.

  Sentences are packed into rows, as a language model reads them, so that masks
  apply to pairs of words of different sentences too. The random mask has the
  same density.
  """
  words = np.concatenate(
    [linguistic.tag_ids([s.tags], bos=False)[0] for s in sentences]
  )
  rows = min(rows, len(words) // tokens)
  if not rows:
    raise ValueError(
      f'The sentences have {len(words)} words, which do not fill a row of'
      f' {tokens}. Pass more sentences, or ask for fewer tokens.'
    )
  ids = words[: rows * tokens].reshape(rows, tokens)
  matrix = linguistic.compatibility()
  rng = np.random.default_rng(seed)
  causal = np.tril(np.ones((tokens, tokens), bool))
  asa = matrix[ids[:, :, None], ids[:, None]] & causal
  density = asa.sum() / (rows * causal.sum())
  masks = {
    'compatible tags': asa,
    'random': (rng.random(asa.shape) < density) & causal,
  }
  return [
    _closed(name, mask, causal, size)
    for name, mask in masks.items()
    for size in BLOCKS
  ]


def _closed(
  name: str, mask: np.ndarray, causal: np.ndarray, size: int
) -> Blocks:
  n = causal.shape[0] // size
  parts = (len(mask), n, size, n, size)
  some = mask[:, : n * size, : n * size].reshape(parts).any((2, 4))
  live = causal[: n * size, : n * size].reshape(n, size, n, size).any((1, 3))
  total = len(mask) * live.sum()
  closed = (live & ~some).sum() / total
  return Blocks(name, causal.shape[0], size, int(total), float(closed))


def verb_counts() -> dict[str, int]:
  """How many verbs and features VerbNet has, and what the claim says."""
  verbnet = texts.verbnet()
  restrictions = [r for c in verbnet.classes for _, r in c.declared if r]
  restricted = [
    lemma
    for lemma, classes in verbnet.by_lemma.items()
    if any(r for c in classes for r in c.roles.values())
  ]
  return {
    'lemmas claimed': CLAIMED_VERBS,
    'lemmas': len(verbnet.by_lemma),
    'lemmas with a restriction': len(restricted),
    'features': len({f for r in restrictions for f in r.features()}),
    'roles declared': sum(len(c.declared) for c in verbnet.classes),
    'roles restricted': len(restrictions),
  }


def main() -> None:
  """Prints all of it."""
  for row in languages():
    print(
      f'{row.name:9} {row.sentences:5} sentences: density {row.density:.3f},'
      f' dependencies {row.arcs:.3f}, by chance {row.chance:.3f}'
    )
  for found in blocks(texts.treebank('dev')):
    print(
      f'{found.mask:16} {found.size:3}x{found.size:<3} closed'
      f' {found.closed:.5f} of {found.blocks} blocks'
    )
  for name, count in verb_counts().items():
    print(f'{name}: {count:,}')


if __name__ == '__main__':
  main()
