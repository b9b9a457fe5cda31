"""What a streamed request shows before its answer: denoised estimates on the way, and groups of finished samples."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

import steering
from protos.card import Card
from serving.models.described import PREVIEWED
from serving.pipelines.pictures import quantized
from serving.requests.dynamics.chunks import Chunk
from serving.requests.methods import Steered
from serving.requests.trajectory import Pair, Path, Room
from serving.wire import errors
from serving.wire.answer import Answer
from serving.wire.parameters import Parameters
from serving.wire.tensors import Array, Parameter
from steering.numerics.tiles import ROWS

Result = TypeVar("Result")

RANGE = (-1.0, 1.0)
"""What 0 and 255 stand for where the card does not say what samples may be."""
EARLY = ROWS
"""Samples in the first of the groups that are streamed: those of one of steering's tiles."""
_TORCH: Mapping[str, torch.dtype | None] = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "uint8": torch.uint8,
    "none": None,
}


@dataclass(frozen=True)
class Look:
    """How estimates are shown.

    Attributes:
        dtype: None where it is enough to be told of a stage.
        size: the longer side of an image in pixels, at most; None for the model's own.
        range: what 0 and 255 of uint8 stand for.
        pictures: estimates are pictures, and are shown as answers have them: [n, height, width, 3].
    """

    dtype: torch.dtype | None = torch.float32
    size: int | None = None
    range: tuple[float, float] = RANGE
    pictures: bool = False

    def of(self, estimate: Tensor) -> Array:
        """An estimate [n, *event] as it is shown [n, *shown], [n, 0] of nothing."""
        if self.dtype is None:
            return np.zeros((len(estimate), 0), np.uint8)
        x = estimate if self.size is None else smaller(estimate, self.size)
        if self.pictures:
            return quantized(x)
        if self.dtype == torch.uint8:
            low, high = self.range
            x = ((x - low) * (255 / (high - low))).round().clamp(0, 255)
        shown: Array = x.to(self.dtype).numpy()
        return shown


@dataclass(frozen=True)
class Preview:
    """The denoised estimate of a stage; what is shown of it is made when it is sent.

    Attributes:
        estimate: [n, *event].
        first: the number of its first sample.
        stage: from 1, of so many `stages`.
        network_rows: that were evaluated for the request until then.
    """

    look: Look
    estimate: Tensor
    first: int
    stage: int
    stages: int
    network_rows: int

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.estimate.numel() * self.estimate.element_size()

    def answer(self) -> Answer:
        """The response."""
        said: dict[str, Parameter] = {
            "first": self.first, "stage": self.stage, "stages": self.stages, "network_rows": self.network_rows,
        }  # fmt: skip
        if self.look.dtype == torch.uint8:
            said |= {"low": self.look.range[0], "high": self.look.range[1]}
        return Answer({PREVIEWED: self.look.of(self.estimate)}, said)


Part = Preview | Pair | Chunk | Answer
"""What is sent before a request's answer: previews, pairs of a path, states of trajectories, finished samples."""
Deliver = Callable[[Part], Room | None]
"""Takes such a part, in order, on any thread, and returns at once. Previews may be dropped, others may not. What it
gives is to be waited for by whoever can, since too much waits to be sent; None where there is room."""


@dataclass
class Watched:
    """What a request shows while its samples are drawn, group after group.

    Attributes:
        look: of previews; None for no previews.
        path: whether states are sent on the way.
        groups: whether finished groups of samples are sent.
        rows: network rows of the groups that are finished.
    """

    deliver: Deliver
    look: Look | None
    groups: bool
    path: bool = False
    rows: int = field(default=0, init=False)

    def watched(
        self, sampler: Generator[steering.Rows, Tensor, Result], first: int, stages: int
    ) -> Generator[steering.Rows, Tensor, Result]:
        """Passes everything through; what comes back for an estimate is shown."""
        rows, look = self.rows, self.look
        try:
            request = next(sampler)
            while True:
                rows += len(request) if request.kind == "network" else 0
                reply = yield request
                if request.kind == "estimate":
                    assert look is not None
                    self.deliver(Preview(look, reply, first, request.stage, stages, rows))
                request = sampler.send(reply)
        except StopIteration as stop:
            return stop.value

    def along(self, plan: steering.Plan, first: int) -> Path:
        """The path of samples that are drawn by a plan, from number `first` on."""
        return Path(self.deliver, plan, first)

    @property
    def looks(self) -> bool:
        """Whether somebody looks at the estimates."""
        return self.look is not None and self.look.dtype is not None

    def sends(self, rows: slice, n: int) -> bool:
        """Whether the samples `rows` of n are sent before the answer, whose are the last."""
        return self.groups and rows.stop != n

    def finished(self, rows: slice, n: int, outputs: dict[str, Array], report: steering.Report) -> None:
        """Notes, and sends where groups are sent, the samples `rows` of n."""
        self.rows += report.network_rows
        if not self.sends(rows, n):
            return
        if report.rewards is not None:
            outputs["rewards"] = report.rewards.to(torch.float32).numpy()
        self.deliver(Answer(outputs, {"first": rows.start, "network_rows": self.rows}))


