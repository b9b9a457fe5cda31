"""torchdiffeq's `odeint` in a handler of Ray Serve, over HTTP: one trajectory a request, by its own steps."""

import json
import signal
import sys
import threading

import numpy as np
import ray
import torch
import torchdiffeq  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks._peers.fields import TIMES, Swirl


@serve.deployment(num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 1})
class Trajectories:
    def __init__(self, width: int) -> None:
        torch.set_num_threads(1)
        self.field = Swirl(width).eval()
        self.times = torch.from_numpy(TIMES)

    async def __call__(self, request: Request) -> Response:
        job = await request.json()
        evaluations = 0

        def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            nonlocal evaluations
            evaluations += 1
            slope: torch.Tensor = self.field(y[None].float(), t.float()[None])[0]
            return slope.double()

        with torch.no_grad():
            start = torch.tensor(job["y0"], dtype=torch.float64)
            y = torchdiffeq.odeint(field, start, self.times, rtol=job["rtol"], atol=job["rtol"], method="dopri5")
        answer = np.append(y.numpy().reshape(-1), float(evaluations))
        return Response(answer.tobytes(), media_type="application/octet-stream")


def main() -> None:
    port, width = json.loads(sys.argv[1])
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
    serve.start(http_options={"host": "127.0.0.1", "port": port, "access_log": False})
    serve.run(Trajectories.bind(width), name="trajectories", route_prefix="/solve")  # type: ignore[attr-defined]
    print("ready", flush=True)
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
