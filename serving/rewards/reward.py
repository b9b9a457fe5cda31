"""What a reward is before and after its arguments are bound."""

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from serving.backends import Array
from serving.engine.task import Step
from serving.wire import errors
from serving.wire.tensors import Parameter

PREFIX = "reward_"
"""Of the parameters and inputs of a request that are arguments of its reward."""
Given = Parameter | Array
Scoring = Generator[Step, list[Array], Tensor]
"""Asks for evaluations and returns the scores [B]."""


class Reward(Protocol):
    """A reward with its arguments.

    Attributes:
        name: what errors and warnings call it.
        key: equal keys score equally: what a bank's remembered scores are filed under.
        fingerprint: identifies what scores: equal ones, with equal arguments, score equally on every replica.
        threshold: None for a tilt by the score; else the reward is the event that its score is at least this.
    """

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> tuple[object, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def threshold(self) -> float | None: ...

    def scores(self, x: Tensor) -> Scoring:
        """The scores [B] of candidates x [B, *event], unchecked."""
        ...


class Definition(Protocol):
    """A reward whose arguments are still to come."""

    @property
    def name(self) -> str: ...

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """The names of its arguments, which may depend on those that are given already."""
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
