"""The engine with real networks: who shares a call must not matter, and nobody's end may hurt the others."""

import copy
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import steering
from serving.backends import Array, OutOfMemoryError, UnavailableError
from serving.backends.costs import Costs
from serving.backends.ort import OrtNetwork
from serving.engine.admission import DeadlineError
from serving.engine.engine import DeadlinePassedError, Engine, QueueFullError
from serving.engine.scheduler import DEFAULT
from serving.engine.task import Evaluation, External, Network, Routine, State, Task
from serving.models.model import Model, PlainModel, Sampler
from serving.requests import job
from serving.wire.answer import Answer
from serving.wire.kserve import InferRequest
from steering.posteriors import Bank
from tests import networks
from tests.serving.conftest import Gated

X = np.linspace(-3, 3, 80, dtype=np.float32).reshape(40, 2)


def ask(model: str, inputs: dict[str, Array] | None = None, **parameters: Any) -> InferRequest:
    return InferRequest(model, inputs=inputs or {}, parameters=parameters)


def start(engine: Engine, models: dict[str, Model], request: InferRequest) -> "Future[Answer]":
    return engine.submit(job.task_for(request, models[request.model], models))


def same(one: Answer, other: Answer) -> bool:
    return one.parameters == other.parameters and {k: (v.shape, v.tobytes()) for k, v in one.outputs.items()} == {
        k: (v.shape, v.tobytes()) for k, v in other.outputs.items()
    }


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def evaluations(network: Network, x: Array, times: int, closed: threading.Event | None = None) -> Routine:
    """Evaluates x so often; the result is the list of outputs."""
    mode = np.zeros(len(x), np.int64)
    try:
        replies = []
        for _ in range(times):
            (reply,) = yield Evaluation(network, {"x": x, "mode": mode}, ("reward",), len(x))
            replies.append(reply)
        return replies
    finally:
        if closed is not None:
            closed.set()


@pytest.fixture
def gated(models: dict[str, Model]) -> Iterator[Gated]:
    """The reward network `nearness` behind a shut gate."""
    gated = Gated(models["nearness"].network)
    yield gated
    gated.gate.set()


def crowd() -> list[InferRequest]:
    """33 requests: models, solvers, step counts, sample counts, conditions, steering, and raw networks."""
    requests = [
        ask("rings", samples=5, seed=1),
        ask("rings", samples=70, seed=2, steps=6),  # more than one sampler's group
        ask("rings", samples=3, seed=3, solver="heun", steps=7),
        ask("rings", samples=1, seed=4, solver="ddim", steps=12, eta=1.0),
        ask("rings", {"x_init": X[:4]}, samples=4, seed=5, solver="euler", steps=9),
        ask("rings", samples=6, seed=6, reward="nearness", reward_mode=2, refresh=False),
        ask("rings", samples=2, seed=7, reward="nearness", reward_mode=5, posterior="gaussian", particles=8),
        ask("rings", samples=3, seed=8, reward="nearness", reward_mode=5, posterior="neighbours", beta=0.1, steps=8),
        ask("rings", {"reward_direction": X[7]}, samples=4, seed=9, reward="linear", solver="ddim", eta=0.5, steps=10),
        ask("rings", samples=4, seed=10, reward="nearness", reward_mode=1, steering="none", steps=5),
        ask("stripes", {"label": np.array([2])}, samples=3, seed=11, guidance=2.5, steps=8),
        ask("stripes", {"label": np.arange(4)}, samples=4, seed=12, solver="heun", steps=4),
        ask("rings.network", {"x": X[:9], "t": np.linspace(0.1, 0.9, 9, dtype=np.float32)}),
        ask("nearness", {"x": X, "mode": np.arange(40) % 8}),
    ]
    solvers = ["dpmpp_2m", "ddim", "euler", "heun"]
    requests += [
        ask("rings", samples=1 + i % 6, seed=100 + i, solver=solvers[i % 4], steps=3 + i)
        if i % 3
        else ask(
            "rings",
            samples=1 + i % 4,
            seed=100 + i,
            solver=solvers[i % 4],
            reward="nearness",
            reward_mode=i % 8,
            refresh=False,  # its network calls would drown those that are to be shared
        )
        for i in range(19)
    ]
    assert len(requests) == 33
    return requests


