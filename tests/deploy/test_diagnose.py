"""`tiltserve diagnose` on small exported models: the report, its files, and one line for whatever is wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from tests import networks

ROWS = "6000"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["diagnose", *map(str, arguments)])


@pytest.fixture(scope="module")
def diagnosed(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The rings' diagnosis with files, once."""
    out = tmp_path_factory.mktemp("diagnosis") / "new" / "folder"
    return run("rings", "--models", small_models, "--rows", ROWS, "--out", out), out


def test_an_exact_denoiser_gets_a_clean_bill(diagnosed: tuple[Result, Path]):
    result, out = diagnosed
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    assert report["rows"] <= int(ROWS)
    assert max(level["fokker_planck"]["residual"] for level in report["levels"]) < 0.05
    assert max(level["asymmetry"]["score"] for level in report["levels"]) < 0.01
    assert max(level["loops"]["share"] for level in report["levels"]) < 0.05
    gap = report["ode_sde_gap"]
    assert gap["energy"] < 2 * gap["energy_floor"]
    close = report["intrinsic_dimension"][0]
    assert set(close["dimension"]) == {2}  # the rings' modes are round, of spread 0.15 and noise below it
    assert report["kinetic"]["least"] < report["kinetic"]["energy"]


def test_the_table_names_every_figure(diagnosed: tuple[Result, Path]):
    result, out = diagnosed
    for figure in (
        "Fokker-Planck residual", "ODE-SDE gap, energy distance", "ODE-SDE gap, sliced W2", "asymmetry of the score",
        "asymmetry of the denoiser", "loop integral", "gauge part", "strain", "intrinsic dimension", "straightness",
        "one-step error", "kinetic energy",
    ):  # fmt: skip
        assert figure in result.stdout
    assert str(out / "report.json") in result.stdout.replace("\n", "")


def test_the_plots_are_a_picture(diagnosed: tuple[Result, Path]):
    from PIL import Image

    with Image.open(diagnosed[1] / "diagnosis.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(image.width * image.height) or []) > 100


def test_json_is_the_report_again(diagnosed: tuple[Result, Path], small_models: Path):
    result = run("rings", "--models", small_models, "--rows", ROWS, "--json")
    assert json.loads(result.stdout) == json.loads((diagnosed[1] / "report.json").read_text())


def test_a_conditional_model_is_asked_under_its_condition(small_models: Path):
    null, two = (
        json.loads(run("stripes", "--models", small_models, "--rows", "3000", "--json", *which).stdout)
        for which in ((), ("--condition", "label=2"))
    )
    assert (null["condition"], two["condition"]) == ({"label": networks.NULL}, {"label": 2})
    assert null["levels"] != two["levels"]
    assert max(level["asymmetry"]["denoiser"] for level in two["levels"]) > 0.1  # it was never trained


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rnigs"], "unknown model 'rnigs'"),
        (["nearness"], "model 'nearness': expected a sampler"),
        (["rings", "--rows", "100"], "--rows: expected at least"),
        (["rings", "--condition", "label=2"], "--condition: expected NAME=VALUE of which the model has none"),
        (["stripes", "--condition", "lable=2"], "--condition: expected NAME=VALUE with one of label, got 'lable=2'"),
        (["stripes", "--condition", "label=two"], "--condition: label: expected int64 [], got 'two'"),
        (["stripes", "--condition", "label=1,2"], "--condition: label: expected int64 [], got '1,2'"),
        (["rings", "--out", "/dev/null/x"], "--out: expected a folder that can be made, got '/dev/null/x'"),
        (["rings", "--seed", "-1"], "Invalid value for '--seed'"),
        (["rings", "--models", "/no/such/place"], "unknown model 'rings' in /no/such/place"),
    ],
)
def test_bad_input_is_one_line(small_models: Path, arguments: list[str], expected: str):
    result = run("--models", small_models, *arguments)  # the last one given counts
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
