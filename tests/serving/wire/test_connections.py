"""How servers and channels are made as the settings say: sizes, compression, age, calls at a time."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.watching.watching import Watching
from serving.wire.channels import Connections
from tests.serving.live import Live, running
from tests.unmodified import tensors

MIB = 2**20
SMALL = Connections(max_message=4 * MIB, compression="gzip", max_age_s=1.0)


@pytest.fixture(scope="module")
def live(small_models: Path) -> Iterator[Live]:
    front = {"connections": SMALL, "watching": Watching(access_log=True)}
    with running(small_models, front=front, connections=SMALL) as live:
        yield live


@contextlib.contextmanager
def counted(address: str) -> Iterator[tuple[str, list[int]]]:
    """A way to a server on which bytes from it are counted."""
    host, _, port = address.rpartition(":")
    bytes_back = [0]

    def pass_on(source: socket.socket, to: socket.socket, back: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                bytes_back[0] += len(data) if back else 0
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as held:

        def listen() -> None:
            with contextlib.suppress(OSError):
                client = held.enter_context(listener.accept()[0])
                server = held.enter_context(socket.create_connection((host, int(port))))
                for each in ((client, server, False), (server, client, True)):
                    threading.Thread(target=pass_on, args=each, daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", bytes_back


def feeds(rows: int) -> list[Any]:
    return tensors({"x": np.zeros((rows, 2), np.float32), "t": np.full(rows, 0.5, np.float32)})


def test_answers_are_compressed_where_it_is_set(live: Live):
    with counted(live.address) as (address, bytes_back), triton.InferenceServerClient(address) as client:
        answer = client.infer("rings.network", feeds(100_000), client_timeout=60)
    assert answer.as_numpy(answer.get_response().outputs[0].name).nbytes == 800_000
    assert 0 < bytes_back[0] < 100_000  # all rows are equal


@pytest.mark.parametrize("kind", ["gzip", "deflate", None])
def test_requests_may_come_compressed(live: Live, kind: str | None):
    with triton.InferenceServerClient(live.address) as client:
        answer = client.infer("rings.network", feeds(1000), client_timeout=60, compression_algorithm=kind)
    assert len(answer.as_numpy(answer.get_response().outputs[0].name)) == 1000


@pytest.mark.parametrize("kind", ["gzip", None])
def test_messages_beyond_the_bound_are_refused(live: Live, kind: str | None):
    """Counted as what they are once they are decompressed."""
    with triton.InferenceServerClient(live.address) as client, pytest.raises(InferenceServerException) as caught:
        client.infer("rings.network", feeds(400_000), client_timeout=60, compression_algorithm=kind)
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert "larger than max" in caught.value.message()


def test_connections_end_and_no_request_does(live: Live, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("DEBUG", "tiltserve.access"), grpc.insecure_channel(live.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert stub.ServerLive(pb.ServerLiveRequest(), timeout=10).live
            time.sleep(0.02)
    assert len({each.fields["peer"] for each in caplog.records if each.name == "tiltserve.access"}) > 1  # type: ignore[attr-defined]


SERVER = """
import asyncio, resource, sys
import grpc
from serving.watching.watching import Watching
from serving.wire.channels import Connections

async def main():
    async def length(data, context):
        return str(len(data)).encode()

    server = grpc.aio.server(options=Connections(max_message=4 * 2**20, max_streams=2).front())
    methods = {"Length": grpc.unary_unary_rpc_method_handler(length)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", methods)])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await asyncio.to_thread(sys.stdin.readline)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, flush=True)

asyncio.run(main())
"""


def test_a_message_that_swells_takes_no_more_memory_than_one_may():
    """300 MiB that compress to 300 KiB."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options, grpc.Compression.Gzip) as channel:
            ask = channel.unary_unary("/test/Length")
            assert ask(bytes(3 * MIB), timeout=60) == str(3 * MIB).encode()
            with pytest.raises(grpc.RpcError, match="Decompressed message larger than max"):
                ask(bytes(300 * MIB), timeout=60)
        swollen, _ = server.communicate("\n", timeout=30)
        assert int(swollen) < 40
