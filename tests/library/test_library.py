"""Tickets come back to the bit, are stored once, and run in one program."""

import hashlib
import json
import subprocess
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers import bits, contents, names, random_like
from library_cases import (
  START,
  add,
  applied,
  identity,
  make_ticket,
  masks_of,
)

import lthjax as lth
from lthjax import deploy


@pytest.fixture
def library(tmp_path):
  return lth.library.open(tmp_path / 'tickets')


def file_of(library, key):
  return library.store.root / 'tickets' / f'{key}.safetensors'


def total_bytes(library):
  folder = library.store.root / 'tickets'
  return sum(len(path.read_bytes()) for path in folder.iterdir())


# What comes back.


def test_load_is_bitwise(library):
  ticket = make_ticket(1)
  ticket.trained['fc']['kernel'][ticket.masks['fc']['kernel']] = -0.0
  ticket.trained['fc']['bias'][:3] = -0.0, np.nan, np.inf
  key = library.add(ticket, params=identity)
  for like in None, START, jax.eval_shape(lambda: START):
    loaded = library.load(key, like)
    assert bits(loaded) == bits(applied(ticket))
    assert not any(x.committed for x in jax.tree.leaves(loaded)) or (
      like is not None
    )
  start = library.load(key, part='start')
  assert bits(start) == bits(applied(ticket._replace(trained=START)))
  masks = library.masks(key, START)
  assert masks['fc']['bias'] is None
  assert bits(masks['fc']['kernel']) == bits(ticket.masks['fc']['kernel'])


def test_any_dtype_and_structure(library, tmp_path):
  state = {
    'params': [
      np.array([[1.5, -0.0], [3, 4]], ml_dtypes.bfloat16),
      {'i': np.arange(-2, 2, dtype=np.int8), 'b': np.array([True, False])},
      np.float32(-0.0),
      None,
      np.array([1, -0.0], '>f4'),  # Kept as little-endian.
      np.zeros((0, 3), np.float32),
      np.ones(3, jnp.float8_e4m3fn),
    ],
    'model_state': {'mean': np.array([1, 2], np.float16)},
    'step': jnp.int32(7),
  }
  first = np.array([[True, True], [False, True]])
  masks = [first, {'i': None, 'b': None}, *[None] * 5]
  ticket = lth.tickets.Ticket(0, 0.75, masks, state, state, None)
  key = library.add(ticket)
  assert '| rewound to step | 7 |' in library.card(key)
  expected = [*state['params']]
  expected[0] = np.where(first, expected[0], ml_dtypes.bfloat16(0))
  expected[4] = expected[4].astype('<f4')
  assert bits(library.load(key, expected)) == bits(expected)
  loaded = library.load(key, part='model_state')
  assert bits(loaded) == bits(state['model_state'])
  params, _ = deploy.load(
    library.export(key, tmp_path / 'out') / 'ticket.safetensors'
  )
  assert bits(params['0']) == bits(expected[0])
  library.verify()


def test_a_single_array(library):
  ticket = lth.tickets.Ticket(
    0, 0.5, np.array([True, False]), None, np.array([1, 2], np.float32), 0.5
  )
  key = library.add(ticket, params=identity)
  assert bits(library.load(key)) == bits(np.array([1, 0], np.float32))
  assert library.list()[0].metrics == 0.5


def test_files_are_readable_without_us(library):
  ticket = make_ticket(2)
  key = library.add(ticket, params=identity, domain='support')
  path = file_of(library, key)
  tensors = safetensors.numpy.load(path.read_bytes())
  mask = ticket.masks['fc']['kernel']
  kept = ticket.trained['fc']['kernel'][mask]
  assert bits(tensors['trained/fc/kernel']) == bits(kept)
  assert bits(tensors['masks/fc/kernel']) == bits(np.packbits(mask))
  with safetensors.safe_open(str(path), 'np') as file:
    text = file.metadata()['manifest']
  assert hashlib.sha256(text.encode()).hexdigest() == key
  manifest = json.loads(text)
  assert text == json.dumps(manifest, sort_keys=True, separators=(',', ':'))
  assert manifest['domain'] == 'support'
  assert manifest['parts']['trained']['fc/kernel'] == {
    'dtype': 'float32',
    'shape': [6, 8],
    'sha256': hashlib.sha256(kept.astype('<f4').tobytes()).hexdigest(),
  }
  assert manifest['masks']['fc/kernel'] == {
    'shape': [6, 8],
    'alive': int(mask.sum()),
    'sha256': hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
  }


