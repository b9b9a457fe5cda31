"""Models whose rows are not independent are refused; those that are served on trust say so in every answer."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from serving.backends import LoadError
from serving.backends.ort import OrtNetwork
from serving.backends.triton import TritonNetwork
from serving.models.folders import scan
from serving.models.model import Sampler
from serving.models.offline import open_sampler
from serving.models.repository import load
from serving.models.trial import Trials
from tests import networks
from tests.serving.live import Live, running
from tests.unmodified import inferred, tensors

MIXES = (
    "output 'x0': expected a row that depends on itself alone, got one that changes with the other rows of its call, "
    "from node ReduceMean 'over_rows'"
)
DRAWS = "expected equal answers to equal inputs, got noise from node RandomNormalLike 'noise'"
ON_TRUST = f"network 'trusted' is served on trust: {MIXES}"
NOISE_ON_TRUST = f"network 'coin' is served on trust: {DRAWS}"


@pytest.fixture(scope="module")
def live(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("trust") / "models"
    shutil.copytree(small_models, root)
    networks.write_mixing(root / "mixing")
    networks.write_mixing(root / "weak", 1e-3)
    networks.write_noisy(root / "noisy")
    networks.write_mixing(root / "trusted")
    networks.write_noisy(root / "coin")
    with running(root, trust=("trusted", "coin", "rings")) as live:
        yield live


def asked(live: Live, model: str, inputs: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """The parameters of an answer."""
    with triton.InferenceServerClient(live.address) as client:
        result = client.infer(model, tensors(inputs or {}), parameters=parameters, client_timeout=60)
    return inferred(result).parameters


def warned(live: Live, model: str, inputs: dict[str, Any] | None = None, **parameters: Any) -> list[str]:
    said = asked(live, model, inputs, **parameters).get("warnings", "")
    return [each for each in said.split("; ") if "on trust" in each]


@pytest.mark.parametrize(("name", "fault"), [("mixing", MIXES), ("weak", MIXES), ("noisy", DRAWS)])
def test_they_are_refused_with_the_reason_and_the_node(live: Live, name: str, fault: str):
    states = {state.name: state for state in live.replicas[0]._models.states()}
    assert states[name].state == "UNAVAILABLE"
    assert states[name].reason.endswith(f"{name}/1/model.onnx: {fault} (--trust {name} serves it all the same)")
    assert f"{name}.network" not in states
    with pytest.raises(InferenceServerException, match=f"model '{name}' is unavailable: "):
        asked(live, name)


def test_a_sampler_served_on_trust_says_so(live: Live):
    assert warned(live, "trusted", samples=2, seed=1, steps=2) == [ON_TRUST]
    x = np.zeros((2, 2), np.float32)
    assert warned(live, "trusted.network", {"x": x, "t": x[:, 0]}) == [ON_TRUST]
    assert warned(live, "trusted", {"x_init": x}, likelihood="data", steps=2, samples=2) == [ON_TRUST]


def test_what_rests_on_such_a_reward_says_so(live: Live):
    request: dict[str, Any] = {"samples": 2, "seed": 1, "steps": 2, "posterior": "gaussian"}
    assert warned(live, "rings", reward="coin", **request) == [NOISE_ON_TRUST]
    assert warned(live, "rings", reward="coin", steering="none", samples=2) == [NOISE_ON_TRUST]
    assert warned(live, "rings", reward="coin + 2 * coin", **request) == [NOISE_ON_TRUST]
    assert warned(live, "trusted", reward="coin", **request) == [ON_TRUST, NOISE_ON_TRUST]
    density: dict[str, Any] = {
        "reward": "log_density",
        "reward_model": "trusted",
        "reward_steps": 2,
        "steering": "none",
    }
    assert warned(live, "rings", samples=1, steps=2, **density) == [ON_TRUST]
    assert warned(live, "coin", {"x": np.zeros((2, 2), np.float32)}) == [NOISE_ON_TRUST]


def test_a_network_on_another_server_is_tried_too(live: Live, tmp_path: Path):
    """Within what rounding may do there, and without its node, which is there."""
    networks.write_mixing(tmp_path / "far")
    (tmp_path / "far" / "1" / "model.onnx").unlink()
    (folder,) = scan(tmp_path)

    def open_far(model: str) -> Sampler:
        loaded = load(folder, lambda _: TritonNetwork("far", live.address, model))
        assert isinstance(loaded, Sampler)
        return loaded

    with pytest.raises(LoadError) as caught:
        open_far("trusted.network")
    text = (
        "output 'x0': expected a row that depends on itself alone, got one that changes with the other rows of its call"
    )
    assert str(caught.value) == f"network 'far': {text} (--trust far serves it all the same)"
    assert open_far("rings.network").network.caution == ""


def test_commands_that_run_a_network_themselves_refuse_and_trust_alike(tmp_path: Path):
    networks.write_mixing(tmp_path / "mixing")
    with pytest.raises(LoadError, match=r"from node ReduceMean 'over_rows' \(--trust mixing serves it all the same\)"):
        open_sampler(tmp_path, "mixing")
    assert MIXES in open_sampler(tmp_path, "mixing", trust=("mixing",)).network.caution


def test_others_say_nothing(live: Live):
    """Nor does one that is trusted without need."""
    assert warned(live, "rings", samples=2, steps=2, reward="nearness", reward_mode=1) == []
    x = np.zeros((2, 2), np.float32)
    assert asked(live, "rings.network", {"x": x, "t": x[:, 0]}).keys() == {"fingerprint"}


def test_an_output_that_samples_do_not_need_is_left_out(tmp_path: Path, small_models: Path):
    """The sampler is right without it, and its raw network's other outputs are."""
    shutil.copytree(small_models / "rings", tmp_path / "rings")
    file = tmp_path / "rings" / "1" / "model.onnx"
    (tmp_path / "rings" / "1" / "bank.npz").unlink()
    model = onnx.load(file)
    model.graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    model.graph.node.append(helper.make_node("CumSum", ["x", "axis"], ["sum"]))
    model.graph.node.append(helper.make_node("Neg", ["x"], ["minus"]))
    model.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [], [0]))
    model.graph.node.append(helper.make_node("RandomNormalLike", ["x"], ["noise"]))
    for name in ("sum", "noise", "minus"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]))
    onnx.save(model, file)
    (folder,) = scan(tmp_path)
    names = {}
    for trusted in (False, True):
        loaded = load(folder, lambda file: OrtNetwork(file, 1), trials=Trials(trusted=trusted))
        assert isinstance(loaded, Sampler)
        assert ("node RandomNormalLike 'noise'" in loaded.network.caution) is trusted
        names[trusted] = [each.name for each in loaded.network.backend.outputs]
    assert names == {False: ["x0", "minus"], True: ["x0", "sum", "noise", "minus"]}
