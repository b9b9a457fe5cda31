"""`tiltserve fit`: conditions of served dynamics from observed trajectories, by least squares."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.connection import connected
from deploy.commands.values import named
from deploy.console import fail

if TYPE_CHECKING:
    from tiltserve import Client

SHARES: Mapping[str, float] = {"FP64": 1e-3, "FP32": 1e-2}
"""The part of a parameter that its column moves it by, by the model's datatype. Copies of a trajectory choose steps of
their own here, whose errors the move must exceed; near the optimum that costs iterations, and no accuracy."""
MOST_TRAJECTORIES = 2**16

Pairs = list[str]


@connected()
def fit(
    client: "Client",
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of dynamics.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help=".npz: y0 [n, *state], t_eval [T] or [n, T], y [n, T, *state] with NaN where nothing was seen, sigma "
            "if observations differ in it, and other conditions by name.",
        ),
    ],
    parameter: Annotated[
        Pairs,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="A condition to fit, and where to begin: k=0.5 or k=1,2,3; repeat.",
        ),
    ],
    lower: Annotated[Pairs | None, typer.Option(metavar="NAME=VALUE", help="Its least value; repeat.")] = None,
    upper: Annotated[Pairs | None, typer.Option(metavar="NAME=VALUE", help="Its greatest value; repeat.")] = None,
    with_: Annotated[
        Pairs | None,
        typer.Option(
            "--with",
            "-w",
            metavar="NAME=VALUE",
            help="A condition or a parameter of the requests: solver=esdirk4; repeat.",
        ),
    ] = None,
    rtol: Annotated[float, typer.Option(help="Tolerance of the trajectories.")] = 1e-7,
    tolerance: Annotated[
        float, typer.Option(help="Ends when a step changes no parameter by more than this part.")
    ] = 1e-6,
    iterations: Annotated[int, typer.Option(min=1, help="Requests at most.")] = 50,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help=".npz of what fits, its deviations, and y.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Fit conditions of MODEL to the trajectories in FILE: Levenberg-Marquardt, a request an iteration."""
    import numpy as np

    from steering.dynamics.fit import least_squares
    from steering.errors import PlanError
    from steering.sampling.rows import answered

    data = _data(file)
    start = {name: _numbers("--parameter", name, text) for name, text in map(_pair("--parameter"), parameter)}
    bounds = [_bounds(option, given, start) for option, given in (("--lower", lower), ("--upper", upper))]
    more: dict[str, Any] = dict(named("--with", text) for text in with_ or [])
    for name in ("y0", "t_eval", "y", "sigma", "rtol", *data):
        if name in start:
            fail(f"--parameter: expected a condition that {file} does not have, got {name!r}")
    y0, times, seen, sigma = (data.pop(name, None) for name in ("y0", "t_eval", "y", "sigma"))
    assert y0 is not None
    assert seen is not None
    assert times is not None
    n, known = len(y0), np.isfinite(seen)
    sizes = [value.size for value in start.values()]
    copies = 1 + sum(sizes)
    if n * copies > MOST_TRAJECTORIES:
        fail(f"{file}: expected at most {MOST_TRAJECTORIES // copies} trajectories beside so many parameters, got {n}")
    deviation = np.broadcast_to(1.0 if sigma is None else sigma, seen.shape)
    if not known.any() or not (deviation[known] > 0).all():
        fail(f"{file}: expected an observation at least, and sigma above 0")
    rows, last = [0], [seen]

    def residuals(trial: Any) -> Any:
        conditions = {
            name: np.concatenate([each] * copies) if len(each) == n > 1 else each for name, each in data.items()
        }
        places = np.cumsum([0, *sizes])
        for (name, value), begin, end in zip(start.items(), places, places[1:], strict=False):
            column = trial[:, begin:end].reshape(copies, *value.shape)
            conditions[name] = np.repeat(column, n, axis=0)
        found = client.solve(
            model, np.concatenate([y0] * copies), times if times.ndim == 1 else np.concatenate([times] * copies),
            conditions=conditions, rtol=rtol, **more,
        )  # fmt: skip
        rows[0] += found.network_rows
        y = np.asarray(found, dtype=np.float64).reshape(copies, n, *seen.shape[1:])
        last[0] = y[0]
        return ((y - seen) / deviation)[:, known]

    kind = next((each.datatype for each in client.metadata(model).outputs if each.name == "y"), "FP32")
    try:
        fitted = answered(
            least_squares(
                np.concatenate([value.ravel() for value in start.values()]), lower=bounds[0], upper=bounds[1],
                share=SHARES.get(kind, max(SHARES.values())), tolerance=tolerance, max_iterations=iterations,
            ),
            residuals,
        )  # fmt: skip
    except PlanError as error:
        fail(str(error))
    ends = np.cumsum(sizes)[:-1]
    shapes = [value.shape for value in start.values()]
    values, deviations = (
        {
            name: part.reshape(shape)
            for name, part, shape in zip(start, np.split(whole.numpy(), ends), shapes, strict=True)
        }
        for whole in (fitted.parameters, fitted.deviations)
    )
    if output is not None:
        arrays = {**values, **{f"{name}_deviation": each for name, each in deviations.items()}, "y": last[0]}
        np.savez(output, **arrays)
    said = {
        "parameters": {name: each.tolist() for name, each in values.items()},
        "deviations": {name: _plain(each) for name, each in deviations.items()},
        "cost": [fitted.cost[0], fitted.cost[-1]],
        "converged": fitted.converged,
        "iterations": fitted.iterations,
        "network_rows": rows[0],
    }
    if as_json:
        print(json.dumps(said))
        return
    _show(values, deviations, said)


