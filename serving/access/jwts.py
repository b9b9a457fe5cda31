"""JSON Web Tokens of an issuer whose public keys lie in a JWKS file (RFC 7517, 7519), checked by PyJWT."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jwt
from cachetools import LRUCache
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from serving.access.caller import NO_LIMITS, RIGHTS, Caller, Limits, Right, told_of
from serving.access.watched import AccessError, content

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a private key: a server that can check them cannot make them. So no HS256, and never `none`."""
LEEWAY_S = 30.0
"""Seconds by which the issuer's clock and this one may differ."""
_REMEMBERED = 4096
_SUBJECT = re.compile(r"[\x21-\x7e]{1,128}")


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Issuer(BaseModel):
    """Whose tokens are believed, and which of their claims say what.

    Attributes:
        jwks: the file of keys, beside the file of tokens unless it is absolute.
        rights_claim, models_claim: a list, or a text with spaces between; None for `rights` and `models` of all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    jwks: Path
    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(_texts), Field(min_length=1)] = ("RS256", "ES256")
    rights_claim: str | None = None
    models_claim: str | None = None
    rights: tuple[Right, ...] = ("metadata", "inference")
    models: Annotated[tuple[str, ...], BeforeValidator(_texts), AfterValidator(told_of)] = ("*",)
    limits: Limits = NO_LIMITS


class Jwts:
    """Checks tokens of one issuer; raises AccessError for a file that is no JWKS of public keys."""

    def __init__(self, issuer: Issuer, folder: Path) -> None:
        self._issuer = issuer
        self._keys = _keys(folder / issuer.jwks)
        self._known: LRUCache[str, tuple[float, Caller]] = LRUCache(_REMEMBERED)

    def caller(self, token: str) -> Caller:
        """Whose token it is; AccessError with what is wrong with it, and nothing of its text."""
        known = self._known.get(token)
        if known is None or known[0] < time.time() - LEEWAY_S:
            claims = self._claims(token)
            self._known[token] = known = float(claims["exp"]), self._caller(claims)
        return known[1]

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            return jwt.decode(
                token,
                key,
                algorithms=list(self._issuer.algorithms),
                issuer=self._issuer.issuer,
                audience=self._issuer.audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise AccessError("expected a JWT that is valid now, got one that has expired") from None
        except jwt.PyJWTError as error:
            raise AccessError(
                f"expected a valid JWT of the issuer, got one that is not ({type(error).__name__})"
            ) from None
        except AccessError:
            raise
        except Exception as error:  # a key of another type than the algorithm, numbers that are none
            raise AccessError(f"expected a valid JWT, got one that cannot be read ({type(error).__name__})") from None

    def _key(self, wanted: object) -> jwt.PyJWK:
        fitting = [each for each in self._keys if wanted is None or each.key_id == wanted]
        if len(fitting) != 1:
            raise AccessError("expected a JWT signed by a key of the server's JWKS file, got another or none in kid")
        return fitting[0]

    def _caller(self, claims: dict[str, Any]) -> Caller:
        subject = claims["sub"]
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise AccessError("expected a JWT whose sub has 1 to 128 printable characters, got another")
        issuer = self._issuer
        rights = frozenset(issuer.rights)
        if issuer.rights_claim is not None:
            said = _list(claims.get(issuer.rights_claim))
            rights = frozenset(each for each in RIGHTS if each in said)
        models = issuer.models if issuer.models_claim is None else tuple(_list(claims.get(issuer.models_claim)))
        try:
            told_of(models)
        except ValueError as error:
            raise AccessError(f"{issuer.models_claim}: {error}") from None
        return Caller(f"jwt:{subject}", rights, models, issuer.limits)  # never the name of an identity of the file


def _list(claim: object) -> Sequence[str]:
    """A claim as OAuth writes `scope`, or as a list; nothing where it is neither."""
    if isinstance(claim, str):
        return claim.split()
    return [each for each in claim if isinstance(each, str)] if isinstance(claim, list) else []


def _keys(path: Path) -> list[jwt.PyJWK]:
    data = content(path, "a JWKS file of public keys")
    try:
        keys = list(jwt.PyJWKSet.from_json(data.decode()).keys)
    except Exception as error:  # PyJWTError, ValueError, TypeError
        raise AccessError(f"{path}: expected a JWKS file of public keys, got none ({type(error).__name__})") from None
    for each in keys:
        if each.key_type not in ("RSA", "EC", "OKP") or hasattr(each.key, "private_bytes"):
            raise AccessError(f"{path}: expected public keys of types RSA, EC or OKP, got another or a private one")
    return keys
