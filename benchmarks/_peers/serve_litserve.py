"""LitServe over HTTP, with its own batching."""

from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
from fastapi import Response

from benchmarks._peers.sampling import Job, Sampler
from benchmarks._peers.settings import Settings, from_arguments


class Digits(litserve.LitAPI):
    def __init__(self, settings: Settings) -> None:
        batching = (
            {"max_batch_size": settings.most_requests(), "batch_timeout": settings.delay_ms / 1000}
            if settings.batch
            else {"max_batch_size": 1}
        )
        super().__init__(**batching)
        self.settings = settings

    def setup(self, device: str) -> None:
        self.sampler: Sampler = self.settings.sampler()

    def decode_request(self, request: dict[str, Any]) -> Job:
        return Job.parse(request)

    def batch(self, inputs: Sequence[Job]) -> list[Job]:
        return list(inputs)

    def predict(self, x: Job | list[Job]) -> Any:
        return self.sampler(x) if isinstance(x, list) else self.sampler([x])[0]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: np.ndarray | None) -> Response:
        if output is None:
            return Response(status_code=504)
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    settings = from_arguments()
    server = litserve.LitServer(Digits(settings), accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=settings.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
