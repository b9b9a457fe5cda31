"""`tiltserve search-plan` on a real model: what it prints, what it writes, and what it refuses."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from protos.programs import load_programs
from serving.models import offline


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["search-plan", *arguments, "--models", str(root), "--threads", "1"])


@pytest.fixture
def root(small_models: Path, tmp_path: Path) -> Path:
    """A repository of one's own."""
    for name in ("rings", "stripes", "nearness"):
        shutil.copytree(small_models / name, tmp_path / "models" / name)
    return tmp_path / "models"


def test_a_program_is_found_written_and_loaded_again(root: Path) -> None:
    tiny = ("rings", "--samples", "64", "--budget", "5", "--polish", "2")
    result = run(root, *tiny, "--rows", "3,2")
    assert result.exit_code == 0, result.output
    file = root / "rings" / "1" / "searched.json"
    assert f"written to {file}" in result.stdout
    content = load_programs(file)
    assert [each.rows for each in content.programs] == [2, 3]
    for each in content.programs:
        assert f"{each.error:.4g}" in result.stdout
        assert each.error < each.fixed.error
        assert each.error <= each.uniform
    sampler = offline.open_sampler(root, "rings", threads=1)
    assert [program.steps for program in sampler.programs.values()] == [2, 3]

    assert run(root, *tiny, "--rows", "3", "--seed", "1").exit_code == 0  # 2 rows are kept, 3 are searched anew
    again = load_programs(file)
    assert again.programs[0] == content.programs[0]
    assert (again.programs[1].rows, again.programs[1].seed) == (3, 1)


def test_a_conditional_model_is_searched_under_its_null_condition(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    result = run(root, "stripes", "--rows", "2", "--samples", "4", "--budget", "2", "--polish", "1", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert load_programs(out).programs[0].rows == 2
    assert not (root / "stripes" / "1" / "searched.json").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["rings", "--rows", "5,x"], "--rows: expected numbers in 1..64 with commas between them, got '5,x'"),
        (["rings", "--rows", "0"], "--rows: expected numbers in 1..64"),
        (["rings", "--rows", "65"], "--rows: expected numbers in 1..64"),
        (["ring"], "unknown model 'ring' in "),
        (["nearness"], "model 'nearness': expected a sampler"),
        (["rings", "--out", "no/such/folder/plan.json"], "--out: expected a file in an existing folder"),
    ],
)
def test_bad_input_is_one_line(root: Path, arguments: list[str], complaint: str) -> None:
    result = run(root, *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
