"""Arguments of the wrong kind, at every public function."""

import collections
import os
import re
import signal
import traceback
import warnings

import doors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import keys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(doors.__file__)))
PARTS = 3  # so that several workers share them
SECONDS = 20


def trees(change):
  return jax.tree.map(change, doors.PARAMS)


def struct(x):
  return None if x is None else jax.ShapeDtypeStruct(x.shape, x.dtype)


def values():
  """What nobody should pass, except where `ALLOWED` says so."""
  return {
    'None': None,
    'text': 'x',
    'no text': '',
    'bytes': b'x',
    '-1': -1,
    '0': 0,
    '1.5': 1.5,
    'nan': float('nan'),
    'inf': float('inf'),
    '1e300': 1e300,
    '2**31': 2**31,
    'True': True,
    '1j': 1j,
    '[]': [],
    '{}': {},
    'object': object(),
    'type': int,
    'struct': jax.ShapeDtypeStruct((3,), np.float32),
    'function': lambda *a, **k: None,
    'float32': np.float32(0.5),
    'jax scalar': jnp.float32(0.5),
    'vector': np.ones(7, np.float32),
    'empty array': np.zeros(0, np.float32),
    'texts': ['x'],
    'masks': doors.FULL,
    'params': doors.PARAMS,
    'another tree': {'other': {'kernel': np.ones((2, 2), np.float32)}},
    'tree of None': {'hidden': None},
    'int tree': trees(lambda x: np.ones(x.shape, np.int32)),
    'complex tree': trees(lambda x: x + 0j),
    'float8 tree': trees(lambda x: x.astype(jnp.float8_e4m3fn)),
    'nan tree': trees(lambda x: x * np.nan),
    'wrong shapes': trees(lambda x: np.ones((3, *x.shape), np.float32)),
    'abstract': trees(struct),
    'abstract masks': jax.tree.map(struct, doors.FULL),
    'key': keys(0),
    'keys': keys(0, 1),
    'lists': trees(lambda x: x.tolist()),
    'set': {1},
    'strings tree': trees(lambda x: 'x'),
  }


NUMBERS = {'0', 'float32', 'jax scalar'}
LARGE = NUMBERS | {'1.5', '1e300', '2**31', 'inf'}
TREES = {
  *('masks', 'params', 'another tree', 'tree of None', 'int tree'),
  *('complex tree', 'float8 tree', 'nan tree', 'wrong shapes', 'abstract'),
  *('abstract masks', 'lists', 'strings tree', '{}'),
}
# `None` is also fine wherever it is the default.
ALLOWED = {
  'anything': set(values()),
  'array': LARGE | {'-1', 'nan', 'vector', 'empty array'},
  'axes': {'{}'},
  'axis': {'-1', '0', 'True'},
  'below zero': {'-1'},
  'capacity': set(),
  'closed share': NUMBERS,
  'count': {'2**31', '0', '{}', 'tree of None'},
  'count from 0': {'-1', '0', '2**31'},
  'fill': {*LARGE, '-1', 'nan', 'True'},
  'function': {'function', 'type'},
  'groups': {'{}'},
  'hook': {'function', 'type'},
  'iterator': set(),
  'json': {'0', 'None', '[]', 'no text', *TREES},
  'images': set(),
  'integers': set(),
  'keeps': {'{}'},
  'key': {'key'},
  'keys': {'keys'},
  'masks': {'masks', 'tree of None'},
  'named': {'{}'},
  'names': {'[]', 'empty array'},
  'names of examples': {'None'},
  'new path': {'text'},
  'not negative': LARGE,
  'number': LARGE | {'-1'},
  'numbers': {'[]', 'bytes', 'no text'},
  'params': {
    *TREES,
    *LARGE,
    *('-1', 'True', '1j', '[]', 'empty array', 'vector', 'key', 'keys'),
    *('struct', 'type'),
  }
  - {'lists', 'strings tree'},
  'probabilities': set(),
  'rates': set(),
  'scores': set(),
  'severity': set(),
  'optional masks': {'masks', 'None'},
  'path': {'text'},
  'positive': LARGE,
  'share': NUMBERS | {'1.5', 'None'},
  'share or schedule': NUMBERS,
  'schedule': NUMBERS,
  'shapes': {'{}'},
  'shares': NUMBERS | {'{}'},
  'set': {'None', 'set'},
  'sparse': TREES | {'None', '[]'},
  'stacked': {'{}'},
  'state': TREES,
  'text': {'text', 'no text'},
  'texts': {'[]', '{}', 'text', 'texts', 'no text'},
  'values': {'vector'},
  'where': {'function', 'text', 'no text', 'texts', '[]'},
  'units': {'[]'},
  'word': {'True'},
}
# Arguments that a function does not read, or of which it takes shapes alone.
IGNORED = {
  'by_layout.params',
  'batch_statistics.model_state',
  'save.tree',
  'unpack.like',
  'bernoulli.axes',
  'uniform.axes',
  'batch_statistics.params',
  'densify.sparse',
  'split.sparse',
  'join.structure',
  'forward_params.opt_state',
  'keeps_dense_params.opt_state',
  'strip.opt_state',
  'num_params.apply',
  'num_params.batch',
  'num_params.params',
  'rank.batch',
  'run.visits',
  'run.x',
  'transfer.params',
  *(
    f'{proxy}.key'
    for proxy in [
      'fisher',
      'grad_norm',
      'grasp',
      'snip',
      'jacob_cov',
      'multiply_adds',
      'naswot',
      'num_params',
      'synflow',
    ]
  ),
}


