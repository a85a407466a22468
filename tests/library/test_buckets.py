"""Libraries in buckets: a file system in memory, and a server of S3."""

import importlib.util

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import bits
from library_cases import START, add, applied, make_ticket

import lthjax as lth
from lthjax.library import ConflictError


class Bucket(MemoryFileSystem):
  """Paths of gs:// in memory."""

  store = {}  # noqa: RUF012
  pseudo_dirs = ['']  # noqa: RUF012
  cachable = False

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix('gs://'))


def test_a_library_in_a_bucket(monkeypatch):
  monkeypatch.setattr(fsspec, 'filesystem', lambda scheme: Bucket())
  library = lth.library.open('gs://bucket/tickets')
  a, b = add(library, 0), add(library, 1)
  assert add(library, 1) == b
  assert [x.key for x in library.list()] == [b, a]
  assert bits(library.load(b, START)) == bits(applied(make_ticket(1)))
  other = lth.library.open('gs://bucket/tickets', create=False)

  def meanwhile(report):
    other.promote(a, 'support/live')
    return True

  with pytest.raises(ConflictError):
    library.promote(b, 'support/live', checks=[meanwhile])
  library.promote(b, 'support/live')
  assert other.rollback('support/live').key == a
  assert other.gc() == (b,)
  assert library.verify() == (a,)
  with pytest.raises(LookupError):
    library.load(b)
  with pytest.raises(ValueError, match='is a bucket, but whole states'):
    library.add(make_ticket(3), params=lambda state: state, states=True)
  with pytest.raises(FileNotFoundError):
    lth.library.open('gs://bucket/else', create=False)


S3 = """
import os, tempfile
for name in 'ACCESS_KEY_ID', 'SECRET_ACCESS_KEY':
  os.environ[f'AWS_{name}'] = 'x'
os.environ['AWS_DEFAULT_REGION'] = 'us-east-1'
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ['AWS_ENDPOINT_URL'] = f'http://{host}:{port}'
import fsspec
fsspec.filesystem('s3').mkdir('s3://bucket')
import sys
sys.path.insert(0, 'tests')
from helpers import bits
from library_cases import START, add, applied, make_ticket
import lthjax as lth

library = lth.library.open('s3://bucket/tickets')
other = lth.library.open('s3://bucket/tickets', create=False)
root = add(library, 0)
key = add(library, 1, parent=root)
assert add(other, 1, parent=root) == key
assert [x.key for x in other.list()] == [key, root]
assert bits(other.load(key, START)) == bits(applied(make_ticket(1)))
library.promote(root, 'live')
try:
  library.promote(
    key, 'live', checks=[lambda r: other.promote(key, 'live') is not None]
  )
except lth.library.ConflictError as error:
  print('conflict')
store = library.store
try:  # The server itself says so, not a look at the names before.
  store.create('aliases/live/00000002.json', b'x')
except FileExistsError:
  print('exists')
assert other.rollback('live').key == root
assert [x.action for x in library.history('live')] == [
  'promote', 'promote', 'rollback'
]
with tempfile.TemporaryDirectory() as folder:
  print(sorted(os.listdir(library.export('live', f'{folder}/out')))[0])
assert set(library.verify()) == {key, root}
assert library.gc() == (key,)
assert library.verify() == (root,)
server.stop()
print('ok')
"""


@pytest.mark.slow
def test_s3(run_python):
  for package in ('s3fs', 'moto', 'flask', 'flask_cors'):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f'needs {package}, which `pip install lthjax[test]` brings')
  assert run_python(S3).split() == ['conflict', 'exists', 'README.md', 'ok']
