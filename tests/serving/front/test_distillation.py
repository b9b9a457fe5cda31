"""Gradients through a real front and two real replicas, of models whose laws are closed forms."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from protos.tiltserve.v1 import distillation_pb2 as pb
from protos.tiltserve.v1.distillation_pb2_grpc import DistillationStub
from serving.engine.engine import Engine
from serving.engine.task import Task
from serving.wire.inflight import MOST_REQUESTS
from serving.wire.tensors import tensor, value
from steering.distillation import noises
from tests import conditional, gaussians, networks, pipelines
from tests.serving.live import MODE, Live, running, until

D = 2
MEANS = np.array([[1.5, -0.5], [0.0, 0.25], [-1.0, 2.0]], np.float32)
WIDTHS = np.array([0.5, 1.0, 0.25], np.float32)
X = np.random.default_rng(0).normal(size=(3, D)).astype(np.float32)
T1, T2 = 0.6, 0.4
RHO1, RHO2 = T1 / (1 - T1), T2 / (1 - T2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    conditional.write(root, d=D)
    networks.write_rings(root)
    networks.write_nearness(root)
    networks.write_nan(root)
    gaussians.write(root, "map", defaults={"solver": "consistency"})
    pipelines.write_pipeline(root)
    return root


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    with running(root, count=2) as live:
        yield live


@pytest.fixture
def stub(live: Live) -> Iterator[DistillationStub]:
    with grpc.insecure_channel(live.address) as channel:
        yield DistillationStub(channel)


def asked(x: NDArray[Any] = X, **fields: Any) -> pb.GradientRequest:
    """A request about the Gaussians, a law for each view, unless it says another model."""
    given: dict[str, Any] = {"model": "gaussians", "iteration": 3, "seed": 11, **fields}
    if given["model"] == "gaussians" and "conditions" not in given:
        given["conditions"] = {"mean": tensor(MEANS[: len(x)]), "width": tensor(WIDTHS[: len(x)])}
    given.setdefault("input", tensor(x))
    return pb.GradientRequest(**{name: each for name, each in given.items() if each is not None})


def array(message: Any) -> NDArray[Any]:
    dtype = {"FP32": "<f4", "FP16": "<f2"}[message.datatype]
    return np.frombuffer(message.data, dtype).reshape(message.shape)


def refusal(stub: DistillationStub, request: pb.GradientRequest) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Gradient(request, timeout=30)
    told: Any = caught.value
    assert "\n" not in told.details()
    return told.code().name, told.details()


def noise(kind: str, iteration: int = 3, seed: int = 11) -> NDArray[np.float64]:
    """What the server draws for the first three views, [3, D]."""
    drawn: NDArray[np.float64] = noises.normal(kind, seed, iteration, range(3), 1, (D,))[0].numpy()
    return drawn


def pb_times(t1: float = T1, t2: float | None = T2) -> pb.Schedule:
    return pb.Schedule(t1=[t1], t2=[] if t2 is None else [t2])


def of_cds() -> NDArray[np.float64]:
    """(x - m + rho1 n) s^2 (rho1 - rho2) / ((s^2 + rho1^2) (s^2 + rho2^2)) / B."""
    s2 = WIDTHS[:, None].astype(np.float64) ** 2
    pulled = X - MEANS + RHO1 * noise("fixed")
    return pulled * s2 * (RHO1 - RHO2) / ((s2 + RHO1**2) * (s2 + RHO2**2)) / 3


def of_sds() -> NDArray[np.float64]:
    """(rho1 (x - m) - s^2 n) / (s^2 + rho1^2) / B."""
    s2 = WIDTHS[:, None].astype(np.float64) ** 2
    return (RHO1 * (X - MEANS) - s2 * noise("iteration")) / (s2 + RHO1**2) / 3


@pytest.mark.parametrize(("mode", "wanted", "rows"), [("cds", of_cds, 6), ("sds", of_sds, 3)])
def test_the_gradient_is_the_closed_form(stub: DistillationStub, mode: str, wanted: Any, rows: int):
    answer = stub.Gradient(asked(mode=mode, schedule=pb_times(), id="r1"))
    np.testing.assert_allclose(array(answer.gradient), wanted(), atol=1e-6)
    assert (answer.model, answer.version, answer.id) == ("gaussians", "1", "r1")
    assert (answer.network_rows, answer.reward_rows, answer.nonfinite) == (rows, 0, 0)
    np.testing.assert_allclose(answer.rho1, [RHO1] * 3)
    np.testing.assert_allclose(answer.rho2, [RHO2] * 3)
    assert (answer.t1[:], answer.t2[:]) == ([T1] * 3, [T2] * 3)
    np.testing.assert_allclose(answer.gradient_norm, np.linalg.norm(wanted()), rtol=1e-5)
    # the surrogate's loss: |d|^2 / 2 B, d the gradient before the division
    np.testing.assert_allclose(answer.loss, 3 * (wanted() ** 2).sum(axis=1) / 2, rtol=1e-4)
    assert answer.fingerprint
    assert not answer.models


def test_descending_leads_to_where_it_should(stub: DistillationStub):
    """m - rho1 n, at levels that stay: the sign of the other direction would diverge."""
    x = X.copy()
    for _ in range(60):
        answer = stub.Gradient(asked(x, mode="cds", schedule=pb.Schedule(t1=[0.2], t2=[0.1])))
        x -= 6.0 * array(answer.gradient)
    gap = np.abs(x - (MEANS - 0.25 * noise("fixed"))).max()
    assert gap < np.abs(X - MEANS).max() / 10


def test_guidance_in_both_conventions(stub: DistillationStub):
    """null + w (cond - null) moves the mean to w m, the null's being 0; cond + w (cond - null) is that of w + 1."""
    ours = stub.Gradient(asked(mode="sds", schedule=pb_times(), guidance=3.0))
    theirs = stub.Gradient(asked(mode="sds", schedule=pb_times(), guidance=2.0, convention="cond"))
    assert ours.gradient == theirs.gradient
    assert ours.network_rows == 6
    s2 = WIDTHS[:, None].astype(np.float64) ** 2
    wanted = (RHO1 * (X - 3 * MEANS) - s2 * noise("iteration")) / (s2 + RHO1**2) / 3
    np.testing.assert_allclose(array(ours.gradient), wanted, atol=2e-6)
    alone = stub.Gradient(asked(mode="sds", schedule=pb_times(), guidance=0.0, convention="cond"))
    assert alone.gradient == stub.Gradient(asked(mode="sds", schedule=pb_times())).gradient


