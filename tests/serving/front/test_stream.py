"""Streaming inference by unmodified Triton clients, through a real front to real replicas."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.models.model import Sampler
from tests import networks
from tests.serving.live import MODE, Live, running, until
from tests.unmodified import tensors

STEERED: dict[str, Any] = {"reward": "nearness", "reward_mode": MODE, "beta": 0.2, "particles": 8, "steps": 8}
LONG: dict[str, Any] = {"samples": 64, "steps": 1000}
LATE: dict[str, Any] = {"samples": 4000, "steps": 1000}
LATELY = "[StatusCode.DEADLINE_EXCEEDED]", "[StatusCode.RESOURCE_EXHAUSTED]"
"""How an error of a request begins that is late, or is foreseen to be."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    networks.write_rings(root)
    networks.write_stripes(root)
    networks.write_nearness(root)
    return root


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    with running(root) as live:
        yield live


@pytest.fixture(params=["front", "replica"])
def address(live: Live, request: pytest.FixtureRequest) -> str:
    return live.address if request.param == "front" else live.replicas[0]._address


def said(result: triton.InferResult) -> dict[str, Any]:
    """The parameters of a response."""
    parameters = result.get_response().parameters
    return {name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in parameters.items()}


class Stream:
    """A stream of the synchronous client; `answers` are in the order in which they came, errors as their text."""

    def __init__(self, address: str, **how: Any) -> None:
        self.came: SimpleQueue[triton.InferResult | InferenceServerException] = SimpleQueue()
        self.client = triton.InferenceServerClient(address)
        self.client.start_stream(lambda result, error: self.came.put(error or result), **how)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream(cancel_requests=True)
        self.client.close()

    def ask(self, name: str = "", inputs: dict[str, Any] | None = None, model: str = "rings", **how: Any) -> None:
        own = {key: how.pop(key) for key in ("timeout", "priority", "enable_empty_final_response") if key in how}
        asked = [triton.InferRequestedOutput(each) for each in how.pop("outputs", [])] or None
        self.client.async_stream_infer(
            model, tensors(inputs or {}), request_id=name, parameters=how, outputs=asked, **own
        )

    def next(self, within: float = 20) -> Any:
        return self.came.get(timeout=within)

    def result(self) -> triton.InferResult:
        came = self.next()
        assert isinstance(came, triton.InferResult), came
        return came

    def error(self) -> InferenceServerException:
        came = self.next()
        assert isinstance(came, InferenceServerException)
        return came

    def all(self) -> list[triton.InferResult]:
        """The responses to one request."""
        found = [self.result()]
        while not said(found[-1])["triton_final_response"]:
            found.append(self.result())
        return found


def test_answers_are_those_of_other_calls(live: Live, address: str):
    """Samples, steered samples, likelihoods, a raw network and a plain one: one response each, and the last."""
    x = np.array([[0.5, 1.0], [2.0, 0.0]], np.float32)
    asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("rings", {"samples": 3, "seed": 1}, {}),
        ("rings", {"samples": 3, "seed": 1, **STEERED}, {}),
        ("rings", {"seed": 1, "steps": 4, "likelihood": "data", "samples": 2}, {"x_init": x}),
        ("rings.network", {}, {"x": x, "t": np.array([0.3, 0.6], np.float32)}),
        ("nearness", {}, {"x": x, "mode": np.array([1, 2])}),
    ]
    with Stream(address) as stream:
        for model, parameters, inputs in asked:
            outputs, parameters_of = live.infer(inputs, model=model, **parameters)
            stream.ask("r", inputs, model, **parameters)
            (result,) = stream.all()
            assert (result.get_response().id, result.get_response().model_name) == ("r", model)
            assert {name: result.as_numpy(name).tobytes() for name in outputs} == {
                name: each.tobytes() for name, each in outputs.items()
            }
            assert said(result) == {**parameters_of, "triton_final_response": True}