def test_bytes_alone_equal_bytes_among_32_others(models, make_engine, gated: Gated):
    requests = crowd()
    alone, together = make_engine(), make_engine(max_bucket=12)
    expected = [start(alone.engine, models, request).result(60) for request in requests]
    holding = together.engine.submit(Task(model="m", program=evaluations(gated.network, X[:1], 1), network_rows=1))
    assert gated.entered.wait(20)
    running = [start(together.engine, models, request) for request in reversed(requests)][::-1]
    gated.gate.set()  # all are in
    holding.result(20)
    answers = [future.result(120) for future in running]
    for request, one, other in zip(requests, expected, answers, strict=True):
        assert same(one, other), request.parameters

    def of(metrics, model: str, name: str) -> float:
        return metrics.registry.get_sample_value(name, {"model": model})

    # the comparison says something only if calls were shared
    fuller = of(together.metrics, "rings", "tiltserve_network_seconds_count")
    assert fuller < 0.7 * of(alone.metrics, "rings", "tiltserve_network_seconds_count")
    assert alone.engine.backlog_rows == together.engine.backlog_rows == 0


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "ddim"])
@pytest.mark.parametrize("steered", [False, True], ids=["plain", "steered"])
def test_bytes_equal_those_of_the_notebook(models, make_engine, solver: str, steered: bool):
    """steering.run on the same graph, tile by tile, against the engine."""
    rings, nearness, n = models["rings"], models["nearness"], 70
    eta = 0.7 if solver == "ddim" else 0.0
    parameters: dict[str, Any] = {"samples": n, "seed": 3, "solver": solver, "steps": 6, "eta": eta}
    if steered:
        parameters |= {"reward": "nearness", "reward_mode": 3, "beta": 0.5, "particles": 8}
    answer = start(make_engine().engine, models, ask("rings", **parameters)).result(60)

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rings.network.backend.run({"x": x.numpy(), "t": t.numpy()}, ["x0"])[0])

    def reward(x: torch.Tensor) -> torch.Tensor:
        feeds = {"x": x.numpy(), "mode": np.full(len(x), 3)}
        return torch.from_numpy(nearness.network.backend.run(feeds, ["reward"])[0])

    plan = steering.plan(solver, path=rings.path, steps=6, prediction="x0", eta=eta)
    tilt = steering.Doob(reward, 0.5, 8, Bank(rings.known.cloud, rings.known.local(None))) if steered else None
    x, report = steering.run(plan, network, (n, 2), 3, tilt, report=True)
    assert answer.outputs["samples"].tobytes() == x.numpy().tobytes()
    assert answer.parameters["network_rows"] == report.network_rows == n * plan.rows
    assert answer.parameters["reward_rows"] == report.reward_rows
    if steered:
        assert report.rewards is not None
        assert answer.outputs["rewards"].tobytes() == report.rewards.numpy().tobytes()


def test_a_sample_does_not_depend_on_how_many_are_drawn(models, make_engine):
    engine = make_engine().engine
    many, few = (
        start(engine, models, ask("rings", samples=n, seed=9, reward="nearness", reward_mode=6)).result(60)
        for n in (67, 5)
    )
    assert many.outputs["samples"][:5].tobytes() == few.outputs["samples"].tobytes()
    assert many.outputs["samples"].tobytes() != start(engine, models, ask("rings", samples=67, seed=10)).result(
        60
    ).outputs["samples"].tobytes()  # fmt: skip


def test_steering_goes_where_the_reward_is(models, make_engine):
    engine = make_engine().engine
    mode = networks.modes()[3].numpy()
    ask_for: dict[str, Any] = {"samples": 64, "seed": 1}
    plain = start(engine, models, ask("rings", **ask_for)).result(60)
    steered = start(engine, models, ask("rings", **ask_for, reward="nearness", reward_mode=3, beta=0.2)).result(60)
    near = [np.mean(np.linalg.norm(each.outputs["samples"] - mode, axis=1) < 1) for each in (plain, steered)]
    assert near[0] < 0.4
    assert near[1] > 0.95
    assert plain.parameters["network_rows"] == steered.parameters["network_rows"]
    assert np.isclose(steered.outputs["rewards"], -((steered.outputs["samples"] - mode) ** 2).sum(1), atol=1e-4).all()


@pytest.mark.parametrize("heavy", [False, True])
def test_programs_compute_on_one_thread_whatever_others_are_set_to(make_engine, models, heavy: bool):
    """Where nobody says so on the thread itself, MKL divides a logarithm of 400 numbers among all cores."""

    def threads() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    def program() -> Routine:
        yield Evaluation(models["nearness"].network, {"x": X[:2], "mode": np.zeros(2, np.int64)}, ("reward",), 2)
        before = threads()
        torch.log(torch.rand(4, 400, dtype=torch.float64))
        return threads() - before, torch.get_num_threads()

    task = Task(model="m", program=program(), network_rows=2, heavy=heavy)
    assert make_engine().engine.submit(task).result(20) == (0, 1)


