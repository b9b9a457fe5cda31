"""Trajectories over the wire: real clients, a real front and real replicas."""

import asyncio
from typing import Any

import numpy as np
import pytest

from serving.models.dynamics import Dynamics
from serving.requests.dynamics.asked import Served
from serving.requests.dynamics.task import dynamics_task
from serving.wire.kserve import InferRequest
from tests.serving.live import Live
from tiltserve import AsyncClient, Chunk, Client, InvalidArgument, Trajectories

TIMES = np.linspace(0.0, 1.0, 5)
STARTS = np.array([[1.0, -2.0], [0.5, 3.0], [1e-3, 0.0]])
RATES = np.array([0.5, 1.0, 2.0])
EXACT = STARTS[:, None] * np.exp(-RATES[:, None] * TIMES)[:, :, None]


@pytest.fixture
def live(decaying: Live) -> Live:
    return decaying


@pytest.fixture
def client(solving: Client) -> Client:
    return solving


@pytest.mark.parametrize(
    ("model", "solver", "options", "dtype", "error"),
    [
        ("decay", "rk4", {"dt": 0.02}, np.float32, 1e-6),
        ("decay64", "rk4", {"dt": 0.02}, np.float64, 1e-8),
        ("decay", "tsit5", {}, np.float32, 1e-5),
        ("decay64", "tsit5", {"rtol": 1e-9, "atol": 1e-11}, np.float64, 1e-8),
    ],
)
def test_states_at_the_times_asked_for(
    client: Client, model: str, solver: str, options: dict[str, Any], dtype: type[np.floating], error: float
) -> None:
    found = client.solve(model, STARTS, TIMES, rate=RATES, solver=None if solver == "tsit5" else solver, **options)
    assert found.y is not None
    assert found.y.dtype == dtype
    assert np.abs(found.y - EXACT).max() < error
    assert found.statuses == ["ok"] * 3
    assert found.ok.all()
    assert (found.evaluations > 0).all()
    assert found.network_rows == found.evaluations.sum()
    assert found.solver == solver


def test_asyncio(live: Live) -> None:
    async def solve() -> np.ndarray:
        async with AsyncClient(live.address) as client:
            return np.asarray(await client.solve("decay64", STARTS, TIMES, rate=RATES, rtol=1e-9))

    assert np.abs(asyncio.run(solve()) - EXACT).max() < 1e-7


def test_a_trajectory_alone_has_the_same_bytes(client: Client) -> None:
    rtol = np.array([1e-3, 1e-5, 1e-6])
    together = client.solve("decay", STARTS, TIMES, rate=RATES, rtol=rtol)
    for i in range(3):
        alone = client.solve("decay", STARTS[i : i + 1], TIMES, rate=RATES[i : i + 1], rtol=rtol[i])
        assert np.asarray(alone)[0].tobytes() == np.asarray(together)[i].tobytes()


def test_backward_and_times_of_each_row(client: Client) -> None:
    forth = client.solve("decay64", STARTS, [0.0, 1.0], rate=RATES, rtol=1e-9)
    back = client.solve("decay64", np.asarray(forth)[:, -1], [1.0, 0.0], rate=RATES, rtol=1e-9)
    assert np.allclose(np.asarray(back)[:, -1], STARTS, atol=1e-7)
    times = np.array([[0.0, 0.5], [0.0, 1.0], [0.0, 2.0]])
    each = client.solve("decay64", STARTS, times, rate=RATES, rtol=1e-9)
    assert np.allclose(np.asarray(each)[:, -1], STARTS * np.exp(-RATES * times[:, 1])[:, None], atol=1e-7)


def test_a_row_that_fails_is_its_status_and_nan(client: Client) -> None:
    found = client.solve("blowing", [[0.5], [4.0]], np.linspace(0, 1, 11))
    assert found.statuses[0] == "ok"
    assert not found.ok[1]
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1][-1]).all()
    assert any("1 of 2 trajectories" in each for each in found.warnings)


