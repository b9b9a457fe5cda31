"""`tiltserve trace`: where the time of one request goes."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.connection import connected
from deploy.commands.sample import arguments
from deploy.commands.values import named
from deploy.console import fail

if TYPE_CHECKING:
    from tiltserve import Client

WIDTH = 40
"""Characters of the longest bar."""


@connected()
def trace(
    client: "Client",
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The sampler's name, such as digits.")],
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="How many to draw.")] = 1,
    reward: Annotated[str | None, typer.Option(help="What to steer toward, as `tiltserve sample` takes it.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=VALUE", help="Any parameter of the request: steps=50; repeat."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a picture.")] = False,
) -> None:
    """Draw samples from MODEL, and show how long the request waited and what each part of it took.

    Arguments of the reward are given as --reward-NAME VALUE.
    """
    given = dict(named("--parameter", text) for text in parameter or [])
    drawn = client.sample(
        model, samples, reward=reward, reward_args=arguments(ctx.meta["rewards"]), parameters=given, timing=True
    )
    if not drawn.times:
        fail(f"expected the times of the request, got none: the server at {client.address.target} tells none", code=1)
    if as_json:
        times = {name: {"ms": each.milliseconds, "rows": each.rows} for name, each in drawn.times.items()}
        print(json.dumps({"seconds": drawn.seconds, "seed": drawn.seed, "times": times}, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("part", "ms", "", "rows"):
        table.add_column(column, justify="left" if column in ("part", "") else "right")
    whole = max(1e3 * drawn.seconds, 1e-9)
    for name, each in drawn.times.items():
        bar = "█" * round(WIDTH * min(1.0, each.milliseconds / whole))
        table.add_row(name, f"{each.milliseconds:.1f}", bar, "" if each.rows is None else str(each.rows))
    table.add_row("client", f"{whole:.1f}", "█" * WIDTH, "")
    Console(highlight=False, markup=False).print(table)
