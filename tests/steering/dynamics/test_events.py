"""Events of a turning point whose times are known: y = r (cos(p + 2 t), sin(p + 2 t)), shrinking by exp(-t / 10)."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import SOLVERS, Event, Status, pose, solve
from steering.dynamics.run import answering
from steering.errors import NetworkError, PlanError
from steering.sampling.rows import answered

A = torch.tensor([[-0.1, -2.0], [2.0, -0.1]], dtype=torch.float64)


def turning(y: Tensor, t: Tensor) -> Tensor:
    return torch.stack([-0.1 * y[:, 0] - 2 * y[:, 1], 2 * y[:, 0] - 0.1 * y[:, 1]], 1)


def height(y: Tensor, t: Tensor) -> Tensor:
    """Its zeros are those of coordinate 1."""
    return 0.7 * torch.tanh(y[:, 1])


PHASES = torch.tensor([0.3, 1.0, 2.0, 3.0, 4.0, 5.5], dtype=torch.float64)
Y0 = torch.stack([PHASES.cos(), PHASES.sin()], 1)
FINE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}


def to_zero(direction: int) -> Tensor:
    """When sin(p + 2 t) next changes its sign so."""
    turn = {1: 2 * math.pi, -1: math.pi}.get(direction)
    if turn is None:
        return torch.minimum(to_zero(1), to_zero(-1))
    return torch.remainder(turn - PHASES, 2 * math.pi) / 2


@pytest.mark.parametrize("direction", [-1, 0, 1])
@pytest.mark.parametrize("network", [False, True])
def test_terminal_events_are_located(direction: int, network: bool) -> None:
    event = Event(None if network else 1, direction=direction)
    solution = solve(turning, Y0, [0.0, 0.05, 6.0], events=[event], event=height, **FINE)
    assert solution.status.tolist() == [Status.EVENT] * 6
    assert torch.allclose(solution.t_event[:, 0], to_zero(direction), atol=1e-8, rtol=0)
    assert torch.equal(solution.t_event[:, 0], solution.t_last)
    assert torch.equal(solution.y_event[:, 0], solution.y_last)
    assert float(solution.y_event[:, 0, 1].abs().max()) < 1e-8
    assert solution.event.tolist() == [[0]] * 6
    early = to_zero(direction) > 0.05
    assert torch.equal(~solution.y[:, 1].isnan().any(1), early)
    assert bool(solution.y[:, 2].isnan().all())


def test_backward_in_time() -> None:
    """Rising and falling as who travels backward sees them."""
    solution = solve(turning, Y0, [0.0, -6.0], events=[Event(1, direction=-1)], **FINE)
    assert torch.allclose(solution.t_event[:, 0], -torch.remainder(PHASES, 2 * math.pi) / 2, atol=1e-8, rtol=0)


def test_events_that_do_not_end_it_come_in_order() -> None:
    """Two a turn; a third kind ends it."""
    events = [Event(1, terminal=False), Event(0, level=10.0), Event(None, output=1, level=math.exp(-0.5), direction=-1)]

    def networks(y: Tensor, t: Tensor) -> Tensor:
        return torch.stack([t, y.square().sum(1).sqrt()], 1)

    solution = solve(turning, Y0, [0.0, 9.0], events=events, event=networks, max_events=6, **FINE)
    for i in range(len(Y0)):
        zeros = [float(to_zero(0)[i]) + k * math.pi / 2 for k in range(4)]
        expected = [t for t in zeros if t < 5] + [5.0]
        found = solution.t_event[i][~solution.t_event[i].isnan()]
        assert found.tolist() == pytest.approx(expected, abs=1e-8)
        assert solution.event[i].tolist() == [0] * (len(expected) - 1) + [2] + [-1] * (6 - len(expected))
    full = solve(turning, Y0, [0.0, 9.0], events=events, event=networks, max_events=2, **FINE)
    assert full.event[:, 0].tolist() == [0] * 6
    assert full.event[:, 1].tolist() == [2] * 6


def test_a_start_on_the_line_is_no_event() -> None:
    solution = solve(turning, torch.tensor([[1.0, 0.0]]), [0.0, 6.0], events=[Event(1)], **FINE)
    assert float(solution.t_event) == pytest.approx(math.pi / 2, abs=1e-8)


def test_a_network_takes_few_rows() -> None:
    problem = pose(SOLVERS["tsit5"], Y0, [0.0, 6.0], events=[Event()], **FINE)
    rows: Counter[str] = Counter()
    answer = answering(problem, turning, event=height)

    def counting(ask: Any) -> Any:
        rows[ask.part] += len(ask)
        return answer(ask)

    solution = answered(SOLVERS["tsit5"].program(problem), counting)
    assert rows["field"] == int(solution.evaluations.sum())
    steps = int(solution.accepted.sum())
    assert rows["event"] - steps - len(Y0) <= 9 * len(Y0)


def test_a_network_that_breaks_ends_its_row() -> None:
    solution = solve(
        turning, Y0, [0.0, 1.0], events=[Event()], event=lambda y, t: torch.where(y[:, 0] > 0.9, math.nan, 1.0)
    )  # fmt: skip
    assert Status.NOT_FINITE in solution.status
    assert Status.OK in solution.status


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True), st.booleans())
@settings(deadline=None, max_examples=15)
def test_alone_as_in_company(rows: list[int], network: bool) -> None:
    events = [Event(None if network else 1, terminal=False), Event(0, direction=1)]
    tolerances = 10.0 ** -torch.arange(3, 9, dtype=torch.float64)
    everyone = solve(turning, Y0, [0.0, 4.0], events=events, event=height, max_events=4, rtol=tolerances, atol=1e-8)
    some = solve(
        turning, Y0[rows], [0.0, 4.0], events=events, event=height, max_events=4, rtol=tolerances[rows], atol=1e-8
    )  # fmt: skip
    for name in ("y", "t_event", "y_event", "event", "status", "evaluations", "y_last"):
        assert torch.allclose(getattr(some, name), getattr(everyone, name)[rows], atol=0, rtol=0, equal_nan=True)


def test_what_is_refused() -> None:
    for event, text in (
        (Event(2), "coordinate"),
        (Event(0, direction=2), "direction"),
        (Event(0, level=math.inf), "level"),
    ):
        with pytest.raises(PlanError, match=text):
            solve(turning, Y0, [0.0, 1.0], events=[event])
    with pytest.raises(PlanError, match="'event'"):
        solve(turning, Y0, [0.0, 1.0], events=[Event()])
    with pytest.raises(NetworkError, match="output"):
        solve(turning, Y0, [0.0, 1.0], events=[Event(output=1)], event=height)
    with pytest.raises(PlanError, match="max_events"):
        solve(turning, Y0, [0.0, 1.0], events=[Event(0)], max_events=-1)