def groups(run: slice, size: int, together: int, watched: Watched | None) -> Iterator[slice]:
    """Which samples of a run are drawn together: groups of `size`, one after another.

    Where groups are sent, the first of all is a small one, since it is waited for. The others are as large as ever: on
    two cores, 128 digits in groups of 16 take up to a fifth longer than in groups of 64.

    Args:
        together: samples that must not be divided; `size` is a multiple of them.
    """
    first = run.start
    if watched is not None and watched.groups and not first:
        unit = math.lcm(EARLY, together)
        if unit < size and 2 * unit <= run.stop:
            yield slice(0, unit)
            first = unit
    for start in range(first, run.stop, size):
        yield slice(start, min(start + size, run.stop))


def watched_for(
    parameters: Parameters, card: Card, deliver: Deliver | None, *, pictures: bool = False
) -> Watched | None:
    """What a request shows; None for nothing.

    Args:
        pictures: estimates are shown as pictures.

    Raises:
        RequestError: INVALID_ARGUMENT where nothing can be shown before the answer, or not in that way.
    """
    for name in ("preview_dtype", "preview_size"):
        if getattr(parameters, name) is not None and parameters.preview_every is None:
            raise errors.invalid(f"{name}: expected a parameter preview_every beside it, got none")
    for name in ("preview_every", "stream_samples", "trajectory"):
        if getattr(parameters, name) and deliver is None:
            raise errors.invalid(f"{name}: expected a request on ModelStreamInfer, got one on a call of one answer")
    if deliver is None or not (parameters.preview_every or parameters.stream_samples or parameters.trajectory):
        return None
    if parameters.preview_every and parameters.trajectory:
        raise errors.invalid("preview_every: expected none beside trajectory, which shows every step, got one")
    look = (_pictures if pictures else _look)(parameters, card) if parameters.preview_every else None
    return Watched(deliver, look, parameters.stream_samples, parameters.trajectory)


def notes_of(watched: Watched | None, plan: steering.Plan, steered: Steered, every: int) -> list[str]:
    """Warnings about previews that there are none of."""
    if watched is None or watched.look is None:
        return []
    if not plan.stages:
        return [f"no previews: solver {plan.solver!r} chooses its steps as it goes, and has no stages to show"]
    if steered.steer is not None and not steered.steer.shows:
        return [f"no previews: steering {steered.method!r} picks its samples at the end"]
    if every > len(plan.stages):
        return [f"no previews: one every {every} stages was asked for, of {len(plan.stages)}"]
    return []


def smaller(x: Tensor, size: int) -> Tensor:
    """Images [n, *channels, h, w] whose longer side has at most `size` pixels, averaged over areas."""
    height, width = x.shape[-2:]
    longer = max(height, width)
    if longer <= size:
        return x
    shape = max(1, round(height * size / longer)), max(1, round(width * size / longer))
    images = torch.nn.functional.adaptive_avg_pool2d(x.reshape(len(x), -1, height, width), shape)
    return images.reshape(*x.shape[:-2], *shape)


def _pictures(parameters: Parameters, card: Card) -> Look:
    if parameters.preview_dtype not in (None, "uint8", "none"):
        raise errors.invalid(f"preview_dtype: expected uint8 or none for pictures, got {parameters.preview_dtype!r}")
    return Look(_TORCH[parameters.preview_dtype or "uint8"], parameters.preview_size, pictures=True)


def _look(parameters: Parameters, card: Card) -> Look:
    shape = list(card.event_shape)
    if parameters.preview_size is not None and len(shape) not in (2, 3):
        raise errors.invalid(f"preview_size: expected samples of shape [c, h, w] or [h, w], got {shape}")
    bounds = card.clip
    if card.dynamic_threshold is not None:
        bounds = -card.dynamic_threshold.bound, card.dynamic_threshold.bound
    return Look(_TORCH[parameters.preview_dtype or "float32"], parameters.preview_size, bounds or RANGE)
