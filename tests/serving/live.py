"""A whole server in this process: a real front and real replicas on one event loop, and a reward service beside it."""

import asyncio
import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from protos.tiltserve.v1 import reward_pb2, reward_pb2_grpc
from serving.access.guards import OPEN_FRONT, OPEN_REPLICA, FrontGuards, ReplicaGuards
from serving.fleet.directory import DirectoryClient, LocalDirectory
from serving.front.server import Front
from serving.replica import Replica
from tests import networks
from tests.unmodified import inferred, tensors

Floats = NDArray[np.float32]
MODE = 3
CENTRE = networks.modes()[MODE].numpy()


def nearness(x: Floats) -> Floats:
    """-|x - m|^2 to a mode of the rings."""
    return -((x - CENTRE) ** 2).sum(axis=1)


def near(samples: Floats) -> float:
    """The share of samples at that mode."""
    return float(np.mean(np.linalg.norm(samples - CENTRE, axis=1) < 1))


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


class Service(reward_pb2_grpc.RewardServicer):
    """A reward service that notes its calls; `answer` may be replaced."""

    def __init__(self) -> None:
        self.answer: Callable[[Floats], Any] = nearness
        self.requests: list[reward_pb2.ScoreRequest] = []
        self.left = threading.Event()
        """Set when a caller hung up on a call."""
        self.port = 0
        self.start()

    def start(self) -> None:
        """On the port it had, if it had one."""
        self.server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        reward_pb2_grpc.add_RewardServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()

    def reset(self) -> None:
        self.answer = nearness
        self.requests.clear()
        self.left.clear()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def rows(self) -> list[int]:
        return [request.candidates.shape[0] for request in self.requests]

    def Score(self, request: reward_pb2.ScoreRequest, context: grpc.ServicerContext) -> reward_pb2.ScoreReply:
        self.requests.append(request)
        done = threading.Event()
        context.add_callback(lambda: None if done.is_set() else self.left.set())
        x = np.frombuffer(request.candidates.data, "<f4").reshape(request.candidates.shape)
        scores = self.answer(x)
        done.set()
        return reward_pb2.ScoreReply(scores=scores)


class Live:
    """The server; `replicas` may be looked into. `front` are settings of the front, the others of replicas."""

    replicas: list[Replica]
    front: Front

    def __init__(
        self,
        models: Path,
        count: int = 1,
        poll_s: float = 0.1,
        front: Mapping[str, Any] | None = None,
        guards: tuple[FrontGuards, ReplicaGuards] = (OPEN_FRONT, OPEN_REPLICA),
        directory: DirectoryClient | None = None,
        **settings: Any,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def start() -> None:
            self.directory = directory or LocalDirectory()
            self.replicas = [
                Replica(models, self.directory, drain_s=0.5, guards=guards[1], **settings) for _ in range(count)
            ]
            for replica in self.replicas:
                await replica.start()
            self.front = Front(self.directory, drain_s=0.5, poll_s=poll_s, guards=guards[0], **(front or {}))
            await self.front.start()

        self.on_loop(start())
        self.address = self.front.grpc_address

    def on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def stop(self) -> None:
        """Ends everything; no task of the event loop must be left."""

        async def stop() -> None:
            await self.front.stop()
            for replica in self.replicas:
                await replica.stop()
            async with asyncio.timeout(30):
                while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.01)

        self.on_loop(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def lose_busy(self) -> None:
        """Stop the servers of the replicas that have something to do, as if these were lost."""
        for replica in self.replicas:
            if replica._engine.backlog_rows:
                assert replica._server is not None
                self.on_loop(replica._server.stop(None))

    def infer(
        self,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        within: float = 60,
        model: str = "rings",
        **parameters: Any,
    ) -> tuple[dict[str, Floats], Any]:
        """Outputs and parameters of a request, which must come within so many seconds."""
        with triton.InferenceServerClient(self.address) as client:
            answer = inferred(
                client.infer(model, tensors(dict(inputs or {})), parameters=parameters, client_timeout=within)
            )
        return answer.outputs, answer.parameters

    def refusal(self, **parameters: Any) -> tuple[str, str]:
        """The status and the text of a request that must fail."""
        try:
            self.infer(**parameters)
        except InferenceServerException as error:
            return error.status().removeprefix("StatusCode."), error.message()
        raise AssertionError("expected a refusal, got an answer")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples on the front's page."""
        with urllib.request.urlopen(f"http://{self.front.metrics_address}/metrics", timeout=20) as page:
            families = text_string_to_metric_families(page.read().decode())
        samples = [sample for family in families for sample in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


@contextlib.contextmanager
def running(models: Path, **settings: Any) -> Iterator[Live]:
    live = Live(models, **settings)
    try:
        yield live
    finally:
        live.stop()