def test_the_samples_can_be_made_of_the_previews(live: Live, address: str):
    """DDIM step by step: x <- alpha' D + sigma' (x - alpha D) / sigma, from the first state and every stage's D."""
    model = live.replicas[0]._models.models["rings"]
    assert isinstance(model, Sampler)
    plan = model.plan("ddim", 6, model.path)
    x = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    with Stream(address) as stream:
        stream.ask("r", {"x_init": x}, samples=3, solver="ddim", steps=6, preview_every=1)
        *previews, last = stream.all()
        stream.ask("r", {"x_init": x}, samples=3, solver="ddim", steps=6)
        assert stream.result().as_numpy("samples").tobytes() == last.as_numpy("samples").tobytes()
    assert [(said(each)["stage"], said(each)["stages"]) for each in previews] == [(i, 6) for i in range(1, 7)]
    assert [said(each)["network_rows"] for each in previews] == [3, 6, 9, 12, 15, 18]
    state = x.astype(np.float64)
    for here, there, preview in zip(plan.nodes[:-1], plan.nodes[1:], previews, strict=True):
        d = preview.as_numpy("denoised")
        assert (d.dtype, d.shape) == (np.float32, (3, 2))
        state = there.alpha * d + there.sigma * (state - here.alpha * d) / here.sigma
    np.testing.assert_allclose(last.as_numpy("samples"), state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [{}, STEERED], ids=["plain", "steered"])
def test_a_sample_that_is_an_estimate_is_the_last_preview(address: str, how: dict[str, Any]):
    with Stream(address) as stream:
        stream.ask("r", **{"samples": 3, "seed": 2, "end": "denoise", "preview_every": 1, "solver": "ddim", **how})
        *previews, last = stream.all()
    assert previews[-1].as_numpy("denoised").tobytes() == last.as_numpy("samples").tobytes()
    assert [said(each)["triton_final_response"] for each in previews] == [False] * len(previews)
    assert {each.get_response().id for each in previews} == {"r"}


def test_previews_leave_samples_as_they_are(live: Live, address: str):
    for how in ({"samples": 70, "seed": 5}, {"samples": 5, "seed": 5, **STEERED}):
        outputs, parameters = live.infer(**how)
        with Stream(address) as stream:
            stream.ask(**how, preview_every=3)
            *_, last = stream.all()
        assert {name: last.as_numpy(name).tobytes() for name in outputs} == {k: v.tobytes() for k, v in outputs.items()}
        assert said(last) == {**parameters, "triton_final_response": True}


def test_a_preview_of_many_samples_is_of_those_that_are_drawn_together(address: str):
    with Stream(address) as stream:
        stream.ask(samples=100, steps=4, preview_every=2)
        *previews, last = stream.all()
    shown = [(said(each)["first"], said(each)["stage"], len(each.as_numpy("denoised"))) for each in previews]
    assert shown == [(0, 2, 64), (0, 4, 64), (64, 2, 36), (64, 4, 36)]
    assert [said(each)["network_rows"] for each in previews] == [128, 256, 328, 400]
    assert last.as_numpy("samples").shape == (100, 2)


