"""The plan file, `searched.json`: searched solver programs of one model, with what they were measured against."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protos.complaint import complaint, read_text

Error = Annotated[float, Field(ge=0)]


class ProgramsError(ValueError):
    """A plan file that cannot be used; the text is one line: file, key, what was expected, what came."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Step(_Strict):
    """How one step is made; see `steering.program.Choice`."""

    target: Literal["data", "noise", "velocity"]
    order: Annotated[int, Field(ge=1, le=4)]
    variable: Literal["log_snr", "rho", "t", "angle"]
    corrector: bool = False
    relaxation: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.relaxation) > self.order:
            raise ValueError(f"relaxation: expected at most {self.order} numbers, got {len(self.relaxation)}")
        return self


class Fixed(_Strict):
    """A solver of the table on a grid, at as many rows."""

    solver: str
    grid: str
    error: Error


class Searched(_Strict):
    """A program, and errors on held-out noise: root mean square distances of end points to a fine plan's.

    rows: network evaluations per sample, which are its steps. seed: the search's. uniform: error of the best program
    that does the same in every step. kendall: how well the search's predictor ordered programs it had not seen.
    fractions: the program's nodes, from 0 (noise) to 1 (data) of the path's log-SNR range.
    """

    rows: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    error: Error
    fixed: Fixed
    uniform: Error
    kendall: float
    fractions: tuple[float, ...]
    steps: tuple[Step, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if len(self.steps) != self.rows:
            raise ValueError(f"steps: expected {self.rows}, one a row, got {len(self.steps)}")
        f = self.fractions
        if len(f) != self.rows + 1 or f[0] != 0 or f[-1] != 1 or any(a >= b for a, b in pairwise(f)):
            raise ValueError(f"fractions: expected {self.rows + 1} ascending numbers from 0 to 1, got {list(f)}")
        return self


class Programs(_Strict):
    """The programs of one model; `model_sha256` is its graph's."""

    format: Literal[1] = 1
    model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    programs: Annotated[tuple[Searched, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        rows = [each.rows for each in self.programs]
        if len(set(rows)) < len(rows):
            raise ValueError(f"programs: expected one for each number of rows, got rows {', '.join(map(str, rows))}")
        return self


def load_programs(file: Path) -> Programs:
    """Read and check a plan file; `ProgramsError` names the file, the key, what was expected and what came."""
    text = read_text(file, "a plan file", ProgramsError)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProgramsError(f"{file}: expected JSON, got {error}") from None
    try:
        return Programs.model_validate(content)
    except ValidationError as error:
        raise ProgramsError(f"{file}: {complaint(error, Programs)}") from None


def dump_programs(programs: Programs, file: Path) -> None:
    """Write a plan file so that `load_programs` gives an equal one."""
    file.write_text(json.dumps(programs.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
