"""Between latents and pictures: rows of a decoder or encoder, whole numbers of 0..255, and PNG files."""

import io
from collections.abc import Generator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import steering
from serving.backends import Array
from serving.engine.task import Evaluation, Kind, Step
from serving.models.pipeline import Coder
from serving.pipelines.beside import beside
from serving.wire import texts

NUMBERS = 2**24
"""Numbers of pictures that are held at a time as float32: 64 MiB, 21 pictures of 512 x 512."""

Made = Generator[Step, list[Array], Tensor]


def at_once(picture: tuple[int, ...]) -> int:
    """How many pictures of this shape are decoded and passed on together."""
    return max(1, NUMBERS // int(np.prod(picture)))


def decoded(coder: Coder | None, latents: Tensor, kind: Kind = "network") -> Made:
    """The pictures [n, 3, height, width] of latents z [n, *event], of which the decoder gets z / scale + shift; without
    a decoder they are pictures already."""
    if coder is None:
        return latents
    return (yield from _through(coder, read(coder, latents), kind))


def read(coder: Coder, latents: Tensor) -> Array:
    """What the decoder gets for latents [n, *event]."""
    return _fed(coder, latents.to(torch.float32) / coder.card.scale + coder.card.shift)


def _fed(coder: Coder, x: Tensor) -> Array:
    return x.contiguous().numpy().astype(coder.takes.dtype, copy=False)


def encoded(coder: Coder | None, pictures: Array) -> Made:
    """The latents z = scale * (encoded - shift) [n, *event] of pictures of 0..255 [n, height, width, 3]; without an
    encoder pictures of -1..1."""
    x = torch.from_numpy(pictures.astype(np.float32, copy=False)).permute(0, 3, 1, 2) / 127.5 - 1
    if coder is None:
        return x
    z = yield from _through(coder, _fed(coder, x), "network")
    return (z - coder.card.shift) * coder.card.scale


def _through(coder: Coder, x: Array, kind: Kind) -> Made:
    feeds = {coder.takes.name: x}
    (output,) = yield Evaluation(coder.model.network, feeds, (coder.gives.name,), len(x), kind, units=coder.units)
    made = torch.from_numpy(np.ascontiguousarray(output.astype(np.float32, copy=False)))
    if not bool(made.isfinite().all()):
        raise steering.NetworkError(f"network {coder.model.name!r}: expected finite output, got NaN or infinity")
    return made


def quantized(pictures: Tensor) -> Array:
    """Pictures of -1..1 [n, 3, height, width] as uint8 [n, height, width, 3]: rounded, and kept within 0..255."""
    x = (pictures.to(torch.float32) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (x * 255).round().to(torch.uint8).contiguous().numpy()


def files(pictures: Array) -> Array:
    """Pictures uint8 [n, height, width, 3] as PNG files, BYTES [n]."""
    return texts.array([_file(each) for each in pictures])


def _file(picture: Array) -> bytes:
    made = io.BytesIO()
    Image.fromarray(picture).save(made, "PNG")
    return made.getvalue()


def told(pictures: Tensor, output_format: str) -> Generator[Step, list[Array], Array]:
    """Pictures of -1..1 as an answer has them, made beside the engine: uint8, or PNG files."""

    def work() -> list[Array]:
        whole = quantized(pictures)
        return [files(whole) if output_format == "png" else whole]

    (made,) = yield beside("pictures", work)
    return made
