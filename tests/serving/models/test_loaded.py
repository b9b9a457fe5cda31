"""Many models in little memory: they come and go, and no answer shows it."""

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.models.loaded import LoadedModels
from serving.models.model import Model, Sampler
from serving.models.unloaded import Kept, UnloadedBackend
from serving.wire.kserve import InferRequest
from tests import networks
from tests.serving.live import Live, running, until

STEERED: dict[str, Any] = {"samples": 4, "seed": 5, "steps": 6, "reward": "2 * nearness", "reward_mode": 3}
NEEDED = ("rings", "nearness")
ROOM = 60_000
"""Bytes: one ring with its bank of 4096, not two; nor one without beside a model as large as this."""


@pytest.fixture
def root(small_models: Path, tmp_path: Path) -> Path:
    """A repository of one's own: `small_models` with a second ring, which is `rings` by another name."""
    root = tmp_path / "models"
    shutil.copytree(small_models, root)
    shutil.copytree(root / "rings", root / "again")
    networks.edit_card(root / "again", name="again")
    return root


def sizes(root: Path) -> dict[str, int]:
    """Bytes by name of models that are in memory."""

    async def measured() -> dict[str, int]:
        shelf = LoadedModels(root, 1)
        await shelf.load_all()
        return {key.removesuffix("/1"): size for key, size in shelf._memory.loaded.items()}

    return asyncio.run(measured())


def ask(live: Live, model: str, **parameters: Any) -> tuple[bytes, str]:
    """The samples of a request, and the fingerprint of what made them."""
    with triton.InferenceServerClient(live.address) as client:
        result = client.infer(model, [], parameters=parameters, client_timeout=60)
    return result.as_numpy("samples").tobytes(), result.get_response().parameters["fingerprint"].string_param


def test_a_long_text_is_no_reward_that_names_models(small_models: Path):
    """Only what can be a reward or the name of one is searched for models, on the event loop."""

    async def body() -> None:
        shelf = LoadedModels(small_models, 1)
        await shelf.load_all()
        for text, held in (("nearness", 1), ("nearness " * 60, 0)):
            async with shelf.holding(InferRequest("rings", parameters={"reward": "mine", "reward_text": text})):
                assert shelf._memory.holders("nearness/1") == held

    asyncio.run(body())


@pytest.mark.parametrize("room", [True, False])
def test_what_is_kept_of_a_model_needs_no_room_for_files(
    models: dict[str, Model], room: bool, monkeypatch: pytest.MonkeyPatch
):
    """A read-only or full machine has none."""

    def full() -> None:
        raise OSError(28, "No space left on device")

    if not room:
        monkeypatch.setattr("tempfile.TemporaryFile", full)
    rings = models["rings"]
    assert isinstance(rings, Sampler)
    known = rings.known
    Kept(rings).restore(rings)
    assert rings.known is not known
    assert rings.known.fingerprint == known.fingerprint
    rings.known = known


def test_what_a_model_counts(root: Path):
    found = sizes(root)
    bank = np.load(root / "rings" / "1" / "bank.npz")["x"]
    assert found["rings"] == (root / "rings" / "1" / "model.onnx").stat().st_size + bank.astype(np.float32).nbytes
    assert found["nearness"] == (root / "nearness" / "1" / "model.onnx").stat().st_size
    assert set(found) == {"again", "nan", "nearness", "rings", "stripes"}


def test_models_come_and_go_and_the_bytes_stay(root: Path):
    """All at once in memory for two of five: every answer as with all of them loaded, and the bound holds."""
    requests = [("rings", STEERED), ("again", STEERED), ("stripes", {"samples": 2, "seed": 1, "steps": 4})]
    with running(root) as live:
        expected = [ask(live, model, **parameters) for model, parameters in requests]
    found = sizes(root)
    bound = max(sum(found[each] for each in NEEDED), found["stripes"]) + 10
    with running(root, model_memory=bound) as live:
        shelf = live.replicas[0]._models
        states = {state.name: (state.state, state.fingerprint) for state in shelf.states()}
        assert {state for state, _ in states.values()} == {"READY"}
        assert len(shelf._memory.loaded) < 5
        with ThreadPoolExecutor(6) as pool:
            for answers in pool.map(
                lambda k: [ask(live, *requests[i][:1], **requests[i][1]) for i in (k % 3, (k + 1) % 3)], range(6)
            ):
                assert set(answers) <= set(expected)
            for (model, parameters), answer in zip(requests, expected, strict=True):
                assert ask(live, model, **parameters) == answer
        assert shelf._memory.total <= bound
        assert live.metric("tiltserve_model_bytes") == shelf._memory.total
        assert live.metric("tiltserve_model_loads_total") - live.metric("tiltserve_model_unloads_total") == len(
            shelf._memory.loaded
        )
        assert live.metric("tiltserve_model_loads_total", model="stripes") > 1
        assert {state.name: (state.state, state.fingerprint) for state in shelf.states()} == states
        # what is not in memory is known all the same
        assert live.refusal(reward="nearness", reward_mode=1, steering="none", reward_scale=2)[0] == "INVALID_ARGUMENT"
        with triton.InferenceServerClient(live.address) as client:
            assert all(client.is_model_ready(name) for name in states)


