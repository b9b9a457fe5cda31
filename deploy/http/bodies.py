"""What comes in a request's body, with bounds on all of it: JSON, and forms with files of pictures."""

import asyncio
import io
import json
import warnings
from typing import Any, NoReturn

import numpy as np
from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, BodyPartReader, web
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deploy.http.errors import HttpError, wrong

MOST_JSON, MOST_FORM = 2**20, 2**25
"""Bytes of a body."""
MOST_PARTS, MOST_TEXT = 64, 2**16
"""Fields of a form, and bytes of one that is no file."""
MOST_PIXELS = 2**24
"""Of a picture: 4096 x 4096."""
PATIENCE_S = 60.0
"""Seconds in which a body must have come."""
FILES = {"image": "image", "image[]": "image", "mask": "mask"}
_FORMATS = ("PNG", "JPEG", "WEBP")
_OPAQUE = 128
"""What alpha below this stands for: a place that is to be drawn anew."""
Pictures = dict[str, NDArray[Any]]

for _kind in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.simplefilter("ignore", _kind)  # Python keeps each text that it has warned of, and anybody can send others


async def of_json(request: web.Request) -> dict[str, Any]:
    """The fields of a JSON object; raises `HttpError`."""
    if request.content_type != "application/json":
        raise HttpError(415, f"content-type: expected application/json, got {request.content_type[:80]!r}")
    _plain(request)
    data = bytearray()
    async with _in_time():
        async for chunk in request.content.iter_chunked(2**16):
            data += chunk
            if len(data) > MOST_JSON:
                raise _long(MOST_JSON)
    try:
        body = json.loads(data, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"expected a JSON object, got: {str(error)[:200]}", "invalid_argument") from None
    if not isinstance(body, dict):
        raise HttpError(400, f"expected a JSON object, got {type(body).__name__}", "invalid_argument")
    return body


async def of_form(request: web.Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields of a form, numbers and truth values as such, and its files; raises `HttpError`."""
    if request.content_type != "multipart/form-data":
        raise HttpError(415, f"content-type: expected multipart/form-data, got {request.content_type[:80]!r}")
    _plain(request)
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    left = MOST_FORM
    try:
        async with _in_time():
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader) or not part.name:
                    raise HttpError(400, "expected fields with names, got a part without one", "invalid_argument")
                name = FILES.get(part.name, part.name)
                if name in fields or name in files:
                    raise wrong(name, "expected it once, got more of them")
                if len(fields) + len(files) == MOST_PARTS:
                    raise HttpError(400, f"expected at most {MOST_PARTS} fields, got more", "invalid_argument")
                is_file = part.name in FILES
                data = await _read(part, left if is_file else min(left, MOST_TEXT))
                left -= len(data)
                if is_file:
                    files[name] = data
                else:
                    fields[name] = _value(name, data)
    except ValueError as error:  # of a form that is broken
        raise HttpError(400, f"expected a form, got: {str(error)[:200]}", "invalid_argument") from None
    return fields, files


def pictures(files: dict[str, bytes]) -> Pictures:
    """`image` uint8 [h, w, 3], and `mask` uint8 [h, w], 255 where it is to be drawn anew, if there is one.

    A mask is where a file is transparent, as OpenAI has it: the file `mask`, or the image itself. A mask without
    transparency is white there. It takes time, and no event loop should wait for it; raises `HttpError`.
    """
    if "image" not in files:
        raise wrong("image", "expected a picture, got none")
    image = _opened("image", files["image"])
    made: Pictures = {"image": np.asarray(image.convert("RGB"))}
    if "mask" in files:
        mask = _opened("mask", files["mask"])
        alpha = _anew(mask)
        made["mask"] = np.asarray(mask.convert("L")) if alpha is None else alpha
    elif (alpha := _anew(image)) is not None and alpha.any():
        made["mask"] = alpha
    return made


def _anew(image: Image.Image) -> NDArray[np.uint8] | None:
    """255 where an image is transparent; None for one that has no such thing."""
    if not image.has_transparency_data:
        return None
    return np.where(np.asarray(image.convert("RGBA"))[..., 3] < _OPAQUE, np.uint8(255), np.uint8(0))


def _opened(name: str, data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise wrong(name, f"expected at most {MOST_PIXELS} pixels, got {width} x {height}")
            upright = ImageOps.exif_transpose(opened)
            upright.load()
            return upright
    except HttpError:
        raise
    except Exception:  # of what a file may be, Pillow names no bounded set of errors
        kinds = ", ".join(each.lower() for each in _FORMATS)
        raise wrong(name, f"expected a picture as {kinds}, got {len(data)} bytes of something else") from None


async def _read(part: BodyPartReader, most: int) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(2**16):
        data += chunk
        if len(data) > most:
            raise _long(most)
    return bytes(data)


def _value(name: str, data: bytes) -> Any:
    """A field of a form: what JSON has for a number, a truth value or a list, else a text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise wrong(name, "expected a text in UTF-8, got other bytes") from None
    if name in ("prompt", "negative_prompt", "model"):
        return text
    try:
        value = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float | list) else text


def _plain(request: web.Request) -> None:
    if "Content-Encoding" in request.headers:
        raise HttpError(415, "content-encoding: expected none, got one")


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _long(most: int) -> HttpError:
    return HttpError(413, f"expected a body, or a field, of at most {most} bytes, got more", "too_long")


def _in_time() -> asyncio.Timeout:
    return asyncio.timeout(PATIENCE_S)
