"""`tiltserve fit` before a real server: the parameters that made the data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from tiltserve import Client

TRUE: dict[str, Any] = {"rates": [1.1, 0.7, 0.4], "death": 0.8}
BEGIN = ["-p", "rates=1,0.8,0.5", "-p", "death=0.7"]


@pytest.fixture(scope="module")
def served(odes: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An address, and a file of trajectories."""
    folder = tmp_path_factory.mktemp("fit")
    starts, times = np.array([[1.0, 0.5], [0.6, 1.2]]), np.linspace(0, 3, 7)
    with Client(odes) as client:
        conditions = {name: np.array([each]) for name, each in TRUE.items()}
        seen = np.array(client.solve("hunting", starts, times, conditions=conditions, rtol=1e-8, atol=1e-8))
        decayed = np.array(client.solve("decay", starts, times, rate=0.7))
    seen[0, 2:4] = np.nan
    np.savez(folder / "data.npz", y0=starts, t_eval=times, y=seen)
    np.savez(folder / "decay.npz", y0=starts, t_eval=np.stack([times] * 2), y=decayed, sigma=0.1)
    np.savez(folder / "short.npz", y0=starts, t_eval=times, y=seen[:, :3])
    return odes, folder


def run(served: tuple[str, Path], *arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["fit", *arguments, "--address", served[0]])
    assert result.exit_code == code, result.output
    return result


def test_the_parameters_that_made_the_data(served: tuple[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    said = json.loads(
        run(served, "hunting", f"{served[1]}/data.npz", *BEGIN, "--rtol", "1e-6", "-o", str(out), "--json").stdout
    )
    assert said["converged"]
    np.testing.assert_allclose(said["parameters"]["rates"], TRUE["rates"], rtol=3e-4)
    assert said["parameters"]["death"] == pytest.approx(0.8, rel=3e-4)
    assert said["cost"][1] < 1e-6 < said["cost"][0]
    with np.load(out) as arrays:
        assert arrays["rates"].tolist() == said["parameters"]["rates"]
        assert arrays["y"].shape == (2, 7, 2)


def test_a_float32_model_and_the_table(served: tuple[str, Path]) -> None:
    file = f"{served[1]}/decay.npz"
    shown = run(served, "decay", file, "-p", "rate=0.3", "--rtol", "1e-6").stdout
    assert "converged after" in shown
    assert "0.69999" in shown or "0.7 " in shown or "0.70000" in shown
    bounded = json.loads(run(served, "decay", file, "-p", "rate=0.3", "--upper", "rate=0.5", "--json").stdout)
    assert bounded["parameters"] == {"rate": 0.5}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hunting", "none.npz", *BEGIN], "none.npz"),
        (["hunting", "short.npz", *BEGIN], "y [n, T, *state]"),
        (["hunting", "data.npz", "-p", "rates=a,b"], "numbers"),
        (["hunting", "data.npz", "-p", "rates"], "NAME=VALUE"),
        (["hunting", "data.npz", "-p", "y0=1"], "y0"),
        (["hunting", "data.npz", "-p", "rates=1,2", "-p", "death=1"], "rates"),
        (["hunting", "data.npz", *BEGIN, "--lower", "birth=0"], "birth"),
        (["hunting", "data.npz", *BEGIN, "--lower", "death=1"], "bounds"),
        (["hunting", "data.npz", *BEGIN, "-w", "solver=rk5"], "solver"),
        (["nobody", "data.npz", *BEGIN], "nobody"),
    ],
)
def test_refusals(served: tuple[str, Path], arguments: list[str], said: str) -> None:
    model, file, *rest = arguments
    result = run(served, model, f"{served[1]}/{file}", *rest, code=2)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
