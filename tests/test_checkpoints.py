"""Checkpoints: to the bit, whole or not at all, never over one another."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits, contents, names
from orbax.checkpoint import v1 as ocp

import lthjax as lth
from lthjax import checkpoints, files
from lthjax.tickets import Ticket

ROOT = pathlib.Path(__file__).parents[1]


class State(NamedTuple):
  params: Any
  slots: Any
  key: Any


def make_tree():
  return {
    'state': State(
      params={
        'w': jnp.array([[1.5, -0.0, jnp.inf], [jnp.nan, 1e-45, -2.0]]),
        'half': jnp.array([1.0, -0.0, jnp.nan, 3.14], jnp.bfloat16),
      },
      slots=(None, [jnp.arange(5), jnp.uint8(255)]),
      key=jax.random.key(7),
    ),
    'mask': jnp.array([True, False, True]),
    'keys': jax.random.split(jax.random.key(0, impl='rbg'), 3),
    'none': None,
    'empty': {},
  }


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert bits(a) == bits(b)


@pytest.fixture
def saved(tmp_path):
  checkpoints.save(tmp_path / 'state', make_tree(), {'step': 3})
  return tmp_path / 'state'


# What comes back.


def test_round_trip_to_the_bit(saved):
  assert_same(checkpoints.load(saved, like=make_tree()), make_tree())


def test_abstract_target(saved):
  back = checkpoints.load(saved, like=jax.eval_shape(make_tree))
  assert_same(back, make_tree())
  assert isinstance(back['state'], State)
  # Mixed with arrays made anew, they compile nothing anew.
  assert not any(x.committed for x in jax.tree.leaves(back))


@pytest.mark.parametrize(
  'tree', [jnp.arange(3.0), (jnp.ones(2), [jnp.zeros(1)]), [None, jnp.ones(1)]]
)
def test_any_structure(tree, tmp_path):
  checkpoints.save(tmp_path / 'x', tree)
  assert_same(checkpoints.load(tmp_path / 'x', tree), tree)


def test_numbers_become_what_jax_makes_of_them(tmp_path):
  tree = {'array': np.arange(3, dtype=np.float32), 'number': 2, 'exact': 0.5}
  tree['nan'] = float('nan')
  checkpoints.save(tmp_path / 'x', tree)
  back = checkpoints.load(tmp_path / 'x', tree)
  assert_same(
    back,
    {
      'array': jnp.arange(3.0),
      'number': jnp.asarray(2),
      'exact': jnp.asarray(0.5),
      'nan': jnp.asarray(np.nan),
    },
  )


@pytest.mark.parametrize(
  ('leaf', 'text'),
  [
    (np.int64(3_000_000_000), 'a is int64, which JAX makes int32'),
    (np.arange(3.0), 'a is float64, which JAX makes float32'),
    (np.array([2**40], np.uint64), 'a is uint64, which JAX makes uint32'),
    (np.array(['x']), 'a is <U1, of which JAX has no arrays'),
    (np.array([None]), 'a is object, of which JAX has no arrays'),
    (np.zeros(1, 'M8[D]'), r'a is datetime64\[D\], of which JAX has no arrays'),
    (np.zeros(1, 'i4,f4'), r'a is \[.*\], of which JAX has no arrays'),
    (3_000_000_000, 'a is 3000000000, which 32 bits cannot hold'),
    (0.1, 'a is 0.1, which 32 bits cannot hold'),
    (2j + 0.1, r'a is \(0.1\+2j\), which 32 bits cannot hold'),
    (np.ones(2, complex), 'a is complex128, which JAX makes complex64'),
    (np.ones(2, '>f4'), 'a is >f4, of which JAX has no arrays'),
    (np.ones(2, np.longdouble), r'a is float\d+, of which JAX has no arrays'),
    (np.zeros(1, 'm8[s]'), r'a is timedelta64\[s\], of which JAX has no'),
    (1e300, r'a is 1e\+300, which 32 bits cannot hold'),
    (np.ma.ones(2, np.float32), 'a is float32, of which JAX has no arrays'),
    (np.ones((2, 0), np.float32), 'a is empty'),
  ],
)
def test_values_that_would_change_are_refused(leaf, text, tmp_path):
  with pytest.raises(ValueError, match=f'would not come back as it is: {text}'):
    checkpoints.save(tmp_path / 'x', {'a': leaf, 'b': jnp.ones(2)})
  assert names(tmp_path) == []


@pytest.mark.parametrize(
  'tree',
  [
    {'block.0': {'w': jnp.ones(2)}, 'block': {'0': {'w': jnp.zeros(2)}}},
    {'a.b': jnp.ones(2), 'a': {'b': jnp.zeros(2)}},
    {'a': [jnp.ones(2)], 'a.0': jnp.zeros(2)},
    {'a.': {'b': jnp.ones(2)}, 'a': {'.b': jnp.zeros(2)}},
    {'a': {'b.c': {'d': jnp.ones(2)}, 'b': {'c.d': jnp.zeros(2)}}},
    {'a.0.b': jnp.ones(2), 'a': ({'b': jnp.zeros(2), 'c': jnp.ones(2)},)},
  ],
)
def test_names_that_meet_are_refused(tree, tmp_path):
  with pytest.raises(ValueError, match='have one name in a file'):
    checkpoints.save(tmp_path / 'x', tree)
  assert names(tmp_path) == []


@pytest.mark.parametrize('name', ['lr=[0.1]', 'm[red]', 'a*', 'what?'])
def test_paths_that_cannot_be_read_again_are_refused(name, tmp_path):
  with pytest.raises(ValueError, match='which orbax takes for patterns'):
    checkpoints.save(tmp_path / name / 'x', jnp.ones(2))
  assert names(tmp_path) == []


def test_urls_are_refused_and_home_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  checkpoints.save('~/x', jnp.ones(2))
  assert names(tmp_path) == ['x']
  with pytest.raises(ValueError, match='gs://bucket/x is a URL'):
    checkpoints.save('gs://bucket/x', jnp.ones(2))
  with pytest.raises(ValueError, match=r'~nobody.here/x begins with the home'):
    checkpoints.save('~nobody.here/x', jnp.ones(2))
  with pytest.raises(ValueError, match='has a null character'):
    checkpoints.save('a\0b', jnp.ones(2))


def test_metadata_are_plain(tmp_path):
  found = {
    'accuracy': jnp.float32(0.5),
    'seed': np.int64(3),
    'path': pathlib.Path('a/b'),
    'list': (1, [np.float32(2)]),
  }
  checkpoints.save(tmp_path / 'x', jnp.ones(2), found)
  assert checkpoints.read_metadata(tmp_path / 'x') == {
    'accuracy': 0.5,
    'seed': 3,
    'path': 'a/b',
    'list': [1, [2.0]],
  }


@pytest.mark.parametrize(
  ('metadata', 'text'),
  [
    ({'a': {1: 2}}, r"metadata\['a'\] has the key 1, which JSON would turn"),
    ({'a': [jnp.ones(2)]}, r"metadata\['a'\]\[0\] is float32\[2\], which JSON"),
    ({'a': {2, 3}}, r"metadata\['a'\] is a set"),
    ({'a': np.complex64(1j)}, r"metadata\['a'\] is .*, which JSON"),
    ({'a': 'key'}, r"metadata\['a'\] is .*, which JSON"),
    ({'a': np.timedelta64(3)}, r"metadata\['a'\] is .*, which JSON"),
    ({'a': np.datetime64('2020-01-01')}, r"metadata\['a'\] is .*, which JSON"),
    ({'a': jax.ShapeDtypeStruct((), float)}, r"metadata\['a'\] is .*, which"),
  ],
)
def test_metadata_that_json_cannot_hold(metadata, text, tmp_path):
  if metadata == {'a': 'key'}:  # made here, as keys need JAX
    metadata = {'a': jax.random.key(0)}
  with pytest.raises(TypeError, match=text):
    checkpoints.save(tmp_path / 'x', jnp.ones(2), metadata)
  assert names(tmp_path) == []


def test_forged_header(saved):
  """A checkpoint of orbax whose digests are right, but not one of ours."""
  path = saved.parent / 'other'
  ocp.save(path, {'w': jnp.ones(2)})
  files.write_text(path / 'SHA256SUMS', checkpoints.digests(path))
  with pytest.raises(ValueError, match='does not list its leaves'):
    checkpoints.load(path, {'w': jnp.ones(2)})


def batches():
  grain = pytest.importorskip('grain')
  data = grain.MapDataset.range(20).seed(3).shuffle().repeat()
  data = data.random_map(lambda x, rng: x + rng.random())
  return iter(data.batch(3).to_iter_dataset())


@pytest.mark.slow
def test_the_place_in_the_data_is_a_part(tmp_path):
  """What comes after is what would have come, to the bit."""
  data, path = batches(), tmp_path / 'state'
  for _ in range(9):  # beyond the first epoch
    next(data)
  checkpoints.save(path, {'w': jnp.ones(2)}, {'step': 9}, data=data)
  following = [next(data) for _ in range(9)]
  again = batches()
  next(again)
  tree = checkpoints.load(path, {'w': jnp.zeros(2)}, data=again)
  assert bits(tree) == bits({'w': jnp.ones(2)})
  assert checkpoints.read_metadata(path) == {'step': 9}
  for batch in following:
    assert next(again).tobytes() == batch.tobytes()
  # Nobody needs to ask for it.
  checkpoints.load(path, {'w': jnp.zeros(2)})
  # It is as safe as all else.
  (file,) = (path / 'data').iterdir()
  file.write_bytes(file.read_bytes() + b' ')
  with pytest.raises(ValueError, match='is damaged: data/process_0-of-1'):
    checkpoints.load(path, {'w': jnp.zeros(2)}, data=again)


@pytest.mark.slow
def test_no_place_in_the_data(tmp_path):
  like, data = {'w': jnp.ones(2)}, batches()
  next(data)
  state = data.get_state()
  checkpoints.save(tmp_path / 'none', like)
  wanted = r'holds no place for `data`\. Save it with `data=`'
  with pytest.raises(ValueError, match=wanted):
    checkpoints.load(tmp_path / 'none', like, data=data)
  checkpoints.save(tmp_path / 'one', like, data=data)
  next(data)
  (file,) = (tmp_path / 'one' / 'data').iterdir()
  file.rename(file.with_name('process_0-of-2.json'))  # As of two processes.
  digests = checkpoints.digests(tmp_path / 'one')
  files.write_text(tmp_path / 'one' / 'SHA256SUMS', digests)
  with pytest.raises(ValueError, match=r'process_0-of-1\.json.* in as many'):
    checkpoints.load(tmp_path / 'one', like, data=data)
  assert data.get_state() != state  # It has stayed where it was.
  with pytest.raises(TypeError, match='must be an iterator of a `grain'):
    checkpoints.save(tmp_path / 'two', like, data=[1])
  assert not (tmp_path / 'two').exists()


@pytest.mark.slow
def test_two_processes_write_one_checkpoint(tmp_path):
  """Both call `save`; the first one renames, and either can read it."""
  source = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[1]))
from lthjax import checkpoints
mesh = jax.make_mesh((2,), ('d',))
values = np.arange(8, dtype=np.float32)
x = jax.make_array_from_callback(
  (8,), NamedSharding(mesh, P('d')), lambda i: values[i]
)
checkpoints.save(sys.argv[3] + '/x', {'w': x}, {'level': 1})
back = checkpoints.load(
  sys.argv[3] + '/x',
  {'w': jax.ShapeDtypeStruct((8,), x.dtype, sharding=x.sharding)},
)
for a, b in zip(back['w'].addressable_shards, x.addressable_shards):
  np.testing.assert_array_equal(a.data, b.data)
"""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', source, str(i), address, str(tmp_path)],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  for process in processes:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
  assert names(tmp_path) == ['x']


