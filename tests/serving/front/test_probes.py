"""Answers to an orchestrator's probes."""

import asyncio
import http.client
import socket
from collections.abc import Awaitable, Callable

import pytest

from serving.front import probes
from serving.front.probes import Probes


async def alive() -> None:
    pass


async def broken() -> None:
    raise RuntimeError("following the fleet: expected progress, got none")


async def stuck() -> None:
    await asyncio.sleep(60)


def asked(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("live", "ready", "path", "status", "told"),
    [
        (alive, "", "/live", 200, "yes\n"),
        (alive, "no replica", "/live", 200, "yes\n"),  # without replicas a restart would help nobody
        (broken, "", "/live", 503, "following the fleet: expected progress, got none\n"),
        (stuck, "", "/live", 503, "the front did not answer within 0.2 s\n"),
        (broken, "", "/ready", 200, "yes\n"),
        (alive, "no replica takes requests", "/ready", 503, "no replica takes requests\n"),
        (alive, "", "/metrics", 404, "expected GET /live or GET /ready\n"),
        (alive, "", "/", 404, "expected GET /live or GET /ready\n"),
    ],
)
def test_answers(
    live: Callable[[], Awaitable[None]],
    ready: str,
    path: str,
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(probes, "PATIENCE_S", 0.2 if live is stuck else 10.0)

    async def run() -> tuple[int, str]:
        served = Probes("127.0.0.1", 0, live=live, ready=lambda: ready)
        try:
            return await asyncio.to_thread(asked, served.port, path)
        finally:
            await asyncio.to_thread(served.close)

    assert asyncio.run(run()) == (status, told)


def test_what_is_no_probe_hurts_nobody():
    async def run() -> None:
        served = Probes("127.0.0.1", 0, live=alive, ready=lambda: "")
        try:
            assert (await asyncio.to_thread(asked, served.port, "/live", "POST"))[0] == 404
            for bytes_ in (b"", b"\x16\x03\x01\x02\x00", b"GET /live HTTP/1.1\r\n" + b"a: b\r\n" * 10_000):
                with socket.create_connection(("127.0.0.1", served.port)) as other:
                    other.sendall(bytes_)
            assert await asyncio.to_thread(asked, served.port, "/ready") == (200, "yes\n")
        finally:
            await asyncio.to_thread(served.close)

    asyncio.run(run())
