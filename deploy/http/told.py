"""Answers in OpenAI's words: files of pictures as base64, in one object or as events."""

import base64
import io
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.http.asked import Asked
from tiltserve import Preview, Samples

_USUAL = {"png": {}, "jpeg": {"quality": 92}, "webp": {"quality": 90}}
"""What Pillow is told of files of which a request does not say how large they may be."""


def answer(samples: Samples, asked: Asked) -> bytes:
    """The whole answer. It takes time, and no event loop should wait for it."""
    return json.dumps(
        {
            **_common(samples.images, asked),
            "data": [{"b64_json": encoded(each, asked)} for each in samples.images],
            "tiltserve": about(samples),
        }
    ).encode()


def completed(samples: Samples, asked: Asked, event: str) -> list[bytes]:
    """The events at the end, one for each picture."""
    images = samples.images
    return [
        _event(f"{event}.completed", images, each, asked, {"image_index": number, "tiltserve": about(samples)})
        for number, each in enumerate(images)
    ]


def partial(preview: Preview, asked: Asked, event: str, number: int) -> list[bytes]:
    """The events of a look on the way, one for each picture."""
    images = preview.images
    return [
        _event(
            f"{event}.partial_image",
            images,
            each,
            asked,
            {"partial_image_index": number, "image_index": preview.first + row},
        )
        for row, each in enumerate(images)
    ]


def failed(told: Mapping[str, Any]) -> bytes:
    """The event of an error after the first event."""
    return _sent("error", {"type": "error", **told})


def about(samples: Samples) -> dict[str, Any]:
    """What OpenAI's answers have no place for."""
    return {
        "seed": samples.seed,
        "solver": samples.solver,
        "steering": samples.steering,
        "network_rows": samples.network_rows,
        "rewards": None if samples.rewards is None else [_finite(each) for each in samples.rewards],
        "warnings": samples.warnings,
        "fingerprint": samples.fingerprint,
    }


def encoded(image: NDArray[np.uint8], asked: Asked) -> str:
    """A picture [h, w, 3] as a file, in base64."""
    how = _USUAL[asked.format] if asked.compression is None else {"quality": asked.compression}
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, asked.format.upper(), **how)
    return base64.b64encode(buffer.getvalue()).decode()


def _finite(value: Any) -> float | None:
    """A number as JSON has it, which knows no infinity."""
    return float(value) if np.isfinite(value) else None


def _common(images: NDArray[np.uint8], asked: Asked) -> dict[str, Any]:
    _, height, width, _ = images.shape
    return {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": asked.format,
        "size": f"{width}x{height}",
        "quality": "auto",
    }


def _event(
    kind: str, images: NDArray[np.uint8], image: NDArray[np.uint8], asked: Asked, more: Mapping[str, Any]
) -> bytes:
    common = _common(images, asked)
    common["created_at"] = common.pop("created")
    return _sent(kind, {"type": kind, "b64_json": encoded(image, asked), **common, **more})


def _sent(kind: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
