"""The example of a neural ODE of one's own."""

import runpy
from pathlib import Path

import pytest

from tests.serving.live import running

EXAMPLE = Path(__file__).parents[3] / "examples" / "dynamics.py"


def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    example["export"](tmp_path / "models" / "spiral")
    assert "worst error against torch" in capsys.readouterr().out
    with running(tmp_path / "models") as live:
        example["ask"](live.address)
    said = capsys.readouterr().out
    assert "3 at 201 times" in said
    assert "event" in said.splitlines()[-1]
