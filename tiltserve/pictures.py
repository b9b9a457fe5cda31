"""Pictures as people and other libraries have them: uint8 arrays [n, h, w, 3], Pillow's images, files."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiltserve.errors import InvalidArgument
from tiltserve.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

Pictures = NDArray[np.uint8]
MODEL = (-1.0, 1.0)
"""What black and white are in samples of a model of pictures."""


def pictures(name: str, value: Any) -> Pictures:
    """Whatever stands for pictures as uint8 [n, h, w, 3].

    Args:
        value: an image of Pillow, an array [h, w, 3] or [n, h, w, 3] of 0..255 (uint8) or 0..1 (floats), or a sequence
            of them.

    Raises:
        InvalidArgument: it is something else.
    """
    made = _bytes(name, _array(name, value, "RGB"))
    made = made[None] if made.ndim == 3 else made
    if made.ndim != 4 or made.shape[-1] != 3 or 0 in made.shape:
        raise InvalidArgument(f"{name}: expected pictures [h, w, 3] or [n, h, w, 3], got {list(made.shape)}")
    return made


def masks(name: str, value: Any) -> Pictures:
    """Whatever stands for masks as uint8 [n, h, w], 255 where a picture is to be drawn anew.

    Args:
        value: an image of Pillow, an array [h, w] or [n, h, w] of truth values, 0..255 (uint8) or 0..1 (floats), or a
            sequence of them.

    Raises:
        InvalidArgument: it is something else, or of bytes that are 0 and 1 alone, which would be black.
    """
    made = _array(name, value, "L")
    if made.dtype == np.uint8 and made.size and made.max() == 1:
        raise InvalidArgument(f"{name}: expected 0 and 255, or truth values, got bytes of 0 and 1")
    made = _bytes(name, made)
    made = made[None] if made.ndim == 2 else made
    if made.ndim != 3 or 0 in made.shape:
        raise InvalidArgument(f"{name}: expected masks [h, w] or [n, h, w], got {list(made.shape)}")
    return made


def shown(x: Array, low: float = MODEL[0], high: float = MODEL[1]) -> Pictures:
    """Samples of pictures [n, c, h, w] or [n, h, w] as uint8 [n, h, w, 3]; what is uint8 [n, h, w, 3] as it is.

    Args:
        x: floats, clipped to low..high, or bytes that stand for it; c is 1 or 3.

    Raises:
        InvalidArgument: they have another shape, or are no numbers.
    """
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] == 3:
        return x
    channels = x[:, None] if x.ndim == 3 else x
    if channels.ndim != 4 or channels.shape[1] not in (1, 3):
        raise InvalidArgument(f"images: expected samples of pictures, [c, h, w] or [h, w], got {list(x.shape[1:])}")
    if channels.dtype != np.uint8:
        if np.isnan(channels).any():
            raise InvalidArgument("images: expected numbers, got NaN")
        unit = (np.clip(channels.astype(np.float32), low, high) - low) / (high - low)
        channels = np.rint(unit * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(channels, 1, -1), (*_size(channels), 3)))


def pil(images: Pictures) -> "list[Image]":
    """Pictures [n, h, w, 3] as Pillow's; `ImportError` where Pillow is not installed."""
    image = _pillow("pil()")
    return [image.fromarray(each) for each in images]


def decoded(files: Sequence[bytes]) -> Pictures:
    """What is in files of pictures of one size [n, h, w, 3]; `ImportError` where Pillow is not installed."""
    image = _pillow('images of output_format="png"')
    return np.stack([np.asarray(image.open(io.BytesIO(each)).convert("RGB")) for each in files])


def _pillow(what: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(f"{what}: expected the package pillow (pip install pillow), it is not installed") from None
    return Image


def _array(name: str, value: Any, mode: str) -> Array:
    """An image of Pillow in a mode, a sequence of them, or whatever numpy takes for an array."""
    if hasattr(value, "convert") and hasattr(value, "mode"):
        return np.asarray(value.convert(mode))
    try:
        if isinstance(value, list | tuple) and value and not np.isscalar(value[0]):
            parts = [_array(name, each, mode) for each in value]
            if len(shapes := {each.shape for each in parts}) > 1:
                raise InvalidArgument(f"{name}: expected pictures of one size, got {sorted(map(list, shapes))}")
            return np.stack(parts)
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # also of tensors that are on a GPU
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{name}: expected pictures, got {type(value).__name__}: {error}") from None


def _bytes(name: str, made: Array) -> Pictures:
    """Truth values, bytes or floats of 0..1 as bytes."""
    if made.dtype == np.uint8:
        return made
    if made.dtype == np.bool_:
        return made.astype(np.uint8) * np.uint8(255)
    if made.dtype.kind != "f":
        raise InvalidArgument(f"{name}: expected bytes of 0..255 or floats of 0..1, got {made.dtype}")
    if made.size and not (made.min() >= 0 and made.max() <= 1):  # of NaN neither is true
        raise InvalidArgument(f"{name}: expected floats of 0..1, got {made.min():.4g}..{made.max():.4g}")
    return np.rint(made * 255).astype(np.uint8)


def _size(channels: Array) -> tuple[int, int, int]:
    count, _, height, width = channels.shape
    return count, height, width