def test_cancelling_frees_rows_before_the_next_call_and_closes_the_program(make_engine, gated: Gated):
    engine, closed = make_engine(max_bucket=16).engine, threading.Event()
    first = engine.submit(Task(model="m", program=evaluations(gated.network, X, 3, closed), network_rows=120))
    assert gated.entered.wait(20)
    other = engine.submit(Task(model="m", program=evaluations(gated.network, X[:4] + 100, 1), network_rows=4))
    until(lambda: engine.backlog_rows == 124)
    assert first.cancel()
    gated.gate.set()
    (reply,) = other.result(20)
    assert len(reply) == 4
    assert closed.wait(20)
    ours = [call["x"][call["x"][:, 0].astype(float) < 50] for call in gated.calls]
    assert len(ours[0]) == 16  # the call that was under way
    assert len(gated.calls) == 2
    assert not len(ours[1])
    until(lambda: engine.backlog_rows == 0)
    with pytest.raises(CancelledError):
        first.result(0)


def test_cancelling_before_the_first_call_runs_nothing(make_engine, gated: Gated):
    engine, closed = make_engine().engine, threading.Event()
    holding = engine.submit(Task(model="m", program=evaluations(gated.network, X[:2], 1), network_rows=2))
    assert gated.entered.wait(20)
    never = engine.submit(Task(model="m", program=evaluations(gated.network, X[:3] + 100, 1, closed), network_rows=3))
    assert never.cancel()
    gated.gate.set()
    holding.result(20)
    until(lambda: engine.backlog_rows == 0)
    assert len(gated.calls) == 1


def test_a_full_queue_refuses_and_takes_requests_again_later(make_engine, models, gated: Gated):
    engine = make_engine(max_queue_rows=100).engine
    with pytest.raises(QueueFullError, match=r"0 network rows wait, 101 more .* at most 100"):
        engine.submit(Task(model="m", program=evaluations(gated.network, X, 1), network_rows=101))
    holding = engine.submit(Task(model="m", program=evaluations(gated.network, X, 1), network_rows=40))
    assert gated.entered.wait(20)
    request = ask("rings", samples=4, steps=20, seed=1)
    with pytest.raises(QueueFullError, match="queue full: 40 network rows wait, 80 more") as caught:
        start(engine, models, request)
    assert job.request_error(caught.value).code.name == "RESOURCE_EXHAUSTED"
    gated.gate.set()
    holding.result(20)
    assert start(engine, models, request).result(20).outputs["samples"].shape == (4, 2)


def test_inputs_the_graph_refuses_fail_their_own_request_only(make_engine, models, gated: Gated):
    engine = make_engine().engine
    model = PlainModel("nearness", "1", gated.network, "f")
    shared = {**models, "nearness": model}
    holding = start(engine, shared, ask("nearness", {"x": X[:1], "mode": np.array([0])}))
    assert gated.entered.wait(20)
    requests = [ask("nearness", {"x": X[:3], "mode": np.full(3, mode)}) for mode in (1, 9, 2)]
    futures = [start(engine, shared, request) for request in requests]
    steered = start(engine, shared, ask("rings", samples=2, steps=4, seed=5, reward="nearness", reward_mode=2))
    gated.gate.set()
    holding.result(20)
    with pytest.raises(Exception, match="an index out of bounds in a Gather") as caught:
        futures[1].result(20)
    error = job.request_error(caught.value)
    assert error.code.name == "INVALID_ARGUMENT"
    assert "expected inputs the network accepts, got:" in error.detail
    assert any(9 in call["mode"] and 1 in call["mode"] and 2 in call["mode"] for call in gated.calls), "no shared call"
    alone = make_engine().engine
    for future, request in ((futures[0], requests[0]), (futures[2], requests[2])):
        assert future.result(20).outputs["reward"].tobytes() == (
            start(alone, models, request).result(20).outputs["reward"].tobytes()
        )
    assert np.isfinite(steered.result(20).outputs["samples"]).all()
    assert engine.backlog_rows == 0


def test_a_label_out_of_range_is_the_callers_fault(make_engine, models):
    """Where nothing says what the range is, the graph does."""
    engine = make_engine().engine
    loose = copy.copy(models["stripes"])
    loose.adapter = replace(loose.adapter, card=networks.STRIPES)
    models = {**models, "stripes": loose}
    future = start(engine, models, ask("stripes", {"label": np.array([7])}, samples=2, steps=3))
    beside = start(engine, models, ask("stripes", {"label": np.array([1])}, samples=2, steps=3))
    with pytest.raises(Exception, match="an index out of bounds in a Gather") as caught:
        future.result(20)
    assert job.request_error(caught.value).code.name == "INVALID_ARGUMENT"
    assert beside.result(20).outputs["samples"].shape == (2, 1, 4, 4)


@pytest.mark.parametrize("steering_parameter", ["doob", "none"])
def test_a_reward_that_is_nan_fails_its_own_request_only(make_engine, models, steering_parameter: str):
    engine = make_engine().engine
    bad = start(engine, models, ask("rings", samples=2, steps=4, reward="nan", steering=steering_parameter))
    good = start(engine, models, ask("rings", samples=2, steps=4, reward="nearness", reward_mode=0))
    with pytest.raises(steering.SteeringError) as caught:
        bad.result(20)
    error = job.request_error(caught.value)
    assert error.code.name == "FAILED_PRECONDITION"
    assert error.detail == "reward 'nan': expected finite values or -inf, got NaN"
    assert np.isfinite(good.result(20).outputs["rewards"]).all()
    assert engine.backlog_rows == 0


