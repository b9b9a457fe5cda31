"""A directory over gRPC, with fronts and replicas that use it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc, tensor_pb2
from serving.access.certificates import Certificates
from serving.access.guards import OPEN_INSIDE, FrontGuards, Inside, ReplicaGuards
from serving.fleet import messages
from serving.fleet.directory import Directory, FrontState, Listing, ModelState, ReplicaState, Wish
from serving.fleet.remote import RemoteDirectory, UnreachableError, merged
from serving.fleet.server import LONGEST, SERVICE, DirectoryServer
from serving.wire.rows import Draws, Solves
from serving.wire.tensors import TensorSpec
from tests import networks
from tests.serving.certificates import Authority
from tests.serving.live import running, until

MODEL = ModelState(
    "digits", "12", "pipeline", "LOADING", "not yet\n", "f", (TensorSpec("x", "FP32", (-1, 2), True, True),),
    (TensorSpec("y", "INT64", ()),), "onnxruntime", "GPU", 256, 64,
    Draws({"steps": 5, "eta": 0.5, "solver": "heun", "karras": True}, False, {"text": 0.25}),
    Solves(("y0", "record"), 128), True,
)  # fmt: skip
WHOLE = ReplicaState(
    "a", "10.0.0.1:8005", 7, (MODEL, ModelState("n", "1", "network", "READY")), 2**40, True, 3,
    (Wish("digits", True, 2**60), Wish("n", False, 1)), 4,
)  # fmt: skip
TENSOR = tensor_pb2.Value(tensor=tensor_pb2.Tensor())


@contextlib.asynccontextmanager
async def served(
    directory: Directory | None = None, port: int = 0, inside: Inside = OPEN_INSIDE
) -> AsyncIterator[DirectoryServer]:
    server = DirectoryServer(directory, release="r", port=port, inside=inside)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def test_what_a_replica_tells_arrives_whole():
    assert messages.replica_state(messages.replica_report(WHOLE)) == WHOLE
    bare = replace(WHOLE, models=(replace(MODEL, draws=None, solves=None),))
    assert messages.replica_state(messages.replica_report(bare)) == bare

    async def body():
        async with served() as server:
            client = RemoteDirectory([server.address], release="r")
            assert {each.name: each for each in await client.beat(WHOLE)} == {each.name: each for each in WHOLE.wishes}
            listing = await client.listing()
            assert listing == server.directory.listing()
            assert listing.replicas == [WHOLE]
            await client.announce_front("a:1", "a:2")
            assert await client.fronts() == [FrontState("a:1", "a:2")]
            await client.leave("a")
            listing = await client.listing()
            assert listing.left == {"a"}
            assert listing.replicas == []
            await client.close()

    asyncio.run(body())


def test_other_releases_and_absurd_reports_are_refused():
    async def body():
        async with served() as server, grpc.aio.insecure_channel(server.address) as channel:
            stub = fleet_pb2_grpc.DirectoryStub(channel)
            report = fleet_pb2.ReplicaReport(id="a", address="b:1")

            async def refusal(call: Any) -> str:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                return f"{caught.value.code().name}: {caught.value.details()}"

            for call in (
                stub.Beat(fleet_pb2.BeatRequest(release="other", replica=report)),
                stub.Leave(fleet_pb2.LeaveRequest(release="other", replica_id="a")),
                stub.List(fleet_pb2.ListRequest(release="other")),
                stub.Announce(fleet_pb2.AnnounceRequest(release="other")),
            ):
                assert await refusal(call) == ("FAILED_PRECONDITION: directory: expected the release 'r', got 'other'")
            empty = stub.Beat(fleet_pb2.BeatRequest(release="r"))
            assert await refusal(empty) == (
                "INVALID_ARGUMENT: directory: expected ids and addresses of 1 to 256 characters, got 0"
            )
            long = stub.Leave(fleet_pb2.LeaveRequest(release="r", replica_id="a" * 257))
            assert (await refusal(long)).startswith("INVALID_ARGUMENT")
            model = fleet_pb2.ModelReport(name="m", draws=fleet_pb2.DrawsReport(defaults={"steps": TENSOR}))
            odd = fleet_pb2.ReplicaReport(id="a", address="b:1", models=[model])
            assert (await refusal(stub.Beat(fleet_pb2.BeatRequest(release="r", replica=odd)))) == (
                "INVALID_ARGUMENT: expected a flag, an integer, a number or a text, got tensor"
            )
            large = fleet_pb2.BeatRequest(release="r", replica=fleet_pb2.ReplicaReport(id="x" * LONGEST))
            assert (await refusal(stub.Beat(large))).startswith("INVALID_ARGUMENT: expected a request of at most")
            assert server.directory.listing().replicas == []

            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
            other = await refusal(health.Check(health_pb2.HealthCheckRequest(service="x")))
            assert other.startswith("NOT_FOUND")

    asyncio.run(body())


def test_a_directory_takes_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.fleet.directory.MOST", 2)

    async def body():
        now = 0.0
        async with served(Directory(lease_s=3, clock=lambda: now)) as server:
            client = RemoteDirectory([server.address], release="r")
            for name in "ab":
                await client.beat(ReplicaState(name, "x:1", 1))
            with pytest.raises(UnreachableError, match="RESOURCE_EXHAUSTED: directory: expected at most 2 entries"):
                await client.beat(ReplicaState("c", "x:1", 1))
            now += 4
            await client.beat(ReplicaState("c", "x:1", 1))
            many = tuple(Wish(str(k), True, k) for k in range(3))
            with pytest.raises(UnreachableError, match="expected wishes of at most 2 models, got 3"):
                await client.beat(ReplicaState("c", "x:1", 1, wishes=many))
            await client.close()

    asyncio.run(body())


def test_nobody_without_token_and_certificate_writes_there(tmp_path: Path):
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")

    def inside(token: str, of: Authority) -> Inside:
        pair = of.sign("one")
        return Inside(token, Certificates(pair.cert, pair.key, of.file))

    async def body():
        async with served(inside=inside("s" * 16, authority)) as server:
            client = RemoteDirectory([server.address], release="r", inside=inside("s" * 16, authority))
            await client.beat(WHOLE)
            assert (await client.listing()).replicas == [WHOLE]
            await client.close()
            for wrong, status in (
                (inside("t" * 16, authority), "UNAUTHENTICATED"),
                (inside("", authority), "UNAUTHENTICATED"),
                (inside("s" * 16, stranger), "UNAVAILABLE"),
                (OPEN_INSIDE, "UNAVAILABLE"),
            ):
                other = RemoteDirectory([server.address], release="r", inside=wrong)
                with pytest.raises(UnreachableError, match=status):
                    await other.listing()
                await other.close()

    asyncio.run(body())


def test_one_of_two_directories_may_end_and_begin_anew():
    async def body():
        async with served() as first, served() as second:
            client = RemoteDirectory([first.address, second.address], release="r")
            await client.beat(replace(WHOLE, beat=1))
            epoch = (await client.listing()).epoch
            await first.stop()
            await client.beat(replace(WHOLE, beat=2))
            assert [each.beat for each in (await client.listing()).replicas] == [2]
            async with served(port=int(first.address.rpartition(":")[2])):
                async with asyncio.timeout(60):  # until the channel has noticed
                    while len((await client.listing()).epoch) < len(epoch):  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.05)
                listing = await client.listing()
                assert [each.beat for each in listing.replicas] == [2]
                assert listing.epoch != epoch
            await second.stop()
            with pytest.raises(UnreachableError, match="UNAVAILABLE"):
                await client.listing()
            await client.close()

    asyncio.run(body())


def test_a_directory_that_hangs_holds_up_nobody():
    """As one whose cable was pulled: its connections are there, and nothing comes."""

    async def hang(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def body():
        methods = {name: grpc.unary_unary_rpc_method_handler(hang) for name in ("Beat", "Leave", "List", "Announce")}
        hung = grpc.aio.server()
        hung.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE.full_name, methods)])
        port = hung.add_insecure_port("127.0.0.1:0")
        await hung.start()
        async with served() as server:
            client = RemoteDirectory([f"127.0.0.1:{port}", server.address], release="r", timeout_s=3600)
            await client.beat(WHOLE)
            assert (await client.listing()).replicas == [WHOLE]
            await client.leave("a")
            assert (await client.listing()).replicas == []
            await client.close()
        await hung.stop(None)

    asyncio.run(asyncio.wait_for(body(), 60))


def test_lists_are_put_together():
    old, new = replace(WHOLE, beat=1), replace(WHOLE, beat=2)
    other = replace(WHOLE, id="b")
    first, second = Listing([old], frozenset("b"), "1", 3.0), Listing([new, other], frozenset(), "2", 4.0)
    assert merged([first, second]) == Listing([new], frozenset("b"), "1 2", 4.0)


@pytest.fixture
def loop() -> Iterator[Callable[[Any], Any]]:
    """Runs coroutines on an event loop of another thread."""
    import threading

    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, made).result(30)
    made.call_soon_threadsafe(made.stop)
    thread.join(10)
    made.close()


def test_a_server_whose_directory_is_elsewhere(tmp_path: Path, loop: Callable[[Any], Any]):
    """Fronts and replicas that share nothing but it, mutual TLS and a token; it begins anew under way."""
    networks.write_rings(tmp_path / "models")
    authority = Authority(tmp_path / "keys")
    pair = authority.sign("one")
    inside = Inside("s" * 16, Certificates(pair.cert, pair.key, authority.file))

    async def start(port: int) -> DirectoryServer:
        server = DirectoryServer(release="r", port=port, inside=inside)
        await server.start()
        return server

    server = loop(start(0))
    guards = FrontGuards(inside=inside), ReplicaGuards(inside=inside)
    client = RemoteDirectory([server.address], release="r", inside=inside)
    with running(tmp_path / "models", count=2, guards=guards, directory=client, announce="localhost") as live:
        until(lambda: len(live.front._roster.index.replicas) == 2)
        assert {each.address.partition(":")[0] for each in live.front._roster.index.replicas} == {"localhost"}
        quiet, _ = live.infer(seed=1, steps=2)
        loop(server.stop())
        assert (live.infer(seed=1, steps=2)[0]["samples"] == quiet["samples"]).all()
        server = loop(start(int(server.address.rpartition(":")[2])))

        def heard() -> bool:
            assert (live.infer(seed=1, steps=2)[0]["samples"] == quiet["samples"]).all()
            return len(server.directory.listing().replicas) == 2

        until(heard)
    assert server.directory.listing().replicas == []  # they have left
    loop(client.close())
    loop(server.stop())
