"""What breaks while the server works, as its clients see it: a status or the right bytes, and nothing left behind."""

import concurrent.futures
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from protos.tiltserve.v1 import reward_pb2, reward_pb2_grpc
from tests.e2e.conftest import Server, until
from tests.e2e.test_server import backlog, backlogs, infer, page, refusal, replicas, total

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STORM = 200


class Hanging(reward_pb2_grpc.RewardServicer):
    """Never answers; a call ends when its caller hangs up."""

    def __init__(self) -> None:
        self.asked, self.left = threading.Semaphore(0), threading.Semaphore(0)

    def Score(self, request: reward_pb2.ScoreRequest, context: grpc.ServicerContext) -> reward_pb2.ScoreReply:
        ended = threading.Event()
        context.add_callback(ended.set)
        self.asked.release()
        ended.wait(60)
        self.left.release()
        return reward_pb2.ScoreReply()


@pytest.fixture
def hanging(server: Server) -> Iterator[Hanging]:
    service = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    servicer = Hanging()
    reward_pb2_grpc.add_RewardServicer_to_server(servicer, service)
    service.add_insecure_port(server.reward)
    service.start()
    yield servicer
    service.stop(None).wait()


def ended(server: Server) -> float:
    """ModelInfer calls that are over on the front, however they ended."""
    return total(page(server), "tiltserve_requests_total", method="ModelInfer")


def work(count: int, seed: int) -> list[dict[str, Any]]:
    """Requests of many kinds, a third of them steered."""
    rng = random.Random(seed)
    return [
        {"samples": rng.randint(1, 6), "steps": rng.randint(5, 60), "seed": k}
        | {"solver": rng.choice(["dpmpp_2m", "heun", "ddim", "euler_ancestral"])}
        | ({"reward": "nearness", "reward_mode": k % 5} if k % 3 == 0 else {})  # not 5, whose price other tests count
        for k in range(count)
    ]


def drawn(client: triton.InferenceServerClient, request: dict[str, Any]) -> bytes:
    samples: NDArray[np.float32] = infer(client, "rings", **request)[0]["samples"]
    return samples.tobytes()


def whole(server: Server, lost: int) -> bool:
    """Two replicas with every model, none of them the lost process."""
    found = replicas(server)
    named = all({*server.models} <= {name for name, print_ in each.fingerprints.items() if print_} for each in found)
    return len(found) == 2 and named and lost not in {each.pid for each in found}


def test_a_network_that_gives_nan_is_an_internal_error(client: triton.InferenceServerClient):
    far = {"x_init": np.full((1, 2), 3e38, np.float32)}
    status, text = refusal(lambda: infer(client, "rings", far))
    assert status == "INTERNAL"
    assert "expected finite output at t=" in text
    assert infer(client, "rings")[0]["samples"].shape == (1, 2)


def test_priorities_are_read(client: triton.InferenceServerClient):
    expected = client.infer("rings", [], parameters={"seed": 1}).as_numpy("samples")
    for priority in (0, 1, 5, 9):
        result = client.infer("rings", [], parameters={"seed": 1}, priority=priority)
        assert np.array_equal(result.as_numpy("samples"), expected)
    for model in ("rings", "rings.network"):
        assert refusal(partial(client.infer, model, [], priority=10)) == (
            "INVALID_ARGUMENT", "parameter priority: expected an integer in 1..9, or 0 for 5, got 10"
        )  # fmt: skip


def test_a_hung_reward_hurts_only_its_own_request(
    server: Server, client: triton.InferenceServerClient, hanging: Hanging
):
    """It ends at its deadline, its call to the service with it, and meanwhile the others are answered."""
    request = {"samples": 8, "seed": 1, "reward": "brightness", "reward_scale": 2}
    with ThreadPoolExecutor(4) as pool:
        begin = time.monotonic()
        hung = [
            pool.submit(refusal, lambda: client.infer("rings", [], parameters=request, client_timeout=15))
            for _ in range(4)
        ]
        assert hanging.asked.acquire(timeout=15)
        for seed in range(4):
            assert infer(client, "rings", samples=2, seed=seed)[0]["samples"].shape == (2, 2)
        assert time.monotonic() - begin < 15
        assert {each.result(40)[0] for each in hung} == {"DEADLINE_EXCEEDED"}
    assert hanging.left.acquire(timeout=20)
    until(lambda: backlog(server) == 0, 10, "an empty backlog")


