"""`tiltserve solve` against a running server."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from tests.serving.live import Live


def run(live: Live, *arguments: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["solve", *arguments, "--address", live.address])
    return answer.exit_code, answer.output


def test_states_go_into_files(decaying: Live, tmp_path: Path) -> None:
    code, said = run(
        decaying, "decay", "0:1:5", "--y0", "1,-2;0.5,3", "-i", "rate=2", "-o", str(tmp_path / "a.npz"), "--json"
    )
    assert code == 0, said
    told = json.loads(said)
    assert (told["trajectories"], told["times"], told["status"]) == (2, 5, ["ok", "ok"])
    with np.load(tmp_path / "a.npz") as found:
        assert np.allclose(found["y"][:, -1], np.array([[1, -2], [0.5, 3]]) * np.exp(-2), atol=1e-4)
        assert found["t"].shape == (5,)
    np.save(tmp_path / "starts.npy", np.ones((1, 2)))
    code, said = run(decaying, "decay", "0,0.5,2", "--y0", str(tmp_path / "starts.npy"), "-o", str(tmp_path / "a.csv"))
    assert code == 0, said
    assert "1 ok" in said
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "trajectory,t,y0,y1"
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("decay", "0:1", "--y0", "1,2"), "TIMES"),
        (("decay", "0:1:x", "--y0", "1,2"), "FIRST:LAST:COUNT"),
        (("decay", "0,1", "--y0", "1;2,3"), "one length"),
        (("decay", "0,1", "--y0", "none.npy"), "No such file"),
        (("decay", "0,1", "--y0", "1,2", "-o", "a.txt"), ".npz or .csv"),
        (("decay", "0,1", "--y0", "1,2", "--solver", "rk5"), "unknown solver 'rk5'"),
        (("decay", "0,1"), "y0"),
        (("nothing", "0,1", "--y0", "1,2"), "unknown model"),
    ],
)
def test_refusals_are_one_line(decaying: Live, arguments: tuple[str, ...], said: str) -> None:
    code, text = run(decaying, *arguments)
    assert code == 2
    assert said in text
    assert len(text.strip().splitlines()) == 1
