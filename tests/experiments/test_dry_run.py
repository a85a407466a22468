"""Steps compiled for devices that are not there."""

import re

import pytest

import dry_run
from methods import collectives

MODULE = """
HloModule step, is_scheduled=true

%body (p: (s32[], s32[])) -> (s32[], s32[]) {
  %all-reduce.1 = s32[] all-reduce(%x), replica_groups={}, to_apply=%add
  %all-reduce.2 = (s32[4,2]{1,0}, pred[3]{0}) all-reduce(%x, %y), channel_id=1
  ROOT %t = (s32[], s32[]) tuple(%all-reduce.1, %z)
}

ENTRY %main (w: f32[8,4]) -> bf16[16,4] {
  %w = f32[8,4]{1,0} parameter(0), metadata={op_name="all-gather(w)"}
  %g = bf16[16,4]{1,0} all-gather-start(%w), dimensions={0}
  ROOT %d = bf16[16,4]{1,0} all-gather-done(%g)
}
"""


def test_messages_by_hand():
  assert collectives.count(MODULE) == {
    'all-reduce': (2, 4 + 4 * 8 + 3),
    'all-gather': (1, 2 * 64),
  }
  assert collectives.count('ENTRY %main { %w = f32[] add(%x, %y) }') == {}


DRY = """
import sys
sys.path.insert(0, 'experiments')
import dry_run
config = dry_run.Config('tiny', 'cpu:4', ('static', 'rigl'))
for row in dry_run.table(config).rows:
  print(*row, sep='|')
"""


@pytest.mark.slow
def test_a_move_sends_counts_only(run_python):
  """On four devices; nothing but sums, of a few numbers."""
  rows = [x.split('|') for x in run_python(DRY).splitlines()]
  assert [row[3] for row in rows] == ['AdamW', 'static', 'rigl']
  for row in rows:
    assert set(re.findall('[a-z-]+', row[7])) <= {'all-reduce', '-'}
    assert float(row[6]) <= (1.25 if row[3] != 'rigl' else 2)  # small arrays
  assert rows[0][7] == rows[1][7] == '-'


def test_topologies_that_are_none():
  message = '--topology cpu:none is neither cpu:N nor a TPU slice'
  with pytest.raises(ValueError, match=message):
    dry_run.devices('cpu:none')
