"""Versions for bug reports, workflows and issue forms."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import lthjax as lth
from lthjax import _versions

ROOT = pathlib.Path(__file__).parents[1]
GITHUB = ROOT / '.github'
YAML = sorted(GITHUB.rglob('*.yml'))


def test_versions_are_printed_by_name(capsys):
  assert lth.show_versions() is None
  lines = capsys.readouterr().out.splitlines()
  found = dict(line.split(maxsplit=1) for line in lines)
  assert found['lthjax'] == lth.__version__
  assert found['python'] == '.'.join(map(str, sys.version_info[:3]))
  for name in ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy'):
    assert re.match(r'\d+\.\d+', found[name]), name
  assert found['devices'].startswith('cpu: ')
  assert found['kernels']
  assert found['platform']


def test_versions_without_a_package_or_a_device(monkeypatch):
  def fail():
    raise RuntimeError('no\nbackend')

  monkeypatch.setattr(_versions.jax, 'devices', fail)
  monkeypatch.setattr(_versions, '_PACKAGES', ('no-such-package',))
  found = _versions.versions()
  assert found['no-such-package'] == 'not installed'
  assert found['devices'] == 'none: no backend'


@pytest.mark.slow
def test_command_prints_the_version():
  done = subprocess.run(
    [sys.executable, '-m', 'lthjax', '--version'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == f'lthjax {lth.__version__}\n'


@pytest.mark.parametrize('path', YAML, ids=[path.stem for path in YAML])
def test_github_files_are_yaml_without_secrets(path):
  text = path.read_text()
  found = yaml.safe_load(text)
  assert 'secrets.' not in text
  if path.parent.name == 'workflows':
    # YAML 1.1 reads the key `on` as true.
    assert {'name', True, 'permissions', 'jobs'} <= set(found)
    assert found['permissions'] == {'contents': 'read'}
    for script in re.findall(r'(?:run:|python) (\.ci/\w+)', text):
      assert os.access(ROOT / script, os.X_OK), script


def test_issue_forms_ask_for_versions():
  for name in ('bug', 'result'):
    form = yaml.safe_load(
      (GITHUB / 'ISSUE_TEMPLATE' / f'{name}.yml').read_text()
    )
    (field,) = [x for x in form['body'] if x['id'] == 'versions']
    assert 'python -m lthjax' in field['attributes']['description']
    assert field['validations']['required']


def test_publishing_is_trusted():
  found = yaml.safe_load((GITHUB / 'workflows' / 'publish.yml').read_text())
  assert found['jobs']['pypi']['permissions'] == {'id-token': 'write'}
  assert found['jobs']['pypi']['needs'] == 'build'


def test_scripts_are_valid():
  scripts = [path for path in (ROOT / '.ci').iterdir() if path.is_file()]
  assert {'run', 'smoke.py', 'wheels'} <= {path.name for path in scripts}
  for path in scripts:
    if path.read_text().splitlines()[0].endswith('bash'):
      subprocess.run(['bash', '-n', str(path)], check=True)
    else:
      ast.parse(path.read_text())


def test_version_of_the_script_is_ours():
  done = subprocess.run(
    [sys.executable, str(ROOT / '.ci' / 'version')],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == lth.__version__
