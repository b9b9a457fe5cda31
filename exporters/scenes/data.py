"""Rendered members of the family: training pictures, and the unseen members that scenes are compared with."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from exporters.scenes.family import KINDS, Field, member
from exporters.scenes.render import SIDE, anywhere, cameras, render

log = logging.getLogger(__name__)

MEMBERS = 2000
"""Training members of each kind."""
VIEWS = 4
"""Training pictures of each member."""
UNSEEN = 200
"""Members of each kind that scenes are compared with."""
TOGETHER = 16


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 [n, 3, 32, 32] with the number of the kind and the camera of each."""

    pixels: UInt8[Tensor, "n 3 side side"]
    kind: Int[Tensor, " n"]
    camera: Float[Tensor, "n 3"]

    def __len__(self) -> int:
        return len(self.kind)

    def x(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b 3 side side"]:
        """Some of the pictures, in -1..1."""
        return self.pixels[rows].float() / 127.5 - 1


def drawn(file: Path, members: int = MEMBERS, views: int = VIEWS) -> Pictures:
    """Training pictures, from `file` if it holds as many; else rendered (a minute) and kept there."""
    if file.exists():
        kept = Pictures(**torch.load(file, weights_only=True))
        if len(kept) == members * len(KINDS) * views:
            return kept
    pixels, kinds, seen = [], [], []
    generator = torch.Generator().manual_seed(0)
    for first in range(0, members, TOGETHER):
        numbers = range(first, min(first + TOGETHER, members))
        for kind, name in enumerate(KINDS):
            fields = Field.stacked([member("train", name, number) for number in numbers])
            for _ in range(views):
                camera = anywhere(len(numbers), generator)
                pixels.append(_bytes(render(fields, camera)))
                kinds.append(torch.full((len(numbers),), kind))
                seen.append(camera)
        if first % (16 * TOGETHER) == 0:
            log.info("rendered %d of %d members", 2 * first, 2 * members)
    made = Pictures(torch.cat(pixels), torch.cat(kinds), torch.cat(seen))
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"pixels": made.pixels, "kind": made.kind, "camera": made.camera}, file)
    return made


def reference_cameras() -> Float[Tensor, "12 3"]:
    """Cameras around a scene: six at 12 degrees of elevation, and six between those at 32 degrees."""
    azimuth = torch.arange(6) * 60.0
    return cameras(torch.cat([azimuth, azimuth + 30]), torch.tensor([12.0] * 6 + [32.0] * 6))


def unseen(kind: str, members: int = UNSEEN) -> UInt8[Tensor, "members 12 3 side side"]:
    """Members that no training saw, from the reference cameras (20 seconds for 200)."""
    camera = reference_cameras()
    pictures = [_bytes(render(member("unseen", kind, number), camera)) for number in range(members)]
    return torch.stack(pictures).reshape(members, len(camera), 3, SIDE, SIDE)


def _bytes(pictures: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
