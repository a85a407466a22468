"""A progress bar over all training steps of a command, and lines above it."""

import rich.console
import rich.markup  # before others watch what is imported
import rich.progress


class Progress:
  """A bar over all training steps; prints text as it is, never as markup."""

  def __init__(self, steps: int):
    self.console = rich.console.Console(
      markup=False, emoji=False, highlight=False
    )
    self._done = 0
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn('{task.description}', markup=False),
      rich.progress.BarColumn(bar_width=None),
      rich.progress.TimeElapsedColumn(),
      rich.progress.TextColumn('/', markup=False),
      rich.progress.TimeRemainingColumn(),
      console=self.console,
    )
    self._task = self._bar.add_task('reading data', total=steps)

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *error):
    self._bar.stop()

  def say(self, text: str, style: str | None = None) -> None:
    """Prints a line above the bar."""
    self._bar.console.print(text, style=style, soft_wrap=True)

  def advance(self, step: int, text: str) -> None:
    """Shows the step that the current training has reached."""
    self._bar.update(self._task, completed=self._done + step, description=text)

  def done(self, steps: int, text: str | None = None) -> None:
    """Counts finished trainings of so many steps in total."""
    self._done += steps
    self._bar.update(self._task, completed=self._done)
    if text is not None:
      self._bar.update(self._task, description=text)