def test_a_network_that_is_nan_is_the_servers_fault(make_engine, models):
    rings = models["rings"]
    nan = models["nan"].network.backend

    class Broken:
        inputs, outputs, kind = rings.network.backend.inputs, rings.network.backend.outputs, "nan"
        invariant, sizes, close = True, rings.network.backend.sizes, rings.network.backend.close

        def run(self, feeds, outputs):
            (score,) = nan.run({"x": feeds["x"]}, ["reward"])
            return [np.stack([score, score], axis=1)]

    broken = Sampler("rings", "1", rings.card, rings.path, Network("rings", Broken(), rings.network.costs), "d")
    with pytest.raises(steering.NetworkError) as caught:
        make_engine().engine.submit(job.task_for(ask("rings", steps=3), broken, models)).result(20)
    error = job.request_error(caught.value)
    assert error.code.name == "INTERNAL"
    assert "expected finite output at t=" in error.detail


def test_a_graph_whose_output_has_other_rows_fails_and_the_engine_lives(make_engine, models, tmp_path):
    """The positions of the non-zero entries: as many rows as there are such entries."""
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["by_axis"]), helper.make_node("Transpose", ["by_axis"], ["where"])],
        "nonzero",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("where", TensorProto.INT64, ["m", 2])],
    )
    network = Network("nonzero", OrtNetwork(networks.write_graph(tmp_path / "nonzero", graph), 1), Costs.guessed((3,)))
    shared = {**models, "nonzero": PlainModel("nonzero", "1", network, "f")}
    engine = make_engine().engine
    with pytest.raises(Exception, match=r"output 'where': expected 3 rows for 3, got shape \[6, 2\]") as caught:
        start(engine, shared, ask("nonzero", {"x": np.ones((3, 2), np.float32)})).result(20)
    assert job.request_error(caught.value).code.name == "INTERNAL"
    assert start(engine, shared, ask("rings", steps=2)).result(20).outputs["samples"].shape == (1, 2)


def test_background_rows_wait_for_all_others(make_engine, gated: Gated):
    eights, engine = Network("eights", gated, Costs.guessed((8,))), make_engine().engine
    gated.slower_s = 0.02  # the second thread brings the next rows meanwhile
    holding = engine.submit(Task(model="m", program=evaluations(eights, X[:1], 1), network_rows=1))
    assert gated.entered.wait(20)
    background = engine.submit(
        Task(model="m", program=evaluations(eights, X[:20] + 100, 2), network_rows=0, background=True)
    )
    front = [engine.submit(Task(model="m", program=evaluations(eights, X[:20], 3), network_rows=60)) for _ in range(2)]
    assert engine.backlog_rows == 121  # background rows are nobody's wait
    gated.gate.set()
    for future in (holding, background, *front):
        future.result(20)
    behind = [bool((call["x"].astype(float) > 50).any()) for call in gated.calls]
    assert sum(behind) == 6
    assert behind == sorted(behind)


def test_the_backlog_is_exact_and_returns_to_zero(make_engine, models, gated: Gated):
    engine = make_engine(max_bucket=8).engine
    holding = engine.submit(Task(model="m", program=evaluations(gated.network, X[:1], 1), network_rows=1))
    assert gated.entered.wait(20)
    futures = [start(engine, models, request) for request in crowd()]
    rows = 0
    for request in crowd():
        task = job.task_for(request, models[request.model], models)
        rows += task.network_rows
        task.program.close()
    assert engine.backlog_rows == rows + 1
    gated.gate.set()
    holding.result(20)
    drawn = [future.result(60) for future in futures]
    until(lambda: engine.backlog_rows == 0)
    assert sum(int(each.parameters.get("network_rows", 0)) for each in drawn) == rows - 49  # two plain requests: 9 + 40
    assert engine.stalled_for() == 0


def test_cancelling_while_tasks_end_never_stops_the_engine(make_engine, models):
    engine = make_engine().engine
    network = models["nearness"].network
    for i in range(200):
        future = engine.submit(Task(model="m", program=evaluations(network, X[:2], 1 + i % 2), network_rows=2))
        time.sleep((i % 10) * 5e-5)
        future.cancel()
    assert len(engine.submit(Task(model="m", program=evaluations(network, X, 1), network_rows=40)).result(20)[0]) == 40
    assert engine.backlog_rows == 0


