"""The Python of the README and of the guide runs as it stands."""

import pathlib
import re

import pytest
from helpers import outputs_of

from lthjax.deploy import _compile

ROOT = pathlib.Path(__file__).parents[1]


def blocks(page):
  return re.findall(
    r'```python\n(.*?)```', (ROOT / page).read_text(), re.DOTALL
  )


MASKS, SPARSE, TICKET, FASTER = blocks('README.md')
NNX, AT_INIT, SEVERAL, REPORT, ADAPT = blocks('docs/guide.md')
NNX_MODEL = """
import optax
from flax import nnx
import lthjax as lth
model = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
"""


def shorter(block):
  """The same with fewer steps, which changes no number that is tested."""
  assert block.count('until=300') == 1
  return block.replace('until=300', 'until=40')


def test_readme(run_python):
  blocks = [MASKS, SPARSE, shorter(TICKET)]
  if _compile.supported() is None:
    blocks.append(FASTER)
  check_readme(*outputs_of(blocks, run_python))


@pytest.mark.slow
def test_guide(run_python, tmp_path):
  count = '\nprint(lth.masks.count(lth.get_masks(optimizer.opt_state)))'
  guide = [
    NNX_MODEL + NNX + count,
    AT_INIT,
    shorter(SEVERAL),
    REPORT.replace('runs/', f'{tmp_path}/'),
    ADAPT.replace('task.safetensors', f'{tmp_path}/task.safetensors'),
  ]
  check_guide(tmp_path, *outputs_of(guide, run_python))


def check_readme(table, moving, ticket, *faster):
  assert table[-1].split() == ['total', '32', '8', '25.00', '%']

  count, loss = moving[-1].split()
  assert int(count) == 205
  # With static masks the loss is 55; the target has variance 64.
  assert float(loss) < 40

  counts = [line.split()[2] for line in ticket]
  assert counts == ['50200', '40160', '32128', '25702']

  for lines in faster:  # Where kernels can be compiled.
    assert lines[0].startswith('on disk: 2,097,152 bytes dense')
    assert lines[-1].startswith('one call: ')


def check_guide(folder, nnx, at_init, several, report, adapt):
  assert nnx == ['64']

  (line,) = at_init
  snip, synflow = (
    [int(x) for x in re.findall(r': (\d+)', part)] for part in line.split('} {')
  )
  assert sum(snip) == sum(synflow) == 2510
  assert snip != synflow

  densities = [float(line.split()[1]) for line in several]
  assert densities == pytest.approx([1, 0.8, 0.64, 0.512], abs=1e-4)

  assert report[0] == '502 of 50,200 weights alive: 1.00 %.'
  # By chance 192 * 192 / 19,200, and so on.
  observed, *_, expected = report[-1].split()
  assert int(observed) < 15
  assert float(expected) == pytest.approx(1.92 + 3 + 0.1)
  page = (folder / 'capacity.html').read_text()
  assert '502 of 50,200 weights alive' in page

  assert adapt == ['128 True']