@pytest.mark.parametrize(
    ("solver", "given", "said"),
    [
        ("tsit5", {"dt": 0.1}, ["dt: not used, since tsit5 chooses its steps"]),
        ("rk4", {"dt0": 0.1}, ["dt0: not used, since rk4 has fixed ones"]),
        ("rk4", {"rtol": np.array([1e-3, 1e-4, 1e-5])}, ["rtol: not used, since rk4 has fixed ones"]),
        ("rk4", {"dt": 0.1}, []),
    ],
)
def test_what_a_solver_does_not_use_is_said(
    client: Client, solver: str, given: dict[str, Any], said: list[str]
) -> None:
    assert client.solve("decay", STARTS, TIMES, rate=RATES, solver=solver, **given).warnings == said


def test_encode_and_decode(client: Client) -> None:
    records = np.array([[1.0, 9.0, 2.0], [3.0, 9.0, -1.0]])
    found = client.solve("coded", None, TIMES, record=records, rate=1.0, rtol=1e-10)
    start = records[:, [0, 2]]
    exact = start[:, None] * np.exp(-TIMES)[None, :, None]
    assert np.abs(np.asarray(found) - exact).max() < 1e-7
    a, b = exact[..., 0], exact[..., 1]
    assert found.decoded is not None
    assert np.abs(found.decoded - np.stack([a + b, a - b, a * b], axis=-1)).max() < 1e-7


def test_a_step_graph_solves_as_the_field_does(client: Client) -> None:
    stages = client.solve("decay64", STARTS, TIMES, rate=RATES, rtol=1e-7)
    steps = client.solve("coded", STARTS, TIMES, rate=RATES, rtol=1e-7)
    assert np.array_equal(stages.evaluations, steps.evaluations)
    assert np.abs(np.asarray(stages) - np.asarray(steps)).max() < 1e-12
    alone = client.solve("coded", STARTS[:1], TIMES, rate=RATES[:1], rtol=1e-7)
    assert np.asarray(alone)[0].tobytes() == np.asarray(steps)[0].tobytes()


def test_metadata(client: Client) -> None:
    described = client.metadata("coded")
    assert {"y0", "t_eval", "rate", "record", "rtol"} <= {each.name for each in described.inputs}
    assert {"y", "decoded", "status", "evaluations"} <= {each.name for each in described.outputs}
    assert [each.kind for each in client.models() if each.name == "coded"] == ["dynamics"]


def test_raw_field(client: Client) -> None:
    out = client.infer("decay64.network", {"z": STARTS, "t": np.zeros(3), "rate": RATES})
    assert np.allclose(out["f"], -RATES[:, None] * STARTS)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"t_eval": [0.0, 1.0, 0.5]}, "t_eval"),
        ({"t_eval": [[0.0, 1.0]] * 2}, "trajectories"),
        ({"t_eval": np.zeros(0)}, "t_eval"),
        ({"y0": [[1.0]]}, "y0"),
        ({"y0": np.zeros((0, 2))}, "y0"),
        ({"y0": [[np.nan, 1.0]]}, "y0"),
        ({"solver": "tsit"}, "solver"),
        ({"solver": "euler", "dtt": 1.0}, "dtt"),
        ({"dt": -1.0}, "dt"),
        ({"dt": [0.1, 0.1]}, "dt"),
        ({"rate": [-1.0, 0.0, 0.0]}, "rate"),
        ({"rate": [1.0, 2.0]}, "rate"),
        ({"outputs": ["z"]}, "output"),
        ({"max_steps": 0}, "max_steps"),
        ({"samples": 7}, "trajectories"),
        ({"reward": "nothing"}, "reward"),
        ({"reward_x": 1.0}, "reward"),
    ],
)
def test_refusals(client: Client, keywords: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"y0": STARTS, "t_eval": TIMES, "rate": RATES} | keywords
    with pytest.raises(InvalidArgument) as refused:
        client.solve("decay", **asked)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_answers_that_are_too_long_are_refused_before_anything_is_made(client: Client) -> None:
    starts, times = np.zeros((2**14, 2), np.float32), np.linspace(0, 1, 2**16)
    with pytest.raises(InvalidArgument, match="bytes"):
        client.solve("decay", starts, times)


