"""Who calls: an identity with its rights, models and limits, and how a front tells a replica of it."""

import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ByteSize, ConfigDict, Field

Right = Literal["metadata", "inference", "statistics", "repository", "shared_memory", "trace", "log"]
"""A group of methods that a caller may be let into; see `methods`."""
RIGHTS: tuple[Right, ...] = get_args(Right)

Count = Annotated[int, Field(ge=1)]


class Limits(BaseModel):
    """What one identity may ask of one front; None is no limit.

    Attributes:
        concurrent: requests under way.
        rows_per_second: network rows, in the mean. rows_at_once: how many of them may be saved up, and so the largest
        request; None for those of ten seconds.
        samples, steps, particles: of a request for samples.
        message_bytes: of a request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrent: Count | None = None
    rows_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    rows_at_once: Count | None = None
    samples: Count | None = None
    steps: Count | None = None
    particles: Count | None = None
    message_bytes: Annotated[ByteSize, Field(ge=1)] | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Caller:
    """An identity; the default is somebody whom nobody asked for a token, who may do everything.

    Attributes:
        name: "" where no token was asked for.
        models: patterns of names, as a shell has them: a caller knows of no other model.
    """

    name: str = ""
    rights: frozenset[Right] = frozenset(RIGHTS)
    models: tuple[str, ...] = ("*",)
    limits: Limits = field(default=NO_LIMITS)

    def sees(self, model: str) -> bool:
        """Whether a model of that name exists for the caller."""
        return self.sees_all or any(fnmatchcase(model, pattern) for pattern in self.models)

    @property
    def sees_all(self) -> bool:
        return "*" in self.models


ANYBODY = Caller()
_CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def caller() -> Caller:
    """Who made the call that this code works for; `ANYBODY` where it works for the server itself."""
    return _CALLER.get()


def answering(who: Caller) -> None:
    """From now on this task, and tasks that it makes, work for `who`."""
    _CALLER.set(who)


HEADER = "tiltserve-caller-bin"
"""Metadata in which a front says whose call it passes on; believed only beside the internal token."""
LONGEST_MODELS = 4096
"""Most bytes of a caller's models there: gRPC refuses calls whose metadata are more than 8 KiB in all."""


def told_of(models: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns of a caller's models; ValueError where they are too many to be passed on."""
    if (size := len(json.dumps(models))) > LONGEST_MODELS:
        raise ValueError(f"expected patterns of models of at most {LONGEST_MODELS} bytes in all, got {size}")
    return models


@lru_cache(maxsize=4096)
def told(who: Caller) -> bytes:
    """What a replica must know of a caller: the name, for a fair share, and the models."""
    return json.dumps([who.name, list(who.models)]).encode()


@lru_cache(maxsize=4096)
def heard(data: bytes) -> Caller:
    """The caller that a front told of; its rights and limits were looked at there."""
    name, models = json.loads(data)
    return Caller(str(name), models=tuple(_texts(models)))


def _texts(found: Sequence[object]) -> list[str]:
    return [str(each) for each in found]
