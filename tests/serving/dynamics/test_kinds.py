"""SDEs, CDEs, maps and fixed points over the wire: real clients, a real front and real replicas."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.dynamics import Dynamics
from serving.models.dynamics import Dynamics as Served
from serving.requests.dynamics import control
from serving.requests.dynamics.asked import Served as Having
from serving.requests.dynamics.pieces import default_solver
from serving.requests.dynamics.task import dynamics_task
from serving.wire.kserve import InferRequest
from tests import dynamics_kinds as kinds
from tests.serving.live import Live, running
from tiltserve import Chunk, Client, InvalidArgument, Trajectories

TIMES = np.array([0.0, 0.5, 0.9, 2.0])
SEEN = np.array([[[0.0, 1.0], [0.5, 3.0], [0.9, -1.0], [2.0, 0.5]]])
START = [[1.0, 0.0]]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root: Path = tmp_path_factory.mktemp("kinds") / "models"
    kinds.write_sdes(root)
    kinds.write_cdes(root)
    kinds.write_maps(root)
    kinds.write_equilibrium(root)
    with running(root) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[Client]:
    with Client(live.address) as client:
        yield client


def test_the_law_of_an_sde(client: Client) -> None:
    found = client.solve("ornstein", [[2.0, -2.0]], [0.0, 0.33, 1.0], samples=1000, seed=1)
    y = np.asarray(found)
    assert y.shape == (1000, 3, 2)
    assert found.ok.all()
    assert found.solver == "euler_maruyama"
    assert np.abs(y[:, 2].mean(axis=0) - np.array([2.0, -2.0]) * 0.95**20).max() < 0.12
    assert np.abs(y[:, 2].var(axis=0) - (1 - 0.9025**20) / (1 - 0.9025) * 0.05).max() < 0.1
    assert (found.evaluations == 20).all()


@pytest.mark.parametrize("solver", ["euler_maruyama", "milstein", "stochastic_heun", "reversible_heun"])
def test_an_sdes_rows_are_functions_of_seed_and_number(client: Client, solver: str) -> None:
    """The first samples of many are those of few, whoever else is served meanwhile."""
    words: dict[str, Any] = {"solver": solver, "dt": 0.1, "seed": 7}
    alone = np.asarray(client.solve("ornstein", START, [0.0, 0.33, 1.0], samples=1, **words))
    many = np.asarray(client.solve("ornstein", START, [0.0, 0.33, 1.0], samples=9, **words))
    assert alone[0].tobytes() == many[0].tobytes()
    with ThreadPoolExecutor(4) as pool:
        company = [
            pool.submit(client.solve, "ornstein", START, [0.0, 0.33, 1.0], samples=k + 2, rate=1.0, **words)
            for k in range(6)
        ]
        for each in company:
            assert np.asarray(each.result())[1].tobytes() == many[1].tobytes()
    assert (
        np.asarray(client.solve("ornstein", START, [0.0, 1.0], samples=1, **{**words, "seed": 8}))[0, 1, 0]
        != many[0, 2, 0]
    )


@pytest.mark.parametrize(
    ("model", "y0", "times", "parameters", "least", "most"),
    [
        ("ornstein", START, [0.0, 0.33, 1.0], {"samples": 8, "dt": 0.05}, 160, 168),
        ("ornstein", START, [0.0, 0.33, 0.98], {"samples": 8, "dt": 0.05, "solver": "stochastic_heun"}, 328, 336),
        ("ornstein", START, [0.0, 1.0], {"samples": 8, "dt": 1e-9, "max_steps": 5}, 40, 40),
        ("leaking", [[1.0] * 6], [0.0, 100.0, 300.0], {}, 300, 300),
    ],
)
def test_rows_of_steps_by_dt_are_known(
    live: Live, client: Client, model: str, y0: Any, times: Any, parameters: dict[str, Any], least: int, most: int
) -> None:
    """What a request is admitted with: a time between two steps may take fewer than a step."""
    served = live.replicas[0]._answering.model(model)
    assert isinstance(served, Served)
    inputs = {"y0": np.array(y0), "t_eval": np.array(times)}
    task = dynamics_task(InferRequest(model, inputs=inputs, parameters=parameters), served, Having())
    task.program.close()
    taken = client.solve(model, y0, times, **parameters).network_rows
    assert (taken, task.network_rows) == (least, most)
    assert not task.hint


def test_states_that_are_mixed_count_in_a_requests_bytes(live: Live) -> None:
    served = live.replicas[0]._answering.model("equilibrium")
    assert isinstance(served, Served)
    y0, x = np.zeros((1000, 2)), np.zeros((1000, 2))
    tasks = [
        dynamics_task(
            InferRequest("equilibrium", inputs={"y0": y0, "x": x}, parameters={"memory": memory}), served, Having()
        )
        for memory in (1, 20)
    ]
    for task in tasks:
        task.program.close()
    assert tasks[1].bytes - tasks[0].bytes == 2 * 19 * y0.nbytes


def test_one_path_for_every_step(client: Client) -> None:
    """Finer steps follow the same noise: the difference falls with the step."""
    ends = [
        np.asarray(client.solve("ornstein", START, [0.0, 1.0], samples=50, dt=dt, seed=3))[:, 1]
        for dt in (0.2, 0.1, 0.01)
    ]
    errors = [np.abs(each - ends[2]).mean() for each in ends[:2]]
    assert 1.5 < errors[0] / errors[1] < 3


def test_the_geometric_form_keeps_signs(client: Client) -> None:
    y = np.asarray(client.solve("growth", [[1.0, -3.0]], np.linspace(0, 1, 9), samples=200, seed=0))
    assert (y[..., 0] > 0).all()
    assert (y[..., 1] < 0).all()
    growth = np.log(y[:, -1] / y[:, 0])
    assert np.abs(growth.mean(axis=0) - (0.5 - 2)).max() < 0.5
    assert np.abs(growth.std(axis=0) - 2).max() < 0.35


def test_general_noise_and_rows_that_fail(client: Client) -> None:
    found = client.solve("mixed", [[1.0, 0.5], [2e6, 0.0], [0.0, 0.0]], [0.0, 1.0], dt=0.1, seed=5)
    assert found.statuses == ["ok", "not_finite", "ok"]
    y = np.asarray(found)
    assert np.isfinite(y[[0, 2]]).all()
    assert np.isnan(y[1, 1]).all()
    assert (y[2] == 0).all()


@pytest.mark.parametrize("model", ["turned", "stepped"])
def test_a_cde_follows_observations(client: Client, model: str) -> None:
    found = client.solve(model, START, TIMES, control=SEEN, control_t=TIMES[None], rtol=1e-7, atol=1e-7)
    angle = SEEN[0, :, 1] - 1.0
    assert np.abs(np.asarray(found)[0] - np.stack([np.cos(angle), np.sin(angle)], 1)).max() < 1e-5
    holes = SEEN.copy()
    holes[0, 1] = np.nan
    skipped = client.solve(model, START, TIMES, control=holes, control_t=TIMES[None], rtol=1e-7, atol=1e-7)
    assert np.abs(np.asarray(skipped)[0, [0, 2, 3]] - np.asarray(found)[0, [0, 2, 3]]).max() < 1e-5


@pytest.mark.parametrize("solver", ["tsit5", "rk4"])
@pytest.mark.parametrize("model", ["turned", "stepped"])
def test_a_cdes_row_alone_has_the_same_bytes(client: Client, model: str, solver: str) -> None:
    times = np.array([TIMES, [0.0, 0.3, 0.7, np.nan], [-1.0, 1.0, 1.5, 3.0]])
    seen = np.concatenate([SEEN, SEEN * 2, SEEN - 1])
    asked = np.array([[0.0, 1.0, 2.0], [0.0, 0.3, 0.7], [3.0, 0.0, -1.0]])
    words: dict[str, Any] = {"solver": solver, **({"dt": 0.2} if solver == "rk4" else {})}
    together = np.asarray(client.solve(model, START * 3, asked, control=seen, control_t=times, **words))
    for i in range(3):
        alone = client.solve(model, START, asked[i], control=seen[i : i + 1], control_t=times[i : i + 1], **words)
        assert np.asarray(alone)[0].tobytes() == together[i].tobytes()


def test_a_recurrent_cell_on_irregular_times(client: Client) -> None:
    times = np.array([0.0, 0.5, 0.9, 2.0])
    found = client.solve("cell", START, times, control=SEEN, control_t=TIMES)
    h, states = np.array(START[0]), [np.array(START[0])]
    for k in range(1, 4):
        h = h * math.exp(-(times[k] - times[k - 1])) + SEEN[0, k]
        states.append(h)
    assert np.abs(np.asarray(found)[0] - np.stack(states)).max() < 1e-12
    assert found.evaluations.tolist() == [3]
    assert found.solver == "map"
    together = client.solve("cell", [*START, [5.0, 5.0]], np.array([times, times / 2]), control=SEEN, control_t=TIMES)
    assert np.asarray(together)[0].tobytes() == np.asarray(found)[0].tobytes()


@pytest.mark.parametrize("multiplicative", [0, 1])
def test_a_map_keeps_mass(client: Client, multiplicative: int) -> None:
    start = np.random.default_rng(0).random((2, 6)) + 0.1
    found = client.solve("leaking", start, np.arange(0.0, 301.0, 100.0), multiplicative=multiplicative)
    mass = (np.asarray(found) * np.linspace(1, 2, 6)).sum(axis=2)
    assert np.abs(mass / mass[:, :1] - 1).max() < 4e-15
    assert found.evaluations.tolist() == [300, 300]


@pytest.mark.parametrize("solver", ["anderson", "nesterov", "homotopy"])
def test_fixed_points(client: Client, solver: str) -> None:
    x = np.array([[1.0, 0.0], [0.3, -2.0]])
    found = client.solve("equilibrium", np.zeros((2, 2)), x=x, solver=solver, rtol=1e-9, atol=1e-9)
    exact = np.linalg.solve(np.eye(2) - np.array([[0.5, 0.4], [0.4, 0.5]]), x.T).T
    assert np.asarray(found).shape == (2, 1, 2)
    assert np.abs(np.asarray(found)[:, 0] - exact).max() < 1e-6
    assert (found.residual < 1e-7).all()
    assert any("the error of z may be larger" in each for each in found.warnings)
    alone = client.solve("equilibrium", np.zeros((1, 2)), x=x[1:], solver=solver, rtol=1e-9, atol=1e-9)
    assert np.asarray(alone)[0].tobytes() == np.asarray(found)[1].tobytes()
    assert alone.residual.tobytes() == found.residual[1:].tobytes()
    early = client.solve("equilibrium", np.zeros((1, 2)), x=x[:1], solver="nesterov", rtol=0, atol=1e-12, max_steps=3)
    assert early.statuses == ["not_converged"]
    assert np.isfinite(np.asarray(early)).all()


@pytest.mark.parametrize(
    ("form", "calculus", "solver"),
    [
        ("plain", "ito", "euler_maruyama"),
        ("plain", "stratonovich", "stochastic_heun"),
        ("geometric", "stratonovich", "euler_maruyama"),
    ],
)
def test_the_solver_where_nothing_is_said_solves_the_cards_calculus(form: str, calculus: str, solver: str) -> None:
    card: dict[str, Any] = {
        "kind": "sde",
        "state": [1],
        "inputs": {"y": "z"},
        "outputs": {"drift": "f", "diffusion": "g"},
    }
    assert default_solver(Dynamics.model_validate({**card, "form": form, "calculus": calculus})) == solver


def test_states_stream_as_they_become_final(client: Client) -> None:
    """Of every kind, the same bytes as at once."""
    asked: list[tuple[str, dict[str, Any]]] = [
        ("ornstein", {"y0": START, "t_eval": np.linspace(0, 1, 30), "samples": 3, "seed": 5, "dt": 0.04}),
        ("stepped", {"y0": START, "t_eval": TIMES, "control": SEEN, "control_t": TIMES, "solver": "rk4", "dt": 0.1}),
        ("cell", {"y0": START, "t_eval": TIMES, "control": SEEN, "control_t": TIMES}),
    ]
    for model, words in asked:
        whole = np.asarray(client.solve(model, **words))
        with client.solve_stream(model, **words) as stream:
            *chunks, last = list(stream)
        assert isinstance(last, Trajectories)
        told = np.full_like(whole, np.nan)
        for chunk in chunks:
            assert isinstance(chunk, Chunk)
            told[chunk.trajectory, chunk.position] = chunk.y
        assert told.tobytes() == whole.tobytes()


def test_metadata(client: Client) -> None:
    cde = {each.name for each in client.metadata("turned").inputs}
    assert {"control", "control_t"} <= cde
    assert "dx" not in cde
    assert "residual" in {each.name for each in client.metadata("equilibrium").outputs}


@pytest.mark.parametrize(
    ("model", "keywords", "said"),
    [
        ("ornstein", {"y0": START, "solver": "tsit5"}, "solver"),
        ("growth", {"y0": START, "solver": "milstein"}, "form plain or langevin"),
        ("mixed", {"y0": START, "solver": "stochastic_heun"}, "calculus stratonovich"),
        ("mixed", {"y0": START, "solver": "milstein"}, "got general"),
        ("ornstein", {"y0": START, "control": SEEN, "control_t": TIMES}, "control"),
        ("ornstein", {"y0": START, "t_eval": [0.0, 1e305]}, "2^1000"),
        ("ornstein", {"y0": [[np.nan, 0.0]], "samples": 2, "t_eval": [0.0, np.inf]}, "t_eval"),
        ("turned", {"y0": START}, "control"),
        ("turned", {"y0": START, "control": SEEN}, "control_t"),
        ("turned", {"y0": START, "control": SEEN[..., :1], "control_t": TIMES}, "[n, L, 2]"),
        ("turned", {"y0": START, "control": SEEN[:, :3], "control_t": TIMES}, "control_t"),
        ("turned", {"y0": START, "control": SEEN, "control_t": TIMES[::-1]}, "rising"),
        ("turned", {"y0": START, "control": SEEN, "control_t": [np.nan] * 4}, "NaN only after"),
        ("turned", {"y0": START, "control": np.full((1, 4, 2), np.inf), "control_t": TIMES}, "infinity"),
        ("turned", {"y0": START, "control": np.repeat(SEEN, 3, 0), "control_t": TIMES}, "rows"),
        ("turned", {"y0": START, "control": SEEN, "control_t": TIMES, "t_eval": [0.0, 2.5]}, "got them from 0 to 2"),
        ("stepped", {"y0": START, "control": SEEN, "control_t": TIMES, "t_eval": [-1.0, 2.0]}, "got them from 0 to 2"),
        ("turned", {"y0": START, "control": np.zeros((1, 0, 2)), "control_t": np.zeros((1, 0))}, "control"),
        ("cell", {"y0": START}, "control"),
        ("cell", {"y0": START, "control": SEEN, "control_t": TIMES, "t_eval": [0.0, 3.0]}, "got them from 0 to 2"),
        ("leaking", {"y0": np.ones((1, 6)), "t_eval": [0.0, 1.5]}, "whole numbers of dt"),
        ("leaking", {"y0": np.ones((1, 6)), "t_eval": [1.0, 0.0]}, "rising"),
        ("leaking", {"y0": np.ones((1, 6)), "multiplicative": 2}, "multiplicative"),
        ("leaking", {"y0": np.ones((1, 6)), "solver": "anderson"}, "solver"),
        ("equilibrium", {"y0": np.zeros((1, 2)), "x": [[0.0, 1.0]], "memory": 0}, "memory"),
        ("equilibrium", {"y0": np.zeros((1, 2)), "x": [[0.0, 1.0]], "rtol": 0.0, "atol": 0.0}, "above 0"),
    ],
)
def test_refusals(client: Client, model: str, keywords: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"t_eval": [0.0, 1.0]} | keywords
    with pytest.raises(InvalidArgument) as refused:
        client.solve(model, **asked)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_would_fill_the_memory_is_refused_before_it_is_made(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = np.arange(2.0**11)
    with pytest.raises(InvalidArgument, match="states at its observations"):
        client.solve(
            "turned", np.zeros((2**15, 2), np.float32), [0.0, 1.0], control=np.zeros((1, 2**11, 2)), control_t=long,
            solver="rk4",
        )  # fmt: skip
    monkeypatch.setattr(control, "MOST_NUMBERS", 15)
    with pytest.raises(InvalidArgument, match="at most 15 numbers, got 2 rows of 4 observations of 2"):
        client.solve("turned", START * 2, [0.0, 1.0], control=SEEN, control_t=[TIMES] * 2)