def test_the_same_ticket_is_one(library, tmp_path):
  key = add(library)
  before = contents(tmp_path)
  assert add(library) == key
  assert contents(tmp_path) == before
  others = {
    key,
    add(library, notes={'a': 1}),
    add(library, parent=key),
    add(library, metrics={'accuracy': 0.1}),
  }
  ticket = make_ticket(1)
  ticket.trained['fc']['bias'][ticket.trained['fc']['bias'] > 1] = -0.0
  zeros = make_ticket(1)
  zeros.trained['fc']['bias'][zeros.trained['fc']['bias'] > 1] = 0.0
  others |= {library.add(x, params=identity) for x in (ticket, zeros)}
  assert len(others) == 6
  # What is dead is not part of a ticket.
  dead = make_ticket(1)
  dead.trained['fc']['kernel'][~dead.masks['fc']['kernel']] = 7
  assert library.add(dead, params=identity) == key


# What is stored once.


def test_weights_of_the_parent_are_stored_once(library):
  shapes = {'fc': {'kernel': (40, 50)}}
  start = random_like(shapes, 0)
  dense = make_ticket(0, level=0, start=start, shapes=shapes, density=1.0)
  parent = library.add(dense, params=identity)
  first = len(file_of(library, parent).read_bytes())
  assert first > 2 * 8000
  masks = dense.masks
  for level in range(1, 4):
    masks = masks_of(level, 0.8, shapes, within=masks)
    ticket = dense._replace(level=level, masks=masks)
    ticket.trained['fc']['kernel'][0] = level  # All others stay as they were.
    parent = library.add(ticket, params=identity, parent=parent)
    tensors = safetensors.numpy.load(file_of(library, parent).read_bytes())
    assert 'start/fc/kernel' not in tensors
    changed = tensors['trained/fc/kernel']
    assert changed.size == masks['fc']['kernel'][0].sum()
    assert bits(library.load(parent)) == bits(applied(ticket))
    rewound = applied(ticket._replace(trained=start))
    assert bits(library.load(parent, part='start')) == bits(rewound)
  library.verify()


def test_long_chains_are_not_read_in_full(library):
  shapes = {'fc': {'kernel': (30, 10)}}
  ticket = make_ticket(0, start=None, shapes=shapes, density=1.0)
  parent, stored = None, []
  for i in range(12):  # Each changes another row.
    ticket.trained['fc']['kernel'][i] = i
    parent = library.add(ticket, params=identity, parent=parent)
    tensors = safetensors.numpy.load(file_of(library, parent).read_bytes())
    stored.append(tensors['trained/fc/kernel'].size)
    assert bits(library.load(parent)) == bits(applied(ticket))
  assert stored == [300, *[10] * 8, 300, 10, 10]


@pytest.mark.slow
def test_a_hundred_tickets_take_an_eighth_of_dense_copies(library):
  shapes = {'fc': {'kernel': (200, 200), 'bias': (200,)}}
  start = random_like(shapes, 0)
  dense = library.add(
    make_ticket(0, level=0, start=start, shapes=shapes, density=1.0),
    params=identity,
  )
  before = total_bytes(library)
  ticket = make_ticket(1, start=start, shapes=shapes, density=0.1)
  for tree in [ticket.trained, ticket.masks] * 50:
    tree['fc']['kernel'] = np.roll(tree['fc']['kernel'], 1, axis=0)
    library.add(ticket, params=identity, parent=dense)
  assert len(library.list()) == 101
  copies = 100 * 4 * (200 * 200 + 200)
  assert total_bytes(library) - before < 0.15 * copies


# Tickets under load.


