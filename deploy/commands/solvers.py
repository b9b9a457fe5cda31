"""`tiltserve solvers`: the solvers that `--solver` takes, with what they cost and where they come from."""

import json
from typing import Annotated

import typer


def solvers(as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of a table.")] = False) -> None:
    """List the solvers: order, network rows per sample and step, whether they use noise, reference."""
    import steering
    from serving.wire.solver_names import synonyms

    names = synonyms()
    rows = [
        {
            "name": name,
            "order": solver.order,
            "rows_per_step": solver.rows_per_step,
            "noise": solver.uses_noise,
            "reference": solver.reference,
            "synonyms": names.get(name, []),
        }
        for name, solver in sorted(steering.solvers.items())
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "order", "rows/step", "noise", "options", "also", "reference"):
        table.add_column(column)
    for name, solver in sorted(steering.solvers.items()):
        noise = "always" if solver.uses_noise else "eta > 0" if solver.takes_eta else "-"
        options, also = (", ".join(each) or "-" for each in (solver.options, names.get(name, [])))
        table.add_row(name, str(solver.order), str(solver.rows_per_step), noise, options, also, solver.reference)
    Console(highlight=False, markup=False).print(table)
