"""Signatures of tickets, by a stand-in and by the package model-signing."""

import hashlib
import hmac
import json
import pathlib
import warnings

import pytest
from helpers import contents, names
from library_cases import add

import lthjax as lth


class Key:
  """Signs and verifies a folder, with a secret that both sides know."""

  def __init__(self, secret):
    self.secret = secret

  def _tag(self, folder):
    found = contents(folder)
    text = repr((folder.name, sorted(found.items()))).encode()
    return hmac.new(self.secret, text, hashlib.sha256).digest()

  def sign(self, folder, path):
    path.write_bytes(self._tag(folder))

  def verify(self, folder, path):
    if path.read_bytes() != self._tag(folder):
      raise ValueError('signature\nmismatch')


@pytest.fixture
def library(tmp_path):
  return lth.library.open(tmp_path / 'tickets')


def test_what_is_signed_is_the_manifest_by_its_key(library):
  key, seen = add(library), {}

  class Look:
    def sign(self, folder, path):
      seen.update({x.name: x.read_bytes() for x in folder.iterdir()})
      seen['folder'] = folder.name
      path.write_bytes(b'signed')

  digest = library.sign(key[:8], Look())
  assert digest == hashlib.sha256(b'signed').hexdigest()
  assert seen['folder'] == key
  assert hashlib.sha256(seen['manifest.json']).hexdigest() == key
  assert json.loads(seen['manifest.json'])['level'] == 1
  folder = pathlib.Path(library.store.root, 'signatures', key)
  assert names(folder) == [f'{digest}.sig']
  before = contents(folder)
  assert library.sign(key, Look()) == digest
  assert contents(folder) == before


def test_one_of_several_signatures_is_enough(library):
  key, other = add(library, 0), add(library, 1)
  ann, bob = Key(b'ann'), Key(b'bob')
  with pytest.raises(ValueError, match=f'{key[:12]} in .* has no signature'):
    library.verify_signature(key, ann)
  digests = [library.sign(key, x) for x in (ann, bob)]
  assert [library.verify_signature(key, x) for x in (ann, bob)] == digests
  library.sign(other, ann)
  with pytest.raises(ValueError, match=r'ValueError: signature mismatch\). Do'):
    library.verify_signature(other, bob)
  # That of another ticket is none of this one.
  root = library.store.root / 'signatures'
  (stolen,) = (root / key).glob(f'{digests[1]}*')
  (root / other / stolen.name).write_bytes(stolen.read_bytes())
  with pytest.raises(ValueError, match='No signature of'):
    library.verify_signature(other, bob)


def test_a_signature_as_a_required_check(library):
  key, ann = add(library), Key(b'ann')
  checks = {'signed': lambda report: bool(library.verify_signature(key, ann))}
  with pytest.raises(lth.library.RefusedError, match='signed: ValueError'):
    library.promote(key, 'live', checks=checks)
  library.sign(key, ann)
  assert library.promote(key, 'live', checks=checks).checks == {
    'signed': 'passed'
  }


def test_damage_and_garbage(library):
  root = library.store.root / 'signatures'
  key, lost, ann = add(library, 0), add(library, 1), Key(b'ann')
  for x in key, lost:
    library.sign(x, ann)
  (path,) = (root / key).iterdir()
  good = path.read_bytes()
  path.write_bytes(good[:-1])
  for call in (
    lambda: library.verify(key),
    library.verify,
    lambda: library.verify_signature(key, ann),
  ):
    with pytest.raises(ValueError, match=f'{path.name} is damaged'):
      call()
  path.write_bytes(good)
  assert library.gc(keep=[key]) == (lost,)
  assert names(root) == [key]
  # A ticket that was changed has no valid signature either.
  file = library.store.root / 'tickets' / f'{key}.safetensors'
  data = file.read_bytes()
  file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
  for call in library.sign, library.verify_signature:
    with pytest.raises(ValueError, match='safetensors is damaged'):
      call(key, ann)


def test_bad_signers(library):
  key = add(library)

  class Silent:
    def sign(self, folder, path):
      pass

  for bad in (None, 'key.pem', object()):
    with pytest.raises(TypeError, match='`signer` was'):
      library.sign(key, bad)
    with pytest.raises(TypeError, match='`verifier` was'):
      library.verify_signature(key, bad)
  with pytest.raises(ValueError, match='wrote no signature'):
    library.sign(key, Silent())
  with pytest.raises(LookupError, match='no alias'):
    library.sign('live', Key(b''))
  assert not (library.store.root / 'signatures').exists()


def pem(folder, name):
  """A private and a public key, as files."""
  from cryptography.hazmat.primitives import serialization as s
  from cryptography.hazmat.primitives.asymmetric import ec

  private = ec.generate_private_key(ec.SECP256R1())
  paths = folder / f'{name}.pem', folder / f'{name}.pub'
  plain = s.PrivateFormat.PKCS8, s.NoEncryption()
  paths[0].write_bytes(private.private_bytes(s.Encoding.PEM, *plain))
  public = private.public_key().public_bytes(
    s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo
  )
  paths[1].write_bytes(public)
  return paths


@pytest.mark.slow
def test_keys_of_the_package(library, tmp_path):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    signing = pytest.importorskip('model_signing.signing')
    verifying = pytest.importorskip('model_signing.verifying')
    (ann, ann_pub), (_, bob_pub) = (pem(tmp_path, x) for x in ('ann', 'bob'))
    key, other = add(library, 0), add(library, 1)
    signer = signing.Config().use_elliptic_key_signer(private_key=ann)

    def check(name, public):
      verifier = verifying.Config()
      verifier.use_elliptic_key_verifier(public_key=public)
      return library.verify_signature(name, verifier)

    digest = library.sign(key, signer)
    assert check(key, ann_pub) == digest
    with pytest.raises(ValueError, match='Key mismatch'):
      check(key, bob_pub)
    root = library.store.root / 'signatures'
    (root / other).mkdir()
    (root / other / f'{digest}.sig').write_bytes(
      (root / key / f'{digest}.sig').read_bytes()
    )
    with pytest.raises(ValueError, match='Signature mismatch'):
      check(other, ann_pub)
