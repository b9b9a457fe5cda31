"""Distillation gradients from Python: arrays, sessions, and losses of torch."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import tiltserve
from protos.tiltserve.v1 import distillation_pb2 as pb
from tests import conditional, networks
from tests.serving.live import Live, running
from tiltserve import AsyncClient, Cancelled, Client, Distillation, Gradient, InvalidArgument, NotFound, Unavailable
from tiltserve.distillation import Asked, Shared, request, streamed
from tiltserve.operations import Memory
from tiltserve.steps import Emit, Open, Patience, Receive, Send, Sleep

X = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
MEAN = np.array([1.0, -1.0])
ASKED: dict[str, Any] = {"seed": 1, "mean": MEAN, "width": 0.5}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """`gaussians`, which has conditions, `rings`, and the reward `nearness`."""
    root = tmp_path_factory.mktemp("models")
    conditional.write(root)
    networks.write_rings(root)
    networks.write_nearness(root)
    with running(root) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.address, timeout=60) as client:
        yield client


def message(**wanted: Any) -> pb.GradientRequest:
    """What a request of no open keywords is sent as; it asks the server nothing."""
    images = wanted.pop("images", X)
    model = wanted.pop("model", "rings")
    conditions = wanted.pop("parameters", None)
    steps = request(Memory(), Patience(None, 0), Asked.of(model, images, None, None, conditions, "", "", wanted))
    try:
        next(steps)
    except StopIteration as done:
        made: pb.GradientRequest = done.value
        return made
    raise AssertionError("expected no step, got one")


def test_what_is_sent():
    sent = message(
        images=X.astype(np.float16), model={"rings": 1, "others": 0.5}, iteration=np.int64(7), seed=3, mode="cds",
        schedule={"preset": "refine", "c0": 300, "i_end": 50, "narrowed": False, "t1": np.array([0.5]), "unit": "t"},
        guidance=7, convention="cond", clip=0.5, noises=2, stride=100.0, prompt="a chair", negative_prompt=["a", "b"],
        negatives={"text": np.zeros((1, 2, 3), np.float32)}, negative_weights=[[-1, -2]], reward="linear",
        reward_scale=2.0, reward_direction=np.ones(2), beta=0.3, threshold=1.0, parameters={"residual_draws": 64},
        first_view=8, timeout=None,
    )  # fmt: skip
    assert (sent.input.datatype, list(sent.input.shape), sent.input.data) == (
        "FP16", [4, 2], X.astype(np.float16).tobytes(),
    )  # fmt: skip
    assert [(each.model, each.weight) for each in sent.models] == [("rings", 1), ("others", 0.5)]
    assert (sent.iteration, sent.seed, sent.mode, sent.first_view, sent.noises) == (7, 3, "cds", 8, 2)
    assert (sent.guidance, sent.convention, sent.clip, sent.stride, sent.beta) == (7, "cond", 0.5, 100, 0.3)
    assert (sent.schedule.preset, sent.schedule.c0, sent.schedule.i_end, sent.schedule.unit) == ("refine", 300, 50, "t")
    assert (sent.schedule.HasField("narrowed"), sent.schedule.narrowed, list(sent.schedule.t1)) == (True, False, [0.5])
    assert not sent.schedule.HasField("c1")
    assert (list(sent.prompt), list(sent.negative_prompt)) == (["a chair"], ["a", "b"])
    assert (list(sent.negatives["text"].shape), list(sent.negative_weights.shape)) == ([1, 2, 3], [1, 2])
    assert sent.reward == "linear"
    assert sent.reward_arguments["scale"].number == 2
    assert list(sent.reward_arguments["direction"].tensor.shape) == [2]
    assert (sent.parameters["threshold"].number, sent.parameters["residual_draws"].integer) == (1, 64)
    assert message(iteration=0).HasField("iteration")
    assert message(iteration=0, schedule="texture").schedule.preset == "texture"
    assert message(images=X.astype(np.float64), iteration=0).input.datatype == "FP32"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (
            {"images": np.zeros((1, 2), np.uint8)},
            "images: expected floats in the model's own range, .*, got uint8",
        ),
        ({"images": np.zeros(3, np.float32)}, r"images: expected views \[n, \*event\], got \[3\]"),
        ({"images": "a chair"}, "images: expected floats"),
        ({"iteration": 1.5}, "iteration: expected a whole number, got 1.5"),
        ({"iteration": float("nan")}, "iteration: expected a whole number, got nan"),
        ({"iteration": 2**70}, "iteration: expected a number of 64 bits"),
        ({"iteration": True}, "iteration: expected a whole number, got True"),
        ({"guidance": "7"}, "guidance: expected a number, got '7'"),
        ({"mode": 1}, "mode: expected a name, got int"),
        ({"schedule": 3}, "schedule: expected a preset or a mapping, got int"),
        ({"schedule": {"c2": 1}}, "schedule: expected some of c0, .*, got 'c2'"),
        ({"schedule": {"t1": "soon"}}, "t1: expected FP64"),
        ({"model": {}}, "model: expected a name, or names with weights, got {}"),
        ({"model": 3}, "model: expected a name, or names with weights, got int"),
        ({"model": {"rings": "much"}}, "weight of rings: expected a number, got 'much'"),
        ({"reward": 3}, "reward: expected a name or an expression, got int"),
        ({"negatives": 3}, "negatives: expected conditions by name, got int"),
        ({"prompt": 3}, "prompt: expected a text or a list of texts"),
    ],
)
def test_what_is_refused_before_it_is_sent(wanted: dict[str, Any], expected: str):
    with pytest.raises(InvalidArgument, match=expected):
        message(**{"iteration": 0, **wanted})


def test_an_answer(client: Client):
    found = client.distill("gaussians", X, iteration=3, **ASKED)
    assert isinstance(found, Gradient)
    assert found.gradient.shape == X.shape
    assert found.gradient.dtype == np.float32
    assert found.loss.shape == found.t1.shape == found.t2.shape == found.rho1.shape == found.rho2.shape == (4,)
    assert bool((found.rho1 > found.rho2).all())
    assert found.norm == pytest.approx(float(np.linalg.norm(found.gradient)), rel=1e-5)
    assert (found.nonfinite, found.network_rows, found.reward_rows) == (0, 4, 0)
    assert (found.answer.model, found.answer.version) == ("gaussians", "1")
    assert found.fingerprint
    # sum of |d|^2 / 2B, the gradient being d / B
    assert found.loss.sum() == pytest.approx(2 * float((found.gradient.astype(np.float64) ** 2).sum()), rel=1e-5)
    found.gradient[0] = 0  # it is the caller's
    assert repr(found).startswith("<Gradient: [4, 2] of norm ")
    again = client.distill("gaussians", X, iteration=3, conditions={"mean": MEAN[None], "width": [0.5]}, seed=1)
    assert again.gradient[1:].tobytes() == found.gradient[1:].tobytes()
    other = client.distill("gaussians", X, iteration=4, **ASKED)
    assert other.gradient.tobytes() != again.gradient.tobytes()
    half = client.distill("gaussians", X.astype(np.float16), iteration=3, **ASKED)
    assert half.gradient.dtype == np.float16
    np.testing.assert_allclose(half.gradient, again.gradient, atol=2e-3)


def test_steered_and_of_several_models(client: Client):
    steered = client.distill("rings", X, iteration=3, seed=1, reward="nearness", mode="sds", reward_mode=3, beta=0.3)
    plain = client.distill("rings", X, iteration=3, seed=1)
    assert steered.gradient.tobytes() != plain.gradient.tobytes()
    twice = client.distill({"rings": 2.0}, X, iteration=3, seed=1)
    np.testing.assert_allclose(twice.gradient, 2 * plain.gradient, rtol=1e-5)


def test_mistakes(client: Client):
    with pytest.raises(InvalidArgument, match="unknown keyword 'iterations', did you mean 'iteration'"):
        client.distill("gaussians", X, iteration=0, iterations=3, **ASKED)
    with pytest.raises(InvalidArgument, match="unknown keyword 'means', did you mean 'mean'"):
        client.distill("gaussians", X, iteration=0, means=3, width=1.0)
    with pytest.raises(InvalidArgument, match="iteration"):
        client.distill("gaussians", X, iteration=-1, **ASKED)
    with pytest.raises(NotFound, match="rnigs"):
        client.distill("rnigs", X, iteration=0, camera=3)


def test_a_session_gives_what_single_calls_give(client: Client):
    alone = [client.distill("gaussians", X, iteration=i, **ASKED).gradient.tobytes() for i in range(5)]
    with client.distillation("gaussians", seed=1, width=0.5) as session:
        assert [session.distill(X, iteration=i, mean=MEAN).gradient.tobytes() for i in range(2)] == alone[:2]
        with pytest.raises(InvalidArgument, match="iteration"):
            session.distill(X, iteration=-1, mean=MEAN)
        with pytest.raises(InvalidArgument, match="seed: expected it for the session or for this call, got both"):
            session.distill(X, iteration=1, seed=2, mean=MEAN)
        calls = [{"images": X, "iteration": i, "mean": MEAN} for i in range(5)]
        for ahead in (0, 1, 9):
            assert [each.gradient.tobytes() for each in session.each(calls, ahead=ahead)] == alone
        with pytest.raises(InvalidArgument, match="images: expected it in every call, got none"):
            list(session.each([{"iteration": 1}]))
        for each in session.each(calls):  # left with an answer on its way
            assert each.gradient.tobytes() == alone[0]
            with pytest.raises(InvalidArgument, match="expected no call of a session inside a loop"):
                session.distill(X, iteration=1, mean=MEAN)
            break
        del each
        calls[2]["iteration"] = -1
        with pytest.raises(InvalidArgument, match="iteration"):
            list(session.each(calls, ahead=2))
        assert session.distill(X, iteration=3, mean=MEAN).gradient.tobytes() == alone[3]
    with pytest.raises(Cancelled, match="the session was closed"):
        session.distill(X, iteration=0, mean=MEAN)


def test_threads_share_a_session(client: Client):
    alone = [client.distill("gaussians", X, iteration=i, **ASKED).gradient.tobytes() for i in range(4)]
    found: dict[int, bytes] = {}
    with client.distillation("gaussians", **ASKED) as session:

        def ask(i: int) -> None:
            found[i] = session.distill(X, iteration=i).gradient.tobytes()

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[i] for i in range(4)] == alone


def test_the_same_with_asyncio(client: Client, live: Live):
    alone = [client.distill("gaussians", X, iteration=i, **ASKED).gradient.tobytes() for i in range(4)]

    async def ask() -> None:
        async with AsyncClient(live.address, timeout=60) as other:
            one = await other.distill("gaussians", X, iteration=0, **ASKED)
            assert one.gradient.tobytes() == alone[0]
            async with other.distillation("gaussians", **ASKED) as session:
                many = await asyncio.gather(*(session.distill(X, iteration=i) for i in range(4)))
                assert [each.gradient.tobytes() for each in many] == alone
                with pytest.raises(InvalidArgument, match="iteration"):
                    await session.distill(X, iteration=-1)
                calls = [{"images": X, "iteration": i} for i in range(4)]
                assert [each.gradient.tobytes() async for each in session.each(calls)] == alone
            with pytest.raises(Cancelled, match="the session was closed"):
                await session.distill(X, iteration=0)

    asyncio.run(ask())


def test_a_broken_stream_is_begun_again_with_what_had_no_answer():
    shared = Shared(Asked.of("rings", None, None, None, None, "", "", {"seed": 3}))
    calls = [Asked.of(None, X, None, None, None, "", "", {"iteration": i}) for i in range(3)]
    steps = streamed(Memory(), lambda: Patience(None, 4, first_s=0.0), shared, calls, ahead=1)

    def sent(step: Any) -> int:
        assert isinstance(step, Send)
        iteration: int = step.message.gradient.iteration  # type: ignore[attr-defined]
        return iteration

    first = next(steps)
    assert isinstance(first, Open)
    assert first.message.common.seed == 3  # type: ignore[attr-defined]
    assert [sent(steps.send(None)), sent(steps.send(None))] == [0, 1]
    assert isinstance(steps.send(None), Receive)
    told = pb.SessionResponse()
    told.gradient.gradient.CopyFrom(message(iteration=0).input)
    emitted = steps.send(told)
    assert isinstance(emitted, Emit)
    assert sent(steps.send(None)) == 2
    assert isinstance(steps.send(None), Receive)
    assert isinstance(steps.throw(Unavailable("connection lost", unbegun=True)), Sleep)
    assert isinstance(steps.send(None), Open)
    assert [sent(steps.send(None)), sent(steps.send(None))] == [1, 2]
    assert isinstance(steps.send(None), Receive)
    assert isinstance(steps.send(None), Sleep)  # the stream ended without an answer
    assert isinstance(steps.send(None), Open)
    assert sent(steps.send(None)) == 1
    assert isinstance(steps.throw(Cancelled("the stream was over")), Sleep)
    assert isinstance(steps.send(None), Open)
    sent(steps.send(None)), sent(steps.send(None)), steps.send(None)
    with pytest.raises(Unavailable, match="a replica died of it"):
        steps.throw(Unavailable("a replica died of it"))
    assert not shared.open


def test_a_loss_has_the_gradient_that_the_server_gave(client: Client):
    raw = client.distill("gaussians", X, iteration=3, **ASKED)
    images = torch.tensor(X, requires_grad=True)
    loss = tiltserve.distill_loss(images, client, "gaussians", iteration=3, seed=1, mean=torch.tensor(MEAN), width=0.5)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert float(loss.detach()) == pytest.approx(raw.loss.sum())
    loss.backward()
    assert images.grad is not None
    assert images.grad.numpy().tobytes() == raw.gradient.tobytes()

    scene = torch.tensor(X.T.copy(), dtype=torch.float64, requires_grad=True)  # what is optimised has another type
    with client.distillation("gaussians", **ASKED) as session:
        loss = tiltserve.distill_loss(scene.T.float(), session, iteration=3)
        (3 * loss).backward()
    assert scene.grad is not None
    np.testing.assert_allclose(scene.grad.numpy().T, 3 * raw.gradient, rtol=1e-6)
    tiltserve.as_loss(images, raw).backward()
    np.testing.assert_allclose(images.grad.numpy(), 2 * raw.gradient, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "half", "wire"),
    [
        (torch.float16, False, np.float16),
        (torch.bfloat16, False, np.float32),
        (torch.float32, True, np.float16),
        (torch.float64, False, np.float32),
    ],
)
def test_types_of_images(client: Client, dtype: torch.dtype, half: bool, wire: type[np.generic]):
    images = torch.tensor(X).to(dtype).requires_grad_()
    raw = client.distill("gaussians", images.detach().float().numpy().astype(wire), iteration=3, **ASKED)
    tiltserve.distill_loss(images, client, "gaussians", iteration=3, half=half, **ASKED).backward()
    assert images.grad is not None
    assert images.grad.dtype == dtype
    assert torch.equal(images.grad, torch.from_numpy(raw.gradient).to(dtype))


def test_losses_refuse_what_they_cannot_take(client: Client):
    with pytest.raises(InvalidArgument, match="images: expected a tensor of torch, got ndarray"):
        tiltserve.distill_loss(X, client, "gaussians", iteration=0)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"images: expected floats .*, got torch.uint8"):
        tiltserve.distill_loss(torch.zeros(1, 2, dtype=torch.uint8), client, "gaussians", iteration=0)
    with pytest.raises(InvalidArgument, match="model: expected a name, got none"):
        tiltserve.distill_loss(torch.tensor(X), client, iteration=0)
    with (
        client.distillation("gaussians", **ASKED) as session,
        pytest.raises(InvalidArgument, match="model: expected none beside a session"),
    ):
        tiltserve.distill_loss(torch.tensor(X), session, "gaussians", iteration=0)
    assert isinstance(session, Distillation)
    with pytest.raises(InvalidArgument, match=r"images: expected those of the answer, \[4, 2\], got \[2, 2\]"):
        tiltserve.as_loss(torch.zeros(2, 2), client.distill("gaussians", X, iteration=0, **ASKED))
    with pytest.raises(AttributeError, match="no attribute 'distil_loss'"):
        _ = tiltserve.distil_loss
