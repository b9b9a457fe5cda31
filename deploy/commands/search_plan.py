"""`tiltserve search-plan`: search a solver program for a model and few rows, and keep it in the model's folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import Trust, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.models.model import Sampler
    from steering import Problem
    from steering.search import Found

MOST_ROWS = 64
"""More rows are more to fit, and gain less: fixed solvers are good there."""


def search_plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The sampler's name, such as digits.")],
    models: Annotated[Path, typer.Option(metavar="DIR", help="The model repository.")] = Path("deploy/models"),
    rows: Annotated[str, typer.Option(metavar="A,B,...", help="Network rows per sample, a program each.")] = "5,8,10",
    samples: Annotated[
        int | None, typer.Option(min=1, help="First states to fit to, to choose by and to judge by. [by their size]")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Programs that evolution tries.")] = 200,
    polish: Annotated[int, typer.Option(min=0, help="Jacobians of the refinement of times and weights.")] = 9,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same search.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="[searched.json beside the model's graph]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the network.")] = 2,
    trust: Trust = None,
) -> None:
    """Search solver programs for MODEL: per step the time, prediction type, order, corrector and weights.

    A server that loads the model afterwards takes solver=searched with steps equal to one of these numbers of rows.
    Programs for other numbers of rows in the same file are kept. Errors are root mean square distances of end points to
    a fine plan's, on noise that the search has not seen.
    """
    wanted = _rows(rows)

    from rich.console import Console

    from serving.backends import LoadError
    from serving.models import offline
    from serving.models.folders import GRAPH, PROGRAMS
    from steering import NetworkError
    from steering.search import program_for, trials

    try:
        sampler = offline.open_sampler(models, model, threads, trust=trust or ())
    except LoadError as error:
        fail(str(error))
    file = models / model / sampler.version / PROGRAMS if out is None else out
    if not file.parent.is_dir():
        fail(f"--out: expected a file in an existing folder, got {str(file)!r}")
    found = []
    try:
        with Console(stderr=True).status("") as status:
            tell = lambda stage: status.update(f"{stage} ...")  # noqa: E731
            tell("references")
            prepared = offline.solve(trials(_problem(sampler), samples, seed), sampler)
            for each in wanted:
                search = program_for(prepared, each, budget=budget, polish=polish, seed=seed, tell=tell)
                found.append(offline.solve(search, sampler))
                _write(found[-1], file, models / model / sampler.version / GRAPH, seed)
    except (NetworkError, ValueError) as error:
        fail(str(error), code=1 if isinstance(error, NetworkError) else 2)
    _show(found, file)


def _rows(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= MOST_ROWS for part in parts):
        fail(f"--rows: expected numbers in 1..{MOST_ROWS} with commas between them, got {text!r}")
    return sorted({int(part) for part in parts})


def _problem(sampler: "Sampler") -> "Problem":
    """Samples of the model, under its null conditions where it has conditions."""
    import torch

    import steering

    card = sampler.card
    condition = dict[str, torch.Tensor]()
    for name, spec in card.conditions.items():
        if (rows := spec.null_rows) is None:
            raise ValueError(f"condition {name!r}: expected a null value in the model's card to search under, got none")
        condition |= {key: torch.from_numpy(value) for key, value in sampler.adapter.filled(name, rows).items()}
    return steering.Problem(
        plan=sampler.plan("ddim", 1), event=card.event_shape, dtype=torch.float32, condition=condition
    )


def _write(found: "Found", file: Path, graph: Path, seed: int) -> None:
    """Put a program into the plan file; those for other numbers of rows of the same graph stay in it."""
    from protos.digest import graph_sha256
    from protos.programs import Programs, ProgramsError, Searched, dump_programs, load_programs

    owner = graph_sha256(graph)
    try:
        before = load_programs(file)
        others = [each for each in before.programs if before.model_sha256 == owner and each.rows != found.rows]
    except ProgramsError:  # none yet, or one that no server would take either
        others = []
    searched = Searched.model_validate(
        {
            "rows": found.rows,
            "seed": seed,
            "error": found.error,
            "fixed": vars(found.fixed),
            "uniform": found.uniform,
            "kendall": found.kendall,
            "fractions": found.program.fractions,
            "steps": [vars(choice) for choice in found.program.choices],
        }
    )
    programs = sorted([*others, searched], key=lambda each: each.rows)
    dump_programs(Programs(model_sha256=owner, programs=tuple(programs)), file)


def _show(found: "Sequence[Found]", file: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, title="errors on held-out noise", title_justify="left")
    for column in ("rows", "best fixed solver", "its error", "searched", "ratio", "uniform program", "kendall tau"):
        table.add_column(column)
    for each in found:
        table.add_row(
            str(each.rows), f"{each.fixed.solver}, {each.fixed.grid}", f"{each.fixed.error:.4g}", f"{each.error:.4g}",
            f"{each.error / each.fixed.error:.2f}", f"{each.uniform:.4g}", f"{each.kendall:.2f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"written to {file}", soft_wrap=True)
