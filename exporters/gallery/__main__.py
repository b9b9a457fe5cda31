"""`python -m exporters.gallery --out DIR [NAME ...]`: build the gallery's models; `--check` holds them to their proofs.

Everything is seeded and runs on one core.
"""

import logging
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from exporters.gallery.picture import draw
from exporters.gallery.table import RECIPES


def main(
    names: Annotated[list[str] | None, typer.Argument(help="recipes [default: all]")] = None,
    out: Annotated[Path, typer.Option("--out", help="model repository")] = Path("deploy/gallery_models"),
    check: Annotated[bool, typer.Option("--check", help="build nothing, measure what is there")] = False,
    effort: Annotated[float, typer.Option("--effort", min=0, max=1, help="share of the training's batches")] = 1.0,
    picture: Annotated[Path | None, typer.Option("--picture", help="only draw six models into a file")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="only the recipes that train nothing")] = False,
) -> None:
    """Build the gallery's models, or check them; the status is 1 if a figure does not hold."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("exporters").setLevel(logging.INFO)
    torch.set_num_threads(1)
    unknown = [name for name in names or () if name not in RECIPES]
    if unknown:
        raise typer.BadParameter(f"expected some of {', '.join(RECIPES)}, got {', '.join(unknown)}")
    if picture is not None:
        draw(out, picture)
        return
    failed = 0
    for recipe in RECIPES.values():
        if (names and recipe.name not in names) or (untrained and recipe.trained):
            continue
        start = time.monotonic()
        if check:
            figures = recipe.check(out) + (recipe.judge(out) if recipe.judge is not None else [])
            failed += sum(not figure.holds for figure in figures)
        else:
            recipe.build(out, effort)
            figures = []
        typer.echo(f"{recipe.name}: {time.monotonic() - start:.1f} s")
        for figure in figures:
            typer.echo(f"  {figure}")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