class TooLong(BaseException):
  """Not an `Exception`, so that nothing on the way catches it."""


def stop(*_):
  raise TooLong


def outcome(call):
  """What comes of a call: accepted, an error of ours or a raw one, a hang."""
  signal.setitimer(signal.ITIMER_REAL, SECONDS)
  try:
    call()
  except TooLong:
    return 'hang'
  except Exception as error:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    inside = frame.filename.startswith(os.path.join(ROOT, 'lthjax'))
    ours = inside and (frame.line or '').startswith('raise ')
    return 'ours' if ours else f'raw {type(error).__name__}: {error}'
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
  return 'accepted'


def default_is_none(function, argument):
  code = getattr(function, '__kwdefaults__', None) or {}
  if argument in code:
    return code[argument] is None
  names = function.__code__.co_varnames[: function.__code__.co_argcount]
  given = dict(
    zip(reversed(names), reversed(function.__defaults__ or ()), strict=False)
  )
  return argument in given and given[argument] is None


def is_allowed(name, door, argument, label):
  kind = door.arguments[argument].kind
  if f'{name.rpartition(".")[2]}.{argument}' in IGNORED:
    return True
  is_type = isinstance(door.function, type)
  if label == 'None' and not is_type:
    return default_is_none(door.function, argument) or label in ALLOWED.get(
      kind, ()
    )
  if kind == 'flag':
    return label == 'True'
  return label in ALLOWED.get(kind, set())


@pytest.mark.slow
@pytest.mark.parametrize('part', range(PARTS))
def test_every_argument_of_every_function(part, tmp_path, monkeypatch):
  """No hang, nothing wrong accepted, and almost all errors are ours."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(warnings, 'showwarning', lambda *a, **k: None)
  before = signal.signal(signal.SIGALRM, stop)
  counts, raw, wrong, hangs = collections.Counter(), [], [], []
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      found = doors.doors(tmp_path)
      assert len(found) > 170
      cases = [
        (name, door, argument, label, value)
        for name, door in found.items()
        for argument in door.arguments
        for label, value in values().items()
      ]
      assert len(cases) > 22_000
      for name, door in list(found.items())[part::PARTS]:
        assert outcome(door.call) == 'accepted', name
      for name, door, argument, label, value in cases[part::PARTS]:
        change = {argument: value}
        came = outcome(lambda door=door, change=change: door.call(**change))
        case = f'{name}({argument}={label})'
        counts[came.partition(' ')[0]] += 1
        if came.startswith('raw'):
          raw.append(f'{case}: {came}')
        elif came == 'hang':
          hangs.append(case)
        elif came == 'accepted' and not is_allowed(name, door, argument, label):
          wrong.append(case)
  finally:
    signal.signal(signal.SIGALRM, before)
  print(counts)
  strict = re.compile(
    r'\.(prune|prune_iteratively|imp|trainer|rigl|srigl|top_kast)\('
    r'|^prune by|^lthjax\.(masks|checkpoints)\.'
  )
  assert not (first := list(filter(strict.search, raw))), '\n'.join(first)
  assert hangs == []
  assert not wrong, '\n'.join(wrong)
  # Every error of ours says what to do; a few come from below.
  assert len(raw) <= 0.01 * counts.total(), '\n'.join(raw)
