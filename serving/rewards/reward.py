"""Interfaces of a reward, before and after its arguments are bound."""

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from serving.backends import Array
from serving.engine.task import Step
from serving.wire import errors
from serving.wire.tensors import Given

PREFIX = "reward_"
"""Prefix of the parameters and inputs of a request that are arguments of its reward."""
Scoring = Generator[Step, list[Array], Tensor]
"""Asks for evaluations and returns the scores [B]."""


class Reward(Protocol):
    """A reward with its arguments.

    Attributes:
        name: used in errors and warnings.
        key: rewards with equal keys score equally; a bank's remembered scores are stored under it.
        fingerprint: rewards with equal fingerprints and arguments score equally on every replica.
        threshold: None for a tilt by the score; else the reward is the event "score >= threshold".
        cautions: what every answer that rests on it must say.
        no_gradient: why it has no gradient, such as "a service only scores"; empty if it has one.
    """

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> tuple[object, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def threshold(self) -> float | None: ...

    @property
    def cautions(self) -> tuple[str, ...]: ...

    @property
    def no_gradient(self) -> str: ...

    def scores(self, x: Tensor) -> Scoring:
        """The scores [B] of candidates x [B, *event], unchecked."""
        ...

    def gradients(self, x: Tensor) -> Scoring:
        """The scores and then their gradients in x, flattened, [B, 1 + d], unchecked; only if it has some."""
        ...


def beside(scores: Tensor, gradients: Tensor) -> Tensor:
    """Scores [B] and their gradients [B, *event] as `Reward.gradients` gives them, [B, 1 + d]."""
    return torch.cat([scores.detach()[:, None].to(gradients.dtype), gradients.flatten(1)], dim=1)


class Scored:
    """Part of a reward that only scores."""

    no_gradient = "it is scored forwards only"

    def gradients(self, x: Tensor) -> Scoring:
        """Implements `Reward.gradients`: never asked for."""
        raise AssertionError(self.no_gradient)


class Definition(Protocol):
    """A reward whose arguments are not bound yet."""

    @property
    def name(self) -> str: ...

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """Names of its arguments; they may depend on the arguments given so far."""
        ...

    def bind(self, given: Mapping[str, Given]) -> Reward:
        """The reward with these arguments, all of them.

        Raises:
            RequestError: INVALID_ARGUMENT for a missing, unknown or ill-shaped argument.
        """
        ...


def check_names(reward: str, given: Mapping[str, object], required: Sequence[str], known: Sequence[str]) -> None:
    """Refuse unknown and missing arguments."""
    for name in given:
        if name not in known:
            names = ", ".join(PREFIX + each for each in known) or "none"
            raise errors.invalid(f"reward {reward!r}: unknown argument {PREFIX + name!r}, expected {names}")
    for name in required:
        if name not in given:
            raise errors.invalid(f"reward {reward!r}: expected argument {PREFIX + name!r}, got none")


def came(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
