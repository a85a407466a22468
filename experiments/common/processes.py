"""Options of programs that run in several processes at once."""

import dataclasses
from pathlib import Path

import jax

from lthjax import runs

SECONDS = 60  # until a coordinator that nobody reaches is given up


@dataclasses.dataclass(frozen=True)
class Processes:
  """Which processes work together, and where all of them write."""

  distributed: bool = dataclasses.field(default=False, compare=False)
  """Whether there are several processes: one per host, or per GPU."""
  coordinator: str | None = dataclasses.field(default=None, compare=False)
  """Where process 0 listens, such as 10.0.0.2:1234; None: ask the scheduler."""
  processes: int | None = dataclasses.field(default=None, compare=False)
  """How many there are; None: ask the scheduler."""
  process: int | None = dataclasses.field(default=None, compare=False)
  """Which one this is; None: ask the scheduler."""
  stopped_code: int = dataclasses.field(default=0, compare=False)
  """Exit code after SIGTERM, for schedulers that take 0 for the end."""
  output: Path = dataclasses.field(default=Path('runs'), compare=False)
  """Folder that holds the folders of all runs, and that all hosts see."""

  def connect(self) -> None:
    """Finds the others, before anything touches a device."""
    if self.distributed:
      place = self.coordinator, self.processes, self.process
      runs.connect(*place, timeout=SECONDS)


def say(text: str) -> None:
  """Prints a line, in the first process."""
  if jax.process_index() == 0:
    print(text, flush=True)
