"""Texts of errors reach the client, whatever is in them."""

import asyncio

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.wire import errors

TEXTS = {
    "CJK": "名" * 1000,
    "emoji": "🙂" * 1000,
    "accents": "é" * 2000,
    "percent": "%" * 3000,
    "NUL": "\0" * 3000,
    "escapes": "\x1b[31m" * 500,
    "lone surrogates": "\udc80" * 1000,
    "lines": "a\r\n\u2028\x85b" * 700,
    "private": "\ue000" * 1000,
    "mixed": "name '名🙂\0\udcff%é\n' " * 400,
}


def on_wire(text: str) -> int:
    """Its bytes in a header, as gRPC encodes them."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_they_are_cut_by_what_is_sent(text: str):
    detail = errors.invalid(f"unknown model {text}").detail
    assert detail.startswith("unknown model ")
    assert detail.endswith("...")
    assert detail.isprintable()
    assert len(detail) <= errors.LONGEST
    assert len(detail) > errors.LONGEST - 4 or on_wire(detail) > errors.LONGEST_SENT - 16
    assert on_wire(detail) <= errors.LONGEST_SENT


@given(st.text(st.characters(exclude_categories=()), max_size=2000))
def test_any_text_is_one_line_that_fits(text: str):
    detail = errors.invalid(text).detail
    assert "\n" not in detail
    assert on_wire(detail) <= errors.LONGEST_SENT


def test_short_texts_stay_as_they_are():
    for text in ("steps: expected 1..1000, got 0", "名前 '名🙂'", "100%"):
        assert errors.invalid(text).detail == text
    assert errors.invalid("a\x1b[0m\udc80").detail == "a\\x1b[0m\\udc80"


def test_they_reach_a_client_whole():
    async def body() -> None:
        async def refuse(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            await errors.abort(context, errors.not_found(TEXTS[data.decode()]))

        server = grpc.aio.server()
        methods = {"Refuse": grpc.unary_unary_rpc_method_handler(refuse)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                for name, text in TEXTS.items():
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await channel.unary_unary("/test/Refuse")(name.encode())
                    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
                    assert caught.value.details() == errors.not_found(text).detail
                    assert errors.answered(caught.value)
        finally:
            await server.stop(None)

    asyncio.run(body())
