"""A bar that grows with the stages of a run, where rich is installed."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tiltserve.answers import Preview
from tiltserve.tensors import Parameter

CHEAP: Mapping[str, Parameter] = {"preview_every": 1, "preview_dtype": "uint8", "preview_size": 1}
"""Previews of which only the stage is looked at."""


class Bar(Protocol):
    def __call__(self, preview: Preview) -> None: ...


@contextlib.contextmanager
def bar(title: str, shown: bool) -> Iterator[Bar]:
    """Shows each preview that it is given; nothing without rich, or where it is not to be shown."""
    try:
        if not shown:
            raise ImportError
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda preview: None
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda preview: progress.update(task, completed=preview.stage, total=preview.stages)
        progress.update(task, completed=1, total=1)