def test_several_processes_must_say_where_arrays_go(saved, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  like = {'w': jax.ShapeDtypeStruct((2,), np.float32), 'b': None}
  with pytest.raises(ValueError, match='need a sharding, but w'):
    checkpoints.load(saved, like)


@pytest.mark.slow
def test_load_places_arrays_as_asked(run_python):
  printed = run_python(
    """
import tempfile, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from lthjax import checkpoints
x = jnp.arange(8.0)
place = NamedSharding(Mesh(jax.devices(), 'd'), PartitionSpec('d'))
with tempfile.TemporaryDirectory() as folder:
  checkpoints.save(f'{folder}/one', x)
  checkpoints.save(f'{folder}/many', jax.device_put(x, place))
  many = checkpoints.load(f'{folder}/one', jax.device_put(x, place))
  one = checkpoints.load(f'{folder}/many', x)
  with jax.default_device(jax.devices()[1]):
    like = {'x': jnp.zeros(8), 'key': jax.random.key(0)}
  checkpoints.save(f'{folder}/other', {'x': x, 'key': jax.random.key(1)})
  other = checkpoints.load(f'{folder}/other', like)
assert many.sharding == place and len(one.devices()) == 1
assert many.committed and not one.committed
for array in other.values():
  assert array.devices() == {jax.devices()[1]} and not array.committed
assert (other['x'] == x).all() and other['key'] == jax.random.key(1)
assert (np.asarray(many) == x).all() and (np.asarray(one) == x).all()
print('ok')
""",
    devices=4,
  )
  assert printed == 'ok\n'


@pytest.mark.parametrize(
  'metadata',
  [{}, {'a': [1, 2.5, None, 'ü'], 'b': {'c': True}}, {'inf': float('-inf')}],
)
def test_metadata(metadata, tmp_path):
  checkpoints.save(tmp_path / 'x', jnp.ones(2), metadata)
  assert checkpoints.read_metadata(tmp_path / 'x') == metadata


def test_metadata_may_be_left_out(tmp_path):
  checkpoints.save(tmp_path / 'x', jnp.ones(2))
  assert checkpoints.read_metadata(tmp_path / 'x') == {}


# What is refused, and leaves everything as it was.

LIKE = {
  'a': jnp.ones((2, 3)),
  'b': None,
  'c': {'d': jnp.arange(4), 'key': jax.random.key(0)},
}


@pytest.mark.parametrize(
  ('like', 'faults'),
  [
    (
      {**LIKE, 'a': jnp.ones((3, 3))},
      ['a: float32[2, 3] there, float32[3, 3]'],
    ),
    (
      {**LIKE, 'a': jnp.ones((2, 2))},
      ['a: float32[2, 3] there, float32[2, 2]'],
    ),
    (
      {**LIKE, 'a': jnp.ones((2, 3), jnp.bfloat16)},
      ['a: float32[2, 3] there, bfloat16[2, 3]'],
    ),
    ({**LIKE, 'a': None}, ['a: float32[2, 3] there, None']),
    ({**LIKE, 'b': jnp.ones(2)}, ['b: None there, float32[2]']),
    ({**LIKE, 'new': jnp.ones(2)}, ['new: nothing there, float32[2]']),
    (
      {'c': {'d': jnp.arange(4), 'key': jax.random.key_data(LIKE['c']['key'])}},
      [
        'a: float32[2, 3] there, nothing',
        'b: None there, nothing',
        'c/key: key<fry>[] there, uint32[2]',
      ],
    ),
  ],
)
def test_another_tree(like, faults, tmp_path):
  path = tmp_path / 'x'
  checkpoints.save(path, LIKE)
  before = contents(tmp_path)
  with pytest.raises(ValueError, match='holds another tree') as caught:
    checkpoints.load(path, like)
  assert all(text in str(caught.value) for text in [str(path), *faults])
  assert str(caught.value).count(' there, ') == len(faults)
  assert contents(tmp_path) == before


def test_nothing_there(tmp_path):
  like = Ticket(0, 1.0, jnp.ones((1, 1), bool), None, None, None)
  for read in [
    checkpoints.read_metadata,
    lambda path: checkpoints.load(path, jnp.ones(2)),
    lambda path: checkpoints.load_ticket(path, like),
  ]:
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at .*nowhere'):
      read(tmp_path / 'nowhere')
  assert names(tmp_path) == []


def make_foreign(path, kind):
  if kind == 'file':
    path.write_text('hello')
  elif kind == 'folder':
    path.mkdir()
    (path / 'thesis.txt').write_text('hello')
  else:
    ocp.save(str(path), {'w': jnp.ones(2)})


@pytest.mark.parametrize('kind', ['file', 'folder', 'other checkpoint'])
def test_foreign(kind, tmp_path):
  path = tmp_path / 'x'
  make_foreign(path, kind)
  before = contents(tmp_path)
  with pytest.raises(ValueError, match='x is not a checkpoint that'):
    checkpoints.load(path, {'w': jnp.ones(2)})
  with pytest.raises(ValueError, match='x is not a checkpoint that'):
    checkpoints.read_metadata(path)
  with pytest.raises(FileExistsError, match='never overwritten'):
    checkpoints.save(path, {'w': jnp.ones(2)})
  assert contents(tmp_path) == before


def test_of_two_processes_the_slower_one_is_told(tmp_path, monkeypatch):
  path, digests = tmp_path / 'state', checkpoints.digests

  def slow(folder):
    path.mkdir(exist_ok=True)
    (path / 'other').touch()  # from another process, meanwhile
    return digests(folder)

  monkeypatch.setattr(checkpoints, 'digests', slow)
  with pytest.raises(FileExistsError, match='another process was faster'):
    checkpoints.save(path, {'w': jnp.ones(2)})
  assert [x.name for x in tmp_path.rglob('*')] == ['state', 'other']


def truncate(path, content):
  path.write_bytes(content[: len(content) // 2])


def flip_a_bit(path, content):
  middle = len(content) // 2
  flipped = bytes([content[middle] ^ 1])
  path.write_bytes(content[:middle] + flipped + content[middle + 1 :])


def remove(path, content):
  del content
  path.unlink()


@pytest.mark.parametrize('damage', [truncate, flip_a_bit, remove])
def test_damage_to_any_file(damage, tmp_path):
  path = tmp_path / 'x'
  tree = {'noise': jax.random.normal(jax.random.key(0), (3000,))}
  checkpoints.save(path, tree, {'step': 3})
  files = [x for x in path.rglob('*') if x.is_file() and x.stat().st_size]
  assert sum(x.stat().st_size for x in files) > 9000  # The noise is in them.
  for file in files:
    content = file.read_bytes()
    damage(file, content)
    before = contents(tmp_path)
    for read in [
      checkpoints.read_metadata,
      lambda p: checkpoints.load(p, tree),
    ]:
      with pytest.raises(ValueError, match=f'{path} is (damaged|not a)'):
        read(path)
    assert contents(tmp_path) == before
    file.write_bytes(content)
  assert_same(checkpoints.load(path, tree), tree)


def test_a_file_too_many(saved):
  (saved / 'state' / 'notes.txt').write_text('hello')
  with pytest.raises(ValueError, match=r'is damaged: state/notes\.txt changed'):
    checkpoints.load(saved, make_tree())


def test_never_overwrites(saved):
  before = contents(saved.parent)
  with pytest.raises(FileExistsError, match='Choose another path'):
    checkpoints.save(saved, jnp.ones(2))
  assert contents(saved.parent) == before


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
  with pytest.raises(TypeError, match='a leaf is a str'):
    checkpoints.save(tmp_path / 'x', {'w': 'hello'})
  with pytest.raises(TypeError, match='JSON'):
    checkpoints.save(tmp_path / 'x', jnp.ones(2), {'accuracy': jnp.ones(2)})
  assert names(tmp_path) == []


def test_sha256sum_checks_it_too(saved):
  done = subprocess.run(
    ['sha256sum', '--check', '--strict', '--quiet', 'SHA256SUMS'],
    cwd=saved,
    check=False,
  )
  assert done.returncode == 0


# Full disks and killed processes.


@pytest.mark.slow
def test_full_disk(run_python):
  printed = run_python("""
import os, pathlib, resource, signal, tempfile
import jax, jax.numpy as jnp
from lthjax import checkpoints, files

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing too much: an error

def raises(function, *arguments):
  try:
    function(*arguments)
  except OSError as error:
    return str(error)
  raise AssertionError(f'{function} did not raise')

with tempfile.TemporaryDirectory() as folder:
  good = {'w': jnp.arange(100.0)}
  noise = {'w': jax.random.normal(jax.random.key(0), (1000, 1000))}
  checkpoints.save(f'{folder}/good', good, {'level': 1})
  files.write_text(f'{folder}/a.txt', 'good')
  for limit in 50, 1000, 1_000_000:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    error = raises(checkpoints.save, f'{folder}/new', noise)
    assert f'{folder}/new: ' in error and 'earlier checkpoints' in error, error
    raises(files.write_text, f'{folder}/a.txt', 'x' * 2_000_000)
    assert sorted(os.listdir(folder)) == ['a.txt', 'good'], os.listdir(folder)
    assert (checkpoints.load(f'{folder}/good', good)['w'] == good['w']).all()
    assert checkpoints.read_metadata(f'{folder}/good') == {'level': 1}
    assert pathlib.Path(folder, 'a.txt').read_text() == 'good'
  hard = resource.RLIM_INFINITY
  resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
  checkpoints.save(f'{folder}/new', noise)  # there is room again
print('ok')
""")
  assert printed == 'ok\n'


SAVE_FOR_EVER = """
import itertools, os, sys
import jax.numpy as jnp
from lthjax import checkpoints
folder = sys.argv[1]
done = len([name for name in os.listdir(folder) if name[0] != '.'])
for i in itertools.count(done):
  checkpoints.save(f'{folder}/{i:04d}', {'w': jnp.full(300_000, i)}, {'i': i})
  print(i, flush=True)
"""


@pytest.mark.slow
def test_kill_in_mid_save(tmp_path):
  for seconds in [0.31, 0.17]:
    with subprocess.Popen(
      [sys.executable, '-c', SAVE_FOR_EVER, str(tmp_path)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
    ) as process:
      assert process.stdout is not None
      process.stdout.readline()
      time.sleep(seconds)
      process.kill()
    assert process.returncode == -signal.SIGKILL
    visible = [name for name in names(tmp_path) if not name.startswith('.')]
    assert visible == [f'{i:04d}' for i in range(len(visible))]
    for i, name in enumerate(visible):
      back = checkpoints.load(tmp_path / name, {'w': jnp.zeros(300_000, int)})
      assert (back['w'] == i).all()
      assert checkpoints.read_metadata(tmp_path / name) == {'i': i}
    # What the first one left is gone once the second has saved.
    assert len(names(tmp_path)) <= len(visible) + 1


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
def test_interrupted_save_leaves_nothing(error, tmp_path, monkeypatch):
  rename = os.rename

  def stop(source, target):  # Orbax renames as well, in its own thread.
    if target == tmp_path / 'x':
      raise error('stop')
    rename(source, target)

  monkeypatch.setattr(os, 'rename', stop)
  with pytest.raises(error, match='stop'):
    checkpoints.save(tmp_path / 'x', jnp.ones(2))
  assert names(tmp_path) == []


# Tickets.


def make_ticket():
  keys = jax.random.split(jax.random.key(0), 3)
  params = {
    'w': jax.random.normal(keys[0], (3, 3)),
    'v': jax.random.normal(keys[1], (5, 7, 2)),
    'b': jnp.zeros(3),
  }
  masks = {
    'w': jax.random.bernoulli(keys[0], 0.3, (3, 3)),
    'v': jax.random.bernoulli(keys[1], 0.5, (5, 7, 2)),
    'b': None,
  }
  trained = State(lth.masks.apply(masks, params), None, keys[2])
  metrics = [{'accuracy': [0.5, 0.25], 'loss': float('inf')}]
  return Ticket(4, lth.masks.density(masks), masks, params, trained, metrics)


@pytest.mark.parametrize('abstract', [False, True])
def test_ticket_round_trip(abstract, tmp_path):
  ticket = make_ticket()
  checkpoints.save_ticket(tmp_path / '04', ticket)
  like = ticket._replace(level=0, density=0.0, metrics=None)
  if abstract:
    like = jax.eval_shape(lambda: like)
  back = checkpoints.load_ticket(tmp_path / '04', like)
  assert (back.level, back.density) == (ticket.level, ticket.density)
  assert back.metrics == ticket.metrics
  for name in ['masks', 'start', 'trained']:
    assert_same(getattr(back, name), getattr(ticket, name))


def test_ticket_without_states(tmp_path):
  ticket = make_ticket()._replace(start=None, trained=None)
  checkpoints.save_ticket(tmp_path / '04', ticket)
  back = checkpoints.load_ticket(tmp_path / '04', ticket)
  assert back.start is back.trained is None
  assert_same(back.masks, ticket.masks)


def test_ticket_takes_one_bit_a_weight(tmp_path):
  masks = jax.random.bernoulli(jax.random.key(0), 0.5, (1000, 801))
  ticket = Ticket(1, 0.5, masks, None, None, None)
  checkpoints.save_ticket(tmp_path / '01', ticket)
  files = [x for x in (tmp_path / '01').rglob('*') if x.is_file()]
  assert sum(x.stat().st_size for x in files) < masks.size / 8 + 10_000
  assert_same(checkpoints.load_ticket(tmp_path / '01', ticket).masks, masks)


def test_ticket_of_other_masks(tmp_path):
  ticket = make_ticket()
  checkpoints.save_ticket(tmp_path / '04', ticket)
  masks = {**ticket.masks, 'v': jnp.ones((5, 7, 3), bool)}
  with pytest.raises(
    ValueError, match=r'masks/v: uint8\[9\] there, uint8\[14\]'
  ):
    checkpoints.load_ticket(tmp_path / '04', ticket._replace(masks=masks))


def test_checkpoint_that_is_no_ticket(tmp_path):
  ticket = Ticket(0, 1.0, jnp.ones((2, 4), bool), None, None, None)
  arrays = {
    'masks': lth.masks.pack(ticket.masks),
    'start': None,
    'trained': None,
  }
  checkpoints.save(tmp_path / 'x', arrays, {'level': 3})
  with pytest.raises(
    ValueError, match='not a ticket: it has no density, metri'
  ):
    checkpoints.load_ticket(tmp_path / 'x', ticket)
