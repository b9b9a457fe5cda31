"""Where Ray Serve's own gRPC server between deployments listens."""

import importlib

import ray

from deploy.settings import SettingsError
from serving.wire.channels import address

LISTEN = "add_port_to_grpc_server"
PLACES = ("ray._common.tls_utils", "ray.serve._private.replica")
"""Ray's private function that opens a port on all interfaces: where it is defined, and where Serve looks it up."""


LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def check_ray() -> None:
    """Look for the private names that `keep_to` needs.

    Raises:
        SettingsError: this version of Ray lacks one, so its port would be open on all interfaces.
    """
    for place in PLACES:
        try:
            found = hasattr(importlib.import_module(place), LISTEN)
        except ImportError:
            found = False
        if not found:
            raise SettingsError(f"ray: expected {place}.{LISTEN}, as in Ray 2.60, got Ray {ray.__version__} without it")


def keep_to(host: str) -> None:
    """Let Serve's own server between deployments, which nothing here uses, listen on `host`, or on loopback where that
    is every address.

    Serve starts one in each of its replicas once the deployment's constructor is through, on all interfaces, and has no
    setting for that.

    Raises:
        SettingsError: see `check_ray`.
    """
    check_ray()
    defined, used = map(importlib.import_module, PLACES)
    listen = getattr(defined, LISTEN)
    setattr(used, LISTEN, lambda server, _: listen(server, address(LOOPBACK.get(host, host), 0)))
