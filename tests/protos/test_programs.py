"""The plan file: what is written is read again, and what is wrong with one is said in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from protos.programs import Programs, ProgramsError, dump_programs, load_programs

STEP = {"target": "noise", "order": 2, "variable": "t", "corrector": True, "relaxation": [0.1, -0.2]}
SEARCHED = {
    "rows": 2,
    "seed": 0,
    "error": 0.01,
    "fixed": {"solver": "ddim", "grid": "karras", "error": 0.03},
    "uniform": 0.02,
    "kendall": 0.7,
    "fractions": [0, 0.3, 1],
    "steps": [STEP | {"order": 1, "relaxation": []}, STEP],
}
CONTENT = {"format": 1, "model_sha256": "0f" * 32, "programs": [SEARCHED]}


def write(folder: Path, content: Any) -> Path:
    file = folder / "searched.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    programs = load_programs(write(tmp_path, CONTENT))
    dump_programs(programs, tmp_path / "again.json")
    assert load_programs(tmp_path / "again.json") == programs
    assert programs.programs[0].steps[1].relaxation == (0.1, -0.2)


def test_a_float_keeps_every_digit(tmp_path: Path) -> None:
    third = 1 / 3
    dump_programs(Programs.model_validate(CONTENT | {"programs": [SEARCHED | {"error": third}]}), tmp_path / "x.json")
    assert load_programs(tmp_path / "x.json").programs[0].error == third


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fractions": [0, 1]}, "programs.0: fractions: expected 3 ascending numbers from 0 to 1, got [0.0, 1.0]"),
        ({"fractions": [0, 1.2, 1]}, "programs.0: fractions: expected 3 ascending numbers from 0 to 1"),
        ({"fractions": [0.1, 0.3, 1]}, "programs.0: fractions: expected 3 ascending numbers from 0 to 1"),
        ({"steps": [STEP]}, "programs.0: steps: expected 2, one a row, got 1"),
        (
            {"steps": [STEP, STEP | {"target": "score"}]},
            "programs.0.steps.1.target: expected 'data', 'noise' or 'velocity'",
        ),
        ({"steps": [STEP, STEP | {"order": 9}]}, "programs.0.steps.1.order: expected less than or equal to 4, got 9"),
        ({"steps": [STEP, STEP | {"order": 1}]}, "programs.0.steps.1: relaxation: expected at most 1 numbers, got 2"),
        ({"rows": 0}, "programs.0.rows: expected greater than or equal to 1, got 0"),
        ({"error": -1}, "programs.0.error: expected greater than or equal to 0, got -1"),
        ({"kendal": 0.5}, "programs.0: unknown key 'kendal', did you mean 'kendall'?"),
    ],
)
def test_a_fault_in_a_program_is_one_line(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    file = write(tmp_path, CONTENT | {"programs": [SEARCHED | changes]})
    with pytest.raises(ProgramsError) as caught:
        load_programs(file)
    assert str(caught.value).startswith(f"{file}: {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "expected JSON, got "),
        ([], "expected a valid dictionary"),
        (CONTENT | {"model_sha256": "abc"}, "model_sha256: "),
        (CONTENT | {"programs": []}, "programs: "),
        (CONTENT | {"programs": [SEARCHED, SEARCHED]}, "programs: expected one for each number of rows, got rows 2, 2"),
    ],
)
def test_a_fault_in_the_file_is_one_line(tmp_path: Path, content: Any, complaint: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ProgramsError) as caught:
        load_programs(file)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ProgramsError, match="expected a plan file, got no such file"):
        load_programs(tmp_path / "none.json")