def test_every_replica_gives_the_same_bytes_and_every_view_those_that_it_has_alone(live: Live):
    """Modes, noises and schedules with draws of their own; whoever answers, and whatever else runs."""
    requests: list[dict[str, Any]] = [
        {"mode": "sds", "noises": 2},
        {"mode": "cds", "guidance": 4.0},
        {"mode": "ism", "schedule": pb.Schedule(c0=300.0)},
    ]
    for fields in requests:
        found = []
        for replica in live.replicas:
            with grpc.insecure_channel(replica._address) as channel:
                stub = DistillationStub(channel)
                found.append(stub.Gradient(asked(**fields)).gradient.data)
                alone = [
                    stub.Gradient(asked(
                        X[k : k + 1], **fields, first_view=k, over=3,
                        conditions={"mean": tensor(MEANS[k : k + 1]), "width": tensor(WIDTHS[k : k + 1])},
                    )).gradient.data
                    for k in range(3)
                ]  # fmt: skip
            assert b"".join(alone) == found[-1]
        assert found[0] == found[1]


def test_iterations_views_and_seeds_draw_their_own(stub: DistillationStub):
    def gradient(**fields: Any) -> bytes:
        data: bytes = stub.Gradient(asked(schedule=pb_times(), **fields)).gradient.data
        return data

    one = gradient(mode="sds")
    assert gradient(mode="sds") == one
    others = [gradient(mode="sds", iteration=4), gradient(mode="sds", seed=12), gradient(mode="sds", first_view=1)]
    assert len({one, *others}) == 4
    fixed = gradient(mode="cds")
    assert gradient(mode="cds", iteration=4) == fixed  # one noise for the whole optimisation
    assert gradient(mode="cds", noise="iteration") != fixed


