"""The file of identities: hashes of their tokens, what each may do, and whose JWTs are believed.

Tokens are 32 random bytes, so one SHA-256 is enough: nobody can try them out, with the file or without.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from protos.complaint import complaint
from serving.access.caller import NO_LIMITS, RIGHTS, Caller, Limits, Right, told_of
from serving.access.jwts import Issuer, Jwts
from serving.access.watched import LOOK_S, AccessError, Watched, content

PREFIX = "tilt_"
"""Of every token, so that scanners of repositories can find one that was left in the open."""
ANONYMOUS = "anonymous"
"""The name of whoever calls without a token."""
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


def new_token() -> str:
    """A token for somebody to send; the file gets `hashed` of it."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What the file holds of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _names(value: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected names of 1 to 64 letters, digits and . _ @ -, got {name[:80]!r}")
        if name == ANONYMOUS:  # its limits and regions of shared memory would be those of calls without a token
            raise ValueError(f"expected another name than {name!r}, which calls without a token have")
    return value


def _rights(value: Any) -> Any:
    rights = _one_or_more(value)
    return list(RIGHTS) if rights == ["all"] else rights


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Rights = Annotated[tuple[Right, ...], BeforeValidator(_rights)]


class Grant(BaseModel):
    """What somebody may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rights: Rights = ("metadata", "inference")
    models: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), AfterValidator(told_of)] = ("*",)
    limits: Limits = NO_LIMITS

    def caller(self, name: str) -> Caller:
        return Caller(name, frozenset(self.rights), self.models, self.limits)


class Identity(Grant):
    """Somebody with tokens: more than one while an old one is exchanged for a new one."""

    sha256: Annotated[tuple[Hash, ...], BeforeValidator(_one_or_more), Field(min_length=1)]


class File(BaseModel):
    """The file: identities by name, what calls without a token may do beside health, and JWTs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identities: Annotated[dict[str, Identity], AfterValidator(_names)] = Field(default_factory=dict)
    anonymous: Grant | None = None
    jwt: Issuer | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        owners: dict[str, str] = {}
        for name, identity in self.identities.items():
            for each in identity.sha256:
                if owners.setdefault(each, name) != name:
                    raise ValueError(
                        f"identities: expected a token of one identity, {owners[each]} and {name} share one"
                    )
        if not (self.identities or self.anonymous or self.jwt):
            raise ValueError("expected identities, jwt or anonymous, got none of them")
        return self


class Table:
    """The callers of one version of the file."""

    def __init__(self, file: File, jwts: Jwts | None) -> None:
        self._callers = {
            each: (each, item.caller(name)) for name, item in file.identities.items() for each in item.sha256
        }
        self.anonymous = None if file.anonymous is None else file.anonymous.caller(ANONYMOUS)
        self._jwts = jwts

    def caller(self, token: str) -> Caller:
        """Whose token it is.

        Raises:
            AccessError: nobody's, or a JWT that is not believed; the text is for the caller and repeats nothing of it.
        """
        found = self._callers.get(came := hashed(token))
        # a look-up may take longer for some than for others; that tells of hashes, and no hash leads to a token
        if found is not None and hmac.compare_digest(found[0], came):
            return found[1]
        if self._jwts is not None and token.count(".") == 2:
            return self._jwts.caller(token)
        raise AccessError("expected the token of a known identity, got another one")


def load(path: Path) -> Table:
    """The file and the keys that it names; AccessError with one line that holds no secret."""
    file = _file(path)
    return Table(file, Jwts(file.jwt, path.parent) if file.jwt is not None else None)


def watched(path: Path, every_s: float = LOOK_S) -> Watched[Table]:
    """`load`, again when the file changes or, where it names a file of keys, that one."""
    paths = [path]

    def read() -> Table:
        jwt = _file(path).jwt
        paths[1:] = [] if jwt is None else [path.parent / jwt.jwks]
        return load(path)

    return Watched(paths, read, every_s)


def _file(path: Path) -> File:
    try:
        found = yaml.safe_load(content(path, "a file of tokens", 2**24).decode())
    except UnicodeDecodeError:
        raise AccessError(f"{path}: expected a text file of tokens, got bytes that are no UTF-8") from None
    except yaml.YAMLError as error:  # its text may repeat what the file holds
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise AccessError(f"{path}: expected YAML, got something else{where}") from None
    except Exception as error:  # PyYAML's own, for dates and numbers that are none, and for depths
        raise AccessError(f"{path}: expected YAML, got what cannot be read ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise AccessError(f"{path}: expected keys and values, got {type(found).__name__}")
    try:
        return File.model_validate(found)
    except ValidationError as error:
        raise AccessError(f"{path}: {_fault(error)}") from None


def _fault(error: ValidationError) -> str:
    """The first fault; a hash that is none may be a token, so it is not repeated."""
    for fault in error.errors(include_url=False, include_input=False):
        if "sha256" in fault["loc"]:
            place = ".".join(str(each) for each in fault["loc"] if not isinstance(each, int))
            return f"{place}: expected hashes of tokens, 64 hexadecimal digits each (tiltserve token makes them)"
    return complaint(error, File)
