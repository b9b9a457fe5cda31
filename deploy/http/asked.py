"""A request in OpenAI's words, and what it is in the client's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.http.errors import wrong
from tiltserve.names import STREAMED
from tiltserve.pipelines import STRENGTH

FORMATS = ("png", "jpeg", "webp")
MOST, MOST_PARTIAL = 10, 10
"""Pictures of one request, and looks at them on the way; OpenAI has 10 and 3."""
EVERY = 3
"""Stages from one look to the next, where a request does not say its steps."""
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_WITHOUT_EFFECT = {
    "quality": ("auto", "low", "medium", "high", "standard", "hd"),
    "style": ("vivid", "natural"),
    "moderation": ("auto", "low"),
    "background": ("auto", "opaque"),
}
"""Fields of OpenAI's that web tools send whatever the model is, with the values that change nothing here."""
_NOT_HERE = {
    "self", "parameters", "samples", "latents", "version", "request_id", "score", "progress", "timing", "on_preview",
    *STREAMED,
}  # fmt: skip
"""Words of the client that are no field of a request."""
_UNKNOWN = "expected no such field"


@dataclass(frozen=True)
class Asked:
    """What is wanted.

    Attributes:
        model: None for the only one that there is.
        n: how many pictures.
        keywords: of the client's `sample`.
        parameters: likewise, of names that its methods have for something else.
        format: of the files; compression: 0..100 as OpenAI has it, 100 being the largest file; None for the usual.
        partial: looks on the way; None where the answer is to come in one piece.
    """

    model: str | None
    n: int
    keywords: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    format: str = "png"
    compression: int | None = None
    partial: int | None = None

    @property
    def every(self) -> int:
        """Stages from one look to the next."""
        steps = self.keywords.get("steps")
        if not isinstance(steps, int) or steps < 1 or not self.partial:
            return EVERY
        return max(1, steps // (self.partial + 1))


def asked(body: Mapping[str, Any], pictures: Mapping[str, Any] | None = None) -> Asked:
    """What a request asks for.

    Args:
        body: its fields; None is as good as none.
        pictures: `image` and `mask` of a request that edits one.

    Raises:
        HttpError: what was expected, and what came.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    for name in fields:
        if name in _NOT_HERE or (name in ("image", "mask") and pictures is None):
            raise wrong(name, "expected no such field; the number of pictures is n" if name == "samples" else _UNKNOWN)
    for name, values in _WITHOUT_EFFECT.items():
        if (value := fields.pop(name, None)) is not None and value not in values:
            raise wrong(name, f"expected {', '.join(values)}, got {_short(value)}")
    _text(fields, "user")
    prompt = _text(fields, "prompt")
    if prompt is None:
        raise wrong("prompt", "expected a text, got none")
    model = _text(fields, "model")
    response = _text(fields, "response_format")
    if response not in (None, "b64_json"):
        raise wrong("response_format", f"expected b64_json, got {response!r}: this server keeps no pictures to link to")
    form = _text(fields, "output_format") or "png"
    if form not in FORMATS:
        raise wrong("output_format", f"expected {', '.join(FORMATS)}, got {form!r}")
    compression = _number(fields, "output_compression", 0, 100)
    if compression not in (None, 100) and form == "png":
        raise wrong("output_compression", "expected jpeg or webp as output_format beside it, got png")
    stream, partial = fields.pop("stream", False), _number(fields, "partial_images", 0, MOST_PARTIAL)
    if not isinstance(stream, bool):
        raise wrong("stream", f"expected true or false, got {_short(stream)}")
    if partial and not stream:
        raise wrong("partial_images", "expected stream: true beside it, got none")
    n = _number(fields, "n", 1, MOST)
    keywords = {**fields, **_size(fields), "prompt": prompt, **(pictures or {})}
    if pictures is not None and "mask" not in pictures:
        keywords.setdefault("strength", STRENGTH)
    keywords.pop("size", None)
    for name in ("conditions", "reward_args"):
        if not isinstance(keywords.get(name, {}), dict):
            raise wrong(name, f"expected an object, got {_short(keywords[name])}")
    parameters = {"timeout": keywords.pop("timeout")} if "timeout" in keywords else {}
    return Asked(
        model, 1 if n is None else n, keywords, parameters, form, compression, (partial or 0) if stream else None
    )


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.pop(name, None)
    if value is not None and not isinstance(value, str):
        raise wrong(name, f"expected a text, got {_short(value)}")
    return value


def _number(fields: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = fields.pop(name, None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most):
        raise wrong(name, f"expected a number of {least}..{most}, got {_short(value)}")
    return value


def _size(fields: Mapping[str, Any]) -> dict[str, int]:
    """`height` and `width` of a `size`."""
    size = fields.get("size", "auto")
    if size == "auto":
        return {}
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise wrong("size", f"expected WIDTHxHEIGHT, such as 512x512, or auto, got {_short(size)}")
    if {"height", "width"} & fields.keys():
        raise wrong("size", "expected size, or height and width, got both")
    return {"width": int(found[1]), "height": int(found[2])}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