def test_half_precision_on_the_wire_and_sums_in_more(stub: DistillationStub):
    half = X.astype(np.float16)
    answer = stub.Gradient(asked(half, mode="cds", schedule=pb_times()))
    assert answer.gradient.datatype == "FP16"
    single = stub.Gradient(asked(half.astype(np.float32), mode="cds", schedule=pb_times()))
    assert array(answer.gradient).tobytes() == array(single.gradient).astype(np.float16).tobytes()
    assert answer.gradient_norm == single.gradient_norm
    # what half precision cannot hold is 0, and counted
    far = stub.Gradient(asked(np.full((3, D), 6e4, np.float16), schedule=pb_times(), guidance=1e6))
    lost = int((array(far.gradient) == 0).sum())
    assert far.nonfinite == lost > 0


def test_clips_and_weights(stub: DistillationStub):
    free = array(stub.Gradient(asked(mode="sds", schedule=pb_times())).gradient)
    bound = float(np.abs(free).max()) * 3 / 2
    clipped = array(stub.Gradient(asked(mode="sds", schedule=pb_times(), clip=bound)).gradient)
    np.testing.assert_allclose(clipped, np.clip(free, -bound / 3, bound / 3), rtol=1e-6)
    weighted = array(stub.Gradient(asked(mode="sds", schedule=pb_times(), weighting="sds")).gradient)
    np.testing.assert_allclose(weighted, free * RHO1**2 / (1 + RHO1**2), rtol=1e-5)


def test_several_models_are_added_up_by_their_weights(stub: DistillationStub):
    """Each has the conditions that it knows, and is asked at its own times."""
    one = stub.Gradient(asked(mode="sds", schedule=pb_times()))
    other = stub.Gradient(asked(model="rings", mode="sds", schedule=pb_times()))
    both = stub.Gradient(asked(
        mode="sds", schedule=pb_times(), model=None,
        conditions={"mean": tensor(MEANS), "width": tensor(WIDTHS)},
        models=[pb.WeightedModel(model="gaussians", weight=2.0), pb.WeightedModel(model="rings", weight=-0.5)],
    ))  # fmt: skip
    wanted = 2 * array(one.gradient).astype(np.float64) - 0.5 * array(other.gradient)
    np.testing.assert_allclose(array(both.gradient), wanted, atol=1e-6)
    assert both.network_rows == 6
    assert [(each.model, each.fingerprint) for each in both.models] == [
        ("gaussians", one.fingerprint), ("rings", other.fingerprint),
    ]  # fmt: skip
    assert both.fingerprint == f"{one.fingerprint}+{other.fingerprint}"
    assert both.models[1].rho1[:] == other.rho1[:]
    single = pb.WeightedModel(model="gaussians", weight=0.5)
    conditions = {"mean": tensor(MEANS), "width": tensor(WIDTHS)}
    halved = stub.Gradient(asked(model=None, models=[single], conditions=conditions, mode="sds", schedule=pb_times()))
    np.testing.assert_allclose(array(halved.gradient), array(one.gradient) / 2, rtol=1e-6)


def test_a_model_without_conditions_has_no_null_rows(live: Live):
    """Guidance of several models leaves it as it is, and fronts count it so."""
    draws = {each.name: each.draws for each in live.replicas[0]._models.states() if each.draws is not None}
    assert (draws["gaussians"].null_rows, draws["rings"].null_rows) == (True, False)


def test_a_reward_tilts_the_gradient(live: Live, stub: DistillationStub):
    """Of N(m, s^2) tilted by exp(a x / beta) it is that of N(m + s^2 a / beta, s^2)."""
    a, beta, rho = np.array([0.5, -0.25], np.float32), 0.5, 1.0
    conditions = {"mean": tensor(MEANS[:1]), "width": tensor(WIDTHS[:1])}
    fields: dict[str, Any] = {"schedule": pb_times(0.5, None), "conditions": conditions, "noises": 16}
    plain = array(stub.Gradient(asked(**fields)).gradient)
    before = live.metric("tiltserve_ess_count", model="gaussians")
    tilted = stub.Gradient(asked(
        **fields, reward="linear", reward_arguments={"direction": value(a)}, beta=beta, posterior="residuals",
        particles=128, parameters={"residual_draws": value(512)},
    ))  # fmt: skip
    s2 = float(WIDTHS[0]) ** 2
    moved = -rho * s2 * a / beta / (s2 + rho**2) / 3
    np.testing.assert_allclose(array(tilted.gradient) - plain, np.tile(moved, (3, 1)), atol=0.15 * np.abs(moved).max())
    assert tilted.setup_reward_rows == 512  # the draws of the law are scored once
    assert tilted.setup_rows > 0
    assert tilted.ess > 1
    assert tilted.fingerprint.endswith("-linear")
    assert live.metric("tiltserve_ess_count", model="gaussians") == before + 1


