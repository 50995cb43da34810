"""What a person sees while something lasts: a bar and the time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar

WIDTH = 100


class _TimeBar(ProgressColumn):
    """How much of a step's known time has passed; moving to and fro where it is not known."""

    def render(self, task: Task) -> ProgressBar:
        return ProgressBar(
            total=task.total,
            completed=min(task.elapsed or 0.0, task.total or 0.0),
            width=30,
            pulse=task.total is None,
            animation_time=task.get_time(),
        )


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Say of what writes its results at its end, if it is interrupted, that there are none."""
    try:
        yield
    except KeyboardInterrupt:
        print("farthing: interrupted; nothing was written", file=sys.stderr)
        raise


@contextmanager
def shown(
    what: str, seconds: float | None = None, *, drawn_per_s: float = 10
) -> Iterator[Callable[[str], None]]:
    """A bar with the time elapsed while a step lasts; a line when it is done.

    On standard error, so that standard output is the result alone; and only where someone looks,
    since programs find one sentence there if something is wrong.

    Args:
        what: is being done.
        seconds: that it will take, where that is known.
        drawn_per_s: how often; drawing takes CPU from what is being measured.

    Yields:
        What takes another text while the step goes on.
    """
    console = Console(stderr=True, width=WIDTH)
    columns = (TextColumn("  {task.description}"), _TimeBar(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, refresh_per_second=drawn_per_s, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=seconds)
        yield lambda text: progress.update(task, description=text)
        progress.update(task, description=what, total=progress.tasks[0].elapsed or 1.0)
