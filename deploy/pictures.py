"""Samples as pictures a person can read: one grid, or two grids side by side with a title each; pictures as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER = 255
FONT_SIZE = 16


def grey_images(samples: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Samples [n, h, w] or [n, 1, h, w] in [-1, 1] (clipped) as grey levels [n, h, w]; ValueError for anything else."""
    images = samples[:, 0] if samples.ndim == 4 and samples.shape[1] == 1 else samples
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(f"expected images of shape [n, h, w] or [n, 1, h, w], got {list(samples.shape)}")
    if np.isnan(images).any():
        raise ValueError("expected images in [-1, 1], got NaN")
    return np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def grid(samples: NDArray[Any], *, columns: int | None = None, scale: int = 3, gap: int = 1) -> Image.Image:
    """All samples, row by row, in `columns` columns (None: about a square): grey ones of -1..1, or uint8 [n, h, w, 3].

    One pixel of a sample becomes scale x scale pixels; `gap` is the space around each image in pixels of a sample.
    """
    images = samples if samples.dtype == np.uint8 else grey_images(samples)
    count, height, width, *channels = images.shape
    columns = min(columns or int(np.ceil(np.sqrt(count))), count)
    rows = -(-count // columns)
    shape = rows * (height + gap) + gap, columns * (width + gap) + gap
    sheet = np.full((*shape, *channels), PAPER, dtype=np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet).resize((shape[1] * scale, shape[0] * scale), Image.Resampling.NEAREST)


def write_files(images: NDArray[np.uint8], folder: Path, name: str) -> list[Path]:
    """Pictures [n, h, w, 3] as files `name-000.png`, ... of a folder, which is made where it is not there."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{name}-{number:03}.png" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files


def side_by_side(panels: Sequence[tuple[str, NDArray[Any]]], *, columns: int | None = 8, scale: int = 3) -> Image.Image:
    """One grid a panel, left to right, each under its title: `side_by_side([("plain", a), ("steered", b)])`."""
    if not panels:
        raise ValueError("expected at least one panel, got none")
    font = ImageFont.load_default(size=FONT_SIZE)
    grids = [grid(samples, columns=columns, scale=scale) for _, samples in panels]
    margin, headline = FONT_SIZE, 2 * FONT_SIZE
    widths = [
        max(image.width, int(np.ceil(font.getlength(title)))) for (title, _), image in zip(panels, grids, strict=True)
    ]
    size = (sum(widths) + margin * (len(panels) + 1), headline + max(image.height for image in grids) + margin)
    sheet = Image.new("RGB" if any(image.mode == "RGB" for image in grids) else "L", size, "white")
    draw = ImageDraw.Draw(sheet)
    left = margin
    for (title, _), image, width in zip(panels, grids, widths, strict=True):
        draw.text((left, FONT_SIZE // 2), title, fill="black", font=font)
        sheet.paste(image, (left, headline))
        left += width + margin
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other, from the left."""
    whole = Image.new(
        sheets[0].mode, (max(each.width for each in sheets), sum(each.height for each in sheets)), "white"
    )
    top = 0
    for each in sheets:
        whole.paste(each, (0, top))
        top += each.height
    return whole