def test_small_previews(address: str):
    found = {}
    with Stream(address) as stream:
        for how in ({}, {"preview_size": 2}, {"preview_dtype": "uint8"}, {"preview_dtype": "fp16"}):
            parameters = {"samples": 2, "steps": 4, "seed": 1, "preview_every": 4, **how}
            stream.ask("r", {"label": np.array([1, 2])}, "stripes", **parameters)
            preview, _ = stream.all()
            found[str(how)] = preview.as_numpy("denoised")
    whole, small, coarse, half = found.values()
    assert (whole.shape, small.shape) == ((2, 1, 4, 4), (2, 1, 2, 2))
    np.testing.assert_allclose(small, whole.reshape(2, 1, 2, 2, 2, 2).mean(axis=(3, 5)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(coarse, np.clip((whole + 1) * 127.5, 0, 255), atol=0.51)
    assert half.tobytes() == whole.astype(np.float16).tobytes()


@pytest.mark.parametrize(
    ("how", "warning"),
    [
        ({"solver": "rk45"}, "no previews: solver 'rk45' chooses its steps as it goes, and has no stages to show"),
        (
            {"steering": "best_of", "reward": "nearness", "reward_mode": MODE, "chains": 2},
            "no previews: steering 'best_of' picks its samples at the end",
        ),
        ({"steps": 3, "preview_every": 4}, "no previews: one every 4 stages was asked for, of 3"),
    ],
)
def test_where_there_are_no_previews_a_warning_says_why(address: str, how: dict[str, Any], warning: str):
    with Stream(address) as stream:
        stream.ask(**{"samples": 2, "preview_every": 1, **how})
        (only,) = stream.all()
        assert said(only)["warnings"] == warning


@pytest.mark.parametrize("how", [{"preview_every": 2}, {"stream_samples": True}])
def test_calls_of_one_answer_say_where_previews_are(live: Live, how: dict[str, Any]):
    (name,) = how
    code, text = live.refusal(**how)
    assert (code, text) == (
        "INVALID_ARGUMENT", f"{name}: expected a request on ModelStreamInfer, got one on a call of one answer",
    )  # fmt: skip


GROUPS: list[dict[str, Any]] = [
    {"samples": 150},
    {"samples": 70, **STEERED},
    {"samples": 40, "steering": "none", **{k: v for k, v in STEERED.items() if k.startswith("reward") or k == "steps"}},
    {"samples": 70, "steering": "smc", "solver": "ddim", "eta": 1.0, "population": 16, "keep": 5, **STEERED},
    {"samples": 20},
]


@pytest.mark.parametrize("how", GROUPS, ids=["plain", "doob", "scored", "smc", "few"])
def test_groups_of_samples_are_those_of_one_answer(live: Live, address: str, how: dict[str, Any]):
    parameters = {"seed": 5, **how}
    outputs, whole = live.infer(**parameters)
    with Stream(address) as stream:
        stream.ask(stream_samples=True, **parameters)
        groups = stream.all()
    for name, each in outputs.items():
        assert np.concatenate([group.as_numpy(name) for group in groups]).tobytes() == each.tobytes()
    firsts = [said(each)["first"] for each in groups]
    lengths = [len(each.as_numpy("samples")) for each in groups]
    assert firsts == [sum(lengths[:i]) for i in range(len(lengths))]
    assert (len(groups) > 1) == (how["samples"] > 32)
    assert {**said(groups[-1]), "first": 0} == {**whole, "triton_final_response": True, "first": 0}
    rows = [said(each)["network_rows"] for each in groups]
    assert rows == sorted(rows)


def test_groups_and_previews_in_order(address: str):
    """A group's previews come before it, and the next one's after it."""
    with Stream(address) as stream:
        stream.ask(samples=48, steps=4, preview_every=2, stream_samples=True)
        parts = stream.all()
    assert [(said(each)["first"], said(each).get("stage")) for each in parts] == [
        (0, 2), (0, 4), (0, None), (16, 2), (16, 4), (16, None),
    ]  # fmt: skip


def test_a_client_that_does_not_read_holds_up_nobody(live: Live, address: str):
    """Once it reads, it finds what was on its way, all samples, and of later previews the newest."""
    steps, n = 250, 272
    window = [("grpc.http2.bdp_probe", 0)]  # 64 KiB are on their way
    with grpc.insecure_channel(address, options=window) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name="rings", id="slow")
        for name, value in {"samples": n, "steps": steps, "preview_every": 1, "seed": 1}.items():
            request.parameters[name].int64_param = value
        request.parameters["stream_samples"].bool_param = True
        call = stub.ModelStreamInfer(iter([request]), timeout=60)
        until(lambda: live.replicas[0]._engine.backlog_rows)
        until(lambda: live.replicas[0]._engine.backlog_rows == 0, 50)  # the engine is done, and nothing was read
        parts = [each.infer_response for each in call]
    samples = [each for each in parts if each.outputs[0].name == "samples"]
    drawn = b"".join(each.raw_output_contents[0] for each in samples)
    assert drawn == live.infer(samples=n, steps=steps, seed=1)[0]["samples"].tobytes()
    assert samples[-1] is parts[-1]
    assert parts[-2].parameters["stage"].int64_param == steps
    assert len(parts) < 300  # of 1250 stages


def test_a_lost_replica_is_made_up_for_without_saying_anything_twice(root: Path):
    with running(root, count=2, poll_s=5) as live, Stream(live.address) as stream:
        how: dict[str, Any] = {"samples": 60, "steps": 200, "seed": 3, "preview_every": 1, "stream_samples": True}
        stream.ask(**how)
        parts = [stream.result() for _ in range(5)]
        live.lose_busy()
        parts += stream.all()
        assert live.metric("tiltserve_replays_total", model="rings") == 1
        order = [(said(each)["first"], said(each).get("stage", np.inf)) for each in parts]
        assert order == sorted(set(order))
        drawn = np.concatenate([each.as_numpy("samples") for each in parts if "stage" not in said(each)])
        others = {k: v for k, v in how.items() if k not in ("preview_every", "stream_samples")}
        assert drawn.tobytes() == live.infer(**others)[0]["samples"].tobytes()


def test_a_newer_version_does_not_go_on_with_what_another_began(root: Path, tmp_path: Path):
    root = shutil.copytree(root, tmp_path / "models")
    control: dict[str, Any] = {"front": {"allow_model_control": True}, "allow_model_control": True}
    with running(root, count=2, **control) as live, Stream(live.address) as stream:
        stream.ask(samples=1024, steps=1000, seed=3, preview_every=100)  # it lasts longer than loading takes
        parts = [stream.result()]
        shutil.copytree(root / "rings" / "1", root / "rings" / "2")
        (root / "rings" / "config.pbtxt").write_text("version_policy { all {} }")
        with triton.InferenceServerClient(live.address) as client:
            client.load_model("rings")
        live.lose_busy()
        parts += stream.all()
        assert live.metric("tiltserve_replays_total", model="rings") == 1
    assert {each.get_response().model_version for each in parts} == {"1"}


def test_many_at_a_time_in_the_order_they_end(address: str):
    with Stream(address) as stream:
        stream.ask("long", samples=8, steps=1000, seed=1)
        for i in range(5):
            stream.ask(f"short {i}", samples=1, steps=2, seed=i)
        ids = [stream.result().get_response().id for _ in range(6)]
    assert ids[-1] == "long"
    assert sorted(ids[:5]) == [f"short {i}" for i in range(5)]


def test_a_seed_is_drawn(address: str):
    with Stream(address) as stream:
        stream.ask()
        stream.ask()
        assert len({said(stream.result())["seed"] for _ in range(2)}) == 2


@pytest.mark.parametrize("wanted", [True, False])
def test_the_last_response_holds_the_answer(address: str, wanted: bool):
    """As of Triton's models that send the flag beside an answer: an empty response is not sent."""
    with Stream(address) as stream:
        stream.ask(enable_empty_final_response=wanted, samples=2)
        (result,) = stream.all()
        assert result.as_numpy("samples").shape == (2, 2)
        stream.ask("next")
        assert stream.result().get_response().id == "next"


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"model": "dogs"}, "[StatusCode.NOT_FOUND] unknown model 'dogs'"),
        ({"stepz": 1}, "[StatusCode.INVALID_ARGUMENT] unknown parameter 'stepz'"),
        ({"steps": 0}, "[StatusCode.INVALID_ARGUMENT] parameter steps: expected"),
        ({"outputs": ["dogs"]}, "[StatusCode.INVALID_ARGUMENT] unknown output 'dogs'"),
        ({"timeout": 1000, **LONG}, "[StatusCode."),  # refused or past, as soon as it is known
        ({"reward": "linear"}, "[StatusCode.INVALID_ARGUMENT]"),
        ({"preview_every": 0}, "[StatusCode.INVALID_ARGUMENT] parameter preview_every: expected"),
        ({"preview_every": 1001}, "[StatusCode.INVALID_ARGUMENT] parameter preview_every: expected"),
        ({"preview_every": 1, "preview_dtype": "int8"}, "[StatusCode.INVALID_ARGUMENT] parameter preview_dtype"),
        ({"preview_every": 1, "preview_size": 8}, "[StatusCode.INVALID_ARGUMENT] preview_size: expected samples of"),
        ({"preview_dtype": "uint8"}, "[StatusCode.INVALID_ARGUMENT] preview_dtype: expected a parameter preview_every"),
        ({"outputs": ["denoised"]}, "[StatusCode.INVALID_ARGUMENT] output 'denoised': expected a parameter"),
        ({"likelihood": "data", "preview_every": 1}, "[StatusCode.INVALID_ARGUMENT] preview_every: expected none"),
        ({"model": "nearness", "preview_every": 1}, "[StatusCode.INVALID_ARGUMENT] model 'nearness' is a plain"),
    ],
)
def test_an_error_leaves_the_stream_open(address: str, how: dict[str, Any], text: str):
    with Stream(address) as stream:
        stream.ask("long", samples=8, steps=300)
        stream.ask("bad", **how)
        error, long = sorted((stream.next(), stream.next()), key=lambda each: isinstance(each, triton.InferResult))
        assert error.message().startswith(text)
        assert error.status() is None
        assert long.get_response().id == "long"
        stream.ask("good")
        assert stream.result().get_response().id == "good"


