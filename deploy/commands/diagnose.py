"""`tiltserve diagnose`: how good a model's score is, by questions to the model alone."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import Trust, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from deploy.diagnosis import Diagnosis, LevelDiagnosis
    from serving.models.model import Sampler

ROWS = 30_000


def diagnose(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The sampler's name, such as digits.")],
    models: Annotated[Path, typer.Option(metavar="DIR", help="The model repository.")] = Path("deploy/models"),
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Network rows to spend at most.")] = ROWS,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same report.")] = 0,
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What the samples are asked for; else the card's null value."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="For report.json and diagnosis.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    trust: Trust = None,
) -> None:
    """Diagnose the score of MODEL: consistency between noise levels, rotation, dimension, straightness, energy.

    Runs the exported network in this process; no server is asked. All figures are about the model's own samples.
    """
    if out is not None:
        _check(out)

    from rich.console import Console

    from deploy.diagnosis import Shares
    from deploy.diagnosis import diagnose as examine
    from serving.backends import LoadError
    from serving.models.offline import open_sampler
    from steering import NetworkError

    try:
        sampler = open_sampler(models, model, trust=trust or ())
    except LoadError as error:
        fail(str(error))
    conditions = _conditions(sampler, condition or [])
    try:
        shares = Shares.of(rows, math.prod(sampler.card.event_shape))
    except ValueError as error:
        fail(f"--rows: {error}")
    try:
        with Console(stderr=True).status("") as status:
            found = examine(sampler, conditions, shares, seed, tell=status.update)
    except (NetworkError, ValueError) as error:
        fail(str(error), code=1 if isinstance(error, NetworkError) else 2)
    if out is not None:
        _write(found, out)
    if as_json:
        print(json.dumps(found.report(), indent=2))
    else:
        _show(found, out)


def _check(out: Path) -> None:
    """What can be wrong with the folder, before minutes are spent."""
    if find_spec("matplotlib") is None:
        fail("--out: its plots need matplotlib, which is not installed; without --out or with --json nothing else does")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out: expected a folder that can be made, got {str(out)!r} ({error.strerror})")


def _conditions(sampler: "Sampler", given: list[str]) -> "dict[str, Tensor]":
    """Tensors [1, ...] by name: what is given as NAME=VALUE or NAME=A,B,..., and null values for the others."""
    import numpy as np
    import torch

    specs = sampler.card.conditions
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in specs:
            known = f"with one of {', '.join(specs)}" if specs else "of which the model has none"
            fail(f"--condition: expected NAME=VALUE {known}, got {text!r}")
        values[name] = value.split(",")
    tensors = dict[str, torch.Tensor]()
    for name, spec in specs.items():
        if name in values:
            try:
                content = np.asarray(values[name]).astype(spec.dtype).reshape(1, *spec.shape)
            except ValueError:
                fail(f"--condition: {name}: expected {spec.dtype} {list(spec.shape)}, got {','.join(values[name])!r}")
        elif (null := spec.null_rows) is not None:
            content = null
        else:
            fail(f"--condition: expected {name}=VALUE, since the card has no null value for it, got none")
        tensors |= {key: torch.from_numpy(value) for key, value in sampler.adapter.filled(name, content).items()}
    return tensors


def _write(found: "Diagnosis", out: Path) -> None:
    from deploy.diagnosis_plots import write

    (out / "report.json").write_text(json.dumps(found.report(), indent=2) + "\n", encoding="utf-8")
    write(found, out / "diagnosis.png")


def _show(found: "Diagnosis", out: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    console.print(
        f"{found.model} version {found.version}: {found.rows} network rows, {found.shares.samples} samples, "
        f"{found.shares.states} noised states at each of {len(found.levels)} noise levels"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("figure, and what it means")
    table.add_column("found", overflow="fold")
    table.add_column("good")
    for name, value, good, meaning in _lines(found):
        table.add_row(Text.assemble(name, ("\n  " + meaning, "dim")), value, good)
    console.print(table)
    if out is not None:
        console.print(f"written to {out / 'report.json'} and {out / 'diagnosis.png'}", soft_wrap=True)


def _lines(found: "Diagnosis") -> "Iterator[tuple[str, str, str, str]]":
    """Name, value, a good value, and what it means; the worst noise level where there are several."""
    gap, straight, kinetic = found.gap, found.straightness, found.kinetic

    def worst(
        value: "Callable[[LevelDiagnosis], float]", floor: "Callable[[LevelDiagnosis], float] | None" = None
    ) -> tuple[str, str]:
        level = max(found.levels, key=lambda each: value(each) / (floor(each) if floor else 1.0))
        return f"{value(level):.2g} at noise {level.noise:.2g}", f"< {floor(level):.2g}" if floor else "0"

    yield (
        "Fokker-Planck residual", *worst(lambda level: level.fokker_planck.residual),
        "share of the score that noise levels dispute",
    )  # fmt: skip
    yield (
        "ODE-SDE gap, energy distance", f"{gap.energy:.2g}", f"< {gap.energy_floor:.2g}",
        "of samples drawn with and without noise, 0 to 1",
    )  # fmt: skip
    yield (
        "ODE-SDE gap, sliced W2", f"{gap.sliced:.2g}", f"< {gap.sliced_floor:.2g}",
        "the same, in units of the samples' spread",
    )  # fmt: skip
    yield (
        "asymmetry of the score", *worst(lambda level: level.asymmetry.score),
        "of its Jacobian; a gradient has none",
    )  # fmt: skip
    yield (
        "asymmetry of the denoiser", *worst(lambda level: level.asymmetry.denoiser),
        "the same, of the part that was learnt",
    )  # fmt: skip
    if found.dimension > 1:
        yield (
            "loop integral, nats", *worst(lambda level: level.loops.circulation if level.loops else 0.0),
            "what log p gains on a walk round a circle",
        )  # fmt: skip
    yield (
        "gauge part", *worst(lambda level: level.gauge.rotation, lambda level: level.gauge.floor),
        "linear rotation: leaves the samples' law alone",
    )  # fmt: skip
    yield (
        "strain", *worst(lambda level: level.gauge.strain, lambda level: level.gauge.floor),
        "linear error that changes the samples' law",
    )  # fmt: skip
    for noise, each in found.places:
        yield (
            f"intrinsic dimension at noise {noise:.2g}", f"{_span(each.dimension.tolist())} of {found.dimension}", "-",
            f"directions along the data; by shares {float(each.effective.mean()):.3g}",
        )  # fmt: skip
    yield (
        "straightness", f"{straight.straightness:.2g}", "0",
        "bend of the flow lines; what bends costs steps",
    )  # fmt: skip
    yield (
        "one-step error", f"{straight.one_step_error:.2g}", "0",
        "of a single Euler step, over the samples' size",
    )  # fmt: skip
    yield (
        "kinetic energy per dimension", f"{kinetic.energy:.2g}", f"{kinetic.least:.2g}",
        "of the path; the least to unit noise is good",
    )  # fmt: skip


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
