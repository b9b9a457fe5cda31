"""From settings to guards: every file is read before anything is started, and what is wrong is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.access import check_guards, front_guards, replica_guards
from deploy.settings import Settings, SettingsError
from serving.access import tokens
from tests.serving.certificates import Authority


def file(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def identities(**more: Any) -> dict[str, Any]:
    return {"identities": {"alice": {"sha256": tokens.hashed("secret")}}, **more}


CASES: dict[str, Callable[[Path, Authority], dict[str, Any]]] = {
    "--tokens: ": lambda folder, _: {"tokens": file(folder, "a", {"identities": {"a": {"sha256": "tilt_secret"}}})},
    "--tokens: expected no anonymous beyond this machine": lambda folder, authority: {
        "host": "10.0.0.1",
        "metrics_host": "127.0.0.1",
        "tls_cert": authority.sign("a").cert,
        "tls_key": authority.sign("a").key,
        "tokens": file(folder, "b", identities(anonymous={})),
    },
    "--tls-cert: ": lambda folder, authority: {
        "tls_cert": authority.sign("one").cert,
        "tls_key": authority.sign("other").key,
    },
    "--internal-tls: ": lambda folder, _: {
        "internal_tls": max(file(folder, name, "tilt_secret").parent for name in ("tls.crt", "tls.key", "ca.crt"))
    },
    "--metrics-token-file: ": lambda folder, _: {"metrics_token_file": file(folder, "c", "two words, tilt_secret")},
    "--socket: ": lambda folder, _: {"socket": file(folder, "d", "")},
}


@pytest.mark.parametrize("text", CASES)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, text: str) -> None:
    settings = Settings(models=tmp_path, **CASES[text](tmp_path, Authority(tmp_path)))
    with pytest.raises(SettingsError) as caught:
        check_guards(settings)
    assert str(caught.value).startswith(text)
    assert "tilt_secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replicas_are_closed_where_tokens_are_not_what_a_front_asks_for(tmp_path: Path) -> None:
    pair, table = Authority(tmp_path).sign("a"), file(tmp_path, "tokens.yaml", identities())
    tls = {"tls_cert": pair.cert, "tls_key": pair.key}
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"tokens": table}, False),
        ({**tls, "tokens": table}, False),
        ({**tls, "tls_client_ca": pair.cert}, True),
        ({**tls, "tls_client_ca": pair.cert, "tokens": table}, True),
        ({"socket": tmp_path / "socket"}, True),
        ({"socket": tmp_path / "socket", "tokens": table}, False),
    ]
    for given, closed in cases:
        settings = Settings(models=tmp_path, **given)
        check_guards(settings)
        guards = replica_guards(settings, "inner")
        assert (guards.closed, guards.inside.token) == (closed, "inner")
        assert (guards.tokens is None) == ("tokens" not in given) == (front_guards(settings, "").tokens is None)
        assert "inner" not in repr(guards.inside)
