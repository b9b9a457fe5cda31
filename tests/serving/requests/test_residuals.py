"""Steering under conditions: draws of each law are made once, shared and bounded, and answers do not tell who made
them."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client import CollectorRegistry

from serving.engine.engine import QueueFullError
from serving.models.draws import DrawStore, Wanted
from serving.models.draws_on_disk import DrawsOnDisk
from serving.models.loaded import LoadedModels
from serving.models.model import Model, Sampler
from serving.models.preparing import MOST_WANTED, drawing
from serving.requests import job
from serving.requests.laws import MOST_LAWS
from serving.wire.answer import Answer
from serving.wire.kserve import InferRequest
from tests import conditional, networks
from tests.serving.live import Live, running, until
from tests.unmodified import inferred, tensors

F = np.float32
N = 256
DIRECTION = np.array([1, 0], F)
FEW = {"residual_draws": 256}
"""Fewer than vectors have by default, to take less time."""
DRAWN = 256 * 20
"""Network rows of so many."""


def _few(asked: dict[str, Any]) -> dict[str, Any]:
    return FEW if asked.get("steering", "doob") in ("doob", "smc") else {}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, small_models: Path) -> Path:
    folder = tmp_path_factory.mktemp("conditional")
    conditional.write(folder)
    for name in ("stripes", "rings", "nearness"):
        shutil.copytree(small_models / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    with running(root, count=2, threads=1) as live:
        yield live


@pytest.fixture(scope="module")
def loaded(root: Path) -> LoadedModels:
    return opened(root)


@pytest.fixture
def shelf(loaded: LoadedModels) -> LoadedModels:
    """The models as a replica holds them, without any draws."""
    for model in loaded.models.values():
        if isinstance(model, Sampler):
            model.draws = DrawStore()
    return loaded


def opened(root: Path) -> LoadedModels:
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    return shelf


def law(mean: float, width: float = 1.0) -> dict[str, Any]:
    """Inputs of N((mean, 0), width^2 I), steered along the first axis."""
    given = {"mean": np.array([[mean, 0]], F), "width": np.array([width], F)}
    return {**given, "reward_direction": DIRECTION}


def steered(live: Live, inputs: dict[str, Any], **parameters: Any) -> tuple[dict[str, np.ndarray], Any]:
    return live.infer(
        inputs, model="gaussians", **{"samples": N, "seed": 1, "reward": "linear", **_few(parameters), **parameters}
    )


def start(made: Any, shelf: LoadedModels, inputs: dict[str, Any], model: str = "gaussians", **asked: Any) -> Any:
    return made.engine.submit(task(shelf, inputs, model, **asked))


def task(shelf: LoadedModels, inputs: dict[str, Any], model: str = "gaussians", **asked: Any) -> Any:
    parameters = {"samples": 8, "seed": 1, "reward": "linear", **_few(asked), **asked}
    return job.task_for(InferRequest(model, inputs=inputs, parameters=parameters), shelf.models[model], shelf.models)


def sampler(shelf: LoadedModels, name: str = "gaussians") -> Sampler:
    model: Model = shelf.models[name]
    assert isinstance(model, Sampler)
    return model


def counted(made: Any, model: str = "gaussians", kind: str = "network") -> float:
    return made.metrics.registry.get_sample_value("tiltserve_rows_total", {"model": model, "kind": kind}) or 0.0


@pytest.mark.parametrize(
    ("mean", "width", "guidance", "within"), [(1.0, 0.1, 1.0, 0.05), (1.0, 1.0, 1.0, 0.3), (2.0, 0.5, 3.0, 0.15)]
)
def test_the_tilted_law_is_met_under_conditions_and_guidance(
    live: Live, mean: float, width: float, guidance: float, within: float
):
    """N(m, s^2) exp(x) is N(m + s^2, s^2), m the guided mean; the Gaussian of before is further off."""
    exact = guidance * mean + width**2
    x, said = steered(live, law(mean, width), guidance=guidance)
    before, without = steered(live, law(mean, width), guidance=guidance, posterior="gaussian")
    off, was = (abs(float(each["samples"][:, 0].mean()) - exact) for each in (x, before))
    assert off < within
    assert off < was
    assert float(x["samples"][:, 0].std()) == pytest.approx(width, rel=0.2)
    assert float(x["samples"][:, 1].mean()) == pytest.approx(0, abs=0.3 * width)
    assert (said["posterior"], said["setup_rows"]) == ("residuals", DRAWN * (1 if guidance == 1 else 2))
    assert (without["posterior"], without["setup_rows"]) == ("gaussian", 0)
    assert said["network_rows"] == without["network_rows"]
    assert json.loads(said["report"])["residuals"] == {"laws": 1, "draws": 256}
    assert "not calibrated" in without["warnings"]
    assert "not calibrated" not in said["warnings"]


def test_replicas_agree_whatever_was_asked_of_them_before(live: Live):
    answers = []
    for i, replica in enumerate(live.replicas):
        given = {"samples": 8 * (1 + i), "seed": 7, "reward": "linear", "guidance": 2.0, **FEW}
        for _ in range(2):  # the draws are made, and then there
            with triton.InferenceServerClient(replica._address) as client:
                answers.append(inferred(client.infer("gaussians", tensors(law(0.3)), parameters=given)))
    samples = {each.outputs["samples"][:8].tobytes() for each in answers}
    assert len(samples) == 1
    assert len({each.parameters["setup_rows"] for each in answers}) == 1
    assert len({each.parameters["fingerprint"] for each in answers}) == 1
    for one, other in (answers[:2], answers[2:]):
        assert one.parameters == other.parameters


def test_a_replica_that_is_lost_while_it_draws_costs_no_bytes(root: Path):
    with running(root, count=2, threads=1) as live, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(steered, live, law(0.7), samples=64, residual_draws=1024)
        until(lambda: any(each._engine.backlog_rows for each in live.replicas))
        live.lose_busy()
        x, said = asked.result(60)
        again, same = steered(live, law(0.7), samples=64, residual_draws=1024)
        assert x["samples"].tobytes() == again["samples"].tobytes()
        assert said == same
        assert said["setup_rows"] == 1024 * 20


@pytest.fixture
def restarted(shelf: LoadedModels, tmp_path: Path) -> Iterator[Callable[[], Sampler]]:
    """The models as a replica holds them that has just started, with a folder for draws."""
    stores: list[DrawStore] = []

    def start() -> Sampler:
        stores.append(DrawStore(registry=CollectorRegistry(), disk=DrawsOnDisk(tmp_path)))
        for model in shelf.models.values():
            if isinstance(model, Sampler):
                model.draws = stores[-1]
        return sampler(shelf)

    yield start
    for each in stores:
        each.close()


def kept(folder: Path, count: int) -> list[Path]:
    """The files of draws, once there are so many."""
    until(lambda: len(list(folder.glob("*.draws"))) == count)
    return list(folder.glob("*.draws"))


def test_draws_on_disk_are_not_made_again_and_answers_have_the_same_bytes(
    shelf: LoadedModels, restarted: Callable[[], Sampler], make_engine, tmp_path: Path
):
    """Of vectors, which are scored, and of images, under guidance and in a mixed request too."""
    made = make_engine()
    means = np.tile(np.array([[1, 0], [2, 0]], F), (4, 1))
    brighter = {"label": np.array([2]), "reward_direction": np.ones((1, 4, 4), F)}
    few: dict[str, Any] = {"residual_draws": 16}
    asked: list[tuple[str, Any, Any]] = [
        ("gaussians", law(1.0), few),
        ("gaussians", law(1.0), {**few, "guidance": 2.0}),
        ("gaussians", {**law(0), "mean": means}, few),
        ("stripes", brighter, {**few, "beta": 2.0}),
    ]
    rounds = []
    for i in range(2):
        store = restarted().draws
        until(lambda store=store: store._disk._looked)  # type: ignore[misc]
        for again in range(2):
            rounds.append([start(made, shelf, inputs, name, **how).result(60) for name, inputs, how in asked])
            for answer, first in zip(rounds[-1], rounds[0], strict=True):
                assert answer.outputs["samples"].tobytes() == first.outputs["samples"].tobytes()
            assert again or len(kept(tmp_path, 4)) == 4
        results = {each: store._asked.labels(each)._value.get() for each in ("miss", "disk", "hit")}
        assert results == {"miss": 4 * (i == 0), "disk": 4 * (i == 1), "hit": 6}
    told = [[each.parameters for each in one] for one in rounds]
    assert [each["setup_rows"] for each in told[0]] == [16 * 20, 2 * 16 * 20, 2 * 16 * 20, 16 * 20]
    assert told == [told[0]] * 4
    rows = sum(each.parameters["network_rows"] for one in rounds for each in one[:3])
    assert counted(made) == rows + 4 * 16 * 20


def test_draws_on_disk_are_admitted_without_their_rows(
    shelf: LoadedModels, restarted: Callable[[], Sampler], make_engine, tmp_path: Path
):
    """A file that is spoilt costs them nevertheless."""
    made, here = make_engine(), restarted().draws
    first = start(made, shelf, law(1.0)).result(60)
    (file,) = kept(tmp_path, 1)
    for spoilt in (False, True):
        here = restarted().draws
        until(lambda here=here: here._disk.there(file.stem))  # type: ignore[misc]
        if spoilt:
            file.write_bytes(b"")
        later, before = task(shelf, law(1.0)), counted(made)
        assert later.network_rows == 8 * 20
        answer = made.engine.submit(later).result(60)
        assert counted(made) - before == 8 * 20 + DRAWN * spoilt == later.network_rows
        assert answer.outputs["samples"].tobytes() == first.outputs["samples"].tobytes()
        assert answer.parameters == first.parameters
    until(lambda: file.stat().st_size > 0)


def test_who_does_not_wait_finds_draws_of_disk_the_next_time(
    shelf: LoadedModels, restarted: Callable[[], Sampler], make_engine, tmp_path: Path
):
    made = make_engine()
    restarted()
    start(made, shelf, law(1.0)).result(60)
    kept(tmp_path, 1)
    wanted = list[Wanted]()
    restarted().draws.listen(wanted.append)
    assert start(made, shelf, law(1.0), residual_wait=False).result(60).parameters["steering"] == "svdd"
    before = counted(made)
    made.engine.submit(drawing(sampler(shelf), wanted[0])).result(60)
    assert counted(made) == before
    assert start(made, shelf, law(1.0), residual_wait=False).result(60).parameters["steering"] == "doob"


def test_replicas_share_a_folder_of_draws(root: Path, tmp_path: Path):
    shutil.copytree(root / "gaussians", tmp_path / "models" / "gaussians")
    with running(tmp_path / "models", count=2, threads=1, draws_dir=tmp_path / "draws") as live:
        answers = []
        for replica in live.replicas:
            with triton.InferenceServerClient(replica._address) as client:
                given = {"samples": 8, "seed": 7, "reward": "linear", **FEW}
                answers.append(inferred(client.infer("gaussians", tensors(law(0.4)), parameters=given)))
            kept(tmp_path / "draws", 1)
        assert answers[0].outputs["samples"].tobytes() == answers[1].outputs["samples"].tobytes()
        assert answers[0].parameters == answers[1].parameters
        assert live.metric("tiltserve_draws_total", result="disk") == 1
        assert live.metric("tiltserve_draws_total", result="miss") == 1


def test_draws_are_made_once_for_all_who_want_them_at_the_same_time(shelf: LoadedModels, make_engine):
    made = make_engine()
    asking = [start(made, shelf, law(1.0), seed=k) for k in range(4)]
    answers = [each.result(60) for each in asking]
    assert counted(made) == DRAWN + 4 * 8 * 20
    assert {each.parameters["setup_rows"] for each in answers} == {DRAWN}
    assert made.engine.backlog_rows == 0


def test_rows_of_draws_are_announced_by_who_will_make_them_alone(shelf: LoadedModels, make_engine):
    made = make_engine()
    first = task(shelf, law(1.0))
    assert first.network_rows == 8 * 20 + DRAWN
    assert first.rows_at_once > 100  # what is asked for at a time, on average
    made.engine.submit(first).result(60)
    assert first.done_rows == first.network_rows
    later, other = task(shelf, law(1.0)), task(shelf, law(1.0), guidance=3.0)
    assert later.network_rows == 8 * 20
    assert later.bytes < first.bytes
    assert other.network_rows == 2 * (8 * 20 + DRAWN)
    half = task(shelf, law(1.0), guidance=3.0, guidance_low=0.3, guidance_high=0.6)
    made.engine.submit(half).result(60)
    assert 8 * 20 + DRAWN < half.network_rows == half.done_rows < other.network_rows
    closed = task(shelf, law(1.0), residual_draws=16, steps=7, solver="heun")
    assert closed.network_rows == 16 * 20 + 8 * 13


def test_who_leaves_loses_nothing_for_those_who_wait(shelf: LoadedModels, make_engine):
    """They go on where it stopped, and so does who comes when nobody waits."""
    made = make_engine()
    asked: dict[str, Any] = {"residual_draws": 1024}
    for waiting in (2, 0):
        before, inputs = counted(made), law(3.0 + waiting)
        first: Future[Answer] = start(made, shelf, inputs, **asked)
        others = [start(made, shelf, inputs, **asked) for _ in range(waiting)]
        enough = before + 3000
        until(lambda enough=enough: counted(made) > enough)  # type: ignore[misc]
        first.cancel()
        others = others or [start(made, shelf, inputs, **asked)]
        answers = [each.result(60) for each in others]
        with pytest.raises(CancelledError):
            first.result(0)
        again = 1024  # the call that ran when it left
        assert counted(made) - before <= 1024 * 20 + 8 * 20 * len(others) + again
        assert {each.parameters["setup_rows"] for each in answers} == {1024 * 20}
    resumed = start(made, shelf, law(3.0), **asked).result(60)
    sampler(shelf).draws = DrawStore()
    undisturbed = start(made, shelf, law(3.0), **asked).result(60)
    assert undisturbed.outputs["samples"].tobytes() == resumed.outputs["samples"].tobytes()
    assert undisturbed.parameters == resumed.parameters


def test_no_more_draws_are_kept_than_there_is_room_for(shelf: LoadedModels, make_engine):
    made = make_engine()
    size = most = 0
    bytes_of: dict[float, bytes] = {}
    for room in (None, 1.5, 0):
        store = sampler(shelf).draws = DrawStore() if room is None else DrawStore(int(room * size))
        before = counted(made)
        for mean in (0.0, 1.0, 0.0, 1.0):
            answer = start(made, shelf, law(mean), residual_draws=16).result(60)
            assert bytes_of.setdefault(mean, answer.outputs["samples"].tobytes()) == answer.outputs["samples"].tobytes()
            if room is None:
                size, most = size or store.bytes, max(most, store.bytes)
            else:
                assert store.bytes <= room * size
        assert counted(made) - before == 4 * 8 * 20 + 16 * 20 * (2 if room is None else 4)
    assert most == 2 * size


def test_draws_are_those_of_all_that_changes_them_and_of_nothing_else(shelf: LoadedModels, make_engine):
    made, store = make_engine(), sampler(shelf).draws
    base = law(1.0)
    start(made, shelf, base).result(60)
    held = store.bytes
    for same in (
        {"seed": 9}, {"samples": 3}, {"beta": 0.5}, {"solver": "sde_dpmpp_2m"}, {"steps": 9}, {"particles": 8},
        {"guidance_rescale": 0.5}, {"steering": "smc", "solver": "ddim", "eta": 1.0, "population": 8, "keep": 1},
    ):  # fmt: skip
        before = counted(made)
        answer = start(made, shelf, base, **same).result(60)
        assert counted(made) - before == answer.parameters["network_rows"], same
    assert store.bytes == held
    for other in (
        {"guidance": 2.0}, {"guidance": 2.0, "guidance_low": 0.5}, {"guidance": 2.0, "guidance_rescale": 0.5},
        {"path": "vp_cosine"}, {"residual_draws": 128}, {"end": "denoise"},
    ):  # fmt: skip
        assert task(shelf, base, **other).network_rows > 16 * 20, other
    assert task(shelf, {**base, "null_mean": np.ones((1, 2), F)}, guidance=2.0).network_rows > 16 * 20
    assert task(shelf, {**base, "null_mean": np.ones((1, 2), F)}).network_rows == 8 * 20  # no guidance, no null


def test_each_sample_is_steered_by_draws_of_its_own_condition(shelf: LoadedModels, make_engine):
    made = make_engine()
    means = np.tile(np.array([[-1, 0], [2, 0]], F), (4, 1))
    width = np.ones(1, F)
    mixed = start(made, shelf, {**law(0), "mean": means, "width": width}).result(60)
    assert counted(made) == 2 * DRAWN + 8 * 20
    for k, mean in enumerate((-1, 2)):
        one = start(made, shelf, law(mean)).result(60)
        assert mixed.outputs["samples"][k::2].tobytes() == one.outputs["samples"][k::2].tobytes()
    assert mixed.parameters["setup_rows"] == 2 * DRAWN
    assert counted(made) == 2 * DRAWN + 3 * 8 * 20
    each = [start(made, shelf, {**law(0), "mean": means[:2]}, samples=2, steering="smc", solver="sde_dpmpp_2m",
                  population=8, keep=1).result(60)]  # fmt: skip
    assert np.isfinite(each[0].outputs["samples"]).all()


def test_draws_are_made_for_many_conditions_only_if_they_are_asked_for(shelf: LoadedModels, make_engine):
    made, n = make_engine(), MOST_LAWS + 1
    means = np.stack([np.arange(n), np.zeros(n)], axis=1).astype(F)
    inputs = {**law(0), "mean": means}
    many = start(made, shelf, inputs, samples=n, steps=5).result(60)
    assert many.parameters["posterior"] == "gaussian"
    assert f"{n} different conditions" in many.parameters["warnings"]
    assert counted(made) == n * 5
    named = start(made, shelf, inputs, samples=n, steps=5, posterior="residuals", residual_draws=16).result(60)
    assert named.parameters["posterior"] == "residuals"
    assert named.parameters["setup_rows"] == n * 16 * 20


def test_images_and_laws_without_conditions_have_draws_too(shelf: LoadedModels, make_engine):
    made = make_engine()
    brighter = {"label": np.array([2]), "reward_direction": np.ones((1, 4, 4), F)}
    answer = start(made, shelf, brighter, "stripes", samples=64, beta=2.0).result(60)
    report = json.loads(answer.parameters["report"])
    assert report["residuals"]["laws"] == 1
    low, high = report["residuals"]["scale"]
    assert 0 < low <= high
    assert (answer.parameters["posterior"], answer.parameters["setup_rows"]) == ("residuals", DRAWN)
    nothing = {"posterior": "residuals", "reward": "nearness", "reward_mode": 3, "samples": 32}
    before = counted(made, "nearness", "reward")
    for _ in range(2):  # the draws are scored once
        answer = start(made, shelf, {}, "rings", **nothing).result(60)
        assert (answer.parameters["setup_rows"], answer.parameters["setup_reward_rows"]) == (DRAWN, 256)
    assert counted(made, "nearness", "reward") - before == 256 + 2 * answer.parameters["reward_rows"]
    assert float(np.linalg.norm(answer.outputs["samples"] - networks.modes()[3].numpy(), axis=1).mean()) < 0.5
    banked = start(made, shelf, {}, "rings", reward="nearness", reward_mode=3).result(60)
    assert banked.parameters["posterior"] == "bank"


def test_who_does_not_wait_is_steered_at_once_and_the_answer_says_so(live: Live):
    inputs = law(-2.0)
    at_once, said = steered(live, inputs, residual_wait=False)
    assert (said["steering"], said["solver"], said["setup_rows"]) == ("svdd", "sde_dpmpp_2m", 0)
    assert "draws were not there yet" in said["warnings"]
    same, _ = steered(live, inputs, steering="svdd", solver="sde_dpmpp_2m")
    assert at_once["samples"].tobytes() == same["samples"].tobytes()
    waited, later = steered(live, inputs)
    until(lambda: steered(live, inputs, residual_wait=False)[1]["steering"] == "doob")
    there, then = steered(live, inputs, residual_wait=False)
    if then["steering"] == "doob":  # not on a replica that has not been asked yet
        assert there["samples"].tobytes() == waited["samples"].tobytes()
        assert then["fingerprint"] == later["fingerprint"]
    assert said["fingerprint"] != later["fingerprint"]


def test_who_waits_takes_over_what_is_made_in_the_background(shelf: LoadedModels, make_engine):
    made, wanted = make_engine(), list[Wanted]()
    sampler(shelf).draws.listen(wanted.append)
    asked: dict[str, Any] = {"residual_draws": 1024}
    start(made, shelf, law(9.0), residual_wait=False, **asked).result(60)
    assert counted(made) == 8 * 8 * 20 - 7 * 8  # SVDD's candidates, but for the first stage
    behind = made.engine.submit(drawing(sampler(shelf), wanted[0]))
    before = counted(made)
    until(lambda: counted(made) > before + 3000)
    assert made.engine.backlog_rows == 0  # nobody waits for them
    answer = start(made, shelf, law(9.0), **asked).result(60)
    assert behind.cancelled()
    assert counted(made) - before <= 1024 * 20 + 8 * 20 + 1024
    assert answer.parameters["setup_rows"] == 1024 * 20
    again = made.engine.submit(drawing(sampler(shelf), wanted[0]))
    again.result(60)
    assert counted(made) - before <= 1024 * 20 + 8 * 20 + 1024


def test_who_is_not_taken_on_for_its_draws_is_told_the_way_out(shelf: LoadedModels, make_engine):
    large, small = task(shelf, law(8.0), guidance=2.0), task(shelf, law(8.0), guidance=2.0, residual_wait=False)
    engine = make_engine(max_queue_rows=2 * DRAWN).engine
    with pytest.raises(QueueFullError) as refused:
        engine.submit(large)
    told = job.request_error(refused.value, large.hint)
    assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{2 * DRAWN} of its rows are draws that are made once; residual_wait=false steers without" in told.detail
    assert engine.submit(small).result(60).parameters["steering"] == "svdd"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"solver": "rk45"}, "solver 'rk45' cannot be steered"),
        ({"residual_draws": 15}, "parameter residual_draws: expected greater than or equal to 16, got 15"),
        ({"residual_draws": 4097}, "parameter residual_draws: expected less than or equal to 4096, got 4097"),
        ({"residual_wait": 0}, "parameter residual_wait: expected a valid boolean, got 0"),
        ({"residual_wait": True, "steering": "best_of"}, "residual_wait: steering 'best_of' does not take it"),
    ],
)
def test_what_is_refused(live: Live, parameters: dict[str, Any], expected: str):
    code, text = live.refusal(inputs=law(1.0), model="gaussians", samples=2, reward="linear", **parameters)
    assert code == "INVALID_ARGUMENT", text
    assert expected in text


def test_prompts_of_a_pipeline_have_draws_of_their_own(pictured: Live):
    """Made while somebody waits, and in the background, where only what the request said of its prompts is known."""
    how: dict[str, Any] = {"reward": "redness", "beta": 0.05, "seed": 1, "steps": 4, "residual_draws": 16}

    def drawn(*prompts: str, **parameters: Any) -> tuple[Any, Any]:
        given = {"prompt": np.array([each.encode() for each in prompts], np.object_)}
        return pictured.infer(given, model="tiny", **{**how, "samples": len(prompts), **parameters})

    both, said = drawn("a red heart", "a blue sky", "a red heart")
    alone, of_one = drawn("a red heart", samples=3)
    assert both["images"][::2].tobytes() == alone["images"][::2].tobytes()
    assert (said["posterior"], said["setup_rows"], of_one["setup_rows"]) == ("residuals", 2 * 640, 640)
    at_once, instead = drawn("green square", residual_wait=False)
    assert (instead["steering"], instead["solver"]) == ("svdd", "sde_dpmpp_2m")
    until(lambda: drawn("green square", residual_wait=False)[1]["steering"] == "doob")
    waited, then = drawn("green square")
    assert then["setup_rows"] == 640
    assert waited["images"].shape == at_once["images"].shape


def test_no_more_draws_wait_to_be_made_in_the_background_than_are_bounded(live: Live):
    """Whoever asks without end is steered, and what waits is bounded."""
    replica = live.replicas[0]
    preparing = replica._models._preparing
    given = {"samples": 1, "steps": 1, "seed": 1, "reward": "linear", "residual_wait": False, "residual_draws": 1024}
    with triton.InferenceServerClient(replica._address) as client:
        for i in range(MOST_WANTED + 8):
            client.infer("gaussians", tensors(law(100.0 + i)), parameters=given)
            assert len(preparing._lacking) <= MOST_WANTED