def test_a_future_cancelled_at_the_last_moment_does_not_stop_the_engine(make_engine, models):
    """The caller leaves just when the engine has looked whether it did."""

    class Leaving(Future):  # type: ignore[type-arg]
        def cancelled(self) -> bool:
            before = super().cancelled()
            self.cancel()
            return before

    engine = make_engine().engine
    network = models["nearness"].network
    engine.submit(Task(model="m", program=evaluations(network, X[:2], 1), network_rows=2, future=Leaving()))
    assert len(engine.submit(Task(model="m", program=evaluations(network, X, 1), network_rows=40)).result(20)[0]) == 40


def test_stopping_fails_what_still_runs(make_engine, gated: Gated):
    engine, closed = make_engine().engine, threading.Event()
    running = engine.submit(Task(model="m", program=evaluations(gated.network, X, 5, closed), network_rows=200))
    assert gated.entered.wait(20)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    until(lambda: engine._stopping)
    with pytest.raises(QueueFullError, match="stopped"):
        engine.submit(Task(model="m", program=evaluations(gated.network, X, 1), network_rows=40))
    gated.gate.set()
    stopping.join(20)
    assert not stopping.is_alive()
    with pytest.raises(QueueFullError, match="the engine has stopped"):
        running.result(0)
    assert closed.is_set()
    assert len(gated.calls) < 10


def test_rows_are_counted_by_kind(make_engine, models):
    made = make_engine()
    asked = ask("rings", samples=3, steps=5, reward="nearness", reward_mode=1, refresh=False)
    answer = start(made.engine, models, asked).result(20)
    sample = made.metrics.registry.get_sample_value
    assert sample("tiltserve_rows_total", {"model": "rings", "kind": "network"}) == 15
    assert sample("tiltserve_rows_total", {"model": "nearness", "kind": "reward"}) >= answer.parameters["reward_rows"]
    assert sample("tiltserve_queue_seconds_count", {"model": "rings"}) == 1
    assert sample("tiltserve_bucket_fill_count", {"model": "rings"}) >= 5


def test_a_checked_graph_is_what_is_loaded(small_models):
    """Guards the fixtures: the graphs are real and whole."""
    for name in ("rings", "stripes", "nearness", "nan"):
        onnx.checker.check_model(onnx.load(small_models / name / "1" / "model.onnx"), full_check=True)


def limited(network: Network, most: int, sizes: list[int]) -> Network:
    """The same network, which has memory for so many rows only and notes the size of every call."""

    class Limited:
        inputs, outputs, kind = network.backend.inputs, network.backend.outputs, network.backend.kind
        invariant, sizes = True, network.backend.sizes

        def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
            rows = len(next(iter(feeds.values())))
            sizes.append(rows)
            if rows > most:
                raise OutOfMemoryError(f"no memory for {rows} rows")
            return network.backend.run(feeds, names)

        def close(self) -> None: ...

    return Network(network.name, Limited(), Costs.guessed((2, 4, 8, 16, 32)))


def test_out_of_memory_makes_calls_smaller_and_requests_survive(models, make_engine):
    sizes: list[int] = []
    network = limited(models["nearness"].network, 9, sizes)
    made = make_engine(max_bucket=32)
    (whole,) = models["nearness"].network.backend.run({"x": X, "mode": np.zeros(len(X), np.int64)}, ["reward"])
    for _ in range(2):
        (reply,) = made.engine.submit(Task(model="m", program=evaluations(network, X, 1), network_rows=40)).result(20)
        assert reply.tobytes() == whole.tobytes()
    assert sizes[:3] == [32, 16, 8]
    assert max(sizes[3:]) <= 8
    assert made.engine.backlog_rows == 0


def test_a_network_without_memory_for_any_call_fails_its_requests(models, make_engine):
    network = limited(models["nearness"].network, 1, [])
    future = make_engine().engine.submit(Task(model="m", program=evaluations(network, X, 1), network_rows=40))
    with pytest.raises(OutOfMemoryError) as caught:
        future.result(20)
    assert job.request_error(caught.value).code.name == "RESOURCE_EXHAUSTED"


def test_a_deadline_that_cannot_be_met_is_refused_with_the_estimate_and_counted(make_engine, gated: Gated):
    made = make_engine()
    slow = Network("slow", gated, Costs.guessed((1, 2, 4, 8, 16)))  # 1 ms a row, and a tenth for safety
    holding = made.engine.submit(
        Task(model="m", program=evaluations(gated.network, X, 100), network_rows=4000, network=slow)
    )
    assert gated.entered.wait(20)
    now = time.monotonic()

    def due(seconds: float, priority: int = DEFAULT) -> Task:
        program = evaluations(gated.network, X, 3)
        return Task(
            model="m",
            program=program,
            network_rows=100,
            network=slow,
            rows_at_once=40,
            deadline=now + seconds,
            priority=priority,
        )

    with pytest.raises(DeadlineError, match=r"cannot be met: the estimate is 4\.5\d* s") as caught:
        made.engine.submit(due(3, priority=9))
    assert job.request_error(caught.value).code.name == "RESOURCE_EXHAUSTED"
    taken = made.engine.submit(due(30))
    assert made.metrics.registry.get_sample_value("tiltserve_refused_total", {"model": "m", "reason": "deadline"}) == 1
    gated.gate.set()
    assert len(taken.result(20)) == 3
    holding.result(60)


