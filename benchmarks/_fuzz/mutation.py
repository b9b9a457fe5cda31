"""Damage to a serialised message: what a broken, a hostile or a confused client would send."""

import random
from collections.abc import Callable, Sequence

from serving.wire.fields import BYTES, Field, fields, tagged, varint

_EDGES = (0, 1, 0x7F, 0x80, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_NOT_UTF8 = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"ok\xfe")
LONGEST = 2**16
"""Bytes of a piece that is put in."""
_MOST = 2**18
"""Bytes of a damaged message; larger ones are sent on purpose, and rarely."""
_DEEP = 300


def mutated(rng: random.Random, body: bytes, others: Sequence[bytes]) -> bytes:
    """The message with one to four kinds of damage; `others` are what pieces may be taken from."""
    for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 3, 4))):
        body = rng.choice(_KINDS)(rng, body, others)[:_MOST]
    return body


def _truncate(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _flip(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(body)
    for _turn in range(rng.randint(1, 8) if body else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.randbytes(rng.randint(1, 16)) + body[at + rng.randint(0, 16) :]


def _splice(rng: random.Random, body: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else b""
    return body[: rng.randrange(len(body) + 1)] + other[rng.randrange(len(other) + 1) :]


def _append(rng: random.Random, body: bytes, others: Sequence[bytes]) -> bytes:
    return body + (rng.choice(others) if others else body)


def _insert_number(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + varint(rng.choice(_EDGES)) + body[at:]


def _endless_number(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + b"\xff" * rng.choice((9, 10, 11, 64)) + body[at:]


def _beyond_the_end(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    """A field that says that it is longer than what is left."""
    field = varint(rng.randint(1, 12) << 3 | BYTES) + varint(len(body) + rng.choice(_EDGES))
    at = rng.choice((0, len(body), rng.randrange(len(body) + 1)))
    return body[:at] + field + body[at:]


def _nested(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    """The message within itself, deep."""
    number, inner = rng.randint(1, 8), rng.choice((b"", body[:64]))
    for _turn in range(rng.randint(2, _DEEP)):
        inner = b"".join(tagged(number, inner))
    return body + inner


def _groups(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    """Groups, which protocol buffers once had: begun and not ended, ended and not begun, within one another."""
    depth = rng.randint(1, _DEEP)
    begin, end = varint(rng.randint(1, 20) << 3 | 3), varint(rng.randint(1, 20) << 3 | 4)
    return body + begin * depth + end * rng.choice((0, depth, depth + 1))


def _field_again(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    found = _fields(body)
    return body + bytes(rng.choice(found).whole) * rng.choice((1, 2, 100)) if found else body


def _many_fields(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    """More than anybody counts on: empty texts, tensors, parameters or unknown fields."""
    return body + varint(rng.randint(1, 20) << 3 | BYTES) + b"\0" + b"\x22\0" * rng.choice((10, 1000, 10000))


def _other_kind(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    """A field of another wire type than its number has."""
    number, kind = rng.randint(1, 12), rng.choice((0, 1, 2, 3, 4, 5, 6, 7))
    return body + varint(number << 3 | kind) + rng.randbytes(rng.randint(0, 12))


def _odd_number(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    number = rng.choice((0, 19000, 2**29 - 1, 2**29, 2**32))
    return body + varint(number << 3 | BYTES) + b"\x01x"


def _no_text(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    return body + b"".join(tagged(rng.randint(1, 4), rng.choice(_NOT_UTF8)))


def _long_text(rng: random.Random, body: bytes, _: Sequence[bytes]) -> bytes:
    text = rng.choice((b"a", "\N{HIRAGANA LETTER A}".encode(), b"\0", b"%", b"\n", b"../"))
    return body + b"".join(tagged(rng.randint(1, 4), text * rng.choice((1, 300, 1100, LONGEST // 4))))


def _within(rng: random.Random, body: bytes, others: Sequence[bytes]) -> bytes:
    """One of its fields damaged, the lengths around it right."""
    found = _fields(body)
    inside = [k for k, each in enumerate(found) if each.kind == BYTES]
    if not inside:
        return body
    chosen = rng.choice(inside)
    inner = mutated(rng, bytes(found[chosen].value), others)[:LONGEST]
    pieces = [each.whole for each in found]
    return b"".join([*pieces[:chosen], *tagged(found[chosen].number, inner), *pieces[chosen + 1 :]])


_KINDS: Sequence[Callable[[random.Random, bytes, Sequence[bytes]], bytes]] = (
    _truncate, _flip, _overwrite, _splice, _append, _insert_number, _endless_number, _beyond_the_end, _nested, _groups,
    _field_again, _many_fields, _other_kind, _odd_number, _no_text, _long_text, *[_within] * 9,
)  # fmt: skip


def _fields(body: bytes) -> list[Field]:
    try:
        return list(fields(memoryview(body)))
    except Exception:  # it is damaged already
        return []
