"""Where replicas and fronts of a server find each other, and the address by which they do."""

import os
import socket

from deploy.access import inside
from deploy.settings import PREFIX, Settings
from deploy.wiring import connections
from serving.fleet.directory import DirectoryClient
from serving.fleet.remote import RemoteDirectory

EVERY = ("0.0.0.0", "::")
"""Hosts that stand for every address of a machine."""
ANNOUNCE = PREFIX + "ANNOUNCE"
DIRECTORY = "directory"


def directory(settings: Settings, internal: str) -> DirectoryClient:
    """The directories that the settings name, or this server's own in Ray, which only then is imported."""
    if settings.directory:
        return RemoteDirectory(
            settings.directory,
            release=settings.release,
            inside=inside(settings, internal),
            connections=connections(settings),
        )
    from serving.fleet.actor import RayDirectory

    return RayDirectory(named(settings, DIRECTORY))


def named(settings: Settings, name: str) -> str:
    """What something of this server is called in a Ray cluster that other releases may use too."""
    return name if settings.release == Settings.model_fields["release"].default else f"{settings.release}-{name}"


def announced(settings: Settings, bound: str) -> str:
    """The address by which others reach what is bound to a host here.

    The settings may come from another machine, as those of a replica in a Ray cluster do, so the variable of this one
    is looked at too.
    """
    if told := settings.announce or os.environ.get(ANNOUNCE):
        return told
    if bound not in EVERY:
        return bound
    if settings.directory:
        return own_address(settings.directory[0])
    import ray

    return str(ray.util.get_node_ip_address())


def own_address(other: str) -> str:
    """The address of this machine on the way to host:port. Nothing is sent; where there is no way, that of its name."""
    host, _, port = other.rpartition(":")
    try:
        family, kind, _, _, there = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(there)
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostbyname(socket.gethostname())
