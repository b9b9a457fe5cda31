"""The client as a reward, on a stream to a real server: turns, and clients that do not take theirs."""

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos.tiltserve.v1.sampling_pb2 import Candidates, InteractiveRequest, SampleReply, SampleRequest, Scores
from protos.tiltserve.v1.sampling_pb2_grpc import SamplingStub
from serving.wire.tensors import tensor, values
from tests import networks
from tests.serving.live import MODE, Floats, Live, near, nearness, running, until

BANK = 1500  # more than one batch of candidates holds
STEERED: dict[str, Any] = {"samples": 16, "seed": 1, "steps": 8, "beta": 0.2, "particles": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    networks.write_rings(root, bank=BANK)
    networks.write_nearness(root)
    return root


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    with running(root, answer_s=1.0) as live:
        yield live


@pytest.fixture
def stub(live: Live) -> Iterator[SamplingStub]:
    with grpc.insecure_channel(live.address) as channel:
        yield SamplingStub(channel)


def array(message: Any) -> Floats:
    return np.frombuffer(message.data, "<f4").reshape(message.shape)


def first(parameters: dict[str, Any], model: str = "rings", **inputs: Floats) -> InteractiveRequest:
    sample = SampleRequest(model=model, id="r1", parameters=values(parameters))
    for name, each in inputs.items():
        sample.inputs[name].CopyFrom(tensor(each))
    return InteractiveRequest(sample=sample)


def scored(candidates: Candidates) -> InteractiveRequest:
    return InteractiveRequest(scores=Scores(batch=candidates.batch, scores=nearness(array(candidates.tensor))))


Turn = Callable[[Candidates], InteractiveRequest | None]


def converse(
    stub: SamplingStub, opening: InteractiveRequest, turn: Turn = scored, within: float = 30
) -> tuple[SampleReply, list[Candidates]]:
    """The samples, and all candidates that came before; None from `turn` ends the client's messages."""
    outgoing: SimpleQueue[InteractiveRequest | None] = SimpleQueue()
    outgoing.put(opening)
    seen: list[Candidates] = []
    last: list[SampleReply] = []
    try:
        for reply in stub.SampleInteractive(iter(outgoing.get, None), timeout=within):
            assert not last
            if reply.HasField("samples"):
                last.append(reply.samples)
            else:
                seen.append(reply.candidates)
                outgoing.put(turn(reply.candidates))
    finally:
        outgoing.put(None)
    assert last
    return last[0], seen


def refusal(
    stub: SamplingStub, opening: InteractiveRequest, turn: Turn = scored, within: float = 30
) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        converse(stub, opening, turn, within)
    return caught.value.code().name, caught.value.details()


def test_the_clients_scores_steer(live: Live, stub: SamplingStub):
    before = live.metric("tiltserve_rows_total", model="client", kind="reward")
    reply, seen = converse(stub, first({**STEERED, "samples": 64}))
    samples, rewards = array(reply.outputs["samples"]), array(reply.outputs["rewards"])
    assert near(live.infer(samples=64, seed=1)[0]["samples"]) < 0.4
    assert near(samples) > 0.95
    np.testing.assert_allclose(rewards, nearness(samples), rtol=1e-6)
    assert (reply.model, reply.version, reply.id) == ("rings", "1", "r1")
    said = reply.parameters
    assert (said["seed"].integer, said["steering"].text) == (1, "doob")
    assert said["fingerprint"].text.endswith("-client")
    assert [each.batch for each in seen] == list(range(1, len(seen) + 1))
    assert [each.tensor.shape[0] for each in seen[:2]] == [1024, BANK - 1024]  # the bank first
    rows = sum(each.tensor.shape[0] for each in seen)
    assert rows == said["setup_reward_rows"].integer + said["reward_rows"].integer
    assert live.metric("tiltserve_rows_total", model="client", kind="reward") == before + rows
    assert live.metric("tiltserve_requests_total", model="rings", method="SampleInteractive", code="OK") == 1


def test_it_is_the_same_as_a_served_reward(live: Live, stub: SamplingStub):
    """The scores of the served network, computed here: the samples have the same bytes."""
    outputs, _ = live.infer(**STEERED, reward="nearness", reward_mode=MODE)

    def by_network(candidates: Candidates) -> InteractiveRequest:
        x = array(candidates.tensor)
        backend = live.replicas[0]._models.models["nearness"].network.backend
        (scores,) = backend.run({"x": np.repeat(x, 2, axis=0), "mode": np.full(2 * len(x), MODE)}, ["reward"])
        return InteractiveRequest(scores=Scores(batch=candidates.batch, scores=scores[::2]))

    reply, _ = converse(stub, first(STEERED), by_network)
    assert reply.outputs["samples"].data == outputs["samples"].tobytes()
    assert reply.outputs["rewards"].data == outputs["rewards"].tobytes()


def test_a_bank_that_need_not_be_scored(stub: SamplingStub):
    _, seen = converse(stub, first({**STEERED, "posterior": "gaussian"}))
    assert {each.tensor.shape[0] for each in seen} == {16 * 8, 16}
    x = np.zeros((16, 2), np.float32)
    reply, seen = converse(stub, first({**STEERED, "steering": "none"}, x_init=x))
    assert [each.tensor.shape[0] for each in seen] == [16]
    assert len(np.unique(array(reply.outputs["samples"]), axis=0)) == 1  # x_init was heard


def test_the_client_among_others_in_an_expression(stub: SamplingStub):
    reply, seen = converse(stub, first({**STEERED, "reward": f"client + nearness(mode={MODE})"}))
    samples = array(reply.outputs["samples"])
    assert near(samples) > 0.95
    np.testing.assert_allclose(array(reply.outputs["rewards"]), 2 * nearness(samples), rtol=1e-4, atol=1e-6)
    assert seen


def test_the_client_is_no_reward_of_a_plain_request(live: Live):
    code, text = live.refusal(samples=1, reward="client")
    assert code == "INVALID_ARGUMENT"
    assert "unknown reward 'client'" in text


def edited(change: Callable[[Scores], object]) -> Turn:
    def turn(candidates: Candidates) -> InteractiveRequest:
        answer = scored(candidates)
        change(answer.scores)
        return answer

    return turn


@pytest.mark.parametrize(
    ("turn", "code", "text"),
    [
        (edited(lambda each: setattr(each, "batch", 7)), "INVALID_ARGUMENT", "got those of batch 7"),
        (edited(lambda each: each.scores.append(0)), "INVALID_ARGUMENT", "got 1025"),
        (lambda candidates: InteractiveRequest(), "INVALID_ARGUMENT", "got an empty message"),
        (lambda candidates: first(STEERED), "INVALID_ARGUMENT", "got sample"),
        (lambda candidates: None, "INVALID_ARGUMENT", "got the end of the client's messages"),
    ],
    ids=["batch", "count", "empty", "sample", "end"],
)
def test_answers_out_of_turn(live: Live, stub: SamplingStub, turn: Turn, code: str, text: str):
    assert refusal(stub, first(STEERED), turn) == (
        code,
        f"reward 'client': expected 1024 scores of batch 1, {text}",
    )
    until(lambda: live.metric("tiltserve_backlog_rows") == 0)


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_scores_that_are_no_scores(stub: SamplingStub, bad: str):
    code, text = refusal(stub, first(STEERED), edited(lambda each: each.scores.__setitem__(5, float(bad))))
    assert code == "FAILED_PRECONDITION"
    assert text == f"reward 'client': expected finite scores or -inf, got {bad} for candidate 5 of 1024"


@pytest.mark.parametrize(
    ("opening", "code", "text"),
    [
        (InteractiveRequest(), "INVALID_ARGUMENT", "expected sample as the first message, got none"),
        (InteractiveRequest(scores=Scores()), "INVALID_ARGUMENT", "expected sample as the first message, got scores"),
        (first({}, model="dogs"), "NOT_FOUND", "unknown model 'dogs'"),
        (first({}, model="nearness"), "INVALID_ARGUMENT", "model 'nearness': expected a sampler, got a plain network"),
        (first({"stepz": 3}), "INVALID_ARGUMENT", "unknown parameter 'stepz'"),
        (first({"reward_mode": 3}), "INVALID_ARGUMENT", "reward_mode: expected no arguments of reward 'client'"),
        (first({"steps": np.zeros(1, np.float32)}), "INVALID_ARGUMENT", "parameter 'steps': expected no tensor"),
        (first({}, x_init=np.zeros((1, 3), np.float32)), "INVALID_ARGUMENT", "input 'x_init'"),
    ],
)
def test_what_cannot_be_begun(stub: SamplingStub, opening: InteractiveRequest, code: str, text: str):
    came, detail = refusal(stub, opening)
    assert came == code
    assert detail.startswith(text)


def test_a_silent_client(live: Live, stub: SamplingStub):
    """It is told which batch was waited for, and others are not held up."""
    gate = threading.Event()

    def silent(candidates: Candidates) -> InteractiveRequest:
        if candidates.batch == 2:
            gate.wait(10)
        return scored(candidates)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(refusal, stub, first(STEERED), silent)
        time.sleep(0.3)
        live.infer(samples=8, seed=2)
        assert not waiting.done()
        until(lambda: live.metric("tiltserve_backlog_rows") == 0)
        gate.set()
        assert waiting.result(10) == (
            "DEADLINE_EXCEEDED",
            f"reward 'client': expected {BANK - 1024} scores of batch 2 within 1 s, got none",
        )


def test_the_clients_own_deadline(stub: SamplingStub):
    def slow(candidates: Candidates) -> InteractiveRequest:
        time.sleep(0.6)
        return scored(candidates)

    code, text = refusal(stub, first(STEERED), slow, within=0.5)
    assert (code, "batch" in text) == ("DEADLINE_EXCEEDED", False)
    code, text = refusal(stub, first({**STEERED, "timeout": 500_000}), slow)
    assert code == "DEADLINE_EXCEEDED"
    assert "deadline" in text  # the front and the replica notice it at the same moment


@pytest.mark.parametrize("how", ["cancel", "break"])
def test_a_client_that_vanishes(live: Live, how: str):
    """The call is cancelled, or the connection goes: no rows are left, and nobody waits for the answer."""
    ended = {"model": "rings", "method": "SampleInteractive", "code": "CANCELLED"}
    before = live.metric("tiltserve_requests_total", **ended)
    with grpc.insecure_channel(live.address) as channel:
        gate = threading.Event()

        def messages() -> Iterable[InteractiveRequest]:
            yield first({**STEERED, "samples": 64, "steps": 50})
            gate.wait(10)

        call = SamplingStub(channel).SampleInteractive(messages())
        assert next(call).candidates.batch == 1
        assert live.replicas[0]._engine.backlog_rows == 64 * 50
        if how == "cancel":
            call.cancel()
        else:
            channel.close()
        gate.set()
        until(lambda: live.replicas[0]._engine.backlog_rows == 0, 0.9)  # sooner than the time for an answer is up
    assert live.metric("tiltserve_backlog_rows") == 0
    until(lambda: live.metric("tiltserve_requests_total", **ended) == before + 1)
    assert set(live.front._links.in_flight().values()) == {0}


def test_reflection_describes_it(live: Live):
    with grpc.insecure_channel(live.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "tiltserve.v1.Sampling" in database.get_services()
        file = database.FindFileContainingSymbol("tiltserve.v1.Sampling")
        assert [method.name for method in file.service[0].method] == ["SampleInteractive"]


def test_a_lost_replica(root: Path):
    """Before candidates were sent another one takes over; after that the client has to begin anew."""
    with running(root, count=2, poll_s=5) as live, grpc.insecure_channel(live.address) as channel:
        stub = SamplingStub(channel)
        live.replicas[0]._answering.draining = True
        for seed in range(5):
            reply, _ = converse(stub, first({**STEERED, "seed": seed}))
            assert reply.parameters["seed"].integer == seed
        live.replicas[0]._answering.draining = False

        def lose(candidates: Candidates) -> InteractiveRequest:
            live.lose_busy()
            return scored(candidates)

        code, text = refusal(stub, first(STEERED), lose)
        assert code == "UNAVAILABLE"
        assert text == "model 'rings': its replica was lost between two batches of candidates"


def test_a_stopping_front_lets_the_replica_compute(root: Path, monkeypatch: pytest.MonkeyPatch):
    """What a client has to answer in is not used up by the server's own work between two batches."""
    with running(root) as live, grpc.insecure_channel(live.address) as channel, ThreadPoolExecutor(1) as pool:
        live.front._streams._last_s, live.front._drain_s = 0.2, 30
        backend = live.replicas[0]._models.models["rings"].network.backend
        run, working, gate = backend.run, threading.Event(), threading.Event()

        def held(*given: Any) -> Any:
            working.set()
            assert gate.wait(20)
            return run(*given)

        def turn(candidates: Candidates) -> InteractiveRequest:
            if candidates.batch == 2:  # the bank is scored: the samples' steps come next
                monkeypatch.setattr(backend, "run", held)
            return scored(candidates)

        stream = pool.submit(converse, SamplingStub(channel), first(STEERED), turn)
        assert working.wait(20)
        stopping = threading.Thread(target=lambda: live.on_loop(live.front.stop()))
        stopping.start()
        time.sleep(1)
        gate.set()
        _, seen = stream.result(20)
        stopping.join()
        assert len(seen) > 2  # there was a turn after the work


def test_a_stream_goes_to_the_version_that_is_warm(small_models: Path, tmp_path: Path):
    """As other requests do: the replica itself would take the newest one, whose bank is still being made."""
    shutil.copytree(small_models / "rings", tmp_path / "rings")
    shutil.copytree(tmp_path / "rings" / "1", tmp_path / "rings" / "2")
    (tmp_path / "rings" / "2" / "notes.txt").write_text("another version")
    (tmp_path / "rings" / "config.pbtxt").write_text("version_policy { all { } }")
    with running(tmp_path) as live, grpc.insecure_channel(live.address) as channel:
        opening = first({"samples": 2, "seed": 1, "steps": 2, "particles": 4})
        assert converse(SamplingStub(channel), opening)[0].version == "2"
        live.replicas[0]._models._versions.of("rings")[-1].lacking = True
        until(lambda: any(each.model.cold for each in live.front._roster.index.models["rings"].routes))
        assert converse(SamplingStub(channel), opening)[0].version == "1"
        named = InteractiveRequest()
        named.CopyFrom(opening)
        named.sample.version = "2"
        assert converse(SamplingStub(channel), named)[0].version == "2"