LONG = np.linspace(0.0, 4.0, 4001)


def test_states_stream_as_they_become_final(client: Client) -> None:
    whole = client.solve("decay64", STARTS, LONG, rate=RATES)
    with client.solve_stream("decay64", STARTS, LONG, rate=RATES) as stream:
        chunks = [each for each in stream if isinstance(each, Chunk)]
        found = stream.result()
    assert len(chunks) > 4
    assert [each.number for each in chunks] == [*range(1, len(chunks) + 1)]
    assert all(np.array_equal(each.t, LONG[each.position]) for each in chunks)
    assert np.asarray(found).tobytes() == np.asarray(whole).tobytes()
    assert np.array_equal(found.evaluations, whole.evaluations)


def test_states_stream_to_asyncio_and_need_not_be_kept(live: Live) -> None:
    async def solve() -> tuple[int, Trajectories]:
        async with AsyncClient(live.address) as client:
            states = 0
            async with client.solve_stream("decay64", STARTS, LONG, rate=RATES, keep=False) as stream:
                async for each in stream:
                    states += len(each.y) if isinstance(each, Chunk) else 0
                return states, await stream.result()

    states, found = asyncio.run(solve())
    assert states == 3 * len(LONG)
    assert found.y is None


def test_what_is_known_only_at_the_end_comes_at_the_end_of_a_stream(client: Client) -> None:
    whole = client.solve("decay64", STARTS, TIMES, rate=RATES, sensitivity="ftle")
    with client.solve_stream("decay64", STARTS, TIMES, rate=RATES, sensitivity="ftle") as stream:
        found = stream.result()
    assert np.asarray(found).tobytes() == np.asarray(whole).tobytes()
    assert found.ftle.tobytes() == whole.ftle.tobytes()


def test_a_stream_has_states_if_they_are_wanted(client: Client) -> None:
    whole = client.solve("decay64", STARTS, TIMES, rate=RATES)
    with client.solve_stream("decay64", STARTS, TIMES, rate=RATES, outputs=["y"]) as stream:
        found = stream.result()
    assert np.asarray(found).tobytes() == np.asarray(whole).tobytes()
    assert [*found.outputs] == ["status", "evaluations"]
    with client.solve_stream("decay64", STARTS, TIMES, rate=RATES, outputs=["evaluations"]) as stream:
        (last,) = stream
    assert isinstance(last, Trajectories)
    assert last.y is None
    assert np.array_equal(last.evaluations, whole.evaluations)


def test_a_stream_is_asked_for_on_a_stream(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="ModelStreamInfer"):
        client.solve("decay", STARTS, TIMES, stream=True)


def test_states_that_nobody_asks_for_are_bounded_too(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="bytes"):
        client.solve("decay", np.zeros((1, 2)), np.linspace(0, 1, 2**16), samples=2**14, outputs=["status"])


def test_a_fresh_seed_is_said(client: Client) -> None:
    assert client.solve("decay", STARTS, TIMES, rate=RATES, seed=5).seed == 5


