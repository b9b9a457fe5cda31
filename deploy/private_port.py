"""Where Ray Serve's own gRPC server between deployments listens."""

from ray._common import tls_utils
from ray.serve._private import replica as serve_replica

from serving.wire.channels import address


def keep_to(host: str) -> None:
    """Let Serve's own server between deployments, which nothing here uses, listen on `host`.

    Serve starts one in each of its replicas once the deployment's constructor is through, on all interfaces, and has no
    setting for that.
    """
    listen = tls_utils.add_port_to_grpc_server
    vars(serve_replica)["add_port_to_grpc_server"] = lambda server, _: listen(server, address(host, 0))