@pytest.mark.parametrize(("mode", "over"), [("sds", 1.0), ("cds", 1.0), ("ism", 1.2)])
def test_rows_that_are_counted_are_those_that_are_used(
    stub: DistillationStub, monkeypatch: pytest.MonkeyPatch, mode: str, over: float
):
    """Of guided views that look ahead by roll-outs; those from the cleanest level, where `ism` begins, take none."""
    counted, submit = list[int](), Engine.submit

    def noted(engine: Engine, task: Task) -> Any:
        counted.append(task.network_rows)
        return submit(engine, task)

    monkeypatch.setattr(Engine, "submit", noted)
    answer = stub.Gradient(asked(
        mode=mode, guidance=5.0, reward="linear", reward_arguments={"direction": value(np.ones(D, np.float32))},
        posterior="rollout", particles=16, parameters={"rollout_steps": value(4)},
    ))  # fmt: skip
    (most,) = counted
    assert answer.network_rows <= most <= over * answer.network_rows


def test_a_reward_of_a_bank_and_one_that_weighs_noises(stub: DistillationStub):
    """A served network scores; the model's own bank serves as for infer."""
    fields: dict[str, Any] = {"model": "rings", "reward": "nearness", "reward_arguments": {"mode": value(MODE)}}
    plain = stub.Gradient(asked(model="rings", mode="sds"))
    tilted = stub.Gradient(asked(**fields, mode="sds", beta=0.2))
    assert tilted.gradient != plain.gradient
    assert stub.Gradient(asked(**fields, mode="sds", beta=0.2)).gradient == tilted.gradient
    weighed = stub.Gradient(asked(**fields, mode="reward_sds", noises=8))
    assert (weighed.network_rows, weighed.reward_rows) == (24, 24)


def test_a_pipeline_takes_latents_and_prompts(stub: DistillationStub):
    latents = np.random.default_rng(1).normal(size=(2, *pipelines.EVENT)).astype(np.float16)
    said: dict[str, Any] = {"model": "tiny", "prompt": ["a red heart"], "mode": "sds", "guidance": 5.0}
    answer = stub.Gradient(asked(latents, **said))
    assert (array(answer.gradient).shape, answer.gradient.datatype) == (latents.shape, "FP16")
    assert answer.network_rows == 4
    each = stub.Gradient(asked(latents, **{**said, "prompt": ["a red heart", "a red heart"]}))
    assert each.gradient == answer.gradient
    other = stub.Gradient(asked(latents, **{**said, "prompt": ["a red heart", "a blue square"]}))
    assert other.gradient != answer.gradient
    assert array(other.gradient)[0].tobytes() == array(answer.gradient)[0].tobytes()
    assert stub.Gradient(asked(latents, **said, negative_prompt=["blue"])).gradient != answer.gradient
    pictures = np.zeros((1, *pipelines.PICTURE), np.float32)
    code, text = refusal(stub, asked(pictures, model="tiny", prompt=["a"]))
    assert code == "INVALID_ARGUMENT"
    assert "expected latents [views, 4, 4, 4]" in text


def test_what_is_allowed_and_seldom_wanted_is_said(stub: DistillationStub):
    (told,) = stub.Gradient(asked(mode="sds", noise="fixed", schedule=pb_times())).warnings
    assert "one noise for the whole optimisation" in told
    (told,) = stub.Gradient(asked(np.zeros((1, 2), np.float32), model="map", mode="sds", schedule=pb_times())).warnings
    assert "flow map" in told
    rings = stub.Gradient(asked(model="rings", mode="cds", schedule=pb_times(0.99, 0.98))).warnings
    assert any("standard deviation" in each for each in rings)
    assert not stub.Gradient(asked(model="rings", mode="cds", schedule=pb_times())).warnings


