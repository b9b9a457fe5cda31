"""`tiltserve score`: what a served reward makes of samples in a file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.connection import connected
from deploy.commands.values import named
from deploy.console import fail

if TYPE_CHECKING:
    from tiltserve import Client


@connected()
def score(
    client: "Client",
    reward: Annotated[str, typer.Argument(metavar="REWARD", help="A served network, such as classifier.")],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help=".npy, or .npz with an array samples, as `tiltserve sample -o` writes it."),
    ],
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", "-a", metavar="NAME=VALUE", help="An argument of the reward: label=7; repeat."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of numbers instead of a table.")] = False,
) -> None:
    """Score the samples in FILE with REWARD."""
    x = _samples(file)
    scores = client.score(reward, x, reward_args=dict(named("--argument", text) for text in argument or []))
    if as_json:
        print(json.dumps(scores.tolist()))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("samples", f"{len(x)} of shape {list(x.shape[1:])}")
    for name in ("mean", "min", "max"):
        table.add_row(name, f"{getattr(scores, name)():.4g}")
    Console(highlight=False, markup=False).print(table)


def _samples(file: Path) -> Any:
    """The array in the file, [n, ...]."""
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            if "samples" not in found:
                fail(f"{file}: expected an array samples, got {', '.join(found) or 'none'}")
            found = found["samples"]
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        fail(f"{file}: expected a .npy or .npz file, got: {reason}")
    if not found.ndim or not len(found):
        fail(f"{file}: expected samples [n, ...], got an array of shape {list(found.shape)}")
    return found
