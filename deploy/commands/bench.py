"""`tiltserve bench`: run the checkout's benchmarks by name."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.console import fail
from protos.complaint import unknown

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def bench(
    name: Annotated[str | None, typer.Argument(help="Which one; none lists them.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to it.")] = None,
) -> None:
    """Run a benchmark, or list them: each is one script for one performance claim."""
    scripts = {file.stem: file for file in sorted(FOLDER.glob("*.py")) if not file.stem.startswith("_")}
    if name is None:
        for each, file in scripts.items():
            print(f"{each:24} {_headline(file)}")
        if not scripts:
            print(f"no benchmarks in {FOLDER}")
        return
    if name not in scripts:
        fail(unknown("benchmark", name, scripts) if scripts else f"expected benchmarks in {FOLDER}, got none")
    # as a module, from the root: scripts share parts, and one may be called what it measures
    command = [sys.executable, "-m", f"{FOLDER.name}.{name}", *(arguments or [])]
    raise typer.Exit(subprocess.run(command, check=False, cwd=FOLDER.parent).returncode)


def _headline(file: Path) -> str:
    """The first line of a script's docstring."""
    import ast

    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
