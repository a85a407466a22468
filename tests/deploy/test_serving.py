"""What the page on deployment writes, another process serves."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import lthjax as lth
from lthjax.deploy import _compile

# Without compiled kernels it works as well, and says that it is slow.
WARNINGS = ('-W', 'error', '-W', 'ignore:Sparse layers run without compiled')
ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'deployment.md').read_text(encoding='utf-8')


def call(source, folder, requests=''):
  done = subprocess.run(
    [sys.executable, *WARNINGS, '-c', source],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    input=requests,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_a_fresh_process_answers_requests(tmp_path):
  if reason := _compile.supported():
    pytest.skip(reason)
  writer, server = re.findall(r'```py\n(.*?)```', PAGE, re.DOTALL)
  assert len(server.strip().splitlines()) <= 11
  call(writer, tmp_path)
  x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
  lines = [' '.join(map(repr, row.tolist())) for row in x]
  answers = call(server, tmp_path, '\n'.join(lines) + '\n').split()
  params, _ = lth.deploy.load(tmp_path / 'ticket.safetensors')
  first, last = (np.asarray(params[x]['kernel']) for x in ('hidden', 'output'))
  logits = np.maximum(x @ first, 0) @ last
  assert [int(answer) for answer in answers] == logits.argmax(1).tolist()
