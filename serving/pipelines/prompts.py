"""The prompts of a request: texts as inputs or parameters, within bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.backends import Array
from serving.wire import errors
from serving.wire.tensors import TEXTS, Parameter, named

LONGEST = 2**13
"""Bytes of a prompt: more than the longest text network reads."""
MOST = 2**20
"""Bytes of the different prompts of a request: reading so many takes a second."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of n samples: one for each, or one for all."""

    texts: tuple[str, ...]

    @property
    def different(self) -> tuple[str, ...]:
        """Each once, in order."""
        return tuple(dict.fromkeys(self.texts))


def prompts_of(name: str, inputs: Mapping[str, Array], parameters: Mapping[str, Parameter], n: int) -> Prompts | None:
    """The prompts that a request has under a name; None for none.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the input, what was expected and what came.
    """
    given, said = inputs.get(name), parameters.get(name)
    if given is not None and said is not None:
        raise errors.invalid(f"{name}: expected an input or a parameter, got both")
    if said is not None:
        if not isinstance(said, str):
            raise errors.invalid(f"parameter {name}: expected a text, got {said!r}")
        return Prompts((_bounded(name, said.encode()),))
    if given is None:
        return None
    flat = given.reshape(-1) if given.ndim == 2 and given.shape[1] == 1 else given  # so Triton's tools send columns
    if flat.dtype != TEXTS or flat.ndim != 1 or len(flat) not in (1, n):
        wanted = "BYTES [1]" if n == 1 else f"BYTES [{n}] (samples) or [1]"
        raise errors.invalid(f"input {name!r}: expected {wanted}, got {named(given.dtype)} {list(given.shape)}")
    different = dict.fromkeys(flat.tolist())
    if (size := sum(map(len, different))) > MOST:
        raise errors.invalid(f"input {name!r}: expected at most {MOST} bytes of different prompts, got {size}")
    read = {each: _bounded(name, each) for each in different}
    return Prompts(tuple(read[each] for each in flat.tolist()))


def _bounded(name: str, text: bytes) -> str:
    if len(text) > LONGEST:
        raise errors.invalid(f"{name}: expected at most {LONGEST} bytes a prompt, got {len(text)}")
    try:
        return str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise errors.invalid(f"{name}: expected texts in UTF-8, got {error.reason} at byte {error.start}") from None


def cut(texts: Sequence[int]) -> str:
    """What an answer warns of, where so many tokens of each prompt did not fit; empty for nothing."""
    lost = [each for each in texts if each]
    if not lost:
        return ""
    prompts = "the prompt was" if len(texts) == 1 else f"{len(lost)} of {len(texts)} different prompts were"
    return f"{prompts} cut: up to {max(lost)} tokens at the end were not read"
