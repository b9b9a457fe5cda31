"""Rewards that their owners serve: a real service beside a real server, and what happens when it misbehaves."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends import Array
from serving.engine.engine import QueueFullError
from serving.engine.task import External, Routine, Task
from serving.rewards.external import lasting, most_rows
from serving.rewards.remote import Line, RemoteRewards, Rider
from serving.wire.errors import RequestError
from tests.serving.live import CENTRE, Floats, Live, Service, near, nearness, running, until

STEERED: dict[str, Any] = {"samples": 16, "seed": 1, "steps": 8, "reward": "mine", "beta": 0.2, "particles": 8}
BANK = 512


@pytest.fixture(scope="module")
def shared_service() -> Iterator[Service]:
    service = Service()
    yield service
    service.stop()


@pytest.fixture
def service(shared_service: Service) -> Service:
    shared_service.reset()
    return shared_service


@pytest.fixture(scope="module")
def live(small_models: Path, shared_service: Service) -> Iterator[Live]:
    rewards = {"mine": shared_service.address, "nowhere": "127.0.0.1:1"}
    with running(small_models, rewards=rewards, reward_s=4, remembered_s=0) as live:
        yield live


def test_it_steers_and_is_asked_as_the_request_says(live: Live, service: Service):
    plain, _ = live.infer(samples=64, seed=1)
    asked: dict[str, Any] = {"samples": 64, "seed": 1, "reward": "mine", "beta": 0.2}
    outputs, said = live.infer({"reward_towards": CENTRE}, reward_mode=3, reward_prompt="a ring", **asked)
    assert near(plain["samples"]) < 0.4
    assert near(outputs["samples"]) > 0.95
    np.testing.assert_allclose(outputs["rewards"], nearness(outputs["samples"]), rtol=1e-6)
    assert said["fingerprint"].endswith("-remote")
    request = service.requests[0]
    assert (request.reward, request.candidates.datatype) == ("mine", "FP32")
    assert (request.arguments["mode"].integer, request.arguments["prompt"].text) == (3, "a ring")
    assert request.arguments["towards"].tensor.data == CENTRE.tobytes()
    assert sum(service.rows) == said["reward_rows"] + said["setup_reward_rows"]
    assert live.metric("tiltserve_rows_total", model="mine", kind="reward") >= sum(service.rows)


def test_a_term_of_an_expression(live: Live, service: Service):
    outputs, _ = live.infer(**{**STEERED, "reward": "2 * mine(mode=3) + nearness(mode=3)"})
    assert service.requests[0].arguments["mode"].integer == 3
    np.testing.assert_allclose(outputs["rewards"], 3 * nearness(outputs["samples"]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "came"),
    [
        ("100000000000000000000", "100000000000000000000"),
        ("9223372036854775808", "9223372036854775808"),
        ("-9223372036854775809", "-9223372036854775809"),
        (r"'\ud800'", r"'\ud800'"),
    ],
)
def test_arguments_that_no_message_holds(live: Live, service: Service, given: str, came: str):
    assert live.refusal(**{**STEERED, "reward": f"mine(mode={given})"}) == (
        "INVALID_ARGUMENT",
        f"reward_mode of reward 'mine': expected an integer of 64 bits or text in UTF-8, got {came}",
    )
    assert not service.requests


def test_a_slow_service_stalls_nobody_else(live: Live, service: Service):
    gate = threading.Event()

    def slow(x: Floats) -> Floats:
        assert gate.wait(20)
        return nearness(x)

    service.answer = slow
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(live.infer, **STEERED)
        until(lambda: service.requests)
        live.infer(samples=8, seed=2)
        time.sleep(0.3)
        assert live.replicas[0]._engine.stalled_for() == 0  # health: it is not the engine that is slow
        assert live.replicas[0]._engine.backlog_rows == 128
        assert not waiting.done()
        gate.set()
        assert near(waiting.result(30)[0]["samples"]) == 1


def late(x: Floats) -> Floats:
    time.sleep(4.5)
    return nearness(x)


def raising(x: Floats) -> Floats:
    raise ValueError("boom")


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (lambda x: nearness(x)[1:], "FAILED_PRECONDITION", "reward 'mine': expected 512 scores, got 511"),
        (
            lambda x: np.where(np.arange(len(x)) == 7, np.nan, 0),
            "FAILED_PRECONDITION",
            "reward 'mine': expected finite scores or -inf, got nan for candidate 7 of 512",
        ),
        (
            lambda x: np.full(len(x), np.inf),
            "FAILED_PRECONDITION",
            "reward 'mine': expected finite scores or -inf, got inf for candidate 0 of 512",
        ),
        (
            raising,
            "FAILED_PRECONDITION",
            "reward 'mine': expected scores of 512 candidates from its service, got UNKNOWN: Exception calling "
            "application: boom",
        ),
        (late, "UNAVAILABLE", "reward 'mine': expected scores of 512 candidates from its service within 4 s, got none"),
    ],
    ids=["short", "nan", "inf", "raising", "late"],
)
def test_a_wrong_answer_fails_its_request_alone(
    live: Live, service: Service, answer: Callable[[Floats], Floats], code: str, text: str
):
    service.answer = answer
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(live.infer, samples=8, seed=2)
        assert live.refusal(**STEERED) == (code, text)
        beside.result(30)
    until(lambda: live.metric("tiltserve_backlog_rows") == 0)
    service.answer = nearness
    assert near(live.infer(**STEERED)[0]["samples"]) == 1


def test_an_unreachable_service_is_named_and_its_address_is_not(live: Live):
    expected = "reward 'nowhere': expected scores of 512 candidates, its service cannot be reached"
    assert live.refusal(**{**STEERED, "reward": "nowhere"}) == ("UNAVAILABLE", expected)


def test_only_configured_names_are_rewards(live: Live, service: Service):
    code, text = live.refusal(samples=1, reward="elsewhere")
    assert code == "INVALID_ARGUMENT"
    assert "unknown reward 'elsewhere', expected one of" in text
    assert "mine" in text
    assert not service.requests


def test_a_service_that_starts_again_is_found_again(live: Live, service: Service):
    service.stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(live.infer, **STEERED)  # gRPC tries again for three seconds
        time.sleep(0.7)
        service.start()
        assert near(waiting.result(30)[0]["samples"]) == 1


def test_requests_share_calls(live: Live, service: Service):
    def unhurried(x: Floats) -> Floats:
        time.sleep(0.03)
        return nearness(x)

    service.answer = unhurried
    asked = {**STEERED, "posterior": "gaussian"}  # every stage is local: a call each
    expected, _ = live.infer(**asked)
    alone = len(service.requests)
    assert alone == 9
    service.requests.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: live.infer(**{**asked, "seed": seed}), range(4)))
    assert answers[1][0]["samples"].tobytes() == expected["samples"].tobytes()  # each got the scores of its own rows
    assert len(service.requests) <= 1.6 * alone  # 4, if each had its own; 2, if they did not wait for each other
    assert max(service.rows) == 4 * 16 * 8
    service.requests.clear()
    with ThreadPoolExecutor(2) as pool:  # other arguments, other calls
        list(pool.map(lambda mode: live.infer(**asked, reward_mode=mode), range(2)))
    assert len(service.requests) == 2 * alone


def test_a_caller_that_leaves_ends_the_call(live: Live, service: Service):
    gate = threading.Event()

    def held(x: Floats) -> Floats:
        gate.wait(20)
        return nearness(x)

    service.answer = held
    code, _ = live.refusal(**STEERED, within=0.5)
    assert code == "DEADLINE_EXCEEDED"
    assert service.left.wait(5)
    until(lambda: live.metric("tiltserve_backlog_rows") == 0)
    gate.set()
    service.answer = nearness
    assert near(live.infer(**STEERED)[0]["samples"]) == 1


def test_scores_of_the_bank_are_remembered_for_a_time(small_models: Path, service: Service):
    with running(small_models, rewards={"mine": service.address}, remembered_s=3600) as live:
        _, first = live.infer(**STEERED)
        rows = sum(service.rows)
        assert rows == first["setup_reward_rows"] + first["reward_rows"]
        assert first["setup_reward_rows"] > BANK
        live.infer(**STEERED)
        assert sum(service.rows) == rows + first["reward_rows"]
        live.infer(**STEERED, reward_other=1)
        assert sum(service.rows) == 2 * rows + first["reward_rows"]


def test_scores_are_forgotten_after_that_time():
    async def body():
        rewards = {"mine": "127.0.0.1:1"}
        lived, brief, never = (RemoteRewards(rewards, remembered_s=s) for s in (3600, 0.05, 0))
        one, two = (lived.definitions["mine"].bind({"a": 1, "b": 2.0}) for _ in range(2))
        assert one.key == two.key
        assert one.key != lived.definitions["mine"].bind({"a": 1, "b": 2.5}).key
        assert lasting(one.key)
        first = brief.definitions["mine"].bind({}).key
        await asyncio.sleep(0.06)
        assert brief.definitions["mine"].bind({}).key != first
        once = never.definitions["mine"].bind({}).key
        assert once != never.definitions["mine"].bind({}).key
        assert not lasting(("expression", once))
        for each in (lived, brief, never):
            await each.close()

    asyncio.run(body())


def test_large_requests_leave_room_and_bad_ones_fail_alone(service: Service):
    """A bank of 3000 rows and others share calls of at most 1024; one that makes the service raise is sent alone."""
    gate, entered = threading.Event(), threading.Event()

    def answer(x: Floats) -> Floats:
        entered.set()
        assert gate.wait(20)
        if (x > 1e5).any():
            raise ValueError("too large")
        return x[:, 0]

    service.answer = answer

    async def body():
        rewards = RemoteRewards({"mine": service.address})
        definition = rewards.definitions["mine"]
        x = [np.full((n, 2), v, np.float32) for n, v in ((3000, 1), (10, 2), (5, 1e6), (7, 4))]
        tasks = []
        for each in x:
            tasks.append(asyncio.create_task(definition.bind({}).ask(each)))
            await asyncio.to_thread(entered.wait, 20)
        gate.set()
        for each, scores in zip((x[0], x[1], x[3]), await asyncio.gather(tasks[0], tasks[1], tasks[3]), strict=True):
            np.testing.assert_array_equal(scores, each[:, 0])
        with pytest.raises(RequestError, match="got UNKNOWN: Exception calling application: too large"):
            await tasks[2]
        await rewards.close()

    asyncio.run(body())
    assert service.rows[0] == 1024
    assert service.rows[1] == 1024
    assert max(service.rows) == 1024
    assert sum(service.rows) == 3022 + 1024  # the call that the bad rows were in, and its rows one by one


def test_a_call_ends_only_when_all_of_it_is_cancelled(service: Service):
    gate, entered = threading.Semaphore(0), threading.Semaphore(0)

    def answer(x: Floats) -> Floats:
        entered.release()
        assert gate.acquire(timeout=20)
        return x[:, 0]

    service.answer = answer

    async def body():
        rewards = RemoteRewards({"mine": service.address})
        definition = rewards.definitions["mine"]

        def ask(value: float) -> "asyncio.Task[Array]":
            return asyncio.create_task(definition.bind({}).ask(np.full((4, 2), value, np.float32)))

        first = ask(0)
        await asyncio.to_thread(entered.acquire)
        one, two = ask(1), ask(2)
        await asyncio.sleep(0.05)
        gate.release()
        await first
        await asyncio.to_thread(entered.acquire)  # both in one call
        one.cancel()
        await asyncio.sleep(0.1)
        assert not service.left.is_set()
        gate.release()
        assert (await two).tolist() == [2, 2, 2, 2]
        three = ask(3)
        await asyncio.to_thread(entered.acquire)
        three.cancel()
        assert await asyncio.to_thread(service.left.wait, 5)
        gate.release()
        await rewards.close()

    asyncio.run(body())
    assert service.rows == [4, 8, 4]


def test_rows_of_a_message_fit_grpcs_default_limit():
    assert most_rows((2,)) == 1024
    assert most_rows((1, 28, 28)) == 1003
    assert most_rows((3, 512, 512)) == 1
    assert most_rows((3, 1024, 1024)) == 1


def outside(future: "Future[list[Array]]", closed: threading.Event) -> Routine:
    """Waits for rows that somebody else evaluates."""
    try:
        (reply,) = yield External("mine", 3, lambda: future)
        return reply
    finally:
        closed.set()


def test_the_engine_parks_and_resumes(make_engine):
    made, future, closed = make_engine(), Future[list[Array]](), threading.Event()
    task = made.engine.submit(Task(model="m", program=outside(future, closed), network_rows=7))
    time.sleep(0.1)
    assert made.engine.stalled_for() == 0
    assert made.engine.backlog_rows == 7
    assert not closed.is_set()
    future.set_result([np.arange(3.0)])
    assert task.result(5).tolist() == [0, 1, 2]
    assert made.metrics.registry.get_sample_value("tiltserve_rows_total", {"model": "mine", "kind": "reward"}) == 3
    assert made.engine.backlog_rows == 0


def test_what_was_parked_long_is_not_stalled_when_it_wakes(make_engine):
    """Its wait begins anew: otherwise a slow service would have its replica replaced."""

    def program() -> Routine:
        yield External("mine", 1, begin)
        assert holding.wait(20)

    def begin() -> Future[list[Array]]:
        parked.set()
        return future

    made, future, parked, holding = make_engine(), Future[list[Array]](), threading.Event(), threading.Event()
    task = made.engine.submit(Task(model="m", program=program(), network_rows=1))
    assert parked.wait(20)
    time.sleep(2)
    future.set_result([])
    until(lambda: made.engine.stalled_for() > 0.05)  # the thread is in the program
    assert made.engine.stalled_for() < 1.5
    holding.set()
    task.result(5)


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_the_engine_cancels_what_is_parked(make_engine, how: str):
    engine, future, closed = make_engine().engine, Future[list[Array]](), threading.Event()
    task = engine.submit(Task(model="m", program=outside(future, closed), network_rows=1))
    until(lambda: not engine._inbox)
    if how == "cancel":
        task.cancel()
    else:
        engine.stop()
        assert isinstance(task.exception(5), QueueFullError)
    assert closed.wait(5)
    until(future.cancelled)
    until(lambda: engine.backlog_rows == 0)


def test_a_failure_outside_fails_its_task_alone(make_engine):
    engine, closed = make_engine().engine, threading.Event()
    futures = [Future[list[Array]]() for _ in range(3)]
    tasks = [engine.submit(Task(model="m", program=outside(each, closed), network_rows=1)) for each in futures]
    until(lambda: not engine._inbox)
    futures[0].set_exception(RuntimeError("lost"))
    futures[1].cancel()
    futures[2].set_result([np.zeros(3)])
    with pytest.raises(RuntimeError, match="lost"):
        tasks[0].result(5)
    with pytest.raises(Exception, match="reward 'mine': its evaluation was cancelled"):
        tasks[1].result(5)
    assert len(tasks[2].result(5)) == 3


def test_a_line_whose_loop_raised_serves_the_requests_that_come_after(monkeypatch: pytest.MonkeyPatch):
    async def body() -> None:
        async def ask(x: Any, records: object) -> Any:
            return nearness(x)

        line, x = Line("mine", ask, 64), np.zeros((3, 2), np.float32)
        rider = Rider(lambda event: line)

        def deliver(*_: object) -> None:
            monkeypatch.undo()
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(line, "_deliver", deliver)
        first = asyncio.create_task(rider.ask(x))
        await asyncio.sleep(0)
        second = asyncio.create_task(Rider(lambda event: line).ask(x[:2]))  # in that call or the next
        with pytest.raises(RequestError, match="reward 'mine': its call failed inside the replica"):
            await first
        await asyncio.gather(second, return_exceptions=True)
        np.testing.assert_array_equal(await rider.ask(x), nearness(x))

    asyncio.run(asyncio.wait_for(body(), 20))