NAN = np.full((1, D), np.nan, np.float32)
LINEAR = {"direction": value(np.ones(D, np.float32))}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"mode": "sdf"}, "mode: expected one of sds, cds, ism, reward_sds, got 'sdf'"),
        ({"iteration": None}, "iteration: expected an integer >= 0, which the client counts, got none"),
        ({"iteration": -1}, "iteration: expected greater than or equal to 0, got -1"),
        ({"first_view": 2**31 - 2}, "first_view: expected numbers of views below 2147483648, got 2147483646 for the"),
        ({"seed": -1}, "seed: expected greater than or equal to 0, got -1"),
        ({"input": None}, "input: expected FP32 or FP16 [views, *event], got none"),
        ({"x": NAN}, "input 'input': expected finite numbers, got NaN or infinity"),
        ({"x": np.zeros((0, D), np.float32)}, "input: expected FP32 or FP16 [1..4096 views, *event], got FP32 [0, 2]"),
        ({"x": np.zeros((3, 3), np.float32)}, "FP16 [views, 2] for model 'gaussians', got float32 [3, 3]"),
        ({"x": np.zeros((3, D))}, "input: expected FP32 or FP16 [1..4096 views, *event], got FP64 [3, 2]"),
        ({"conditions": {"mean": tensor(MEANS[:2])}}, "condition 'mean': expected float32 [3, 2] or [1, 2]"),
        ({"conditions": {"means": tensor(MEANS)}}, "unknown condition 'means', did you mean 'mean'?"),
        ({"conditions": {"x_init": tensor(X)}}, "unknown condition 'x_init'"),
        ({"noise": "none"}, "noise: expected 'iteration' or 'fixed', got 'none'"),
        ({"mode": "ism", "noise": "fixed"}, "noise: expected none for mode 'ism', which draws none"),
        ({"weighting": "sds2"}, "weighting: expected 'uniform', 'sds' or 'fantasia3d', got 'sds2'"),
        ({"convention": "theirs"}, "convention: expected 'null' or 'cond', got 'theirs'"),
        ({"clip": 0.0}, "clip: expected greater than 0, got 0.0"),
        ({"rescale": 1.5}, "rescale: expected less than or equal to 1, got 1.5"),
        ({"guidance": float("inf")}, "guidance: expected less than or equal to"),
        ({"model": "rings", "guidance": 3.0}, "guidance: model 'rings' has no conditions, expected 1.0, got 3.0"),
        ({"schedule": pb.Schedule(preset="fine")}, "schedule.preset: expected 'coarse', 'coarse_long'"),
        ({"schedule": pb.Schedule(shape="cubic")}, "schedule.shape: expected"),
        ({"schedule": pb.Schedule(c0=float("nan"))}, "schedule.c0: expected"),
        ({"schedule": pb.Schedule(unit="t")}, "schedule.c0: expected a number beside unit 't', got none"),
        ({"schedule": pb.Schedule(t1=[1.5], t2=[0.5])}, "t1: expected a time in 0.001..0.999"),
        ({"schedule": pb.Schedule(t1=[0.5, 0.5], t2=[0.2])}, "t1: expected a time, or one for each of 3 views"),
        ({"schedule": pb.Schedule(t1=[0.5], c0=3.0)}, "schedule.c0: expected none beside times t1 and t2, got 3.0"),
        ({"schedule": pb.Schedule(t2=[0.5])}, "schedule.t1: expected times beside t2, got none"),
        ({"schedule": pb.Schedule(t1=[0.2], t2=[0.5]), "mode": "cds"}, "t2: expected a time below t1"),
        ({"schedule": pb.Schedule(t1=[0.2]), "mode": "cds"}, "t2: expected a time below t1"),
        ({"beta": 0.5}, "beta: expected a reward beside it, got none"),
        ({"mode": "reward_sds"}, "mode 'reward_sds': expected a reward"),
        ({"reward_arguments": LINEAR}, "reward_arguments: expected a reward beside 'direction', got none"),
        ({"reward": "linea", "reward_arguments": LINEAR}, "unknown reward 'linea'"),
        ({"reward": "linear"}, "reward 'linear': expected argument 'reward_direction', got none"),
        ({"reward": "linear", "reward_arguments": LINEAR, "particles": 3}, "particles: expected a multiple of 2"),
        ({"parameters": {"samples": value(3)}}, "unknown parameter 'samples'"),
        ({"parameters": {"refresh": value(3)}}, "parameter refresh: expected a valid boolean, got 3"),
        ({"prompt": ["a"]}, "prompt: expected none, no model here reads prompts, got one"),
        ({"x": np.zeros((4096, 256), np.float32), "noises": 64}, "input: expected FP32 or FP16 [views, 2]"),
        ({"noises": 65}, "noises: expected less than or equal to 64"),
        ({"priority": 12}, "parameter priority: expected an integer in 1..9"),
        ({"timeout": -5}, "parameter 'timeout': expected an integer >= 0 (microseconds), got -5"),
        ({"models": [pb.WeightedModel(model="rings")]}, "models: expected none beside model and version, got both"),
        ({"model": "nearness"}, "model 'nearness': expected a sampler or a pipeline, got a plain network"),
        ({"negatives": {"mean": tensor(MEANS[:, None])}}, "negative_weights: expected some"),
        ({"negative_weights": tensor(np.ones((3, 1), np.float32))}, "negatives: expected some"),
        ({"negatives": {"mean": tensor(MEANS[:, None])}, "negative_weights": tensor(np.ones((3, 1), np.float32))},
         "negatives: expected guidance other than 1 beside them, got 1"),
        ({"schedule": pb.Schedule(unit="rho", c0=0, c1=0, gap=.1, smin=0, smax=1)}, "schedule: expected noise levels"),
    ],
)  # fmt: skip
def test_one_clear_line_for_what_is_wrong(stub: DistillationStub, fields: dict[str, Any], text: str):
    fields = dict(fields)
    code, told = refusal(stub, asked(fields.pop("x", X), **fields))
    assert (code, text in told) == ("INVALID_ARGUMENT", True), told


