"""The package as a whole: light to import, documented, no private JAX."""

import ast
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import lthjax as lth

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / 'lthjax').rglob('*.py'))
MODULES = sorted(
  module.name
  for module in pkgutil.walk_packages(lth.__path__, 'lthjax.')
  if not module.name.rpartition('.')[2].startswith('_')
)
HEAVY = (
  'flax',
  'matplotlib',
  'orbax',
  'rich',
  'sklearn',
  'tensorflow',
  'tensorflow_datasets',
  'tyro',
)


def is_documented(thing: object) -> bool:
  """Whether somebody wrote the docstring; Python writes some by itself."""
  text = inspect.getdoc(thing) or ''
  name = getattr(thing, '__name__', '')
  return bool(text) and not text.startswith((f'{name}(', 'Create new instance'))


def public_things(module) -> dict[str, object]:
  """Functions and classes that a module defines under a public name."""
  return {
    f'{module.__name__}.{name}': thing
    for name, thing in vars(module).items()
    if not name.startswith('_')
    and (inspect.isfunction(thing) or inspect.isclass(thing))
    and thing.__module__ == module.__name__
  }


def test_import_is_quiet_and_light(run_python):
  printed = run_python(
    f'import sys, lthjax\nprint(*sorted(set({HEAVY}) & set(sys.modules)))',
    '-Werror',
  )
  assert printed.split() == []


def test_all_is_sorted_and_complete():
  assert list(lth.__all__) == sorted(set(lth.__all__))
  missing = [name for name in lth.__all__ if not hasattr(lth, name)]
  assert missing == []
  assert dir(lth) == sorted([*lth.__all__, '__version__'])


@pytest.mark.slow
def test_a_type_checker_knows_names_and_types(tmp_path):
  pyright = shutil.which('pyright')
  if pyright is None:
    pytest.skip('needs pyright, which `pip install lthjax[lint]` brings')
  (tmp_path / 'user.py').write_text(
    'import jax, jax.numpy as jnp, optax, lthjax as lth\n'
    'params = {"w": jnp.ones((2, 2))}\n'
    'reveal_type(lth.masks.apply(lth.masks.full(params), params)["w"])\n'
    'lth.checkpoints.save\n'
    'lth.no_such_name\n'
    # Trees of masks and scores are as good as their leaves, everywhere.
    'masks = lth.masks.full(params)\n'
    'masks["w"].sum()\n'
    'lth.masks.union(masks, masks)["w"].sum()\n'
    'lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)["w"].sum()\n'
    'lth.scores.magnitude(params)["w"].max()\n'
    'tx = lth.static(optax.sgd(0.1), masks)\n'
    'lth.get_masks(tx.init(params))["w"].sum()\n'
    'lth.random_masks(jax.random.key(0), sparsity=0.5)(params)["w"].sum()\n'
    'lth.masks.shuffle(jax.random.key(0), masks)["w"].sum()\n'
    'def alive(ticket: lth.tickets.Ticket) -> int:\n'
    '  return ticket.masks["w"].sum() + ticket.trained.params["w"].size\n'
  )
  (tmp_path / 'pyrightconfig.json').write_text(
    json.dumps({'extraPaths': [str(ROOT)], 'include': ['user.py']})
  )
  done = subprocess.run(
    [pyright, '-p', str(tmp_path), '--pythonpath', sys.executable],
    capture_output=True,
    text=True,
    check=False,
  )
  assert 'user.py:3:13 - information: Type of' in done.stdout, done
  assert 'is "Array"' in done.stdout
  assert '"no_such_name" is not a known attribute' in done.stdout
  assert '1 error' in done.stdout


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match='no_such_name'):
    _ = lth.no_such_name


def test_every_public_name_is_documented():
  things = {name: getattr(lth, name) for name in lth.__all__}
  undocumented = [
    name
    for name, thing in things.items()
    if name != '__version__' and not is_documented(thing)
  ]
  assert undocumented == []


def test_every_module_is_documented():
  modules = [importlib.import_module(name) for name in MODULES]
  things = {module.__name__: module for module in modules}
  for module in modules:
    things |= public_things(module)
  assert [path for path, x in things.items() if not is_documented(x)] == []


def test_no_function_hides_a_module():
  """`lthjax.a.b` is a module wherever the file `lthjax/a/b.py` exists."""
  hidden = []
  for path in SOURCES:
    parts = path.relative_to(ROOT).with_suffix('').parts
    module = importlib.import_module('.'.join(parts[:-1]))
    thing = getattr(module, parts[-1], None)
    if parts[-1] != '__init__' and thing is not None:
      hidden += [] if inspect.ismodule(thing) else ['.'.join(parts)]
  assert hidden == []


def test_version_is_the_same_everywhere():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  assert lth.__version__ == project['version']
  citation = (ROOT / 'CITATION.cff').read_text()
  assert f'\nversion: {lth.__version__}\n' in citation


def test_types_are_shipped():
  assert (ROOT / 'lthjax' / 'py.typed').is_file()


def test_no_private_jax():
  private = re.compile(r'jax\._src|from jax import core|import jax\.core')
  offenders = [
    str(path.relative_to(ROOT))
    for path in SOURCES
    if private.search(path.read_text())
  ]
  assert offenders == []


# Where arrays of weights are made, masked, scored, selected, moved and trained.
SHARDED = [
  *('masks', 'patterns', 'pruning', 'scores', 'tickets', 'topologies'),
  *('training', '_bisection.py', '_sharding.py', '_slots.py', '_sparsify.py'),
  *('_steps.py', 'densities', 'opt_state.py', 'selection.py', 'supermasks'),
]
MAKERS = {
  'arange',
  'empty',
  'full',
  'ones',
  'zeros',
  'iota',
  'broadcasted_iota',
}
# What has the shape of a leaf, but is not made for it.
SMALL = {
  'lthjax/_sharding.py': ['shape'],  # sharded along the only axis that is long
  'lthjax/pruning/_kernels.py': ['u.shape'],  # a constant of one matmul
  'lthjax/scores/_synflow.py': ['shape'],  # the input of a network
}


def test_what_is_made_like_a_leaf_is_sharded_like_it():
  """`jnp.zeros(x.shape)` would lie whole on every device: `zeros_like`."""
  found = []
  for path in SOURCES:
    name = path.relative_to(ROOT)
    if name.parts[1] not in SHARDED:
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      called = ast.unparse(node.func) if isinstance(node, ast.Call) else ''
      if called.rpartition('.')[2] in MAKERS and called.startswith('j'):
        shape = node.args[called.startswith('jax.lax')]
        text = ast.unparse(shape)
        if 'shape' in text and text not in SMALL.get(name.as_posix(), []):
          found.append(f'{name}:{node.lineno}: {ast.unparse(node)}')
  assert found == []


def test_files_and_functions_are_short():
  """Files of at most 400 lines, and bodies of functions of at most 60."""
  long = []
  for path in SOURCES:
    source = path.read_text()
    name = path.relative_to(ROOT)
    if len(source.splitlines()) > 400:
      long.append(str(name))
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, ast.FunctionDef):
        body = node.body[ast.get_docstring(node) is not None :]
        if body and body[-1].end_lineno - body[0].lineno >= 60:
          long.append(f'{name}: {node.name}')
  assert long == []