def _show(values: Mapping[str, Any], deviations: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("parameter", "value", "deviation"):
        table.add_column(column)
    for name, value in values.items():
        for place, (each, spread) in enumerate(zip(value.ravel(), deviations[name].ravel(), strict=True)):
            label = name if not value.ndim else f"{name}[{place}]"
            table.add_row(label, f"{each:.6g}", f"{spread:.2g}" if math.isfinite(spread) else "not told by the data")
    console = Console(highlight=False, markup=False)
    console.print(table)
    ended = "converged" if said["converged"] else "not converged"
    first, last = said["cost"]
    console.print(
        f"{ended} after {said['iterations']} requests, {said['network_rows']} rows; half the sum of squares "
        f"{first:.4g} -> {last:.4g}"
    )


def _plain(deviations: Any) -> Any:
    """As JSON has it: null for what the data do not tell."""
    whole = [each if math.isfinite(each) else None for each in deviations.ravel().tolist()]
    return whole if deviations.ndim else whole[0]


def _data(file: Path) -> dict[str, Any]:
    """The arrays of the file, those that are needed among them."""
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as found:
            data = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        fail(f"{file}: expected a .npz file, got: {reason}")
    for name in ("y0", "t_eval", "y"):
        if name not in data:
            fail(f"{file}: expected an array {name}, got {', '.join(data) or 'none'}")
        if data[name].dtype.kind not in "fiu":
            fail(f"{file}: {name}: expected numbers, got {data[name].dtype}")
        data[name] = data[name].astype(np.float64)
    y0, times, seen = data["y0"], data["t_eval"], data["y"]
    if (
        not y0.ndim
        or not len(y0)
        or times.ndim not in (1, 2)
        or seen.shape != (len(y0), times.shape[-1], *y0.shape[1:])
    ):
        fail(
            f"{file}: expected y [n, T, *state] beside y0 [n, *state] and t_eval [T] or [n, T], "
            f"got {list(seen.shape)}, {list(y0.shape)} and {list(times.shape)}"
        )
    if "sigma" in data:
        try:
            np.broadcast_to(data["sigma"], seen.shape)
        except ValueError:
            fail(f"{file}: sigma: expected a shape that is broadcast to y's, got {list(data['sigma'].shape)}")
    return data


def _pair(option: str) -> Any:
    def split(text: str) -> tuple[str, str]:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            fail(f"{option}: expected NAME=VALUE, got {text!r}")
        return name, value

    return split


def _numbers(option: str, name: str, text: str) -> Any:
    """One number as an array without axes, several that commas part as [k]."""
    import numpy as np

    try:
        parts = [float(each) for each in text.split(",")]
    except ValueError:
        fail(f"{option}: expected numbers for {name!r}, got {text!r}")
    return np.array(parts if len(parts) > 1 else parts[0])


def _bounds(option: str, given: Pairs | None, start: Mapping[str, Any]) -> Any:
    """A bound for each parameter, infinite where none was given; None where none was at all."""
    import numpy as np

    if not given:
        return None
    said = {name: _numbers(option, name, text) for name, text in map(_pair(option), given)}
    for name in said:
        if name not in start:
            fail(f"{option}: expected one of {', '.join(start)}, got {name!r}")
    nowhere = -math.inf if option == "--lower" else math.inf
    try:
        return np.concatenate(
            [np.broadcast_to(said.get(name, nowhere), each.shape).ravel() for name, each in start.items()]
        )
    except ValueError:
        fail(f"{option}: expected as many numbers as --parameter has")
