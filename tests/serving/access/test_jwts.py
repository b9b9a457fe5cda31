"""JWTs: whose are believed, and every way in which one is wrong."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from serving.access.caller import NO_LIMITS, Caller
from serving.access.jwts import LEEWAY_S, Issuer, Jwts
from serving.access.watched import AccessError

RSA, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
DAY_S = 86_400.0
"""Tokens of tables are made when tests are collected, which may be long before they are used."""
ALGORITHMS: tuple[Any, ...] = ("RS256", "ES256", "EdDSA")


def keys() -> dict[str, Any]:
    found = {
        "rsa": RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True),
        "ec": ECAlgorithm.to_jwk(EC.public_key(), as_dict=True),
        "ed": OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True),
    }
    return {"keys": [{**key, "kid": name, "use": "sig"} for name, key in found.items()]}


def jwts(folder: Path, **more: Any) -> Jwts:
    (folder / "jwks.json").write_text(json.dumps(keys()))
    issuer = Issuer(jwks=Path("jwks.json"), issuer="https://us", audience="tiltserve", algorithms=ALGORITHMS, **more)
    return Jwts(issuer, folder)


def claims(**more: Any) -> dict[str, Any]:
    now = time.time()
    found = {"iss": "https://us", "aud": "tiltserve", "sub": "alice", "exp": now + DAY_S, "nbf": now - 10, **more}
    return {name: value for name, value in found.items() if value is not None}


def signed(said: Mapping[str, Any], key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa") -> str:
    return jwt.encode(dict(said), key, algorithm, headers={} if kid is None else {"kid": kid})


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")])
def test_a_token_of_the_issuer(tmp_path: Path, key: Any, algorithm: str, kid: str) -> None:
    checker = jwts(tmp_path)
    token = signed(claims(), key, algorithm, kid)
    expected = Caller("jwt:alice", frozenset({"metadata", "inference"}), ("*",), NO_LIMITS)
    assert checker.caller(token) == checker.caller(token) == expected


def test_rights_and_models_of_claims(tmp_path: Path) -> None:
    checker = jwts(tmp_path, rights_claim="scope", models_claim="models")
    who = checker.caller(signed(claims(scope="openid inference admin", models=["a*", 3, "b"])))
    assert (who.rights, who.models) == (frozenset({"inference"}), ("a*", "b"))
    nothing = checker.caller(signed(claims(scope=7)))
    assert (nothing.rights, nothing.models) == (frozenset(), ())
    with pytest.raises(AccessError, match="models: expected patterns of models of at most 4096 bytes in all, got 4700"):
        checker.caller(signed(claims(models=["m" * 90] * 50)))


def none_signed() -> str:
    return jwt.encode(claims(), "", algorithm="none", headers={"kid": "rsa"})


def confused() -> str:
    """Signed with the public key as if it were a shared secret."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "rsa", "typ": "JWT"}).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mark = base64.urlsafe_b64encode(hmac.new(public, header + b"." + body, hashlib.sha256).digest()).rstrip(b"=")
    return b".".join((header, body, mark)).decode()


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (signed(claims(exp=time.time() - 60)), "got one that has expired"),
        (signed(claims(exp=None)), "MissingRequiredClaimError"),
        (signed(claims(exp="soon")), "expected a valid JWT"),
        (signed(claims(exp=1e400)), "expected a valid JWT"),
        (signed(claims(nbf=time.time() + DAY_S)), "ImmatureSignatureError"),
        (signed(claims(iss="https://them")), "InvalidIssuerError"),
        (signed(claims(aud="another")), "InvalidAudienceError"),
        (signed(claims(aud=None)), "MissingRequiredClaimError"),
        (signed(claims(sub=None)), "MissingRequiredClaimError"),
        (signed(claims(sub="")), "sub has 1 to 128 printable characters"),
        (signed(claims(sub="a\nb")), "sub has 1 to 128 printable characters"),
        (signed(claims(sub="x" * 129)), "sub has 1 to 128 printable characters"),
        (signed(claims(), OTHER), "InvalidSignatureError"),
        (signed(claims(), kid="gone"), "a key of the server's JWKS file"),
        (signed(claims(), kid=None), "a key of the server's JWKS file"),
        (signed(claims(), algorithm="RS512"), "InvalidAlgorithmError"),
        (signed(claims(), EC, "ES256", kid="rsa"), "expected a valid JWT"),
        (none_signed(), "InvalidAlgorithmError"),
        (confused(), "InvalidAlgorithmError"),
        ("a.b.c", "DecodeError"),
        ("..", "DecodeError"),
        (".".join(("e30", "e30", "")), "expected a "),
    ],
)
def test_a_wrong_token_is_one_line_that_does_not_repeat_it(tmp_path: Path, token: str, text: str) -> None:
    with pytest.raises(AccessError) as caught:
        jwts(tmp_path).caller(token)
    assert text in str(caught.value)
    assert not any(part in str(caught.value) for part in token.split(".") if len(part) > 3)


def test_a_token_that_was_believed_expires(tmp_path: Path) -> None:
    checker, token = jwts(tmp_path), signed(claims(exp=time.time() - LEEWAY_S + 1))
    checker.caller(token)
    time.sleep(1.5)
    with pytest.raises(AccessError, match="expired"):
        checker.caller(token)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '{"keys": []}',
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}),
        json.dumps({"keys": [json.loads(RSAAlgorithm.to_jwk(RSA))]}),
    ],
)
def test_a_file_without_public_keys_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "jwks.json").write_text(content)
    with pytest.raises(AccessError, match=r"jwks.json: expected (a JWKS file of )?public keys"):
        Jwts(Issuer(jwks=Path("jwks.json"), issuer="i", audience="a"), tmp_path)
