"""What `tiltserve import` makes of every class: tiny random folders, their graphs' nodes, worst errors and seconds.

    make bench ARGS="import_matrix"
    make bench ARGS="import_matrix --only flux --only dit"
    make bench ARGS="import_matrix --only dit --opset 23"

Folders are made here by the real classes (`save_pretrained`), nothing is downloaded. Every graph is then opened as a
server does, which tries whether its rows depend on each other; `rows` is "independent" where they do not. `ms` is
what a row takes on one thread, in calls of eight rows at most.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import onnx
import torch
import typer
from rich.console import Console
from rich.table import Table

from exporters import export
from exporters.diffusers.source import read
from exporters.diffusers.writing import Import, Wishes, Written, prepare
from serving.backends import Backend, LoadError
from serving.backends.costs import Costs
from serving.backends.made_up import MadeUp
from serving.backends.opening import Opener
from serving.backends.profiling import measured
from serving.models.folders import Folder
from serving.models.repository import load
from tests import tiny_diffusers as tiny

FOLDERS: dict[str, dict[str, Any]] = {
    "ddpm": {}, "labelled": {}, "ncsnpp": {}, "consistency": {}, "sound": {}, "stable_diffusion": {},
    "stable_diffusion_2": {}, "stable_diffusion_xl": {}, "inpainting": {}, "lcm": {}, "dit": {},
    "pixart": {"tokens": tiny.T5_LENGTH}, "sana": {"tokens": tiny.T5_LENGTH}, "stable_diffusion_3": {},
    "flux": {"size": (16,), "tokens": tiny.T5_LENGTH}, "taesd": {},
}  # fmt: skip
"""Makers of folders in `tests/tiny_diffusers.py`, and what their import is asked for."""


MOST = 8
"""Rows of a call."""


class _Silent:
    def begin(self, name: str) -> None:
        pass

    def done(self, written: Written) -> None:
        pass


def main(
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Of these folders. [all]")] = None,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.")] = export.OPSET,
) -> None:
    """Import each folder and print a table."""
    torch.set_num_threads(1)
    export.OPSET = opset
    table = Table("folder", "part", "what", "nodes", "worst error", "seconds", "ms", "rows")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in only or FOLDERS:
            folder = root / name
            getattr(tiny, name)().save_pretrained(str(folder))
            plan = prepare(read(folder), name, Wishes(**FOLDERS[name]))
            for each in plan.write(root / "models", _Silent()):
                table.add_row(*_told(root / "models", plan, each))
    Console(width=160).print(table)


def _measured(backend: Backend, graph: str, made_up: MadeUp | None) -> Costs:
    return measured(backend, MOST, made_up)


def _told(models: Path, plan: Import, written: Written) -> list[str]:
    graph = onnx.load(models / written.name / "1" / "model.onnx").graph
    part = written.name.removeprefix(plan.name).lstrip(".") or "-"
    try:
        network = load(Folder(written.name, "1", models / written.name), Opener(1), _measured).network
        found, ms = network.caution, f"{1000 * network.costs.row_s:.2g}"
    except LoadError as error:
        found, ms = str(error), "-"
    cells = [plan.name, part, written.what, str(len(graph.node)), f"{written.error:.1e}", f"{written.seconds:.1f}", ms]
    return [*cells, found or "independent"]


if __name__ == "__main__":
    typer.run(main)