def test_a_task_past_its_deadline_ends_and_its_rows_are_reclaimed(make_engine, gated: Gated):
    made, closed = make_engine(), threading.Event()
    deadline = time.monotonic() + 2
    future = made.engine.submit(
        Task(model="m", program=evaluations(gated.network, X, 5, closed), network_rows=200, deadline=deadline)
    )
    assert gated.entered.wait(20)
    time.sleep(max(0.0, deadline - time.monotonic()) + 0.1)
    gated.gate.set()
    with pytest.raises(DeadlinePassedError, match=r"the deadline passed when \d+ of 200 network rows") as caught:
        future.result(20)
    assert job.request_error(caught.value).code.name == "DEADLINE_EXCEEDED"
    assert closed.wait(20)
    reclaimed = made.metrics.registry.get_sample_value
    assert reclaimed("tiltserve_reclaimed_rows_total", {"model": "m", "reason": "deadline"}) >= 160
    assert reclaimed("tiltserve_deadline_misses_total", {"model": "m"}) == 1
    assert made.engine.backlog_rows == 0


def test_the_oldest_request_that_waits_has_an_age(make_engine, gated: Gated):
    made = make_engine()
    gated.slower_s = 0.05 + 3 * gated.network.costs.seconds(2)  # whatever it was measured to cost
    look = made.metrics.registry.get_sample_value
    holding = made.engine.submit(Task(model="m", program=evaluations(gated.network, X[:1], 1), network_rows=1))
    assert gated.entered.wait(20)
    assert look("tiltserve_queue_age_seconds") == 0  # its call has begun
    waiting = Task(model="m", program=evaluations(gated.network, X[:2] + 100, 1), network_rows=2, bytes=7, identity="a")
    future = made.engine.submit(waiting)
    before = time.monotonic() - waiting.submitted
    assert before <= look("tiltserve_queue_age_seconds") <= time.monotonic() - waiting.submitted
    assert (look("tiltserve_running_requests"), look("tiltserve_running_bytes")) == (2, 7)
    assert look("tiltserve_backlog_rows") == 3
    gated.gate.set()
    future.result(20)
    holding.result(20)
    assert look("tiltserve_running_requests") == look("tiltserve_queue_age_seconds") == 0
    assert look("tiltserve_cost_drift_ratio", {"model": gated.network.name}) > 1
    assert look("tiltserve_identity_rows_total", {"identity": "a", "kind": "network"}) == 2


def test_a_parked_task_past_its_deadline_ends_while_nothing_else_runs(make_engine):
    reply, started = Future[list[Array]](), threading.Event()

    def begin() -> Future[list[Array]]:
        started.set()
        return reply

    def program() -> Routine:
        yield External("elsewhere", 1, begin)

    future = make_engine().engine.submit(
        Task(model="m", program=program(), network_rows=0, deadline=time.monotonic() + 2)
    )
    assert started.wait(20)
    with pytest.raises(DeadlinePassedError):
        future.result(20)
    assert reply.cancelled()


def test_the_first_priority_is_served_first(make_engine, gated: Gated):
    eights, engine = Network("eights", gated, Costs.guessed((8,))), make_engine().engine
    holding = engine.submit(Task(model="m", program=evaluations(eights, X[:1], 1), network_rows=1))
    assert gated.entered.wait(20)
    last = engine.submit(Task(model="m", program=evaluations(eights, X[:20], 2), network_rows=40, priority=9))
    first = engine.submit(Task(model="m", program=evaluations(eights, X[:20] + 100, 2), network_rows=40, priority=1))
    gated.gate.set()
    for future in (holding, last, first):
        future.result(20)
    ahead = [bool((call["x"].astype(float) > 50).any()) for call in gated.calls[1:]]
    assert ahead == sorted(ahead, reverse=True)
    assert not ahead[-1]


def test_a_heavy_task_computes_while_the_network_goes_on(make_engine, models):
    network, computing, done = models["nearness"].network, threading.Event(), threading.Event()

    def heavy() -> Routine:
        yield Evaluation(network, {"x": X[:2], "mode": np.zeros(2, np.int64)}, ("reward",), 2)
        computing.set()
        assert done.wait(20)
        (reply,) = yield Evaluation(network, {"x": X[:2], "mode": np.zeros(2, np.int64)}, ("reward",), 2)
        return reply

    engine = make_engine().engine
    future = engine.submit(Task(model="m", program=heavy(), network_rows=4, heavy=True))
    assert computing.wait(20)
    assert len(engine.submit(Task(model="m", program=evaluations(network, X, 3), network_rows=120)).result(20)) == 3
    assert not future.done()
    assert engine.stalled_for() == 0
    done.set()
    assert len(future.result(20)) == 2


