"""`tiltserve solve`: trajectories of a served model of dynamics, into a file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.connection import connected
from deploy.commands.values import named
from deploy.console import fail

if TYPE_CHECKING:
    from tiltserve import Client, Trajectories

MOST_TIMES = 2**20


@connected()
def solve(
    client: "Client",
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of dynamics.")],
    times: Annotated[
        str,
        typer.Argument(metavar="TIMES", help="FIRST:LAST:COUNT, or numbers with commas, or a .npy file [T] or [n, T]."),
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--y0", metavar="NUMBERS|FILE", help="First states: '1,-2' or '1,-2;0.5,3' of vectors, or a .npy file."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=NUMBERS|FILE", help="A condition, or an encoder's input; repeat."),
    ] = None,
    solver: Annotated[str | None, typer.Option(help="tsit5, dopri5, rk4, esdirk4, ... [the card's]")] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance of a step.")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance of a step.")] = None,
    dt: Annotated[float | None, typer.Option(help="Longest step of a solver with fixed steps.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", "-n", min=1, help="Trajectories from one state.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of noise: the same seed gives the same bytes.")] = None,
    reward: Annotated[str | None, typer.Option(help="Scores where each trajectory came to.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "--option", metavar="NAME=VALUE", help="Any other: max_steps=50; repeat."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help=".npz with every output, or .csv of the states.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Solve MODEL at TIMES from first states. A trajectory that fails is named, and leaves the others alone."""
    if out is not None and out.suffix not in (".npz", ".csv"):
        fail(f"--out: expected a file .npz or .csv, got {out}")
    given = dict(named("--parameter", text) for text in parameter or [])
    found = client.solve(
        model,
        None if start is None else _states("--y0", start),
        _times(times),
        conditions=dict(_input(text) for text in inputs or []),
        parameters=given,
        solver=solver,
        rtol=rtol,
        atol=atol,
        dt=dt,
        samples=samples,
        seed=seed,
        reward=reward,
    )
    if out is not None:
        _write(found, out)
    _show(found, as_json=as_json)


def _show(found: "Trajectories", *, as_json: bool) -> None:
    """What came of it, in short."""
    from collections import Counter

    statuses = Counter(found.statuses)
    if as_json:
        said: dict[str, Any] = {
            "trajectories": len(found), "times": int(found.t.shape[-1]), "status": found.statuses,
            "solver": found.solver, "network_rows": found.network_rows, "seed": found.seed,
            "fingerprint": found.fingerprint, "warnings": found.warnings,
        }  # fmt: skip
        if found.rewards is not None:
            said["rewards"] = [None if each != each else each for each in found.rewards.tolist()]
        print(json.dumps(said))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("trajectories", f"{len(found)} at {found.t.shape[-1]} times")
    table.add_row("status", ", ".join(f"{count} {name}" for name, count in statuses.items()))
    table.add_row("solver", f"{found.solver}, {found.network_rows} network rows")
    table.add_row("seed", str(found.seed))
    for warning in found.warnings:
        table.add_row("warning", warning)
    Console(highlight=False, markup=False).print(table)


def _write(found: "Trajectories", file: Path) -> None:
    """Every output as .npz, or states as .csv: trajectory, time, and the numbers of the state."""
    import numpy as np

    try:
        if file.suffix == ".npz":
            np.savez(file, t=found.t, **found.outputs)  # type: ignore[arg-type]
            return
        y = np.asarray(found)
        n, times = y.shape[:2]
        t = np.broadcast_to(found.t, (n, times))
        rows = np.column_stack([np.repeat(np.arange(n), times), t.reshape(-1), y.reshape(n * times, -1)])
        names = ["trajectory", "t", *(f"y{i}" for i in range(rows.shape[1] - 2))]
        np.savetxt(file, rows, "%.17g", ",", header=",".join(names), comments="")
    except OSError as error:
        fail(f"{file}: expected a file that can be written, got: {error.strerror}")


def _times(text: str) -> Any:
    """The times that a text says."""
    import numpy as np

    if text.count(":") == 2:
        try:
            first, last, count = (kind(part) for kind, part in zip((float, float, int), text.split(":"), strict=True))
        except ValueError:
            fail(f"TIMES: expected FIRST:LAST:COUNT, got {text!r}")
        if not 1 <= count <= MOST_TIMES:
            fail(f"TIMES: expected a count in 1..{MOST_TIMES}, got {count}")
        return np.linspace(first, last, int(count))
    return _numbers("TIMES", text)


def _states(option: str, text: str) -> Any:
    """First states [n, ...]: lists with semicolons between them, or a file."""
    import numpy as np

    if text.endswith(".npy"):
        return _numbers(option, text)
    rows = [_numbers(option, each) for each in text.split(";")]
    if len({len(row) for row in rows}) > 1:
        fail(f"{option}: expected states of one length, got {', '.join(str(len(row)) for row in rows)} numbers")
    return np.stack(rows)


def _input(text: str) -> tuple[str, Any]:
    """`rate=2` or `rate=file.npy`, or `x=1,2;3,4` as an input."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        fail(f"--input: expected NAME=NUMBERS or NAME=FILE, got {text!r}")
    option = f"--input {name}"
    return name, _states(option, value) if ";" in value else _numbers(option, value)


def _numbers(option: str, text: str) -> Any:
    """Numbers with commas between them, or an array of a file."""
    import numpy as np

    if text.endswith(".npy"):
        try:
            return np.load(text, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            fail(f"{option}: {text}: expected a .npy file, got: {reason}")
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError:
        fail(f"{option}: expected numbers with commas between them, or a .npy file, got {text!r}")