def test_a_storm_of_cancelled_calls_leaves_nothing(server: Server, client: triton.InferenceServerClient):
    before, quiet = ended(server), drawn(client, {"samples": 4, "seed": 3})
    rng = random.Random(0)
    over = threading.Semaphore(0)
    calls = []
    for k in range(STORM):
        parameters: dict[str, Any] = {"samples": rng.randint(1, 64), "steps": rng.randint(100, 1000), "seed": k}
        if k % 2:
            parameters |= {"reward": "nearness", "reward_mode": k % 8 - 1}  # not 5, whose price other tests count
        calls.append(client.async_infer("rings", [], lambda result, error: over.release(), parameters=parameters))
        if k % 10 == 9:
            time.sleep(0.01)
    for call in rng.sample(calls, STORM):
        call.cancel()
    for _ in range(STORM):
        assert over.acquire(timeout=20)
    until(lambda: backlog(server) == 0, 20, "an empty backlog")
    # every call that reached the front has ended there; a call that was cancelled at once may never have come
    until(lambda: ended(server) > before + 1, 10, "calls that ended")
    assert ended(server) <= before + 1 + STORM
    assert drawn(client, {"samples": 4, "seed": 3}) == quiet


def test_a_replica_killed_under_load(server: Server, client: triton.InferenceServerClient):
    """Each answer is that of a quiet server, whichever replica it was begun on."""
    requests = work(120, seed=2)
    quiet = [drawn(client, request) for request in requests]
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(drawn, client, request) for request in requests]
        concurrent.futures.wait(answers, return_when=concurrent.futures.FIRST_COMPLETED)
        rows = backlogs(server)
        victim = max(replicas(server), key=lambda each: rows[each.id]).pid
        os.kill(victim, signal.SIGKILL)
        assert [each.result(60) for each in answers] == quiet
    until(lambda: whole(server, victim), 120, "two replicas")
    until(lambda: backlog(server) == 0, 10, "an empty backlog")


def test_a_killed_front_comes_back(server: Server):
    """Its clients are told UNAVAILABLE and go on, on the channels they have; replicas drop what it had asked for."""
    pids = {each.pid for each in replicas(server)}
    # the front is the process that listens on the public port
    port = int(server.grpc.rpartition(":")[2])
    (front,) = [
        each
        for each in server.descendants()
        if any(c.status == "LISTEN" and c.laddr.port == port for c in each.net_connections("inet"))
    ]
    assert front.pid not in pids
    with triton.InferenceServerClient(server.grpc) as client, ThreadPoolExecutor(4) as pool:
        quiet = drawn(client, {"samples": 4, "seed": 3})
        long: dict[str, Any] = {"samples": 256, "steps": 1000, "solver": "euler"}
        running = [pool.submit(refusal, lambda: infer(client, "rings", **long)) for _ in range(4)]
        until(lambda: backlog(server) > 100_000, 20, "running rows")
        front.kill()
        ended, _ = concurrent.futures.wait(running, 20)
        assert {each.result()[0] for each in ended} == {"UNAVAILABLE"}
        assert len(ended) == 4

        statuses: set[str] = set()

        def answered() -> bool:
            try:
                return drawn(client, {"samples": 4, "seed": 3}) == quiet
            except InferenceServerException as error:
                statuses.add(error.status())
                return False

        until(answered, 60, "a new front")
        assert statuses <= {"StatusCode.UNAVAILABLE"}
        until(lambda: backlog(server) == 0, 10, "an empty backlog")
        assert {each.pid for each in replicas(server)} == pids
        until(lambda: server.fleet()["models"], 10, "the models")


def test_a_killed_directory_is_not_noticed(server: Server, client: triton.InferenceServerClient):
    """Ray starts another one; until the replicas have told it that they are there, the front goes on with what it
    knew."""

    def directories() -> list[psutil.Process]:
        found = []
        for each in server.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):  # the killed one, while it is waited for, among others
                found += [each] if "ray::Directory" in " ".join(each.cmdline()) else []
        return found

    request: dict[str, Any] = {"samples": 1, "seed": 3, "steps": 2}
    quiet = drawn(client, request)
    (lost,) = directories()
    lost.kill()

    def again() -> bool:
        assert drawn(client, request) == quiet
        return any(each.pid != lost.pid for each in directories())

    until(again, 60, "a new directory")
    end = time.monotonic() + 4  # a lease, and what it takes to ask
    while time.monotonic() < end:
        assert drawn(client, request) == quiet
    assert whole(server, lost.pid)
