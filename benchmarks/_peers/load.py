"""The load generator, a process of its own: sends a trace at its times, whatever the answers."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks._peers.clients import Client, Code, Target
from benchmarks._peers.trace import Request


@dataclass(frozen=True)
class Outcome:
    """How a request ended, `seconds` after it was due; it was sent `lag` seconds after that."""

    code: Code
    seconds: float
    lag: float
    text: str


async def replay(target: Target, requests: Sequence[Request]) -> list[Outcome]:
    """The outcomes of all requests, in their order."""
    async with Client(target) as client:
        start = time.perf_counter() + 0.1

        async def one(request: Request) -> Outcome:
            await asyncio.sleep(start + request.at - time.perf_counter())
            lag = time.perf_counter() - start - request.at
            reply = await client.ask(request)
            return Outcome(reply.code, time.perf_counter() - start - request.at, lag, reply.text)

        return await asyncio.gather(*map(one, requests))


def main() -> None:
    trace, out = map(Path, sys.argv[1:])
    given = json.loads(trace.read_text())
    requests = [Request(**each) for each in given["requests"]]
    outcomes = asyncio.run(replay(Target(**given["target"]), requests))
    out.write_text(json.dumps([asdict(each) for each in outcomes]))


if __name__ == "__main__":
    main()