def test_rows_that_are_not_known_are_estimated_by_the_last_ones(live: Live, client: Client) -> None:
    """What a refusal for a deadline or a full queue says, and what it is refused by."""
    model = live.replicas[0]._answering.model("decay64")
    assert isinstance(model, Dynamics)
    taken = client.solve("decay64", STARTS, TIMES, rate=RATES, rtol=1e-4).evaluations
    inputs = {"y0": np.ones((100, 2)), "t_eval": TIMES}
    task = dynamics_task(InferRequest("decay64", inputs=inputs, parameters={"rtol": 1e-4}), model, Served())
    task.program.close()
    assert task.network_rows <= 100 * taken.max()
    assert "rows of 'tsit5' at rtol 0.0001 are an estimate: of the last" in task.hint
    client.solve("decay64", STARTS, [0.0, 1e9], rate=0.0, rtol=1e-4)  # long ones are another kind
    same = dynamics_task(InferRequest("decay64", inputs=inputs, parameters={"rtol": 1e-4}), model, Served())
    same.program.close()
    assert same.network_rows == task.network_rows
    inputs["rtol"] = np.full(100, 1e-12)
    other = dynamics_task(InferRequest("decay64", inputs=inputs), model, Served())
    other.program.close()
    assert "at rtol 1e-12 are an estimate: none was seen yet" in other.hint


@pytest.mark.parametrize(
    ("solver", "options", "times"),
    [
        ("rk4", {"dt": 0.3}, TIMES),
        ("heun", {}, TIMES),
        ("euler", {"dt": 1e-12, "max_steps": 50}, TIMES),
        ("fractional", {"dt": 0.1}, TIMES),
        ("rk4", {"dt": 0.1}, np.array([0.0, 0.0, 1.0, 1.0])),
    ],
)
def test_rows_of_steps_by_dt_are_known(
    live: Live, client: Client, solver: str, options: dict[str, Any], times: np.ndarray[Any, Any]
) -> None:
    model = live.replicas[0]._answering.model("decay64")
    assert isinstance(model, Dynamics)
    parameters = {"solver": solver, **options}
    taken = client.solve("decay64", STARTS, times, rate=RATES, **parameters).network_rows
    inputs = {"y0": np.array(STARTS, np.float64), "t_eval": np.array(times)}
    task = dynamics_task(InferRequest("decay64", inputs=inputs, parameters=parameters), model, Served())
    task.program.close()
    first = len(STARTS) if solver == "fractional" else 0  # the slope at the first time
    assert task.network_rows == taken - first
    assert not task.hint


@pytest.mark.parametrize(
    ("n", "parameters", "heavy"),
    [
        (10_000, {}, False),
        (10_000, {"solver": "esdirk4"}, True),
        (1_000, {"solver": "fractional"}, True),
        (50, {"solver": "fractional"}, False),
        (10_000, {"sensitivity": "ftle"}, True),
        (20_000, {}, True),
    ],
)
def test_what_takes_the_second_thread(live: Live, n: int, parameters: dict[str, Any], heavy: bool) -> None:
    """Matrices, memory and neighbours of trajectories count, not their states alone."""
    model = live.replicas[0]._answering.model("decay64")
    assert isinstance(model, Dynamics)
    inputs = {"y0": np.ones((n, 2)), "t_eval": np.array([0.0, 1.0])}
    task = dynamics_task(InferRequest("decay64", inputs=inputs, parameters=parameters), model, Served())
    task.program.close()
    assert task.heavy is heavy


def test_ends_are_scored_without_steering(client: Client) -> None:
    found = client.solve(
        "decay64", STARTS, TIMES, rate=RATES, reward="linear", reward_args={"direction": np.array([1.0, 0.0])}
    )
    assert found.rewards is not None
    assert np.allclose(found.rewards, np.asarray(found)[:, -1, 0], atol=1e-6)
    assert found.reward_rows == 3
    failing = client.solve("blowing", [[0.5], [4.0]], [0.0, 1.0], reward="linear", reward_args={"direction": [1.0]})
    assert failing.rewards is not None
    assert np.isfinite(failing.rewards).tolist() == [True, False]


def test_outputs_that_are_asked_for(client: Client) -> None:
    found = client.solve("coded", STARTS, TIMES, rate=RATES, outputs=["decoded"])
    assert found.y is None
    assert found.decoded is not None
    assert {*found.outputs} == {"decoded", "status", "evaluations"}


def test_deterministic_requests(client: Client) -> None:
    one, other = (client.solve("decay64", STARTS, TIMES, rate=RATES, deterministic=True) for _ in range(2))
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
