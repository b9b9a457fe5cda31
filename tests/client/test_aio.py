"""The client for asyncio gives what the other one gives."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.serving.live import Floats, Live, near, nearness, until
from tiltserve import AsyncClient, Client, InvalidArgument, NotFound, Unavailable

STEERED: dict[str, Any] = {"beta": 0.2, "steps": 8, "seed": 1}


def test_the_same_answers(served: Live, client: Client):
    async def ask() -> None:
        async with AsyncClient(served.address) as other:
            drawn = await asyncio.gather(*(other.sample("rings", 2, seed=seed, steps=4) for seed in range(8)))
            for seed, each in enumerate(drawn):
                assert each.samples.tobytes() == client.sample("rings", 2, seed=seed, steps=4).samples.tobytes()
            x = drawn[0].samples
            np.testing.assert_array_equal(await other.score("nearness", x, mode=1), client.score("nearness", x, mode=1))
            inputs = {"x": x, "mode": np.array([1, 1])}
            np.testing.assert_array_equal(
                (await other.infer("nearness", inputs))["reward"], client.infer("nearness", inputs)["reward"]
            )
            assert await other.models() == client.models()
            assert await other.metadata("stripes") == client.metadata("stripes")
            assert await other.ready("rings")
            assert not await other.ready("rnigs")
            judged = await other.likelihood("rings", x, steps=4, seed=1)
            np.testing.assert_array_equal(
                judged.log_likelihood, client.likelihood("rings", x, steps=4, seed=1).log_likelihood
            )
            with pytest.raises(InvalidArgument, match="parameter steps: expected"):
                await other.sample("rings", steps=0)
            with pytest.raises(NotFound):
                await other.sample("rnigs")

    asyncio.run(ask())


def test_functions_and_coroutine_functions_as_rewards(served: Live, client: Client):
    expected = client.sample("rings", 16, score=nearness, **STEERED)

    async def score(x: Floats) -> Floats:
        await asyncio.sleep(0)
        return nearness(x)

    async def ask() -> None:
        async with AsyncClient(served.address) as other:
            for each in (score, nearness):
                drawn = await other.sample("rings", 16, score=each, **STEERED)
                assert drawn.samples.tobytes() == expected.samples.tobytes()
            with pytest.raises(InvalidArgument, match="score: expected scores of shape"):
                await other.sample("rings", 4, score=lambda x: x, steps=4)

    asyncio.run(ask())
    assert near(expected.samples) > 0.9


def test_a_cancelled_call_takes_its_rows_out(served: Live):
    async def ask() -> None:
        async with AsyncClient(served.address) as other:
            drawing = asyncio.create_task(other.sample("rings", 100, steps=1000))
            engine = served.replicas[0]._engine
            async with asyncio.timeout(5):
                while not engine.backlog_rows:  # noqa: ASYNC110 - the engine has no event for it
                    await asyncio.sleep(0.01)
            drawing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await drawing
            async with asyncio.timeout(5):
                while engine.backlog_rows:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(ask())
    until(lambda: served.metric("tiltserve_backlog_rows") == 0)


def test_nobody_there():
    async def ask() -> None:
        async with AsyncClient("127.0.0.1:1", retries=0) as other:
            with pytest.raises(Unavailable, match="Connection refused"):
                await other.sample("rings")
            assert not await other.ready()

    asyncio.run(ask())
