"""What is in memory: never more than the bound, never without what somebody holds, and everybody is served."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.models.memory import Memory, TooLargeError


class Things:
    """Sizes by name; notes what is loaded, and that no thing is loaded twice."""

    def __init__(self, bound: int | None, **sizes: int) -> None:
        self.sizes, self.bound, self.there = sizes, bound, set[str]()
        self.log: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.shorts = 0
        self.memory = Memory(bound, expected=sizes.__getitem__, load=self.load, unload=self.unload, short=self.short)

    def load(self, name: str) -> int:
        assert name not in self.there
        assert self.gate.wait(10)
        if name in self.faults:
            raise self.faults[name]
        self.there.add(name)
        self.log.append(f"+{name}")
        assert self.bound is None or sum(self.sizes[each] for each in self.there) <= self.bound
        return self.sizes[name]

    def unload(self, name: str) -> None:
        self.there.remove(name)
        self.log.append(f"-{name}")

    def short(self) -> None:
        self.shorts += 1

    async def touch(self, *names: str) -> None:
        async with self.memory.holding(names):
            assert self.there >= set(names)


def run(body: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(20):
            return await body()

    return asyncio.run(within())


def test_the_least_recently_used_makes_room():
    async def body():
        things = Things(10, a=4, b=4, c=4)
        for name in "abac":
            await things.touch(name)
        assert things.log == ["+a", "+b", "-b", "+c"]
        assert things.memory.loaded == {"a": 4, "c": 4}
        assert things.memory.total == 8

    run(body)


def test_without_a_bound_all_stay():
    async def body():
        things = Things(None, a=10**15, b=10**15)
        await things.touch("a", "b")
        await things.touch("a")
        assert things.log == ["+a", "+b"]

    run(body)


def test_what_is_held_stays_and_whoever_needs_its_room_waits():
    async def body():
        things = Things(10, a=6, b=6)
        async with things.memory.holding(["a"]):
            waiting = asyncio.create_task(things.touch("b"))
            await asyncio.sleep(0.05)
            assert things.there == {"a"}
            assert things.shorts == 1
            behind = asyncio.create_task(things.touch("a"))  # takes its turn, or a stream of these would starve b
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert not behind.done()
        await asyncio.gather(waiting, behind)
        assert things.log == ["+a", "-a", "+b", "-b", "+a"]

    run(body)


def test_those_in_memory_are_used_while_another_is_loaded():
    async def body():
        things = Things(10, a=4, b=4)
        await things.touch("a")
        things.gate.clear()
        loading = [asyncio.create_task(things.touch("b")) for _ in range(5)]
        await asyncio.sleep(0.05)
        await things.touch("a")
        assert not any(each.done() for each in loading)
        things.gate.set()
        await asyncio.gather(*loading)
        assert things.log == ["+a", "+b"]

    run(body)


def test_a_caller_that_leaves_while_its_thing_is_loaded_leaves_the_books_right():
    async def body():
        things = Things(10, a=6, b=6)
        things.gate.clear()
        leaving = asyncio.create_task(things.touch("a"))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert things.memory.total == 6
        other = asyncio.create_task(things.touch("b"))
        await asyncio.sleep(0.05)
        things.gate.set()
        await other
        assert things.log == ["+a", "-a", "+b"]
        assert things.memory.total == 6

    run(body)


def test_what_cannot_be_loaded_is_told_and_tried_again():
    async def body():
        things = Things(10, a=6, b=6)
        things.faults["a"] = OSError("torn")
        with pytest.raises(OSError, match="torn"):
            await things.touch("a")
        assert things.memory.total == 0
        things.faults.clear()
        await things.touch("b")
        await things.touch("a")
        assert things.there == {"a"}

    run(body)


def test_what_never_fits_is_refused():
    async def body():
        things = Things(2048, a=1024, b=1025, c=4096)
        with pytest.raises(TooLargeError, match=r"expected at most 2.0KiB of models in memory, got c of 4.0KiB"):
            await things.touch("c")
        with pytest.raises(TooLargeError, match=r"got a and b of 2.0KiB"):
            await things.touch("a", "b")
        await things.touch("a")
        await things.touch("b")

    run(body)


def test_what_turns_out_larger_than_expected():
    async def body():
        things = Things(10, a=4, b=4, c=4)
        await things.touch("a")
        await things.touch("b")
        async with things.memory.holding(["a"]):
            things.memory.resize("a", 9)
            assert things.there == {"a"}
        async with things.memory.holding(["c"]):
            assert things.there == {"c"}
        assert things.memory.size("a") == 9
        things.memory.resize("c", 11)
        assert things.memory.loaded == {}
        with pytest.raises(TooLargeError):
            await things.touch("c")

    run(body)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(12, 24))
def test_a_crowd_is_served_whatever_it_asks_for(seed: int, sizes: list[int], bound: int):
    """Random sets held for random times, some given up: the bound holds (`Things.load` checks), nobody waits for ever,
    and what is left is idle."""
    rng = random.Random(seed)
    things = Things(bound, **{f"t{i}": size for i, size in enumerate(sizes)})

    async def one() -> bool:
        await asyncio.sleep(rng.random() / 100)
        async with things.memory.holding(rng.sample(list(things.sizes), rng.randint(1, 2))):
            await asyncio.sleep(rng.random() / 200)
        return True

    async def body():
        crowd = [asyncio.create_task(one()) for _ in range(30)]
        await asyncio.sleep(0.005)
        given_up = rng.sample(crowd, 8)
        for each in given_up:
            each.cancel()
        await asyncio.wait(crowd)
        assert all(task.cancelled() or task.result() for task in crowd)
        assert all(task in given_up for task in crowd if task.cancelled())
        await things.touch(max(things.sizes, key=lambda name: things.sizes[name]))
        assert things.memory.loaded == {name: things.sizes[name] for name in things.there}
        assert not any(things.memory._held.values())

    run(body)
