"""KServe's Python server over gRPC. Its batcher is a sidecar of a Kubernetes pod, so here its two settings, most rows
and longest wait, rule a queue in the model."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import numpy as np
from grpc import aio
from grpc_interceptor.exceptions import DeadlineExceeded
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from benchmarks._peers.sampling import EVENT, Job, session
from benchmarks._peers.settings import Settings, from_arguments

Answer = np.ndarray[Any, np.dtype[np.float32]] | None


class Digits(Model):
    def __init__(self, settings: Settings) -> None:
        super().__init__("digits")
        self.settings = settings
        self.queue: asyncio.Queue[tuple[Job, asyncio.Future[Answer]]] = asyncio.Queue()
        self.ready = self.load()

    def load(self) -> bool:
        self.sampler = self.settings.sampler()
        return True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        fields = {name: payload.parameters[name].int64_param for name in payload.parameters}
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((Job.parse(fields), answer))
        samples = await answer
        if samples is None:
            raise DeadlineExceeded("the deadline has passed")
        output = InferOutput("samples", [len(samples), *EVENT], "FP32")
        output.set_data_from_numpy(samples, binary_data=True)
        return InferResponse(payload.id, self.name, [output])

    async def run(self) -> None:
        while True:
            batch = [await self.queue.get()]
            rows = batch[0][0].samples
            until = asyncio.get_running_loop().time() + self.settings.delay_ms / 1000
            while rows < self.settings.batch:
                with contextlib.suppress(asyncio.QueueEmpty):
                    batch.append(self.queue.get_nowait())
                    rows += batch[-1][0].samples
                    continue
                try:
                    async with asyncio.timeout_at(until):
                        batch.append(await self.queue.get())
                except TimeoutError:
                    break
                rows += batch[-1][0].samples
            waited = [(job, answer) for job, answer in batch if not answer.cancelled()]
            results = await asyncio.to_thread(self.sampler, [job for job, _ in waited])
            for (_, answer), result in zip(waited, results, strict=True):
                if not answer.done():
                    answer.set_result(result)


class Network(Model):
    """The network itself, one request a call."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("digits.network")
        self.session = session(Path(settings.model), settings.threads)
        self.ready = True

    def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        (name,) = [output.name for output in self.session.get_outputs()]
        (value,) = self.session.run([name], feeds)
        output = InferOutput(name, list(value.shape), "FP32")
        output.set_data_from_numpy(value, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


async def serve(settings: Settings) -> None:
    """As `kserve.ModelServer` does it, which would listen on every interface."""
    model = Digits(settings)
    models = ModelRepository()
    models.update(model)
    models.update(Network(settings))
    server = aio.server(interceptors=(ExceptionToStatusInterceptor(),))
    servicer = InferenceServicer(DataPlane(models), ModelRepositoryExtension(models))
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{settings.port}")
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    batching = asyncio.create_task(model.run())
    await stop.wait()
    batching.cancel()
    await server.stop(1.0)


if __name__ == "__main__":
    asyncio.run(serve(from_arguments()))
