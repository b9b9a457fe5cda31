"""Ray Serve over HTTP, batched by `@serve.batch`."""

import asyncio
import signal
import threading

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks._peers.sampling import Job
from benchmarks._peers.settings import Settings, from_arguments


def rows(jobs: list[Job]) -> int:
    return sum(job.samples for job in jobs)


def application(settings: Settings) -> serve.Application:
    options = {"max_batch_size": settings.batch, "batch_size_fn": rows} if settings.batch else {"max_batch_size": 1}

    @serve.deployment(num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 1})
    class Digits:
        def __init__(self) -> None:
            self.sampler = settings.sampler()

        @serve.batch(batch_wait_timeout_s=settings.delay_ms / 1000, **options)
        async def sample(self, jobs: list[Job]) -> list[np.ndarray | None]:
            # a loop in this coroutine would stop the replica from taking requests in
            return await asyncio.to_thread(self.sampler, jobs)

        async def __call__(self, request: Request) -> Response:
            answer = await self.sample(Job.parse(await request.json()))
            if answer is None:
                return Response(status_code=504)
            return Response(answer.tobytes(), media_type="application/octet-stream")

    return Digits.bind()  # type: ignore[attr-defined]


def main() -> None:
    settings = from_arguments()
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve.start(http_options={"host": "127.0.0.1", "port": settings.port, "access_log": False})
    serve.run(application(settings), name="digits", route_prefix="/predict")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