def test_other_statuses(stub: DistillationStub):
    assert refusal(stub, asked(mode="vsd"))[0] == "UNIMPLEMENTED"
    code, text = refusal(stub, asked(model="gaussian"))
    assert (code, text.split(",")[0]) == ("NOT_FOUND", "unknown model 'gaussian'")
    assert refusal(stub, asked(version="7"))[0] == "NOT_FOUND"
    assert (
        refusal(stub, asked(model=None, models=[pb.WeightedModel(model="gaussians"), pb.WeightedModel(model="no")]))[0]
        == "NOT_FOUND"
    )
    code, text = refusal(stub, asked(model="rings", reward="nan"))
    assert (code, "nan" in text) == ("FAILED_PRECONDITION", True)
    code, _ = refusal(stub, asked(timeout=1))
    assert code in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


def test_perpendicular_negatives(stub: DistillationStub):
    """A negative along the condition itself changes nothing; one at right angles pushes."""
    along, across = MEANS[:, None], np.stack([-MEANS[:, 1], MEANS[:, 0]], axis=1)[:, None]
    fields: dict[str, Any] = {"mode": "sds", "schedule": pb_times(), "guidance": 3.0}
    plain = array(stub.Gradient(asked(**fields)).gradient)
    weights = tensor(np.full((3, 1), -0.5, np.float32))
    same = stub.Gradient(asked(**fields, negatives={"mean": tensor(along)}, negative_weights=weights))
    np.testing.assert_allclose(array(same.gradient), plain, atol=1e-5)
    assert same.network_rows == 9
    pushed = stub.Gradient(asked(**fields, negatives={"mean": tensor(across)}, negative_weights=weights))
    moved = array(pushed.gradient) - plain
    toward = (moved * -across[:, 0]).sum(axis=1)  # the gradient descends: away from the negative
    assert (toward < 0).all() or (toward > 0).all()
    assert np.abs((moved * MEANS).sum(axis=1)).max() < 1e-5


# sessions


def answers(stub: DistillationStub, messages: Iterator[pb.SessionRequest] | list[pb.SessionRequest]) -> list[Any]:
    return list(stub.Session(iter(messages), timeout=60))


def gradient(**fields: Any) -> pb.SessionRequest:
    return pb.SessionRequest(gradient=pb.GradientRequest(**fields))


def test_a_session_keeps_its_order_and_stays_open_after_errors(stub: DistillationStub):
    common = asked(mode="cds", input=None, iteration=None, schedule=pb_times())
    messages = [pb.SessionRequest(common=common)]
    for k in range(12):
        wrong = {"mode": "vsd"} if k == 5 else {"input": tensor(X[:, :1])} if k == 7 else {}
        messages.append(gradient(**{"id": str(k), "iteration": k, "input": tensor(X), **wrong}))
    messages.insert(4, pb.SessionRequest())
    found = answers(stub, messages)
    assert [each.gradient.id or each.error.id for each in found] == [
        "0", "1", "2", "", "3", "4", "5", "6", "7", "8", "9", "10", "11",
    ]  # fmt: skip
    failed = {each.error.id: each.error for each in found if each.HasField("error")}
    assert {name: each.code for name, each in failed.items()} == {"": 3, "5": 12, "7": 3}
    assert failed[""].message == "expected common or gradient, got neither"
    alone = stub.Gradient(asked(mode="cds", schedule=pb_times(), iteration=11))
    assert found[-1].gradient.gradient == alone.gradient
    assert found[-1].gradient.fingerprint == alone.fingerprint


