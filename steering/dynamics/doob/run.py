"""Steering in a notebook: field, reward and coordinate are functions of this process."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.doob.chain import Aim, Chain, Over
from steering.dynamics.doob.methods import METHODS, Method, Settings, by_splitting, learnt, plain, steered
from steering.dynamics.doob.nodes import nodes
from steering.dynamics.doob.twisted import Weighted
from steering.dynamics.problem import Calculus, Form, Law
from steering.errors import SteeringError, choose
from steering.sampling.rows import answered


@dataclass(frozen=True, eq=False)
class Steered:
    """Weighted paths, and what they took.

    Attributes:
        paths: states at t_eval, rewards' statistic and weights.
        setup_rows, network_rows: network rows that log h took, and that the paths took.
        reward_rows: rewards of both.
    """

    paths: Weighted
    setup_rows: int
    network_rows: int
    reward_rows: int


def steer(
    field: Callable[..., Mapping[str, Tensor]],
    reward: Callable[[Tensor], Tensor],
    y0: Tensor,
    t_eval: Tensor | Sequence[float],
    *,
    dt: float,
    beta: float = 1.0,
    threshold: float | None = None,
    over: Over = "end",
    n: int = 256,
    method: Method = "doob",
    settings: Settings | None = None,
    coordinate: Callable[[Tensor], Tensor] | None = None,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    noise: Law = "diagonal",
    form: Form = "plain",
    calculus: Calculus = "ito",
) -> Steered:
    """n paths of dy = f dt + g dW from y0 [*state], by steps of dt, tilted toward a reward.

        field = lambda y, t: {"drift": 4 * (y - y**3), "diffusion": torch.full_like(y, 0.5)}
        found = steer(field, lambda y: y[:, 0], torch.tensor([-1.0]), [0.0, 2.0], dt=1 / 30, threshold=0.8)
        found.paths.log_normaliser, found.paths.relative_error      # log P(y_T >= 0.8), and its relative error

    Args:
        field: (y [m, *state], t [m], condition [m, ...] by name) to "drift" [m, *state] and "diffusion".
        reward: states [m, *state] to [m]; only called forwards.
        t_eval: rising times [T]; states of the paths are returned there, and each is a node of the chain.
        beta, threshold, over: the weight of a path, see `chain.Aim`.
        method: "doob"; "splitting", or "none": unsteered paths with their weights.
        coordinate: states to [m] or [m, q]: log h is a function of these, for `Settings(coordinate="network")`.
        condition: further arguments of the field [1, ...], the same for all paths.

    Raises:
        SteeringError, PlanError, NetworkError: something is not as expected.
    """
    if method not in METHODS:
        raise SteeringError(choose("method", method, METHODS))
    settings, meter = settings or Settings(), Counter[str]()
    times, keep = nodes(torch.as_tensor(t_eval, dtype=torch.float64), dt)
    chain = Chain(start=y0.to(torch.float64), times=times, noise=noise, form=form, calculus=calculus)
    aim = Aim(beta, threshold, over)

    def answer(ask: Ask) -> Reply:
        meter[ask.part] += len(ask)
        if ask.part == "field":
            return field(ask.y, ask.t, **{name: each[ask.index] for name, each in (condition or {}).items()})
        if ask.part == "coordinate":
            if coordinate is None:
                raise SteeringError("coordinate 'network': expected a function coordinate, got none")
            return {"coordinate": coordinate(ask.y)}
        return {"reward": reward(ask.y)}

    setup = 0
    if method == "doob":
        log_h = answered(learnt(chain, aim, seed, settings), answer)
        setup = meter["field"]
        paths = answered(steered(chain, aim, log_h, n, seed, keep, settings), answer)
    else:
        program = by_splitting if method == "splitting" else plain
        paths = answered(program(chain, aim, n, seed, keep), answer)
    return Steered(paths, setup, meter["field"] - setup, meter["reward"])
