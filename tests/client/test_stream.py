"""Samples that are seen on the way, by the clients of threads and of asyncio."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.serving.live import MODE, Live, until
from tiltserve import AsyncClient, Cancelled, Client, Group, InvalidArgument, NotFound, Preview, Samples
from tiltserve.answers import Shown

LONG: dict[str, Any] = {"n": 64, "steps": 1000}
STEERED: dict[str, Any] = {"reward": "nearness", "mode": MODE, "beta": 0.2, "steps": 8, "seed": 1}


def test_previews_and_then_the_samples(client: Client):
    seen = list(client.stream("rings", 4, preview_every=2, steps=8, seed=1))
    *previews, last = seen
    assert all(isinstance(each, Preview) for each in previews)
    assert isinstance(last, Samples)
    assert last.samples.tobytes() == client.sample("rings", 4, steps=8, seed=1).samples.tobytes()
    assert {each.stages for each in previews} == {8}
    stages = [each.stage for each in previews]
    assert stages == sorted({*stages} & {2, 4, 6, 8})
    assert previews
    assert previews[-1].denoised.shape == (4, 2)
    for each in seen:  # the last one too
        assert 0 < each.stage <= each.stages
        assert each.denoised.shape == (4, 2)


def test_a_stream_has_a_result(client: Client):
    with client.stream("rings", 4, **STEERED) as stream:
        drawn = stream.result()
        assert stream.result() is drawn
        assert list(stream) == []
    assert drawn.samples.tobytes() == client.sample("rings", 4, **STEERED).samples.tobytes()
    assert drawn.report is not None


def test_groups_of_finished_samples(client: Client):
    expected = client.sample("rings", 40, steps=4, seed=1)
    *seen, last = client.stream("rings", 40, preview_every=2, stream_samples=True, steps=4, seed=1)
    assert isinstance(last, Samples)
    assert last.samples.tobytes() == expected.samples.tobytes()
    assert last.network_rows == expected.network_rows
    groups = [each for each in seen if isinstance(each, Group)]
    assert groups
    for group in groups:
        rows = slice(group.first, group.first + len(group.samples))
        assert group.samples.tobytes() == expected.samples[rows].tobytes()
        assert (group.stage, group.stages) == (4, 4)
    firsts = [each.first for each in seen if not isinstance(each, Samples)]
    assert firsts == sorted(firsts)
    steered = client.sample("rings", 40, **STEERED)
    streamed = client.stream("rings", 40, stream_samples=True, **STEERED).result()
    assert streamed.rewards is not None
    assert steered.rewards is not None
    assert streamed.rewards.tobytes() == steered.rewards.tobytes()


def test_small_previews_of_images(client: Client):
    how: dict[str, Any] = {"preview_dtype": "uint8", "preview_size": 2, "steps": 4}
    preview = next(client.stream("stripes", 3, label=1, **how))
    assert isinstance(preview, Preview)
    assert (preview.denoised.dtype, preview.denoised.shape) == (np.dtype(np.uint8), (3, 1, 2, 2))
    assert preview.range == (-1, 1)


def test_callbacks_and_a_bar(client: Client, capsys: pytest.CaptureFixture[str]):
    seen: list[Shown] = []
    expected = client.sample("rings", 4, **STEERED)
    drawn = client.sample("rings", 4, on_preview=seen.append, preview_every=4, **STEERED)
    assert drawn.samples.tobytes() == expected.samples.tobytes()
    assert {each.stage for each in seen} <= {4, 8}
    assert seen
    assert len(client.sample("rings", 4, progress=True, steps=4)) == 4
    assert len(client.sample("stripes", 4, progress=True, steps=4, label=1)) == 4
    assert capsys.readouterr().out == ""


def test_leaving_takes_the_rows_out(client: Client, served: Live):
    engine = served.replicas[0]._engine
    for _ in client.stream("rings", **LONG):
        assert engine.backlog_rows
        break
    until(lambda: not engine.backlog_rows)
    with client.stream("rings", **LONG) as stream:
        next(stream)
        assert engine.backlog_rows
    until(lambda: not engine.backlog_rows)
    with pytest.raises(Cancelled):
        stream.result()
    with pytest.raises(KeyError), client.stream("rings", **LONG) as stream:
        raise KeyError(next(stream))
    until(lambda: not engine.backlog_rows)

    def stop(preview: Shown) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.sample("rings", on_preview=stop, **LONG)
    until(lambda: not engine.backlog_rows)


def test_failures_of_a_stream(client: Client):
    with pytest.raises(InvalidArgument, match="parameter steps: expected"):
        list(client.stream("rings", steps=0))
    with pytest.raises(NotFound):
        client.stream("rnigs").result()
    with pytest.raises(InvalidArgument, match="preview_every"):
        list(client.stream("rings", preview_every=0))
    with pytest.raises(InvalidArgument, match="score: expected no previews beside it"):
        client.sample("rings", score=len, on_preview=print)


def test_asyncio(client: Client, served: Live):
    async def ask() -> None:
        async with AsyncClient(served.address) as other:
            seen = [each async for each in other.stream("rings", 4, preview_every=2, steps=8, seed=1)]
            assert isinstance(seen[-1], Samples)
            assert seen[-1].samples.tobytes() == client.sample("rings", 4, steps=8, seed=1).samples.tobytes()
            assert isinstance(seen[0], Preview)

            shown: list[int] = []

            async def look(preview: Shown) -> None:
                await asyncio.sleep(0)
                shown.append(preview.stage)

            assert len(await other.sample("rings", 4, on_preview=look, steps=8)) == 4
            assert shown
            assert len(await other.sample("rings", 4, progress=True, steps=8)) == 4
            async with other.stream("rings", **LONG) as stream:
                await anext(stream)
            engine = served.replicas[0]._engine
            async with asyncio.timeout(5):
                while engine.backlog_rows:  # noqa: ASYNC110 - the engine has no event for it
                    await asyncio.sleep(0.01)
            with pytest.raises(Cancelled):
                await stream.result()
            with pytest.raises(InvalidArgument, match="parameter steps: expected"):
                await other.stream("rings", steps=0).result()

    asyncio.run(ask())
