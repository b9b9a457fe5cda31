"""`tiltserve bench`: lists scripts by their headlines and runs them as modules of one package."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.commands import bench

SCRIPT = '''"""Twice as much of it.

More words.
"""

import sys
from pathlib import Path

from measures._shared import double

Path("answer").write_text(f"{double(int(sys.argv[1]))} {sys.argv[2:]}")
sys.exit(3)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Benchmarks of another checkout, one of which is named like a module of the standard library."""
    folder = tmp_path / "measures"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "_shared.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "statistics.py").write_text(SCRIPT)
    monkeypatch.setattr(bench, "FOLDER", folder)
    return folder


def test_lists_headlines_of_scripts_alone(folder: Path) -> None:
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 0
    assert result.stdout.split() == ["statistics", "Twice", "as", "much", "of", "it."]


def test_runs_from_the_root_with_arguments_shared_parts_and_the_exit_code(folder: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "statistics", "21", "--fast", "-n", "2"])
    assert result.exit_code == 3
    assert (folder.parent / "answer").read_text() == "42 ['--fast', '-n', '2']"


def test_an_unknown_name_is_told_what_there_is(folder: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "statstics"])
    assert result.exit_code == 2
    assert "statistics" in result.stderr
    assert not (folder.parent / "answer").exists()


def test_every_benchmark_of_the_checkout_has_a_headline() -> None:
    lines = CliRunner().invoke(app, ["bench"]).stdout.splitlines()
    names = {line.split()[0] for line in lines}
    assert {file.stem for file in bench.FOLDER.glob("[!_]*.py")} == names
    assert all(len(line.split()) > 2 for line in lines)