def test_a_heavy_task_that_is_cancelled_while_it_computes_is_closed(make_engine, models):
    computing, done, closed = threading.Event(), threading.Event(), threading.Event()

    def heavy() -> Routine:
        try:
            computing.set()
            assert done.wait(20)
            yield Evaluation(models["nearness"].network, {"x": X, "mode": np.zeros(40, np.int64)}, ("reward",), 40)
        finally:
            closed.set()

    engine = make_engine().engine
    future = engine.submit(Task(model="m", program=heavy(), network_rows=40, heavy=True))
    assert computing.wait(20)
    assert future.cancel()
    done.set()
    assert closed.wait(20)
    until(lambda: engine.backlog_rows == 0)
    assert (
        len(
            engine.submit(
                Task(model="m", program=evaluations(models["nearness"].network, X, 1), network_rows=40)
            ).result(20)
        )
        == 1
    )


def test_bounded_memory_refuses_what_does_not_fit(make_engine, models):
    made = make_engine(max_queue_bytes=1000)
    with pytest.raises(QueueFullError, match="memory full: requests under way take 0 bytes, 1001 more"):
        made.engine.submit(
            Task(model="m", program=evaluations(models["nearness"].network, X, 1), network_rows=40, bytes=1001)
        )
    assert made.metrics.registry.get_sample_value("tiltserve_refused_total", {"model": "m", "reason": "queue"}) == 1


