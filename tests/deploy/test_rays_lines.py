"""What Ray prints while a server runs."""

import json

import pytest

from deploy.rays_lines import RaysLines


def test_each_line_has_the_form_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """It was text with colours among the objects of --log-format json."""
    for form in ("text", "json"):
        print("\x1b[33m(raylet)\x1b[0m A worker died", "and more\n\n", file=RaysLines(form))
    text, line = capsys.readouterr().err.splitlines()
    assert text == "warning: Ray: (raylet) A worker died and more"
    assert json.loads(line)["message"] == "Ray: (raylet) A worker died and more"
