"""Client developer: many requests at a time with asyncio; the server packs their rows into shared network calls.

make serve                                 # in one shell
.venv/bin/python examples/many_requests.py # in another
"""

import asyncio
import sys
import time

from tiltserve import AsyncClient, DeadlineExceeded, ResourceExhausted

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"


async def main() -> None:
    async with AsyncClient(address, timeout=60) as client:
        start = time.perf_counter()
        drawn = await asyncio.gather(
            *(client.sample("digits", n=2, reward="classifier", label=label, seed=label) for label in range(4)),
            *(client.sample("digits", n=1, solver="heun", steps=steps) for steps in (5, 10)),
        )
        print(f"{sum(map(len, drawn))} samples of {len(drawn)} requests in {time.perf_counter() - start:.1f} s")
        try:
            await client.sample("digits", n=64, steps=1000, timeout=0.2)
        except (DeadlineExceeded, ResourceExhausted) as error:
            print("too much for 0.2 s:", error.status)


asyncio.run(main())