def test_a_model_in_use_stays(root: Path):
    """While a request runs, one for another model waits for its memory, up to its deadline."""
    found = sizes(root)
    bound = found["rings"] + found["stripes"] - 1
    with running(root, model_memory=bound) as live, ThreadPoolExecutor(2) as pool:
        shelf = live.replicas[0]._models
        long = pool.submit(ask, live, "rings", samples=512, steps=400, seed=1, solver="euler")
        until(lambda: live.replicas[0]._engine.backlog_rows > 0)
        with triton.InferenceServerClient(live.address) as client:
            with pytest.raises(InferenceServerException) as caught:
                client.infer("stripes", [], parameters={"steps": 2}, client_timeout=0.3)
            assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
            assert not long.done()
            assert "rings/1" in shelf._memory.loaded
            waiting = pool.submit(ask, live, "stripes", steps=2, seed=1)
            assert len(long.result(60)[0]) == 512 * 2 * 4
            assert len(waiting.result(60)[0]) == 16 * 4
        assert "rings/1" not in shelf._memory.loaded


def test_refusals_say_why(root: Path):
    found = sizes(root)
    bound = found["rings"] + found["nearness"] - 1
    with running(root, model_memory=bound) as live:
        status, text = live.refusal(**STEERED)
        assert status == "RESOURCE_EXHAUSTED"
        assert text.startswith("model 'rings': expected at most ")
        assert "of models in memory, got nearness/1 and rings/1 of " in text
        assert live.infer(samples=2)[0]["samples"].shape == (2, 2)
        ask(live, "again", samples=1)
        assert "rings/1" not in live.replicas[0]._models._memory.loaded
        graph = root / "rings" / "1" / "model.onnx"
        whole = graph.read_bytes()
        graph.write_bytes(whole[:1000])
        status, text = live.refusal(samples=2)
        assert status == "UNAVAILABLE"
        assert text.startswith(f"model 'rings' cannot be loaded again: {graph}: expected a complete ONNX graph, got: ")
        (root / "rings" / "1" / "weights").write_text("more")
        graph.write_bytes(whole)
        status, text = live.refusal(samples=2)
        assert status == "UNAVAILABLE"
        assert text.endswith(f"again: {root / 'rings'}: expected the files it was loaded from, got others")
        (root / "rings" / "1" / "weights").unlink()
        assert live.infer(samples=2)[0]["samples"].shape == (2, 2)
    with running(root, model_memory=found["rings"] - 1) as live:
        status, text = live.refusal(samples=2)
        assert status == "UNAVAILABLE"
        assert text.startswith("model 'rings' is unavailable: expected at most ")
        with triton.InferenceServerClient(live.address) as client:
            assert client.is_model_ready("nearness")


def test_a_bank_made_here_comes_back_with_its_model(root: Path):
    """And what is made in the background gives way to requests."""
    for name in ("rings", "again"):
        (root / name / "1" / "bank.npz").unlink()
        networks.edit_card(root / name, calibration=None)
    (root / "stripes" / "1" / "weights").write_bytes(bytes(ROOM - 12_000))
    shelf, engine = LoadedModels(root, 1, ROOM), Engine(ReplicaMetrics())

    async def body() -> None:
        await shelf.load_all()
        preparing = asyncio.create_task(shelf.prepare(engine))
        async with asyncio.timeout(60):
            while shelf._preparing.making is None:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)
            first = next(key for key, held in shelf._memory._held.items() if held).removesuffix("/1")
            async with shelf.holding(InferRequest("stripes")):
                assert not preparing.done()
                assert isinstance(shelf.models[first].network.backend, UnloadedBackend)
                assert not isinstance(shelf.models["stripes"].network.backend, UnloadedBackend)
            await preparing
        fingerprints = {state.name: state.fingerprint for state in shelf.states()}
        for name in ("rings", "again", "rings"):
            async with shelf.holding(InferRequest(name + ".network")):
                model = shelf.models[name]
                assert isinstance(model, Sampler)
                assert model.known.cloud is not None
                assert model.known.choice is not None
                assert len(model.known.cloud.samples) == 4096
                assert model.known.fingerprint == fingerprints[name]

    try:
        asyncio.run(body())
    finally:
        engine.stop()