@pytest.mark.slow
def test_swapping_never_compiles_and_no_request_sees_two(library):
  keys = [add(library, seed) for seed in range(10)]
  traces = []

  @jax.jit
  def serve(params, x):
    traces.append(1)
    hidden = jax.nn.relu(x @ params['fc']['kernel'] + params['fc']['bias'])
    return hidden @ params['out']['kernel']

  x = np.ones((2, 6), np.float32)
  answers = {bits(serve(library.load(key, START), x)) for key in keys}
  live = {'params': library.load(keys[0], START)}
  seen, done = [], threading.Event()

  def requests():
    while not done.is_set() or len(seen) < 50:
      seen.append(bits(serve(live['params'], x)))

  thread = threading.Thread(target=requests)
  thread.start()
  for key in keys * 2:
    library.promote(key, 'live')
    live['params'] = library.load('live', START)
  done.set()
  thread.join()
  assert len(answers) == 10
  assert set(seen) <= answers
  assert len(traces) == 1


# What a library says about tickets.


def test_list(library):
  keys = [add(library, i, domain='ab'[i % 2], level=i) for i in range(3)]
  found = library.list()
  assert [x.key for x in found] == keys[::-1]
  assert [x.level for x in library.list('a')] == [2, 0]
  assert library.list('c') == ()
  entry = library.list('b')[0]
  assert entry.metrics == {'accuracy': 0.901}
  masks = make_ticket(1).masks
  assert entry.density == pytest.approx(lth.masks.density(masks))
  again = lth.library.open(library.store.root)
  assert again.list() == found


def test_compare_by_hand(library):
  keys = []
  for kept, accuracy in [(50, 0.9), (20, [0.7, 0.9])]:
    mask = np.arange(100) < kept
    trained = np.arange(100, dtype=np.float32)
    ticket = lth.tickets.Ticket(
      1,
      kept / 100,
      {'w': mask},
      None,
      {'w': trained},
      {'a': accuracy, 'b': 'x'},
    )
    keys.append(library.add(ticket, params=identity))
  found = library.compare(
    *keys, predict=lambda p: (p['w'][np.array([5, 10, 30, 60])] > 0).astype(int)
  )
  assert found.overlap[:2] == (20, 10.0)
  assert found.layers['w'].z == pytest.approx(4.975, abs=5e-4)
  assert found.jaccard == 0.4
  assert found.metrics == {'a': (0.9, pytest.approx(0.8))}
  assert found.churn == 0.25  # Weight 30 is alive in the first only.
  assert str(found).splitlines() == [
    'leaf   shared  by chance       z',
    'w          20       10.0     5.0',
    'total      20       10.0     5.0',
    'Jaccard index: 0.400',
    'a: 0.9, 0.8',
    'other predictions: 25.00 %',
  ]


def test_diff(library):
  a = add(library, 1, notes={'lr': 0.1, 'kind': 'x'})
  b = add(library, 1, notes={'lr': 0.2, 'kind': 'x'}, parent=a)
  assert library.diff(a, b) == {'notes/lr': (0.1, 0.2), 'parent': (None, a)}
  c = add(library, 2, notes={'lr': 0.1, 'kind': 'x'})
  changed = library.diff(a, c)
  assert {'masks/fc/kernel', 'trained/fc/kernel', 'metrics/accuracy'} <= set(
    changed
  )
  assert changed['masks/fc/kernel'][0].startswith('bool 6x8 ')


def test_names_of_tickets(library):
  key = add(library)
  library.promote(key, 'support/live')
  assert {library.key(x) for x in (key, key[:8], 'support/live')} == {key}
  with pytest.raises(LookupError, match=r'no alias .support/next.* support/li'):
    library.load('support/next')
  with pytest.raises(LookupError, match='There is no ticket 00000000 in'):
    library.load('00000000')


