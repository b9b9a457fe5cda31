"""A bar that grows with the stages of a run, where rich is installed."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from tiltserve.answers import Shown


class Bar(Protocol):
    def __call__(self, shown: Shown) -> None: ...


@contextlib.contextmanager
def bar(title: str, n: int, shown: bool) -> Iterator[Bar]:
    """Grows with each preview of n samples that it is given; nothing without rich, or where it is not to be shown."""
    try:
        if not shown:
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda shown: None
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=n)

        def grow(shown: Shown) -> None:
            share = shown.stage / shown.stages if shown.stages else 1.0
            progress.update(task, completed=shown.first + share * len(shown.denoised))

        yield grow
        progress.update(task, completed=n)