def test_another_common_request_takes_the_place_of_the_first(stub: DistillationStub):
    first, second = (asked(mode=mode, input=None, schedule=pb_times()) for mode in ("cds", "sds"))
    one = gradient(input=tensor(X))
    found = answers(stub, [pb.SessionRequest(common=first), one, pb.SessionRequest(common=second), one])
    wanted = [stub.Gradient(asked(mode=mode, schedule=pb_times())).gradient for mode in ("cds", "sds")]
    assert [each.gradient.gradient for each in found] == wanted


def test_more_requests_than_a_session_has_under_way(stub: DistillationStub):
    common = pb.SessionRequest(common=asked(mode="sds", input=None, schedule=pb_times()))
    count = MOST_REQUESTS + 20
    found = answers(stub, [common, *(gradient(id=str(k), iteration=k, input=tensor(X)) for k in range(count))])
    assert [each.gradient.id for each in found] == [str(k) for k in range(count)]


def test_a_client_that_leaves_a_session_leaves_no_rows(live: Live, stub: DistillationStub):
    begun = threading.Event()
    common = pb.SessionRequest(common=asked(np.repeat(X, 100, axis=0), mode="ism", conditions={
        "mean": tensor(MEANS[:1]), "width": tensor(WIDTHS[:1]),
    }, noise=None))  # fmt: skip

    def messages() -> Iterator[pb.SessionRequest]:
        yield common
        for k in range(10_000):
            yield gradient(iteration=k)
            if k == 40:
                begun.set()

    call = stub.Session(messages())
    assert next(iter(call)).HasField("gradient")
    assert begun.wait(30)
    call.cancel()
    until(lambda: all(each._engine.backlog_rows == 0 for each in live.replicas))
    assert stub.Gradient(asked(), timeout=30).network_rows == 3


def test_a_lost_replica_changes_nothing(root: Path):
    """The gradients of an optimisation are those of a whole one, and each is answered once."""
    x = np.repeat(X, 40, axis=0)
    conditions = {"mean": tensor(MEANS[:1]), "width": tensor(WIDTHS[:1])}

    def messages() -> Iterator[pb.SessionRequest]:
        yield pb.SessionRequest(common=asked(x, mode="ism", conditions=conditions))
        for k in range(40):
            yield gradient(id=str(k), iteration=k)

    with running(root, count=3) as live, grpc.insecure_channel(live.address) as channel:
        stub = DistillationStub(channel)
        whole = [each.gradient.gradient.data for each in stub.Session(messages(), timeout=60)]
        call = stub.Session(messages(), timeout=60)
        found = [next(call)]
        busiest = max(live.replicas, key=lambda each: each._engine.backlog_rows)
        assert busiest._server is not None
        live.on_loop(busiest._server.stop(None))
        found += list(call)
        assert [each.gradient.id for each in found] == [str(k) for k in range(40)], found
        assert [each.gradient.gradient.data for each in found] == whole


def test_calls_are_counted(live: Live, stub: DistillationStub):
    def count(method: str, code: str) -> float:
        return live.metric("tiltserve_requests_total", model="gaussians", method=method, code=code)

    calls = [("Gradient", "OK"), ("Gradient", "INVALID_ARGUMENT"), ("Session", "OK"), ("Session", "INVALID_ARGUMENT")]
    before = [count(*each) for each in calls]
    rows = live.metric("tiltserve_rows_total", model="gaussians", kind="network")
    stub.Gradient(asked())
    refusal(stub, asked(mode="x"))
    answers(stub, [pb.SessionRequest(gradient=asked()), pb.SessionRequest(gradient=asked(mode="x"))])
    assert [count(*each) for each in calls] == [each + 1 for each in before]
    assert live.metric("tiltserve_rows_total", model="gaussians", kind="network") == rows + 6