def test_deterministic_rows_run_in_calls_of_one_size_where_sizes_change_bits(make_engine, models):
    """A real network that rounds otherwise by size: torch's products."""
    weights = torch.randn(784, 64, generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []

    class Products:
        inputs = outputs = ()
        kind, invariant = "torch", False

        def sizes(self, most: int) -> tuple[int, ...]:
            return (1, 2, 3, 4, 8, 16)

        def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
            sizes.append(len(feeds["x"]))
            return [(torch.from_numpy(feeds["x"]) @ weights).numpy()]

        def close(self) -> None: ...

    network = Network("products", Products(), Costs.guessed((1, 2, 3, 4, 8, 16)))
    x = np.random.default_rng(0).standard_normal((16, 784)).astype(np.float32)

    def program(rows: int) -> Routine:
        (reply,) = yield Evaluation(network, {"x": x[:rows]}, ("y",), rows)
        return reply

    engine = make_engine().engine

    def task(rows: int, **other: Any) -> Task:
        return Task(model="m", program=program(rows), network_rows=rows, network=network, rows_at_once=rows, **other)

    fixed = [engine.submit(task(rows, deterministic=True)).result(20) for rows in range(1, 17)]
    hurried = time.monotonic() + 20  # 3,000 evaluations are to come, it says, so others' calls would be small
    chain = Task(
        model="m",
        program=program(2),
        network_rows=6000,
        network=network,
        rows_at_once=2,
        deterministic=True,
        deadline=hurried,
    )
    fixed.append(engine.submit(chain).result(20))
    assert set(sizes) == {16}
    fixed.sort(key=len)
    assert all(each.tobytes() == fixed[-1][: len(each)].tobytes() for each in fixed)
    sizes.clear()
    loose = [
        engine.submit(Task(model="m", program=program(rows), network_rows=rows)).result(20) for rows in range(1, 17)
    ]
    assert len(set(sizes)) > 1
    assert any(each.tobytes() != loose[-1][: len(each)].tobytes() for each in loose)  # else nothing was tested


def test_requests_may_come_at_any_moment(make_engine, models):
    """Threads that switch as often as they can, requests with and without deadlines, and clients that leave."""
    engine, network = make_engine().engine, models["nearness"].network
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        futures = []
        for i in range(1500):
            deadline = time.monotonic() + 60 if i % 3 == 0 else math.inf
            task = Task(
                model="m",
                program=evaluations(network, X[:2], 2),
                network_rows=4,
                network=network,
                heavy=i % 5 == 0,
                deadline=deadline,
            )
            futures.append(engine.submit(task))
            if i % 7 == 0:
                futures.pop().cancel()
        assert all(len(future.result(60)) == 2 for future in futures)
    finally:
        sys.setswitchinterval(interval)
    assert engine.alive
    until(lambda: engine.backlog_rows == 0)


def test_a_server_that_cannot_be_reached_is_asked_once_for_a_call(make_engine, models):
    calls: list[int] = []
    all_in = threading.Event()

    class Away:
        inputs, outputs, kind = models["nearness"].network.backend.inputs, (), "away"
        invariant, sizes = True, models["nearness"].network.backend.sizes

        def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
            calls.append(len(feeds["x"]))
            assert all_in.wait(20)
            raise UnavailableError("nobody there")

        def close(self) -> None: ...

    engine, network = make_engine().engine, Network("away", Away(), Costs.guessed((32,)))
    futures = [engine.submit(Task(model="m", program=evaluations(network, X[:2], 1), network_rows=2)) for _ in range(9)]
    all_in.set()
    for future in futures:
        with pytest.raises(UnavailableError) as caught:
            future.result(20)
        assert job.request_error(caught.value).code.name == "UNAVAILABLE"
    assert len(calls) <= 2


def test_networks_share_the_time_however_many_outputs_they_are_asked_for(make_engine, gated: Gated, models):
    """Requests for the same outputs in another order wait in queues of their own."""
    gated.slower_s, slow = 0.005, Gated(models["nearness"].network, slower_s=0.005)
    slow.gate.set()
    one, other = Network("one", gated, Costs.guessed((8,))), Network("other", slow, Costs.guessed((8,)))
    order: list[str] = []

    def program(network: Network, outputs: tuple[str, ...]) -> Routine:
        for _ in range(10):
            yield Evaluation(network, {"x": X[:8], "mode": np.zeros(8, np.int64)}, outputs, 8)
            order.append(network.name)

    engine = make_engine().engine
    futures = [
        engine.submit(Task(model="m", program=program(one, ("reward",) * n), network_rows=0)) for n in (1, 2, 3, 4)
    ]
    futures.append(engine.submit(Task(model="m", program=program(other, ("reward",)), network_rows=0)))
    assert gated.entered.wait(20)
    gated.gate.set()
    for future in futures:
        future.result(20)
    assert order.index("other") < 8
    assert order[:40].count("other") >= 8


def test_engine_time_is_counted_by_phase(make_engine, models):
    began = time.monotonic()
    made = make_engine()
    request = ask("rings", samples=8, steps=20, seed=1, reward="nearness", reward_mode=1, refresh=False)
    answer = start(made.engine, models, request).result(60)
    assert answer.outputs["samples"].shape == (8, 2)
    made.engine.stop()
    value = made.metrics.registry.get_sample_value
    spent = {
        phase: value("tiltserve_engine_seconds_total", {"phase": phase}) or 0.0
        for phase in ("idle", "pack", "network", "reward", "update", "host")
    }
    assert all(seconds > 0 for seconds in spent.values()), spent
    assert sum(spent.values()) - spent["host"] <= time.monotonic() - began


def test_idle_time_is_counted_while_it_lasts(make_engine):
    """Not only when it ends: a server that has nothing to do for an hour looked busy."""
    made = make_engine()
    began = time.monotonic()
    idle = 0.0
    while not idle and time.monotonic() < began + 20:
        time.sleep(0.05)
        idle = made.metrics.registry.get_sample_value("tiltserve_engine_seconds_total", {"phase": "idle"}) or 0.0
    assert 0.5 < idle <= time.monotonic() - began + 1


def test_a_task_changes_its_state_only_as_the_table_says():
    """`become` is the one place; each change notes when it was."""
    network = Network("net", cast("Any", object()), Costs({1: 1.0}))
    task = Task(model="m", program=evaluations(network, X, 1), network_rows=40, network=network)
    before = task.since
    for state in (State.QUEUED, State.READY, State.COMPUTING, State.PARKED, State.READY, State.ENDED):
        assert task.become(state) >= 0
        assert task.state is state
        assert task.since >= before
    with pytest.raises(RuntimeError, match="expected no change from ENDED to QUEUED"):
        task.become(State.QUEUED)


@pytest.mark.parametrize("heavy", [False, True])
def test_one_request_of_an_identity_does_not_wait_for_the_hundred_of_another(make_engine, gated: Gated, heavy: bool):
    """Of equal requests, those of the second identity to come end among the first; without identities among the last.

    Heavy ones are updated on the second thread, which is shared in the same way."""
    ended: dict[str, list[str]] = {}
    gated.slower_s = 0.005  # else another thread's turn to run lasts some calls
    for names in (("", ""), ("alice", "bob")):
        engine, order = make_engine().engine, ended.setdefault(names[1], [])
        gated.gate.clear()
        gated.entered.clear()

        def submit(identity: str, who: str, engine: Engine = engine, order: list[str] = order) -> "Future[list[Array]]":
            program = evaluations(gated.network, X[:8], 4)
            task = Task(
                model="m", program=program, network_rows=32, network=gated.network, heavy=heavy, identity=identity
            )
            future = engine.submit(task)
            future.add_done_callback(lambda _: order.append(who))
            return future

        first = submit(names[0], "alice")
        assert gated.entered.wait(20)
        futures = [first, *(submit(names[0], "alice") for _ in range(99)), submit(names[1], "bob")]
        gated.gate.set()
        for future in futures:
            future.result(60)
        until(partial(lambda order: len(order) == 101, order))
    assert ended["bob"].index("bob") <= 12
    assert ended[""].index("bob") >= 80
