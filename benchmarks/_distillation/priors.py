"""Priors that gradients are asked of: a network in this process, or the same one behind a running server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from steering import Doob, Path, distillation
from steering.distillation import Distilled, Schedule, Settings, Times
from steering.sampling.rows import answered
from steering.sampling.run import Network, Scoring, answer
from steering.sampling.sampler import Problem
from steering.targets.target import Target
from tiltserve import Client


@dataclass(frozen=True)
class Answer:
    """A gradient [B, *event] of the loss averaged over B views, and the rows it took."""

    gradient: Tensor
    network_rows: int
    reward_rows: int


@dataclass(frozen=True)
class Wish:
    """What a gradient is asked with, beside the views.

    Attributes:
        reward: weighs noises: by the name it is served under, and as a function [B, *event] -> [B].
        beta: its temperature.
        steer: tilts the prior of every view, in this process alone: a server has posteriors of its own.
    """

    settings: Settings
    reward: tuple[str, Callable[[Tensor], Tensor]] | None = None
    beta: float = 1.0
    steer: Sequence[Doob] | None = None


class Prior(Protocol):
    def __call__(self, x: Tensor, condition: Mapping[str, Tensor], wish: Wish, iteration: int, seed: int) -> Answer: ...


@dataclass(frozen=True)
class Offline:
    """A network in this process."""

    network: Network
    path: Path
    prediction: str = "x0"
    preconditioning: str = "none"
    sigma_data: float = 0.5

    def __call__(self, x: Tensor, condition: Mapping[str, Tensor], wish: Wish, iteration: int, seed: int) -> Answer:
        """Implements `Prior`."""
        plan = distillation.prior(self.path, self.prediction, self.preconditioning, self.sigma_data)
        problem = Problem(plan=plan, event=tuple(x.shape[1:]), condition=dict(condition), model=self.network)
        weighs = wish.settings.kind.weighs and wish.reward is not None
        target = Target(wish.reward[1], wish.beta) if weighs and wish.reward is not None else None
        steer = None if weighs else wish.steer
        asking = distillation.gradient(
            problem, x.detach(), wish.settings, iteration=iteration, seed=seed, steer=steer, target=target
        )
        scoring = Scoring.of(steer[0]) if steer else None if target is None else Scoring(target.reward, target.name)
        got: Distilled = answered(asking, lambda rows: answer(rows, self.network, None, scoring))
        return Answer(got.gradient, got.network_rows, got.reward_rows)


@dataclass(frozen=True)
class Served:
    """The same behind a server."""

    client: Client
    model: str

    def __call__(self, x: Tensor, condition: Mapping[str, Tensor], wish: Wish, iteration: int, seed: int) -> Answer:
        """Implements `Prior`."""
        settings, wanted = wish.settings, dict[str, Any]()
        if settings.noise is not None:
            wanted["noise"] = settings.noise
        if settings.noises != 1:
            wanted["noises"] = settings.noises
        if settings.kind.name == "ism":
            wanted["stride"] = settings.stride
        if wish.reward is not None:
            wanted |= {"reward": wish.reward[0], "beta": wish.beta}
        got = self.client.distill(
            self.model, x.detach().numpy(), iteration=iteration, seed=seed, mode=settings.mode,
            schedule=scheduled(settings.times), weighting=settings.weighting, conditions=as_arrays(condition), **wanted,
        )  # fmt: skip
        return Answer(torch.from_numpy(got.gradient), got.network_rows, got.reward_rows)


def scheduled(times: Schedule | Times) -> dict[str, Any]:
    """A schedule as the wire has it."""
    if isinstance(times, Schedule):
        names = ("c0", "c1", "i_end", "shape", "gap", "perturb", "smin", "smax", "unit", "scale", "narrowed")
        return {name: getattr(times, name) for name in names}
    sent = {"t1": torch.as_tensor(times.t1).reshape(-1).tolist()}
    return sent if times.t2 is None else sent | {"t2": torch.as_tensor(times.t2).reshape(-1).tolist()}


def as_arrays(condition: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in condition.items()}
