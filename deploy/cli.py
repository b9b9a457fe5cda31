"""The command line `tiltserve`: exit code 0 done, 1 the server refused or failed, 2 bad input; an error is one line."""

import io
import sys
from typing import Annotated

import typer

from deploy.commands.bench import bench
from deploy.commands.diagnose import diagnose
from deploy.commands.export import export
from deploy.commands.fit import fit
from deploy.commands.import_ import import_
from deploy.commands.models import models
from deploy.commands.parts import directory, front
from deploy.commands.repository import load, unload
from deploy.commands.sample import RewardOptions, sample
from deploy.commands.score import score
from deploy.commands.search_plan import search_plan
from deploy.commands.serve import serve
from deploy.commands.solve import solve
from deploy.commands.solvers import solvers
from deploy.commands.stats import stats
from deploy.commands.token import token
from deploy.commands.top import top
from deploy.commands.trace import trace
from deploy.console import OneLineErrors

app = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def tiltserve(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Serve diffusion and flow models over gRPC, and steer their samples toward any reward."""
    if version:
        from importlib.metadata import version as installed

        print("tiltserve", installed("tiltserve"))
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


app.command()(serve)
app.command()(front)
app.command()(directory)
app.command()(export)
app.command("import")(import_)
app.command(cls=RewardOptions)(sample)
app.command()(solve)
app.command()(score)
app.command()(fit)
app.command()(models)
app.command()(stats)
app.command()(load)
app.command()(unload)
app.command()(top)
app.command(cls=RewardOptions)(trace)
app.command()(solvers)
app.command()(token)
app.command()(diagnose)
app.command()(search_plan)
app.command(context_settings={"allow_interspersed_args": False})(bench)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have letters that the terminal's encoding lacks
    app(prog_name="tiltserve")