def test_card_has_the_chain(library):
  first = add(library, 0, level=0, domain='base')
  key = library.add(
    make_ticket(1, metrics={'accuracy': [0.9, 0.92]}),
    params=identity,
    parent=first,
    domain='support | fast',
    license='apache-2.0',
    git='v1-3-gabc',
    seeds=(0, 1),
    data={'name': 'digits', 'split': 'train'},
    config={'steps': 3},
    controls={'reinit': 0.5},
    notes={'text': 'two\nlines'},
  )
  library.promote(key, 'support/live')
  card = library.card('support/live')
  assert card.startswith('---\nlicense: "apache-2.0"\nlibrary_name: lthjax\n')
  for line in [
    '| aliases | support/live |',
    '| seeds | 0, 1 |',
    '| accuracy | 0.91 ± 0.014 (n = 2) |',
    '| reinit | 0.5 |',
    '| name | digits |',
    '| values/steps | 3 |',
    '| text | two lines |',
    '| domain | support \\| fast |',
    '| code | v1-3-gabc lthjax 0.2.0 |',
  ]:
    assert line in card, card
  assert f'1. `{key}`: level 1' in card
  assert f'2. `{first}`: level 0' in card


def test_export_is_a_folder_for_other_tools(library, tmp_path):
  ticket = make_ticket(1)
  key = library.add(ticket, params=identity)
  folder = library.export(key, tmp_path / 'out')
  assert names(folder) == [
    'README.md',
    'SHA256SUMS',
    'manifest.json',
    'model.safetensors',
    'ticket.safetensors',
  ]
  dense = safetensors.numpy.load_file(folder / 'model.safetensors')
  assert bits(dense) == bits(lth.trees.by_name(applied(ticket)))
  params, masks = deploy.load(folder / 'ticket.safetensors')
  assert bits(params) == bits(applied(ticket))
  assert bits(masks['out']) == bits(ticket.masks['out'])
  subprocess.run(
    ['sha256sum', '--check', '--strict', '--quiet', 'SHA256SUMS'],
    cwd=folder,
    check=True,
  )
  with pytest.raises(FileExistsError, match='exports never overwrite'):
    library.export(key, tmp_path / 'out')


def test_gc_keeps_what_is_needed(library):
  root = add(library, 0)
  old, live = add(library, 1, parent=root), add(library, 2, parent=root)
  kept, lost = add(library, 3), add(library, 4)
  child = add(library, 5, parent=lost)
  for key in old, live, lost:
    library.promote(key, 'live')
  library.rollback('live')  # The last promotion was a mistake.
  assert set(library.gc(keep=kept[:8], dry_run=True)) == {lost, child}
  assert len(library.list()) == 6
  assert library.gc(keep=lambda x: x.key == kept) == (child, lost)
  assert {x.key for x in library.list()} == {root, old, live, kept}
  library.verify()
  with pytest.raises(LookupError, match='no ticket'):
    library.load(lost)
  assert library.gc() == (kept,)


def test_whole_states(library, tmp_path):
  ticket = make_ticket(1)
  key = library.add(ticket, params=identity, states=True)
  other = add(library, 2)
  found = library.load_ticket(key, ticket)
  assert bits(found.trained) == bits(ticket.trained)  # Not masked.
  with pytest.raises(LookupError, match='without its states'):
    library.load_ticket(other, ticket)
  library.promote(other, 'live')
  library.verify()
  path = tmp_path / 'tickets' / 'states' / key / 'SHA256SUMS'
  good = path.read_bytes()
  path.write_bytes(good[1:])
  with pytest.raises(ValueError, match='is damaged'):
    library.verify()
  path.write_bytes(good)
  assert library.gc() == (key,)
  assert names(tmp_path / 'tickets' / 'states') == []


def test_compare_needs_one_network(library):
  a = add(library)
  b = add(library, shapes={'fc': {'kernel': (3, 3)}}, start=None)
  with pytest.raises(ValueError, match='masks of the same network'):
    library.compare(a, b, predict=lambda params: 1 / 0)
  with pytest.raises(ValueError, match=r'`predict\(params\)` was'):
    library.compare(a, a, predict=lambda params: 1)
  with pytest.raises(TypeError, match='`predict` was 3'):
    library.compare(a, a, predict=3)
  same = library.compare(a, a, predict=lambda p: p['fc']['kernel'], like=START)
  assert (same.churn, same.jaccard) == (0.0, 1.0)
