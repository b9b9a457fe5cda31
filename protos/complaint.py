"""One-line complaints about a file or a setting: where, what was expected, what came."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

_NAME = 100
"""Most characters of a name that may be a misspelt one."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown key 'stps', did you mean 'steps'?`, or the whole list of names when none is near."""
    names = sorted(known)
    short = len(str(name)) <= _NAME  # to compare long ones takes seconds, and none is near
    near = get_close_matches(str(name), names, n=1) if short else []
    return f"unknown {what} {shorten(name, _NAME)}, " + (
        f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
    )


def complaint(error: ValidationError, model: type[BaseModel], root: str = "") -> str:
    """The first fault of a failed validation as one line, such as `inputs.time: expected 't' or 'sigma', got 'x'`.

    `model` is the class that was validated (its fields are the known keys); `root` names it where a fault has no key.
    """
    # An unknown key is very often the misspelt name of one reported missing: it explains both.
    fault = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    where = fault["loc"]
    if fault["type"] == "extra_forbidden":
        text = unknown("key", where[-1], _keys(model, where[:-1]))
        where = where[:-1]
    elif fault["type"] == "missing":
        text = "expected a value, got none"
    elif fault["type"] == "value_error":
        text = str(fault["ctx"]["error"])
    else:
        expected = fault["msg"].split(", unable to parse")[0].replace("Input should be", "expected")
        text = f"{_lower(expected)}, got {shorten(fault['input'])}"
    place = ".".join(map(str, where)) or root
    return " ".join((f"{place}: {text}" if place else text).split())


def shorten(value: object, limit: int = 60) -> str:
    """`repr(value)`, cut where it gets long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_text(file: Path, what: str, fault: type[Exception]) -> str:
    """A file's text; where there is none, `fault` says that `what` was expected and what came."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise fault(f"{file}: expected {what}, got no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise fault(f"{file}: expected a readable text file, got {error}") from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _keys(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model found by walking `where` down from `model`."""
    here: Any = model
    for step in where:
        if isinstance(here, type) and issubclass(here, BaseModel) and step in here.model_fields:
            here = here.model_fields[str(step)].annotation
        here = _model_inside(here)
    return list(here.model_fields)


def _model_inside(annotation: Any) -> Any:
    """The model class within `M | None` or `dict[str, M]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = (_model_inside(part) for part in getattr(annotation, "__args__", ()))
    return next((part for part in inside if part is not None), None)
