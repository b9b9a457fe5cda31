"""The command line: help for every command, and one-line errors with the right exit code."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from deploy.commands.sample import split_rewards
from deploy.commands.values import parse_value

COMMANDS = [
    "serve", "export", "sample", "score", "fit", "models", "stats", "load", "unload", "top", "trace", "solvers",
    "search-plan", "diagnose", "bench",
]  # fmt: skip


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def refusal(*arguments: str, code: int = 2) -> str:
    """The one line on standard error of a command that must fail with `code`."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").strip()


@pytest.fixture
def nobody() -> str:
    """An address on which nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_bare_command_and_help_list_every_command() -> None:
    for arguments in ([], ["--help"]):
        result = run(*arguments)
        assert result.exit_code == 0
        for command in COMMANDS:
            assert command in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--help" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serv"], "No such command 'serv'"),
        (["sample"], "Missing argument 'MODEL'"),
        (["sample", "digits", "--stps", "3"], "No such option: --stps"),
        (["sample", "digits", "-n", "0"], "Invalid value for '--samples' / '-n'"),
        (["sample", "digits", "--steps", "many"], "Invalid value for '--steps'"),
        (["sample", "digits", "-o", "out.jpg"], "--out: expected a file ending in .png or .npz, or a folder, got"),
        (["sample", "digits", "-o", "no/such/out.png"], "--out: expected a file or a folder in an existing folder"),
        (["sample", "digits", "--address", "localhost"], "--address: expected HOST:PORT, got 'localhost'"),
        (["sample", "digits", "--reward-label"], "--reward-label: expected a value, got none"),
        (["sample", "digits", "--reward-label", "--seed", "1"], "--reward-label: expected a value, got --seed"),
        (["sample", "digits", "--reward-direction", "1,x"], "--reward-direction: expected numbers with commas"),
        (["serve"], "models: expected a folder"),
        (["serve", "--models", "/no/such/place"], "--models: expected a folder of models, got '/no/such/place'"),
        (["serve", "--models", ".", "--replicas", "0"], "--replicas: expected greater than or equal to 1, got 0"),
        (["serve", "--models", ".", "--grpc-port", "70000"], "--grpc-port: expected less than or equal to 65535"),
        (["serve", "--config", "none.yaml"], "none.yaml: expected a readable settings file"),
        (["bench", "no-such-benchmark"], ""),
        (["export", "none.py", "models/x"], "none.py: expected a module that can be imported"),
        (
            ["export", "none.py", "models/x", "--prediction", "foo"],
            "prediction: expected 'eps', 'x0', 'v', 'velocity' or 'score', got 'foo'",
        ),
        (
            ["export", "none.py", "models/x", "--path", "edm:80"],
            "--path: expected KIND or KIND:KEY=VALUE,..., got 'edm:80'",
        ),
        (["export", "none.py", "models/x", "--event-shape", "a"], "--event-shape: expected numbers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TILTSERVE_MODELS", "TILTSERVE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    assert refusal(*arguments).startswith(expected)


def test_an_unreachable_server_is_exit_code_1(nobody: str) -> None:
    assert refusal("sample", "digits", "--address", nobody, code=1).startswith("UNAVAILABLE: ")
    assert refusal("models", "--address", nobody, code=1).startswith("UNAVAILABLE: ")


def test_reward_options_may_stand_anywhere() -> None:
    arguments = ["--reward-label", "7", "digits", "--reward", "classifier", "--reward-min-size=-2", "-n", "4"]
    assert split_rewards(arguments) == (
        ["digits", "--reward", "classifier", "-n", "4"],
        {"label": "7", "min_size": "-2"},
    )
    assert split_rewards(["--", "--reward-x", "1"]) == (["--", "--reward-x", "1"], {})


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("-7", -7), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("seven", "seven")]
)
def test_values_are_parsed(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_solvers_as_json() -> None:
    result = run("solvers", "--json")
    assert result.exit_code == 0
    rows = {row.pop("name"): row for row in json.loads(result.stdout)}
    assert set(rows) >= {"ddim", "euler", "heun", "dpmpp_2m"}
    assert all(set(row) == {"order", "rows_per_step", "noise", "reference", "synonyms"} for row in rows.values())
    assert rows["heun"]["rows_per_step"] == 2


def test_export_card_options_win_over_the_card_file(tmp_path: Path) -> None:
    from deploy.commands.export import _card

    base = tmp_path / "card.yaml"
    base.write_text("name: a\npath: {kind: vp_cosine}\nprediction: eps\nevent_shape: [2]\ninputs: {x: noisy}\n")
    card = _card(base, tmp_path / "b", prediction="x0", inputs={"time": "sigma"})
    assert (card.name, card.prediction, card.inputs.x, card.inputs.time) == ("b", "x0", "noisy", "sigma")
