"""From settings to what guards fronts and replicas."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from deploy.settings import KEYRING, Server, Settings, SettingsError
from serving.access import tokens
from serving.access.certificates import Certificates
from serving.access.guards import FrontGuards, Inside, ReplicaGuards
from serving.access.service import Service, secret
from serving.access.watched import AccessError, Watched
from serving.front import unix

Made = TypeVar("Made")


def check_guards(settings: Settings) -> None:
    """Read every file of certificates, keys and tokens once, before anything is started.

    Raises:
        SettingsError: one cannot be used.
    """
    guards = front_guards(settings, internal_token(settings))
    for flag, found in (("reward", settings.rewards), ("network", settings.networks)):
        for each in services(found).values():
            if isinstance(each, Service):
                _checked(partial(getattr, each, "headers"), flag)
    if (path := settings.socket) is not None:
        _checked(lambda: unix.check(path), "socket")
    anonymous = guards.tokens is not None and guards.tokens.get().anonymous is not None
    if anonymous and settings.far and not (settings.insecure or settings.tls_client_ca):
        raise SettingsError(
            "--tokens: expected no anonymous beyond this machine, or --insecure, got some: everybody who reaches "
            f"{settings.host} could do what it grants"
        )


def internal_token(settings: Settings) -> str:
    """What the file says that this server's processes show each other; "" where there is none."""
    path = settings.internal_token_file
    return "" if path is None else _checked(lambda: secret(path), "internal-token-file").get().decode()


def inside(settings: Settings, internal: str) -> Inside:
    """Between fronts, directories and replicas; `internal` is the token of this server's processes."""
    folder = settings.internal_tls
    if folder is None:
        return Inside(internal)
    chain, key, authority = (folder / name for name in KEYRING)
    return Inside(internal, _checked(lambda: Certificates(chain, key, authority), "internal-tls"))


def front_guards(settings: Settings, internal: str) -> FrontGuards:
    """What guards a front; `internal` is the token of this server's processes."""
    return FrontGuards(
        certificates=_public(settings),
        tokens=_tokens(settings),
        inside=inside(settings, internal),
        metrics_token=_metrics_token(settings),
    )


def replica_guards(settings: Settings, internal: str) -> ReplicaGuards:
    """What guards a replica: whoever may call it without a front needs the same token as there, and where a front asks
    for something else, or listens where only this user comes, nobody may."""
    closed = settings.tls_client_ca is not None or (settings.socket is not None and settings.tokens is None)
    return ReplicaGuards(_tokens(settings), inside(settings, internal), closed, _metrics_token(settings))


def services(found: Mapping[str, str | Server]) -> dict[str, str | Service]:
    """Servers of others by name, as settings give them."""
    return {
        name: each
        if isinstance(each, str)
        else Service(each.address, each.encrypted, each.ca, each.cert, each.key, each.token_file)
        for name, each in found.items()
    }


def _public(settings: Settings) -> Certificates | None:
    chain, key = settings.tls_cert, settings.tls_key
    if chain is None or key is None:
        return None
    return _checked(lambda: Certificates(chain, key, settings.tls_client_ca), "tls-cert")


def _tokens(settings: Settings) -> Watched[tokens.Table] | None:
    path = settings.tokens
    return None if path is None else _checked(lambda: tokens.watched(path), "tokens")


def _metrics_token(settings: Settings) -> Watched[bytes] | None:
    path = settings.metrics_token_file
    return None if path is None else _checked(lambda: secret(path), "metrics-token-file")


def _checked(make: Callable[[], Made], flag: str) -> Made:
    try:
        return make()
    except (AccessError, unix.PortError) as error:
        raise SettingsError(f"--{flag}: {str(error).removeprefix(f'{flag}: ')}") from None