def test_an_error_says_whose_it_is(address: str):
    """tritonclient hides it: the message itself."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        bad = pb.ModelInferRequest(model_name="dogs", id="r7")
        (came,) = stub.ModelStreamInfer(iter([bad]), timeout=20)
    assert "unknown model 'dogs'" in came.error_message
    assert (came.infer_response.id, came.infer_response.model_name) == ("r7", "dogs")
    assert came.infer_response.parameters["triton_final_response"].bool_param


def test_an_error_as_status_ends_the_stream(live: Live, address: str):
    with Stream(address, headers={"triton_grpc_error": "true"}) as stream:
        stream.ask("good", samples=2)
        assert stream.result().get_response().id == "good"
        stream.ask("long", **LONG)
        until(lambda: live.replicas[0]._engine.backlog_rows)
        stream.ask("bad", steps=0)
        error = stream.error()
        assert error.status() == "StatusCode.INVALID_ARGUMENT"
        assert error.message().startswith("parameter steps: expected")
        until(lambda: live.replicas[0]._engine.backlog_rows == 0)


def test_what_is_no_request(address: str):
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        good = pb.ModelInferRequest(model_name="rings", id="good")
        odd = pb.ModelInferRequest(model_name="rings", id="odd")
        odd.parameters["triton_enable_empty_final_response"].string_param = "yes"
        messages = b"\xff", good.SerializeToString(), odd.SerializeToString()
        replies = [pb.ModelStreamInferResponse.FromString(each) for each in call(iter(messages), timeout=20)]
    bad, last, other = sorted(replies, key=lambda each: each.infer_response.id)
    assert bad.error_message.startswith("[StatusCode.INVALID_ARGUMENT] expected a protocol buffer message")
    assert (last.infer_response.id, last.error_message) == ("good", "")
    assert other.error_message.endswith("'triton_enable_empty_final_response': expected a boolean, got 'yes'")


@pytest.mark.parametrize("how", ["stop", "hang up"])
def test_a_client_that_leaves_takes_its_rows_along(live: Live, address: str, how: str):
    stream = Stream(address)
    for i in range(3):
        stream.ask(str(i), **LONG)
    until(lambda: live.replicas[0]._engine.backlog_rows > 2 * 64_000 - 10_000)
    if how == "stop":
        stream.client.stop_stream(cancel_requests=True)
    else:
        stream.client._channel.close()
    until(lambda: live.replicas[0]._engine.backlog_rows == 0, 2)
    until(lambda: set(live.front._links.in_flight().values()) == {0})
    stream.client.close()


def test_a_client_that_is_done_writing_gets_its_answers(address: str):
    """`stop_stream` waits for them."""
    stream = Stream(address)
    for i in range(3):
        stream.ask(str(i), samples=4, steps=100)
    stream.client.stop_stream()
    assert {stream.result().get_response().id for _ in range(3)} == {"0", "1", "2"}
    assert stream.came.empty()
    stream.client.close()


def test_deadlines(live: Live, address: str):
    """One of a request and one of the whole stream."""
    with Stream(address) as stream:
        stream.ask("late", **LATE, timeout=300_000)
        assert stream.error().message().startswith(LATELY)
        stream.ask("good")
        assert stream.result().get_response().id == "good"
        for microseconds in (1, 10, 100, 1000):  # past before it is sent on, or under way
            stream.ask("late", samples=64, timeout=microseconds, preview_every=1)
            assert stream.error().message().startswith(LATELY)
    with Stream(address, stream_timeout=0.5) as stream:
        began = time.monotonic()
        stream.ask("late", **LATE)
        assert str(stream.error()).startswith(LATELY)
        assert time.monotonic() - began < 5
    until(lambda: live.replicas[0]._engine.backlog_rows == 0)


def test_each_request_is_counted(live: Live):
    def count(model: str, code: str) -> float:
        return live.metric("tiltserve_requests_total", model=model, method="ModelStreamInfer", code=code)

    before = count("rings", "OK"), count("rings", "INVALID_ARGUMENT"), count("", "NOT_FOUND")
    succeeded = live.metric("nv_inference_request_success", model="rings")
    with Stream(live.address) as stream:
        for _ in range(3):
            stream.ask()
            stream.result()
        stream.ask(steps=0)
        stream.error()
        stream.ask(model="dogs")
        stream.error()
        assert (count("rings", "OK"), count("rings", "INVALID_ARGUMENT"), count("", "NOT_FOUND")) == (
            before[0] + 3, before[1] + 1, before[2] + 1,
        )  # fmt: skip
        assert live.metric("nv_inference_request_success", model="rings") == succeeded + 3
        cancelled = count("rings", "CANCELLED")
        stream.ask(**LONG)
        until(lambda: live.replicas[0]._engine.backlog_rows)
    until(lambda: count("rings", "CANCELLED") == cancelled + 1)


def test_more_than_may_be_under_way_waits(live: Live, monkeypatch: pytest.MonkeyPatch, address: str):
    """Nothing is refused."""
    monkeypatch.setattr("serving.wire.inflight.InFlight.__init__.__defaults__", (3, 2**20))
    most = 0
    with Stream(address) as stream:
        for i in range(12):
            stream.ask(str(i), samples=2, steps=50)
        ids = set()
        for _ in range(12):
            most = max(most, live.replicas[0]._engine.backlog_rows)
            ids.add(stream.result().get_response().id)
    assert ids == {str(i) for i in range(12)}
    assert most <= 3 * 2 * 50


def test_the_asyncio_client(address: str):
    async def ask() -> list[tuple[str, str]]:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for i in range(4):
                yield {
                    "model_name": "rings" if i else "dogs", "inputs": [], "request_id": str(i),
                    "parameters": {"samples": 2, "steps": 4},
                }  # fmt: skip

        async with triton_aio.InferenceServerClient(address) as client:
            found = []
            async for result, error in client.stream_infer(requests()):
                found.append(("", str(error)) if error else (result.get_response().id, ""))
            return found

    found = asyncio.run(ask())
    assert {name for name, _ in found} == {"", "1", "2", "3"}
    assert sum("unknown model 'dogs'" in error for _, error in found) == 1


def test_an_idle_stream_ends_when_the_server_stops_and_a_busy_one_finishes(root: Path):
    with running(root) as live, ThreadPoolExecutor(1) as pool:
        live.front._drain_s = 30
        idle, busy = Stream(live.address), Stream(live.address)
        idle.ask("first")
        assert idle.result().get_response().id == "first"
        busy.ask("long", samples=64, steps=400)
        until(lambda: live.replicas[0]._engine.backlog_rows)
        stopping = pool.submit(live.on_loop, live.front.stop())
        assert idle.error().status() == "StatusCode.UNAVAILABLE"
        assert busy.result().get_response().id == "long"
        assert busy.error().status() == "StatusCode.UNAVAILABLE"
        stopping.result(20)
        for each in (idle, busy):
            each.client.close()


def test_a_replica_that_stops_takes_no_new_request_of_a_stream(root: Path):
    with running(root, count=2, poll_s=5) as live, Stream(live.address) as stream:
        live.replicas[0]._answering.draining = True
        for i in range(6):
            stream.ask(str(i), seed=i)
            assert stream.result().get_response().id == str(i)
        with Stream(live.replicas[0]._address) as direct:
            direct.ask()
            assert direct.error().message() == "[StatusCode.UNAVAILABLE] the replica is stopping"
