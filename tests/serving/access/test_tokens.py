"""The file of identities: what it may say, what is wrong with it, and that no fault repeats a secret."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.access import tokens
from serving.access.caller import NO_LIMITS, RIGHTS, Caller, Limits, heard, told
from serving.access.watched import AccessError

HASH = tokens.hashed("secret")


def written(folder: Path, content: Any) -> Path:
    path = folder / "tokens.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_an_identity_with_all_that_it_may_have(tmp_path: Path) -> None:
    limits = {"concurrent": 8, "rows_per_second": 2000, "rows_at_once": 10, "samples": 64, "message_bytes": "16MiB"}
    entry = {"sha256": [HASH, tokens.hashed("old")], "rights": ["inference"], "models": "digits*", "limits": limits}
    table = tokens.load(written(tmp_path, {"identities": {"alice": entry}, "anonymous": {"rights": "all"}}))
    alice = table.caller("secret")
    assert alice == table.caller("old")
    assert alice == Caller(
        "alice",
        frozenset({"inference"}),
        ("digits*",),
        Limits(concurrent=8, rows_per_second=2000.0, rows_at_once=10, samples=64, message_bytes=2**24),  # type: ignore[arg-type]
    )
    assert (alice.sees("digits"), alice.sees("digits.network"), alice.sees("judge")) == (True, True, False)
    assert table.anonymous is not None
    assert table.anonymous.rights == frozenset(RIGHTS)
    with pytest.raises(AccessError, match="expected the token of a known identity, got another one"):
        table.caller("another")


@pytest.mark.parametrize(("rights", "many"), [(["all"], len(RIGHTS)), ("all", len(RIGHTS)), ("inference", 1)])
def test_ways_to_write_rights(tmp_path: Path, rights: Any, many: int) -> None:
    table = tokens.load(written(tmp_path, {"identities": {"alice": {"sha256": HASH, "rights": rights}}}))
    assert len(table.caller("secret").rights) == many


def test_what_is_left_out(tmp_path: Path) -> None:
    table = tokens.load(written(tmp_path, {"identities": {"alice": {"sha256": HASH}}}))
    assert table.caller("secret") == Caller("alice", frozenset({"metadata", "inference"}), ("*",), NO_LIMITS)
    assert table.anonymous is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "expected keys and values, got NoneType"),
        ("- a", "expected keys and values, got list"),
        ("a: b: c", "expected YAML, got something else in line 1"),
        ({}, "expected identities, jwt or anonymous, got none of them"),
        ({"identites": {}}, "unknown key 'identites', did you mean 'identities'?"),
        ({"identities": {"alice": {}}}, "identities.alice.sha256: expected hashes of tokens, 64 hexadecimal digits"),
        ({"identities": {"alice": {"sha256": "tilt_secret"}}}, "identities.alice.sha256: expected hashes of tokens"),
        ({"identities": {"al ice": {"sha256": HASH}}}, "expected names of 1 to 64 letters, digits and . _ @ -"),
        ({"identities": {"anonymous": {"sha256": HASH}}}, "expected another name than 'anonymous'"),
        ({"identities": {"a": {"sha256": HASH, "models": ["m" * 90] * 50}}}, "of at most 4096 bytes in all, got 4700"),
        ("since: 2026-13-45", "expected YAML, got what cannot be read (ValueError)"),
        ("[" * 5000, "expected YAML, got what cannot be read (RecursionError)"),
        ({"identities": {"a": {"sha256": HASH, "rights": ["infer"]}}}, "identities.a.rights.0: expected 'metadata', "),
        ({"identities": {"a": {"sha256": HASH, "limits": {"samples": 0}}}}, "identities.a.limits.samples: expected"),
        ({"identities": {"a": {"sha256": HASH, "limits": {"sample": 1}}}}, "unknown key 'sample', did you mean"),
        ({"identities": {"a": {"sha256": HASH}, "b": {"sha256": HASH}}}, "expected a token of one identity, a and b"),
        ({"jwt": {"jwks": "none.json", "issuer": "i", "audience": "a"}}, "none.json: expected a JWKS file"),
        ({"jwt": {"jwks": "k", "issuer": "i", "audience": "a", "algorithms": ["HS256"]}}, "expected 'RS256'"),
        ({"jwt": {"jwks": "k", "issuer": "i", "audience": "a", "algorithms": ["none"]}}, "expected 'RS256'"),
    ],
)
def test_a_fault_is_one_line_without_a_secret(tmp_path: Path, content: Any, text: str) -> None:
    with pytest.raises(AccessError) as caught:
        tokens.load(written(tmp_path, content))
    assert text in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "tilt_secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_are_long_and_unlike() -> None:
    made = {tokens.new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(each.startswith(tokens.PREFIX) and len(each) == len(tokens.PREFIX) + 43 for each in made)


def test_a_replica_hears_of_a_caller_what_it_must_know() -> None:
    alice = Caller("alice", frozenset({"inference"}), ("a*", "b"), Limits(samples=1))
    assert heard(told(alice)) == Caller("alice", models=("a*", "b"))
